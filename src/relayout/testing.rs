//! Databases of all kinds, what they hold, and how they lie: SQLite's own view of the results.

use std::{collections::BTreeMap, path::Path};

use proptest::prelude::*;
use rusqlite::{Connection, OpenFlags, types::Value};
use springhouse_fuse::sqlite::{Database, Header};

/// A table to be made, and about how many rows it gets.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) kind: usize,
    pub(super) rows: usize,
    /// Bytes of the longer values.
    pub(super) long: usize,
}

/// A database to be made.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    pub(super) page_bytes: u32,
    pub(super) encoding: &'static str,
    pub(super) auto_vacuum: &'static str,
    pub(super) reserved: i32,
    pub(super) tables: Vec<Table>,
    /// Empty tables, so that the schema gets leaves of its own.
    pub(super) empty: usize,
    /// Bytes of a comment in the schema, so that one of its rows overflows.
    pub(super) comment: usize,
    /// One row in so many is deleted at the end; 0: none.
    pub(super) gaps: usize,
    pub(super) analyze: bool,
    pub(super) wal: bool,
}

/// Kinds of tables: `$` is the table's number. Each has columns `a` and `b` to be filled.
const KINDS: [&str; 9] = [
    "CREATE TABLE t$ (id INTEGER PRIMARY KEY, a, b); CREATE INDEX i$ ON t$ (a)",
    "CREATE TABLE t$ (a, b)",
    "CREATE TABLE t$ (a TEXT PRIMARY KEY, b UNIQUE)",
    "CREATE TABLE t$ (a TEXT, b, PRIMARY KEY (a)) WITHOUT ROWID; CREATE INDEX i$ ON t$ (b, a)",
    "CREATE VIRTUAL TABLE t$ USING fts5(a, b)",
    "CREATE TABLE t$ (a, b, c AS (length(b)), d GENERATED ALWAYS AS (a || '!') STORED);
     CREATE INDEX i$ ON t$ (c, a)",
    "CREATE TABLE t$ (id INTEGER PRIMARY KEY AUTOINCREMENT, a, b CHECK (b IS NOT 'never'));
     CREATE INDEX i$ ON t$ (upper(a), b) WHERE b > 'k';
     CREATE VIEW v$ AS SELECT a, count(*) AS n FROM t$ GROUP BY a;
     CREATE TABLE log$ (what, a);
     CREATE TRIGGER g$ AFTER INSERT ON t$ BEGIN INSERT INTO log$ VALUES ('new', new.a); END",
    "CREATE TABLE t$ (a TEXT PRIMARY KEY COLLATE NOCASE, b ANY) STRICT, WITHOUT ROWID",
    "CREATE VIRTUAL TABLE r$ USING rtree(id, x0, x1); CREATE TABLE t$ (a, b REFERENCES t0);
     CREATE UNIQUE INDEX i$ ON t$ (a DESC, b)",
];

pub(super) fn any_recipe() -> impl Strategy<Value = Recipe> {
    let table = (0..KINDS.len(), prop_oneof![Just(0_usize), 1..40_usize, 200..1500_usize], 1..3000_usize)
        .prop_map(|(kind, rows, long)| Table { kind, rows, long });
    let sizes = prop::sample::select(vec![512, 512, 1024, 4096, 16_384, 65_536]);
    (
        (sizes, prop::sample::select(vec!["UTF-8", "UTF-8", "UTF-16le", "UTF-16be"])),
        (prop::sample::select(vec!["none", "none", "full", "incremental"]), prop_oneof![Just(0), 1..33]),
        prop::collection::vec(table, 0..6),
        prop_oneof![Just(0_usize), 1..12_usize, 60..200_usize],
        prop_oneof![Just(0_usize), 300..9000_usize],
        (prop_oneof![Just(0_usize), 2..7_usize], any::<bool>(), any::<bool>()),
    )
        .prop_map(|((page_bytes, encoding), (auto_vacuum, reserved), tables, empty, comment, rest)| {
            Recipe {
                page_bytes,
                encoding,
                auto_vacuum,
                reserved,
                tables,
                empty,
                comment,
                gaps: rest.0,
                analyze: rest.1,
                wal: rest.2,
            }
        })
}

