//! What the configuration promises.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args as _, FromArgMatches as _};
use proptest::prelude::*;
use springhouse_fuse::{
    fs::{DiskSettings, Identity},
    mount::is_root,
};
use springhouse_gateway::{Settings as GatewaySettings, rules::TierRule};

use super::{
    Flags, Resolved,
    keys::{KeySpec, Role},
    render,
    resolve::{Given, Inputs, Source, check_file, resolve},
    roles::{self, Gateway, Mount, Serve, Worker, for_each_role},
    value::{Block, Count, KIB, MIB, Secret, Size, Span, Value},
};
use crate::{mount::MountSettings, query::QuerySettings};

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("serve.toml");
    std::fs::write(&path, text).expect("a file");
    (dir, path)
}

fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn flag(key: &'static str, text: &str) -> Given {
    Given { key, text: text.into(), source: Source::Flag(format!("--{}", key.replace('_', "-"))) }
}

fn problems<R: Role + std::fmt::Debug>(inputs: &Inputs) -> Vec<String> {
    resolve::<R>(inputs).expect_err("problems").iter().map(ToString::to_string).collect()
}

fn source_of<'a>(resolved: &'a Resolved, key: &str) -> &'a Source {
    resolved.lookup(key).expect("resolved").1
}

#[test]
fn each_layer_overrides_the_one_below_and_is_named() {
    let (_dir, path) = file("store = \"file:///from-file\"\n\nmemory = \"1GiB\"\nrows_max = 7\n");
    let inputs = Inputs {
        file: Some(path.clone()),
        environment: environment(&[("SPRINGHOUSE_MEMORY", "2GiB"), ("SPRINGHOUSE_LISTEN", "0.0.0.0:1")]),
        flags: vec![flag("listen", "127.0.0.1:2")],
    };
    let (serve, resolved) = resolve::<Serve>(&inputs).expect("a good configuration");
    assert_eq!(serve.store.store.to_string(), "file:///from-file");
    assert_eq!(serve.cache.memory.bytes(), 2 << 30);
    assert_eq!(serve.engine.rows_max.get(), 7);
    assert_eq!(serve.gateway.listen.to_string(), "127.0.0.1:2");
    assert_eq!(*source_of(&resolved, "store"), Source::File(path.clone(), 1));
    assert_eq!(*source_of(&resolved, "rows_max"), Source::File(path, 4));
    assert_eq!(source_of(&resolved, "memory").to_string(), "environment SPRINGHOUSE_MEMORY");
    assert_eq!(source_of(&resolved, "listen").to_string(), "flag --listen");
    assert_eq!(source_of(&resolved, "freshness").to_string(), "default");
}

#[test]
fn all_problems_are_told_with_place_range_and_remedy() {
    let (_dir, path) = file(
        "store = \"/srv\"\ncach_size = \"1GiB\"\nmemory = \"17TiB\"\nmetrics_listen = \"127.0.0.1:1\"\n\
         weight = [1]\n[cache]\nsize = 1\n",
    );
    let inputs = Inputs {
        file: Some(path.clone()),
        environment: environment(&[("SPRINGHOUSE_CACHESIZE", "1"), ("SPRINGHOUSE_FRESHNESS", "10")]),
        flags: vec![flag("cache_block", "65KiB")],
    };
    let at = path.display();
    assert_eq!(
        problems::<Serve>(&inputs),
        [
            format!("{at}:2: serve has no key cach_size; did you mean cache_size?"),
            format!("{at}:4: metrics_listen is a key of mount, not of serve; remove it here"),
            format!(
                "{at}:5: weight is neither text, number nor true/false; give a whole number from 1 to 1000"
            ),
            format!(
                "{at}:6: the table [cache] means nothing: all keys stand at the top, but for those of [[rule]]; \
                 remove the line"
            ),
            "environment SPRINGHOUSE_CACHESIZE: no role has such a key; did you mean SPRINGHOUSE_CACHE_SIZE?"
                .into(),
            format!(
                "{at}:1: store: \"/srv\" has no scheme (a local directory is file:///srv); give \
                 hdfs://HOST:PORT/path, hdfs://NAMESERVICE/path or file:///path"
            ),
            format!(
                "{at}:3: memory: \"17TiB\" is too large; give a size from 96MiB to 16TiB, such as \
                 \"512MiB\" or a number of bytes"
            ),
            "environment SPRINGHOUSE_FRESHNESS: freshness: \"10\" has no unit (\"10s\" is 10 seconds); give a \
             time from 0s to 1h, such as \"250ms\", \"10s\" or \"5m\""
                .into(),
            "flag --cache-block: cache_block: \"65KiB\" is not a power of two; give a power of two from 4KiB \
             to 4MiB, such as \"64KiB\""
                .into(),
        ]
    );
}

