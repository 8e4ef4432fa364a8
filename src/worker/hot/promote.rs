//! A worker's half of a promotion: a copy of the segment at a temporary name in the store, verified.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use springhouse_fuse::{
    error::{Error, ErrorKind},
    store::{CreateOptions, StorePath},
};
use springhouse_gateway::{
    api::{
        error::{ApiError, ErrorCode},
        hot::{HotPromoted, HotSegment, HotUpload, HotUploaded, HotWork, Token},
    },
    segment::SegmentId,
    upload::UploadName,
};
use xxhash_rust::xxh3::Xxh3;

use super::{Hot, blocking, fetch::of_store, of_disk, part, segment::Segment};
use crate::{
    clock, failpoint,
    query::{
        CopyError, QuerySettings,
        write::{self, Copied, Marker},
    },
    relayout::{self, Checked, RelayoutError, Watch},
};

/// Bytes written or read back at once.
const CHUNK_BYTES: usize = 1 << 20;

/// A scratch file that goes however the work ends.
#[derive(Debug)]
pub(in crate::worker) struct Scratch(pub(super) PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = super::data::remove(&self.0) {
            tracing::warn!(%error, "a scratch copy stays on the disk until the next start");
        }
    }
}

/// Makes what goes to the store: a consistent, checked, plain database with its interior pages first.
fn prepare(
    database: &Path,
    target: &Path,
    base: u64,
    field: Marker,
    stop: &Arc<AtomicBool>,
    limits: &QuerySettings,
) -> Result<(Copied, Checked), ApiError> {
    let scratch = Scratch(target.with_extension("copy"));
    let copied = write::copy(database, &scratch.0, base, field, stop, limits)?;
    Ok((copied, lay_out(&scratch.0, target, stop)?))
}

/// Lays the closed database `copy` out anew as `target`, checked.
pub(super) fn lay_out(copy: &Path, target: &Path, stop: &Arc<AtomicBool>) -> Result<Checked, ApiError> {
    let _ = std::fs::remove_file(target);
    let watch = Arc::new(Watch::stopped_by(Arc::clone(stop)));
    let laid = relayout::relayout_checked(copy, target, &watch).map_err(|error| {
        let code = match &error {
            error if error.is_disk_full() => ErrorCode::NoRoom,
            RelayoutError::Damaged(_) | RelayoutError::Copy(CopyError::Damaged(_)) => {
                ErrorCode::SegmentCorrupt
            }
            _ => ErrorCode::Internal,
        };
        ApiError::new(code, format!("laying the copy out anew: {error}"))
    })?;
    tracing::debug!(report = ?laid.report, "laid out anew");
    Ok(laid)
}

/// Removes the local copy however the upload ends, and takes the progress away.
pub(super) struct Under<'a> {
    hot: &'a Hot,
    segment: &'a Segment,
    file: PathBuf,
    stop: Arc<AtomicBool>,
}

impl Drop for Under<'_> {
    fn drop(&mut self) {
        // The client may have gone in the middle: what still runs for it ends.
        self.stop.store(true, Relaxed);
        {
            let mut state = self.segment.state.lock();
            state.work = None;
            // What is begun next is not stopped by that.
            if Arc::ptr_eq(&state.stop, &self.stop) {
                state.stop = Arc::default();
            }
        }
        if let Err(error) = super::data::remove(&self.file) {
            tracing::warn!(%error, "what was made for the store stays on the disk until the next start");
        }
        self.hot.publish(self.segment);
    }
}

impl<'a> Under<'a> {
    /// Of work on `segment` that `stop` ends.
    pub(super) fn new(hot: &'a Hot, segment: &'a Segment, stop: Arc<AtomicBool>) -> Self {
        Self { hot, segment, file: hot.data.outgoing(&segment.id), stop }
    }

    /// What is to be uploaded.
    pub(super) fn file(&self) -> PathBuf {
        self.file.clone()
    }

    pub(super) fn at(&self, what: &str, done: u64, total: u64) {
        self.segment.state.lock().work = Some(HotWork { what: what.into(), done, total });
    }

    fn check(&self) -> Result<(), ApiError> {
        if self.stop.load(Relaxed) {
            return Err(ApiError::new(ErrorCode::Conflict, "the upload was stopped"));
        }
        Ok(())
    }
}

