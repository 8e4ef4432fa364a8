//! Figures for large catalogs: `make scale`, or
//! `cargo run --release -p springhouse-gateway --example scale [SEGMENTS…]`.
//!
//! For each number of segments three processes, so that memory is each one's own: one that discovers all
//! of the store, one that starts with what that left and serves, and one that starts after the second was
//! killed. Prints a table in Markdown; `docs/SCALE.md` has one.

#![allow(clippy::print_stdout)]
#![allow(unreachable_pub, reason = "modules of a program, each of which is its own public")]

mod figures;
mod serving;
mod world;

use std::{
    error::Error,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use springhouse_gateway::{
    Gateway, Settings,
    registry::{
        RegistryError,
        ledger::{Entry, Lock, Raise},
        state::{Amendment, State},
    },
    segment::SegmentId,
};

use self::{
    figures::{Figures, mib, seconds, table},
    world::World,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Every so many segments one is raised …
const RAISED_EVERY: u64 = 100;
/// … and one is locked.
const LOCKED_EVERY: u64 = 1_000;
/// Hot copies of a raised one.
pub const COPIES: u32 = 2;
/// Hot workers.
pub const WORKERS: u64 = 200;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let [phase @ ("--fill" | "--serve" | "--start"), segments, home] = words.as_slice() {
        let world = Arc::new(World::new(segments.parse()?));
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let home = Path::new(home);
        let figures = match *phase {
            "--fill" => runtime.block_on(fill(world, home)),
            "--serve" => runtime.block_on(serving::serve(world, home)),
            _ => runtime.block_on(start(world, home)),
        }?;
        println!("{}", serde_json::to_string(&figures)?);
        if *phase == "--serve" {
            // As a crash would: the next one starts from what is on disk.
            std::process::abort();
        }
        return Ok(());
    }
    let mut sizes = words.iter().map(|word| word.parse()).collect::<Result<Vec<u64>, _>>()?;
    if sizes.is_empty() {
        sizes = vec![1_000_000, 3_000_000, 10_000_000];
    }
    let mut columns = Vec::new();
    for segments in sizes {
        let home = tempfile::tempdir()?;
        let mut figures = Figures::default();
        for phase in ["--fill", "--serve", "--start"] {
            eprintln!("{segments} segments: {}", &phase[2..]);
            figures.0.append(&mut of_process(phase, segments, home.path())?.0);
        }
        columns.push((format!("{segments} segments"), figures));
    }
    print!("{}", table(&columns));
    Ok(())
}

/// What a process of its own measures.
fn of_process(phase: &str, segments: u64, home: &Path) -> Outcome<Figures> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command.arg(phase).arg(segments.to_string()).arg(home).stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8(output.stdout)?;
    serde_json::from_str(&text).map_err(|error| format!("{phase}: {error}: {text:?}").into())
}

/// Settings under which nothing runs by itself while it is measured.
pub fn settings(home: &Path) -> Settings {
    Settings {
        discovery_interval: Duration::from_secs(24 * 3600),
        full_pass_interval: Duration::from_secs(48 * 3600),
        copies_grace: Duration::from_secs(3600),
        lease_ttl: Duration::from_secs(120),
        ..Settings::new(home.join("data"))
    }
}

/// The first pass over the store, and wishes and locks for some segments.
async fn fill(world: Arc<World>, home: &Path) -> Outcome<Figures> {
    let mut figures = Figures::default();
    let begun = Instant::now();
    let gateway = Gateway::start(settings(home), world.clone()).await?;
    let state = gateway.state();
    while !state.discovered() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    figures.add("first pass over the store", seconds(begun.elapsed()));
    let numbers: Vec<u64> = (0..world.numbered()).step_by(RAISED_EVERY as usize).collect();
    for some in numbers.chunks(1_000) {
        write_down(&state, &world, some)?;
    }
    {
        let catalog = state.catalog();
        if catalog.directory_count() != world.directories() + 1 {
            return Err("not all directories were found".into());
        }
        let per = catalog.heap_bytes() as f64 / catalog.segment_count() as f64;
        figures.add("directories", catalog.directory_count().to_string());
        figures.add("catalog in memory, bytes a segment", format!("{per:.1}"));
    }
    let locks = state.ledger().locks().count();
    figures.add("write locks / raised segments", format!("{locks} / {}", numbers.len()));
    figures.add("registry on disk", mib(state.disk_bytes()));
    figures.memory("of the first pass");
    drop(state);
    gateway.shutdown().await;
    Ok(figures)
}

fn write_down(state: &State, world: &World, numbers: &[u64]) -> Outcome<()> {
    let mut entries = Vec::new();
    for n in numbers {
        let id = SegmentId::parse(&world.id(*n))?;
        entries.push(Entry::Raise(id.clone(), Some(Raise::by_hand(COPIES, 0))));
        if n.is_multiple_of(LOCKED_EVERY) {
            let lock = Lock {
                worker: serving::worker(n / LOCKED_EVERY % WORKERS),
                token: n + 1,
                since_ms: 0,
                schema: "default".into(),
                directory: id.canonical_dir(),
                base: None,
                ready: true,
                untold: None,
                base_change: 0,
                ship: None,
                ship_from: 0,
            };
            entries.push(Entry::Lock(id, Some(lock)));
        }
    }
    state.amend(|_, _| Ok::<_, RegistryError>(Amendment::ledger(entries, ())))?;
    Ok(())
}

/// A start after a crash.
async fn start(world: Arc<World>, home: &Path) -> Outcome<Figures> {
    let mut figures = Figures::default();
    let begun = Instant::now();
    let gateway = Gateway::start(settings(home), world).await?;
    figures.add("ready after a crash", seconds(begun.elapsed()));
    figures.memory("after a crash");
    gateway.shutdown().await;
    Ok(figures)
}
