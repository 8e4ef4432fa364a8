//! A real HDFS on this host: one NameNode and two DataNodes, each a Java process of its own.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde_json::Value;

use super::{
    block_on, eventually, hadoop,
    kms::Kms,
    ports,
    process::{self, Process, Signal},
    webhdfs::{Status, WebHdfs},
    within,
};

/// Daemons answer about 5 s after their start on 2 idle cores.
const READY_LIMIT: Duration = Duration::from_secs(180);
const ADMIN_LIMIT: Duration = Duration::from_secs(180);
/// Attempts to start a cluster: another process may take a port between our look and the bind.
const START_ATTEMPTS: usize = 3;
const DATANODES: usize = 2;
const COPY_THREADS: usize = 4;
/// HDFS block size of files that ask for none: small, so that files of some MB span several.
pub const BLOCK_SIZE: u64 = 1 << 20;

static SHARED: Mutex<Option<Arc<Hdfs>>> = Mutex::new(None);

/// A running cluster; stopped when dropped.
pub struct Hdfs {
    // Dropped in this order: the directory after those who write in it.
    datanodes: Vec<Daemon>,
    namenode: Daemon,
    web: WebHdfs,
    home: tempfile::TempDir,
}

/// What the DataNodes themselves count, since their start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Block reads asked for.
    pub reads: u64,
    /// Bytes of the requested ranges with their checksums (4 for each 512); more than what was sent when
    /// a client stops early.
    pub bytes: u64,
}

impl Counters {
    /// [`Counters::bytes`] without the checksums.
    pub fn payload_bytes(&self) -> u64 {
        self.bytes * 512 / 516
    }
}

impl std::ops::Sub for Counters {
    type Output = Self;
    fn sub(self, before: Self) -> Self {
        Self { reads: self.reads - before.reads, bytes: self.bytes - before.bytes }
    }
}

