//! Making the HDFS client: what it is told, and what it is told wrong.

use std::{path::Path, time::Duration};

use hdfs_native::{Client, ClientBuilder, HdfsError};
use tokio::runtime::Handle;

use super::errors::translate;
use crate::{
    error::{Error, ErrorKind, Result},
    store::HdfsOptions,
};

type Properties = Vec<(String, String)>;

/// Where paths lead that no link of a mount table covers, if it names nothing for them: a name that is
/// never found (RFC 6761). The client insists on some place.
const NO_FALLBACK: &str = "hdfs://this-viewfs-has-no-linkFallback.invalid:8020/";

const SOCKET_TIMEOUT: &str = "dfs.client.socket-timeout";

/// What we set unless the caller does. These override the files of the cluster, which are written for
/// batch jobs: with their 60 s a stopped DataNode would cost more than our whole deadline.
pub(super) fn properties(authority: &str, options: &HdfsOptions, deadline: Duration) -> Properties {
    // How long a DataNode may keep silent in the middle of an answer. A stopped one must be found out, up
    // to three times over (two cached connections, one new), and the next replica read, all within the
    // deadline: hence a tenth of it. A healthy DataNode that needs longer for one disk seek loses little:
    // the read goes to another replica, which is the better bet; if all are so slow, the file is opened
    // anew and read again within the deadline, by when the disk has brought the bytes into the DataNode's
    // page cache. Where seconds are normal, a longer deadline raises this in proportion, and
    // `dfs.client.socket-timeout` given as a property overrides it.
    let socket_timeout = (deadline / 10).clamp(Duration::from_millis(200), Duration::from_secs(10));
    let single = authority.rsplit_once(':').is_some();
    let mut all = vec![
        (SOCKET_TIMEOUT.to_owned(), socket_timeout.as_millis().to_string()),
        // Our deadline decorator tries again, and knows when to stop. Between the NameNodes of one
        // service the client must move by itself.
        ("dfs.client.failover.max.attempts".to_owned(), if single { "0" } else { "4" }.to_owned()),
        ("dfs.client.failover.sleep.base.millis".to_owned(), "100".to_owned()),
        ("dfs.client.failover.sleep.max.millis".to_owned(), "1000".to_owned()),
    ];
    all.retain(|(name, _)| !options.properties.contains_key(name));
    all.extend(options.properties.iter().map(|(name, value)| (name.clone(), value.clone())));
    all
}

/// Those of the client of writers, made from the properties of the main one.
///
/// A reader goes to another replica when a DataNode is slow; a writer whose pipeline does not stand in
/// time loses the file. So it waits as long as it can: two silent DataNodes, one after the other, still
/// end within the deadline. At most the client's usual minute.
pub(super) fn writers_properties(main: &Properties, options: &HdfsOptions, deadline: Duration) -> Properties {
    let mut all = main.clone();
    if !options.properties.contains_key(SOCKET_TIMEOUT) {
        let timeout = (deadline * 9 / 20).clamp(Duration::from_millis(200), Duration::from_secs(60));
        all.retain(|(name, _)| name != SOCKET_TIMEOUT);
        all.push((SOCKET_TIMEOUT.to_owned(), timeout.as_millis().to_string()));
    }
    all
}

/// The client of an authority, with its URL and the properties that it took.
pub(super) fn connect(
    authority: &str,
    view: bool,
    options: &HdfsOptions,
    mut properties: Properties,
    runtime: &Handle,
) -> Result<(String, Client, Properties)> {
    let mut url = format!("{}://{authority}", if view { "viewfs" } else { "hdfs" });
    let mut built = try_build(&url, options, properties.clone(), runtime);
    if authority.is_empty()
        && !view
        && matches!(&built, Err(HdfsError::InvalidArgument(why)) if why.contains("must contain a host"))
    {
        // `fs.defaultFS` is of the other kind.
        "viewfs://".clone_into(&mut url);
        built = try_build(&url, options, properties.clone(), runtime);
    }
    if let Err(HdfsError::InvalidArgument(why)) = &built
        && why.starts_with("No viewfs fallback")
        && view
        && has_links(&url, authority, options, &properties, runtime)
    {
        properties.push((fallback_key(authority), NO_FALLBACK.into()));
        built = try_build(&url, options, properties.clone(), runtime);
    }
    built.map(|client| (url.clone(), client, properties)).map_err(|error| explain(&error, &url, options))
}

