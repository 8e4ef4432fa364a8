//! Making a registry from lines.
//!
//! The rows go into a registry that nobody uses yet (`places.rs` puts it in its place afterwards), so a
//! crash, or a text that is cut short, leaves what was there.

use std::{
    io::{self, BufRead, Read},
    sync::Arc,
};

use serde::Deserialize;
use xxhash_rust::xxh3::Xxh3;

use super::{
    Adopting, Meta, Registry, RegistryError, RowChange,
    catalog::Directory,
    ledger::rows::{LedgerKey, check, key_of, read},
    lines::{DirectoryLine, EntryLine, FORMAT, Header, Line, SegmentLine, Sum},
    packed::Facts,
    rows::seal,
    state::row_changes,
};
use crate::api::hot::Token;

/// Longest line in bytes: a schema has at most as many as a request.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// Bytes of rows that are written together.
const BATCH_BYTES: usize = 1 << 20;

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A line makes no sense.
    #[error("line {line}: {reason}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// It has no last line.
    #[error(
        "the export was cut short after line {0}: its last line, which begins with {{\"end\", is missing"
    )]
    CutShort(u64),
    /// It is not what was exported.
    #[error("the export was changed since it was made: {0}; import it with --edited if that was on purpose")]
    Changed(String),
    /// The lines cannot be read.
    #[error("the export cannot be read: {0}")]
    Read(#[from] io::Error),
    /// The registry cannot be written.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// How to import.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImportOptions {
    /// Take a text that does not fit its last line.
    pub edited: bool,
    /// What the registry that is replaced had given: nothing goes back behind it.
    pub former: Former,
    /// Take up what workers were granted after the export, in ms after a start; `None`: nothing was.
    pub adopt_ms: Option<u64>,
}

/// What another registry of the same store has given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Former {
    /// The highest token.
    pub token: Token,
    /// Starts of its gateway.
    pub epoch: u64,
}

impl Former {
    /// Of a registry that nobody has open.
    pub fn of(registry: &dyn Registry) -> Result<Self, RegistryError> {
        let key = LedgerKey::Token.encode();
        let token = registry.get(&key)?.and_then(|value| read::<Token>(&key, &value).ok()).unwrap_or(0);
        Ok(Self { token, epoch: registry.meta()?.map_or(0, |meta| meta.epoch) })
    }
}

/// What was imported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imported {
    /// Whose registry it was.
    pub registry_id: String,
    /// Segments.
    pub segments: u64,
    /// Directories.
    pub directories: u64,
    /// Rows of the ledger.
    pub entries: u64,
    /// Rows of the ledger that cannot be read, taken over as they were.
    pub damaged: u64,
    /// No token up to this one is given again.
    pub token: Token,
}

/// Reads all of `input` into `registry`, which is empty and in nobody's use. `step` hears after each batch
/// how many lines were read. Blocks.
pub fn import(
    input: &mut dyn BufRead,
    registry: &dyn Registry,
    options: &ImportOptions,
    step: &mut dyn FnMut(u64),
) -> Result<Imported, ImportError> {
    let mut lines = LineReader { input, number: 0, text: String::new(), sum: Xxh3::new() };
    let header = header(&mut lines)?;
    let mut import = Import::new(registry, header, options.former.token);
    let end = loop {
        let before = Sum(lines.sum.digest());
        let Some(line) = lines.next()? else { return Err(ImportError::CutShort(lines.number)) };
        let taken = match line {
            Line::End(end) => break (end.end, before),
            Line::Header(_) => Err("a second first line".to_owned()),
            Line::Directory(line) => import.directory(line)?,
            Line::Segment(line) => import.segment(&line),
            Line::Entry(line) => import.entry(&line),
            Line::Damaged(line) => match line.row() {
                Some((key, value)) => {
                    import.done.damaged += 1;
                    import.put(RowChange::Put(key, value));
                    Ok(())
                }
                None => Err("key and value are not base 64".to_owned()),
            },
        };
        taken.map_err(|reason| ImportError::Line { line: lines.number, reason })?;
        if import.is_full() {
            import.write()?;
            step(lines.number);
        }
    };
    let (end, sum) = end;
    if !options.edited && end.lines != lines.number - 1 {
        let has = lines.number - 1;
        return Err(ImportError::Changed(format!(
            "it has {has} lines before the last, which says {}",
            end.lines
        )));
    }
    if !options.edited && end.checksum != sum {
        return Err(ImportError::Changed("its checksum does not match".to_owned()));
    }
    import.finish(options)
}

