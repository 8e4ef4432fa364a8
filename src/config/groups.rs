//! The keys, in groups that several roles share. What stands here becomes flags, environment variables,
//! the samples in `config/` and the tables of `docs/CONFIGURATION.md`: write it for their readers.

use std::{net::SocketAddr, path::PathBuf};

use springhouse_fuse::{
    fs::{Identity, WriteMode},
    memory::MEMORY_BYTES_MIN,
    store::StoreUrl,
};
use springhouse_gateway::ForeignGeneration;

use super::{
    keys::keys,
    value::{
        Block, Count, GIB, HOUR, Hidden, HttpUrl, KIB, MIB, MINUTE, Octal, SECOND, Secret, Size, Span, TIB,
        Value, Word, WorkerName, words,
    },
};
use crate::{logging::LogFilter, worker::Access};

words! {
    /// Which kind of worker.
    pub enum Tier {
        /// Answers in place, from the store.
        Cold = "cold",
        /// Answers from local copies, which can be written.
        Hot = "hot",
        /// Both.
        Both = "hot,cold",
    }
}

words! {
    /// How log lines look.
    pub enum LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

words! {
    /// Whether something is done.
    pub enum OnOff {
        /// It is.
        On = "on",
        /// It is not.
        Off = "off",
    }
}

words! { impl ForeignGeneration { Supersede = "supersede", Refuse = "refuse", Overwrite = "overwrite", } }

words! { impl WriteMode { Stream = "stream", Staged = "staged", } }

words! { impl Identity { Caller = "caller", Fixed = "fixed", } }

impl Value for Access {
    const PLACEHOLDER: &'static str = "auto|fuse|direct";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "is no way to read segments".into())
    }
    fn text(&self) -> String {
        match self {
            Self::Auto => "auto",
            Self::Fuse => "fuse",
            Self::Direct => "direct",
        }
        .into()
    }
    fn allowed() -> String {
        "\"auto\", \"fuse\" or \"direct\"".into()
    }
}

keys! {
    "Store"
    /// Which store, and how long to wait for it.
    pub struct StoreKeys {
        /// URL of the store that holds the segments.
        ///
        /// A local directory is file:///path; HDFS is hdfs://HOST:PORT/path, or hdfs://NAMESERVICE/path
        /// with the name service from Hadoop's configuration, see `hadoop_conf`.
        store: StoreUrl,
        /// Longest time that one call to the store may take, retries included.
        ///
        /// A read that takes longer fails with ETIMEDOUT; nothing ever hangs. Raise it for a store that is
        /// slow when it is well; lower it where a fast failure is worth more than a late answer.
        store_deadline: Span<{ SECOND / 10 }, { 10 * MINUTE }> = "10s",
        /// Directory of core-site.xml and hdfs-site.xml.
        ///
        /// Unset: what HADOOP_CONF_DIR names, then etc/hadoop in what HADOOP_HOME names. It says where the
        /// NameNodes of a name service are, and what ViewFS mounts.
        hadoop_conf: Option<PathBuf>,
        /// User to act as in HDFS.
        ///
        /// Unset: the one that HADOOP_USER_NAME names, else the user of the process. With Kerberos the
        /// principal, unless this is set: then the cluster has to allow the principal to act for the user.
        hadoop_user: Option<Word>,
        /// Kerberos principal, NAME@REALM.
        ///
        /// Unset: that of the ticket cache. Needed with the next two.
        kerberos_principal: Option<Word>,
        /// Keytab with the principal's key, from which tickets are taken and renewed.
        kerberos_keytab: Option<PathBuf>,
        /// Kerberos ticket cache: a path, or a name such as FILE:/path or KEYRING:persistent:0.
        ///
        /// Unset: what KRB5CCNAME names, else the system's; with a keytab one in memory.
        kerberos_cache: Option<Word>,
        /// Added to every call to the store, as distance would.
        added_latency: Hidden<Span<0, MINUTE>> = "0s",
    }
}

