//! A registry as text: a line of JSON for each thing in it. `docs/REGISTRY.md` describes it.
//!
//! The first line names the format, the last one counts the lines and sums them, so a text that was cut
//! short is known. Between them come the ledger, the catalog (each directory, then its segments) and the
//! checksums, in order of their keys: the same registry always gives the same text.

use std::io::{self, Write};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::Xxh3;

use super::{Meta, catalog::Directory, rows::DirState};
use crate::{
    segment::{SEGMENT_SUFFIX, SegmentId},
    store::Generation,
};

/// Version of the format, in the first line.
pub const FORMAT: u32 = 1;

/// First line: which format, and whose registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`FORMAT`].
    pub springhouse_registry: u32,
    /// Marks the store as owned by it.
    pub registry_id: String,
    /// Starts of the gateway.
    pub epoch: u64,
    /// Store that the catalog describes.
    pub store_url: Option<String>,
    /// Whether a discovery pass ever reached its end.
    pub discovered: bool,
}

impl Header {
    /// Of a registry with `meta`.
    pub fn of(meta: &Meta) -> Self {
        Self {
            springhouse_registry: FORMAT,
            registry_id: meta.registry_id.clone(),
            epoch: meta.epoch,
            store_url: meta.store_url.clone(),
            discovered: meta.discovered,
        }
    }
}

/// A row of the ledger.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryLine {
    /// What kind: `lock`, `raise`, `schema` …
    pub entry: String,
    /// Of what: a segment, a worker, name and version of a schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// What it says.
    pub value: Box<RawValue>,
}

/// A directory of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryLine {
    /// Its path below the store's root.
    pub directory: String,
    /// What its parent's listing showed when it was listed last; `null`: it has to be listed again.
    pub seen: Option<Seen>,
    /// Whether it has subdirectories.
    pub has_subdirs: bool,
    /// Whether nothing was moving in it.
    pub quiet: bool,
    /// Files in it whose name is no segment id.
    pub bad_names: u32,
}

/// See [`DirectoryLine::seen`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Modification time, ms since 1970.
    pub mtime_ms: i64,
    /// Version.
    pub generation: Generation,
}

impl DirectoryLine {
    /// Of `path`.
    pub fn of(path: &str, state: &DirState) -> Self {
        Self {
            directory: path.to_owned(),
            seen: state.seen.map(|(mtime_ms, generation)| Seen { mtime_ms, generation }),
            has_subdirs: state.has_subdirs,
            quiet: state.quiet,
            bad_names: state.bad_names,
        }
    }

    /// What it says of the directory.
    pub fn state(&self) -> DirState {
        DirState {
            seen: self.seen.map(|seen| (seen.mtime_ms, seen.generation)),
            has_subdirs: self.has_subdirs,
            quiet: self.quiet,
            bad_names: self.bad_names,
        }
    }
}

/// A segment of the directory above it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentLine {
    /// Its path below the store's root.
    pub segment: String,
    /// Its version.
    pub generation: Generation,
    /// Length in bytes.
    pub size: u64,
    /// Last modification, ms since 1970.
    pub mtime_ms: i64,
}

impl SegmentLine {
    /// Directory and id, if the path is one of a segment.
    pub fn place(&self) -> Option<(&str, &str)> {
        let (directory, name) = self.segment.rsplit_once('/')?;
        let id = name.strip_suffix(SEGMENT_SUFFIX).filter(|id| SegmentId::parse(id).is_ok())?;
        Some((if directory.is_empty() { "/" } else { directory }, id))
    }
}

/// A row of the ledger that cannot be read, as it is: it keeps refusing what it refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DamagedLine {
    /// The row, for people.
    pub damaged: String,
    /// Its key in base 64.
    pub key: String,
    /// Its value in base 64.
    pub value: String,
}

impl DamagedLine {
    /// Key and value.
    pub fn row(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        Some((BASE64_STANDARD.decode(&self.key).ok()?, BASE64_STANDARD.decode(&self.value).ok()?))
    }
}