impl Hot {
    /// Uploads the segment as of one transaction to the temporary name that the gateway chose.
    pub(super) async fn upload(
        self: &Arc<Self>,
        id: &SegmentId,
        token: Token,
        asked: &HotUpload,
    ) -> Result<HotUploaded, ApiError> {
        let segment = self.find(id.as_str()).ok_or_else(super::not_provisioned)?;
        let begun = clock::now();
        let outcome = self.upload_now(&segment, token, asked).await;
        self.metrics.uploads.with_label_values(&[if outcome.is_ok() { "done" } else { "failed" }]).inc();
        if outcome.is_ok() {
            self.metrics.upload_seconds.observe(clock::now().saturating_duration_since(begun).as_secs_f64());
        }
        outcome
    }

    async fn upload_now(
        self: &Arc<Self>,
        segment: &Arc<Segment>,
        token: Token,
        asked: &HotUpload,
    ) -> Result<HotUploaded, ApiError> {
        segment.state.lock().check_token(token)?;
        let _turn = segment.turn.lock().await;
        let (temporary, attempt, base, field, stop) = {
            let mut state = segment.state.lock();
            state.check_token(token)?;
            state.stop = Arc::default();
            let copy = state.record.copy.as_ref().ok_or_else(super::not_provisioned)?;
            let (temporary, attempt) = check_temporary(&asked.temporary, &state.record.path, token)?;
            state.check_attempt(attempt)?;
            (temporary, attempt, copy.change, Marker(copy.field.unwrap_or(0)), Arc::clone(&state.stop))
        };
        self.record(segment, move |record| record.begin(attempt)).await?;
        let under = Under::new(self, segment, Arc::clone(&stop));
        // A copy, and one that is laid out anew beside it.
        let size = segment.state.lock().size;
        let room = self
            .room
            .take(&self.data, size.saturating_mul(2))
            .map_err(|why| ApiError::new(ErrorCode::NoRoom, why))?;
        under.at("copying", 0, size);
        let (database, target, limits) =
            (self.data.segment(&segment.id), under.file.clone(), self.write.limits.clone());
        let copied = blocking(move || prepare(&database, &target, base, field, &stop, &limits)).await;
        let (copied, Checked { size, checksum, .. }) = match copied {
            Err(_) if under.stop.load(Relaxed) => {
                return Err(under.check().err().unwrap_or_else(super::not_provisioned));
            }
            copied => copied?,
        };
        failpoint::pass("promote.after_copy").await;
        self.send_checked(&under, &temporary, size, &checksum).await?;
        drop(room);
        // A higher token may have come meanwhile: then nobody may take this for a promotion.
        let (shipping, unpromoted) = {
            let state = segment.state.lock();
            state.check_token(token)?;
            (state.shipping.clone(), state.change() > copied.change)
        };
        if let Some(shipping) = shipping {
            shipping.generation_goes(unpromoted).await;
        }
        Ok(HotUploaded { size, checksum, change: copied.change })
    }

    /// Uploads the file of `under` and reads it back.
    pub(super) async fn send_checked(
        &self,
        under: &Under<'_>,
        temporary: &StorePath,
        size: u64,
        checksum: &str,
    ) -> Result<(), ApiError> {
        self.send(under, temporary, size).await?;
        failpoint::pass("promote.after_upload").await;
        let there = self.read_back(under, temporary).await?;
        if there == (size, checksum.to_owned()) {
            return Ok(());
        }
        Err(ApiError::new(
            ErrorCode::StoreUnavailable,
            format!("the store gives other bytes back than were uploaded to {temporary}"),
        ))
    }

    async fn send(&self, under: &Under<'_>, temporary: &StorePath, size: u64) -> Result<(), ApiError> {
        let options = CreateOptions { overwrite: true, create_parents: true, ..CreateOptions::default() };
        let mut writer = self.settings.store.create(temporary, options).await.map_err(of_store)?;
        let mut chunks = part::chunks(&under.file, CHUNK_BYTES).map_err(of_disk)?;
        let mut sent = 0;
        loop {
            under.check()?;
            under.at("uploading", sent, size);
            let (next, rest) = blocking(move || {
                let mut chunks = chunks;
                let next = chunks.next().transpose().map_err(of_disk)?;
                Ok((next, chunks))
            })
            .await?;
            chunks = rest;
            let Some(chunk) = next else { break };
            sent += chunk.len() as u64;
            writer.write(Bytes::from(chunk)).await.map_err(of_store)?;
            failpoint::pass("promote.chunk").await;
        }
        writer.sync().await.map_err(of_store)?;
        writer.close().await.map_err(of_store)
    }