#[test]
fn a_missing_required_key_names_every_way_to_give_it() {
    assert_eq!(
        problems::<Gateway>(&Inputs::default()),
        ["store is not set: URL of the store that holds the segments; give --store, SPRINGHOUSE_STORE=… or \
          the key `store` in the file of --config"]
    );
}

#[test]
fn broken_toml_has_its_line_and_a_missing_file_its_name() {
    let (_dir, path) = file("store = \"file:///x\"\nlisten = \n");
    let found = check_file::<Serve>(&path);
    assert_eq!(found.len(), 1);
    assert!(found[0].0.starts_with(&format!("{}:2: is not TOML: ", path.display())), "{}", found[0]);
    let (_dir, path) = file("page_cache = \"2MiB\"\nquery_memory = \"1MiB\"\nfull_pass_interval = \"1s\"\n");
    let found = check_file::<Serve>(&path);
    assert_eq!(found.len(), 2, "also without the required store: {found:?}");
    assert!(found.iter().any(|problem| problem.0.contains("half of query_memory")), "{found:?}");
    let (dir, path) = file("");
    std::fs::write(&path, b"\xff\xfe").expect("written");
    assert!(check_file::<Serve>(&path)[0].0.ends_with("it is not UTF-8 text"));
    assert!(check_file::<Serve>(dir.path())[0].0.contains("is a directory"));
    let found = check_file::<Serve>(Path::new("/nowhere/serve.toml"));
    assert!(found[0].0.starts_with("configuration file /nowhere/serve.toml: No such file"), "{}", found[0]);
}

#[test]
fn variables_of_other_roles_and_of_kubernetes_are_no_mistakes() {
    let inputs = Inputs {
        environment: environment(&[
            ("SPRINGHOUSE_STORE", "file:///x"),
            ("SPRINGHOUSE_METRICS_LISTEN", "not even checked"),
            ("SPRINGHOUSE_CONFIG", "/read/elsewhere"),
            ("SPRINGHOUSE_GATEWAY_SERVICE_HOST", "10.0.0.1"),
            ("SPRINGHOUSE_GATEWAY_SERVICE_PORT_HTTP", "6110"),
            ("SPRINGHOUSE_PORT", "tcp://10.0.0.1:6110"),
            ("SPRINGHOUSE_PORT_6110_TCP_ADDR", "10.0.0.1"),
            ("PATH", "/bin"),
        ]),
        ..Inputs::default()
    };
    assert!(resolve::<Gateway>(&inputs).is_ok());
}

#[test]
fn text_that_looks_like_a_number_stays_text() {
    let secret = "0000000000000000123";
    let inputs = Inputs {
        environment: environment(&[
            ("SPRINGHOUSE_STORE", "file:///x"),
            ("SPRINGHOUSE_CLUSTER_SECRET", secret),
            ("SPRINGHOUSE_WORKER_NAME", "007"),
        ]),
        ..Inputs::default()
    };
    let (serve, resolved) = resolve::<Serve>(&inputs).expect("good");
    assert_eq!(serve.worker.name().as_str(), "007");
    assert_eq!(serve.secret.secret().expect("a secret").expect("set").reveal(), secret);
    assert!(!format!("{serve:?}").contains(secret), "a secret in a debug print");
    let shown = render::show::<Serve>(&resolved);
    assert!(!shown.contains(secret), "{shown}");
    assert!(shown.contains("# cluster_secret = <set>  # environment SPRINGHOUSE_CLUSTER_SECRET"), "{shown}");
}

#[test]
fn a_secret_file_must_be_kept_from_others() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, path) = file("a-secret-of-enough-length\n");
    let inputs = Inputs {
        environment: environment(&[("SPRINGHOUSE_STORE", "file:///x")]),
        flags: vec![flag("cluster_secret_file", &path.to_string_lossy())],
        ..Inputs::default()
    };
    let secret = || resolve::<Gateway>(&inputs).expect("good").0.secret.secret();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).expect("chmod");
    assert!(secret().expect_err("open to all").0.ends_with(&format!("run chmod o= {}", path.display())));
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("chmod");
    assert_eq!(secret().expect("good").expect("set").reveal(), "a-secret-of-enough-length");
    std::fs::write(&path, "short").expect("a file");
    let problem = secret().expect_err("short").0;
    assert!(problem.contains("too short") && !problem.contains("\"short\""), "{problem}");
}