impl Recipe {
    /// One table of `rows` rows of kind 0.
    pub(super) fn simple(page_bytes: u32, rows: usize) -> Self {
        Self {
            page_bytes,
            encoding: "UTF-8",
            auto_vacuum: "none",
            reserved: 0,
            tables: vec![Table { kind: 0, rows, long: 120 }],
            empty: 0,
            comment: 0,
            gaps: 0,
            analyze: false,
            wal: false,
        }
    }

    /// Makes it; the connection stays open, as a worker's does.
    pub(super) fn make(&self, path: &Path) -> Connection {
        let db = Connection::open(path).expect("opened");
        let run = |sql: &str| db.execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        run(&format!(
            "PRAGMA page_size = {}; PRAGMA encoding = '{}'; PRAGMA auto_vacuum = {}; PRAGMA synchronous = OFF;
             PRAGMA foreign_keys = OFF",
            self.page_bytes, self.encoding, self.auto_vacuum
        ));
        reserve_bytes(&db, self.reserved);
        run(if self.wal { "PRAGMA journal_mode = WAL" } else { "PRAGMA journal_mode = MEMORY" });
        run("PRAGMA user_version = 77; PRAGMA application_id = 1234567; BEGIN");
        for (number, table) in self.tables.iter().enumerate() {
            run(&KINDS[table.kind].replace('$', &number.to_string()));
            let sql = format!("INSERT OR IGNORE INTO t{number} (a, b) VALUES (?1, ?2)");
            let mut insert = db.prepare(&sql).expect("prepared");
            for row in 0..table.rows {
                let key = (row * 7919 + 13) % (table.rows * 2);
                // Keys that overflow interior pages of indexes now and then.
                let a = if row % 50 == 7 {
                    format!("{key}-{}", "k".repeat(table.long))
                } else {
                    format!("key {key}")
                };
                let b = match row % 5 {
                    0 => {
                        Value::Text(format!("{row:0len$} \u{e4}\u{20ac} word{}", row % 17, len = table.long))
                    }
                    1 => Value::Blob(vec![row as u8; table.long / 3]),
                    2 => Value::Real(row as f64 / 7.0),
                    3 if table.kind != 7 => Value::Null,
                    _ => Value::Integer(row as i64 * 1_000_003),
                };
                insert.execute((a, b)).expect("inserted");
            }
            if table.kind == 8 {
                run(&format!(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})
                     INSERT INTO r{number} SELECT i, i * 3 % 100, i * 3 % 100 + 1 FROM n",
                    table.rows.max(1)
                ));
            }
            if self.gaps > 0 {
                let rowid = if matches!(table.kind, 3 | 7) { "length(a)" } else { "rowid" };
                run(&format!("DELETE FROM t{number} WHERE {rowid} % {} = 1", self.gaps));
            }
        }
        for number in 0..self.empty {
            run(&format!("CREATE TABLE empty{number} (x, y DEFAULT 'some text', z UNIQUE)"));
        }
        if self.comment > 0 {
            run(&format!("CREATE TABLE \"Noted \"\" Ω\" (x /* {} */)", "c".repeat(self.comment)));
        }
        run("COMMIT");
        if self.analyze {
            run("ANALYZE");
        }
        db
    }
}

/// Reserved bytes at the end of each page are set by a program, not by a pragma.
fn reserve_bytes(db: &Connection, count: i32) {
    let mut count = count;
    // SAFETY: the connection is open, the name is a C string, and the operation takes a pointer to an
    // integer that lives until it returns.
    #[allow(unsafe_code)]
    let code = unsafe {
        rusqlite::ffi::sqlite3_file_control(
            db.handle(),
            c"main".as_ptr(),
            rusqlite::ffi::SQLITE_FCNTL_RESERVE_BYTES,
            (&raw mut count).cast(),
        )
    };
    assert_eq!(code, rusqlite::ffi::SQLITE_OK);
}

/// The file as it is, without a lock or a journal.
pub(super) fn open(path: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(format!("file:{}?immutable=1", path.display()), flags).expect("opened")
}

