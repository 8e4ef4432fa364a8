//! One more file of a chain, or the end of one.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use bytes::Bytes;
use futures::TryStreamExt;
use springhouse_fuse::{
    error::{Error, ErrorKind},
    store::{CreateOptions, Store, StorePath},
};
use springhouse_gateway::{
    api::{
        error::{ApiError, ErrorCode},
        hot::Token,
    },
    segment::SegmentId,
    shipped::ShippedName,
};

use super::{
    Basis, Chain, Last, Shipping,
    format::{self, Encoder, HEADER_BYTES_MAX, Header},
};
use crate::{
    failpoint,
    query::write::{PageSet, Pages, Pinned},
    worker::hot::{
        Hot, blocking,
        fetch::of_store,
        of_disk,
        segment::{Segment, State},
    },
};

/// A chain of more files is begun anew: a takeover reads each of them.
const FILES_MAX: u64 = 512;
/// And one whose changes are more than its head, and than this, in bytes.
const CHANGES_BYTES_MIN: u64 = 16 << 20;

/// Where shipped files of a segment lie: beside it.
pub(super) fn directory_of(path: &str) -> Result<StorePath, ApiError> {
    let path = StorePath::parse(path).map_err(of_store)?;
    path.parent().ok_or_else(|| ApiError::new(ErrorCode::BadRequest, "a segment is not the root"))
}

pub(super) fn path_of(directory: &StorePath, name: &ShippedName) -> Result<StorePath, ApiError> {
    StorePath::parse(&name.path_in(directory.as_str())).map_err(of_store)
}

/// Shipped files of `id`, whole or not.
pub(super) async fn list(
    store: &dyn Store,
    directory: &StorePath,
    id: &SegmentId,
) -> Result<Vec<ShippedName>, ApiError> {
    let names = store.list(directory).try_filter_map(|entry| async move {
        Ok(ShippedName::parse(&entry.name).filter(|name| name.id == *id && !entry.metadata.is_dir()))
    });
    match names.try_collect().await {
        Ok(names) => Ok(names),
        Err(error) if Error::kind(&error) == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(of_store(error)),
    }
}

/// The header of a shipped file, and the file's length. The inner error: what is wrong with it.
pub(super) async fn header_of(
    store: &dyn Store,
    path: &StorePath,
) -> Result<Result<(Header, u64), String>, ApiError> {
    let reader = match store.open(path, None).await {
        Ok(reader) => reader,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Err("it is gone".into())),
        Err(error) => return Err(of_store(error)),
    };
    let start = reader.read_at(0, HEADER_BYTES_MAX + 64).await.map_err(of_store)?;
    Ok(format::parse(&start).map(|(header, _)| (header, reader.metadata().len)))
}

/// Removes a file that may not be there; whether it is surely gone.
async fn remove(store: &dyn Store, path: &StorePath) -> bool {
    match store.delete(path, false).await {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => true,
        Err(error) => {
            tracing::debug!(%path, %error, "a shipped file is removed later");
            false
        }
    }
}

/// What a file is made with, as of its begin.
struct Facts {
    path: String,
    field: u32,
}

impl Facts {
    fn of(state: &State) -> Option<Self> {
        let copy = state.record.copy.as_ref()?;
        Some(Self { path: state.record.path.clone(), field: copy.field.unwrap_or(0) })
    }
}

impl Hot {
    /// Ships what was committed, or removes what is not needed any more.
    pub(super) async fn ship(
        self: &Arc<Self>,
        segment: &Arc<Segment>,
        shipping: &Shipping,
    ) -> Result<(), ApiError> {
        let mut chain = shipping.chain.lock().await;
        let facts = {
            let state = segment.state.lock();
            if shipping.is_stopped() {
                return Ok(());
            }
            // Not as if there were nothing to do: it would be tried again without a pause.
            state.check_token(shipping.token)?;
            Facts::of(&state).ok_or_else(crate::worker::hot::not_provisioned)?
        };
        let _permit = self.ships.acquire().await;
        let directory = directory_of(&facts.path)?;
        if shipping.collect.load(Relaxed) && self.collect(segment, shipping, &mut chain, &directory).await? {
            return Ok(());
        }
        if !chain.looked {
            self.look(segment, shipping, &mut chain, &directory).await?;
        }
        if shipping.unshipped.waiting().is_none() {
            return Ok(());
        }
        self.check_last(segment, &mut chain, &directory, shipping).await?;
        self.ship_changes(segment, shipping, &mut chain, &directory, &facts).await?;
        let old = std::mem::take(&mut chain.old);
        chain.old = self.remove_all(old).await;
        Ok(())
    }

