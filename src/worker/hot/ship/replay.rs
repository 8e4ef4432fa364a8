//! A takeover: what former holders have shipped, put together again.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Seek, Write},
    path::PathBuf,
    sync::Arc,
};

use springhouse_fuse::{error::ErrorKind, store::StorePath};
use springhouse_gateway::{
    api::{
        error::{ApiError, ErrorCode},
        hot::Token,
        ship::{HotRecover, HotRecovered},
    },
    shipped::ShippedName,
};

use super::{
    Basis,
    format::{Header, Shipped},
    send::{directory_of, header_of, list, path_of},
};
use crate::{
    failpoint,
    query::write::{self, Marker, PageSet},
    worker::hot::{
        Hot, blocking,
        fetch::{fetch, of_store},
        of_disk,
        record::CopyRecord,
        room::Room,
        segment::Segment,
    },
};

/// Bytes read from the store at once.
const READ_BYTES: usize = 4 << 20;

/// A part that is a segment as it was shipped, ready to take the copy's place.
#[derive(Debug)]
pub(in crate::worker::hot) struct Replayed {
    pub(in crate::worker::hot) copy: CopyRecord,
    pub(in crate::worker::hot) basis: Basis,
    pub(in crate::worker::hot) recovered: HotRecovered,
    _room: Room,
}

/// Files that follow each other, from a head.
struct Candidate {
    token: Token,
    files: Vec<StorePath>,
    head: Header,
}

/// Removes a file of the work when it ends.
struct Spool(PathBuf);

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = crate::worker::hot::data::remove(&self.0) {
            tracing::warn!(%error, "a file of a takeover stays on the disk until the next start");
        }
    }
}

/// Why a candidate is not used; another may be.
enum Unusable {
    /// What is wrong with it.
    Chain(String),
    /// The store or the disk failed: nothing can be said.
    Failed(ApiError),
}

impl From<ApiError> for Unusable {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

impl Hot {
    /// Makes a part of the newest that was shipped of `segment` under tokens below `token`. Without a
    /// [`Replayed`], the text says what was there and not used, if anything was.
    pub(in crate::worker::hot) async fn replay(
        &self,
        segment: &Segment,
        path: &str,
        token: Token,
        generation: Option<&str>,
        asked: HotRecover,
    ) -> Result<(Option<Replayed>, Option<String>), ApiError> {
        let directory = directory_of(path)?;
        let store = self.settings.store.as_ref();
        let mut names = list(store, &directory, &segment.id).await?;
        names.retain(|name| name.whole && (asked.from..token).contains(&name.token));
        let tokens: BTreeSet<Token> = names.iter().map(|name| name.token).collect();
        let mut unused: Option<String> = None;
        let mut note = |why: String| {
            tracing::warn!(segment = %segment.id, why, "shipped files are not used");
            unused.get_or_insert(why);
        };
        for owner in tokens.into_iter().rev() {
            let sequences: BTreeSet<u64> =
                names.iter().filter(|name| name.token == owner).map(|name| name.sequence).collect();
            let Some(chain) = self.newest(segment, &directory, owner, &sequences, &mut note).await? else {
                continue;
            };
            if chain.head.base.is_some() && chain.head.base.as_deref() != generation {
                note(format!("what token {owner} shipped builds upon a generation that was promoted over"));
                continue;
            }
            match self.put_together(segment, path, generation, &chain, asked.promoted_change).await {
                Ok(replayed) => {
                    let Some(mut replayed) = replayed else {
                        return Ok((None, unused)); // all of it was promoted
                    };
                    if replayed.recovered.unused.is_none() {
                        replayed.recovered.unused = unused;
                    }
                    return Ok((Some(replayed), None));
                }
                Err(Unusable::Chain(why)) => note(why),
                Err(Unusable::Failed(error)) => return Err(error),
            }
        }
        Ok((None, unused))
    }

    /// The newest chain of `owner` of which every file is there.
    async fn newest(
        &self,
        segment: &Segment,
        directory: &StorePath,
        owner: Token,
        sequences: &BTreeSet<u64>,
        note: &mut impl FnMut(String),
    ) -> Result<Option<Candidate>, ApiError> {
        let store = self.settings.store.as_ref();
        let path = |sequence| path_of(directory, &ShippedName::new(&segment.id, owner, sequence));
        for last in sequences.iter().rev() {
            let header = match header_of(store, &path(*last)?).await? {
                Ok((header, _)) => header,
                Err(why) => {
                    note(format!("file {last} of token {owner}: {why}"));
                    continue;
                }
            };
            let own = header.segment == segment.id.as_str()
                && (header.token, header.sequence) == (owner, *last)
                && (header.first..=*last).all(|sequence| sequences.contains(&sequence));
            if !own {
                continue; // an older chain may be whole, or the files before a gap
            }
            let files = (header.first..=*last).map(path).collect::<Result<Vec<_>, _>>()?;
            let head = if header.is_head() {
                header
            } else {
                match header_of(store, &files[0]).await? {
                    Ok((head, _)) if head.is_head() && head.segment == segment.id.as_str() => head,
                    _ => continue,
                }
            };
            return Ok(Some(Candidate { token: owner, files, head }));
        }
        Ok(None)
    }