#[test]
fn show_is_a_configuration_itself() {
    let inputs =
        Inputs { flags: vec![flag("store", "file:///a b"), flag("log", "warn")], ..Inputs::default() };
    let (serve, resolved) = resolve::<Serve>(&inputs).expect("good");
    let (_dir, path) = file(&render::show::<Serve>(&resolved));
    let again = resolve::<Serve>(&Inputs { file: Some(path), ..Inputs::default() }).expect("good");
    assert_eq!(serve, again.0);
}

#[test]
fn defaults_are_those_of_the_parts() {
    let flags = || vec![flag("store", "file:///x"), flag("mount_point", "/m")];
    let (mount, _) = resolve::<Mount>(&Inputs { flags: flags(), ..Inputs::default() }).expect("good");
    let store = mount.store.store.clone();
    let mut wanted = MountSettings::new(store.clone(), "/m");
    wanted.fs.identity = if is_root() { Identity::Caller } else { Identity::Fixed };
    assert_eq!(mount.point.mount(&mount.store, &mount.writes, &mount.cache), wanted);
    // A worker only reads, and alone.
    let mut wanted = MountSettings::new(store, "/m");
    wanted.fs.writes.read_only = true;
    assert_eq!(mount.cache.mount(&mount.store, "/m"), wanted);
    let (serve, _) = resolve::<Serve>(&Inputs { flags: flags(), ..Inputs::default() }).expect("good");
    // The gateway's deadline governs; the engine's own bound is behind it.
    let engine =
        QuerySettings { timeout_max: GatewaySettings::new("/d").deadline_max, ..QuerySettings::default() };
    assert_eq!(serve.engine.settings(), Ok(engine));
    let gateway = serve.gateway.settings(Path::new("/d"), None).expect("good");
    let gateway = serve.tiers.complete(&serve.rules, gateway);
    assert_eq!(format!("{gateway:?}"), format!("{:?}", GatewaySettings::new("/d")));
}

#[test]
fn rules_are_read_in_order_and_every_mistake_in_them_has_its_line() {
    let head = "store = \"file:///x\"\ncopies_minimum = 2\n";
    let good = format!(
        "{head}[[rule]]\nprefix = \"crawl-\"\nship_every = \"30s\"\n[[rule]]\nname = \"old\"\nolder_than = \
         \"1year\"\ntier = \"cold\"\n"
    );
    let (_dir, path) = file(&good);
    let (serve, resolved) =
        resolve::<Serve>(&Inputs { file: Some(path.clone()), ..Inputs::default() }).expect("good");
    let settings = serve.gateway.settings(Path::new("/d"), None).expect("good");
    let settings = serve.tiers.complete(&serve.rules, settings);
    assert_eq!(settings.copies_minimum, 2);
    let names: Vec<_> = settings.rules.iter().map(|rule| (rule.name.as_str(), rule.tier)).collect();
    assert_eq!(names, [("1", TierRule::Heat), ("old", TierRule::Cold)]);
    assert_eq!(settings.rules[0].ship.every, Some(Duration::from_secs(30)));
    let shown = render::show::<Serve>(&resolved);
    let lines = format!("[[rule]]  # {0}:6\nname = \"old\"  # {0}:7\n", path.display());
    assert!(shown.contains(&lines), "{shown}");

    let bad = format!(
        "{head}[[rule]]\nprefx = \"a\"\nolder_than = \"3\"\n[[rule]]\nname = \"b\"\npattern = \"(\"\nlisten = \
         \"0.0.0.0:1\"\ncopies_maximum = [1]\n"
    );
    let (_dir, path) = file(&bad);
    let at = path.display();
    let told: Vec<String> = check_file::<Serve>(&path).iter().map(ToString::to_string).collect();
    assert_eq!(
        told[..3],
        [
            format!("{at}:4: rule 1: there is no key prefx; did you mean prefix?"),
            format!(
                "{at}:9: rule 2: listen is a key of serve, and what stands after [[rule]] belongs to that; move \
                 it above the first of them"
            ),
            format!(
                "{at}:10: rule 2: copies_maximum is neither text, number nor true/false; give a whole number \
                 from 1 to 1000"
            ),
        ]
    );
    assert!(told[3].starts_with(&format!("{at}:5: rule 1: older_than: \"3\" has no unit")), "{told:?}");
    assert!(
        told[4].starts_with(&format!("{at}:8: rule 2 (\"b\"): pattern: \"(\" is no regular")),
        "{told:?}"
    );

    let (_dir, path) = file(&format!("{head}[[rule]]\ncopies_maximum = 1\ncopies_minimum = 3\n"));
    let told = check_file::<Serve>(&path);
    assert_eq!(
        told[0].0,
        format!(
            "{}:4: rule 1 (\"1\"): copies_maximum: is 1, less than copies_minimum, 3; change one of the two",
            path.display()
        )
    );
    let (_dir, path) = file("rule = 3\n");
    assert!(check_file::<Serve>(&path)[0].0.ends_with("begin each of them with [[rule]]"));
    let (_dir, path) = file("[[rule]]\n");
    assert!(!check_file::<Mount>(&path).is_empty(), "a mount has no rules");
}