impl Hdfs {
    /// The cluster of all tests that do it no harm. Started at the first call.
    pub fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(shared.get_or_insert_with(|| Arc::new(Self::own())))
    }

    /// Stops the shared cluster; for the end of `main`.
    pub fn stop_shared() {
        SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    }

    /// A cluster of the test's own, to be hurt.
    pub fn own() -> Self {
        Self::with(DATANODES, &[])
    }

    /// One with enough DataNodes for erasure coding by `RS-3-2-1024k`, which the directory has.
    pub fn own_with_erasure_coding(path: &str) -> Self {
        let hdfs = Self::with(5, &[]);
        hdfs.web.create_dir(path);
        let policy = ["-policy", "RS-3-2-1024k"];
        hdfs.admin("ECAdmin", &[&["-enablePolicy"], &policy[..]].concat());
        hdfs.admin("ECAdmin", &[&["-setPolicy", "-path", path], &policy[..]].concat());
        hdfs
    }

    /// One whose NameNode takes a DataNode for dead after 12 s without a heartbeat, not 10 minutes.
    pub fn own_that_notices() -> Self {
        Self::with(
            DATANODES,
            &[
                ("dfs.heartbeat.interval", "1".to_owned()),
                ("dfs.namenode.heartbeat.recheck-interval", "1000".to_owned()),
            ],
        )
    }

    /// One whose DataNodes report new HDFS blocks up to two seconds late.
    pub fn own_that_reports_late() -> Self {
        Self::with(
            DATANODES,
            &[
                ("dfs.heartbeat.interval", "1".to_owned()),
                ("dfs.blockreport.incremental.intervalMsec", "2000".to_owned()),
            ],
        )
    }

    /// One that knows the key server, with an encryption zone at `path`.
    pub fn own_with_encryption(kms: &Kms, path: &str) -> Self {
        let hdfs = Self::with(DATANODES, &[("hadoop.security.key.provider.path", kms.uri())]);
        hdfs.web.create_dir(path);
        hdfs.admin("CryptoAdmin", &["-createZone", "-keyName", Kms::KEY, "-path", path]);
        hdfs
    }

    fn with(datanodes: usize, properties: &[(&str, String)]) -> Self {
        for attempt in 1.. {
            let cluster = Self::start(datanodes, properties);
            match cluster.wait_ready() {
                Ok(()) => return cluster,
                Err(why) if attempt < START_ATTEMPTS => eprintln!("HDFS did not start, trying again: {why}"),
                Err(why) => panic!("HDFS does not start: {why}"),
            }
        }
        unreachable!("the loop ends by return or panic")
    }

    fn start(datanodes: usize, properties: &[(&str, String)]) -> Self {
        let home = super::scratch();
        let (rpc, http) = (ports::free(), ports::free());
        let user = hadoop::user();
        hadoop::configure(home.path(), rpc, http, datanodes, BLOCK_SIZE);
        hadoop::add_properties(&home.path().join("conf/hdfs-site.xml"), properties);
        let format = hadoop::java(
            home.path(),
            &["org.apache.hadoop.hdfs.server.namenode.NameNode", "-format", "-force", "-nonInteractive"],
        );
        let formatted = process::run(format, READY_LIMIT);
        assert!(formatted.success(), "namenode -format: {}", formatted.stderr);

        let namenode_args = vec!["org.apache.hadoop.hdfs.server.namenode.NameNode".to_owned()];
        let namenode = Daemon::start("namenode", home.path(), http, rpc, namenode_args);
        let datanodes = (0..datanodes).map(|i| Daemon::datanode(home.path(), i));
        let datanodes = datanodes.collect();
        Self { namenode, datanodes, web: WebHdfs::new(http, &user), home }
    }

    /// Waits until files can be written to every DataNode.
    fn wait_ready(&self) -> Result<(), String> {
        let mut why = String::from("no answer from the NameNode");
        let ready = within(READY_LIMIT, || {
            for daemon in self.datanodes.iter().chain([&self.namenode]) {
                if let Some(transcript) = daemon.died() {
                    why = transcript;
                    return Some(false);
                }
            }
            why = self.not_ready()?;
            why.is_empty().then_some(true)
        });
        if ready == Some(true) { Ok(()) } else { Err(why) }
    }

    /// Waits until the NameNode knows of the death of all DataNodes but `count`.
    pub fn wait_live(&self, count: usize) {
        eventually("the NameNode counts its DataNodes", READY_LIMIT, || {
            let info = self.namenode.jmx("Hadoop:service=NameNode,name=NameNodeInfo")?;
            let nodes: Value = serde_json::from_str(info["LiveNodes"].as_str()?).ok()?;
            (nodes.as_object()?.len() == count).then_some(())
        });
    }

    /// Why the cluster is not ready; empty when it is, `None` when the NameNode does not answer.
    fn not_ready(&self) -> Option<String> {
        let info = self.namenode.jmx("Hadoop:service=NameNode,name=NameNodeInfo")?;
        let safemode = info["Safemode"].as_str()?;
        let nodes: Value = serde_json::from_str(info["LiveNodes"].as_str()?).ok()?;
        // A DataNode that has registered but not yet sent a heartbeat has no room.
        let usable = nodes.as_object()?.values().filter(|n| n["remaining"].as_u64() > Some(0)).count();
        let wanted = self.datanodes.iter().filter(|d| d.is_running()).count();
        if !safemode.is_empty() {
            return Some(safemode.to_owned());
        }
        Some(if usable < wanted {
            format!("{usable} of {wanted} DataNodes are usable")
        } else {
            String::new()
        })
    }

    /// A fresh directory of the test's own, named after `name`.
    pub fn dir(self: &Arc<Self>, name: &str) -> HdfsDir {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let path = format!("/{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.web.create_dir(&path);
        self.web.set_mode(&path, 0o755);
        HdfsDir { hdfs: Arc::clone(self), path }
    }

    /// `hdfs://host:port`, without a path.
    pub fn url(&self) -> String {
        format!("hdfs://127.0.0.1:{}", self.namenode.port)
    }

    /// Files by the way of WebHDFS, as the user who runs the daemons (HDFS's superuser).
    pub fn web(&self) -> &WebHdfs {
        &self.web
    }

    pub fn namenode(&self) -> &Daemon {
        &self.namenode
    }

    pub fn datanode(&self, i: usize) -> &Daemon {
        &self.datanodes[i]
    }

    pub fn datanodes(&self) -> &[Daemon] {
        &self.datanodes
    }

    /// Kills the NameNode and starts it again on the same directories; returns when it serves.
    pub fn restart_namenode(&self) {
        self.namenode.kill();
        self.namenode.start_again();
        self.wait_ready().unwrap_or_else(|why| panic!("the NameNode does not come back: {why}"));
        // WebHDFS inside a DataNode finds out by one failed call that its connection was the old one's.
        for datanode in self.datanodes.iter().filter(|d| d.is_running()) {
            let probe = format!(
                "webhdfs/v1/none?op=OPEN&namenoderpcaddress=127.0.0.1:{}&offset=0",
                self.namenode.port
            );
            eventually("WebHDFS finds the new NameNode", READY_LIMIT, || {
                (block_on(datanode.get(&probe))?.status() == 404).then_some(())
            });
        }
    }

    /// The cluster's configuration folder.
    pub fn conf(&self) -> PathBuf {
        self.home.path().join("conf")
    }

    /// The files in which the DataNodes keep blocks.
    pub fn block_files(&self) -> BTreeSet<PathBuf> {
        let files = (0..self.datanodes.len())
            .flat_map(|i| super::segments::files_below(&self.home.path().join(format!("data{i}"))));
        let is_block =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("blk_"));
        files.filter(is_block).collect()
    }

    /// Waits until the DataNodes have removed these, which belong to no file any more: HDFS takes its time.
    pub fn wait_blocks_gone(&self, blocks: &[PathBuf]) {
        eventually("blocks of a replaced file are removed", READY_LIMIT, || {
            (!blocks.iter().any(|path| path.exists())).then_some(())
        });
    }

    /// Starts a killed DataNode again on its directory; returns when the NameNode uses it.
    pub fn restart_datanode(&self, i: usize) {
        self.datanodes[i].start_again();
        self.wait_ready().unwrap_or_else(|why| panic!("datanode {i} does not come back: {why}"));
    }

    pub fn safemode(&self, on: bool) {
        self.admin("DFSAdmin", &["-safemode", if on { "enter" } else { "leave" }]);
    }

    fn admin(&self, tool: &str, args: &[&str]) {
        let class = format!("org.apache.hadoop.hdfs.tools.{tool}");
        let command = hadoop::java(self.home.path(), &[&[class.as_str()], args].concat());
        let done = process::run(command, ADMIN_LIMIT);
        assert!(done.success(), "{tool} {args:?}: {} {}", done.stdout, done.stderr);
    }

    /// Counters of all DataNodes together, fresh: HDFS refreshes them each second, so this waits until
    /// two snapshots that are surely different agree.
    pub fn counters(&self) -> Counters {
        let mut last = None;
        eventually("DataNode counters stand still", READY_LIMIT, || {
            let now = self.counters_now();
            let settled = last == Some(now);
            last = Some(now);
            if settled {
                return Some(now);
            }
            std::thread::sleep(Duration::from_millis(1_200));
            None
        })
    }

    fn counters_now(&self) -> Counters {
        let mut sum = Counters::default();
        for datanode in self.datanodes.iter().filter(|d| d.is_running()) {
            let bean =
                datanode.jmx("Hadoop:service=DataNode,name=DataNodeActivity*").expect("DataNode counters");
            sum.reads += bean["ReadBlockOpNumOps"].as_u64().expect("ReadBlockOpNumOps");
            sum.bytes += bean["BytesRead"].as_u64().expect("BytesRead");
        }
        sum
    }
}

