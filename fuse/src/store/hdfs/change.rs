//! Changing what is there: its end, its mode and owner, its times. And one directory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use hdfs_native::WriteOptions;

use super::{client::Connection, file_status, status, writer::HdfsWriter};
use crate::{
    error::{Error, ErrorKind, Result},
    store::{AttributeChanges, Metadata},
};

/// Bytes per checksum: what a block size must be a multiple of.
const CHUNK_BYTES: u64 = 512;
/// As a time this leaves it as it was: -1 to the NameNode.
const UNCHANGED: u64 = u64::MAX;

/// A block size that is no multiple of the checksummed chunk is accepted by the NameNode, and fails at
/// the end of the first HDFS block.
pub(super) fn check_block_size(at: &str, block_size: u64) -> Result<()> {
    if block_size == 0 || !block_size.is_multiple_of(CHUNK_BYTES) {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("{at}: an HDFS block size of {block_size}: must be a multiple of {CHUNK_BYTES}"),
        ));
    }
    Ok(())
}

/// Opens a file at its end.
pub(super) async fn append(connection: &Arc<Connection>, at: String) -> Result<(HdfsWriter, u64)> {
    let asked = at.clone();
    let opened = connection.open_writer(&at, |client| async move { client.append(&asked).await }).await;
    let file = match opened {
        Ok(file) => file,
        // Told of a directory, which "exists already".
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(match file_status(connection, &at).await {
                Err(other) if other.kind() == ErrorKind::IsADirectory => other,
                _ => error,
            });
        }
        Err(error) => return Err(error),
    };
    // The lease is ours: nobody else moves the end.
    match file_status(connection, &at).await {
        Ok(found) => Ok((HdfsWriter::new(connection, at, file, found.len), found.len)),
        Err(error) => {
            // Given back now instead of in a minute. If that fails too, the first error says why.
            let _ = HdfsWriter::new(connection, at, file, 0).finish().await;
            Err(error)
        }
    }
}

/// Sets a file's length, where that can be done.
pub(super) async fn truncate(connection: &Arc<Connection>, at: &str, len: u64) -> Result<()> {
    let found = file_status(connection, at).await?;
    if found.len == len {
        return Ok(());
    }
    if len > 0 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "{at}: HDFS's client cannot cut a file to {len} bytes, only to 0; mount with --write-mode staged"
            ),
        ));
    }
    let restored = ownership_of_new(connection, at, &found).await?;
    let options = WriteOptions::default()
        .overwrite(true)
        .create_parent(false)
        .permission(found.mode)
        .replication(found.replication)
        .block_size(found.block_size);
    create_empty(connection, at, options).await?;
    if restored == Ownership::ToBeSet {
        set_owner(connection, at, Some(&found.owner), Some(&found.group)).await?;
    }
    Ok(())
}

/// What a file made by us has to get to belong to whom another belongs.
#[derive(Debug, PartialEq, Eq)]
enum Ownership {
    Same,
    ToBeSet,
}

/// Finds out, before anything is changed, whether a new file in the place of `found` can belong to the
/// same owner and group: by making another one beside it. Nobody but the NameNode knows whom it takes us
/// for, which group a new file gets, and whether we may give it away.
async fn ownership_of_new(connection: &Arc<Connection>, at: &str, found: &Metadata) -> Result<Ownership> {
    static PROBES: AtomicU64 = AtomicU64::new(0);
    let (parent, name) = at.rsplit_once('/').unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    // Short of the longest name, whatever the file's own.
    let name: String = name.chars().take(32).collect();
    let probe =
        format!("{parent}/.{name}._COPYING_.{}.{now}.{}", std::process::id(), PROBES.fetch_add(1, Relaxed));
    create_empty(connection, &probe, WriteOptions::default().create_parent(false).permission(0o600)).await?;
    let outcome = async {
        let new = file_status(connection, &probe).await?;
        if (&new.owner, &new.group) == (&found.owner, &found.group) {
            return Ok(Ownership::Same);
        }
        match set_owner(connection, &probe, Some(&found.owner), Some(&found.group)).await {
            Ok(()) => Ok(Ownership::ToBeSet),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{at}: HDFS's client cuts a file by making a new one, and this user may not give it to \
                     {}:{}; mount with --write-mode staged",
                    found.owner, found.group
                ),
            )),
            Err(error) => Err(error),
        }
    };
    let outcome = outcome.await;
    let gone = probe.clone();
    let removed = connection.call(&probe, |client| async move { client.delete(&gone, false).await }).await;
    if let Err(error) = removed {
        tracing::warn!(%probe, %error, "a temporary file stays behind");
    }
    outcome
}

