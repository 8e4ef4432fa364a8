//! Proves the memory bound on a real mount: VmHWM of a daemon under load.
//!
//! `memory_bound [MEMORY_MIB [READERS [FILE_MIB [STATS]]]]` mounts a local directory through the whole
//! stack in a process of its own, and lets 64 sequential readers of large files, 8 random readers and
//! 100,000 open-stat-close go at it at once. Prints one line of JSON and fails if the process ever held
//! more than the bound and 15 %.
//!
//! The files are sparse but for a mark in each 4 KiB page, which every read is checked for.

// The line of JSON is what this program is for.
#![allow(clippy::print_stdout)]

use std::{
    error::Error,
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    thread,
    time::Instant,
};

use springhouse_fuse::{
    fs::{DiskSettings, FileSystem, FsSettings},
    kernel::{self, MountOptions},
    memory, mount,
    store::{self, StoreOptions, StoreUrl},
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const PAGE: u64 = 4096;

fn main() -> ExitCode {
    memory::tame_allocator();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some("serve") => serve(&arguments[1..]),
        _ => measure(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("memory_bound: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `serve STORE DIR CACHE MEMORY_MIB`: a daemon without its command line.
fn serve(arguments: &[String]) -> Outcome<()> {
    let [store_dir, dir, cache_dir, memory] = arguments else { return Err("serve: four arguments".into()) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build()?;
    let url = format!("file://{store_dir}").parse::<StoreUrl>()?;
    let _inside = runtime.enter();
    let store = store::open(&url, &StoreOptions::default())?.store;
    let disk = Some(DiskSettings { dir: cache_dir.into(), bytes_max: 1 << 30 });
    let memory_bytes = memory.parse::<u64>()? << 20;
    // Wishes for more than there is: the division has to hold.
    let settings = FsSettings {
        memory_bytes,
        cache_bytes: memory_bytes,
        prefetch_bytes: memory_bytes,
        disk,
        ..FsSettings::default()
    };
    let fs = Arc::new(FileSystem::new(store, settings, runtime.handle().clone())?);
    let options = MountOptions {
        dir: dir.into(),
        source: format!("file://{store_dir}"),
        allow_other: false,
        noexec: false,
        threads: 4,
    };
    let mut mounted = kernel::mount(fs, runtime.handle().clone(), &options)?;
    println!("mounted");
    runtime.block_on(mounted.ended());
    Ok(())
}

/// A daemon that is unmounted and ended whatever happens.
struct Daemon {
    child: Child,
    dir: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = mount::detach(&self.dir);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    fn start(store: &Path, dir: &Path, cache: &Path, memory: u64) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .args([store, dir, cache])
            .arg(memory.to_string())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = child.stdout.take();
        let daemon = Self { child, dir: dir.to_owned() };
        let mut line = String::new();
        BufReader::new(said.ok_or("no output")?).read_line(&mut line)?;
        if line.trim() == "mounted" { Ok(daemon) } else { Err("the daemon did not mount".into()) }
    }

    /// A line of `/proc/PID/status` in KiB.
    fn status(&self, name: &str) -> Outcome<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no such line")?;
        Ok(number.trim().parse()?)
    }
}

fn measure(arguments: &[String]) -> Outcome<()> {
    let number =
        |index: usize, default: u64| arguments.get(index).map_or(Ok(default), |text| text.parse::<u64>());
    let (memory, readers) = (number(0, 512)?, number(1, 64)?);
    let (file_mib, stats) = (number(2, 64)?, number(3, 100_000)?);
    let place = tempfile::tempdir()?;
    let (store, dir, cache) =
        (place.path().join("store"), place.path().join("mount"), place.path().join("cache"));
    for made in [&store, &dir, &cache] {
        fs::create_dir(made)?;
    }
    let len = file_mib << 20;
    for reader in 0..readers {
        write_marks(&store.join(format!("large-{reader}")), reader, len)?;
    }
    fs::create_dir(store.join("small"))?;
    let files = stats.min(10_000);
    for file in 0..files {
        fs::write(store.join(format!("small/{file}")), b"small")?;
    }
    let daemon = Daemon::start(&store, &dir, &cache, memory)?;
    let before = daemon.status("VmRSS")?;
    let began = Instant::now();
    thread::scope(|scope| -> Outcome<()> {
        let mut work = Vec::new();
        for reader in 0..readers {
            let path = dir.join(format!("large-{reader}"));
            work.push(scope.spawn(move || sequential(&path, reader, len)));
        }
        for seed in 0..8_u64 {
            let path = dir.join(format!("large-{}", seed % readers.max(1)));
            work.push(scope.spawn(move || random(&path, seed % readers.max(1), len, seed)));
        }
        for part in 0..4 {
            let small = dir.join("small");
            work.push(scope.spawn(move || open_stat_close(&small, part, stats / 4, files)));
        }
        work.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a reader panicked")?)
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let (high, after) = (daemon.status("VmHWM")?, daemon.status("VmRSS")?);
    let bound = memory << 10;
    println!(
        "{{\"bound_kib\":{bound},\"vm_hwm_kib\":{high},\"vm_rss_before_kib\":{before},\
         \"vm_rss_after_kib\":{after},\"seconds\":{seconds:.1},\"mib_per_s\":{:.0}}}",
        (readers * file_mib) as f64 / seconds
    );
    drop(daemon);
    if high > bound + bound * 15 / 100 {
        return Err(format!("{high} KiB were held: more than {bound} and 15 %").into());
    }
    Ok(())
}

fn mark(file: u64, page: u64) -> [u8; 16] {
    let mut mark = [0; 16];
    mark[..8].copy_from_slice(&file.to_le_bytes());
    mark[8..].copy_from_slice(&page.to_le_bytes());
    mark
}

fn write_marks(path: &Path, number: u64, len: u64) -> Outcome<()> {
    let file = File::create(path)?;
    file.set_len(len)?;
    for page in 0..len / PAGE {
        file.write_all_at(&mark(number, page), page * PAGE)?;
    }
    Ok(())
}

fn check(bytes: &[u8], offset: u64, number: u64) -> Outcome<()> {
    for (i, page) in bytes.chunks(PAGE as usize).enumerate() {
        if page[..16] != mark(number, offset / PAGE + i as u64) {
            return Err(format!("wrong bytes of file {number} at {offset}").into());
        }
    }
    Ok(())
}

fn sequential(path: &Path, number: u64, len: u64) -> Outcome<()> {
    let file = File::open(path)?;
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    while at < len {
        let part = buffer.len().min((len - at) as usize);
        file.read_exact_at(&mut buffer[..part], at)?;
        check(&buffer[..part], at, number)?;
        at += part as u64;
    }
    Ok(())
}

fn random(path: &Path, number: u64, len: u64, seed: u64) -> Outcome<()> {
    let file = File::open(path)?;
    let mut page = vec![0; PAGE as usize];
    let mut state = seed;
    for _ in 0..5_000 {
        // Knuth's generator: any order will do.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (state >> 20) % (len / PAGE) * PAGE;
        file.read_exact_at(&mut page, at)?;
        check(&page, at, number)?;
    }
    Ok(())
}

fn open_stat_close(dir: &Path, part: u64, count: u64, files: u64) -> Outcome<()> {
    for i in 0..count {
        let path = dir.join(((part * 7919 + i) % files.max(1)).to_string());
        let file = File::open(&path)?;
        if file.metadata()?.len() != 5 {
            return Err(format!("{}: wrong length", path.display()).into());
        }
    }
    Ok(())
}
