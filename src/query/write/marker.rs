//! The number of a database's last transaction, in 31 bits of its header.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

/// Where the header has the suggested size of the cache: 4 bytes, big endian. SQLite calls it
/// deprecated and keeps it through `VACUUM`.
const OFFSET: u64 = 48;

/// What the field can count to: SQLite takes the absolute value of a signed number of 32 bits.
const MODULUS: u64 = 1 << 31;

/// The field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker(pub u32);

impl Marker {
    /// For transaction `change`.
    pub fn of(change: u64) -> Self {
        Self((change % MODULUS) as u32)
    }

    /// The transaction that it stands for, if that is `base` or one of the 2^31 - 1 after it.
    pub fn change(self, base: u64) -> u64 {
        let ahead = (u64::from(self.0) + MODULUS - base % MODULUS) % MODULUS;
        base + ahead
    }

    /// Of the file at `path`, which nobody writes now and which has no log.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut bytes = [0; 4];
        File::open(path)?.read_exact_at(&mut bytes, OFFSET)?;
        Ok(Self(u32::from_be_bytes(bytes)))
    }

    /// Puts it into the file at `path`, which nobody else has open; not yet durable.
    pub fn write(self, path: &Path) -> io::Result<()> {
        File::options().write(true).open(path)?.write_all_at(&self.0.to_be_bytes(), OFFSET)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_change_is_found_again_from_any_base_before_it(base in 0_u64..1 << 53, ahead in 0_u64..MODULUS) {
            prop_assert_eq!(Marker::of(base + ahead).change(base), base + ahead);
        }
    }
}
