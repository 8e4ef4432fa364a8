//! `springhouse mounts`: what is mounted on this host, and how it is.

use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use springhouse_fuse::mount::MountEntry;

use super::{block_on, columns::Columns, print};
use crate::{
    error::Failure,
    mount::find::{self, Daemon},
};

/// `springhouse mounts`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "HEALTH is `ok`; `unreachable`: the mount works, but this user may not ask its daemon; \
    `hangs`: neither answers, `kill -9 PID` frees who waits there; `dead`: the daemon is gone, `springhouse unmount DIR` clears the rest."
)]
pub struct Args {
    /// Print JSON: a list of objects
    #[arg(long)]
    json: bool,
}

/// Lists them. None is no failure.
pub fn run(args: Args) -> Result<(), Failure> {
    block_on(async move {
        let entries = find::list().map_err(|error| Failure::mount(&error))?;
        let asked = join_all(entries.iter().map(find::ask)).await;
        let mounts: Vec<_> = entries.iter().zip(&asked).collect();
        if args.json {
            let all: Vec<_> = mounts.iter().map(|(entry, daemon)| as_json(entry, daemon)).collect();
            return print(&format!("{:#}\n", serde_json::Value::from(all)));
        }
        if mounts.is_empty() {
            return print("no mounts; start one with: springhouse mount URL DIR\n");
        }
        let mut table = Columns::new(["DIR", "STORE", "HEALTH", "#PID", "#UP", "#HITS", "#MEMORY"]);
        for (entry, daemon) in mounts {
            table.row(as_row(entry, daemon));
        }
        print(&table.text())
    })
}

fn health(daemon: &Daemon) -> &'static str {
    match daemon {
        Daemon::Answers(_) => "ok",
        Daemon::Unreachable => "unreachable",
        Daemon::Hangs(_) => "hangs",
        Daemon::Dead => "dead",
    }
}

/// Of a daemon that hangs as well: it is what has to be killed.
fn pid(daemon: &Daemon) -> Option<u32> {
    match daemon {
        Daemon::Answers(stats) => Some(stats.pid),
        Daemon::Hangs(pid) => *pid,
        Daemon::Unreachable | Daemon::Dead => None,
    }
}

fn as_json(entry: &MountEntry, daemon: &Daemon) -> serde_json::Value {
    let stats = match daemon {
        Daemon::Answers(stats) => Some(stats),
        _ => None,
    };
    json!({
        "dir": entry.dir.to_string_lossy(),
        "url": entry.source,
        "health": health(daemon),
        "pid": pid(daemon),
        "version": stats.map(|stats| &stats.version),
        "uptime_seconds": stats.map(|stats| stats.uptime_seconds),
        "hit_ratio": stats.and_then(|stats| stats.hit_ratio()),
        "memory_resident_bytes": stats.map(|stats| stats.memory_resident_bytes),
        "memory_bytes_max": stats.map(|stats| stats.memory_bytes_max),
    })
}

fn as_row(entry: &MountEntry, daemon: &Daemon) -> [String; 7] {
    let (dir, source, health) =
        (entry.dir.display().to_string(), entry.source.clone(), health(daemon).to_owned());
    match daemon {
        Daemon::Answers(stats) => [
            dir,
            source,
            health,
            stats.pid.to_string(),
            up(stats.uptime_seconds),
            stats.hit_ratio().map_or_else(|| "-".into(), percent),
            format!("{} of {}", size(stats.memory_resident_bytes), size(stats.memory_bytes_max)),
        ],
        _ => {
            let pid = pid(daemon).map_or_else(|| "-".into(), |pid| pid.to_string());
            [dir, source, health, pid, "-".into(), "-".into(), "-".into()]
        }
    }
}

/// Two units are enough: `3days 4h`.
fn up(seconds: f64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds as u64)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

pub(super) fn percent(ratio: f64) -> String {
    format!("{:.1} %", ratio * 100.0)
}

/// With one digit after the point and binary units: `12.5 MiB`.
pub(super) fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_for_people() {
        assert_eq!(up(0.4), "0s");
        assert_eq!(up(3.0 * 86_400.0 + 4.0 * 3600.0 + 59.0), "3days 4h");
        assert_eq!(percent(0.7149), "71.5 %");
        assert_eq!(size(512 << 20), "512.0 MiB");
    }
}
