//! Segments to ask: the shapes that crawl statistics and deduplication have, deterministic, so that a
//! test computes the right answer without SQLite.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, params};

/// Pages of SQLite's default size.
const PAGE_BYTES: u32 = 4096;
const MIME_TYPES: [&str; 6] =
    ["text/html", "image/jpeg", "application/javascript", "text/css", "application/pdf", "application/json"];
const STATUS_CODES: [i64; 8] = [200, 200, 200, 200, 301, 304, 404, 503];
const WORDS: [&str; 12] = [
    "archive", "news", "library", "river", "cold", "house", "spring", "museum", "data", "north", "field",
    "press",
];
const SECTIONS: [&str; 5] = ["articles", "images", "assets", "reports", "feed"];
/// Hosts of one crawl.
const HOSTS: u64 = 40;
/// 2024-01-01T00:00:00Z, in s since 1970.
const CRAWL_START_S: u64 = 1_704_067_200;

/// Where segment `id` lies below a store's root: `{id without its last 3 characters}/{id}.sqlite`.
pub fn relative_path(id: &str) -> String {
    let dir = &id[..id.len().saturating_sub(3)];
    if dir.is_empty() { format!("{id}.sqlite") } else { format!("{dir}/{id}.sqlite") }
}

/// Row `i` of the crawl with `seed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrawledUrl {
    pub timestamp: String,
    pub status_code: i64,
    pub size: i64,
    pub mimetype: &'static str,
    pub url: String,
    pub via: Option<String>,
    pub hop_path: String,
    pub seed: String,
    pub host: String,
    pub is_duplicate: bool,
}

impl CrawledUrl {
    pub fn of(seed: u64, i: u64) -> Self {
        let bits = mix(seed, i);
        let host = host(seed, bits % HOSTS);
        let hops = (bits >> 8) % 5;
        let mime = ((bits >> 16) % 6) as usize;
        let section = SECTIONS[(bits >> 24) as usize % SECTIONS.len()];
        Self {
            timestamp: timestamp(CRAWL_START_S + seed % 300 * 86_400 + i * 2),
            status_code: STATUS_CODES[(bits >> 32) as usize % STATUS_CODES.len()],
            size: (bits >> 40) as i64 % 400_000 + 120,
            mimetype: MIME_TYPES[mime],
            url: format!("https://{host}/{section}/{:04}/{:010x}", 2000 + bits % 24, bits & 0xff_ffff_ffff),
            via: (hops > 0).then(|| format!("https://{host}/{section}/")),
            hop_path: "LLRXE"[..hops as usize].to_owned(),
            seed: format!("https://{}/", self::host(seed, 0)),
            host,
            is_duplicate: (bits >> 60) == 0,
        }
    }
}

/// Row `i` of a deduplication segment that holds `rows` of them; keys ascend with `i`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dedup {
    pub digest_key: String,
    pub url: String,
    pub date: String,
    pub id: String,
}

impl Dedup {
    pub fn of(seed: u64, i: u64, rows: u64) -> Self {
        let (a, b) = (mix(seed, i), mix(!seed, i));
        // Ascending keys are appended to the index, several times faster than random ones.
        let order = (u64::from(u32::MAX) / rows.max(1)) * i;
        let url = CrawledUrl::of(seed, i).url;
        Self {
            digest_key: format!("sha1:{}", base32(order as u32, a, b)),
            date: timestamp(CRAWL_START_S + i),
            id: format!(
                "<urn:uuid:{:08x}-{:04x}-{:04x}-{:04x}-{:012x}>",
                a as u32,
                a >> 48,
                (a >> 32) & 0xffff,
                b >> 48,
                b & 0xffff_ffff_ffff
            ),
            url,
        }
    }
}

/// Writes crawl statistics of `rows` URLs as segment `id` below `root`; returns the file.
pub fn crawl_statistics(root: &Path, id: &str, seed: u64, rows: u64) -> PathBuf {
    let path = root.join(relative_path(id));
    let schema = "
        create table crawled_url (
            id integer primary key, timestamp datetime not null, status_code integer not null,
            size bigint not null, mimetype varchar(100), url varchar(4000) not null, via varchar(4000),
            hop_path varchar(100), seed varchar(4000), host varchar(255) not null, is_duplicate tinyint);
        create table host_statistics (
            host varchar(255) primary key, urls integer not null, bytes bigint not null,
            duplicates integer not null, last_fetch datetime);";
    make(&path, schema, |db| {
        let mut insert = db.prepare("insert into crawled_url values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")?;
        for i in 0..rows {
            let row = CrawledUrl::of(seed, i);
            insert.execute(params![
                i as i64 + 1,
                row.timestamp,
                row.status_code,
                row.size,
                row.mimetype,
                row.url,
                row.via,
                row.hop_path,
                row.seed,
                row.host,
                row.is_duplicate
            ])?;
        }
        db.execute_batch(
            "insert into host_statistics
                 select host, count(*), sum(size), sum(is_duplicate), max(timestamp)
                 from crawled_url group by host order by host;
             create index crawled_url_host on crawled_url (host, status_code);
             create index crawled_url_url on crawled_url (url);",
        )
    });
    path
}

