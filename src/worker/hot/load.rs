//! What a start finds in the data directory.

use std::{io, sync::Arc, time::SystemTime};

use springhouse_gateway::segment::SegmentId;

use super::{
    Hot,
    record::{CopyRecord, Record},
    segment::{OpenCopy, Segment},
    ship::{Basis, Shipping},
    tend::now_ms,
};
use crate::query::write::last_change;

impl Hot {
    /// Takes one segment up as the last process left it. What cannot be made sense of stays where it is,
    /// and is refused with the reason.
    pub(super) fn load(&self, id: SegmentId) {
        let record = match Record::read(&self.data.record(&id)) {
            Ok(record) => record.unwrap_or_else(|| Record::new("")),
            Err(error) => {
                tracing::error!(segment = %id, %error, "the record of a copy cannot be read; the copy is not used");
                let segment = Segment::new(id, Record::new(""));
                segment.state.lock().refused =
                    Some(format!("its record on the worker cannot be read: {error}"));
                self.add(segment);
                return;
            }
        };
        let segment = Segment::new(id, record);
        if let Err(error) = self.clear_up(&segment) {
            tracing::error!(segment = %segment.id, %error, "a copy cannot be taken up");
            segment.state.lock().refused = Some(format!("the worker's disk: {error}"));
            self.add(segment);
            return;
        }
        let copy = segment.state.lock().record.copy.clone();
        if let Some(copy) = copy {
            self.offer(&segment, &copy);
            self.find_shipping(&segment, &copy);
        }
        let worthless = {
            let state = segment.state.lock();
            state.record.copy.is_none()
                && state.record.fence <= self.fences.floor()
                && state.refused.is_none()
        };
        if worthless {
            let _ = super::data::remove(&self.data.record(&segment.id)); // looked at again at the next start
            return;
        }
        self.add(segment);
    }

    fn add(&self, segment: Segment) {
        let segment = Arc::new(segment);
        self.measure(&segment);
        self.publish(&segment);
        self.segments.write().insert(segment.id.as_str().to_owned(), segment);
    }

    /// Ends what the last process was in the middle of.
    fn clear_up(&self, segment: &Segment) -> io::Result<()> {
        let id = &segment.id;
        let (record, path) = (segment.state.lock().record.clone(), self.data.segment(id));
        if let Some(keeping) = &record.keeping {
            self.data.move_to_kept(id, &keeping.file)?;
            segment.change_record(&self.data, Record::end_keeping)?;
        }
        if let Some(incoming) = &record.incoming {
            if self.data.part(id).try_exists()? {
                self.data.make_way(id)?;
                self.data.put_in_place(id)?;
            }
            self.data.put_keys_in_place(id)?;
            self.data.sync(id)?;
            let copy = path.try_exists()?.then(|| incoming.clone());
            segment.change_record(&self.data, |record| (record.copy, record.incoming) = (copy, None))?;
        }
        let known = segment.state.lock().record.copy.is_some();
        match (known, path.try_exists()?) {
            (true, false) => segment.change_record(&self.data, |record| record.copy = None),
            // Nobody knows what it is; it may be somebody's writes.
            (false, true) => {
                let name = self.data.kept_name(id, record.fence, SystemTime::now());
                tracing::warn!(segment = %id, kept = name, "a copy without a record is kept aside");
                self.metrics.kept.inc();
                self.data.move_to_kept(id, &name)
            }
            _ => Ok(()),
        }
    }

    /// Lets queries read the copy, if it looks as its record says.
    fn offer(&self, segment: &Segment, copy: &CopyRecord) {
        let path = self.data.segment(&segment.id);
        if !copy.written {
            let len = path.metadata().map_or(0, |metadata| metadata.len());
            if len == copy.size {
                segment.state.lock().open = Some(OpenCopy::new(copy.change));
                return;
            }
            tracing::error!(segment = %segment.id, len, expected = copy.size, "a copy has another length");
            self.metrics.damaged.inc();
            // The store has it: nothing is lost.
            let dropped = self
                .data
                .remove_segment(&segment.id)
                .and_then(|()| segment.change_record(&self.data, |record| record.copy = None));
            if let Err(error) = dropped {
                segment.state.lock().refused = Some(format!("the worker's disk: {error}"));
            }
            return;
        }
        match last_change(&path, copy.change, &self.write.limits) {
            Ok(change) => {
                segment.state.lock().open = Some(OpenCopy::new(change));
                if copy.token.is_none() && change > copy.promoted_change {
                    // The lock was given up, and the last process ended before it kept the writes aside. As
                    // they are they belong to no generation, and nobody may read them.
                    let kept = self.move_aside(segment);
                    let mut state = segment.state.lock();
                    state.open = None;
                    if let Err(error) = kept {
                        state.refused = Some(format!("the worker's disk: {error}"));
                    }
                    return;
                }
                self.written.lock().insert(segment.id.as_str().to_owned());
                let mut state = segment.state.lock();
                state.verified = true; // it has no checksum: it was written to
                if change > copy.promoted_change {
                    state.unpromoted_since_ms = Some(now_ms());
                }
            }
            Err(error) => {
                tracing::error!(segment = %segment.id, %error, "a written copy cannot be opened; it stays where it is");
                segment.state.lock().refused =
                    Some(format!("its writes cannot be opened: {}", error.message));
            }
        }
    }

    /// What was written under a lock that ships goes on being shipped, if that is the newest one seen. Which pages changed since the last
    /// file nobody knows any more, unless that file turns out to be the last word.
    fn find_shipping(&self, segment: &Segment, copy: &CopyRecord) {
        let mut state = segment.state.lock();
        let lasting = copy.token.filter(|token| state.check_token(*token).is_ok());
        if let (Some(ship), Some(token), true) = (state.record.ship, lasting, state.open.is_some()) {
            let shipping = Shipping::of(ship, token, Basis::All, 0);
            if state.is_unpromoted() {
                shipping.unshipped.mark();
            }
            state.shipping = Some(Arc::new(shipping));
        }
    }

    /// Removes what was copied of segments that nothing is known of. The others go on where they were.
    pub(super) fn remove_strange_parts(&self) {
        // An assignment that comes may want any of them, and says so within seconds; until then a part is
        // only room. They are removed when it does not: see `tend`.
        match self.data.parts() {
            Ok(parts) => self.queue.set_leftovers(parts),
            Err(error) => tracing::warn!(%error, "left-over parts cannot be listed"),
        }
    }
}