    async fn remove_all(&self, paths: Vec<StorePath>) -> Vec<StorePath> {
        let mut left = Vec::new();
        for path in paths {
            if !remove(self.settings.store.as_ref(), &path).await {
                left.push(path);
            }
        }
        left
    }

    /// Removes a chain of which the generation in the store has everything; whether it had.
    async fn collect(
        &self,
        segment: &Segment,
        shipping: &Shipping,
        chain: &mut Chain,
        directory: &StorePath,
    ) -> Result<bool, ApiError> {
        if segment.state.lock().is_unpromoted() {
            return Ok(false); // what came since may build upon it
        }
        // Also what was left by holders before.
        let names = list(self.settings.store.as_ref(), directory, &segment.id).await?;
        let ours = names.iter().filter(|name| (shipping.from..=shipping.token).contains(&name.token));
        let old = ours.map(|name| path_of(directory, name)).collect::<Result<Vec<_>, _>>()?;
        let newest = names.iter().filter(|name| name.token == shipping.token).map(|name| name.sequence);
        chain.next = chain.next.max(newest.max().unwrap_or(0) + 1);
        shipping.collect.store(false, Relaxed);
        (chain.basis, chain.last, chain.looked) = (Basis::All, None, true);
        shipping.shown.lock().shipped_change = None;
        shipping.unshipped.begin_anew(false);
        chain.old = self.remove_all(old).await;
        Ok(true)
    }

    /// Finds what an earlier process, or a former holder, has shipped.
    async fn look(
        self: &Arc<Self>,
        segment: &Arc<Segment>,
        shipping: &Shipping,
        chain: &mut Chain,
        directory: &StorePath,
    ) -> Result<(), ApiError> {
        let store = self.settings.store.as_ref();
        let mut names = list(store, directory, &segment.id).await?;
        names.retain(|name| (shipping.from..=shipping.token).contains(&name.token));
        names.sort_unstable_by_key(|name| (name.token, name.sequence));
        let (own, others): (Vec<_>, Vec<_>) = names.iter().partition(|name| name.token == shipping.token);
        chain.next = own.last().map_or(1, |name| name.sequence + 1);
        // The writer says at which transaction the file was opened.
        self.writer(segment, shipping.token).await?;
        let whole = |sequence: u64| own.iter().any(|name| name.sequence == sequence && name.whole);
        if let Some(newest) = own.iter().rfind(|name| name.whole)
            && let Ok((header, bytes)) = header_of(store, &path_of(directory, newest)?).await?
            && (header.first..=header.sequence).all(whole)
        {
            // Only its end names the checksum that the next file needs.
            if let Some(checksum) = checksum_of(store, &path_of(directory, newest)?, bytes).await? {
                let last = Last {
                    first: header.first,
                    sequence: header.sequence,
                    change: header.change,
                    checksum,
                    head_bytes: if header.is_head() { bytes } else { 0 },
                    bytes: if header.is_head() { 0 } else { bytes },
                };
                shipping.unshipped.resume(last.change);
                shipping.shown.lock().shipped_change = Some(last.change);
                chain.last = Some(last);
            }
        }
        let first = chain.last.as_ref().map_or(chain.next, |last| last.first);
        let old = own.iter().filter(|name| name.sequence < first || !name.whole).chain(&others);
        chain.old = old.map(|name| path_of(directory, name)).collect::<Result<_, _>>()?;
        chain.looked = true;
        Ok(())
    }

