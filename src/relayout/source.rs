//! The file that is read: its header, strictly, and its pages.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use springhouse_fuse::sqlite::{HEADER_BYTES, Header};

use super::error::{RelayoutError, damaged};

/// See the module.
#[derive(Debug)]
pub(super) struct Source {
    file: File,
    pub(super) header: Header,
    /// The first 100 bytes.
    pub(super) head: [u8; HEADER_BYTES],
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, RelayoutError> {
        for ending in ["-wal", "-journal"] {
            let mut beside = path.as_os_str().to_owned();
            beside.push(ending);
            if Path::new(&beside).try_exists().map_err(RelayoutError::io("looking for a journal"))? {
                return Err(unfit(format!("there is a {} file beside it: it is not closed", &ending[1..])));
            }
        }
        let file = File::open(path).map_err(RelayoutError::io("opening the database"))?;
        let len = file.metadata().map_err(RelayoutError::io("opening the database"))?.len();
        let mut head = [0; HEADER_BYTES];
        if len < HEADER_BYTES as u64 {
            return Err(unfit(format!("it has {len} bytes, less than a header")));
        }
        file.read_exact_at(&mut head, 0).map_err(RelayoutError::io("reading the database"))?;
        let header =
            Header::parse(&head, len).ok_or_else(|| unfit("it does not begin like a database".into()))?;
        if head[18..20] != [1, 1] {
            return Err(unfit("it is in WAL mode: copy it with VACUUM INTO first".into()));
        }
        if len != u64::from(header.pages) * u64::from(header.page_bytes) {
            return Err(RelayoutError::Damaged(format!(
                "the file has {len} bytes, its header says {} pages of {}",
                header.pages, header.page_bytes
            )));
        }
        Ok(Self { file, header, head })
    }

    /// Reads `page` into `to`, a page long.
    pub(super) fn read(&self, page: u32, to: &mut [u8]) -> Result<(), RelayoutError> {
        self.read_start(page, to)
    }

    /// Reads the number at the start of an overflow page: the next page of its chain, 0 at the end.
    pub(super) fn next_of(&self, page: u32) -> Result<u32, RelayoutError> {
        let mut next = [0; 4];
        self.read_start(page, &mut next)?;
        Ok(u32::from_be_bytes(next))
    }

    fn read_start(&self, page: u32, to: &mut [u8]) -> Result<(), RelayoutError> {
        if page == 0 || page > self.header.pages {
            return Err(damaged(page, format!("the database has {} pages", self.header.pages)));
        }
        let at = u64::from(page - 1) * u64::from(self.header.page_bytes);
        self.file.read_exact_at(to, at).map_err(RelayoutError::io("reading the database"))
    }

    pub(super) fn page_buffer(&self) -> Vec<u8> {
        vec![0; self.header.page_bytes as usize]
    }
}

fn unfit(why: String) -> RelayoutError {
    RelayoutError::Unfit(why)
}
