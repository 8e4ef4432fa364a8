//! Queries through the gateway against the same query in this process, both on a mount.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    Size,
    harness::{cluster::Serve, http::query_path, mount::Mount, segments},
    keep_alive::{KeepAlive, find},
    lookups::{self, ID, SQL, Segment},
    report,
};

const CONNECTIONS: [usize; 3] = [1, 8, 64];

pub fn run(segment: &Segment, size: &Size) {
    let serve = Serve::with(&segment.url(), &["--log", "warn"]);
    let mount = Mount::of(&segment.url());
    let mounted = mount.file(segments::relative_path(ID));
    let db = lookups::open(&mounted);
    let mut client = Client::to(serve.api().address());
    // Warm: both have read all they will be asked.
    for n in 0..size.lookups {
        lookups::lookups(&db, segment, n..n + 1);
        client.ask(segment, n);
    }

    let before = segment.hdfs().counters();
    let (mut inside, mut through) = (Vec::new(), Vec::new());
    for n in 0..size.lookups {
        let started = Instant::now();
        lookups::lookups(&db, segment, n..n + 1);
        inside.push(started.elapsed());
        let started = Instant::now();
        client.ask(segment, n);
        through.push(started.elapsed());
    }
    let [reads, bytes] = report::cost(segment.hdfs().counters() - before);
    report::section(
        "One query, warm, keep-alive",
        &["", "p50", "p99", "added p50 (target 150 us)", "HDFS reads", "HDFS bytes"],
    );
    let p50 = [report::median(&inside), report::median(&through)];
    let added = report::time(p50[1].saturating_sub(p50[0]));
    let p99 = [&inside, &through].map(|times| report::time(report::percentile(times, 99)));
    report::row(&["SQLite in this process", &report::time(p50[0]), &p99[0], "", "", ""]);
    report::row(&["through the gateway", &report::time(p50[1]), &p99[1], &added, &reads, &bytes]);
    report::end();

    report::section(
        "Requests per second",
        &["connections", "requests/s", "p50", "p99", "HDFS reads", "HDFS bytes"],
    );
    for connections in CONNECTIONS {
        load(segment, size, serve.api().address(), connections);
    }
    report::end();
}

fn load(segment: &Segment, size: &Size, address: &str, connections: usize) {
    let before = segment.hdfs().counters();
    let end = Instant::now() + Duration::from_millis(size.load_ms);
    let started = Instant::now();
    let times: Vec<Duration> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..connections as u64)
            .map(|first| {
                scope.spawn(move || {
                    let mut client = Client::to(address);
                    let mut times = Vec::new();
                    for n in (first * 31..).map(|n| n % size.lookups) {
                        let asked = Instant::now();
                        if asked >= end {
                            break;
                        }
                        client.ask(segment, n);
                        times.push(asked.elapsed());
                    }
                    times
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    });
    let rate = times.len() as f64 / started.elapsed().as_secs_f64();
    let [reads, bytes] = report::cost(segment.hdfs().counters() - before);
    let p = |percent| report::time(report::percentile(&times, percent));
    report::row(&[connections.to_string(), format!("{rate:.0}"), p(50), p(99), reads, bytes]);
}

struct Client(KeepAlive);

impl Client {
    fn to(address: &str) -> Self {
        Self(KeepAlive::to(address))
    }

    /// Looks row `n` up and checks the answer.
    fn ask(&mut self, segment: &Segment, n: u64) {
        let wanted = segment.wanted(n);
        let body = json!({ "sql": SQL, "params": [wanted.digest_key] }).to_string();
        let request = self.0.request(&query_path(ID), &body);
        let answer = self.0.ask(&request);
        let right = find(answer, wanted.url.as_bytes()).is_some();
        assert!(right, "{}", String::from_utf8_lossy(answer));
    }
}
