//! A Kerberos realm of the test's own, and an HDFS that trusts nothing else.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{
    hadoop,
    hdfs::{BLOCK_SIZE, Daemon},
    ports,
    process::{self, Process},
    within,
};

const LIMIT: Duration = Duration::from_secs(180);
const REALM: &str = "COLD.TEST";

/// A key server, a NameNode and a DataNode; stopped when dropped.
pub struct KerberosHdfs {
    // Dropped in this order: the directory after those who write in it.
    _datanode: Daemon,
    namenode: Daemon,
    _kdc: Process,
    rpc: u16,
    home: tempfile::TempDir,
}

impl KerberosHdfs {
    pub fn start() -> Self {
        let home = super::scratch();
        let kdc = kdc(home.path());
        let (rpc, http) = (ports::free(), ports::free());
        hadoop::configure(home.path(), rpc, http, 1, BLOCK_SIZE);
        let conf = home.path().join("conf");
        // Java looks for a host's realm by its name: the address would have none.
        let keytab = home.path().join("hdfs.keytab").display().to_string();
        let principal = format!("hdfs/localhost@{REALM}");
        hadoop::add_properties(
            &conf.join("core-site.xml"),
            &[
                ("hadoop.security.authentication", "kerberos".into()),
                ("hadoop.rpc.protection", "authentication".into()),
            ],
        );
        hadoop::add_properties(
            &conf.join("hdfs-site.xml"),
            &[
                ("dfs.webhdfs.enabled", "false".into()),
                ("dfs.block.access.token.enable", "true".into()),
                ("dfs.data.transfer.protection", "authentication".into()),
                ("ignore.secure.ports.for.testing", "true".into()),
                ("dfs.namenode.kerberos.principal", principal.clone()),
                ("dfs.namenode.keytab.file", keytab.clone()),
                ("dfs.datanode.kerberos.principal", principal),
                ("dfs.datanode.keytab.file", keytab),
            ],
        );
        let class = "org.apache.hadoop.hdfs.server.namenode.NameNode";
        let format = hadoop::java(home.path(), &[class, "-format", "-force", "-nonInteractive"]);
        let formatted = process::run(format, LIMIT);
        assert!(formatted.success(), "namenode -format: {}", formatted.stderr);
        let namenode = Daemon::start("namenode", home.path(), http, rpc, vec![class.into()]);
        let datanode = Daemon::datanode(home.path(), 0);
        let cluster = Self { _datanode: datanode, namenode, _kdc: kdc, rpc, home };
        let ready = within(LIMIT, || {
            let state = cluster.namenode.jmx("Hadoop:service=NameNode,name=FSNamesystemState")?;
            (state["NumLiveDataNodes"] == 1 && state["FSState"] == "Operational").then_some(())
        });
        assert!(ready.is_some(), "the cluster is ready\n{}", cluster.namenode.transcript());
        // The root is the superuser's: alice may write there.
        let keytab = cluster.keytab("hdfs");
        let script = format!("kinit -k -t '{}' hdfs/localhost && exec \"$@\"", keytab.display());
        let shell = cluster.hadoop(&["org.apache.hadoop.fs.FsShell", "-chmod", "777", "/"]);
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(shell.get_program()).args(shell.get_args());
        cluster.environment(&mut command, "cc-hdfs");
        let done = process::run(command, LIMIT);
        assert!(done.success(), "{done:?}");
        cluster
    }

    fn hadoop(&self, args: &[&str]) -> Command {
        hadoop::java(self.home.path(), args)
    }

    pub fn url(&self) -> String {
        format!("hdfs://localhost:{}", self.rpc)
    }

    pub fn conf(&self) -> PathBuf {
        self.home.path().join("conf")
    }

    /// The realm's configuration: `KRB5_CONFIG` of whoever uses it.
    pub fn krb5_conf(&self) -> PathBuf {
        krb5_conf(self.home.path())
    }

    pub fn keytab(&self, user: &str) -> PathBuf {
        self.home.path().join(format!("{user}.keytab"))
    }

    pub fn alice(&self) -> String {
        format!("alice@{REALM}")
    }

    /// A ticket cache of alice's, as `kinit` leaves it.
    pub fn ticket_of_alice(&self) -> PathBuf {
        let mut command = Command::new("kinit");
        command.args(["-k", "-t"]).arg(self.keytab("alice")).arg(self.alice());
        self.environment(&mut command, "cc-alice");
        let done = process::run(command, LIMIT);
        assert!(done.success(), "{done:?}");
        self.home.path().join("cc-alice")
    }

    fn environment(&self, command: &mut Command, cache: &str) {
        command.env("KRB5_CONFIG", self.krb5_conf());
        command.env("KRB5CCNAME", format!("FILE:{}", self.home.path().join(cache).display()));
    }
}

fn krb5_conf(home: &Path) -> PathBuf {
    home.join("conf/krb5.conf")
}

/// Makes a realm and starts its key server.
fn kdc(home: &Path) -> Process {
    let port = ports::free();
    let dir = home.display();
    fs::create_dir_all(home.join("conf")).expect("a folder");
    let client = format!(
        "[libdefaults]\n default_realm = {REALM}\n dns_lookup_kdc = false\n rdns = false\n \
         udp_preference_limit = 1\n[realms]\n {REALM} = {{\n  kdc = 127.0.0.1:{port}\n }}\n\
         [domain_realm]\n localhost = {REALM}\n"
    );
    fs::write(krb5_conf(home), client).expect("a file");
    let server = format!(
        "[kdcdefaults]\n kdc_ports = {port}\n kdc_tcp_ports = {port}\n[realms]\n {REALM} = {{\n  \
         database_name = {dir}/principal\n  key_stash_file = {dir}/stash\n  acl_file = {dir}/acl\n }}\n"
    );
    fs::write(home.join("kdc.conf"), server).expect("a file");
    let command = |program: &str| {
        let mut command = Command::new(program);
        command.env("KRB5_CONFIG", krb5_conf(home)).env("KRB5_KDC_PROFILE", home.join("kdc.conf"));
        command
    };
    let run = |mut command: Command, args: &[&str]| {
        command.args(args);
        let done = process::run(command, LIMIT);
        assert!(done.success(), "{args:?}: {done:?}");
    };
    run(command("/usr/sbin/kdb5_util"), &["create", "-s", "-P", "master", "-r", REALM]);
    for (principal, keytab) in [("hdfs/localhost", "hdfs"), ("alice", "alice")] {
        let add = format!("addprinc -randkey {principal}");
        let export = format!("ktadd -k {dir}/{keytab}.keytab {principal}");
        for query in [add, export] {
            run(command("/usr/sbin/kadmin.local"), &["-r", REALM, "-q", &query]);
        }
    }
    let mut serve = command("/usr/sbin/krb5kdc");
    serve.args(["-n", "-r", REALM]);
    let kdc = Process::start("krb5kdc", serve);
    let up = within(LIMIT, || std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop));
    assert!(up.is_some(), "the key server answers\n{}", kdc.transcript());
    kdc
}
