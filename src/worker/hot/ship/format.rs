//! A shipped file: some pages of a database as of one transaction, and the idempotency keys up to it.
//!
//! ```text
//! "springhouse shipped 1\n" │ length of the header, 4 bytes │ header, JSON │ keys, as the file of keys has them
//!   │ for each page: its number, 4 bytes, and the page │ xxh3-128 of all before, 16 bytes
//! ```
//! Numbers are big endian. A head holds all pages, or those that differ from a generation in the store; each
//! further file holds what changed since the one before it, whose checksum it names. So a chain cannot be
//! put together from files that do not belong together.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
};

use serde::{Deserialize, Serialize};
use springhouse_gateway::api::hot::Token;
use xxhash_rust::xxh3::Xxh3;

use crate::query::write::{PageSet, Pages, Pinned};

const MAGIC: &[u8] = b"springhouse shipped 1\n";
const CHECKSUM_BYTES: usize = 16;
/// Longest header; whoever reads so many bytes from the start of a file has all of it.
pub(super) const HEADER_BYTES_MAX: usize = 16 << 10;
/// Bytes read or written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) segment: String,
    pub(super) token: Token,
    pub(super) sequence: u64,
    /// Sequence of the head of its chain; its own: it is one.
    pub(super) first: u64,
    /// Generation that the head's pages differ from; `None`: the head has all pages.
    pub(super) base: Option<String>,
    /// Checksum of the file before it; `None`: a head.
    pub(super) previous: Option<String>,
    /// The last transaction that is in it.
    pub(super) change: u64,
    pub(super) page_bytes: u32,
    /// Pages of the database.
    pub(super) pages: u32,
    /// Pages in the file.
    pub(super) page_count: u64,
    pub(super) keys_bytes: u64,
    /// What the header field held in which transactions are counted.
    pub(super) field: u32,
}

impl Header {
    pub(super) fn is_head(&self) -> bool {
        self.first == self.sequence
    }

    /// Length of the file with a header of `header` bytes.
    fn file_bytes(&self, header: u64) -> Option<u64> {
        let page = u64::from(self.page_bytes) + 4;
        (MAGIC.len() as u64 + 4 + CHECKSUM_BYTES as u64)
            .checked_add(header)?
            .checked_add(self.keys_bytes)?
            .checked_add(self.page_count.checked_mul(page)?)
    }

    fn is_sane(&self) -> bool {
        self.page_bytes.is_power_of_two()
            && (512..=65_536).contains(&self.page_bytes)
            && self.pages > 0
            && self.page_count <= u64::from(self.pages)
            && self.first <= self.sequence
            && self.is_head() == self.previous.is_none()
    }
}

/// The header at the start of a file of which `bytes` are the first, and where the rest begins.
pub(super) fn parse(bytes: &[u8]) -> Result<(Header, usize), String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("it is no shipped file of this version")?;
    let (len, rest) = rest.split_first_chunk::<4>().ok_or("it is cut short")?;
    let len = u32::from_be_bytes(*len) as usize;
    let json = rest.get(..len).filter(|_| len <= HEADER_BYTES_MAX).ok_or("its header is cut short")?;
    let header: Header = serde_json::from_slice(json).map_err(|error| format!("its header: {error}"))?;
    if !header.is_sane() {
        return Err("its header makes no sense".into());
    }
    Ok((header, MAGIC.len() + 4 + len))
}

/// Writes a file, chunk by chunk. Blocks.
pub(super) struct Encoder {
    pinned: Pinned,
    pages: std::vec::IntoIter<u32>,
    start: Option<Vec<u8>>,
    hash: Xxh3,
    done: bool,
}

impl Encoder {
    /// Of `pages` of what `pinned` sees; `describe` makes the header from their number.
    pub(super) fn new(
        mut pinned: Pinned,
        pages: &Pages,
        describe: impl FnOnce(&Pinned, u64) -> Header,
    ) -> io::Result<Self> {
        let last = pinned.pages();
        let numbers: Vec<u32> = match pages {
            Pages::All => (1..=last).collect(),
            // Others were cut off.
            Pages::These(pages) => pages.iter().filter(|page| *page <= last).collect(),
        };
        let header = describe(&pinned, numbers.len() as u64);
        let json = serde_json::to_vec(&header)?;
        if json.len() > HEADER_BYTES_MAX {
            return Err(io::Error::other("the header is too long"));
        }
        let mut start = MAGIC.to_vec();
        start.extend_from_slice(&(json.len() as u32).to_be_bytes());
        start.extend_from_slice(&json);
        start.append(&mut pinned.keys);
        Ok(Self { pinned, pages: numbers.into_iter(), start: Some(start), hash: Xxh3::new(), done: false })
    }

