//! Hadoop's jars, configuration and command lines.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use super::process;

const POM: &str = include_str!("hadoop/pom.xml");
/// Template of each file in a cluster's configuration folder.
const TEMPLATES: [(&str, &str); 5] = [
    ("core-site.xml", include_str!("hadoop/conf/core-site.xml")),
    ("hdfs-site.xml", include_str!("hadoop/conf/hdfs-site.xml")),
    ("log4j.properties", include_str!("hadoop/conf/log4j.properties")),
    ("logging.properties", include_str!("hadoop/conf/logging.properties")),
    ("hadoop-metrics2.properties", include_str!("hadoop/conf/hadoop-metrics2.properties")),
];
/// Folders that the daemons look for on their class path; there is nothing to serve from them.
const WEBAPPS: [&str; 5] = ["hdfs", "datanode", "journal", "static", "secondary"];
/// 65 MB, over a slow line.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(600);

/// The folder of jars; downloaded by Maven when the cache has none for this `pom.xml`.
pub fn jars() -> Result<&'static Path, String> {
    static JARS: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    JARS.get_or_init(find_or_download).as_deref().map_err(Clone::clone)
}

/// Whether [`jars`] can answer without the network.
pub fn jars_are_cached() -> bool {
    cache_dir().is_ok_and(|dir| dir.is_dir())
}

/// Where downloads are kept, out of reach of `cargo clean`.
pub fn cache() -> Result<PathBuf, String> {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    let cache = cache.ok_or("neither XDG_CACHE_HOME nor HOME says where to keep Hadoop's jars")?;
    Ok(cache.join("springhouse"))
}

fn cache_dir() -> Result<PathBuf, String> {
    let hash = xxhash_rust::xxh3::xxh3_64(POM.as_bytes());
    Ok(cache()?.join(format!("hadoop-{hash:016x}")))
}

fn find_or_download() -> Result<PathBuf, String> {
    let target = cache_dir()?;
    if target.is_dir() {
        return Ok(target);
    }
    let parent = target.parent().expect("it has a name in the cache");
    let failed = |e: std::io::Error| format!("{}: {e}", parent.display());
    fs::create_dir_all(parent).map_err(failed)?;
    // Filled under another name: a download that ends half-way is never taken for a whole one.
    let download = tempfile::Builder::new().prefix("hadoop-download-").tempdir_in(parent).map_err(failed)?;
    fs::write(download.path().join("pom.xml"), POM).map_err(failed)?;
    let mut maven = Command::new("mvn");
    maven.current_dir(download.path()).args([
        "-q",
        "-B",
        "dependency:copy-dependencies",
        "-DoutputDirectory=lib",
    ]);
    let done = process::run(maven, DOWNLOAD_LIMIT);
    if !done.success() {
        let reason = done.stdout.lines().find(|line| line.contains("ERROR")).unwrap_or("no reason given");
        return Err(format!("mvn cannot fetch Hadoop's jars: {reason}"));
    }
    match fs::rename(download.path().join("lib"), &target) {
        // Another test binary was quicker: its folder is as good.
        Err(_) if target.is_dir() => Ok(target),
        Err(e) => Err(failed(e)),
        Ok(()) => Ok(target),
    }
}

/// Writes the configuration folder of the cluster that lives in `home`.
pub fn configure(home: &Path, rpc: u16, http: u16, datanodes: usize, block_size: u64) {
    let conf = home.join("conf");
    for name in WEBAPPS {
        fs::create_dir_all(conf.join("webapps").join(name)).expect("a folder in the cluster's home");
    }
    let values = [
        ("@HOME@", home.display().to_string()),
        ("@USER@", user()),
        ("@NAMENODE_RPC@", rpc.to_string()),
        ("@NAMENODE_HTTP@", http.to_string()),
        ("@REPLICATION@", datanodes.to_string()),
        ("@BLOCK_SIZE@", block_size.to_string()),
    ];
    for (name, template) in TEMPLATES {
        let text = values.iter().fold(template.to_owned(), |text, (key, value)| text.replace(key, value));
        fs::write(conf.join(name), text).expect("a file in the cluster's home");
    }
}

/// Adds properties to a configuration file.
pub fn add_properties(file: &Path, properties: &[(&str, String)]) {
    let text = fs::read_to_string(file).expect("written just now");
    let more: String = properties
        .iter()
        .map(|(name, value)| format!("  <property><name>{name}</name><value>{value}</value></property>\n"))
        .collect();
    fs::write(file, text.replace("</configuration>", &format!("{more}</configuration>"))).expect("a file");
}

/// The Java command of one of the cluster's programs: a class and its arguments.
pub fn java(home: &Path, args: &[&str]) -> Command {
    let jars = jars().unwrap_or_else(|why| panic!("{why}"));
    let class_path = format!("{}:{}/*", home.join("conf").display(), jars.display());
    // Of a cluster with a realm of its own.
    let krb5 = home.join("conf/krb5.conf");
    let mut java = Command::new("java");
    java.current_dir(home)
        // WebHDFS's XML binding defines classes by reflection.
        .args(["--add-opens=java.base/java.lang=ALL-UNNAMED"])
        .args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true"])
        .arg(format!("-Djava.util.logging.config.file={}", home.join("conf/logging.properties").display()))
        .args(krb5.is_file().then(|| format!("-Djava.security.krb5.conf={}", krb5.display())))
        .args(["-cp", &class_path])
        .args(args)
        // Another Hadoop's settings on this host must not leak in.
        .env_remove("HADOOP_CONF_DIR")
        .env_remove("HADOOP_HOME")
        .env_remove("JAVA_TOOL_OPTIONS")
        .env("HADOOP_USER_NAME", user());
    java
}

/// Who runs the daemons, and so is HDFS's superuser.
pub fn user() -> String {
    // SAFETY: geteuid(2) cannot fail and touches no memory.
    #[allow(unsafe_code)]
    let id = unsafe { libc::geteuid() };
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| "springhouse".into())
}