/// A directory in HDFS; what is left in it goes with the cluster.
pub struct HdfsDir {
    hdfs: Arc<Hdfs>,
    path: String,
}

impl HdfsDir {
    /// The store URL of this directory.
    pub fn url(&self) -> String {
        self.hdfs.url() + &self.path
    }

    /// Its path in HDFS, and that of an entry.
    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.path).trim_end_matches('/').to_owned()
    }

    pub fn hdfs(&self) -> &Arc<Hdfs> {
        &self.hdfs
    }

    pub fn put(&self, name: &str, bytes: impl Into<Vec<u8>>) {
        self.hdfs.web.put(&self.path(name), bytes.into(), None);
    }

    /// Writes a file in HDFS blocks of `block_size` bytes (a multiple of 512, at least 4096).
    pub fn put_in_blocks(&self, name: &str, bytes: impl Into<Vec<u8>>, block_size: u64) {
        self.hdfs.web.put(&self.path(name), bytes.into(), Some(block_size));
    }

    /// Writes a local file, in HDFS blocks of `block_size` bytes if given.
    pub fn put_file(&self, name: &str, local: &Path, block_size: Option<u64>) {
        self.hdfs.web.put_file(&self.path(name), local, block_size);
    }

    /// Copies the segments of a local store; not its owner's mark.
    pub fn put_tree(&self, local: &Path, block_size: Option<u64>) {
        let files = super::segments::segments_below(local);
        // Small files are mostly waiting.
        std::thread::scope(|scope| {
            for n in 0..COPY_THREADS {
                let mine = files.iter().skip(n).step_by(COPY_THREADS);
                scope.spawn(move || {
                    for path in mine {
                        let name = path.strip_prefix(local).expect("a file below the directory");
                        self.put_file(&name.to_string_lossy(), path, block_size);
                    }
                });
            }
        });
    }

    /// Replaces a file as promotion does: written under another name, then renamed over.
    pub fn replace(&self, name: &str, bytes: impl Into<Vec<u8>>) {
        let copy = format!("{name}._COPYING_");
        self.put(&copy, bytes);
        self.hdfs.web.rename_over(&self.path(&copy), &self.path(name));
    }

    /// [`replace`](Self::replace) by a file that was last changed at `mtime_ms`: no look sees it with another
    /// time.
    pub fn replace_at(&self, name: &str, bytes: impl Into<Vec<u8>>, mtime_ms: u64) {
        let copy = format!("{name}._COPYING_");
        self.put(&copy, bytes);
        self.hdfs.web.set_mtime(&self.path(&copy), mtime_ms);
        self.hdfs.web.rename_over(&self.path(&copy), &self.path(name));
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        self.hdfs.web.read(&self.path(name), None)
    }

    pub fn read_at(&self, name: &str, offset: u64, len: u64) -> Vec<u8> {
        self.hdfs.web.read(&self.path(name), Some((offset, len)))
    }

    pub fn list(&self, name: &str) -> Vec<Status> {
        self.hdfs.web.list(&self.path(name))
    }

    pub fn delete(&self, name: &str) {
        self.hdfs.web.delete(&self.path(name));
    }
}

