//! Databases for tests: made by SQLite itself, and laid out anew.

use std::collections::HashMap;

use rusqlite::Connection;

use super::{header::Header, page::Page, record::varint};

/// The bytes of a database that `setup` fills after `pragmas` were run, vacuumed.
pub(crate) fn database(pragmas: &str, setup: impl Fn(&Connection)) -> Vec<u8> {
    make(pragmas, setup, true)
}

/// The same, as the inserts left it.
pub(crate) fn unvacuumed(pragmas: &str, setup: impl Fn(&Connection)) -> Vec<u8> {
    make(pragmas, setup, false)
}

fn make(pragmas: &str, setup: impl Fn(&Connection), vacuum: bool) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("d.db");
    let connection = Connection::open(&path).expect("opened");
    connection.execute_batch("pragma journal_mode=off; pragma synchronous=off").expect("pragmas");
    connection.execute_batch(pragmas).expect("pragmas");
    setup(&connection);
    if vacuum {
        connection.execute_batch("vacuum").expect("vacuumed");
    }
    drop(connection);
    std::fs::read(path).expect("read")
}

/// Reserved bytes at the end of each page are set by a program, not by a pragma.
pub(crate) fn reserve_bytes(connection: &Connection, count: i32) {
    let mut count = count;
    // SAFETY: the connection is open, the name is a C string, and the operation takes a pointer to an
    // integer that lives until it returns.
    #[allow(unsafe_code)]
    let code = unsafe {
        rusqlite::ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            rusqlite::ffi::SQLITE_FCNTL_RESERVE_BYTES,
            (&raw mut count).cast(),
        )
    };
    assert_eq!(code, rusqlite::ffi::SQLITE_OK);
}

/// `rows` rows of some 100 bytes, a text key, an index with `same` rows of each key, and one of unique keys.
pub(crate) fn fill(connection: &Connection, rows: i64, same: i64) {
    connection
        .execute_batch("create table t (k text primary key, n integer, body text); begin")
        .expect("a table");
    let mut insert = connection.prepare("insert into t values (?, ?, ?)").expect("prepared");
    for i in 0..rows {
        let scattered = (i * 7919) % rows;
        let key = format!("key-{:08}", (i * 104_729) % rows);
        insert.execute((key, scattered / same, format!("{i:0100}"))).expect("inserted");
    }
    connection.execute_batch("commit; create index by_n on t (n)").expect("an index");
}

/// The page `number` of a file.
pub(crate) fn page_of<'a>(header: &Header, file: &'a [u8], number: u32) -> &'a [u8] {
    let range = header.bytes_of(number);
    &file[range.start as usize..range.end as usize]
}

/// A tree as SQLite would find it.
pub(crate) struct Walked {
    pub(crate) interior: Vec<u32>,
    /// In the order of the tree.
    pub(crate) leaves: Vec<u32>,
    /// Rowids in the order of the tree, those in an index's interior pages left out.
    pub(crate) rows: Vec<i64>,
    /// Overflow chains: the leaf, the first page, the length.
    pub(crate) chains: Vec<(u32, u32, u32)>,
    leaf_of: HashMap<i64, u32>,
    parents: HashMap<u32, u32>,
}

impl Walked {
    pub(crate) fn new(header: &Header, file: &[u8], root: u32) -> Self {
        let mut walked = Self {
            interior: Vec::new(),
            leaves: Vec::new(),
            rows: Vec::new(),
            chains: Vec::new(),
            leaf_of: HashMap::new(),
            parents: HashMap::new(),
        };
        let mut stack = vec![root];
        while let Some(number) = stack.pop() {
            let bytes = page_of(header, file, number);
            let page = Page::parse(header, number, bytes).expect("a page of a tree");
            if let Some(found) = page.interior() {
                walked.interior.push(number);
                walked.parents.extend(found.children.iter().map(|&child| (child, number)));
                stack.extend(found.children.iter().rev());
                continue;
            }
            walked.leaves.push(number);
            walked.chains.extend(page.overflows().into_iter().map(|(first, length)| (number, first, length)));
            let rows: Vec<i64> = match page.entries() {
                Some(entries) => entries.iter().filter_map(|entry| entry.rowid).collect(),
                None => rows_of(bytes, if number == 1 { 100 } else { 0 }),
            };
            walked.leaf_of.extend(rows.iter().map(|&row| (row, number)));
            walked.rows.extend(rows);
        }
        walked
    }

