//! Making a segment writable here, and giving that up.

use std::sync::Arc;

use springhouse_fuse::{error::ErrorKind, store::StorePath};
use springhouse_gateway::{
    api::{
        error::{ApiError, ErrorCode},
        hot::{HotProvision, HotSegment, Token},
        ship::{HotProvisioned, HotRecovered, Ship},
    },
    segment::SegmentId,
};

use super::{
    Hot, blocking,
    fetch::{fetch, of_store},
    of_disk,
    record::CopyRecord,
    segment::Segment,
    ship::{Basis, Shipping, made_ready},
};
use crate::{
    failpoint,
    query::write::{self, Marker},
};

impl Hot {
    /// Makes `id` writable under `token`. Repeating it is harmless.
    pub(super) async fn provision(
        self: &Arc<Self>,
        id: SegmentId,
        token: Token,
        asked: HotProvision,
    ) -> Result<HotProvisioned, ApiError> {
        let path = StorePath::parse(&asked.path)
            .map_err(|error| ApiError::new(ErrorCode::BadRequest, error.message()))?;
        if SegmentId::from_file_name(path.name()).as_ref() != Some(&id) {
            let message = format!("{path} is not a path of segment {id}");
            return Err(ApiError::new(ErrorCode::BadRequest, message));
        }
        let segment = self.find_or_make(&id, path.as_str());
        {
            let mut state = segment.state.lock();
            if token < state.record.fence {
                return Err(fenced(token, state.record.fence));
            }
            if token > state.record.fence {
                // What is under way under an older token, or a copy that takes its time.
                state.stop_work();
            }
        }
        // A client that goes away must not leave it half done; the next request finds it done.
        let hot = Arc::clone(self);
        let task =
            tokio::spawn(async move { hot.provision_now(&segment, token, path.as_str(), &asked).await });
        match task.await {
            Ok(outcome) => outcome,
            Err(_) => Err(ApiError::new(ErrorCode::Internal, "provisioning ended by a defect")),
        }
    }

    async fn provision_now(
        self: &Arc<Self>,
        segment: &Arc<Segment>,
        token: Token,
        path: &str,
        asked: &HotProvision,
    ) -> Result<HotProvisioned, ApiError> {
        let _turn = segment.turn.lock().await;
        let (fence, copy) = {
            let state = segment.state.lock();
            if let Some(why) =
                state.refused.as_ref().filter(|_| state.record.copy.is_some() && state.open.is_none())
            {
                // Its writes are there and cannot be read: nothing may take their place.
                return Err(ApiError::new(ErrorCode::SegmentCorrupt, why.clone()));
            }
            (state.record.fence, state.record.copy.clone())
        };
        if token < fence {
            return Err(fenced(token, fence));
        }
        if copy.as_ref().is_some_and(|copy| copy.token == Some(token)) {
            self.ship_as_asked(segment, token, asked.ship).await?;
            return Ok(HotProvisioned { segment: segment.show(), recovered: None });
        }
        if asked.again && fence < token {
            return Err(lost_data(token));
        }
        // First of all nobody with a lower token may change anything any more, whatever happens now.
        self.record(segment, {
            let path = path.to_owned();
            move |record| (record.fence, record.path) = (token, path)
        })
        .await?;
        failpoint::pass("provision.after_fence").await;
        self.end_shipping(segment).await;
        self.close_writer(segment).await;
        let (recovered, basis) = self.bring(segment, path, token, copy, asked).await?;
        failpoint::pass("provision.after_copy").await;
        let shown = self.make_writable(segment, token, asked.ship).await?;
        let from = asked.recover.filter(|_| recovered.is_some()).map_or(token, |recover| recover.from);
        let shipping = asked.ship.map(|ship| Shipping::of(ship, token, basis, shown.change).after(from));
        self.begin_shipping(segment, shipping).await;
        failpoint::pass("provision.after_record").await;
        tracing::info!(segment = %segment.id, token, generation = shown.generation, ?recovered, "writable here");
        Ok(HotProvisioned { segment: shown, recovered })
    }