/// All answers of `sql`, or SQLite's error.
pub(super) fn ask(db: &Connection, sql: &str) -> Vec<Vec<Value>> {
    let mut statement = db.prepare(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let columns = statement.column_count();
    let mut rows = statement.query(()).expect("queried");
    let mut all = Vec::new();
    while let Some(row) = rows.next().unwrap_or_else(|e| panic!("{sql}: {e}")) {
        all.push((0..columns).map(|column| row.get(column).expect("a value")).collect());
    }
    all
}

/// Everything that can be seen of a database: settings, schema, and each table in its order, with rowids.
pub(super) fn dump(db: &Connection) -> BTreeMap<String, Vec<Vec<Value>>> {
    let mut all = BTreeMap::new();
    for pragma in ["user_version", "application_id", "page_size", "encoding", "auto_vacuum"] {
        all.insert(pragma.to_owned(), ask(db, &format!("PRAGMA {pragma}")));
    }
    // Its order is that of VACUUM, and nobody's business.
    let schema = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name";
    all.insert("schema".into(), ask(db, schema));
    let tables = "SELECT name, wr, type = 'virtual' FROM pragma_table_list WHERE schema = 'main'
                  AND type IN ('table', 'virtual', 'shadow') AND name <> 'sqlite_schema'";
    for table in ask(db, tables) {
        let [Value::Text(name), Value::Integer(without_rowid), Value::Integer(_)] = &table[..] else {
            panic!("{table:?}");
        };
        let name = name.replace('"', "\"\"");
        let rowid = if *without_rowid == 0 { "rowid, " } else { "" };
        all.insert(format!("table {name}"), ask(db, &format!("SELECT {rowid}* FROM \"{name}\" NOT INDEXED")));
    }
    all
}

/// Questions that go through the indexes.
pub(super) fn questions(recipe: &Recipe) -> Vec<String> {
    let mut all = Vec::new();
    for (number, table) in recipe.tables.iter().enumerate() {
        if table.kind == 4 {
            all.push(format!(
                "SELECT rowid, a, rank FROM t{number} WHERE t{number} MATCH 'word3' ORDER BY rank"
            ));
            continue;
        }
        all.push(format!("SELECT * FROM t{number} WHERE a BETWEEN 'key 1' AND 'key 3' ORDER BY a, b"));
        all.push(format!("SELECT count(*), min(a), max(b) FROM t{number}"));
        match table.kind {
            5 => all.push(format!("SELECT c, d FROM t{number} WHERE c > 100 ORDER BY c, a")),
            6 => all.push(format!("SELECT a FROM t{number} WHERE upper(a) > 'KEY 5' AND b > 'k'")),
            8 => all.push(format!("SELECT * FROM r{number} WHERE x0 >= 10 AND x1 <= 40 ORDER BY id")),
            _ => {}
        }
    }
    all
}

/// A page as SQLite's `dbstat` sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) tree: String,
    pub(super) path: String,
    pub(super) page: u32,
    pub(super) kind: String,
}

/// All pages of all trees.
pub(super) fn places(db: &Connection) -> Vec<Place> {
    let rows = ask(db, "SELECT name, path, pageno, pagetype FROM dbstat ORDER BY name, path");
    let place = |row: Vec<Value>| match &row[..] {
        [Value::Text(tree), Value::Text(path), Value::Integer(page), Value::Text(kind)] => {
            Place { tree: tree.clone(), path: path.clone(), page: *page as u32, kind: kind.clone() }
        }
        other => panic!("{other:?}"),
    };
    rows.into_iter().map(place).collect()
}

/// Where the mount thinks that interior pages end if it sees the first `head_pages` of a file.
pub(super) fn recognised(file: &[u8], head_pages: u32) -> Option<u32> {
    let header = Header::parse(file, file.len() as u64).expect("a header");
    let mut database = Database::new(header, 64 << 20);
    for page in 1..=head_pages {
        let bytes = header.bytes_of(page);
        let bytes = &file[bytes.start as usize..bytes.end as usize];
        if database.wants(page, bytes) {
            database.arrived(page, bytes, false);
        }
    }
    database.interior_first(head_pages)
}
