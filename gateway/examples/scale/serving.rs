//! A gateway that serves: what a start, lookups, passes, heartbeats and manifests cost.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use springhouse_gateway::{
    Gateway,
    api::{
        client::{GatewayClient, Registrar},
        hot::{Assignment, CopyState, HotReport, HotSegment, Manifest},
        types::{DiscoveryReport, LeaseRequest, Tier},
    },
    registry::{catalog::Lookup, state::State},
    segment::SegmentId,
    store::SegmentStore,
};
use tokio::net::TcpListener;

use super::{
    COPIES, Outcome, RAISED_EVERY, WORKERS,
    figures::{Figures, seconds},
    settings,
    world::{World, mixed},
};

const EPOCH: u64 = 1;
const LOOKUPS: usize = 1_000_000;
const CHANGED: u64 = 10_000;
const CHANGED_DIRECTORIES: u64 = 300;

/// Name of a worker.
pub fn worker(n: u64) -> String {
    format!("hot-{n:03}")
}

/// Everything that a gateway with a full registry does.
pub async fn serve(world: Arc<World>, home: &Path) -> Outcome<Figures> {
    let mut figures = Figures::default();
    let begun = Instant::now();
    let gateway = Gateway::start(settings(home), world.clone()).await?;
    figures.add("ready after a stop", seconds(begun.elapsed()));
    figures.memory("after a start");
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let client = GatewayClient::new(&format!("http://{}", listener.local_addr()?), None)?;
    let server = gateway.clone();
    tokio::spawn(async move { server.serve(listener, std::future::pending()).await });
    // The pass of the start.
    while client.discovery().await?.last.is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let state = gateway.state();
    figures.percentiles("lookup, present", lookups(&state, &present(&world)?));
    figures.percentiles("lookup, absent", lookups(&state, &absent(&world)?));
    workers(&gateway, &world, &mut figures).await?;
    passes(&world, &client, &state, &mut figures).await?;
    over_http(&world, &client, &mut figures).await?;
    figures.memory("when all is done");
    Ok(figures)
}

fn present(world: &World) -> Outcome<Vec<SegmentId>> {
    let ids = (0..LOOKUPS as u64).map(|n| SegmentId::parse(&world.id(mixed(n) % world.numbered())));
    Ok(ids.collect::<Result<_, _>>()?)
}

fn absent(world: &World) -> Outcome<Vec<SegmentId>> {
    let strange = |n: u64| match n % 3 {
        // In a directory that there is, in one that there is not, and a name.
        0 => format!("{}x", &world.id(mixed(n) % world.numbered())[..8]),
        1 => format!("9{:09}", mixed(n) % world.numbered()),
        _ => format!("www.{n}.example.com"),
    };
    let ids = (0..LOOKUPS as u64).map(|n| SegmentId::parse(&strange(n)));
    Ok(ids.collect::<Result<_, _>>()?)
}

/// Time of each lookup, in ns.
fn lookups(state: &State, ids: &[SegmentId]) -> Vec<u64> {
    ids.iter().map(|id| lookup(state, id)).collect()
}

fn lookup(state: &State, id: &SegmentId) -> u64 {
    let begun = Instant::now();
    let found = std::hint::black_box(state.catalog().lookup(id));
    let took = begun.elapsed();
    if matches!(found, Lookup::Ambiguous(_)) {
        println!("{id} is ambiguous");
    }
    took.as_nanos() as u64
}

/// Passes of discovery, with lookups meanwhile.
async fn passes(
    world: &World,
    client: &GatewayClient,
    state: &Arc<State>,
    figures: &mut Figures,
) -> Outcome<()> {
    let said = |report: &DiscoveryReport, listings: u64| {
        let changed = report.segments_changed;
        format!("{listings} listings, {changed} changed, {:.2} s", report.took_ms as f64 / 1000.0)
    };
    world.take_listings();
    let report = client.discover(false).await?;
    figures.add("pass, nothing changed", said(&report, world.take_listings()));
    for n in 0..CHANGED_DIRECTORIES {
        let extra = u64::from(n < CHANGED % CHANGED_DIRECTORIES);
        world.replace(n * 3 + 1, CHANGED / CHANGED_DIRECTORIES + extra);
    }
    let times = while_looking(state, &present(world)?, async {
        let report = client.discover(false).await?;
        figures.add(
            format!("pass, {CHANGED} changed in {CHANGED_DIRECTORIES} directories"),
            said(&report, world.take_listings()),
        );
        Ok(())
    })
    .await?;
    figures.percentiles("lookup during that pass", times);
    // Those that just changed are looked at again until they are quiet.
    let report = client.discover(false).await?;
    figures.add("the pass after it", said(&report, world.take_listings()));
    let times = while_looking(state, &present(world)?, async {
        let report = client.discover(true).await?;
        figures.add("full pass", said(&report, world.take_listings()));
        Ok(())
    })
    .await?;
    figures.percentiles("lookup during the full pass", times);
    Ok(())
}