/// What only people have said, and no store or worker knows: schemas, wishes for copies, workers to be
/// emptied.
const WISHES: [&str; 4] = ["schema", "raise", "pin", "drain"];

/// The rows of an export that a registry rebuilt from the store needs, and how far its tokens went. All of
/// the export is read, and has to be whole. Blocks.
pub fn wishes(input: &mut dyn BufRead) -> Result<(Vec<RowChange>, Former), ImportError> {
    let mut lines = LineReader { input, number: 0, text: String::new(), sum: Xxh3::new() };
    let header = header(&mut lines)?;
    let mut former = Former { token: 0, epoch: header.epoch };
    let mut rows = Vec::new();
    loop {
        let before = Sum(lines.sum.digest());
        match lines.next()? {
            Some(Line::Entry(line)) => {
                let (key, value, token) =
                    row(&line).map_err(|reason| ImportError::Line { line: lines.number, reason })?;
                former.token = former.token.max(token);
                if WISHES.contains(&line.entry.as_str()) {
                    rows.push(RowChange::Put(key, value));
                }
            }
            Some(Line::End(end)) if end.end.checksum == before => return Ok((rows, former)),
            Some(Line::End(_)) => {
                return Err(ImportError::Changed("its checksum does not match".to_owned()));
            }
            Some(_) => {}
            None => return Err(ImportError::CutShort(lines.number)),
        }
    }
}

/// Key, value and token of a row of the ledger.
fn row(line: &EntryLine) -> Result<(Vec<u8>, Vec<u8>, Token), String> {
    let key = key_of(&line.entry, line.of.as_deref());
    let value = seal(&key, line.value.get().as_bytes());
    let what = || format!("{} {}", line.entry, line.of.as_deref().unwrap_or_default());
    check(&key, &value).map_err(|reason| format!("{}: {reason}", what().trim_end()))?;
    let token = match LedgerKey::decode(&key) {
        Some(LedgerKey::Token) => read(&key, &value)?,
        _ => serde_json::from_str(line.value.get()).map_or(0, |HasToken { token }| token),
    };
    Ok((key, value, token))
}

fn header(lines: &mut LineReader<'_>) -> Result<Header, ImportError> {
    let reason = match lines.next()? {
        Some(Line::Header(header)) if header.springhouse_registry == FORMAT => return Ok(header),
        Some(Line::Header(header)) => {
            format!("format {}, this program knows {FORMAT}", header.springhouse_registry)
        }
        Some(_) => "an export begins with {\"springhouse_registry\": …".to_owned(),
        None => "the export is empty".to_owned(),
    };
    Err(ImportError::Line { line: lines.number.max(1), reason })
}

struct LineReader<'a> {
    input: &'a mut dyn BufRead,
    number: u64,
    text: String,
    /// Of all lines so far.
    sum: Xxh3,
}

impl LineReader<'_> {
    /// `None`: there are no more.
    fn next(&mut self) -> Result<Option<Line>, ImportError> {
        self.text.clear();
        let mut limited = Read::take(&mut *self.input, LINE_BYTES_MAX);
        if limited.read_line(&mut self.text)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        let line = self.number;
        let Some(text) = self.text.strip_suffix('\n') else {
            return Err(match self.text.len() as u64 {
                LINE_BYTES_MAX => ImportError::Line { line, reason: "it is too long".to_owned() },
                _ => ImportError::CutShort(line - 1),
            });
        };
        self.sum.update(self.text.as_bytes());
        let parsed = Line::parse(text);
        parsed.map(Some).map_err(|reason| ImportError::Line { line, reason })
    }
}

