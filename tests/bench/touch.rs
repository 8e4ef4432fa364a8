//! First and later touches of segments: SQLite on our mount, on rclone's and on the local disk.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, params};

use crate::{
    Size,
    harness::{
        hdfs::{Counters, Hdfs},
        process, scratch,
        segments::{Dedup, mix},
    },
    lookups::open,
    report,
    sides::{Place, Side, Tree},
};

const SEED: u64 = 23;
const HDFS_BLOCK_BYTES: u64 = 128 << 20;
/// Rows that share a value of the secondary index, on average.
const ROWS_PER_DAY: u64 = 600;
const SMALL_SEGMENTS: u64 = 200;
const SMALL_ROWS: u64 = 300;
const PROCESSES: u64 = 8;
const LOOKUPS_EACH: u64 = 100;
const AGAIN: u64 = 2_000;
const LIMIT: Duration = Duration::from_secs(300);

/// Files of all cases.
pub struct Files {
    pub tree: Tree,
    pub rows: u64,
    scanned_rows: u64,
}

impl Files {
    pub fn make(hdfs: &Arc<Hdfs>, size: &Size) -> Self {
        let local = scratch();
        let rows = size.rows * 3 / 4;
        table(&local.path().join("dedup.sqlite"), rows);
        let scanned_rows = rows / 5;
        scanned(&local.path().join("scan.sqlite"), scanned_rows);
        fs::create_dir(local.path().join("small")).expect("a directory");
        for n in 0..SMALL_SEGMENTS {
            small(&local.path().join(format!("small/s{n:03}.sqlite")), n);
        }
        let dir = hdfs.dir("touch");
        for name in ["dedup.sqlite", "scan.sqlite"] {
            dir.put_file(name, &local.path().join(name), Some(HDFS_BLOCK_BYTES));
        }
        for n in 0..SMALL_SEGMENTS {
            let name = format!("small/s{n:03}.sqlite");
            dir.put_file(&name, &local.path().join(&name), None);
        }
        Self { tree: Tree { local, dir }, rows, scanned_rows }
    }

    fn days(&self) -> u64 {
        self.rows.div_ceil(ROWS_PER_DAY)
    }

    fn row(&self, n: u64) -> u64 {
        mix(99, n) % self.rows
    }
}

/// Keys in no order, as crawls find them; then VACUUM, as a promotion without relayout leaves it.
fn table(path: &Path, rows: u64) {
    let db = Connection::open(path).expect("a database");
    db.execute_batch(
        "pragma journal_mode = off; pragma synchronous = off; pragma cache_size = -400000; pragma page_size = 4096;
         create table dedup (digest_key text primary key, url text, date text, id text);
         begin",
    )
    .expect("a schema");
    let mut insert = db.prepare("insert into dedup values (?, ?, ?, ?)").expect("a statement");
    for i in 0..rows {
        let row = Dedup::of(SEED, i, rows);
        let url = format!("{}?{}", row.url, arguments(i));
        insert.execute(params![key(i), url, day(mix(5, i), rows), row.id]).expect("a row");
    }
    drop(insert);
    db.execute_batch("commit; create index dedup_date on dedup (date); vacuum").expect("an index");
}

/// What makes a row about 470 bytes long, as in the file that other mounts were measured with.
fn arguments(i: u64) -> String {
    (0..14).map(|n| format!("{:016x}", mix(n, i))).collect()
}

fn key(i: u64) -> String {
    format!("sha1:{:016x}{:016x}", mix(SEED, i), mix(!SEED, i))
}

fn day(n: u64, rows: u64) -> String {
    format!("day-{:05}", n % rows.div_ceil(ROWS_PER_DAY))
}