fn fallback_key(table: &str) -> String {
    format!("fs.viewfs.mounttable.{table}.linkFallback")
}

/// Whether the configuration knows the mount table at all. The client says of a table without a fallback
/// and of one that is nowhere the same; but a link that is no HDFS URL it refuses, in one that it knows.
fn has_links(
    url: &str,
    table: &str,
    options: &HdfsOptions,
    properties: &Properties,
    runtime: &Handle,
) -> bool {
    let mut properties = properties.clone();
    properties.push((fallback_key(table), NO_FALLBACK.into()));
    let Ok(client) = try_build(url, options, properties, runtime) else { return false };
    // A debugging form is all that shows the links.
    format!("{client:?}").matches("MountLink {").count() > 1
}

/// The client of `url`, told of a failure with its remedy.
pub(super) fn build(
    url: &str,
    options: &HdfsOptions,
    properties: Properties,
    runtime: &Handle,
) -> Result<Client> {
    try_build(url, options, properties, runtime).map_err(|error| explain(&error, url, options))
}

fn try_build(
    url: &str,
    options: &HdfsOptions,
    properties: Properties,
    runtime: &Handle,
) -> hdfs_native::Result<Client> {
    let mut builder =
        ClientBuilder::new().with_url(url).with_config(properties).with_io_runtime(runtime.clone());
    if let Some(dir) = &options.config_dir {
        builder = builder.with_config_dir(dir.display().to_string());
    }
    if let Some(user) = &options.user {
        builder = builder.with_user(user);
    }
    if let Some(principal) = &options.kerberos_principal {
        builder = builder.with_kerberos_principal(principal);
    }
    if let Some(keytab) = &options.kerberos_keytab {
        builder = builder.with_kerberos_keytab(keytab.display().to_string());
    }
    if let Some(cache) = &options.kerberos_cache {
        builder = builder.with_kerberos_cache(cache);
    }
    builder.build()
}

/// Finds at start what GSSAPI would tell late, and darkly.
pub(super) fn check_kerberos(options: &HdfsOptions) -> Result<()> {
    let wrong = |why: String| Err(Error::new(ErrorKind::InvalidArgument, why));
    let explicit = options.kerberos_keytab.is_some() || options.kerberos_cache.is_some();
    if explicit && options.kerberos_principal.is_none() {
        return wrong("Kerberos: a keytab or ticket cache needs the principal too; give NAME@REALM".into());
    }
    let cache = options.kerberos_cache.as_deref().map(|cache| cache.strip_prefix("FILE:").unwrap_or(cache));
    let keytab = options.kerberos_keytab.as_deref();
    // A cache beside a keytab is made if there is none; other kinds of cache are no files.
    let cache = cache.filter(|cache| keytab.is_none() && cache.starts_with('/')).map(Path::new);
    for (kind, path) in [("keytab", keytab), ("ticket cache", cache)] {
        if let Some(path) = path
            && let Err(error) = std::fs::File::open(path)
        {
            return Err(Error::from_io(&error, format_args!("Kerberos {kind} {}", path.display())));
        }
    }
    Ok(())
}