    /// `None`: the generation in the store has everything that is in the chain.
    async fn put_together(
        &self,
        segment: &Segment,
        path: &str,
        generation: Option<&str>,
        chain: &Candidate,
        promoted_change: u64,
    ) -> Result<Option<Replayed>, Unusable> {
        let head = &chain.head;
        let bytes = u64::from(head.pages) * u64::from(head.page_bytes);
        let part = self.data.part(&segment.id);
        let room = match &head.base {
            Some(base) => {
                let stop = Arc::clone(&segment.state.lock().stop);
                let fetched = fetch(self, segment, path, base, true, &stop).await;
                self.count_fetch(&fetched);
                fetched.map_err(super::super::fetch::Failure::into_api)?.1
            }
            None => {
                let room = self.room.take(&self.data, bytes);
                let room = room.map_err(|why| ApiError::new(ErrorCode::NoRoom, why))?;
                let part = part.clone();
                blocking(move || File::create(part).map(drop).map_err(of_disk)).await?;
                room
            }
        };
        failpoint::hit("recover.after_base");
        // What is in the part is no copy that could be gone on with.
        let _ = crate::worker::hot::data::remove(&self.data.progress(&segment.id));
        let keys = self.data.incoming_keys(&segment.id);
        let target = part.clone();
        let mut work = blocking(move || {
            let target = File::options().write(true).open(target).map_err(of_disk)?;
            let keys = File::create(keys).map_err(of_disk)?;
            Ok(Work { target, keys, changed: PageSet::default(), last: None })
        })
        .await?;
        let (mut replayed, mut stopped_at) = (0, None);
        for file in &chain.files {
            let spool = Spool(self.data.spool(&segment.id));
            let shipped = match self.download(file, &spool.0).await? {
                Ok(shipped) => shipped,
                Err(why) => {
                    stopped_at = Some(format!("{}: {why}", file.name()));
                    break;
                }
            };
            let (next, applied) = blocking(move || work.apply(shipped)).await?;
            work = next;
            if let Err(why) = applied {
                stopped_at = Some(format!("{}: {why}", file.name()));
                break;
            }
            replayed += 1;
            failpoint::hit("recover.after_file");
        }
        let Some((last, _)) = work.last.clone() else {
            return Err(Unusable::Chain(stopped_at.unwrap_or_else(|| "there is no head".into())));
        };
        if last.change <= promoted_change {
            drop(work);
            let _ = self.data.remove_part(&segment.id);
            return Ok(None);
        }
        let changed = std::mem::take(&mut work.changed);
        let (limits, change, own) = (self.write.limits.clone(), last.change, part.clone());
        blocking(move || {
            work.target.sync_all().and_then(|()| work.keys.sync_all()).map_err(of_disk)?;
            drop(work);
            let marker = Marker::read(&own).map_err(of_disk)?;
            if marker != Marker::of(change) {
                let message = format!("the file is not at transaction {change}, as its name says");
                return Err(ApiError::new(ErrorCode::SegmentCorrupt, message));
            }
            write::quick_check(&own, &limits)
        })
        .await
        .map_err(|error| match error.code {
            ErrorCode::SegmentCorrupt => Unusable::Chain(error.message),
            _ => Unusable::Failed(error),
        })?;
        failpoint::hit("recover.before_record");
        let size = u64::from(last.pages) * u64::from(last.page_bytes);
        let copy = CopyRecord {
            generation: generation.map(str::to_owned),
            checksum: None,
            change: last.change,
            promoted_change,
            field: Some(last.field),
            written: true,
            ..CopyRecord::created(size)
        };
        let basis = match &head.base {
            Some(base) => Basis::Generation(base.clone(), changed),
            None => Basis::All,
        };
        let recovered =
            HotRecovered { token: chain.token, change: last.change, files: replayed, unused: stopped_at };
        Ok(Some(Replayed { copy, basis, recovered, _room: room }))
    }

    /// A shipped file on the local disk; the inner error: it is not whole.
    async fn download(
        &self,
        path: &StorePath,
        to: &std::path::Path,
    ) -> Result<Result<Shipped, String>, ApiError> {
        let reader = match self.settings.store.open(path, None).await {
            Ok(reader) => reader,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Err("it is gone".into())),
            Err(error) => return Err(of_store(error)),
        };
        let (size, to) = (reader.metadata().len, to.to_owned());
        let open = move || {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(true).open(to).map_err(of_disk)
        };
        let mut file = blocking(open).await?;
        let mut at = 0;
        while at < size {
            let bytes = match reader.read_at(at, READ_BYTES).await {
                Ok(bytes) if bytes.is_empty() => break,
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(Err(error.message().into())),
                Err(error) => return Err(of_store(error)),
            };
            at += bytes.len() as u64;
            file = blocking(move || {
                let mut file = file;
                file.write_all(&bytes).map_err(of_disk)?;
                Ok(file)
            })
            .await?;
        }
        blocking(move || {
            file.rewind().map_err(of_disk)?;
            Shipped::open(file).map_err(of_disk)
        })
        .await
    }
}

/// What a replay has come to.
struct Work {
    target: File,
    keys: File,
    changed: PageSet,
    /// The file that was applied last, with its checksum.
    last: Option<(Header, String)>,
}

impl Work {
    /// Applies one file; the inner error: it does not follow the one before, and nothing was done.
    fn apply(mut self, shipped: Shipped) -> Result<(Self, Result<(), String>), ApiError> {
        let header = &shipped.header;
        let follows = match &self.last {
            None => header.is_head(),
            Some((last, checksum)) => {
                header.previous.as_ref() == Some(checksum)
                    && header.first == last.first
                    && header.page_bytes == last.page_bytes
                    && header.change >= last.change
            }
        };
        if !follows {
            return Ok((self, Err("it does not follow the file before it".into())));
        }
        let keys = shipped.keys().map_err(of_disk)?;
        shipped.apply(&self.target, &mut self.changed).map_err(of_disk)?;
        self.keys.write_all(&keys).map_err(of_disk)?;
        self.last = Some((shipped.header, shipped.checksum));
        Ok((self, Ok(())))
    }
}
