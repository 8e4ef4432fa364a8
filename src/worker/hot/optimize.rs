//! A segment in the store laid out anew: fetched, laid out, uploaded to a temporary name. The gateway renames
//! it over, as after a promotion; a copy that is here for reading is left alone.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use springhouse_gateway::{
    api::{
        error::{ApiError, ErrorCode},
        hot::{HotUploaded, Token},
        optimize::{HotOptimize, HotOptimized, Layout},
    },
    segment::SegmentId,
};

use super::{
    Hot, blocking,
    fetch::{Failure, fetch},
    promote::{Under, check_temporary, lay_out},
    provision::fenced,
    record::Record,
    segment::Segment,
};
use crate::{failpoint, relayout::Report};

impl Hot {
    /// See the module. Nothing is uploaded where nothing would be gained.
    pub(super) async fn optimize(
        self: &Arc<Self>,
        id: &SegmentId,
        token: Token,
        asked: &HotOptimize,
    ) -> Result<HotOptimized, ApiError> {
        let (temporary, attempt) = check_temporary(&asked.temporary, &asked.path, token)?;
        let segment = self.find_or_make(id, &asked.path);
        let _turn = segment.turn.lock().await;
        let stop = {
            let mut state = segment.state.lock();
            if token < state.record.fence {
                return Err(fenced(token, state.record.fence));
            }
            if state.record.copy.as_ref().is_some_and(|copy| copy.token.is_some()) {
                let message = "the segment is locked for writing here: promote it instead";
                return Err(ApiError::new(ErrorCode::Locked, message));
            }
            state.check_attempt(attempt)?;
            state.stop = Arc::default();
            Arc::clone(&state.stop)
        };
        let begun = move |record: &mut Record| {
            // Whoever comes with a lower token comes too late.
            record.fence = token;
            record.begin(attempt);
        };
        self.record(&segment, begun).await?;
        let outcome = self.optimize_now(&segment, token, asked, &temporary, &stop).await;
        // Its part is no copy of anything that stays.
        if let Err(error) = self.data.remove_part(id) {
            tracing::warn!(segment = %id, %error, "a copy that was laid out anew stays on the disk");
        }
        outcome
    }

    async fn optimize_now(
        self: &Arc<Self>,
        segment: &Arc<Segment>,
        token: Token,
        asked: &HotOptimize,
        temporary: &springhouse_fuse::store::StorePath,
        stop: &Arc<std::sync::atomic::AtomicBool>,
    ) -> Result<HotOptimized, ApiError> {
        let fetched = fetch(self, segment, &asked.path, &asked.generation, true, stop).await;
        self.count_fetch(&fetched);
        let (copy, fetched_room) = fetched.map_err(|failure| match failure {
            Failure::Stopped => ApiError::new(ErrorCode::Conflict, "the work was stopped"),
            failure => failure.into_api(),
        })?;
        let under = Under::new(self, segment, Arc::clone(stop));
        let room =
            self.room.take(&self.data, copy.size).map_err(|why| ApiError::new(ErrorCode::NoRoom, why))?;
        under.at("laying out", 0, copy.size);
        let (part, target, watched) = (self.data.part(&segment.id), under.file(), Arc::clone(stop));
        let laid = blocking(move || lay_out(&part, &target, &watched)).await;
        let laid = match laid {
            Err(_) if stop.load(Relaxed) => {
                return Err(ApiError::new(ErrorCode::Conflict, "the work was stopped"));
            }
            laid => laid?,
        };
        failpoint::pass("optimize.after_copy").await;
        let layout = layout_of(&laid.report);
        let uploaded = if layout.is_gain() {
            self.send_checked(&under, temporary, laid.size, &laid.checksum).await?;
            failpoint::pass("optimize.after_upload").await;
            Some(HotUploaded { size: laid.size, checksum: laid.checksum, change: 0 })
        } else {
            None
        };
        drop((room, fetched_room));
        let fence = segment.state.lock().record.fence;
        if token < fence {
            return Err(fenced(token, fence));
        }
        Ok(HotOptimized { layout, uploaded })
    }
}

fn layout_of(report: &Report) -> Layout {
    Layout {
        page_bytes: report.page_bytes,
        pages_before: report.pages_before,
        pages_after: report.pages_after,
        interior_pages: report.interior_pages,
        cold_reads_before: report.cold_before.reads,
        cold_reads_after: report.cold_after.reads,
        cold_bytes_before: report.cold_before.bytes,
        cold_bytes_after: report.cold_after.bytes,
    }
}
