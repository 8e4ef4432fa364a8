//! Files open for reading in HDFS.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use hdfs_native::{HdfsError, file::FileReader};
use tokio::sync::OnceCell;

use super::{
    client::Connection,
    errors::{replicas_failed, translate},
    file_status, replicas,
};
use crate::{
    error::{Error, ErrorKind, Result},
    store::{Generation, Metadata, Reader, buffers::Buffer, check_generation, gone},
};

/// Tries of an open whose file is replaced meanwhile.
const OPEN_TRIES_MAX: u32 = 5;

/// One generation of a file in HDFS.
///
/// The locations of its HDFS blocks are those at open, and a DataNode that failed once is not asked
/// again: the `deadline` decorator reopens the file after a failure.
pub(super) struct HdfsReader {
    connection: Arc<Connection>,
    /// Path in HDFS.
    path: String,
    metadata: Metadata,
    file: Arc<FileReader>,
    /// Set once it is certain that `file` is of the generation in `metadata`.
    confirmed: OnceCell<()>,
}

impl fmt::Debug for HdfsReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HdfsReader").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What a read has brought, and the failure that ended it early.
type Part = (Buffer, Option<Error>);

impl HdfsReader {
    /// Opens the file at `path` in HDFS.
    ///
    /// The client opens by path and does not say what it has opened. If the file has the same generation
    /// before and after, the one opened in between is of it too. Who expects a generation has seen it
    /// before.
    pub(super) async fn open(
        connection: &Arc<Connection>,
        path: &str,
        expected: Option<Generation>,
    ) -> Result<Self> {
        let mut before = match expected {
            Some(generation) => generation,
            None => file_status(connection, path).await?.generation,
        };
        for _ in 0..OPEN_TRIES_MAX {
            let asked = path.to_owned();
            let opened = connection.ask(path, |client| async move { client.read(&asked).await }).await;
            let mut metadata = file_status(connection, path).await?;
            check_generation(&path, &metadata, expected)?;
            let file = opened?;
            if metadata.generation == before {
                // Of a file that is still being written, less can be read than is listed.
                metadata.len = metadata.len.min(file.file_length() as u64);
                let (connection, path) = (Arc::clone(connection), path.to_owned());
                let confirmed = OnceCell::new_with(Some(()));
                return Ok(Self { connection, path, metadata, file: Arc::new(file), confirmed });
            }
            before = metadata.generation;
        }
        Err(Error::new(ErrorKind::Stale, format!("{path}: is replaced too fast to be opened")))
    }

    /// Opens the file at `path` of which `known` was true a while ago; whether it still is, is asked while
    /// the first bytes come.
    pub(super) async fn open_ahead(
        connection: &Arc<Connection>,
        path: &str,
        known: Metadata,
    ) -> Result<Self> {
        if known.is_dir() {
            return Err(Error::new(ErrorKind::IsADirectory, format!("{path}: is a directory")));
        }
        let asked = path.to_owned();
        let file = connection.ask(path, |client| async move { client.read(&asked).await }).await?;
        let metadata = Metadata { len: known.len.min(file.file_length() as u64), ..known };
        let (connection, path, confirmed) = (Arc::clone(connection), path.to_owned(), OnceCell::new());
        Ok(Self { connection, path, metadata, file: Arc::new(file), confirmed })
    }

    async fn read_part(&self, start: usize, len: usize) -> Result<Part> {
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        let bytes = self.connection.buffers.take(len);
        let read = async move {
            let mut bytes = bytes;
            let mut packets = file.read_range_stream(start, len);
            while let Some(packet) = packets.next().await {
                match packet {
                    Ok(packet) => bytes.extend_from_slice(&packet),
                    Err(error) => return Ok((bytes, Some(failure(&error, &path)))),
                }
                // A replica that failed earlier was not asked for what comes now.
                replicas::take();
            }
            let short = (bytes.len() != len).then(|| {
                let message = format!("{path}: {} bytes came instead of {len}", bytes.len());
                Error::new(ErrorKind::Unavailable, message).of_one_file()
            });
            Ok((bytes, short))
        };
        self.connection.run(&self.path, replicas::observe(read)).await
    }
}

/// What a failed read means, by what was heard of the replicas.
fn failure(error: &HdfsError, path: &str) -> Error {
    let failed = replicas::take();
    match replicas_failed(error) {
        Some(0) => {
            let message = format!("{path}: no DataNode has this HDFS block now");
            Error::new(ErrorKind::Unavailable, message).of_one_file()
        }
        // Each was asked, and gave wrong bytes. One that is only silent now may have the right ones.
        Some(replicas) if failed.corrupt >= replicas => Error::new(
            ErrorKind::Corrupt,
            format!("{path}: all {replicas} replicas of an HDFS block fail their checksums"),
        ),
        Some(_) if failed.silent == 0 && failed.corrupt + failed.refused > 0 => {
            translate(error, path).of_one_file()
        }
        _ => translate(error, path),
    }
}

#[async_trait]
impl Reader for HdfsReader {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        // Past the end the client panics.
        let (Ok(start), Ok(end)) = (usize::try_from(offset), usize::try_from(self.metadata.len)) else {
            return Ok(Bytes::new());
        };
        let len = end.saturating_sub(start).min(len);
        if len == 0 {
            return Ok(Bytes::new());
        }
        let (mut bytes, mut failed) = if self.confirmed.initialized() {
            self.read_part(start, len).await?
        } else {
            let (sure, part) = tokio::join!(self.confirm(), self.read_part(start, len));
            sure?;
            part?
        };
        // To the client a DataNode with one wrong byte is dead for as long as the file is open. Where
        // replicas are bad at different places, each opening gets past one of them.
        while let Some(error) = failed {
            if bytes.is_empty() || !error.is_of_one_file() {
                return Err(error);
            }
            let again = Self::open(&self.connection, &self.path, Some(self.metadata.generation)).await?;
            let at = start + bytes.len();
            if again.metadata.len < (start + len) as u64 {
                return Err(error);
            }
            let (more, next) = again.read_part(at, start + len - at).await?;
            if more.is_empty() {
                return Err(next.unwrap_or(error));
            }
            bytes.extend_from_slice(more.as_ref());
            failed = next;
        }
        Ok(bytes.freeze())
    }

    async fn confirm(&self) -> Result<()> {
        let confirmed = self.confirmed.get_or_try_init(|| async {
            let now = file_status(&self.connection, &self.path).await;
            let now = now.map_err(|error| gone(&self.path, error))?;
            check_generation(&self.path, &now, Some(self.metadata.generation))
        });
        confirmed.await.copied()
    }
}