keys! {
    "Mount point"
    /// Where a mount appears, and for whom.
    pub struct MountPointKeys {
        /// Directory where the store appears: it must exist and be empty.
        mount_point: PathBuf,
        /// Whether other users than the one who mounts may use the mount.
        ///
        /// Unset: only if root mounts. An ordinary user needs `user_allow_other` in /etc/fuse.conf for it.
        /// What each of them may do there is a matter of `identity`.
        allow_other: Option<bool>,
        /// Mount over a directory that has entries; they are hidden meanwhile.
        allow_nonempty: bool = "false",
        /// Run no program that lies in the mount.
        noexec: bool = "false",
        /// Socket on which the daemon answers questions about itself.
        ///
        /// Unset: a path derived from the mount point. If it is another, a link to it lies there, so that
        /// `springhouse cache` finds it.
        control_socket: Option<PathBuf>,
        /// Address where the daemon serves /metrics and /livez.
        ///
        /// Unset: on its control socket only.
        metrics_listen: Option<SocketAddr>,
        /// File that a daemon in the background (--daemon) logs to.
        ///
        /// Unset: standard error, which a terminal that is closed takes with it; nowhere if that is a
        /// pipe.
        log_file: Option<PathBuf>,
    }
}

keys! {
    "Changes"
    /// What may be changed through the mount, as whom, and how.
    pub struct WriteKeys {
        /// Refuse every change with EROFS.
        read_only: bool = "false",
        /// As whom the store is asked: as the user whose process asks, or always as the daemon's.
        ///
        /// With caller the store decides by the user's name and groups, as for any of its clients. With
        /// fixed whoever may use the mount may do what the daemon's user may. Unset: caller if other users
        /// may use the mount, else fixed.
        identity: Option<Identity>,
        /// How files are written: straight to the store, or on a local disk first.
        ///
        /// stream takes what is written in order, which is what copies and archives do, in bounded memory.
        /// staged takes any pattern, in `staging_dir`, and sends the file at close or fsync, which report
        /// what went wrong.
        write_mode: WriteMode = "stream",
        /// Directory on a local disk for files that are being written in mode staged.
        ///
        /// What a crash leaves in it is taken up at the next start. It needs the room of all files that are
        /// open for writing at once.
        staging_dir: Option<PathBuf>,
        /// Most bytes in `staging_dir`; a write beyond ends in ENOSPC.
        staging_size: Size<{ MIB }, { 1 << 60 }> = "10GiB",
        /// Permission bits taken from everything that is created, on top of the caller's own umask.
        umask: Octal<0o777> = "000",
        /// Copies that HDFS keeps of a new file.
        ///
        /// Unset: what its configuration says.
        replication: Option<Count<1, 512>>,
        /// HDFS block size of a new file: a multiple of 512 bytes.
        ///
        /// Unset: what its configuration says. The NameNode refuses less than its minimum, usually 1 MiB.
        hdfs_block_size: Option<Size<{ 4 * KIB }, { 64 * GIB }>>,
    }
}