/// Rows that carry a token.
#[derive(Deserialize)]
struct HasToken {
    token: Token,
}

struct Import<'a> {
    registry: &'a dyn Registry,
    header: Header,
    current: Option<(Arc<str>, Directory)>,
    last: Option<Arc<str>>,
    rows: Vec<RowChange>,
    bytes: usize,
    token: Token,
    done: Imported,
}

impl<'a> Import<'a> {
    fn new(registry: &'a dyn Registry, header: Header, token: Token) -> Self {
        let done = Imported { registry_id: header.registry_id.clone(), ..Imported::default() };
        Self { registry, header, current: None, last: None, rows: Vec::new(), bytes: 0, token, done }
    }

    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES
    }

    fn put(&mut self, row: RowChange) {
        if let RowChange::Put(key, value) = &row {
            self.bytes += key.len() + value.len();
        }
        self.rows.push(row);
    }

    fn write(&mut self) -> Result<(), RegistryError> {
        self.bytes = 0;
        self.registry.commit(std::mem::take(&mut self.rows))
    }

    /// The directory before is whole. Its segments may be many: they are written at once if they are.
    fn end_directory(&mut self) -> Result<(), RegistryError> {
        let Some((path, mut directory)) = self.current.take() else { return Ok(()) };
        directory.bounds = Directory::bounds_for(&directory.segments, &[]);
        self.done.directories += 1;
        self.done.segments += directory.segments.len() as u64;
        for row in row_changes(&path, None, Some(&directory)) {
            self.put(row);
            if self.is_full() {
                self.write()?;
            }
        }
        self.last = Some(path);
        Ok(())
    }

    fn directory(&mut self, line: DirectoryLine) -> Result<Result<(), String>, RegistryError> {
        self.end_directory()?;
        let path = line.directory.as_str();
        let good = path == "/" || (path.starts_with('/') && !path.ends_with('/') && !path.contains('\0'));
        if !good {
            return Ok(Err(format!("{path:?} is no path of a directory")));
        }
        if self.last.as_ref().is_some_and(|last| **last >= *path) {
            return Ok(Err(format!("directory {path} is out of order, or there twice")));
        }
        let directory = Directory { state: line.state(), ..Directory::default() };
        self.current = Some((path.into(), directory));
        Ok(Ok(()))
    }

    fn segment(&mut self, line: &SegmentLine) -> Result<(), String> {
        let SegmentLine { segment, generation, size, mtime_ms } = line;
        let (directory, id) = line.place().ok_or_else(|| format!("{segment:?} is no path of a segment"))?;
        let facts = Facts { generation: *generation, size: *size, mtime_ms: *mtime_ms };
        match &mut self.current {
            Some((path, current)) if **path == *directory => {
                let in_order = current.segments.push(id, facts);
                if in_order { Ok(()) } else { Err(format!("{segment} is out of order, or there twice")) }
            }
            _ => Err(format!("{segment} does not lie in the directory above it")),
        }
    }

    fn entry(&mut self, line: &EntryLine) -> Result<(), String> {
        let (key, value, token) = row(line)?;
        self.token = self.token.max(token);
        self.done.entries += 1;
        // Of the count itself: written at the end, when it may have to be higher.
        if LedgerKey::decode(&key) != Some(LedgerKey::Token) {
            self.put(RowChange::Put(key, value));
        }
        Ok(())
    }

    fn finish(mut self, options: &ImportOptions) -> Result<Imported, ImportError> {
        self.end_directory()?;
        if self.token > 0 {
            let row = LedgerKey::Token.row(Some(&self.token));
            let row = row.map_err(|e| RegistryError::Failed(e.to_string()))?;
            self.put(row);
        }
        self.write()?;
        let Header { registry_id, epoch, store_url, discovered, .. } = self.header;
        let adopting = options.adopt_ms.map(|wait_ms| Adopting { known: self.token, wait_ms });
        let epoch = epoch.max(options.former.epoch);
        self.registry.set_meta(&Meta { registry_id, epoch, store_url, discovered, adopting })?;
        self.done.token = self.token;
        Ok(self.done)
    }
}