fn scanned(path: &Path, rows: u64) {
    let db = Connection::open(path).expect("a database");
    db.execute_batch(
        "pragma journal_mode = off; pragma synchronous = off; pragma page_size = 4096;
         create table page (id integer primary key, size integer, body text); begin",
    )
    .expect("a schema");
    let mut insert = db.prepare("insert into page values (?, ?, ?)").expect("a statement");
    let body = "x".repeat(650);
    for i in 0..rows {
        insert.execute(params![i as i64, (mix(SEED, i) % 1_000) as i64, body]).expect("a row");
    }
    drop(insert);
    db.execute_batch("commit; vacuum").expect("written");
}

fn small(path: &Path, n: u64) {
    let db = Connection::open(path).expect("a database");
    db.execute_batch("pragma journal_mode = off; pragma synchronous = off; create table t (a, b); begin")
        .expect("a schema");
    let mut insert = db.prepare("insert into t values (?, ?)").expect("a statement");
    for i in 0..SMALL_ROWS + n {
        insert.execute(params![i as i64, key(i)]).expect("a row");
    }
    drop(insert);
    db.execute_batch("commit").expect("written");
}

/// One thing that is measured: on a place, in a round; checks its answers.
type Case = fn(&Files, &Place, u64);

pub fn rowid(files: &Files, place: &Place, round: u64) {
    let db = open(&place.file("dedup.sqlite"));
    let row = files.row(round);
    let found: String = db
        .query_row("select digest_key from dedup where rowid = ?", [row as i64 + 1], |row| row.get(0))
        .expect("the row is there");
    assert_eq!(found, key(row));
}

pub fn text_key(files: &Files, place: &Place, round: u64) {
    lookups(files, &place.file("dedup.sqlite"), round..round + 1);
}

pub fn by_index(files: &Files, place: &Place, round: u64) {
    let db = open(&place.file("dedup.sqlite"));
    let wanted = format!("day-{:05}", mix(17, round) % files.days());
    let mut statement = db.prepare("select rowid, date, url from dedup where date = ?").expect("a statement");
    let mut rows = statement.query([&wanted]).expect("an answer");
    let mut found = 0;
    while let Some(row) = rows.next().expect("a row") {
        let (rowid, date): (i64, String) = (row.get(0).expect("a rowid"), row.get(1).expect("a date"));
        assert_eq!((day(mix(5, rowid as u64 - 1), files.rows), &date), (wanted.clone(), &wanted));
        let _: String = row.get(2).expect("a column that only the table has");
        found += 1;
    }
    assert!((ROWS_PER_DAY / 2..ROWS_PER_DAY * 2).contains(&found), "{found} rows of a day");
}

pub fn count(files: &Files, place: &Place, _: u64) {
    let db = open(&place.file("dedup.sqlite"));
    let found: i64 = db.query_row("select count(*) from dedup", [], |row| row.get(0)).expect("an answer");
    assert_eq!(found as u64, files.rows);
}

