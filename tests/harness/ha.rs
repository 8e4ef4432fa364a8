//! A real HDFS with two NameNodes of one name service, an edit log on a JournalNode between them, and
//! two DataNodes. Who is active is decided by hand.

use std::{fs, path::PathBuf, time::Duration};

use super::{
    hadoop,
    hdfs::{BLOCK_SIZE, Daemon},
    ports, process, within,
};

const READY_LIMIT: Duration = Duration::from_secs(180);
const ADMIN_LIMIT: Duration = Duration::from_secs(180);
const DATANODES: usize = 2;
/// The name service.
const SERVICE: &str = "cold";

/// A running pair; stopped when dropped.
pub struct HaHdfs {
    // Dropped in this order: the directory after those who write in it.
    _datanodes: Vec<Daemon>,
    namenodes: Vec<Daemon>,
    _journal: Daemon,
    home: tempfile::TempDir,
}

impl HaHdfs {
    /// Starts it; the first NameNode is active.
    pub fn start() -> Self {
        let home = super::scratch();
        let ports: Vec<u16> = (0..7).map(|_| ports::free()).collect();
        let [rpc1, http1, rpc2, http2, journal_rpc, journal_http, journal_https] = ports[..] else {
            unreachable!("seven ports were asked for")
        };
        hadoop::configure(home.path(), rpc1, http1, DATANODES, BLOCK_SIZE);
        let conf = home.path().join("conf");
        hadoop::add_properties(
            &conf.join("hdfs-site.xml"),
            &[
                ("dfs.nameservices", SERVICE.into()),
                ("dfs.ha.namenodes.cold", "nn1,nn2".into()),
                ("dfs.namenode.rpc-address.cold.nn1", format!("127.0.0.1:{rpc1}")),
                ("dfs.namenode.rpc-address.cold.nn2", format!("127.0.0.1:{rpc2}")),
                ("dfs.namenode.http-address.cold.nn1", format!("127.0.0.1:{http1}")),
                ("dfs.namenode.http-address.cold.nn2", format!("127.0.0.1:{http2}")),
                ("dfs.namenode.shared.edits.dir", format!("qjournal://127.0.0.1:{journal_rpc}/cold")),
                (
                    "dfs.client.failover.proxy.provider.cold",
                    "org.apache.hadoop.hdfs.server.namenode.ha.ConfiguredFailoverProxyProvider".into(),
                ),
                ("dfs.ha.fencing.methods", "shell(/bin/true)".into()),
                ("dfs.ha.tail-edits.period", "200ms".into()),
                ("dfs.ha.log-roll.period", "1s".into()),
                ("dfs.journalnode.rpc-address", format!("127.0.0.1:{journal_rpc}")),
                ("dfs.journalnode.http-address", format!("127.0.0.1:{journal_http}")),
                ("dfs.journalnode.https-address", format!("127.0.0.1:{journal_https}")),
                ("dfs.journalnode.edits.dir", home.path().join("journal").display().to_string()),
            ],
        );
        let core = conf.join("core-site.xml");
        let text = fs::read_to_string(&core).expect("written just now");
        fs::write(&core, text.replace(&format!("hdfs://127.0.0.1:{rpc1}"), "hdfs://cold")).expect("a file");

        let class = |name: &str| format!("org.apache.hadoop.hdfs.{name}");
        let journal = Daemon::start(
            "journalnode",
            home.path(),
            journal_http,
            journal_rpc,
            vec![class("qjournal.server.JournalNode")],
        );
        within(READY_LIMIT, || journal.jmx("java.lang:type=Runtime")).expect("the JournalNode answers");
        let namenode = |id: &str| {
            vec![
                class("server.namenode.NameNode"),
                format!("-Ddfs.ha.namenode.id={id}"),
                format!("-Ddfs.namenode.name.dir={}/name-{id}", home.path().display()),
            ]
        };
        let once = |args: Vec<String>| {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let done = process::run(hadoop::java(home.path(), &args), READY_LIMIT);
            assert!(done.success(), "{args:?}: {done:?}");
        };
        let with = |id: &str, more: &[&str]| {
            let mut args = namenode(id);
            args.extend(more.iter().map(|&arg| arg.to_owned()));
            args
        };
        once(with("nn1", &["-format", "-force", "-nonInteractive"]));
        let first = Daemon::start("namenode 1", home.path(), http1, rpc1, namenode("nn1"));
        within(READY_LIMIT, || first.jmx("Hadoop:service=NameNode,name=NameNodeStatus"))
            .expect("the first NameNode answers");
        once(with("nn2", &["-bootstrapStandby", "-force", "-nonInteractive"]));
        let second = Daemon::start("namenode 2", home.path(), http2, rpc2, namenode("nn2"));
        let datanodes = (0..DATANODES).map(|i| Daemon::datanode(home.path(), i)).collect();
        let pair = Self { _datanodes: datanodes, namenodes: vec![first, second], _journal: journal, home };
        pair.wait(1, "standby");
        pair.activate(0);
        for namenode in 0..2 {
            let usable = within(READY_LIMIT, || {
                let info = pair.namenodes[namenode].jmx("Hadoop:service=NameNode,name=FSNamesystemState")?;
                (info["NumLiveDataNodes"] == DATANODES).then_some(())
            });
            assert!(usable.is_some(), "both DataNodes report to NameNode {namenode}");
        }
        pair
    }

    /// The store's URL by the name service, with a path.
    pub fn url(&self, path: &str) -> String {
        format!("hdfs://{SERVICE}{path}")
    }

    /// Where clients find `hdfs-site.xml`.
    pub fn conf(&self) -> PathBuf {
        self.home.path().join("conf")
    }

    /// Kills a NameNode and makes the other one active.
    pub fn fail_over_from(&self, dead: usize) {
        self.namenodes[dead].kill();
        self.activate(1 - dead);
    }

    fn activate(&self, namenode: usize) {
        // By force: without, it asks the other one, which may be dead, whether it is active.
        self.admin(&["-transitionToActive", "--forceactive", &id(namenode)]);
        self.wait(namenode, "active");
        let left = within(READY_LIMIT, || {
            let info = self.namenodes[namenode].jmx("Hadoop:service=NameNode,name=NameNodeInfo")?;
            (info["Safemode"] == "").then_some(())
        });
        assert!(left.is_some(), "NameNode {namenode} leaves safe mode");
    }

    fn wait(&self, namenode: usize, state: &str) {
        let found = within(READY_LIMIT, || {
            let status = self.namenodes[namenode].jmx("Hadoop:service=NameNode,name=NameNodeStatus")?;
            (status["State"] == state).then_some(())
        });
        assert!(found.is_some(), "NameNode {namenode} does not become {state}");
    }

    fn admin(&self, args: &[&str]) {
        let mut all = vec!["org.apache.hadoop.hdfs.tools.DFSHAAdmin"];
        all.extend(args);
        let done = process::run(hadoop::java(self.home.path(), &all), ADMIN_LIMIT);
        assert!(done.success(), "{args:?}: {}", done.stderr);
    }
}

fn id(namenode: usize) -> String {
    format!("nn{}", namenode + 1)
}
