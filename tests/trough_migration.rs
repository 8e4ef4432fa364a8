//! From Trough and back: its settings, its files, its schemas; docs/MIGRATING-FROM-TROUGH.md.

use std::{fs, path::Path, time::Duration};

use rusqlite::Connection;

use crate::{
    harness::{
        eventually, file_url,
        mount::Mount,
        process::{self, Output},
        scratch, segments, springhouse,
        trough::Trough,
    },
    registry::tests,
};

tests! {
    [] settings, settings_refused, schemas_are_copied;
    [Fuse] taken_over_and_back;
}

const LIMIT: Duration = Duration::from_secs(60);

fn run(args: &[&str]) -> Output {
    let mut command = springhouse();
    command.args(args);
    process::run(command, LIMIT)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Trough's own sample, and something that nobody has.
const SETTINGS: &str = r#"HDFS_PATH: /ait/prod/trough/
HDFS_HOST: localhost
HDFS_PORT: 6000
MINIMUM_ASSIGNMENTS: "lambda segment_id: 2 if segment_id.isnumeric() and int(segment_id) > 200000 else 1"
COLD_STORE_SEGMENT: "lambda segment_id: segment_id.isnumeric() and int(segment_id) < 600000"
RUN_AS_COLD_STORAGE_NODE: no
LOCAL_DATA: /var/tmp/trough
REED_PORT: 6445
"#;

fn settings() {
    let dir = scratch();
    let file = dir.path().join("settings.yml");
    fs::write(&file, SETTINGS).expect("a file");
    let out = dir.path().join("out");
    fs::create_dir(&out).expect("a directory");
    let written = run(&["config", "from-trough", &text(&file), "--dir", &text(&out)]);
    assert!(written.success(), "{written:?}");
    assert!(written.stderr.contains("settings.yml:8: Trough has no setting REED_PORT"), "{}", written.stderr);
    for role in ["gateway", "worker", "serve"] {
        let path = out.join(format!("{role}.toml"));
        assert!(written.stdout.contains(&text(&path)), "{}", written.stdout);
        let checked = run(&["config", "check", &text(&path)]);
        assert!(checked.success(), "{role}: {checked:?}");
        let printed = run(&["config", "from-trough", "--role", role, &text(&file)]);
        assert_eq!(printed.stdout, fs::read_to_string(&path).expect("a file"));
        let shown = run(&["config", "show", role, "--config", &text(&path)]);
        assert!(shown.success(), "{shown:?}");
        assert!(
            shown.stdout.contains("store = \"hdfs://localhost:6000/ait/prod/trough\""),
            "{}",
            shown.stdout
        );
        if role != "worker" {
            assert!(shown.stdout.contains("trough_read = \"0.0.0.0:6444\""), "{}", shown.stdout);
            assert!(
                printed.stdout.contains("#pattern = '[1-5][0-9]{5}|[1-9][0-9]{0,4}|0'"),
                "{}",
                printed.stdout
            );
        }
    }
    // What was written there before is not lost.
    let again = run(&["config", "from-trough", &text(&file), "--dir", &text(&out)]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(
        again.stderr.contains("gateway.toml") && again.stderr.contains("move it away"),
        "{}",
        again.stderr
    );
}

fn settings_refused() {
    let dir = scratch();
    let file = dir.path().join("settings.yml");
    for (content, why) in [("a: [1", "is not YAML"), ("- a", "holds no settings")] {
        fs::write(&file, content).expect("a file");
        let refused = run(&["config", "from-trough", &text(&file)]);
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""), "{refused:?}");
        assert!(
            refused.stderr.contains("settings.yml") && refused.stderr.contains(why),
            "{}",
            refused.stderr
        );
    }
    let missing = run(&["config", "from-trough", "/nowhere/settings.yml"]);
    assert_eq!(missing.code, Some(2), "{missing:?}");
    // In `[trough]`, too, a mistake has its line.
    let toml = dir.path().join("serve.toml");
    for (content, line, why) in [
        ("[trough]\nreed = \"0.0.0.0:1\"\n", 2, "did you mean trough_read"),
        ("[trough]\nread = 5\n", 2, "trough_read"),
        ("trough_read = \"0.0.0.0:1\"\n[trough]\nread = \"0.0.0.0:1\"\n", 3, "twice"),
        ("[troff]\nread = 5\n", 1, "[troff]"),
    ] {
        fs::write(&toml, content).expect("a file");
        let checked = run(&["config", "check", &text(&toml)]);
        assert_eq!(checked.code, Some(2), "{checked:?}");
        assert!(checked.stderr.contains(&format!("serve.toml:{line}: ")), "{content}: {}", checked.stderr);
        assert!(checked.stderr.contains(why), "{content}: {}", checked.stderr);
    }
    fs::write(&toml, "[trough]\nmanager = \"0.0.0.0:1\"\n").expect("a file");
    let checked = run(&["config", "check", &text(&toml)]);
    assert!(checked.stderr.contains("trough_write"), "its answers name that port: {checked:?}");
}

