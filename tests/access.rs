//! Hosts without FUSE: a local store is read directly, and everything else says what is missing.

use std::time::Duration;

use serde_json::json;

use crate::{
    harness::{
        cluster::free_address,
        eventually, file_url,
        hdfs::Hdfs,
        http::Api,
        process::{self, Process},
        scratch, segments, springhouse,
        without_fuse::{Lack, without_fuse},
    },
    registry::tests,
};

tests! {
    [Namespaces] auto_goes_on_directly, fuse_is_an_error;
    [Namespaces, Hdfs] hdfs_needs_fuse;
}

const LIMIT: Duration = Duration::from_secs(60);
const MOUNT_POINT: i32 = 4;
const DENIED: i32 = 6;

fn auto_goes_on_directly() {
    for lack in [Lack::Missing, Lack::Closed] {
        let root = scratch();
        segments::from_sql(root.path(), "seg001", "create table t (n); insert into t values (7);");
        let (data, address) = (scratch(), free_address());
        let mut command = springhouse();
        command.args(["serve", "--store", &file_url(root.path()), "--listen", &address, "--data"]);
        command.arg(data.path().join("data"));
        let mut serve = Process::start("serve", without_fuse(lack, data.path(), &command));
        serve.stderr_line("that there is no FUSE, and how to get it", LIMIT, |line| {
            (line.contains("/dev/fuse") && line.contains("directly") && line.contains("--device /dev/fuse"))
                .then_some(())
        });
        serve.stdout_line("how it reads", LIMIT, |line| {
            (line.contains("access") && line.contains("direct")).then_some(())
        });
        let api = Api::new(&format!("http://{address}"));
        let answer =
            eventually("it answers", LIMIT, || api.ask("seg001", json!({ "sql": "select n from t" })).ok());
        assert_eq!(answer.rows, [[json!(7)]]);
        assert_eq!(api.get("/v1/workers").json()["workers"][0]["access"], "direct");
        // A segment that is replaced is a new generation here as well.
        segments::from_sql(root.path(), "seg001", "create table t (n); insert into t values (8);");
        eventually("the new one", LIMIT, || {
            let answer = api.ask("seg001", json!({ "sql": "select n from t" })).ok()?;
            (answer.rows == [[json!(8)]]).then_some(())
        });
    }
}

fn fuse_is_an_error() {
    let root = scratch();
    let store = file_url(root.path());
    let (home, mnt) = (scratch(), scratch());
    // One for all attempts: the first one has put the registry's mark into the store.
    let data = home.path().join("data").display().to_string();
    let mnt = mnt.path().display().to_string();
    for lack in [Lack::Missing, Lack::Closed] {
        let address = free_address();
        let gateway = format!("http://{}", free_address());
        for args in [
            vec!["serve", "--access", "fuse", "--store", &store, "--listen", &address, "--data", &data],
            vec!["worker", "--access", "fuse", "--store", &store, "--gateway", &gateway],
            vec!["mount", &store, &mnt],
        ] {
            let line = refused(lack, &args);
            assert!(line.contains("/dev/fuse") && line.contains(lack.remedy()), "{args:?}: {line}");
        }
    }
}

fn hdfs_needs_fuse() {
    let dir = Hdfs::shared().dir("no-fuse");
    let home = scratch();
    let data = home.path().join("data").display().to_string();
    for lack in [Lack::Missing, Lack::Closed] {
        let (url, address) = (dir.url(), free_address());
        for access in ["auto", "fuse", "direct"] {
            let line = refused(
                lack,
                &["serve", "--access", access, "--store", &url, "--listen", &address, "--data", &data],
            );
            assert!(line.contains("FUSE"), "{access}: {line}");
        }
    }
}

/// Runs it without FUSE; it must end with one line, which is returned.
fn refused(lack: Lack, args: &[&str]) -> String {
    let scratch = scratch();
    let mut command = springhouse();
    command.args(args).env("SPRINGHOUSE_LOG", "error");
    let output = process::run(without_fuse(lack, scratch.path(), &command), LIMIT);
    assert!(output.code.is_some_and(|code| [MOUNT_POINT, DENIED].contains(&code)), "{args:?}: {output:?}");
    assert_eq!((output.stderr.lines().count(), output.stdout.as_str()), (1, ""), "{args:?}: {output:?}");
    output.stderr
}
