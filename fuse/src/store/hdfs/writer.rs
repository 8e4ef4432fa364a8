//! Files being written to HDFS.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use hdfs_native::file::FileWriter;
use tokio::time::{Instant, sleep, timeout};

use super::{
    client::Connection,
    errors::{is_behind, translate},
    file_status,
};
use crate::{
    error::{Error, ErrorKind, Result},
    store::Writer,
};

/// How long DataNodes get to report an HDFS block before its file is opened anew. They do so within
/// milliseconds, unless they are busy; Java's client waits 400 ms first, and then longer.
const REPORT_WAIT: Duration = Duration::from_secs(1);
/// How often it is tried whether a file can be opened anew: the last HDFS block is recovered at the next
/// heartbeat of its DataNode, at most 3 s later by default.
const REOPEN_EVERY: Duration = Duration::from_millis(500);

/// This part of the deadline is left for the question what became of a file of which DataNodes say nothing.
const ASKING_PART: u32 = 20;

/// A file being written to HDFS.
pub(super) struct HdfsWriter {
    connection: Arc<Connection>,
    path: String,
    /// None from a step on that was dropped halfway, or in which the client panicked.
    file: Option<FileWriter>,
    /// Bytes written, those included that were there at an append.
    len: u64,
}

impl HdfsWriter {
    /// Goes on at `len`, the end of `file`.
    pub(super) fn new(connection: &Arc<Connection>, path: String, file: FileWriter, len: u64) -> Self {
        Self { connection: Arc::clone(connection), path, file: Some(file), len }
    }

    /// Has `work` done with the file. The outer failure is one of ours, the inner one the client's.
    async fn step<F>(&mut self, work: impl FnOnce(FileWriter) -> F) -> Result<hdfs_native::Result<()>>
    where
        F: Future<Output = (FileWriter, hdfs_native::Result<()>)> + Send + 'static,
    {
        let Some(file) = self.file.take() else {
            let message = format!("{}: writing it failed earlier; start again", self.path);
            return Err(Error::new(ErrorKind::Other, message));
        };
        let work = work(file);
        let deadline = self.connection.deadline();
        let limit = deadline - deadline / ASKING_PART;
        // A DataNode that has heard of a deletion ends the connection. The client, when it has sent all it had,
        // goes on waiting for more to send.
        let Ok(ended) = timeout(limit, self.connection.run(&self.path, async { Ok(work.await) })).await
        else {
            let message = format!("{}: DataNodes gave no answer within {limit:?}", self.path);
            return Err(self.failure(Error::new(ErrorKind::TimedOut, message)).await);
        };
        let (file, outcome) = ended?;
        self.file = Some(file);
        Ok(outcome)
    }

    /// What a failed step means. A DataNode that hears of a deletion before the writer does says only that
    /// it has no such replica: what became of the file the NameNode knows.
    async fn failure(&self, error: Error) -> Error {
        if !matches!(error.kind(), ErrorKind::Other | ErrorKind::Unavailable | ErrorKind::TimedOut) {
            return error;
        }
        match file_status(&self.connection, &self.path).await {
            Err(absent) if absent.kind() == ErrorKind::NotFound => absent,
            _ => error,
        }
    }

    /// The outcome of a step.
    async fn told(&self, outcome: hdfs_native::Result<()>) -> Result<()> {
        match outcome {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failure(translate(&error, &self.path)).await),
        }
    }

    /// Opens the file again at its end, which is at most `end`.
    ///
    /// The NameNode gives no further HDFS block before it was told that the last but one is whole; where
    /// they are small, or DataNodes busy, a writer is faster. Java's client asks again. Ours does not, and
    /// has by then forgotten what to ask with: closing and appending is left.
    async fn reopen(&mut self, end: u64) -> Result<()> {
        let since = Instant::now();
        tracing::info!(path = %self.path, at = self.len, "opened anew: DataNodes are late to report");
        // Before there is another: the client renews leases by file, and would stop to.
        drop(self.file.take());
        sleep(REPORT_WAIT).await;
        let mut recovering = false;
        let file = loop {
            if !recovering {
                let asked = self.path.clone();
                let recover =
                    |client: Arc<hdfs_native::Client>| async move { client.recover_lease(&asked).await };
                match self.connection.open_writer(&self.path, recover).await {
                    Err(error) if error.kind() != ErrorKind::Busy => return Err(error),
                    started => recovering = started.is_ok(),
                }
            }
            let asked = self.path.clone();
            let append = |client: Arc<hdfs_native::Client>| async move { client.append(&asked).await };
            match self.connection.open_writer(&self.path, append).await {
                Err(error)
                    if error.kind() == ErrorKind::Busy && since.elapsed() < self.connection.deadline() =>
                {
                    sleep(REOPEN_EVERY).await;
                }
                opened => break opened?,
            }
        };
        let len = file_status(&self.connection, &self.path).await?.len;
        if !(self.len..=end).contains(&len) {
            let message = format!(
                "{}: has {len} bytes and not {} to {end}: somebody else has changed it",
                self.path, self.len
            );
            return Err(Error::new(ErrorKind::Stale, message));
        }
        (self.file, self.len) = (Some(file), len);
        Ok(())
    }

    /// Finishes the file durably.
    pub(super) async fn finish(&mut self) -> Result<()> {
        // Closing alone leaves the last bytes in the DataNodes' page caches. A file of no bytes has
        // no HDFS block to be synchronised; an erasure coded one cannot be.
        match self.sync().await {
            Err(error) if error.kind() != ErrorKind::Unsupported => return Err(error),
            _ => {}
        }
        let closed = self.step(|mut file| async {
            let closed = file.close().await;
            (file, closed)
        });
        let closed = closed.await?;
        self.told(closed).await
    }
}

#[async_trait]
impl Writer for HdfsWriter {
    async fn write(&mut self, mut data: Bytes) -> Result<()> {
        let end = self.len + data.len() as u64;
        loop {
            let bytes = data.clone();
            let written = self.step(|mut file| async {
                let written = file.write_bytes(bytes).await.map(drop);
                (file, written)
            });
            match written.await? {
                Ok(()) => break,
                Err(error) if is_behind(&error) => {
                    let before = self.len;
                    self.reopen(end).await?;
                    // Less than `data` has, and so a usize.
                    data.advance((self.len - before) as usize);
                }
                failed => return self.told(failed).await,
            }
        }
        self.len = end;
        Ok(())
    }

    async fn sync(&mut self) -> Result<()> {
        let synced = self.step(|mut file| async {
            let synced = file.hsync().await;
            (file, synced)
        });
        let synced = synced.await?;
        self.told(synced).await
    }

    async fn close(mut self: Box<Self>) -> Result<()> {
        self.finish().await
    }
}
