//! Hadoop's key server, which HDFS's encryption zones need.

use std::{fs, time::Duration};

use super::{
    block_on, hadoop, ports,
    process::{self, Process, Signal},
    within,
};

const READY_LIMIT: Duration = Duration::from_secs(180);
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
const SITE: &str = "<configuration>
  <property><name>hadoop.kms.key.provider.uri</name><value>jceks://file@@HOME@/keys.jceks</value></property>
  <property><name>hadoop.kms.http.host</name><value>127.0.0.1</value></property>
  <property><name>hadoop.kms.http.port</name><value>@PORT@</value></property>
  <property><name>hadoop.kms.proxyuser.@USER@.users</name><value>*</value></property>
  <property><name>hadoop.kms.proxyuser.@USER@.hosts</name><value>*</value></property>
</configuration>
";
/// Without these nobody may use a key.
const OPERATIONS: [&str; 4] = ["MANAGEMENT", "GENERATE_EEK", "DECRYPT_EEK", "READ"];

/// A running key server with one key; stopped when dropped.
pub struct Kms {
    // Dropped in this order: the directory after the one who writes in it.
    process: Process,
    home: tempfile::TempDir,
    port: u16,
}

impl Kms {
    /// The key in it.
    pub const KEY: &str = "archive";

    pub fn start() -> Self {
        let (home, port) = (super::scratch(), ports::free());
        let conf = home.path().join("conf");
        fs::create_dir(&conf).expect("a folder");
        let site = SITE
            .replace("@HOME@", &home.path().display().to_string())
            .replace("@PORT@", &port.to_string())
            .replace("@USER@", &hadoop::user());
        fs::write(conf.join("kms-site.xml"), site).expect("a file");
        let acls = conf.join("kms-acls.xml");
        let empty = "<configuration></configuration>";
        // It does not start without the first, which has nothing for it.
        fs::write(conf.join("core-site.xml"), empty).expect("a file");
        fs::write(&acls, empty).expect("a file");
        let names = OPERATIONS.map(|operation| format!("default.key.acl.{operation}"));
        hadoop::add_properties(&acls, &names.each_ref().map(|name| (name.as_str(), "*".to_owned())));
        let dir = format!("-Dkms.config.dir={}", conf.display());
        // It insists on the property, not on the file.
        let args = [
            dir.as_str(),
            "-Dlog4j.configuration=none",
            "org.apache.hadoop.crypto.key.kms.server.KMSWebServer",
        ];
        let process = Process::start_with("kms", hadoop::java(home.path(), &args), Signal::Kill);
        let kms = Self { process, home, port };
        let answered = within(READY_LIMIT, || kms.answers().then_some(()));
        assert!(answered.is_some(), "the key server does not answer: {}", kms.process.transcript());
        kms.create_key();
        kms
    }

    /// What clients of HDFS have in `hadoop.security.key.provider.path`.
    pub fn uri(&self) -> String {
        format!("kms://http@127.0.0.1:{}/kms", self.port)
    }

    fn answers(&self) -> bool {
        let client =
            reqwest::Client::builder().no_proxy().timeout(ANSWER_LIMIT).build().expect("an HTTP client");
        let keys = format!("http://127.0.0.1:{}/kms/v1/keys/names?user.name={}", self.port, hadoop::user());
        let answer = block_on(async { client.get(keys).send().await });
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    fn create_key(&self) {
        let uri = self.uri();
        let args = ["org.apache.hadoop.crypto.key.KeyShell", "create", Self::KEY, "-provider", uri.as_str()];
        let done = process::run(hadoop::java(self.home.path(), &args), READY_LIMIT);
        assert!(done.success(), "{}{}", done.stdout, done.stderr);
    }
}
