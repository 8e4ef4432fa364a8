//! Open files: one reader for each generation, shared by its handles, kept a while after the last.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::{FileSystem, NodeKey, databases::Slot, live::Live};
use crate::{
    cache::{Source, Stream},
    error::Result,
    store::{Metadata, StorePath},
};

/// Readers kept after their last handle was closed, so that opening a file anew for each query costs
/// nothing. A local store holds a file descriptor for each, of which a process mostly has 1024; an open
/// file in HDFS is its list of HDFS blocks.
const IDLE_MAX: usize = 512;

/// How long they are kept. A deleted local file's space is free only after that.
const IDLE: Duration = Duration::from_secs(30);

/// One generation of one file, open for reading.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) ino: u64,
    pub(super) key: NodeKey,
    pub(super) source: Source,
    pub(super) database: Arc<Slot>,
}

/// What a handle was opened on.
#[derive(Debug)]
enum Target {
    Settled(Arc<OpenFile>),
    Live { file: Arc<Live>, ino: u64, writes: bool, appends: bool },
}

/// What the kernel holds for each open(2).
#[derive(Debug)]
pub(super) struct FileHandle {
    target: Target,
    pub(super) stream: Stream,
    /// Who wrote last: the number that the kernel has for all descriptors of a process.
    pub(super) wrote: Mutex<Option<u64>>,
}

impl FileHandle {
    /// The generation that it reads now. Of a file that is being written: what was written so far,
    /// finished for the purpose.
    pub(super) async fn file(&self, fs: &FileSystem) -> Result<Arc<OpenFile>> {
        match &self.target {
            Target::Settled(file) => Ok(file.clone()),
            Target::Live { file, .. } => file.reader(fs).await,
        }
    }

    /// The file, unless it is being written.
    pub(super) fn settled(&self) -> Option<&OpenFile> {
        match &self.target {
            Target::Settled(file) => Some(file),
            Target::Live { .. } => None,
        }
    }

    /// What it was opened on.
    pub(super) fn metadata(&self) -> Arc<Metadata> {
        match &self.target {
            Target::Settled(file) => Arc::new(file.source.reader.metadata().clone()),
            Target::Live { file, .. } => file.shared.metadata(),
        }
    }

    /// The bytes that a writer has not finished, where they are at hand.
    pub(super) async fn read_live(&self, offset: u64, len: usize) -> Result<Option<Bytes>> {
        match self.live() {
            Some(live) => live.sink.read(&live.shared, offset, len).await,
            None => Ok(None),
        }
    }

    /// The file as it is being written, if it was when this was opened.
    pub(super) fn live(&self) -> Option<&Arc<Live>> {
        match &self.target {
            Target::Settled(_) => None,
            Target::Live { file, .. } => Some(file),
        }
    }

    /// The file to write to, and whether always at its end; `None`: opened for reading.
    pub(super) fn writer(&self) -> Option<(&Arc<Live>, bool)> {
        match &self.target {
            Target::Live { file, writes: true, appends, .. } => Some((file, *appends)),
            _ => None,
        }
    }

    pub(super) fn ino(&self) -> u64 {
        match &self.target {
            Target::Settled(file) => file.ino,
            Target::Live { ino, .. } => *ino,
        }
    }