keys! {
    "Cache of the mount"
    /// Memory and freshness of the mount daemon.
    pub struct CacheKeys {
        /// Memory for everything that the mount daemon holds.
        ///
        /// Cached blocks, what is read ahead, reads and writes under way, names. The most useful thing to
        /// raise: `springhouse cache advise` says what more would save. The kernel's page cache comes on
        /// top and gives way under pressure.
        memory: Size<{ MEMORY_BYTES_MIN }, { 16 * TIB }> = "512MiB",
        /// Part of the memory for blocks that were read; 0 keeps none.
        ///
        /// Unset: 4 parts of 7 of what the memory leaves for this and the next two, which is about two
        /// thirds of it, less of a small one. What is given is taken as it is; the others share the rest.
        memory_blocks: Option<Size<0, { 16 * TIB }>>,
        /// Part of the memory for bytes read ahead, all readers together.
        ///
        /// Unset: 2 parts of 7.
        memory_readahead: Option<Size<0, { 16 * TIB }>>,
        /// Part of the memory for interior pages of databases and for pinned files, which nothing pushes out.
        ///
        /// Unset: 1 part of 7.
        memory_pins: Option<Size<0, { 16 * TIB }>>,
        /// Directory on a local disk for blocks that outlive the daemon.
        ///
        /// Made if it is missing. Several mounts and workers of one user may name the same, and share what
        /// lies there. Unset: nothing is kept on disk.
        cache_dir: Option<PathBuf>,
        /// Room in `cache_dir`, all that name it together.
        ///
        /// Unset: 10GiB. The disk may be fuller than that: a full one costs the cache, never a read.
        cache_size: Option<Size<{ 16 * MIB }, { 1 << 60 }>>,
        /// What the cache keeps or drops as one: a power of two.
        ///
        /// Smaller suits scattered lookups (less is fetched and kept in vain), larger suits scans.
        cache_block: Block<{ 4 * KIB }, { 4 * MIB }> = "16KiB",
        /// Furthest that the daemon reads ahead of one sequential reader.
        ///
        /// Raise it on a network with long latency and much bandwidth. 0 switches reading ahead off.
        readahead_max: Size<0, { 256 * MIB }> = "8MiB",
        /// Whether SQLite databases are recognised, and their pages fetched before they are asked for.
        ///
        /// off reads them like any other file.
        sqlite: OnOff = "on",
        /// How old an answer about names, lengths and generations may be.
        ///
        /// A file that was replaced in the store is seen to be so after at most this time. 0 asks the store
        /// each time, which costs a round trip for every open.
        freshness: Span<0, { HOUR }> = "1s",
        /// How long the kernel may keep what a name leads to without asking.
        ///
        /// Unset: freshness. Longer makes a path that was used before cheaper, and shows a file that was
        /// replaced in the store later: the promise of freshness is then this.
        entry_lifetime: Option<Span<0, { HOUR }>>,
        /// How long the kernel may keep lengths, times and permissions without asking.
        ///
        /// Unset: freshness.
        attribute_lifetime: Option<Span<0, { HOUR }>>,
        /// How long the kernel may keep that a name does not exist.
        ///
        /// Unset: freshness. 0 asks each time.
        negative_lifetime: Option<Span<0, { HOUR }>>,
        /// Threads that take requests from the kernel.
        ///
        /// They only hand requests on; more than 4 rarely help.
        fuse_threads: Count<1, 16> = "2",
    }
}

keys! {
    "Gateway"
    /// Registry, discovery and routing.
    pub struct GatewayKeys {
        /// Address where the gateway answers.
        ///
        /// 127.0.0.1 is reached from this host only. With 0.0.0.0 everybody who reaches the host may query:
        /// put it behind something that knows your users.
        listen: SocketAddr = "127.0.0.1:6110",
        /// Directory for the registry; made if it is missing. One process at a time.
        ///
        /// Unset: a directory for each store in $XDG_STATE_HOME/springhouse, or in
        /// ~/.local/state/springhouse. It belongs on a local disk. What is in it can be rebuilt from the
        /// store, at the price of a first discovery.
        data: Option<PathBuf>,
        /// Pause between two passes that look for new, replaced and deleted segments.
        ///
        /// Also how old the catalog may be. A pass asks the store for every directory's modification time
        /// and lists those that changed.
        discovery_interval: Span<{ SECOND / 10 }, { 24 * HOUR }> = "10s",
        /// How often a pass lists every directory, changed or not.
        full_pass_interval: Span<{ SECOND }, { 30 * 24 * HOUR }> = "1h",
        /// Directories listed at the same time.
        ///
        /// Raise it for a first pass over many directories in a store far away; lower it to spare a busy
        /// NameNode.
        discovery_parallelism: Count<1, 256> = "8",
        /// How long a worker may be silent before no query is sent to it.
        ///
        /// Workers report three times in that time. Also how long a restarted gateway answers "warming"
        /// where it does not know its workers yet.
        lease_ttl: Span<{ SECOND }, { 10 * MINUTE }> = "15s",
        /// Deadline of a query that names none, its time in queues included.
        deadline_default: Span<{ SECOND / 100 }, { 24 * HOUR }> = "30s",
        /// Longest deadline that a query may ask for; not below deadline_default.
        deadline_max: Span<{ SECOND / 100 }, { 24 * HOUR }> = "5m",
        /// Longest body of a query's request: SQL and parameters.
        body_size_max: Size<{ KIB }, { 256 * MIB }> = "1MiB",
        /// Longest body of a request that writes.
        ///
        /// The gateway holds it in memory until the worker has it; larger batches write faster.
        write_size_max: Size<{ KIB }, { 4 * GIB }> = "64MiB",
        /// Longest time that a worker may take to copy a segment: at provision, promotion and release.
        ///
        /// A promotion that takes longer fails, and can be repeated. Raise it for segments of many GiB in a
        /// store far away.
        copy_max: Span<{ SECOND }, { 7 * 24 * HOUR }> = "1h",
        /// How long to wait for a worker to take a connection before the next one is asked.
        connect_timeout: Span<{ SECOND / 100 }, { MINUTE }> = "1s",
        /// How long a stop waits for answers that are under way.
        ///
        /// Keep it below the time after which your supervisor kills (90 s in systemd, 30 s in Kubernetes).
        drain_max: Span<0, { 10 * MINUTE }> = "10s",
        /// Who gives way if somebody else replaces a segment in the store that is locked for writing.
        ///
        /// supersede: the lock. It ends, with a line in the log; what was not promoted is kept aside on its
        /// holder, in a file that the next request, `segment show` and `segment locks` name; whoever writes
        /// provisions again, upon the newer generation. refuse: nobody. The lock stays, promotions are refused,
        /// until somebody releases it by force or removes the other generation. overwrite: the store. The next
        /// promotion replaces the other generation, with a line in the log. In a file:// store a changed mode or
        /// owner makes another generation, too.
        foreign_generation: ForeignGeneration = "supersede",
        /// Memory that the embedded registry may use for its pages; it takes that as advice.
        registry_cache: Size<{ MIB }, { TIB }> = "64MiB",
        /// Take a store that another registry has marked as its own.
        ///
        /// For once, after its data directory was lost or moved: two registries on one store would undo
        /// each other's work.
        take_over_store: bool = "false",
    }
}

