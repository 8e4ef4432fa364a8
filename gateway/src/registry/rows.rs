//! How the catalog lies in the registry: keys and values as bytes. Pure.
//!
//! ```text
//! key    directory path, 0x00, 'd'                 value  state of the directory
//! key    directory path, 0x00, 's', lower bound    value  up to 1,000 segments, ids from the bound on
//! ```
//! So the keys of a directory lie together, its state first. Every value is sealed: format version,
//! checksum over key and payload, payload. A row that does not check is dropped and its directory listed
//! again: the store has everything. (Keys that do not begin with `/` are the ledger's: `ledger/rows.rs`.)

use xxhash_rust::xxh3::Xxh3;

use super::packed::{Facts, Packed};
use crate::{segment::SegmentId, store::Generation};

/// Most segments in one row.
pub const ROW_SEGMENTS_MAX: usize = 1000;
/// Version of the format below; another one is read as damaged, that is, discovered anew.
const FORMAT: u8 = 1;
const SEAL_BYTES: usize = 9;

/// Why a row was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// Not a key of ours.
    #[error("unknown key")]
    Key,
    /// Written by another version.
    #[error("format version {0}, this program knows {FORMAT}")]
    Format(u8),
    /// Bytes changed.
    #[error("checksum does not match")]
    Checksum,
    /// Checksum right, content impossible: a defect of ours.
    #[error("malformed content")]
    Content,
}

/// What a key stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'a> {
    /// State of a directory.
    Directory(&'a str),
    /// Segments of a directory from this id on.
    Segments(&'a str, &'a str),
}

impl<'a> Key<'a> {
    /// As bytes.
    pub fn encode(self) -> Vec<u8> {
        let (directory, kind, lower) = match self {
            Self::Directory(directory) => (directory, b'd', ""),
            Self::Segments(directory, lower) => (directory, b's', lower),
        };
        let mut key = Vec::with_capacity(directory.len() + 2 + lower.len());
        key.extend_from_slice(directory.as_bytes());
        key.extend_from_slice(&[0, kind]);
        key.extend_from_slice(lower.as_bytes());
        key
    }

    /// From bytes.
    pub fn decode(key: &'a [u8]) -> Result<Self, RowError> {
        let text = std::str::from_utf8(key).map_err(|_| RowError::Key)?;
        let (directory, rest) = text.split_once('\0').ok_or(RowError::Key)?;
        if !directory.starts_with('/') {
            return Err(RowError::Key);
        }
        match (rest.as_bytes().first(), rest.get(1..)) {
            (Some(b'd'), Some("")) => Ok(Self::Directory(directory)),
            (Some(b's'), Some(lower)) => Ok(Self::Segments(directory, lower)),
            _ => Err(RowError::Key),
        }
    }

    /// The directory it belongs to.
    pub fn directory(self) -> &'a str {
        match self {
            Self::Directory(directory) | Self::Segments(directory, _) => directory,
        }
    }
}

/// What discovery knows of a directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DirState {
    /// Modification time (ms since 1970) and generation that its parent's listing showed when it was
    /// listed last; `None`: list it at the next pass.
    pub seen: Option<(i64, Generation)>,
    /// Whether it has subdirectories. Those are listed at each pass: a change further down does not move
    /// this directory's time.
    pub has_subdirs: bool,
    /// Whether nothing was moving in it when it was listed last.
    pub quiet: bool,
    /// Files in it called `*.sqlite` whose name is no segment id.
    pub bad_names: u32,
}

/// Puts version and checksum before a payload.
pub fn seal(key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(SEAL_BYTES + payload.len());
    value.push(FORMAT);
    value.extend_from_slice(&checksum(key, payload).to_le_bytes());
    value.extend_from_slice(payload);
    value
}

/// Checks version and checksum; the payload.
pub fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], RowError> {
    let (head, payload) = value.split_at_checked(SEAL_BYTES).ok_or(RowError::Checksum)?;
    if head[0] != FORMAT {
        return Err(RowError::Format(head[0]));
    }
    if head[1..] != checksum(key, payload).to_le_bytes() {
        return Err(RowError::Checksum);
    }
    Ok(payload)
}

/// The key is part of it, so that a value under a wrong key is found out.
fn checksum(key: &[u8], payload: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&(key.len() as u64).to_le_bytes());
    hash.update(key);
    hash.update(payload);
    hash.digest()
}

impl DirState {
    /// As a payload.
    pub fn encode(&self) -> Vec<u8> {
        let (mtime_ms, generation) = self.seen.unwrap_or((0, Generation([0; 16])));
        let flags =
            u8::from(self.seen.is_some()) | (u8::from(self.has_subdirs) << 1) | (u8::from(self.quiet) << 2);
        let mut out = vec![flags];
        out.extend_from_slice(&mtime_ms.to_le_bytes());
        out.extend_from_slice(&generation.0);
        out.extend_from_slice(&self.bad_names.to_le_bytes());
        out
    }

    /// From a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, RowError> {
        let mut input = Input(payload);
        let flags = input.byte()?;
        let mtime_ms = i64::from_le_bytes(input.array()?);
        let generation = Generation(input.array()?);
        let bad_names = u32::from_le_bytes(input.array()?);
        if flags > 0b111 || !input.0.is_empty() {
            return Err(RowError::Content);
        }
        Ok(Self {
            seen: (flags & 1 != 0).then_some((mtime_ms, generation)),
            has_subdirs: flags & 2 != 0,
            quiet: flags & 4 != 0,
            bad_names,
        })
    }
}