/// Writes a deduplication segment of `rows` digests, about 250 bytes each; returns the file.
pub fn dedup(root: &Path, id: &str, seed: u64, rows: u64) -> PathBuf {
    let path = root.join(relative_path(id));
    let schema = "create table dedup (digest_key text primary key, url text, date text, id text);";
    make(&path, schema, |db| {
        let mut insert = db.prepare("insert into dedup values (?, ?, ?, ?)")?;
        for i in 0..rows {
            let row = Dedup::of(seed, i, rows);
            insert.execute(params![row.digest_key, row.url, row.date, row.id])?;
        }
        Ok(())
    });
    path
}

/// Writes a segment by SQL alone; for what no generator makes.
pub fn from_sql(root: &Path, id: &str, sql: &str) -> PathBuf {
    let path = root.join(relative_path(id));
    make(&path, sql, |_| Ok(()));
    path
}

/// Every file below a directory, by name.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|e| e.expect("an entry").path())
        .collect();
    entries.sort();
    entries.into_iter().flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// Every segment below a directory, by name.
pub fn segments_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = files_below(dir);
    files.retain(|path| path.extension().is_some_and(|e| e == "sqlite"));
    files
}

/// Makes the database under a hidden name and renames it: who looks at its directory meanwhile never sees a
/// part of it.
fn make(path: &Path, schema: &str, rows: impl FnOnce(&Connection) -> rusqlite::Result<()>) {
    let dir = path.parent().expect("a segment lies in a directory");
    fs::create_dir_all(dir).expect("the segment's directory");
    let name = path.file_name().expect("a segment has a name").to_string_lossy();
    let making = dir.join(format!(".{name}"));
    let _ = fs::remove_file(&making);
    let db = Connection::open(&making).unwrap_or_else(|e| panic!("{}: {e}", making.display()));
    // A half-made segment is thrown away: it needs neither journal nor fsync.
    db.execute_batch(&format!(
        "pragma page_size = {PAGE_BYTES}; pragma journal_mode = off; pragma synchronous = off;
         pragma locking_mode = exclusive; pragma cache_size = -262144;"
    ))
    .expect("settings of a fresh database");
    let filled = db
        .execute_batch(&format!("begin; {schema}"))
        .and_then(|()| rows(&db))
        .and_then(|()| db.execute_batch("commit; vacuum;"));
    filled.expect("a fresh database takes its rows");
    db.close().expect("a database that nobody uses");
    fs::rename(&making, path).expect("a segment in its place");
}

/// SplitMix64: 64 good bits for each (seed, i).
pub fn mix(seed: u64, i: u64) -> u64 {
    let mut z = seed.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `len` bytes of noise; the same for the same seed, and each position differs from its neighbours.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    for i in 0..len.div_ceil(8) {
        bytes.extend_from_slice(&mix(seed, i as u64).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn host(seed: u64, n: u64) -> String {
    let bits = mix(seed ^ 0x05ee_d0f0, n);
    let word = |shift: u32| WORDS[(bits >> shift) as usize % WORDS.len()];
    format!("{}.{}-{}{n}.example", ["www", "cdn", "data", "en"][bits as usize % 4], word(8), word(16))
}

fn base32(order: u32, a: u64, b: u64) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    // First the digits of `order` as A to P, which ascend in ASCII as the digits do.
    let mut text = String::with_capacity(32);
    for shift in (0..8).rev() {
        text.push(ALPHABET[(order >> (shift * 4)) as usize & 15] as char);
    }
    for k in 0..12 {
        text.push(ALPHABET[(a >> (k * 5)) as usize & 31] as char);
    }
    for k in 0..12 {
        text.push(ALPHABET[(b >> (k * 5)) as usize & 31] as char);
    }
    text
}

fn timestamp(s: u64) -> String {
    let (days, rest) = (s / 86_400, s % 86_400);
    let (mut year, mut day) = (1970, days);
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let months = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= months[month] {
        day -= months[month];
        month += 1;
    }
    format!(
        "{year:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        month + 1,
        day + 1,
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}
