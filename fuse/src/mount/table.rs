//! The mount table, `/proc/self/mountinfo`: the only way to know of a mount without touching it.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use super::FS_TYPE;
use crate::error::{Error, ErrorKind, Result};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Number of the mount, new for each mount while the old one lives.
    pub id: u64,
    /// Device number, minor part. Of a FUSE mount: its connection below `/sys/fs/fuse/connections`.
    pub minor: u32,
    /// Where it is mounted.
    pub dir: PathBuf,
    /// Type, such as `fuse.springhouse`.
    pub fs_type: String,
    /// Source: the store's URL of our mounts.
    pub source: String,
}

impl MountEntry {
    /// Whether it is one of Springhouse's.
    pub fn is_ours(&self) -> bool {
        self.fs_type == FS_TYPE
    }
}

/// The mounts this process sees, in the order of mounting.
pub fn read_table() -> Result<Vec<MountEntry>> {
    let text = fs::read("/proc/self/mountinfo")
        .map_err(|error| Error::from_io(&error, "cannot read the mount table /proc/self/mountinfo"))?;
    Ok(parse(&text))
}

/// The mounts in the text of a `mountinfo` file. Lines that do not look right are left out.
pub fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    // 36 35 98:0 /root /mnt/point rw,noatime master:1 - ext3 /dev/root rw
    let mut fields = line.split(|&byte| byte == b' ');
    let id = number(fields.next()?)?;
    let _parent = fields.next()?;
    let device = fields.next()?;
    let minor = number(device.split(|&byte| byte == b':').nth(1)?)?;
    let _root = fields.next()?;
    let dir = PathBuf::from(OsString::from_vec(unescape(fields.next()?)));
    // Optional fields end with a single hyphen.
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape(field)).into_owned();
    let fs_type = text(rest.next()?);
    let source = text(rest.next()?);
    Some(MountEntry { id, minor, dir, fs_type, source })
}

fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Blank, tab, line feed, backslash and `#` stand as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)))
            .and_then(|digits| digits.iter().try_fold(0_u8, |n, d| n.checked_mul(8)?.checked_add(d - b'0')));
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

/// What is mounted at `dir`, a path as [`locate`] gives it; the topmost if several are.
pub fn mounted_at(dir: &Path) -> Result<Option<MountEntry>> {
    Ok(read_table()?.into_iter().rev().find(|entry| entry.dir == dir))
}

/// As many symbolic links as the kernel follows.
const LINKS_MAX: usize = 40;

/// The absolute path of a mount point as the mount table writes it.
///
/// Resolves the parent only, so a dead or hung mount at `dir` itself is never touched; a symbolic link
/// to a mount point is followed after the table was asked.
pub fn locate(dir: &Path) -> Result<PathBuf> {
    let failed = |error: &io::Error| match error.kind() {
        io::ErrorKind::NotFound => Error::new(
            ErrorKind::NotFound,
            format!("mount point {0} does not exist; make it with: mkdir -p {0}", dir.display()),
        ),
        _ => Error::from_io(error, format!("mount point {}", dir.display())),
    };
    let mut wanted = std::path::absolute(dir).map_err(|error| failed(&error))?;
    for _ in 0..LINKS_MAX {
        let path = match (wanted.parent(), wanted.file_name()) {
            (Some(parent), Some(name)) => {
                fs::canonicalize(parent).map_err(|error| failed(&error))?.join(name)
            }
            // `/`, or a path that ends in `..`.
            _ => fs::canonicalize(&wanted).map_err(|error| failed(&error))?,
        };
        if read_table()?.iter().any(|entry| entry.dir == path) {
            return Ok(path);
        }
        match fs::read_link(&path) {
            Ok(target) => wanted = path.parent().unwrap_or(Path::new("/")).join(target),
            Err(_) => return Ok(path),
        }
    }
    let message = format!("mount point {} is a symbolic link in a circle", dir.display());
    Err(Error::new(ErrorKind::InvalidArgument, message))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_of_a_table() {
        let text = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
            40 27 0:48 / /tmp/a\\040b\\134c ro,nosuid shared:7 master:2 - fuse.springhouse hdfs://nn:1/x\\040y ro\n\
            broken line\n";
        let table = parse(text);
        assert_eq!(table.len(), 2);
        assert_eq!(
            table[1],
            MountEntry {
                id: 40,
                minor: 48,
                dir: "/tmp/a b\\c".into(),
                fs_type: "fuse.springhouse".into(),
                source: "hdfs://nn:1/x y".into(),
            }
        );
        assert!(table[1].is_ours() && !table[0].is_ours());
    }

    #[test]
    fn own_table_has_proc() {
        let proc = mounted_at(Path::new("/proc")).expect("readable").expect("mounted");
        assert_eq!(proc.fs_type, "proc");
    }

    #[test]
    fn links_to_nowhere_in_particular() {
        let dir = tempfile::tempdir().expect("a directory");
        let real = fs::canonicalize(dir.path()).expect("exists");
        fs::create_dir(real.join("point")).expect("made");
        std::os::unix::fs::symlink("point", real.join("link")).expect("linked");
        assert_eq!(locate(&real.join("link")).expect("found"), real.join("point"));
        std::os::unix::fs::symlink("circle", real.join("circle")).expect("linked");
        assert!(locate(&real.join("circle")).is_err());
        let missing = locate(&real.join("no/such")).expect_err("missing");
        assert!(missing.message().contains("mkdir -p"), "{missing}");
    }

    proptest! {
        #[test]
        fn escapes_are_undone(name in "[ -~\t\n]{1,40}") {
            let mut escaped = String::new();
            for byte in name.bytes() {
                match byte {
                    b' ' | b'\t' | b'\n' | b'\\' | b'#' => escaped.push_str(&format!("\\{byte:03o}")),
                    _ => escaped.push(char::from(byte)),
                }
            }
            prop_assert_eq!(unescape(escaped.as_bytes()), name.as_bytes());
        }

        #[test]
        fn any_bytes_are_survived(text in prop::collection::vec(any::<u8>(), 0..300)) {
            parse(&text);
        }
    }
}