    pub(super) fn path(&self) -> Arc<StorePath> {
        match &self.target {
            Target::Settled(file) => file.key.path.clone(),
            Target::Live { file, .. } => file.shared.path(),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    handles: HashMap<u64, Arc<FileHandle>>,
    by_ino: HashMap<u64, Weak<OpenFile>>,
    idle: VecDeque<(Instant, Arc<OpenFile>)>,
    next: u64,
}

impl State {
    fn add(&mut self, handle: FileHandle) -> u64 {
        self.next += 1;
        self.handles.insert(self.next, Arc::new(handle));
        self.next
    }
}

/// The tables of open files and handles.
#[derive(Debug, Default)]
pub(super) struct Files {
    state: RwLock<State>,
}

impl Files {
    /// The open or idle file with this number.
    pub(super) fn find(&self, ino: u64) -> Option<Arc<OpenFile>> {
        self.state.read().by_ino.get(&ino)?.upgrade()
    }

    /// The file behind an open handle of this number, also if it was retired.
    pub(super) fn held(&self, ino: u64) -> Option<Arc<FileHandle>> {
        let state = self.state.read();
        state.handles.values().find(|handle| handle.ino() == ino).cloned()
    }

    /// A handle of `file`, or of the same generation that was opened meanwhile.
    pub(super) fn open(&self, file: Arc<OpenFile>, stream: Stream) -> u64 {
        let mut state = self.state.write();
        let file = match state.by_ino.get(&file.ino).and_then(Weak::upgrade) {
            Some(already) => already,
            None => {
                state.by_ino.insert(file.ino, Arc::downgrade(&file));
                file
            }
        };
        state.idle.retain(|(_, idle)| !Arc::ptr_eq(idle, &file));
        state.add(FileHandle { target: Target::Settled(file), stream, wrote: Mutex::default() })
    }

    /// A handle of a file that is being written. One that `writes` has joined it.
    pub(super) fn open_live(
        &self,
        ino: u64,
        file: Arc<Live>,
        writes: bool,
        appends: bool,
        stream: Stream,
    ) -> u64 {
        let target = Target::Live { file, ino, writes, appends };
        self.state.write().add(FileHandle { target, stream, wrote: Mutex::default() })
    }

    pub(super) fn get(&self, fh: u64) -> Option<Arc<FileHandle>> {
        self.state.read().handles.get(&fh).cloned()
    }

    pub(super) fn close(&self, fh: u64) {
        let mut state = self.state.write();
        let Some(handle) = state.handles.remove(&fh) else { return };
        let Target::Settled(file) = &handle.target else { return };
        let file = file.clone();
        // Two: `file` and `handle`. More: another handle, or an open that is about to be one.
        let in_use = Arc::strong_count(&file) > 2;
        let current = state.by_ino.get(&file.ino).is_some_and(|weak| std::ptr::eq(weak.as_ptr(), &*file));
        if !in_use && current {
            state.idle.push_back((Instant::now(), file));
            if state.idle.len() > IDLE_MAX
                && let Some((_, oldest)) = state.idle.pop_front()
            {
                state.by_ino.remove(&oldest.ino);
            }
        }
    }

    /// No new handle gets this reader: its generation is gone.
    pub(super) fn retire(&self, ino: u64) {
        let mut state = self.state.write();
        state.by_ino.remove(&ino);
        state.idle.retain(|(_, file)| file.ino != ino);
    }

    /// No new handle gets a reader of a file that `is` names: who opens it next asks the store.
    pub(super) fn retire_readers(&self, is: impl Fn(&StorePath) -> bool) {
        let mut state = self.state.write();
        state.idle.retain(|(_, file)| !is(&file.key.path));
        state.by_ino.retain(|_, file| file.upgrade().is_some_and(|file| !is(&file.key.path)));
    }

    /// Closes readers that were idle for long, and lets go of readahead that nobody reads.
    pub(super) fn maintain(&self, stream_idle: Duration) {
        let mut state = self.state.write();
        while state.idle.front().is_some_and(|(since, _)| since.elapsed() >= IDLE) {
            if let Some((_, file)) = state.idle.pop_front() {
                state.by_ino.remove(&file.ino);
            }
        }
        state.by_ino.retain(|_, file| file.strong_count() > 0);
        let handles: Vec<_> = state.handles.values().cloned().collect();
        drop(state);
        for handle in handles {
            handle.stream.relax(stream_idle);
        }
    }

    /// Open handles and idle readers.
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.state.read();
        (state.handles.len(), state.idle.len())
    }

    /// The numbers of all open files.
    pub(super) fn inos(&self) -> HashSet<u64> {
        self.state.read().handles.values().map(|handle| handle.ino()).collect()
    }
}