/// A range of a directory's segments as a payload: ids without what they share with the one before,
/// lengths and times as variable-length numbers. About 26 bytes a segment.
pub fn encode_segments(segments: &Packed, range: std::ops::Range<usize>) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + range.len() * 32);
    put_varint(&mut out, range.len() as u64);
    let (mut last_id, mut last_mtime) = ("", 0i64);
    for index in range {
        let (id, facts) = (segments.id(index), segments.facts(index));
        let shared = id.bytes().zip(last_id.bytes()).take_while(|(a, b)| a == b).count();
        // Ids have at most 200 bytes.
        out.push(shared as u8);
        out.push((id.len() - shared) as u8);
        out.extend_from_slice(&id.as_bytes()[shared..]);
        put_varint(&mut out, facts.size);
        put_varint(&mut out, zigzag(facts.mtime_ms.wrapping_sub(last_mtime)));
        out.extend_from_slice(&facts.generation.0);
        (last_id, last_mtime) = (id, facts.mtime_ms);
    }
    out
}

/// Appends the segments of a payload. Nothing is appended if it is not whole, in order and not below
/// `lower`.
pub fn decode_segments(payload: &[u8], lower: &str, into: &mut Packed) -> Result<(), RowError> {
    let mut input = Input(payload);
    let count = input.varint()?;
    if count > ROW_SEGMENTS_MAX as u64 {
        return Err(RowError::Content);
    }
    let mut decoded = Packed::default();
    let (mut id, mut mtime_ms) = (Vec::<u8>::new(), 0i64);
    for _ in 0..count {
        let (shared, rest) = (input.byte()? as usize, input.byte()? as usize);
        if shared > id.len() {
            return Err(RowError::Content);
        }
        id.truncate(shared);
        id.extend_from_slice(input.take(rest)?);
        let text = std::str::from_utf8(&id).map_err(|_| RowError::Content)?;
        SegmentId::parse(text).map_err(|_| RowError::Content)?;
        let size = input.varint()?;
        mtime_ms = mtime_ms.wrapping_add(unzigzag(input.varint()?));
        let generation = Generation(input.array()?);
        if text < lower || !decoded.push(text, Facts { generation, size, mtime_ms }) {
            return Err(RowError::Content);
        }
    }
    if !input.0.is_empty() {
        return Err(RowError::Content);
    }
    match (into.len().checked_sub(1), decoded.is_empty()) {
        (Some(last), false) if into.id(last) >= decoded.id(0) => Err(RowError::Content),
        _ => {
            for (id, facts) in decoded.iter() {
                into.push(id, facts);
            }
            Ok(())
        }
    }
}

fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)) as u64
}

fn unzigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], RowError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(RowError::Content)?;
        self.0 = rest;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, RowError> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RowError> {
        self.take(N)?.try_into().map_err(|_| RowError::Content)
    }

    fn varint(&mut self) -> Result<u64, RowError> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(RowError::Content)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packed() -> impl Strategy<Value = Packed> {
        let facts = (any::<[u8; 16]>(), any::<u64>(), any::<i64>()).prop_map(|(g, size, mtime_ms)| Facts {
            generation: Generation(g),
            size,
            mtime_ms,
        });
        prop::collection::vec(("[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}", facts), 0..50)
            .prop_map(Packed::from_unsorted)
    }

    proptest! {
        #[test]
        fn segments_come_back(segments in packed()) {
            let payload = encode_segments(&segments, 0..segments.len());
            let mut back = Packed::default();
            prop_assert_eq!(decode_segments(&payload, "", &mut back), Ok(()));
            prop_assert_eq!(back, segments);
        }

        #[test]
        fn no_changed_byte_goes_unseen(segments in packed(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let key = Key::Segments("/a", "").encode();
            let mut value = seal(&key, &encode_segments(&segments, 0..segments.len()));
            prop_assert!(unseal(&key, &value).is_ok());
            prop_assert!(unseal(b"/b\0s", &value).is_err());
            let at = at.index(value.len());
            value[at] ^= 1 << bit;
            prop_assert!(unseal(&key, &value).is_err());
        }

        #[test]
        fn garbage_is_an_error_not_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut into = Packed::default();
            if decode_segments(&bytes, "", &mut into).is_err() { prop_assert!(into.is_empty()); }
            let _ = DirState::decode(&bytes);
            let _ = Key::decode(&bytes);
            let _ = unseal(b"k", &bytes);
        }

        #[test]
        fn states_and_keys_come_back(
            seen in prop::option::of((any::<i64>(), any::<[u8; 16]>())), has_subdirs: bool, quiet: bool,
            bad_names: u32, dir in "/[^\0]{0,20}", lower in "[a-z]{0,5}",
        ) {
            let seen = seen.map(|(m, g)| (m, Generation(g)));
            let state = DirState { seen, has_subdirs, quiet, bad_names };
            prop_assert_eq!(DirState::decode(&state.encode()), Ok(state));
            for key in [Key::Directory(&dir), Key::Segments(&dir, &lower)] {
                let bytes = key.encode();
                prop_assert_eq!(Key::decode(&bytes), Ok(key));
            }
        }
    }
}