fn scan(files: &Files, place: &Place, _: u64) {
    let db = open(&place.file("scan.sqlite"));
    let found: (i64, i64) = db
        .query_row("select count(*), sum(length(body) + size * 0) from page", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .expect("an answer");
    assert_eq!((found.0 as u64, found.1 as u64), (files.scanned_rows, files.scanned_rows * 650));
}

/// Each with a connection of its own, at the same time.
fn crowd(files: &Files, place: &Place, round: u64) {
    let path = place.file("dedup.sqlite");
    thread::scope(|scope| {
        for n in 0..PROCESSES {
            let start = 10_000 + (round * PROCESSES + n) * LOOKUPS_EACH;
            let path = &path;
            scope.spawn(move || lookups(files, path, start..start + LOOKUPS_EACH));
        }
    });
}

fn again_one_connection(files: &Files, place: &Place, _: u64) {
    lookups(files, &place.file("dedup.sqlite"), 0..AGAIN);
}

fn small_segments(_: &Files, place: &Place, _: u64) {
    for n in 0..SMALL_SEGMENTS {
        let db = open(&place.file(format!("small/s{n:03}.sqlite")));
        let found: i64 = db.query_row("select count(*) from t", [], |row| row.get(0)).expect("an answer");
        assert_eq!(found as u64, SMALL_ROWS + n);
    }
}

fn list(_: &Files, place: &Place, _: u64) {
    let mut command = Command::new("sh");
    command.args(["-c", "exec ls -l \"$DIR\""]).env("DIR", place.file("small"));
    let output = process::run(command, LIMIT);
    assert_eq!(output.stdout.lines().count() as u64, SMALL_SEGMENTS + 1);
}

fn lookups(files: &Files, path: &Path, range: std::ops::Range<u64>) {
    let db = open(path);
    let mut statement = db.prepare("select rowid from dedup where digest_key = ? and url > ''").expect("SQL");
    for n in range {
        let row = files.row(n);
        let found: i64 = statement.query_row([key(row)], |row| row.get(0)).expect("the row is there");
        assert_eq!(found as u64, row + 1);
    }
}

pub fn run(files: &Files, size: &Size) {
    let sides = Side::all();
    let bytes = fs::metadata(files.tree.local.path().join("dedup.sqlite")).map_or(0, |m| m.len());
    report::section(
        &format!("SQLite on a segment of {} MB, 4 KiB pages, VACUUMed", bytes / 1_000_000),
        &["", "local disk", "ours", "rclone", "ours / local", "target", "HDFS reads", "HDFS bytes"],
    );
    let cold: [(&str, Case, &str); 8] = [
        ("first touch: by rowid", rowid, "<= 4 ms"),
        ("first touch: by TEXT key", text_key, "<= 7 ms"),
        ("first touch: 600 rows by a secondary index", by_index, "<= 150 ms"),
        ("count(*) by an index, cold", count, "<= 110 ms"),
        ("full scan of 200 MB, cold", scan, "<= 500 ms"),
        ("8 connections x 100 random lookups, cold", crowd, "<= 450 ms"),
        ("200 small segments: open and count, cold", small_segments, "<= 250 ms"),
        ("ls -l of 200, cold", list, "<= 14 ms"),
    ];
    for (name, case, target) in cold {
        measure(files, size, &sides, name, target, case, None);
    }
    let warm: [(&str, Case, &str); 2] = [
        ("2,000 lookups again, opened anew for the pass", again_one_connection, "<= 2 x local"),
        ("200 small segments again", small_segments, "<= 45 ms"),
    ];
    for (name, case, target) in warm {
        measure(files, size, &sides, name, target, case, Some(case));
    }
    report::end();
}

/// Rounds of all sides in turn, each on a place of its own; with `before` run first, untimed.
fn measure(
    files: &Files,
    size: &Size,
    sides: &[Side],
    name: &str,
    target: &str,
    case: Case,
    before: Option<Case>,
) {
    let mut times = vec![Vec::new(); sides.len()];
    let mut cost = Counters::default();
    for round in 0..size.rounds as u64 {
        for (side, times) in sides.iter().zip(&mut times) {
            let place = Place::new(*side, &files.tree, &[]);
            if let Some(before) = before {
                before(files, &place, round);
            }
            let count = (*side == Side::Ours && round == 0).then(|| files.tree.dir.hdfs().counters());
            let started = Instant::now();
            case(files, &place, round);
            times.push(started.elapsed());
            if let Some(count) = count {
                cost = files.tree.dir.hdfs().counters() - count;
            }
        }
    }
    let median = |side: Side| {
        let at = sides.iter().position(|s| *s == side)?;
        Some(report::median(&times[at]))
    };
    let text = |side| median(side).map_or(String::new(), report::time);
    let ratio = match (median(Side::Ours), median(Side::Local)) {
        (Some(ours), Some(local)) => report::ratio(ours, local),
        _ => String::new(),
    };
    let [reads, bytes] = report::cost(cost);
    report::row(&[
        name.into(),
        text(Side::Local),
        text(Side::Ours),
        text(Side::Rclone),
        ratio,
        target.into(),
        reads,
        bytes,
    ]);
}