/// Times of lookups from a thread of its own as long as `work` lasts.
async fn while_looking(
    state: &Arc<State>,
    ids: &[SegmentId],
    work: impl Future<Output = Outcome<()>>,
) -> Outcome<Vec<u64>> {
    let (state, ids, stop) = (state.clone(), ids.to_vec(), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let looking = std::thread::spawn(move || {
        let mut times = Vec::new();
        for id in ids.iter().cycle() {
            if stopped.load(Ordering::Relaxed) || times.len() >= 20 * LOOKUPS {
                break;
            }
            times.push(lookup(&state, id));
        }
        times
    });
    let outcome = work.await;
    stop.store(true, Ordering::Relaxed);
    let times = looking.join().map_err(|_| "the thread that looks ended badly")?;
    outcome.map(|()| times)
}

/// Leases, assignments and manifests of 200 workers.
async fn workers(gateway: &Gateway, world: &World, figures: &mut Figures) -> Outcome<()> {
    let registrar = gateway.registrar();
    let raised = world.numbered().div_ceil(RAISED_EVERY);
    let copies = raised * u64::from(COPIES);
    // Three quarters full.
    let quota = copies * (25 << 20) * 4 / 3 / WORKERS;
    let lease = |n: u64| LeaseRequest {
        epoch: EPOCH,
        url: format!("http://10.0.{}.{}:6120", n / 250, n % 250),
        tier: Tier::Hot,
        store: world.url(),
        weight: 100,
        access: "direct".into(),
        version: "1".into(),
        queries_running: 0,
        hot: Some(HotReport { quota_bytes: quota, ..HotReport::default() }),
    };
    for n in 0..WORKERS {
        registrar.renew(&worker(n), &lease(n)).await?;
    }
    // The gateway places them in a turn of its own.
    let assigned = assignments(&*registrar, copies).await?;
    figures.add("hot workers / copies on them", format!("{WORKERS} / {copies}"));
    let mut digests = Vec::new();
    let begun = Instant::now();
    for (n, assignment) in (0..).zip(&assigned) {
        let segments: Vec<HotSegment> =
            assignment.hold.iter().map(|held| copy(&held.id, &held.generation)).collect();
        let digest = segments.iter().fold(0u64, |sum, segment| sum.wrapping_add(segment.digest()));
        let whole = Manifest { epoch: EPOCH, version: 1, base: None, segments, digest };
        if registrar.manifest(&worker(n), &whole).await?.send_all {
            return Err("a manifest was not understood".into());
        }
        digests.push(digest);
    }
    figures.add("whole manifests of all of them", seconds(begun.elapsed()));

    let mut times = Vec::new();
    for turn in 0..100 * WORKERS {
        let begun = Instant::now();
        registrar.renew(&worker(turn % WORKERS), &lease(turn % WORKERS)).await?;
        times.push(begun.elapsed().as_nanos() as u64);
    }
    figures.percentiles("heartbeat of a hot worker", times);
    let mut times = Vec::new();
    for turn in 0..20 * WORKERS {
        let n = turn % WORKERS;
        let (held, round) = (&assigned[n as usize].hold, turn / WORKERS);
        let Some(held) = held.get(round as usize) else { continue };
        let mut changed = copy(&held.id, &held.generation);
        digests[n as usize] = digests[n as usize].wrapping_sub(changed.digest());
        changed.state = CopyState::Stale;
        digests[n as usize] = digests[n as usize].wrapping_add(changed.digest());
        let (base, version, digest) = (Some(round + 1), round + 2, digests[n as usize]);
        let manifest = Manifest { epoch: EPOCH, version, base, segments: vec![changed], digest };
        let begun = Instant::now();
        if registrar.manifest(&worker(n), &manifest).await?.send_all {
            return Err("a change of a manifest was not understood".into());
        }
        times.push(begun.elapsed().as_nanos() as u64);
    }
    figures.percentiles("manifest with one change", times);
    let mut times = Vec::new();
    for turn in 0..20 * WORKERS {
        let n = turn % WORKERS;
        let begun = Instant::now();
        registrar.assignment(&worker(n), EPOCH, Some(assigned[n as usize].version)).await?;
        times.push(begun.elapsed().as_nanos() as u64);
    }
    figures.percentiles("assignment, nothing new", times);
    Ok(())
}

/// What each worker is to hold, once everything is placed.
async fn assignments(registrar: &dyn Registrar, copies: u64) -> Outcome<Vec<Assignment>> {
    loop {
        let mut all = Vec::new();
        for n in 0..WORKERS {
            all.push(registrar.assignment(&worker(n), EPOCH, None).await?);
        }
        if all.iter().map(|assignment| assignment.hold.len() as u64).sum::<u64>() == copies {
            return Ok(all);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn copy(id: &str, generation: &str) -> HotSegment {
    HotSegment {
        id: id.to_owned(),
        state: CopyState::Available,
        reason: None,
        generation: Some(generation.to_owned()),
        size: 1 << 20,
        fetched: 1 << 20,
        checksum: None,
        token: None,
        change: 0,
        promoted_change: 0,
        shipped_change: None,
    }
}

/// `GET /v1/segments/{id}`, one after the other on one connection.
async fn over_http(world: &World, client: &GatewayClient, figures: &mut Figures) -> Outcome<()> {
    let mut times = Vec::new();
    for id in present(world)?.iter().take(5_000) {
        let begun = Instant::now();
        client.segment(id).await?;
        times.push(begun.elapsed().as_nanos() as u64);
    }
    figures.percentiles("GET /v1/segments/{id}", times);
    Ok(())
}
