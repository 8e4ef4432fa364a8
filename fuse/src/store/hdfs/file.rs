//! Files open in HDFS.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use hdfs_native::file::{FileReader, FileWriter};
use tokio::sync::Mutex;

use super::{client::Connection, errors::translate};
use crate::{
    error::{Error, ErrorKind, Result},
    store::{Metadata, Reader, Writer},
};

/// One generation of a file in HDFS.
///
/// The locations of its HDFS blocks are those at open, and a DataNode that failed once is not asked
/// again: the `deadline` decorator reopens the file after a failure.
pub(super) struct HdfsReader {
    pub(super) connection: Arc<Connection>,
    /// Path in HDFS.
    pub(super) path: String,
    pub(super) metadata: Metadata,
    pub(super) file: Arc<FileReader>,
}

impl fmt::Debug for HdfsReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HdfsReader").field("path", &self.path).finish_non_exhaustive()
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
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        let read = async move {
            let bytes = file.read_range(start, len).await.map_err(|e| translate(&e, &path))?;
            if bytes.len() != len {
                let got = bytes.len();
                let message = format!("{path}: {got} bytes came instead of {len}");
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
            Ok(bytes)
        };
        self.connection.run(&self.path, read).await
    }
}

/// A file being written to HDFS.
pub(super) struct HdfsWriter {
    pub(super) connection: Arc<Connection>,
    pub(super) path: String,
    /// Shared with the task of the step under way, never with two.
    pub(super) file: Arc<Mutex<FileWriter>>,
}

#[async_trait]
impl Writer for HdfsWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        let write = async move {
            file.lock().await.write_bytes(data).await.map(drop).map_err(|e| translate(&e, &path))
        };
        self.connection.run(&self.path, write).await
    }

    async fn sync(&mut self) -> Result<()> {
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        let sync = async move { file.lock().await.hsync().await.map_err(|e| translate(&e, &path)) };
        self.connection.run(&self.path, sync).await
    }

    async fn close(self: Box<Self>) -> Result<()> {
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        let close = async move {
            let mut file = file.lock().await;
            // Closing alone leaves the last bytes in the DataNodes' page caches. A file of no bytes has
            // no HDFS block to be synchronised; an erasure coded one cannot be.
            match file.hsync().await {
                Ok(()) | Err(hdfs_native::HdfsError::UnsupportedFeature(_)) => {}
                Err(error) => return Err(translate(&error, &path)),
            }
            file.close().await.map_err(|e| translate(&e, &path))
        };
        self.connection.run(&self.path, close).await
    }
}