/// Last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndLine {
    /// See there.
    pub end: End,
}

/// What tells that a text is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// Lines before this one.
    pub lines: u64,
    /// xxh3-64 of their bytes with the ends of the lines.
    pub checksum: Sum,
}

/// 64 bits as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sum(pub u64);

impl From<Sum> for String {
    fn from(sum: Sum) -> Self {
        format!("{:016x}", sum.0)
    }
}

impl TryFrom<String> for Sum {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match u64::from_str_radix(&text, 16) {
            Ok(sum) if text.len() == 16 => Ok(Self(sum)),
            _ => Err(format!("{text:?} is no checksum of 16 hexadecimal digits")),
        }
    }
}

/// One line.
#[derive(Debug, Clone)]
pub enum Line {
    /// The first one.
    Header(Header),
    /// A row of the ledger.
    Entry(EntryLine),
    /// A directory.
    Directory(DirectoryLine),
    /// A segment of the directory before it.
    Segment(SegmentLine),
    /// A row of the ledger that cannot be read.
    Damaged(DamagedLine),
    /// The last one.
    End(EndLine),
}

impl Line {
    /// From its text: the first member says which it is.
    pub fn parse(text: &str) -> Result<Self, String> {
        let first = text.trim_start().strip_prefix('{').map(str::trim_start);
        let kind = first.and_then(|rest| rest.strip_prefix('"')?.split('"').next()).unwrap_or_default();
        fn of<'a, T: Deserialize<'a>>(text: &'a str, line: impl Fn(T) -> Line) -> Result<Line, String> {
            serde_json::from_str(text).map(line).map_err(|e| e.to_string())
        }
        match kind {
            "segment" => of(text, Self::Segment),
            "directory" => of(text, Self::Directory),
            "entry" => of(text, Self::Entry),
            "damaged" => of(text, Self::Damaged),
            "end" => of(text, Self::End),
            "springhouse_registry" => of(text, Self::Header),
            _ => Err("it is not one that an export has".to_owned()),
        }
    }
}

/// Writes lines, and counts and sums them.
pub(super) struct Lines<'a> {
    out: &'a mut dyn Write,
    buffer: Vec<u8>,
    lines: u64,
    sum: Xxh3,
}

impl<'a> Lines<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out, buffer: Vec::new(), lines: 0, sum: Xxh3::new() }
    }

    pub(super) fn put(&mut self, line: &impl Serialize) -> io::Result<()> {
        self.buffer.clear();
        serde_json::to_writer(&mut self.buffer, line)?;
        self.buffer.push(b'\n');
        self.lines += 1;
        self.sum.update(&self.buffer);
        self.out.write_all(&self.buffer)
    }

    /// A directory and its segments.
    pub(super) fn directory(&mut self, path: &str, directory: &Directory) -> io::Result<()> {
        self.put(&DirectoryLine::of(path, &directory.state))?;
        let base = path.trim_end_matches('/');
        for (id, facts) in directory.segments.iter() {
            self.put(&SegmentLine {
                segment: format!("{base}/{id}{SEGMENT_SUFFIX}"),
                generation: facts.generation,
                size: facts.size,
                mtime_ms: facts.mtime_ms,
            })?;
        }
        Ok(())
    }

    pub(super) fn damaged(&mut self, text: String, key: &[u8], value: &[u8]) -> io::Result<()> {
        let (key, value) = (BASE64_STANDARD.encode(key), BASE64_STANDARD.encode(value));
        self.put(&DamagedLine { damaged: text, key, value })
    }

    /// The last line; how many there are with it.
    pub(super) fn end(mut self) -> io::Result<u64> {
        let end = End { lines: self.lines, checksum: Sum(self.sum.digest()) };
        self.put(&EndLine { end })?;
        self.out.flush()?;
        Ok(self.lines)
    }
}