    /// Sees to it that what is here is what is asked for: what former holders shipped, the generation in the
    /// store, or a new segment. Also says what it differs from that is in the store.
    async fn bring(
        self: &Arc<Self>,
        segment: &Arc<Segment>,
        path: &str,
        token: Token,
        copy: Option<CopyRecord>,
        asked: &HotProvision,
    ) -> Result<(Option<HotRecovered>, Basis), ApiError> {
        let mut recovered = None;
        // Of another lock than the one that is taken over: the holders in between did not build upon it.
        let mut strange = false;
        if let Some(recover) = asked.recover {
            if copy.as_ref().is_some_and(|copy| copy.token == Some(recover.token)) {
                let change = segment.state.lock().change();
                let own = HotRecovered { token: recover.token, change, files: 0, unused: None };
                return Ok((Some(own), Basis::All));
            }
            let found = self.replay(segment, path, token, asked.generation.as_deref(), recover).await?;
            if let (Some(replayed), _) = found {
                if segment.state.lock().is_unpromoted() {
                    self.keep_aside(segment).await?;
                }
                self.install(segment, replayed.copy).await?;
                return Ok((Some(replayed.recovered), replayed.basis));
            }
            recovered = found.1.map(|unused| HotRecovered {
                token: recover.token,
                change: recover.promoted_change,
                files: 0,
                unused: Some(unused),
            });
            strange = segment.state.lock().is_unpromoted();
        }
        if strange || copy.as_ref().is_none_or(|copy| copy.generation != asked.generation) {
            self.replace_for(segment, path, asked).await?;
        }
        let state = segment.state.lock();
        let plain = state.record.copy.as_ref().filter(|copy| !copy.written);
        let basis = match plain.and_then(|copy| copy.generation.clone()) {
            Some(generation) => Basis::Generation(generation, made_ready()),
            None => Basis::All,
        };
        Ok((recovered, basis))
    }

    /// The lock is held here already: only how it is shipped may be another.
    async fn ship_as_asked(
        self: &Arc<Self>,
        segment: &Arc<Segment>,
        token: Token,
        ship: Option<Ship>,
    ) -> Result<(), ApiError> {
        let now = segment.state.lock().shipping.as_ref().map(|shipping| shipping.ship);
        if now == ship {
            return Ok(());
        }
        self.record(segment, move |record| record.ship = ship).await?;
        let change = segment.state.lock().change();
        let shipping = ship.map(|ship| Shipping::of(ship, token, Basis::All, change));
        self.begin_shipping(segment, shipping).await;
        Ok(())
    }

    /// Brings the generation that is asked for, or a new segment, in the place of whatever is here.
    async fn replace_for(
        self: &Arc<Self>,
        segment: &Arc<Segment>,
        path: &str,
        asked: &HotProvision,
    ) -> Result<(), ApiError> {
        let (copy, room) = match &asked.generation {
            Some(generation) => {
                let stop = Arc::clone(&segment.state.lock().stop);
                let fetched = fetch(self, segment, path, generation, true, &stop).await;
                self.count_fetch(&fetched);
                let (copy, room) = fetched.map_err(super::fetch::Failure::into_api)?;
                (copy, Some(room))
            }
            None => (self.create(segment, path, &asked.schema_sql).await?, None),
        };
        let unpromoted = segment.state.lock().is_unpromoted();
        if unpromoted {
            self.keep_aside(segment).await?;
        }
        self.install(segment, copy).await?;
        drop(room);
        Ok(())
    }