keys! {
    "Cluster"
    /// What workers on other hosts prove themselves with.
    pub struct SecretKeys {
        /// Secret that workers and gateway share: at least 16 characters.
        ///
        /// Without one only workers on the same host may register. As a flag it shows in the list of
        /// processes: prefer the file.
        cluster_secret: Option<Secret>,
        /// File that holds the cluster secret.
        ///
        /// Users other than its owner and group must not be able to read it.
        cluster_secret_file: Option<PathBuf>,
    }
}

keys! {
    "Worker's place"
    /// Where a worker answers and registers.
    pub struct WorkerNetKeys {
        /// Directory on a local disk for the copies of tier hot; made if it is missing.
        ///
        /// One process at a time. Unset: a directory for each store and worker in $XDG_STATE_HOME/springhouse, or in
        /// ~/.local/state/springhouse. Writes exist here alone until they are promoted: it belongs on a
        /// disk that survives the host.
        data: Option<PathBuf>,
        /// URL of the gateway to register with.
        ///
        /// A gateway that is not up yet is waited for.
        gateway: HttpUrl = "http://127.0.0.1:6110",
        /// Address where the worker answers the gateway. Port 0: any free one.
        ///
        /// Anybody who reaches it can query past the gateway unless there is a cluster secret.
        listen: SocketAddr = "127.0.0.1:0",
        /// URL under which the gateway reaches this worker.
        ///
        /// Unset: the address it listens on. Needed where that is 0.0.0.0 or the gateway sees the host
        /// under another name.
        advertise: Option<HttpUrl>,
        /// How long a stop waits for answers that are under way.
        drain_max: Span<0, { 10 * MINUTE }> = "10s",
    }
}

keys! {
    "Worker"
    /// What kind of worker, and how it reads.
    pub struct WorkerKeys {
        /// Which kind of worker: cold answers in place, in the store; hot from copies on a local disk.
        ///
        /// Only a hot worker takes writes. "hot,cold" is both.
        tier: Tier = "cold",
        /// How segments are read: through a FUSE mount, or directly at their paths.
        ///
        /// auto takes a mount where /dev/fuse is there, and otherwise opens the files of a file:// store
        /// directly. HDFS needs a mount.
        access: Access = "auto",
        /// A mount of the same store that is there already; the worker uses it and starts none.
        ///
        /// Unset: the worker starts `springhouse mount` as a child process and watches it.
        mounted_at: Option<PathBuf>,
        /// Directory where the mount that the worker starts appears; made if it is missing.
        ///
        /// Unset: a directory of its own in the data directory.
        mount_point: Option<PathBuf>,
        /// Name of the worker, unique in the cluster.
        ///
        /// Unset: the host's name. Set it where several workers run on one host, and keep it: the
        /// name decides which segments come to this worker, so its cache stays useful after a restart.
        worker_name: Option<WorkerName>,
        /// Share of the segments that come to this worker, compared with the others'.
        weight: Count<1, 1000> = "100",
    }
}

