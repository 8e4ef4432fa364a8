//! `springhouse cache advise`: what another size of the cache would do.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use springhouse_fuse::{
    cache::{Advice, AdvicePoint, TierAdvice},
    memory::{enough, room},
};

use super::{
    super::{columns::Columns, mounts::size, print},
    daemon_of,
};
use crate::{
    error::{Exit, Failure},
    mount::api::Settings,
};

/// `springhouse cache advise`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Reads that the kernel's page cache answers are not seen by the daemon: the same \
    lookups again may cost nothing, whatever this says. What is counted is what came through since the start.")]
pub(super) struct Args {
    /// The mount point, or a path in it
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Fewer blocks than these say little about the next ones.
const REFERENCES_MIN: u64 = 1000;

/// Widest bar, in characters.
const BAR: usize = 40;

/// One more point of the hit ratio is worth a line: less than this is the same size's luck.
const GAIN_MIN: f64 = 0.01;

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let (entry, client, _) = daemon_of(&args.path).await?;
    let advice = client.advise().await?;
    if args.json {
        let text =
            serde_json::to_string_pretty(&advice).map_err(|error| Failure::new(Exit::Internal, error))?;
        return print(&format!("{text}\n"));
    }
    print(&text(&advice, &entry.dir, &client.settings().await?))
}

fn text(advice: &Advice, dir: &Path, now: &Settings) -> String {
    let below = if advice.disk.is_some() { "disk" } else { "store" };
    let mut text = tier("RAM", "memory_blocks", below, &advice.ram, dir, now);
    if let Some(disk) = &advice.disk {
        text.push('\n');
        text.push_str(&tier("Disk", "cache_size", "store", disk, dir, now));
    }
    text.push_str("\nReads that the kernel's page cache answers are not among these: see --help.\n");
    text
}

fn tier(name: &str, key: &str, below: &str, tier: &TierAdvice, dir: &Path, now: &Settings) -> String {
    if tier.references == 0 {
        return format!("{name} {} now: nothing was read through it yet\n", size(tier.bytes_now));
    }
    let mut text = format!("{}\n", sentence(name, below, tier));
    if tier.references < REFERENCES_MIN {
        text.push_str(&format!(
            "Only {} blocks were read so far: ask again when there were more.\n",
            tier.references
        ));
    }
    text.push('\n');
    let mut table = Columns::new(["", "#SIZE", "#HITS", "", "#READS SAVED A MINUTE"]);
    for point in &tier.points {
        let now = point.bytes == tier.bytes_now;
        if !now && round(point.bytes) == round(tier.bytes_now) {
            continue;
        }
        table.row([
            if now { "now" } else { "" }.into(),
            size(point.bytes),
            percent(point.hit_ratio),
            bar(point.hit_ratio),
            if now { "-".into() } else { thousands(point.saved_reads_per_minute) },
        ]);
    }
    text.push_str(&table.text());
    if let Some(point) = worth(tier) {
        let memory = if key == "memory_blocks" { memory_for(point.bytes, now) } else { None };
        let memory = memory.map_or_else(String::new, |bytes| format!(" memory={}", setting(bytes)));
        text.push_str(&format!(
            "\nTo try it: springhouse cache set {} {key}={}{memory}\n",
            dir.display(),
            setting(point.bytes)
        ));
    }
    text
}

/// The bound that has room for so many bytes of blocks beside the other parts, if the present one has not.
fn memory_for(blocks: u64, now: &Settings) -> Option<u64> {
    let bytes = |key: &str| Some(now.get(key)?.parse::<ByteSize>().ok()?.as_u64());
    let wished = blocks.checked_add(bytes("memory_readahead")?)?.checked_add(bytes("memory_pins")?)?;
    let memory = bytes("memory")?;
    if room(memory).is_ok_and(|room| wished <= room) { None } else { enough(wished) }
}

/// As a setting is written: `1GiB`, and to the byte where it is not round.
fn setting(bytes: u64) -> String {
    let round = size(bytes).replace(' ', "").replace(".0", "");
    if round.parse::<ByteSize>().is_ok_and(|parsed| parsed.as_u64() == bytes) {
        round
    } else {
        bytes.to_string()
    }
}