/// The loop of the guide, from one manager to another.
fn schemas_are_copied() {
    let (old_root, new_root) = (scratch(), scratch());
    let (old, new) = (Trough::of(old_root.path()), Trough::of(new_root.path()));
    for (id, sql) in [("a", "create table t (a text default 'ä')"), ("b.c", "-- none\n")] {
        assert_eq!(old.ports.manage("PUT", &format!("/schema/{id}/sql"), sql).status, 201);
    }
    let guide = fs::read_to_string(crate::harness::repository().join("docs/MIGRATING-FROM-TROUGH.md"));
    let guide = guide.expect("the guide");
    let script = guide.split("```sh\n").find(|part| part.trim_start().starts_with("for id in"));
    let script = script.expect("the loop").split("```").next().unwrap_or_default();
    let script = script.replace("$old:6111", &old.ports.manager).replace("$new:6111", &new.ports.manager);
    let mut command = std::process::Command::new("sh");
    command.args(["-ec", &script]);
    let output = process::run(command, LIMIT);
    assert!(output.success(), "{output:?}");
    let mut lines: Vec<&str> = output.stdout.lines().map(str::trim).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["a 201", "b.c 201", "default 204"]);
    for path in ["/schema", "/schema/a", "/schema/b.c/sql", "/schema/default/sql"] {
        assert_eq!(old.ports.manage("GET", path, ""), new.ports.manage("GET", path, "").clone(), "{path}");
    }
}

/// As the guide says: through a mount, while the store has an older one that is served.
fn taken_over_and_back() {
    let (root, local) = (scratch(), scratch());
    let id = "1234567";
    let file = root.path().join(segments::relative_path(id));
    fs::create_dir_all(file.parent().expect("a directory")).expect("made");
    let write = |path: &Path, sql: &str| {
        Connection::open(path).and_then(|database| database.execute_batch(sql)).expect("written");
    };
    write(&file, "create table t (a); insert into t values (1)");
    let own = local.path().join(format!("{id}.sqlite"));
    fs::copy(&file, &own).expect("copied");
    write(&own, "insert into t values (2), (3)");

    let trough = Trough::of(root.path());
    let count = || trough.ports.rows(id, "select count(*) as n from t");
    assert_eq!(count(), "[{\"n\":1}]\n");
    let mount = Mount::of(&file_url(root.path()));
    let import = local.path().join("import");
    write(&own, &format!("VACUUM INTO '{}'", import.display()));
    let dir = mount.path().join("1234");
    fs::copy(&import, dir.join(format!("{id}.sqlite._IMPORT_"))).expect("copied");
    fs::rename(dir.join(format!("{id}.sqlite._IMPORT_")), dir.join(format!("{id}.sqlite"))).expect("renamed");
    eventually("the new one is seen", LIMIT, || (count() == "[{\"n\":3}]\n").then_some(()));

    assert_eq!(trough.ports.provision(&format!("{{\"segment\": \"{id}\"}}")).status, 200);
    assert_eq!(trough.ports.write(id, "insert into t values (4)").text(), "OK\n");
    assert_eq!(count(), "[{\"n\":4}]\n");
    assert_eq!(trough.ports.manage("POST", "/promote", &format!("{{\"segment\": \"{id}\"}}")).status, 200);
    // For Trough: a plain file where it looks, in the ordinary journal mode, and nothing else it would look at.
    let bytes = fs::read(&file).expect("a file");
    assert_eq!(bytes[18..20], [1, 1]);
    let database = Connection::open(&file).expect("a database");
    let rows: i64 = database.query_row("select count(*) from t", [], |row| row.get(0)).expect("rows");
    assert_eq!(rows, 4);
    let others: Vec<String> = fs::read_dir(file.parent().expect("a directory"))
        .expect("entries")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| *name != format!("{id}.sqlite"))
        .collect();
    assert_eq!(others, Vec::<String>::new());
}