    /// The pages from the root to the leaf of a row; nothing if it is not in a leaf.
    pub(crate) fn path_of(&self, row: i64) -> Vec<u32> {
        let mut path: Vec<u32> =
            std::iter::successors(self.leaf_of.get(&row), |page| self.parents.get(page)).copied().collect();
        path.reverse();
        path
    }
}

/// Rowids of a table's leaf.
fn rows_of(page: &[u8], start: usize) -> Vec<i64> {
    let u16_at = |at: usize| usize::from(u16::from_be_bytes([page[at], page[at + 1]]));
    let one = |i: usize| {
        let cell = &page[u16_at(start + 8 + 2 * i)..];
        let (_, len) = varint(cell).expect("a payload's length");
        varint(&cell[len..]).expect("a rowid").0 as i64
    };
    (0..u16_at(start + 3)).map(one).collect()
}

/// The same database with page 1, then all interior pages, then the rest. Only for files without overflow
/// chains, free pages and pointer maps.
pub(crate) fn interior_first(file: &[u8], connection_roots: &[u32]) -> Vec<u8> {
    let header = Header::parse(file, file.len() as u64).expect("a database");
    let (mut first, mut rest) = (vec![1], Vec::new());
    for &root in connection_roots {
        let walked = Walked::new(&header, file, root);
        first.extend(walked.interior.into_iter().filter(|&page| page != 1));
        rest.extend(walked.leaves.into_iter().filter(|&page| page != 1));
    }
    first.extend(rest);
    assert_eq!(first.len(), header.pages as usize, "every page is of a tree");
    let mut new_number = vec![0_u32; first.len() + 1];
    for (i, &old) in first.iter().enumerate() {
        new_number[old as usize] = i as u32 + 1;
    }
    let mut moved = Vec::with_capacity(file.len());
    for &old in &first {
        let mut page = page_of(&header, file, old).to_vec();
        let start = if old == 1 { 100 } else { 0 };
        if matches!(page[start], 0x02 | 0x05) {
            renumber(&mut page, start + 8, &new_number);
            let cells = u16::from_be_bytes([page[start + 3], page[start + 4]]) as usize;
            for i in 0..cells {
                let at = start + 12 + 2 * i;
                let cell = u16::from_be_bytes([page[at], page[at + 1]]) as usize;
                renumber(&mut page, cell, &new_number);
            }
        }
        moved.extend(page);
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("d.db");
    std::fs::write(&path, moved).expect("written");
    // The schema's roots, by SQLite: lengths of their integers may change.
    let connection = Connection::open(&path).expect("opened");
    connection
        .set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)
        .expect("configured");
    connection.execute_batch("pragma journal_mode=off; pragma writable_schema=on").expect("pragma");
    for &root in connection_roots.iter().filter(|&&root| root > 1) {
        // Negative first: an old number of one may be the new one of another.
        connection
            .execute(
                "update sqlite_schema set rootpage = -?1 where rootpage = ?2",
                (new_number[root as usize], root),
            )
            .expect("updated");
    }
    connection
        .execute("update sqlite_schema set rootpage = -rootpage where rootpage < 0", ())
        .expect("updated");
    drop(connection);
    let connection = Connection::open(&path).expect("opened");
    let answer: String =
        connection.query_row("pragma integrity_check", (), |row| row.get(0)).expect("checked");
    assert_eq!(answer, "ok");
    drop(connection);
    std::fs::read(path).expect("read")
}

/// What `sql` gives, in its order.
pub(crate) fn rowids(file: &[u8], sql: &str) -> Vec<i64> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("d.db");
    std::fs::write(&path, file).expect("written");
    let connection = Connection::open(&path).expect("opened");
    let mut statement = connection.prepare(sql).expect("prepared");
    let rows = statement.query_map((), |row| row.get(0)).expect("queried");
    rows.map(|row| row.expect("a row")).collect()
}

/// Roots of all trees, the schema's first.
pub(crate) fn roots(file: &[u8]) -> Vec<(u32, String)> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("d.db");
    std::fs::write(&path, file).expect("written");
    let connection = Connection::open(&path).expect("opened");
    let mut all = connection
        .prepare("select rootpage, name from sqlite_schema where rootpage > 0 order by rootpage")
        .expect("prepared");
    let found = all.query_map((), |row| Ok((row.get(0)?, row.get(1)?))).expect("queried");
    let mut roots = vec![(1, "sqlite_schema".to_owned())];
    roots.extend(found.map(|row| row.expect("a row")));
    roots
}

fn renumber(page: &mut [u8], at: usize, numbers: &[u32]) {
    let old = u32::from_be_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
    page[at..at + 4].copy_from_slice(&numbers[old as usize].to_be_bytes());
}
