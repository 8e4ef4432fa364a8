//! Varints and records: what the cells of b-tree pages are made of.

use xxhash_rust::xxh3::Xxh3;

use super::header::Encoding;

/// The variable-length integer at the start of `bytes`, and its length in bytes.
pub(super) fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (i, &byte) in bytes.iter().take(9).enumerate() {
        if i == 8 {
            return Some((value << 8 | u64::from(byte), 9));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            return Some((value, i + 1));
        }
    }
    None
}

/// Bytes that a column of this serial type takes in the body.
fn body_bytes(serial: u64) -> Option<usize> {
    Some(match serial {
        0 | 8 | 9 => 0,
        1..=4 => serial as usize,
        5 => 6,
        6 | 7 => 8,
        10 | 11 => return None,
        _ => usize::try_from((serial - 12) / 2).ok()?,
    })
}

/// One column of a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column<'a> {
    serial: u64,
    body: &'a [u8],
}

impl Column<'_> {
    pub(super) fn integer(&self) -> Option<i64> {
        match self.serial {
            1..=6 => {
                let negative = self.body.first().is_some_and(|&byte| byte >= 0x80);
                let start = if negative { -1_i64 } else { 0 };
                Some(self.body.iter().fold(start, |value, &byte| value << 8 | i64::from(byte)))
            }
            8 => Some(0),
            9 => Some(1),
            _ => None,
        }
    }

    pub(super) fn text(&self, encoding: Encoding) -> Option<String> {
        if self.serial < 13 || self.serial.is_multiple_of(2) {
            return None;
        }
        let unit = match encoding {
            Encoding::Utf8 => return String::from_utf8(self.body.to_vec()).ok(),
            Encoding::Utf16Le => u16::from_le_bytes,
            Encoding::Utf16Be => u16::from_be_bytes,
        };
        let units: Vec<u16> = self.body.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        String::from_utf16(&units).ok()
    }
}

/// The first `count` columns of a record of which at least those are here.
pub(super) fn columns(payload: &[u8], count: usize) -> Option<Vec<Column<'_>>> {
    let (header_len, mut at) = varint(payload)?;
    let header_len = usize::try_from(header_len).ok()?;
    let header = payload.get(..header_len)?;
    let mut body = &payload[header_len..];
    let mut columns = Vec::with_capacity(count);
    while columns.len() < count {
        let (serial, len) = varint(header.get(at..)?)?;
        at += len;
        let (column, rest) = body.split_at_checked(body_bytes(serial)?)?;
        columns.push(Column { serial, body: column });
        body = rest;
    }
    Some(columns)
}

/// An entry of an index: the rowid that is its last column, and a hash of all columns before it.
pub(super) fn index_entry(payload: &[u8]) -> Option<(i64, u64)> {
    let (header_len, start) = varint(payload)?;
    let header_len = usize::try_from(header_len).ok()?;
    let header = payload.get(..header_len)?;
    let (mut at, mut last_at) = (start, start);
    let (mut body_at, mut last_body_at, mut last) = (header_len, header_len, None);
    while at < header_len {
        let (serial, len) = varint(&header[at..])?;
        last_at = at;
        last_body_at = body_at;
        at += len;
        body_at = body_at.checked_add(body_bytes(serial)?)?;
        last = Some(serial);
    }
    let rowid = Column { serial: last?, body: payload.get(last_body_at..body_at)? }.integer()?;
    let mut key = Xxh3::new();
    key.update(&header[start.min(last_at)..last_at]);
    key.update(&payload[header_len..last_body_at]);
    Some((rowid, key.digest()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_of_every_length() {
        assert_eq!(varint(&[0x7f]), Some((127, 1)));
        assert_eq!(varint(&[0x81, 0x00]), Some((128, 2)));
        assert_eq!(varint(&[0xff; 9]), Some((u64::MAX, 9)));
        assert_eq!(varint(&[0x80; 9]), Some((0x80, 9)));
        assert_eq!(varint(&[0x80; 8]), None, "cut off");
        assert_eq!(varint(&[]), None);
    }

    #[test]
    fn an_entry_is_its_key_and_its_rowid() {
        // Header of 4 bytes: text of 1 byte, integer of 2 bytes.
        let entry = |text: u8, high: u8, low: u8| index_entry(&[3, 15, 2, text, high, low]);
        let (rowid, key) = entry(b'a', 0x01, 0x02).expect("an entry");
        assert_eq!(rowid, 258);
        assert_eq!(entry(b'a', 0xff, 0xff).expect("an entry"), (-1, key));
        assert_ne!(entry(b'b', 0x01, 0x02).expect("an entry").1, key);
        // The same key with a rowid of another size has the same hash.
        assert_eq!(index_entry(&[3, 15, 8, b'a']), Some((0, key)));
        assert_eq!(index_entry(&[3, 15, 2, b'a', 1]), None, "cut off");
        assert_eq!(index_entry(&[3, 15, 15, b'a', b'b']), None, "no rowid");
    }
}