    /// Whoever took the lock over removes what was shipped under older tokens: nothing can be added to that.
    async fn check_last(
        &self,
        segment: &Segment,
        chain: &mut Chain,
        directory: &StorePath,
        shipping: &Shipping,
    ) -> Result<(), ApiError> {
        let Some(last) = &chain.last else { return Ok(()) };
        let name = ShippedName::new(&segment.id, shipping.token, last.sequence);
        match self.settings.store.stat(&path_of(directory, &name)?).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::warn!(segment = %segment.id, file = name.file_name(), "a shipped file was removed by somebody else; all is shipped anew");
                chain.last = None;
                Ok(())
            }
            Err(error) => Err(of_store(error)),
        }
    }

    async fn ship_changes(
        self: &Arc<Self>,
        segment: &Arc<Segment>,
        shipping: &Shipping,
        chain: &mut Chain,
        directory: &StorePath,
        facts: &Facts,
    ) -> Result<(), ApiError> {
        let grown = |last: &Last| {
            last.sequence - last.first >= FILES_MAX || last.bytes > last.head_bytes.max(CHANGES_BYTES_MIN)
        };
        let mut last = chain.last.clone().filter(|last| !grown(last));
        let writer = self.writer(segment, shipping.token).await?;
        let (pinned, taken) = writer.pin(last.as_ref().map(|last| last.change)).await?;
        drop(writer);
        if taken.pages() == &Pages::All {
            last = None;
        }
        let (basis, pages) = match (&chain.basis, taken.pages()) {
            (Basis::Generation(generation, before), Pages::These(changed)) => {
                let mut differ = before.clone();
                differ.extend(changed);
                let pages = if last.is_none() { differ.clone() } else { changed.clone() };
                (Basis::Generation(generation.clone(), differ), Pages::These(pages))
            }
            (Basis::All, Pages::These(changed)) if last.is_some() => {
                (Basis::All, Pages::These(changed.clone()))
            }
            _ => (Basis::All, Pages::All),
        };
        let sequence = chain.next;
        let (change, id) = (pinned.change, segment.id.as_str().to_owned());
        let describe = |pinned: &Pinned, page_count: u64| Header {
            segment: id,
            token: shipping.token,
            sequence,
            first: last.as_ref().map_or(sequence, |last| last.first),
            base: match &basis {
                Basis::Generation(generation, _) => Some(generation.clone()),
                Basis::All => None,
            },
            previous: last.as_ref().map(|last| last.checksum.clone()),
            change,
            page_bytes: pinned.page_bytes(),
            pages: pinned.pages(),
            page_count,
            keys_bytes: pinned.keys.len() as u64,
            field: facts.field,
        };
        let encoder = Encoder::new(pinned, &pages, describe).map_err(of_disk)?;
        let name = ShippedName::new(&segment.id, shipping.token, sequence);
        let (bytes, checksum) = match self.send_file(shipping, directory, &name, encoder).await {
            Ok(sent) => sent,
            Err(error) => {
                if error.code == ErrorCode::Conflict {
                    // An attempt that nobody knew the end of, perhaps. Nothing is built upon what is not known.
                    chain.next += 1;
                    let from = chain.last.take().map_or(sequence, |last| last.first);
                    chain.forget(directory, &segment.id, shipping.token, from..=sequence)?;
                }
                return Err(error);
            }
        };
        failpoint::pass("ship.after_rename").await;
        taken.shipped();
        shipping.shown.lock().shipped_change = Some(change);
        self.metrics.shipped_files.inc();
        self.metrics.shipped_bytes.inc_by(bytes);
        chain.next += 1;
        chain.basis = basis;
        let before = chain.last.take();
        chain.last = Some(match last {
            Some(last) => Last { sequence, change, checksum, bytes: last.bytes + bytes, ..last },
            None => {
                if let Some(before) = before {
                    let files = before.first..=before.sequence;
                    chain.forget(directory, &segment.id, shipping.token, files)?;
                }
                Last { first: sequence, sequence, change, checksum, head_bytes: bytes, bytes: 0 }
            }
        });
        Ok(())
    }

    /// Writes one file, whole or not at all; its length and checksum.
    async fn send_file(
        &self,
        shipping: &Shipping,
        directory: &StorePath,
        name: &ShippedName,
        mut encoder: Encoder,
    ) -> Result<(u64, String), ApiError> {
        let store = self.settings.store.as_ref();
        let target = path_of(directory, name)?;
        let part = path_of(directory, &ShippedName { whole: false, ..name.clone() })?;
        let options = CreateOptions { overwrite: true, create_parents: true, ..CreateOptions::default() };
        let mut writer = store.create(&part, options).await.map_err(of_store)?;
        let mut sent = 0;
        loop {
            if shipping.is_stopped() {
                drop(writer);
                remove(store, &part).await;
                return Err(ApiError::new(ErrorCode::ShuttingDown, "shipping was ended"));
            }
            let (chunk, rest) = blocking(move || {
                let mut encoder = encoder;
                let chunk = encoder.next().map_err(of_disk)?;
                Ok((chunk, encoder))
            })
            .await?;
            encoder = rest;
            let Some(chunk) = chunk else { break };
            sent += chunk.len() as u64;
            writer.write(Bytes::from(chunk)).await.map_err(of_store)?;
            failpoint::pass("ship.chunk").await;
        }
        let checksum = encoder.checksum();
        drop(encoder); // and with it the read transaction
        writer.sync().await.map_err(of_store)?;
        writer.close().await.map_err(of_store)?;
        failpoint::pass("ship.before_rename").await;
        let Err(error) = store.rename(&part, &target, false).await else {
            // A create of an attempt before, which nobody knew the end of, may have come between the close
            // and the rename: then that file, without our bytes, was renamed.
            let there = store.stat(&target).await.map_err(of_store)?;
            if there.len == sent {
                return Ok((sent, checksum));
            }
            remove(store, &target).await;
            let message = format!("{target} has {} bytes, and {sent} were sent to it", there.len);
            return Err(ApiError::new(ErrorCode::Conflict, message));
        };
        if error.kind() == ErrorKind::AlreadyExists {
            remove(store, &part).await;
            return Err(ApiError::new(ErrorCode::Conflict, format!("{target} is there already")));
        }
        // Nobody knows whether it happened: the store does. A rename that is still on its way must find
        // nothing when the same name is used again.
        match (store.stat(&part).await, store.stat(&target).await) {
            (Err(gone), Ok(there)) if gone.kind() == ErrorKind::NotFound && there.len == sent => {
                Ok((sent, checksum))
            }
            _ => {
                remove(store, &part).await;
                Err(of_store(error))
            }
        }
    }
}

impl Chain {
    /// These files are removed when the next head is whole.
    fn forget(
        &mut self,
        directory: &StorePath,
        id: &SegmentId,
        token: Token,
        files: std::ops::RangeInclusive<u64>,
    ) -> Result<(), ApiError> {
        for sequence in files {
            self.old.push(path_of(directory, &ShippedName::new(id, token, sequence))?);
        }
        Ok(())
    }
}

/// The checksum at the end of a file of `bytes` bytes.
async fn checksum_of(store: &dyn Store, path: &StorePath, bytes: u64) -> Result<Option<String>, ApiError> {
    let reader = match store.open(path, None).await {
        Ok(reader) => reader,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(of_store(error)),
    };
    let end = reader.read_at(bytes.saturating_sub(16), 16).await.map_err(of_store)?;
    Ok(<[u8; 16]>::try_from(&end[..]).ok().map(|end| format!("{:032x}", u128::from_be_bytes(end))))
}

/// Page 1: all that a copy differs in that was only made ready for writing.
pub(in crate::worker::hot) fn made_ready() -> PageSet {
    let mut pages = PageSet::default();
    pages.insert(1);
    pages
}
