//! `make demo`: segments in a store, `springhouse serve` over it, three queries through the gateway, and the
//! life of a segment that is written.
//!
//! `demo [--store file|hdfs] [--size full|small] [--once]`

#![allow(unreachable_pub, reason = "a binary of modules, each of which is its own public")]
#![allow(clippy::print_stdout, reason = "printing is what a demo does")]

use std::{
    fs, io,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

#[path = "../harness/mod.rs"]
#[allow(dead_code, reason = "a demo needs only a part of the harness")]
mod harness;

mod cost;
mod interrupt;
mod life;
mod queries;
mod screen;
mod store;

use harness::{
    cluster::{self, Serve},
    hdfs::{Hdfs, HdfsDir},
    need::Need,
};

const ARGUMENTS: [&str; 4] = ["--log", "error", "--tier", "hot,cold"];
const DISCOVERED_LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq)]
enum StoreKind {
    File,
    Hdfs,
}

/// What the command line asks for.
struct Asked {
    kind: StoreKind,
    size: store::Size,
    once: bool,
}

fn main() -> ExitCode {
    let asked = match arguments() {
        Ok(asked) => asked,
        Err(why) => {
            eprintln!("demo: {why}; usage: demo [--store file|hdfs] [--size full|small] [--once]");
            return ExitCode::from(2);
        }
    };
    interrupt::listen();
    // The harness panics with what went wrong, for tests; here the message is enough.
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = std::panic::catch_unwind(|| demo(&asked)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("stopped").to_owned())
    });
    harness::remove_state_home();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if interrupt::check().is_err() => {
            eprintln!("demo: stopped");
            ExitCode::from(interrupt::EXIT_CODE)
        }
        Err(why) => {
            eprintln!("demo: {why}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Asked, String> {
    let mut asked = Asked { kind: StoreKind::File, size: store::Size::Full, once: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--once" => asked.once = true,
            "--store" => match words.next().as_deref() {
                Some("file") => asked.kind = StoreKind::File,
                Some("hdfs") => asked.kind = StoreKind::Hdfs,
                other => return Err(format!("{:?} is not a kind of store", other.unwrap_or_default())),
            },
            "--size" => match words.next().as_deref() {
                Some("full") => asked.size = store::Size::Full,
                Some("small") => asked.size = store::Size::Small,
                other => return Err(format!("{:?} is not a size", other.unwrap_or_default())),
            },
            other => return Err(format!("unknown argument {other:?}")),
        }
    }
    Ok(asked)
}

/// The segments are kept from run to run and the registry is not, so the store looks like another's. Taken
/// over, it would wait a minute for workers with locks of the lost registry before it grants one; here there
/// are none.
fn forget_owner(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(".springhouse-owner") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn demo(asked: &Asked) -> Result<(), String> {
    let fuse = Need::Fuse.check();
    if asked.kind == StoreKind::Hdfs {
        // Said before minutes of work are spent.
        Need::Hdfs.check().map_err(|missing| format!("STORE=hdfs: {missing}"))?;
        fuse.clone().map_err(|missing| format!("STORE=hdfs needs a FUSE mount: {missing}"))?;
    }
    screen::title("Springhouse: SQL over SQLite segments, read in place");

    let segments = store::make_or_find(asked.size)?;
    let note = segments
        .made_in
        .map_or("kept from the last run".into(), |t| format!("made in {:.1} s", t.as_secs_f64()));
    screen::fact(
        "segments",
        &format!("{} files, {} ({note})", segments.files, screen::bytes(segments.bytes)),
    );

    forget_owner(&segments.root).map_err(|error| format!("{}: {error}", segments.root.display()))?;
    let in_hdfs = (asked.kind == StoreKind::Hdfs).then(|| copy_to_hdfs(&segments));
    let url = in_hdfs.as_ref().map_or_else(|| format!("file://{}", segments.root.display()), HdfsDir::url);
    screen::fact("store", &url);
    match &fuse {
        Ok(()) => screen::fact("access", "a FUSE mount, with a block cache"),
        Err(missing) => screen::fact("access", &format!("the files directly, because there is {missing}")),
    }

    interrupt::check()?;
    let started = Instant::now();
    let serve = Serve::at(&listen_address(), &url, &ARGUMENTS);
    let api = serve.api();
    harness::within(DISCOVERED_LIMIT, || {
        let list = api.send(reqwest::Method::GET, "/v1/segments?limit=1", &[], None).ok()?.json();
        (list["total"].as_u64()? >= segments.files).then_some(())
    })
    .ok_or_else(|| format!("the gateway does not know all segments after {DISCOVERED_LIMIT:?}"))?;
    screen::fact(
        "gateway",
        &format!("{} (up, all segments known after {})", api.base(), screen::time(started.elapsed())),
    );

    let cost = cost::Meter::of(&serve, fuse.is_ok());
    let queries = queries::all(asked.size);
    for (number, query) in queries.iter().enumerate() {
        interrupt::check()?;
        queries::run(number + 1, query, api, &cost)?;
    }
    interrupt::check()?;
    life::run(queries.len() + 1, api, &cost)?;
    screen::title("Try next");
    println!("{}\n", queries::curl(&queries[queries.len() - 1], api.base()));
    if !asked.once {
        println!("Serving until Ctrl-C.");
        interrupt::wait();
        println!("Stopping.");
    }
    drop(serve);
    Ok(())
}

fn copy_to_hdfs(segments: &store::Segments) -> HdfsDir {
    let started = Instant::now();
    let hdfs = Arc::new(Hdfs::own());
    screen::fact("HDFS", &format!("a NameNode and two DataNodes, up in {}", screen::time(started.elapsed())));
    let started = Instant::now();
    let dir = hdfs.dir("segments");
    dir.put_tree(&segments.root, Some(store::HDFS_BLOCK_BYTES));
    screen::fact("copied", &format!("in {}", screen::time(started.elapsed())));
    dir
}

/// The gateway's usual port if it is free.
fn listen_address() -> String {
    let usual = "127.0.0.1:6110";
    if std::net::TcpListener::bind(usual).is_ok() { usual.into() } else { cluster::free_address() }
}