    /// Length and checksum of what lies at the temporary name, as the store gives it.
    async fn read_back(&self, under: &Under<'_>, temporary: &StorePath) -> Result<(u64, String), ApiError> {
        let reader = self.settings.store.open(temporary, None).await.map_err(of_store)?;
        let size = reader.metadata().len;
        let (mut hash, mut at) = (Xxh3::new(), 0);
        while at < size {
            under.check()?;
            under.at("verifying", at, size);
            let bytes = reader.read_at(at, CHUNK_BYTES).await.map_err(of_store)?;
            if bytes.is_empty() {
                return Err(of_store(Error::new(ErrorKind::Corrupt, format!("{temporary} is cut short"))));
            }
            hash.update(&bytes);
            at += bytes.len() as u64;
        }
        Ok((size, format!("{:032x}", hash.digest128())))
    }

    /// The gateway has renamed an upload over: what it holds is in the store.
    pub(super) async fn promoted(
        self: &Arc<Self>,
        id: &SegmentId,
        token: Token,
        asked: HotPromoted,
    ) -> Result<HotSegment, ApiError> {
        let segment = self.find(id.as_str()).ok_or_else(super::not_provisioned)?;
        let _turn = segment.turn.lock().await;
        {
            let state = segment.state.lock();
            state.check_token(token)?;
            let (change, last) = (asked.change, state.change());
            if change > last {
                let message = format!("transaction {change} is not here: the last one is {last}");
                return Err(ApiError::new(ErrorCode::BadRequest, message));
            }
        }
        failpoint::pass("promote.before_record").await;
        self.record(&segment, move |record| {
            if let Some(copy) = &mut record.copy
                && asked.change >= copy.promoted_change
            {
                copy.generation = Some(asked.generation);
                copy.promoted_change = asked.change;
                copy.change = copy.change.max(asked.change);
            }
        })
        .await?;
        failpoint::pass("promote.after_record").await;
        {
            let mut state = segment.state.lock();
            // What came after the copy was made is younger than the copy: its age counts from now.
            state.unpromoted_since_ms = state.is_unpromoted().then(super::tend::now_ms);
            if let Some(shipping) = &state.shipping {
                shipping.promoted(asked.change);
            }
        }
        self.publish(&segment);
        Ok(segment.show())
    }
}

/// The temporary name and the number of the attempt, if it is one of this segment and token. A gateway of
/// before does not tell attempts apart.
pub(super) fn check_temporary(
    given: &str,
    path: &str,
    token: Token,
) -> Result<(StorePath, Option<Token>), ApiError> {
    let bad = |why: String| ApiError::new(ErrorCode::BadRequest, why);
    let temporary = StorePath::parse(given).map_err(|error| bad(error.message().to_owned()))?;
    let name = UploadName::parse(temporary.name()).filter(|name| name.token == token);
    match name {
        Some(name) if temporary.as_str() == given && name.beside(path) == given => {
            Ok((temporary, name.attempt))
        }
        _ => Err(bad(format!(
            "{given:?} is no temporary name of this upload: that is {path}._COPYING_.{token} and the number of an attempt"
        ))),
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn only_the_own_temporary_name_is_written() {
        // Without an attempt: from a gateway of before.
        for good in ["/1/1234.sqlite._COPYING_.7.9", "/1/1234.sqlite._COPYING_.7"] {
            assert!(check_temporary(good, "/1/1234.sqlite", 7).is_ok(), "{good}");
        }
        for bad in [
            "/1/1234.sqlite",
            "/1/1234.sqlite._COPYING_.8",
            "/1/1234.sqlite._COPYING_.8.7",
            "/1/1234.sqlite._COPYING_.7.x",
            "/2/1234.sqlite._COPYING_.7",
            "/1/../1/1234.sqlite._COPYING_.7",
            "1/1234.sqlite._COPYING_.7",
            "/1/1234.sqlite._COPYING_.7/x",
        ] {
            let error = check_temporary(bad, "/1/1234.sqlite", 7).expect_err(bad);
            assert_eq!(error.code, ErrorCode::BadRequest);
        }
    }
}