#[test]
fn contradictions_are_found() {
    let flags = [
        ("store", "file:///x"),
        ("connections_max", "3"),
        ("query_threads", "4"),
        ("deadline_default", "6m"),
    ];
    let flags = flags.map(|(key, text)| flag(key, text)).to_vec();
    let found = problems::<Serve>(&Inputs { flags, ..Inputs::default() });
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("longer than deadline_max"), "{found:?}");
    assert!(found[1].contains("less than query_threads (4)"), "{found:?}");
}

#[test]
fn contradictions_of_a_mount_are_found() {
    let found = |given: &[(&'static str, &str)]| {
        let mut flags = vec![flag("store", "file:///x"), flag("mount_point", "/m")];
        flags.extend(given.iter().map(|(key, text)| flag(key, text)));
        resolve::<Mount>(&Inputs { flags, ..Inputs::default() })
            .map(|(mount, _)| mount.point.mount(&mount.store, &mount.writes, &mount.cache))
            .map_err(|problems| problems[0].to_string())
    };
    for (given, remedy) in [
        (&[("cache_size", "1GiB")][..], "name a directory with cache_dir"),
        (&[("memory", "128MiB"), ("memory_blocks", "60MiB")], "more than the 52.0 MiB of memory (128MiB)"),
        (&[("write_mode", "staged")], "with staging_dir"),
        (&[("hdfs_block_size", "5000")], "such as 128MiB"),
        (&[("kerberos_keytab", "/k")], "with kerberos_principal"),
    ] {
        let problem = found(given).expect_err("a contradiction");
        assert!(problem.contains(remedy), "{problem}");
    }
    assert!(found(&[("write_mode", "staged"), ("read_only", "true")]).is_ok(), "nothing is staged");
    let mount = found(&[("cache_dir", "/c"), ("memory", "160MiB"), ("memory_blocks", "0"), ("umask", "27")]);
    let fs = mount.expect("good").fs;
    assert_eq!(fs.disk, Some(DiskSettings { dir: "/c".into(), bytes_max: 10 << 30 }));
    // 160 MiB leave 75 MiB: two thirds and one third of that where no blocks are kept.
    assert_eq!((fs.cache_bytes, fs.prefetch_bytes, fs.pinned_bytes), (0, 50 << 20, 25 << 20));
    assert_eq!(fs.writes.umask, 0o27);
    let identity = |given| found(&[given]).expect("good").fs.identity;
    assert_eq!(identity(("allow_other", "true")), Identity::Caller);
    assert_eq!(identity(("allow_other", "false")), Identity::Fixed);
}

#[test]
fn hidden_keys_stay_out_of_sight_until_they_are_used() {
    let mut flags = vec![flag("store", "file:///x"), flag("mount_point", "/m")];
    let shown = |flags: &[Given]| {
        let inputs = Inputs { flags: flags.to_vec(), ..Inputs::default() };
        render::show::<Mount>(&resolve::<Mount>(&inputs).expect("good").1)
    };
    for text in [shown(&flags), render::sample::<Mount>(), render::all_tables()] {
        assert!(!text.contains("added_latency"), "{text}");
    }
    flags.push(flag("added_latency", "10ms"));
    assert!(shown(&flags).contains("added_latency = \"10ms\"  # flag --added-latency"));
}

#[test]
fn every_store_has_a_data_directory_of_its_own() {
    let dir = |store: &str| {
        let flags = vec![flag("store", store)];
        let serve = resolve::<Serve>(&Inputs { flags, ..Inputs::default() }).expect("good").0;
        let home = |name: &str| (name == "HOME").then(|| PathBuf::from("/home/x"));
        serve.gateway.data_dir(&serve.store.store, home).expect("a home").display().to_string()
    };
    let (one, two) = (dir("file:///srv/segments"), dir("hdfs://nn:9000/segments"));
    assert!(one.starts_with("/home/x/.local/state/springhouse/file-segments-"), "{one}");
    assert!(two.starts_with("/home/x/.local/state/springhouse/hdfs-segments-"), "{two}");
    assert_ne!(one, dir("file:///srv2/segments"));
    assert_eq!(one, dir("file:///srv/segments/"));
    assert!(dir("hdfs://nn:9000/").contains("/hdfs-"), "a store at the root");
}

fn every_spec() -> Vec<(&'static str, KeySpec)> {
    fn of<R: Role>() -> Vec<(&'static str, KeySpec)> {
        let of_tables = R::tables().into_iter().flat_map(|table| table.specs);
        R::specs().into_iter().chain(of_tables).map(|spec| (R::NAME, spec)).collect()
    }
    for_each_role!(of).into_iter().flatten().collect()
}

#[test]
fn keys_are_well_formed() {
    for (role, spec) in every_spec() {
        let name = spec.name;
        if let Some(default) = spec.default {
            assert_eq!((spec.check)(default).as_deref(), Ok(default), "default of {role} {name}");
        } else if !spec.secret && !spec.hidden {
            let example = render::example(&spec);
            assert_eq!((spec.check)(example).as_deref(), Ok(example), "example of {role} {name}");
        }
        assert!(spec.summary().ends_with('.') && spec.summary().len() <= 100, "summary of {role} {name}");
        assert!(spec.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
    }
    for_each_role!(distinct);
    fn distinct<R: Role>() {
        let names: BTreeSet<_> = R::specs().iter().map(|spec| spec.name).collect();
        assert_eq!(names.len(), R::specs().len(), "{} has a key twice", R::NAME);
        assert!(R::MAIN.iter().all(|name| names.contains(name)), "{}: MAIN names no key", R::NAME);
    }
}

#[test]
fn flags_of_every_role_parse() {
    fn every_flag<R: Role>() {
        let command = Flags::<R>::augment_args(clap::Command::new(R::NAME));
        command.clone().debug_assert();
        let specs = R::specs();
        let arguments = specs.iter().map(|spec| format!("{}=x", spec.flag()));
        let matches = command
            .try_get_matches_from(std::iter::once(R::NAME.to_owned()).chain(arguments))
            .expect("every key is a flag");
        Flags::<R>::from_arg_matches(&matches).expect("flags");
    }
    for_each_role!(every_flag);
}

/// Compares `generated` with a file of the repository, or writes it there with `UPDATE_DOCS=1`.
fn same_as_file(path: &str, current: &str, generated: &str) {
    if current == generated {
        return;
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, generated).expect("the file can be written");
        return;
    }
    panic!("{path} is not what the keys say; run UPDATE_DOCS=1 cargo test -p springhouse --lib config");
}

#[test]
fn samples_are_what_the_keys_say() {
    fn sample<R: Role>() {
        let path = format!("{}/config/{}.toml", env!("CARGO_MANIFEST_DIR"), R::NAME);
        same_as_file(&path, &std::fs::read_to_string(&path).unwrap_or_default(), &render::sample::<R>());
    }
    for_each_role!(sample);
}

#[test]
fn tables_in_the_document_are_what_the_keys_say() {
    const BEGIN: &str = "<!-- Keys: generated, see src/config/tests.rs -->\n";
    const END: &str = "<!-- end of keys -->\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIGURATION.md");
    let text = std::fs::read_to_string(path).expect("the document");
    let (head, rest) = text.split_once(BEGIN).expect("the mark before the tables");
    let (_, tail) = rest.split_once(END).expect("the mark after the tables");
    same_as_file(path, &text, &format!("{head}{BEGIN}\n{}\n{END}{tail}", render::all_tables()));
    for exit in crate::error::Exit::ALL {
        let (code, meaning) = exit.code_and_meaning();
        assert!(text.contains(&format!("| {code} | {meaning} |")), "exit code {code} is not in the document");
    }
}

