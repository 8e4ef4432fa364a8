//! What an earlier process left in the staging area gets to the store.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use super::{
    Caller, FileSystem,
    live::{Live, staged::Staged},
};
use crate::{
    error::Result,
    staging::{LeftOver, State, Upload, blocking},
    store::{FileKind, Generation, Metadata, StorePath},
};

/// What became of left-overs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Files that are in the store now, in their places or, if those were taken, beside them.
    pub sent: usize,
    /// Files that still lie staged; each has a line in the log.
    pub waiting: usize,
}

impl FileSystem {
    /// Takes up what an earlier process left in the staging area: to be called once, before the first
    /// operation. What cannot be sent now is read from the staging area as if it had just been written,
    /// and tried again later.
    pub async fn recover(&self) -> Result<Recovered> {
        let Some(staging) = &self.staging else { return Ok(Recovered::default()) };
        let area = staging.area.clone();
        let found = blocking(move || area.left_overs()).await?;
        let mut recovered = Recovered::default();
        let mut live = Vec::new();
        for left_over in found {
            let place = left_over.piece.path();
            match self.take_up(left_over).await {
                Ok(Some(taken)) => live.push((taken, place)),
                Ok(None) => {}
                Err(why) => {
                    recovered.waiting += 1;
                    tracing::error!(staged = %place.display(), "left as it is: {why}");
                }
            }
        }
        let sends = live.into_iter().map(|((ino, live), place)| self.send_left_over(ino, live, place));
        for sent in futures::future::join_all(sends).await {
            *if sent { &mut recovered.sent } else { &mut recovered.waiting } += 1;
        }
        Ok(recovered)
    }

    /// A live file of what was left; nothing if the file was deleted. An error says why it is none of
    /// this mount's.
    async fn take_up(&self, left_over: LeftOver) -> std::result::Result<Option<(u64, Arc<Live>)>, String> {
        let LeftOver { record, piece } = left_over;
        let Some(staging) = self.staging.clone() else { return Err("nothing is staged here".into()) };
        if record.store != self.store.0.url().to_string() {
            return Err(format!(
                "it belongs to {}{}; mount that with this directory",
                record.store, record.path
            ));
        }
        let path = StorePath::parse(&record.path).map_err(|error| error.to_string())?;
        let caller = Caller { uid: record.uid, gid: record.gid };
        let store = self.store_of(caller).await.map_err(|error| error.to_string())?;
        if record.state == State::Deleted {
            let piece = Arc::new(piece);
            let upload = Upload { store: &*store, piece: &piece, step: staging.step };
            let temporary = upload.temporary(&path).map_err(|error| error.to_string())?;
            if upload.clear(&temporary).await {
                piece.abandon();
            }
            return Ok(None);
        }
        let path = Arc::new(path);
        if self.inodes.lock().live_at(&path).is_some() {
            return Err(format!("another one of {path} is sent first"));
        }
        let now = SystemTime::now();
        let known = Metadata {
            kind: FileKind::File,
            len: piece.len(),
            mode: record.mode,
            owner: record.uid.to_string(),
            group: record.gid.to_string(),
            mtime: now,
            atime: now,
            replication: 0,
            block_size: 0,
            generation: record.base().generation.unwrap_or(Generation([0; 16])),
        };
        // As the store has it, if it says so now.
        let known = match store.stat(&path).await {
            Ok(there) if !there.is_dir() => {
                Metadata { len: known.len, mtime: now, generation: known.generation, ..there }
            }
            _ => known,
        };
        tracing::info!(%path, bytes = piece.len(), "taken up: what was written and not sent");
        let options = self.create_options(known.mode, false);
        let sink = Staged::left_over(staging, options, caller, piece, record.base());
        let key = super::key_of(path.clone(), &known);
        let live = Arc::new(Live::new(path, store, Arc::new(known), Box::new(sink)));
        let ino = self.inodes.lock().begin(key, live.clone());
        let _ = live.shared.ino.set(ino);
        Ok(Some((ino, live)))
    }

    async fn send_left_over(&self, ino: u64, live: Arc<Live>, place: PathBuf) -> bool {
        let outcome = live.finish().await;
        let path = live.shared.path();
        self.stats.forget(&path);
        self.forget_parent(&path);
        if live.sink.keeps() {
            let error = outcome.err().map(|error| error.to_string()).unwrap_or_default();
            tracing::error!(
                %path, staged = %place.display(), error,
                "what was written could not be sent, and is kept staged"
            );
            return false;
        }
        let mut inodes = self.inodes.lock();
        if live.writers() == 0 {
            inodes.settle(ino, outcome.ok().map(|metadata| metadata.generation));
            drop(inodes);
            live.sink.let_go();
        }
        true
    }
}