/// `RAM 512 MiB now: 71 % hits; 1 GiB: 89 %, saves 1,240 store reads a minute; 2 GiB: 90 %`
fn sentence(name: &str, below: &str, tier: &TierAdvice) -> String {
    let mut text = format!("{name} {} now: {} hits", round(tier.bytes_now), percent(tier.hit_ratio_now));
    let mut last = tier.hit_ratio_now;
    for point in tier.points.iter().filter(|point| point.bytes > tier.bytes_now).take(2) {
        text.push_str(&format!("; {}: {}", round(point.bytes), percent(point.hit_ratio)));
        if point.hit_ratio - last >= GAIN_MIN {
            text.push_str(&format!(
                ", saves {} {below} reads a minute",
                thousands(point.saved_reads_per_minute)
            ));
        }
        last = point.hit_ratio;
    }
    text
}

/// The smallest larger size behind which nothing more is to gain, if it gains anything.
fn worth(tier: &TierAdvice) -> Option<&AdvicePoint> {
    let best = tier.points.iter().map(|point| point.hit_ratio).fold(0.0, f64::max);
    let point = tier.points.iter().find(|point| point.hit_ratio > best - GAIN_MIN)?;
    (point.bytes > tier.bytes_now && point.hit_ratio - tier.hit_ratio_now >= GAIN_MIN).then_some(point)
}

fn percent(ratio: f64) -> String {
    format!("{:.0} %", ratio * 100.0)
}

/// `512 MiB`, but `1.5 GiB`.
fn round(bytes: u64) -> String {
    size(bytes).replace(".0 ", " ")
}

/// Eighths of a character, so that small differences show.
fn bar(ratio: f64) -> String {
    const PARTS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = (ratio.clamp(0.0, 1.0) * (BAR * 8) as f64).round() as usize;
    let mut text = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        text.push(PARTS[eighths % 8]);
    }
    text
}

/// `1,240`
fn thousands(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number <= -0.5 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(ratios: &[(u64, f64)], now: u64, references: u64) -> TierAdvice {
        let hit_ratio_now = ratios.iter().find(|(mib, _)| *mib == now).expect("now is among them").1;
        let points = ratios.iter().map(|&(mib, hit_ratio)| AdvicePoint {
            bytes: mib << 20,
            hit_ratio,
            saved_reads_per_minute: (hit_ratio - hit_ratio_now) * 6889.0,
        });
        TierAdvice {
            bytes_now: now << 20,
            hit_ratio_now,
            references,
            references_per_minute: 6889.0,
            points: points.collect(),
        }
    }

    #[test]
    fn the_sentence_of_the_operator() {
        let ram = advice(&[(256, 0.40), (512, 0.71), (1024, 0.89), (2048, 0.895)], 512, 100_000);
        assert_eq!(
            sentence("RAM", "store", &ram),
            "RAM 512 MiB now: 71 % hits; 1 GiB: 89 %, saves 1,240 store reads a minute; 2 GiB: 90 %"
        );
        let now = |memory: &str| {
            let parts = [("memory", memory), ("memory_readahead", "64MiB"), ("memory_pins", "32MiB")];
            parts.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
        };
        let text = tier("RAM", "memory_blocks", "store", &ram, Path::new("/m"), &now("4GiB"));
        assert!(text.contains("cache set /m memory_blocks=1GiB\n"), "{text}");
        let tight = tier("RAM", "memory_blocks", "store", &ram, Path::new("/m"), &now("800MiB"));
        assert!(tight.contains("cache set /m memory_blocks=1GiB memory=1"), "{tight}");
        assert!(text.contains("now  512.0 MiB  71 %  ████████████████████████████▍"), "{text}");
        assert!(text.contains("-2,136"), "a smaller one costs: {text}");
    }

    #[test]
    fn no_advice_without_reads_or_gain() {
        let none = advice(&[(512, 0.0)], 512, 0);
        assert_eq!(
            tier("RAM", "memory_blocks", "store", &none, Path::new("/m"), &Settings::new()),
            "RAM 512.0 MiB now: nothing was read through it yet\n"
        );
        let few = advice(&[(512, 0.5), (1024, 0.502)], 512, 12);
        let text = tier("RAM", "memory_blocks", "store", &few, Path::new("/m"), &Settings::new());
        assert!(text.contains("Only 12 blocks"), "{text}");
        assert!(!text.contains("To try it"), "{text}");
    }

    #[test]
    fn bars_and_thousands() {
        assert_eq!(bar(0.0), "");
        assert_eq!(bar(2.0), "█".repeat(BAR));
        assert_eq!(bar(1.0 / 320.0), "▏");
        assert_eq!(thousands(1_234_567.4), "1,234,567");
        assert_eq!((thousands(-0.2), thousands(999.0)), ("0".into(), "999".into()));
    }
}