fn explain(error: &HdfsError, url: &str, options: &HdfsOptions) -> Error {
    let wrong = |why: String| Error::new(ErrorKind::InvalidArgument, why);
    match error {
        HdfsError::InvalidArgument(why) if why.starts_with("No NameNode hosts") => wrong(format!(
            "store {url}: this name service is not in the Hadoop configuration; give HOST:PORT, or set \
             HADOOP_CONF_DIR to the directory of core-site.xml and hdfs-site.xml"
        )),
        HdfsError::InvalidArgument(why) if why.starts_with("No viewfs fallback") => wrong(format!(
            "store {url}: the Hadoop configuration has no such ViewFS mount table \
             (fs.viewfs.mounttable.TABLE.link.PATH); give viewfs://TABLE/path, or set HADOOP_CONF_DIR to the directory of core-site.xml"
        )),
        HdfsError::InvalidArgument(why)
            if why.starts_with("No fs.defaultFS") || why.contains("must contain a host") =>
        {
            wrong(format!(
                "store {url}: names no NameNode, and there is no fs.defaultFS for it in the Hadoop configuration"
            ))
        }
        HdfsError::XmlParseError(why) => {
            let given =
                options.config_dir.clone().or_else(|| std::env::var_os("HADOOP_CONF_DIR").map(Into::into));
            let place = given.map(|dir| format!(" {}", dir.display())).unwrap_or_default();
            wrong(format!("Hadoop configuration{place}: core-site.xml or hdfs-site.xml is no XML: {why}"))
        }
        other => translate(other, url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::hdfs::client::Connection;

    fn options(properties: &[(&str, &str)]) -> HdfsOptions {
        let properties = properties.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        HdfsOptions { properties, ..HdfsOptions::default() }
    }

    fn made(authority: &str, view: bool, options: &HdfsOptions) -> std::result::Result<(), String> {
        let made = Connection::new(authority, view, options, Duration::from_secs(1));
        made.map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn writers_wait_longer_than_readers_unless_told_otherwise() {
        let patience = |options: &HdfsOptions, deadline| {
            let main = properties("h:1", options, Duration::from_secs(deadline));
            let writers = writers_properties(&main, options, Duration::from_secs(deadline));
            assert_eq!(main.len(), writers.len(), "all else is the same");
            let of = |all: &Properties| {
                let mut found = all.iter().filter(|(name, _)| name == SOCKET_TIMEOUT);
                let value = found.next().expect("it is set").1.clone();
                assert_eq!(found.next(), None, "once");
                value
            };
            (of(&main), of(&writers))
        };
        assert_eq!(patience(&options(&[]), 10), ("1000".into(), "4500".into()));
        assert_eq!(patience(&options(&[]), 3600), ("10000".into(), "60000".into()));
        let own = options(&[(SOCKET_TIMEOUT, "700")]);
        assert_eq!(patience(&own, 10), ("700".into(), "700".into()));
    }

    #[test]
    fn viewfs_by_name_by_default_and_without_a_fallback() {
        let link = ("fs.viewfs.mounttable.t.link./a", "hdfs://127.0.0.1:1/a");
        let default = ("fs.defaultFS", "viewfs://t");
        let fallback = ("fs.viewfs.mounttable.t.linkFallback", "hdfs://127.0.0.1:1/rest");
        assert_eq!(made("t", true, &options(&[link])), Ok(()), "links alone are a table");
        assert_eq!(made("t", true, &options(&[link, fallback])), Ok(()));
        assert_eq!(made("", true, &options(&[link, fallback, default])), Ok(()));
        assert_eq!(made("", false, &options(&[link, fallback, default])), Ok(()), "hdfs:///path");
        let unknown = made("other", true, &options(&[link])).expect_err("no such table");
        assert!(unknown.contains("has no such ViewFS mount table"), "{unknown}");
        let nothing = made("", false, &options(&[])).expect_err("no place");
        assert!(nothing.contains("no fs.defaultFS"), "{nothing}");
    }

    #[test]
    fn kerberos_that_cannot_work_is_told_at_once() {
        let keytab = HdfsOptions { kerberos_keytab: Some("/nowhere/x.keytab".into()), ..options(&[]) };
        let error = made("h:1", false, &keytab).expect_err("no principal");
        assert!(error.contains("needs the principal"), "{error}");
        let principal = Some("alice@EXAMPLE.COM".to_owned());
        let error = made("h:1", false, &HdfsOptions { kerberos_principal: principal.clone(), ..keytab })
            .expect_err("no such keytab");
        assert!(error.contains("keytab /nowhere/x.keytab: No such file"), "{error}");
        let cache = Some("FILE:/nowhere/cc".to_owned());
        let cache = HdfsOptions { kerberos_principal: principal, kerberos_cache: cache, ..options(&[]) };
        let error = made("h:1", false, &cache).expect_err("no such cache");
        assert!(error.contains("ticket cache /nowhere/cc: No such file"), "{error}");
    }
}