#[test]
fn samples_parse_as_they_are_and_with_every_default_in() {
    fn sample<R: Role + PartialEq + std::fmt::Debug>() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sample.toml");
        let sample = render::sample::<R>();
        std::fs::write(&path, &sample).expect("a file");
        assert_eq!(check_file::<R>(&path), []);
        let (keys, tables) = sample.split_once("\n#[[").unwrap_or((&sample, ""));
        let tables: Vec<_> = tables.lines().map(|line| line.trim_start_matches('#')).collect();
        if !tables.is_empty() {
            std::fs::write(&path, format!("[[{}", tables.join("\n"))).expect("a file");
            assert_eq!(check_file::<R>(&path), [], "the examples");
        }
        // What has a default, and what must be given: all but the examples of keys that are not set.
        let lines = keys.lines().filter(|line| !line.ends_with("# not set by default"));
        let uncommented: Vec<_> = lines
            .map(|line| match line.strip_prefix('#') {
                Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => key,
                _ => line,
            })
            .collect();
        std::fs::write(&path, uncommented.join("\n")).expect("a file");
        let in_file = resolve::<R>(&Inputs { file: Some(path), ..Inputs::default() }).expect("good");
        let specs = R::specs();
        let flags = specs.iter().filter(|spec| spec.required);
        let flags = flags.map(|spec| flag(spec.name, render::example(spec))).collect();
        let built_in = resolve::<R>(&Inputs { flags, ..Inputs::default() }).expect("good");
        assert_eq!(in_file.0, built_in.0);
        let shown = specs.iter().filter(|spec| !spec.hidden);
        let given: Vec<_> = shown.filter(|spec| spec.default.is_some() || spec.required).collect();
        assert!(given.iter().all(|spec| matches!(source_of(&in_file.1, spec.name), Source::File(..))));
    }
    sample::<Mount>();
    sample::<Worker>();
    sample::<Gateway>();
    sample::<Serve>();
}

