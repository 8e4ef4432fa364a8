//! One segment of a generation: a sparse file of its blocks and a file of their checksums.

use std::{
    fs::File,
    io::{self, ErrorKind::UnexpectedEof},
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    directory::create,
    key::{DiskKey, Run},
};

const MAGIC: &[u8; 8] = b"SPRHSUM1";
const HEADER_BYTES: u64 = 40;
const SUM_BYTES: u64 = 8;

/// A use is noted in the file's time this often at most.
const TOUCH: Duration = Duration::from_secs(30);

/// An open segment. Any number of threads and processes may read and write it at once.
#[derive(Debug)]
pub(super) struct Segment {
    key: DiskKey,
    /// Its first block.
    first: u64,
    data: File,
    sums: File,
    touched: Mutex<Option<SystemTime>>,
}

/// What was found of some blocks.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) runs: Vec<Run>,
    /// Blocks that were there with a wrong checksum; they are absent from now on.
    pub(super) corrupt: u64,
}

impl Segment {
    /// Opens segment `number`; `None` if it is not there and not to be made.
    pub(super) fn open(key: &DiskKey, root: &Path, number: u64, make: bool) -> io::Result<Option<Self>> {
        let path = key.segment(root, number);
        let open = |extension: &str| create(&path.with_extension(extension), make);
        // In this order: whoever gives a segment up removes the checksums first, so those that are
        // found here never stand for another's data.
        let opened = open("data").and_then(|data| Ok((data, open("sums")?)));
        let (data, sums) = match opened {
            Ok(files) => files,
            Err(error) if !make && error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let first = number * key.blocks_per_segment();
        let segment = Self { key: *key, first, data, sums, touched: Mutex::new(None) };
        segment.check_header(make)?;
        Ok(Some(segment))
    }

    fn header(&self) -> [u8; HEADER_BYTES as usize] {
        let mut header = [0; HEADER_BYTES as usize];
        header[..8].copy_from_slice(MAGIC);
        header[8..24].copy_from_slice(&self.key.digest().to_le_bytes());
        header[24..32].copy_from_slice(&self.first.to_le_bytes());
        let sum = xxh3_64(&header[..32]);
        header[32..].copy_from_slice(&sum.to_le_bytes());
        header
    }

    /// A file of checksums with a wrong header is emptied: none of them can be trusted.
    fn check_header(&self, make: bool) -> io::Result<()> {
        let (expected, mut found) = (self.header(), [0; HEADER_BYTES as usize]);
        match self.sums.read_exact_at(&mut found, 0) {
            Ok(()) if found == expected => return Ok(()),
            Ok(()) => self.sums.set_len(0)?,
            // Just made, by us or by somebody who has not come further yet.
            Err(error) if error.kind() == UnexpectedEof => {}
            Err(error) => return Err(error),
        }
        if make { self.sums.write_all_at(&expected, 0) } else { Ok(()) }
    }

    /// Whether it was given up meanwhile: what is written to it is lost.
    pub(super) fn is_gone(&self) -> bool {
        self.sums.metadata().map_or(true, |sums| sums.nlink() == 0)
            || self.data.metadata().map_or(true, |data| data.nlink() == 0)
    }

    /// Notes that it is in use.
    pub(super) fn touch(&self) -> io::Result<()> {
        let now = SystemTime::now();
        {
            let mut touched = self.touched.lock();
            if touched.is_some_and(|last| now.duration_since(last).is_ok_and(|since| since < TOUCH)) {
                return Ok(());
            }
            *touched = Some(now);
        }
        self.sums.set_modified(now)
    }

    /// The checksums of `blocks`; 0 for what is absent.
    pub(super) fn sums(&self, blocks: &Range<u64>) -> io::Result<Vec<u64>> {
        let mut bytes = vec![0; ((blocks.end - blocks.start) * SUM_BYTES) as usize];
        let mut filled = 0;
        let start = self.place(blocks.start);
        while filled < bytes.len() {
            match self.sums.read_at(&mut bytes[filled..], start + filled as u64) {
                // The file is as long as its last present block needs.
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let whole = filled - filled % SUM_BYTES as usize;
        bytes[whole..].fill(0);
        Ok(bytes.as_chunks().0.iter().map(|sum| u64::from_le_bytes(*sum)).collect())
    }

    /// Those of `blocks` that are present and whole.
    pub(super) fn read(&self, blocks: &Range<u64>) -> io::Result<Found> {
        let sums = self.sums(blocks)?;
        let mut found = Found::default();
        let mut at = 0;
        while at < sums.len() {
            let len = sums[at..].iter().take_while(|&&sum| sum != 0).count();
            if len > 0 {
                let run = blocks.start + at as u64..blocks.start + (at + len) as u64;
                self.read_run(&run, &sums[at..at + len], &mut found)?;
            }
            at += len.max(1);
        }
        Ok(found)
    }

    fn read_run(&self, blocks: &Range<u64>, sums: &[u64], found: &mut Found) -> io::Result<()> {
        let mut bytes = BytesMut::zeroed(self.key.bytes(blocks));
        let read = self.read_up_to(&mut bytes, self.offset(blocks.start))?;
        let bytes = bytes.freeze();
        let block_bytes = self.key.block_bytes as usize;
        let mut good = blocks.start..blocks.start;
        let slice = |good: &Range<u64>| {
            let start = (good.start - blocks.start) as usize * block_bytes;
            let end = ((good.end - blocks.start) as usize * block_bytes).min(bytes.len());
            Run { blocks: good.clone(), bytes: bytes.slice(start..end) }
        };
        for ((block, chunk), &sum) in blocks.clone().zip(bytes.chunks(block_bytes)).zip(sums) {
            let end = (block - blocks.start) as usize * block_bytes + chunk.len();
            if end <= read && self.key.sum(block, chunk) == sum {
                good.end = block + 1;
                continue;
            }
            // Not written again until the next write: here it is only made absent.
            self.sums.write_all_at(&[0; SUM_BYTES as usize], self.place(block))?;
            found.corrupt += 1;
            if !good.is_empty() {
                found.runs.push(slice(&good));
            }
            good = block + 1..block + 1;
        }
        if !good.is_empty() {
            found.runs.push(slice(&good));
        }
        Ok(())
    }

    fn read_up_to(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.data.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Writes blocks from `first` on. The checksums come last: what ends in between is absent.
    pub(super) fn write(&self, first: u64, bytes: &Bytes) -> io::Result<()> {
        let block_bytes = self.key.block_bytes as usize;
        self.data.write_all_at(bytes, self.offset(first))?;
        let sums: Vec<u8> = (first..)
            .zip(bytes.chunks(block_bytes))
            .flat_map(|(block, chunk)| self.key.sum(block, chunk).to_le_bytes())
            .collect();
        self.sums.write_all_at(&sums, self.place(first))
    }

    fn place(&self, block: u64) -> u64 {
        HEADER_BYTES + (block - self.first) * SUM_BYTES
    }

    fn offset(&self, block: u64) -> u64 {
        (block - self.first) * self.key.block_bytes
    }
}
