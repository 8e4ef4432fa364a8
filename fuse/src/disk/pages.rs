//! Pages learnt of a generation: one small file, whole or not at all.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_64;

use super::key::DiskKey;

const MAGIC: &[u8; 8] = b"SPRHPAG1";

/// Longest file that is read: a damaged length must not fill the memory.
pub(super) const FILE_BYTES_MAX: u64 = 256 << 20;

/// The file for `pages`: magic, key, count, an offset and a length for each, the bytes, a checksum.
pub(super) fn encode(key: &DiskKey, pages: &[(u64, Bytes)]) -> Bytes {
    let len: usize = pages.iter().map(|(_, page)| page.len() + 12).sum();
    let mut file = BytesMut::with_capacity(len + 40);
    file.put_slice(MAGIC);
    file.put_u128_le(key.digest());
    file.put_u64_le(pages.len() as u64);
    for (offset, page) in pages {
        file.put_u64_le(*offset);
        file.put_u32_le(page.len() as u32);
    }
    for (_, page) in pages {
        file.put_slice(page);
    }
    let sum = xxh3_64(&file);
    file.put_u64_le(sum);
    file.freeze()
}

/// The pages of a file; `None` if it is not one of this key, or damaged.
pub(super) fn decode(key: &DiskKey, file: &Bytes) -> Option<Vec<(u64, Bytes)>> {
    let end = file.len().checked_sub(8)?;
    if xxh3_64(&file[..end]) != (&file[end..]).get_u64_le() {
        return None;
    }
    let mut rest = file.slice(..end);
    let magic = rest.try_get_u64_le().ok()?.to_le_bytes();
    if magic != *MAGIC || rest.try_get_u128_le().ok()? != key.digest() {
        return None;
    }
    let count = usize::try_from(rest.try_get_u64_le().ok()?).ok()?;
    let table_bytes = count.checked_mul(12).filter(|&bytes| bytes <= rest.len())?;
    let mut table = rest.split_to(table_bytes);
    let mut pages = Vec::with_capacity(count);
    while table.has_remaining() {
        let (offset, len) = (table.get_u64_le(), table.get_u32_le() as usize);
        let inside = offset.checked_add(len as u64).is_some_and(|end| end <= key.len);
        if !inside || len > rest.len() {
            return None;
        }
        pages.push((offset, rest.split_to(len)));
    }
    Some(pages)
}