    /// Makes a new segment as a part.
    async fn create(
        self: &Arc<Self>,
        segment: &Segment,
        path: &str,
        schema: &str,
    ) -> Result<CopyRecord, ApiError> {
        // The gateway says that the store has none. Where that was wrong the next promotion would replace
        // what is there.
        let path = StorePath::parse(path).map_err(of_store)?;
        match self.settings.store.stat(&path).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Ok(_) => {
                let message = format!("the store has a file at {path}: a new segment would replace it");
                return Err(ApiError::new(ErrorCode::Conflict, message));
            }
            Err(error) => return Err(of_store(error)),
        }
        let (part, schema, limits) =
            (self.data.part(&segment.id), schema.to_owned(), self.write.limits.clone());
        blocking(move || {
            write::create(&part, &schema, &limits)?;
            let size = part.metadata().map_err(of_disk)?.len();
            Ok(CopyRecord::created(size))
        })
        .await
    }

    /// Puts the copy into the mode for writing and grants it to `token`.
    async fn make_writable(
        self: &Arc<Self>,
        segment: &Arc<Segment>,
        token: Token,
        ship: Option<Ship>,
    ) -> Result<HotSegment, ApiError> {
        let (hot, own) = (Arc::clone(self), Arc::clone(segment));
        blocking(move || {
            let path = hot.data.segment(&own.id);
            let (copy, change) = {
                let state = own.state.lock();
                (state.record.copy.clone().ok_or_else(super::not_provisioned)?, state.change())
            };
            if !copy.written {
                if copy.field.is_none() {
                    // Remembered before it is used, so that what follows can be repeated.
                    let held = Marker::read(&path).map_err(of_disk)?;
                    own.change_record(&hot.data, |record| {
                        if let Some(copy) = &mut record.copy {
                            (copy.field, copy.checksum) = (Some(held.0), None);
                        }
                    })
                    .map_err(of_disk)?;
                }
                write::prepare(&path, change, &hot.write.limits)?;
            }
            hot.written.lock().insert(own.id.as_str().to_owned());
            own.change_record(&hot.data, |record| {
                record.ship = ship;
                if let Some(copy) = &mut record.copy {
                    (copy.token, copy.change) = (Some(token), copy.change.max(change));
                    copy.written = true;
                }
            })
            .map_err(of_disk)
        })
        .await?;
        segment.state.lock().verified = true;
        self.measure(segment);
        self.publish(segment);
        Ok(segment.show())
    }

    /// Gives the right to write up. The copy stays for reading if the store has all of it.
    pub(super) async fn release(
        self: &Arc<Self>,
        id: &SegmentId,
        token: Token,
        force: bool,
    ) -> Result<HotSegment, ApiError> {
        let segment = self.find(id.as_str());
        let fence = segment.as_ref().map_or(self.fences.floor(), |segment| segment.state.lock().record.fence);
        if fence < token {
            return Err(lost_data(token));
        }
        let segment = segment.ok_or_else(super::not_provisioned)?;
        let _turn = segment.turn.lock().await;
        segment.state.lock().check_token(token)?;
        self.end_writing(&segment, force).await?;
        Ok(segment.show())
    }

    /// The gateway says that `token` is not the newest any more: what is writable under it is so no longer.
    /// Also where a higher one was seen here, by a provision that came to nothing.
    pub(super) async fn lose(self: &Arc<Self>, id: &SegmentId, token: Token) -> Result<(), ApiError> {
        let segment = self.find(id.as_str()).ok_or_else(super::not_provisioned)?;
        let _turn = segment.turn.lock().await;
        let own = segment.state.lock().record.copy.as_ref().and_then(|copy| copy.token);
        if own != Some(token) {
            return Err(super::not_provisioned());
        }
        self.end_writing(&segment, true).await
    }

    /// [`Hot::release`] under the segment's turn, whatever the token.
    pub(super) async fn end_writing(
        self: &Arc<Self>,
        segment: &Arc<Segment>,
        force: bool,
    ) -> Result<(), ApiError> {
        // Nothing more may come while it is decided; if it stays, the next write opens it again.
        let closed = self.hold_writer_closed(segment).await;
        let (unpromoted, generation, change) = {
            let state = segment.state.lock();
            let generation = state.record.copy.as_ref().and_then(|copy| copy.generation.clone());
            (state.is_unpromoted(), generation, state.change())
        };
        if unpromoted && !force {
            return Err(ApiError::new(
                ErrorCode::Unpromoted,
                "there are writes that were not promoted; promote first, or release with force: then they \
                 are kept aside on this worker",
            ));
        }
        self.record(segment, move |record| {
            if let Some(copy) = &mut record.copy {
                (copy.token, copy.change) = (None, copy.change.max(change));
            }
        })
        .await?;
        failpoint::pass("release.after_record").await;
        drop(closed);
        self.end_shipping(segment).await;
        if unpromoted {
            self.keep_aside(segment).await?;
        } else if generation.is_none() {
            // New, and nothing was written.
            self.drop_copy(segment).await?;
        }
        self.publish(segment);
        self.queue.push(segment.id.as_str());
        Ok(())
    }

    /// Removes everything of `id`. Writes that nobody promoted are kept aside.
    pub(super) async fn delete(
        self: &Arc<Self>,
        id: &SegmentId,
        token: Option<Token>,
    ) -> Result<(), ApiError> {
        let Some(segment) = self.find(id.as_str()) else { return Ok(()) };
        {
            let mut state = segment.state.lock();
            let fence = state.record.fence;
            match token {
                Some(token) if token < fence => return Err(fenced(token, fence)),
                None if state.record.copy.as_ref().is_some_and(|copy| copy.token.is_some()) => {
                    return Err(ApiError::new(ErrorCode::Locked, "the segment is locked for writing here"));
                }
                _ => {}
            }
            (state.wanted, state.unwanted) = (None, false);
            state.stop_work();
        }
        let _turn = segment.turn.lock().await;
        if let Some(token) = token {
            self.record(&segment, move |record| record.fence = record.fence.max(token)).await?;
        }
        self.close_writer(&segment).await;
        let (there, unpromoted) = {
            let state = segment.state.lock();
            (state.record.copy.is_some(), state.is_unpromoted())
        };
        if there && unpromoted {
            self.keep_aside(&segment).await?;
        }
        self.drop_copy(&segment).await?;
        segment.state.lock().refused = None;
        self.publish(&segment);
        Ok(())
    }

    /// [`Segment::change_record`] where it may wait for the disk.
    pub(super) async fn record(
        self: &Arc<Self>,
        segment: &Arc<Segment>,
        change: impl FnOnce(&mut super::record::Record) + Send + 'static,
    ) -> Result<(), ApiError> {
        let (hot, segment) = (Arc::clone(self), Arc::clone(segment));
        blocking(move || segment.change_record(&hot.data, change).map_err(of_disk)).await
    }
}

/// Whoever was given a token remembers it for as long as it has its disk.
fn lost_data(token: Token) -> ApiError {
    ApiError::new(
        ErrorCode::SegmentNotFound,
        format!("nothing is known here of token {token}: this worker has lost its data"),
    )
}

pub(super) fn fenced(token: Token, fence: Token) -> ApiError {
    ApiError::new(
        ErrorCode::Fenced,
        format!("token {token} is not the newest: {fence} was seen for this segment"),
    )
}