#[test]
fn a_switch_needs_no_value() {
    let command = Flags::<Mount>::augment_args(clap::Command::new("mount"));
    let matches = command.try_get_matches_from(["mount", "--allow-nonempty"]).expect("a flag");
    assert_eq!(matches.get_one::<String>("allow_nonempty").map(String::as_str), Some("true"));
}

#[test]
fn names_of_keys_are_known_across_roles() {
    assert_eq!(roles::with_key("metrics_listen"), ["mount"]);
    assert_eq!(roles::with_key("data"), ["worker", "gateway", "serve"]);
    assert!(roles::is_key_of_any_role("SPRINGHOUSE_TIER"));
    assert!(!roles::is_key_of_any_role("SPRINGHOUSE_tier"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn sizes_and_times_read_back(size in 0..1u64 << 60, ms in 0..1u64 << 43, block in 0..40u32) {
        type AnySize = Size<0, { u64::MAX }>;
        type AnySpan = Span<0, { u64::MAX }>;
        let parsed = AnySize::parse(&format!("{size}")).expect("a number of bytes");
        prop_assert_eq!(parsed.bytes(), size);
        prop_assert_eq!(AnySize::parse(&parsed.text()), Ok(parsed));
        let parsed = AnySpan::parse(&format!("{ms}ms")).expect("a time");
        prop_assert_eq!(AnySpan::parse(&parsed.text()), Ok(parsed));
        let block = 1u64 << block;
        prop_assert_eq!(Block::<{ 4 * KIB }, { 4 * MIB }>::parse(&block.to_string()).is_ok(), (12..=22).contains(&block.ilog2()));
    }

    #[test]
    fn nothing_given_makes_it_panic(text in ".*") {
        for (_, spec) in every_spec() {
            if let Ok(canonical) = (spec.check)(&text) {
                prop_assert_eq!((spec.check)(&canonical), Ok(canonical.clone()), "{} of {:?}", spec.name, text);
            }
        }
        let (_dir, path) = file(&text);
        let _ = check_file::<Serve>(&path);
        prop_assert_eq!(Count::<3, 9>::parse(&text).is_ok(), text.trim().parse().is_ok_and(|n: u64| (3..=9).contains(&n)));
        prop_assert!(Secret::parse(&text).is_err() || text.trim().len() >= Secret::BYTES_MIN);
    }
}
