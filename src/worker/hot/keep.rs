//! Changing which file a segment is: a finished part in its place, its writes kept aside, nothing. The
//! caller has the segment's turn.

use std::{io, sync::Arc, time::SystemTime};

use springhouse_gateway::{
    api::{
        error::{ApiError, ErrorCode},
        hot::{HotAside, Token},
    },
    segment::SegmentId,
};

use super::{
    Hot, blocking, of_disk,
    record::{CopyRecord, Kept, Record},
    segment::{OpenCopy, Segment},
};
use crate::failpoint;

impl Hot {
    /// Puts the finished part in the place of the copy, which is worth nothing any more.
    pub(super) async fn install(
        self: &Arc<Self>,
        segment: &Arc<Segment>,
        copy: CopyRecord,
    ) -> Result<(), ApiError> {
        self.end_shipping(segment).await;
        self.close_writer(segment).await;
        let (hot, segment) = (Arc::clone(self), Arc::clone(segment));
        blocking(move || {
            let (data, id) = (&hot.data, &segment.id);
            // From here on a restart puts the part in place. Queries go on with the old file; with one that
            // was written they do not: who opens it without its log would leave a new one there.
            {
                let mut state = segment.state.lock();
                if state.record.copy.as_ref().is_some_and(|old| old.field.is_some()) {
                    state.open = None;
                }
            }
            let incoming = copy.clone();
            segment
                .write_record(data, |record| (record.copy, record.incoming) = (None, Some(incoming)))
                .map_err(of_disk)?;
            failpoint::hit("copy.before_rename");
            data.make_way(id).map_err(of_disk)?;
            {
                // Nobody may open the new file under the old one's name, or the other way round.
                let mut state = segment.state.lock();
                data.put_in_place(id).map_err(of_disk)?;
                data.put_keys_in_place(id).map_err(of_disk)?;
                let plain = copy.checksum.is_some();
                let before = std::mem::replace(&mut state.size, copy.size);
                hot.room.change(before, copy.size);
                state.open = Some(OpenCopy::new(copy.change));
                state.record.copy = Some(copy.clone());
                state.verified = plain;
                state.refused = None;
                state.unpromoted_since_ms = None;
            }
            failpoint::hit("copy.after_rename");
            data.sync(id).map_err(of_disk)?;
            segment
                .change_record(data, |record| (record.copy, record.incoming) = (Some(copy), None))
                .map_err(of_disk)?;
            hot.written.lock().remove(id.as_str());
            let _ = super::data::remove(&data.progress(id)); // the next copy does not believe it
            hot.close_connections(&segment);
            hot.measure(&segment);
            hot.publish(&segment);
            Ok(())
        })
        .await
    }

    /// Moves the copy, with writes that nobody promoted, to where nothing is ever deleted.
    pub(super) async fn keep_aside(self: &Arc<Self>, segment: &Arc<Segment>) -> Result<(), ApiError> {
        segment.state.lock().open = None;
        self.end_shipping(segment).await;
        self.close_writer(segment).await;
        let (hot, segment) = (Arc::clone(self), Arc::clone(segment));
        blocking(move || {
            hot.move_aside(&segment).map_err(of_disk)?;
            hot.forget_copy(&segment);
            Ok(())
        })
        .await
    }

    /// The part of [`Hot::keep_aside`] that a crash may cut short; the next start ends it. Nothing is open.
    pub(super) fn move_aside(&self, segment: &Segment) -> io::Result<()> {
        let (token, change, promoted) = {
            let state = segment.state.lock();
            let copy = state.record.copy.as_ref();
            // A release takes the token out first, and keeps aside then.
            let token = copy.and_then(|copy| copy.token).unwrap_or(state.record.fence);
            (token, state.change(), copy.map_or(0, |copy| copy.promoted_change))
        };
        let file = self.data.kept_name(&segment.id, token, SystemTime::now());
        let keeping = Kept { file, token, transactions: change.saturating_sub(promoted) };
        let begun = keeping.clone();
        segment.change_record(&self.data, |record| record.keeping = Some(begun))?;
        failpoint::hit("keep.before_rename");
        self.data.move_to_kept(&segment.id, &keeping.file)?;
        failpoint::hit("keep.after_rename");
        segment.change_record(&self.data, Record::end_keeping)?;
        let _ = super::data::remove(&self.data.keys(&segment.id)); // the next copy begins its own
        let Kept { file, transactions, .. } = keeping;
        tracing::warn!(segment = %segment.id, kept = file, token, transactions, "unpromoted writes are kept aside");
        self.metrics.kept.inc();
        Ok(())
    }

    /// The write lock under `token` is over: closes for writing, and keeps aside what was not promoted; under
    /// which name. Repeating it is harmless; what is here under another token is not touched.
    pub(super) async fn superseded(
        self: &Arc<Self>,
        id: &SegmentId,
        token: Token,
    ) -> Result<HotAside, ApiError> {
        let Some(segment) = self.find(id.as_str()) else { return Ok(HotAside::default()) };
        if segment.state.lock().was_written_under(token) {
            // An upload that nobody will take.
            segment.state.lock().stop_work();
        }
        // Whoever asked may go away in the middle.
        let hot = Arc::clone(self);
        let task = tokio::spawn(async move {
            let _turn = segment.turn.lock().await;
            if segment.state.lock().was_written_under(token) {
                tracing::warn!(segment = %segment.id, token, "a newer generation in the store ended the write lock");
                hot.end_writing(&segment, true).await?;
            }
            let state = segment.state.lock();
            let kept = state.record.kept.iter().rfind(|kept| kept.token == token);
            Ok(HotAside {
                known: state.record.fence >= token,
                kept: kept.map(|kept| kept.file.clone()),
                transactions: kept.map_or(0, |kept| kept.transactions),
            })
        });
        match task.await {
            Ok(outcome) => outcome,
            Err(_) => Err(ApiError::new(ErrorCode::Internal, "it ended by a defect; the log has more")),
        }
    }

    /// Removes the copy, of which the store has everything.
    pub(super) async fn drop_copy(self: &Arc<Self>, segment: &Arc<Segment>) -> Result<(), ApiError> {
        segment.state.lock().open = None;
        self.end_shipping(segment).await;
        self.close_writer(segment).await;
        let (hot, segment) = (Arc::clone(self), Arc::clone(segment));
        blocking(move || {
            failpoint::hit("drop.before_remove");
            hot.data.remove_segment(&segment.id).map_err(of_disk)?;
            failpoint::hit("drop.after_remove");
            hot.data.remove_part(&segment.id).map_err(of_disk)?;
            let fence = segment.state.lock().record.fence;
            if fence == 0 {
                // Nobody ever wrote: there is nothing to remember.
                super::data::remove(&hot.data.record(&segment.id)).map_err(of_disk)?;
                segment.state.lock().record.copy = None;
            } else {
                segment.change_record(&hot.data, |record| record.copy = None).map_err(of_disk)?;
            }
            hot.forget_copy(&segment);
            Ok(())
        })
        .await
    }

    fn forget_copy(&self, segment: &Segment) {
        self.written.lock().remove(segment.id.as_str());
        segment.state.lock().unpromoted_since_ms = None;
        self.measure(segment);
        self.publish(segment);
    }
}