/// One Java process, which tests stop, kill and start again.
pub struct Daemon {
    name: String,
    home: PathBuf,
    args: Vec<String>,
    http: u16,
    /// RPC port of a NameNode, data transfer port of a DataNode.
    port: u16,
    process: Mutex<Option<Process>>,
}

impl Daemon {
    /// The DataNode with number `i` of the cluster that lives in `home`.
    pub(super) fn datanode(home: &Path, i: usize) -> Self {
        let (data, ipc, http) = (ports::free(), ports::free(), ports::free());
        let args = vec![
            "org.apache.hadoop.hdfs.server.datanode.DataNode".to_owned(),
            format!("-Ddfs.datanode.data.dir={}/data{i}", home.display()),
            format!("-Ddfs.datanode.address=127.0.0.1:{data}"),
            format!("-Ddfs.datanode.ipc.address=127.0.0.1:{ipc}"),
            format!("-Ddfs.datanode.http.address=127.0.0.1:{http}"),
        ];
        Self::start(&format!("datanode {i}"), home, http, data, args)
    }

    pub(super) fn start(name: &str, home: &Path, http: u16, port: u16, args: Vec<String>) -> Self {
        let process = Mutex::new(None);
        let daemon = Self { name: name.into(), home: home.into(), args, http, port, process };
        daemon.start_again();
        daemon
    }

    fn start_again(&self) {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        *self.lock() = Some(Process::start_with(&self.name, hadoop::java(&self.home, &args), Signal::Kill));
    }

    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Freezes the process: connections stay open, nothing answers.
    pub fn stop(&self) {
        self.signal(Signal::Stop);
    }

    /// Ends [`Daemon::stop`].
    pub fn cont(&self) {
        self.signal(Signal::Cont);
    }

    fn signal(&self, signal: Signal) {
        self.lock().as_mut().unwrap_or_else(|| panic!("{} runs", self.name)).signal(signal);
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&self) {
        if let Some(mut process) = self.lock().take() {
            process.kill();
        }
    }

    /// Started, and not killed by us.
    pub fn is_running(&self) -> bool {
        self.lock().is_some()
    }

    /// What it wrote, if it has ended without being asked to.
    fn died(&self) -> Option<String> {
        let mut process = self.lock();
        let process = process.as_mut()?;
        process.exited().map(|status| format!("{} ended: {status}\n{}", self.name, process.transcript()))
    }

    /// What it wrote so far, for messages.
    pub(super) fn transcript(&self) -> String {
        self.lock().as_ref().map_or(String::new(), Process::transcript)
    }

    /// One bean of the daemon's `/jmx`; `None` while it does not answer.
    pub(super) fn jmx(&self, bean: &str) -> Option<Value> {
        block_on(async {
            let mut answer: Value = self.get(&format!("jmx?qry={bean}")).await?.json().await.ok()?;
            Some(answer["beans"].get_mut(0)?.take())
        })
    }

    async fn get(&self, path: &str) -> Option<reqwest::Response> {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().ok()?;
        client.get(format!("http://127.0.0.1:{}/{path}", self.http)).send().await.ok()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing on its disk outlives it: no reason to wait for an orderly end.
        self.kill();
    }
}
