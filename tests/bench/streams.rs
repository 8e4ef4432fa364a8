//! Large files: several readers at once, and a copy in that replaces a file.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    Size,
    harness::{hdfs::Hdfs, process, scratch},
    report,
    sequential::{hdfs_raw_write, write},
    sides::{Place, Side, Tree},
};

/// What is done in a place.
type Case<'a> = &'a dyn Fn(&Place);

const READERS: u64 = 4;
/// A side that needed so long already is not asked again: no figure of it decides anything.
const SIDE_MAX: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(300);

pub fn run(hdfs: &Arc<Hdfs>, size: &Size) {
    let local = scratch();
    write(&local.path().join("large"), size.sequential_bytes);
    write(&local.path().join("in"), size.sequential_bytes / 4);
    let dir = hdfs.dir("streams");
    dir.put_file("large", &local.path().join("large"), Some(128 << 20));
    let tree = Tree { local, dir };
    let sides = Side::all();
    report::section(
        &format!("Streams of {} MiB", size.sequential_bytes >> 20),
        &["", "local disk", "ours", "rclone", "raw hdfs-native", "ours / raw"],
    );
    let input = tree.local.path().join("in");
    let rows: [(&str, Case<'_>); 2] = [
        ("4 readers of one file, cold", &|place| readers(&place.file("large"), size.sequential_bytes)),
        ("copy in a quarter of it, rename over an existing file", &|place| copy_in(&input, place)),
    ];
    for (name, case) in rows {
        let writes = name.starts_with("copy");
        let mut times = vec![Vec::new(); sides.len()];
        let mut raw = Vec::new();
        let mut memory = 0;
        for _ in 0..size.rounds.min(5) {
            for (side, times) in sides.iter().zip(&mut times) {
                if times.iter().sum::<Duration>() > SIDE_MAX {
                    continue;
                }
                let mut place = Place::new(*side, &tree, &[]);
                if writes {
                    fs::write(place.file("target"), "old").expect("a file to replace");
                }
                let started = Instant::now();
                case(&place);
                times.push(started.elapsed());
                if writes {
                    check(&input, &place.file("target"));
                }
                if *side == Side::Ours {
                    memory = memory.max(place.memory().unwrap_or(0));
                }
            }
            if writes {
                raw.push(hdfs_raw_write(&format!("{}/raw", tree.dir.url()), &input));
            }
        }
        let text = |side: Side| {
            let at = sides.iter().position(|s| *s == side);
            at.map_or(String::new(), |at| report::time(report::median(&times[at])))
        };
        let ours = report::median(&times[1]);
        let (raw_text, ratio) = if raw.is_empty() {
            (String::new(), String::new())
        } else {
            let raw = report::median(&raw);
            (report::time(raw), report::ratio(raw, ours))
        };
        let name = format!("{name} ({} MB resident)", memory / 1_000_000);
        report::row(&[name, text(Side::Local), text(Side::Ours), text(Side::Rclone), raw_text, ratio]);
    }
    report::end();
}

fn readers(path: &Path, len: u64) {
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(move || {
                let mut file = File::open(path).expect("it opens");
                let mut sink = std::io::sink();
                assert_eq!(std::io::copy(&mut file, &mut sink).expect("it reads"), len);
            });
        }
    });
}

fn copy_in(input: &Path, place: &Place) {
    let mut command = Command::new("sh");
    command
        .args(["-c", "cp \"$IN\" \"$OUT.new\" && mv -f \"$OUT.new\" \"$OUT\""])
        .env("IN", input)
        .env("OUT", place.file("target"));
    let output = process::run(command, LIMIT);
    assert!(output.success(), "{output:?}");
}

fn check(input: &Path, output: &Path) {
    let mut command = Command::new("cmp");
    command.arg(input).arg(output);
    let compared = process::run(command, LIMIT);
    assert!(compared.success(), "right bytes: {compared:?}");
}