keys! {
    "Local copies"
    /// Room and pace of tier hot.
    pub struct HotKeys {
        /// Most bytes of local copies.
        ///
        /// Unset: 80 % of the disk. Whatever it is, copying stops before the disk is full.
        quota: Option<Size<{ MIB }, { 1 << 60 }>>,
        /// Segments copied from the store at the same time.
        copy_parallelism: Count<1, 64> = "2",
        /// Bytes a second for all copies together.
        ///
        /// Unset: as many as the store gives. Copies give way to everything else on the host as well; those
        /// that somebody waits for, to write, do not.
        copy_bandwidth: Option<Size<{ 64 * KIB }, { 1 << 50 }>>,
        /// Rack, room or zone of this worker: the copies of a segment go to different ones.
        ///
        /// The worker reports it with its lease. Where there are fewer zones than copies some share one.
        zone: Option<WorkerName>,
    }
}

keys! {
    "Queries"
    /// Limits of the query engine.
    pub struct EngineKeys {
        /// Queries that run at the same time, a thread each.
        ///
        /// Unset: two for each core, from 4 to 32. Raise it where queries mostly wait for a store far away.
        query_threads: Option<Count<1, 256>>,
        /// Queries that may wait for a thread; more are refused as overloaded.
        query_queue_max: Count<1, { 1 << 20 }> = "256",
        /// Longest time of a query, in the queue and in SQLite.
        ///
        /// The gateway's deadlines come on top: the shorter one holds.
        query_timeout_max: Span<1, { 24 * HOUR }> = "5m",
        /// Memory that one running query may use for sorts, temporary tables and values.
        ///
        /// All queries together use at most query_threads times this, and idle_memory.
        query_memory: Size<{ MIB }, { TIB }> = "128MiB",
        /// Memory that idle connections may keep, all together.
        idle_memory: Size<0, { TIB }> = "256MiB",
        /// SQLite's page cache of one connection; at most half of query_memory.
        ///
        /// The mount's cache is behind it: this only saves the way through the kernel.
        page_cache: Size<{ 64 * KIB }, { TIB }> = "2MiB",
        /// Connections open at once, running or idle; each is one open file. At least query_threads.
        connections_max: Count<1, { 1 << 20 }> = "512",
        /// Idle connections kept for one generation of one segment.
        /// With fewer than query_threads a single busy segment is opened anew again and again.
        connections_per_segment_max: Count<0, 256> = "32",
        /// Prepared statements kept with a connection.
        statements_per_connection_max: Count<0, 1024> = "16",
        /// Most rows of an answer.
        rows_max: Count<1, 1_000_000_000_000> = "1000000",
        /// Most bytes of an answer, as they go over the wire.
        answer_size_max: Size<{ KIB }, { 1 << 60 }> = "256MiB",
        /// Longest string, blob or row that SQLite makes; at most query_memory.
        sql_value_size_max: Size<{ KIB }, 1_000_000_000> = "32MiB",
        /// Longest text of a statement.
        sql_statement_size_max: Size<64, 1_000_000_000> = "256KiB",
        /// Most columns of a table, a result or an ORDER BY.
        sql_columns_max: Count<1, 2000> = "1000",
        /// Deepest expression.
        sql_expression_depth_max: Count<1, 1000> = "200",
        /// Most terms of a compound SELECT (UNION and its like).
        sql_compound_selects_max: Count<1, 500> = "100",
        /// Most instructions of a compiled statement.
        sql_instructions_max: Count<1000, 250_000_000> = "250000",
        /// Most arguments of a function.
        sql_function_arguments_max: Count<1, 1000> = "100",
        /// Longest pattern of LIKE and GLOB; matching costs up to pattern times text.
        sql_like_pattern_size_max: Size<1, 50_000> = "50B",
        /// Highest number of a parameter.
        sql_parameters_max: Count<0, 32_766> = "10000",
        /// Most tables, indexes, views and triggers of a segment.
        sql_schema_objects_max: Count<1, 1_000_000_000> = "20000",
    }
}

keys! {
    "Log"
    /// What is logged, and how.
    pub struct LogKeys {
        /// What to log: error, warn, info, debug or trace, for all or by module.
        ///
        /// As in "warn,springhouse=debug". The log goes to standard error.
        log: LogFilter = "info",
        /// How log lines look.
        log_format: LogFormat = "text",
    }
}