async fn create_empty(connection: &Connection, at: &str, options: WriteOptions) -> Result<()> {
    let asked = at.to_owned();
    let create = |client: Arc<hdfs_native::Client>| async move {
        let mut file = client.create(&asked, options).await?;
        file.close().await
    };
    connection.call(at, create).await
}

async fn set_owner(
    connection: &Connection,
    at: &str,
    owner: Option<&str>,
    group: Option<&str>,
) -> Result<()> {
    let (asked, owner, group) = (at.to_owned(), owner.map(str::to_owned), group.map(str::to_owned));
    let set = |client: Arc<hdfs_native::Client>| async move {
        client.set_owner(&asked, owner.as_deref(), group.as_deref()).await
    };
    connection.call(at, set).await
}

/// Changes attributes. HDFS keeps the permission bits and the sticky bit, and times in ms.
pub(super) async fn set_attributes(
    connection: &Connection,
    at: &str,
    changes: &AttributeChanges,
) -> Result<()> {
    if changes.owner.is_some() || changes.group.is_some() {
        set_owner(connection, at, changes.owner.as_deref(), changes.group.as_deref()).await?;
    }
    if let Some(mode) = changes.mode {
        let asked = at.to_owned();
        let set = |client: Arc<hdfs_native::Client>| async move {
            client.set_permission(&asked, mode & 0o7777).await
        };
        connection.call(at, set).await?;
    }
    match (changes.mtime, changes.atime) {
        (None, None) => Ok(()),
        (mtime, atime) => {
            match set_times(connection, at, mtime, atime).await {
                // A cluster that keeps no access times: `cp -p` and `tar` set both, and mean the other.
                Err(error) if error.kind() == ErrorKind::Unsupported && mtime.is_some() => {
                    set_times(connection, at, mtime, None).await
                }
                outcome => outcome,
            }
        }
    }
}

async fn set_times(
    connection: &Connection,
    at: &str,
    mtime: Option<SystemTime>,
    atime: Option<SystemTime>,
) -> Result<()> {
    let (mtime, atime) = (milliseconds(at, mtime)?, milliseconds(at, atime)?);
    let asked = at.to_owned();
    let set = |client: Arc<hdfs_native::Client>| async move { client.set_times(&asked, mtime, atime).await };
    connection.call(at, set).await
}

/// Whether the user may write: he who may not may not set times either, and to set none changes nothing.
pub(super) async fn check_writable(connection: &Connection, at: &str) -> Result<()> {
    set_times(connection, at, None, None).await
}

fn milliseconds(at: &str, time: Option<SystemTime>) -> Result<u64> {
    let Some(time) = time else { return Ok(UNCHANGED) };
    let since = time.duration_since(UNIX_EPOCH).ok();
    since.and_then(|since| i64::try_from(since.as_millis()).ok()).map(i64::cast_unsigned).ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, format!("{at}: HDFS keeps no times before 1970"))
    })
}

/// Makes one directory. The NameNode takes one that is there for made.
pub(super) async fn make_dir(connection: &Connection, at: &str, mode: Option<u32>) -> Result<()> {
    match status(connection, at).await {
        Ok(_) => {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("{at}: exists already")));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let asked = at.to_owned();
    let mode = mode.unwrap_or(0o755) & 0o7777;
    let make = |client: Arc<hdfs_native::Client>| async move { client.mkdirs(&asked, mode, false).await };
    connection.call(at, make).await
}
