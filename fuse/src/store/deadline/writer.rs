//! A file being written, each step with the deadline.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::Shared;
use crate::{
    error::{Error, ErrorKind, Result},
    store::{StorePath, Writer},
};

/// After a step that failed, or was dropped halfway, nobody knows where the file ends: no further step
/// is taken.
pub(super) struct SteadyWriter {
    shared: Arc<Shared>,
    path: StorePath,
    inner: Option<Box<dyn Writer>>,
}

impl SteadyWriter {
    pub(super) fn new(shared: Arc<Shared>, path: StorePath, inner: Box<dyn Writer>) -> Self {
        Self { shared, path, inner: Some(inner) }
    }

    fn take(&mut self) -> Result<Box<dyn Writer>> {
        self.inner.take().ok_or_else(|| {
            Error::new(ErrorKind::Other, format!("{}: writing it failed earlier; start again", self.path))
        })
    }
}

#[async_trait]
impl Writer for SteadyWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let mut inner = self.take()?;
        self.shared.once("write", &self.path, inner.write(data)).await?;
        self.inner = Some(inner);
        Ok(())
    }

    async fn sync(&mut self) -> Result<()> {
        let mut inner = self.take()?;
        let synced = self.shared.once("sync", &self.path, inner.sync()).await;
        // What cannot be synchronised, as an erasure-coded file, can still be written and closed.
        if synced.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::Unsupported) {
            self.inner = Some(inner);
        }
        synced
    }

    async fn close(mut self: Box<Self>) -> Result<()> {
        let inner = self.take()?;
        self.shared.once("close", &self.path, inner.close()).await
    }
}