    /// The next bytes; `None` after the last.
    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.done {
            return Ok(None);
        }
        let mut chunk = self.start.take().unwrap_or_default();
        while chunk.len() < CHUNK_BYTES {
            let Some(page) = self.pages.next() else {
                self.hash.update(&chunk);
                chunk.extend_from_slice(&self.hash.digest128().to_be_bytes());
                self.done = true;
                return Ok(Some(chunk));
            };
            chunk.extend_from_slice(&page.to_be_bytes());
            let at = chunk.len();
            chunk.resize(at + self.pinned.page_bytes() as usize, 0);
            self.pinned.read(page, &mut chunk[at..])?;
        }
        self.hash.update(&chunk);
        Ok(Some(chunk))
    }

    /// Of the whole file, once its end was written.
    pub(super) fn checksum(&self) -> String {
        format!("{:032x}", self.hash.digest128())
    }
}

/// A whole file on a local disk.
#[derive(Debug)]
pub(super) struct Shipped {
    file: File,
    pub(super) header: Header,
    body: u64,
    /// As the next file names it.
    pub(super) checksum: String,
}

impl Shipped {
    /// Reads all of it, and believes it if its checksum is right; otherwise why not. Blocks.
    pub(super) fn open(file: File) -> io::Result<Result<Self, String>> {
        let len = file.metadata()?.len();
        let mut start = Vec::new();
        (&file).take((MAGIC.len() + 4 + HEADER_BYTES_MAX) as u64).read_to_end(&mut start)?;
        let (header, body) = match parse(&start) {
            Ok(parsed) => parsed,
            Err(why) => return Ok(Err(why)),
        };
        let header_bytes = (body - MAGIC.len() - 4) as u64;
        if header.file_bytes(header_bytes) != Some(len) {
            return Ok(Err(format!("it has {len} bytes, which is not what its header says")));
        }
        let (mut hash, mut at) = (Xxh3::new(), 0);
        let end = len - CHECKSUM_BYTES as u64;
        let mut buffer = vec![0; CHUNK_BYTES];
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            file.read_exact_at(&mut buffer[..most], at)?;
            hash.update(&buffer[..most]);
            at += most as u64;
        }
        let mut checksum = [0; CHECKSUM_BYTES];
        file.read_exact_at(&mut checksum, end)?;
        if u128::from_be_bytes(checksum) != hash.digest128() {
            return Ok(Err("its checksum is another".into()));
        }
        let checksum = format!("{:032x}", hash.digest128());
        Ok(Ok(Self { file, header, body: body as u64, checksum }))
    }

    /// Its idempotency keys.
    pub(super) fn keys(&self) -> io::Result<Vec<u8>> {
        // `open` found the file to be as long as its header says.
        let mut keys = vec![0; usize::try_from(self.header.keys_bytes).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut keys, self.body)?;
        Ok(keys)
    }

    /// Puts its pages into `target`, and gives that the length that the database has. Blocks.
    pub(super) fn apply(&self, target: &File, changed: &mut PageSet) -> io::Result<()> {
        let page_bytes = u64::from(self.header.page_bytes);
        let mut at = self.body + self.header.keys_bytes;
        let mut record = vec![0; 4 + self.header.page_bytes as usize];
        for _ in 0..self.header.page_count {
            self.file.read_exact_at(&mut record, at)?;
            let page = u32::from_be_bytes([record[0], record[1], record[2], record[3]]);
            if page == 0 || page > self.header.pages {
                return Err(io::Error::other(format!("a page {page} of {}", self.header.pages)));
            }
            target.write_all_at(&record[4..], u64::from(page - 1) * page_bytes)?;
            changed.insert(page);
            at += record.len() as u64;
        }
        target.set_len(u64::from(self.header.pages) * page_bytes)
    }
}
