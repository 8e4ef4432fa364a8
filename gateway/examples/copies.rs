//! Figures for hot copies: `cargo run --release -p springhouse-gateway --example copies [SEGMENTS] [WORKERS]`.
//!
//! Raises segments on workers and prints what placing all of them costs, what one more worker moves, and
//! what a heartbeat, a manifest's change and a look at a segment's copies cost meanwhile.

#![allow(clippy::print_stdout)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use springhouse_gateway::{
    api::hot::{CopyState, HotReport, HotSegment, Manifest},
    copies::{Copies, CopyRules, HotWorker},
    registry::{
        Meta, RegistryError,
        ledger::{Entry, Raise},
        packed::{Facts, Packed},
        rows::DirState,
        sled::SledRegistry,
        state::{Amendment, Change, State},
    },
    rules::Rules,
    segment::SegmentId,
    store::Generation,
};

const SIZE: u64 = 1 << 20;
const COPIES: u32 = 2;

fn id(n: usize) -> Result<SegmentId, Box<dyn std::error::Error>> {
    Ok(SegmentId::parse(&format!("{n:09}"))?)
}

fn worker(n: usize, quota_bytes: u64) -> HotWorker {
    let report = HotReport { quota_bytes, ..HotReport::default() };
    HotWorker { name: format!("hot-{n:04}").into(), epoch: 1, report }
}

fn open(segments: usize, home: &std::path::Path) -> Result<State, Box<dyn std::error::Error>> {
    let meta = || Meta::new("0".repeat(32));
    let state = State::open(Box::new(SledRegistry::open(home, 64 << 20)?), meta)?;
    let facts = Facts { generation: Generation([7; 16]), size: SIZE, mtime_ms: 0 };
    for first in (0..segments).step_by(1000) {
        let numbers = first..segments.min(first + 1000);
        let packed = numbers.clone().map(|n| (format!("{n:09}"), facts)).collect();
        let listed = Change::Listed {
            path: id(first)?.canonical_dir().into(),
            state: DirState::default(),
            segments: Packed::from_unsorted(packed),
        };
        let raised: Result<Vec<Entry>, Box<dyn std::error::Error>> =
            numbers.map(|n| Ok(Entry::Raise(id(n)?, Some(Raise::by_hand(COPIES, 0))))).collect();
        let amendment = Amendment { entries: raised?, changes: vec![listed], answer: () };
        state.amend(|_, _| Ok::<_, RegistryError>(amendment))?;
    }
    Ok(state)
}

/// Time of one call, in microseconds, over many.
fn each_us(calls: u32, mut call: impl FnMut(u32)) -> f64 {
    let begun = Instant::now();
    for n in 0..calls {
        call(n);
    }
    begun.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = |n, default| std::env::args().nth(n).map_or(Ok(default), |text| text.parse::<usize>());
    let (segments, workers) = (argument(1, 100_000)?, argument(2, 200)?);
    let home = tempfile::tempdir()?;
    let state = Arc::new(open(segments, home.path())?);
    let rules = CopyRules {
        rules: Arc::new(Rules::new(Vec::new(), 1, COPIES).map_err(|_| "no rules are good rules")?),
        grace: Duration::from_secs(60),
        clock: Arc::new(|| 0),
    };
    let copies = Copies::new(state, rules);
    // 70 % full.
    let quota = segments as u64 * SIZE * u64::from(COPIES) * 10 / 7 / workers as u64;
    let mut live: Vec<HotWorker> = (0..workers).map(|n| worker(n, quota)).collect();

    let begun = Instant::now();
    copies.refresh(|| (live.clone(), Instant::now()));
    println!("{segments} segments x {COPIES} copies on {workers} workers: placed in {:.2?}", begun.elapsed());
    live.push(worker(workers, quota));
    let begun = Instant::now();
    copies.refresh(|| (live.clone(), Instant::now()));
    let moved = copies.assigned_count(&live[workers].name);
    let ideal = segments as f64 * f64::from(COPIES) / (workers + 1) as f64;
    println!("one more worker: {:.2?}, {moved} copies go there, {ideal:.0} is its share", begun.elapsed());

    let name = live[0].name.clone();
    println!("heartbeat: {:.2} us", each_us(100_000, |_| _ = copies.beat(&name, 1)));
    let entry = |n: u32| HotSegment {
        id: format!("{n:09}"),
        state: CopyState::Available,
        reason: None,
        generation: Some(Generation([7; 16]).to_string()),
        size: SIZE,
        fetched: SIZE,
        checksum: None,
        token: None,
        change: 0,
        promoted_change: 0,
        shipped_change: None,
    };
    let (mut version, mut digest) = (0, 0u64);
    let delta = each_us(20_000, |n| {
        let segment = entry(n);
        digest = digest.wrapping_add(segment.digest());
        let base = (version > 0).then_some(version);
        version += 1;
        let manifest = Manifest { epoch: 1, version, base, segments: vec![segment], digest };
        if copies.publish(&name, &manifest).is_ok_and(|answer| answer.send_all) {
            println!("a manifest was not understood");
        }
    });
    println!("manifest with one change: {delta:.2} us");
    let asked = id(1)?;
    println!("copies of a segment: {:.2} us", each_us(100_000, |_| drop(copies.holders(&asked))));
    Ok(())
}
