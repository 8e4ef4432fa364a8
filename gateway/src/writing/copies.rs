//! Wishes for hot copies: raise, lower, pins, draining workers.

use tokio::time::Instant;

use super::{Writing, cold_range};
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        types::{DrainAnswer, RaiseAnswer},
    },
    registry::{
        ledger::{Entry, Raise},
        state::Amendment,
    },
    rules::TierRule,
    segment::SegmentId,
};

impl Writing {
    /// Raises `id` to `copies` hot copies; `None`: as many as is usual.
    pub(crate) async fn raise(&self, id: &SegmentId, copies: Option<u32>) -> Result<RaiseAnswer, ApiError> {
        self.something_to_copy(id).await?;
        let terms = self.routing.copies.terms(id);
        cold_range(id, &terms, "raised")?;
        let (least, most) = (terms.copies_minimum, terms.copies_maximum);
        let copies = copies.unwrap_or(least);
        if !(least..=most).contains(&copies) {
            let source = match &terms.rule {
                Some(rule) => format!("rule {rule:?}"),
                None => "copies_minimum and copies_maximum of the gateway".into(),
            };
            return Err(ApiError::new(
                ErrorCode::BadRequest,
                format!("copies must be {least} to {most} ({source})"),
            ));
        }
        let raise = Raise::by_hand(copies, (self.clock)());
        let segment = id.clone();
        self.wish(id, move |_| vec![Entry::Raise(segment, Some(raise))]).await
    }

    /// Takes the wish for hot copies of `id` back, and keeps heat and rules from having one for a while;
    /// pins stay.
    pub(crate) async fn lower(&self, id: &SegmentId) -> Result<RaiseAnswer, ApiError> {
        let segment = id.clone();
        let by_itself = matches!(self.routing.copies.terms(id).tier, TierRule::Heat | TierRule::Hot);
        let now_ms = (self.clock)();
        let lasts_ms = i64::try_from(self.rules.heat.lowered_for.as_millis()).unwrap_or(i64::MAX);
        let stays_down = (by_itself && lasts_ms > 0)
            .then(|| Raise { until_ms: Some(now_ms.saturating_add(lasts_ms)), ..Raise::by_hand(0, now_ms) });
        self.wish(id, move |_| vec![Entry::Raise(segment, stays_down)]).await
    }

    /// Whether `worker` shall always have `id`.
    pub(crate) async fn pin(
        &self,
        id: &SegmentId,
        worker: String,
        pinned: bool,
    ) -> Result<RaiseAnswer, ApiError> {
        if pinned {
            self.something_to_copy(id).await?;
            cold_range(id, &self.routing.copies.terms(id), "pinned")?;
        }
        let segment = id.clone();
        self.wish(id, move |pins| {
            let mut pins = pins.clone();
            if pinned {
                pins.insert(worker);
            } else {
                pins.remove(&worker);
            }
            vec![Entry::Pins(segment, pins)]
        })
        .await
    }

    async fn something_to_copy(&self, id: &SegmentId) -> Result<(), ApiError> {
        match self.routing.resolve(id).await {
            Err(error)
                if error.code == ErrorCode::SegmentNotFound && self.state.ledger().lock(id).is_some() =>
            {
                Err(ApiError::new(
                    ErrorCode::SegmentNotFound,
                    format!(
                        "segment {id} was never promoted: the store has nothing to copy; promote it first"
                    ),
                ))
            }
            resolved => resolved.map(drop),
        }
    }

    async fn wish(
        &self,
        id: &SegmentId,
        entries: impl FnOnce(&std::collections::BTreeSet<String>) -> Vec<Entry> + Send + 'static,
    ) -> Result<RaiseAnswer, ApiError> {
        let segment = id.clone();
        self.amend(move |ledger, _| {
            if ledger.is_deleting(&segment) {
                return Err(ApiError::new(
                    ErrorCode::SegmentNotFound,
                    format!("segment {segment} is being deleted"),
                ));
            }
            let none = Default::default();
            Ok(Amendment::ledger(entries(ledger.pins(&segment).unwrap_or(&none)), ()))
        })
        .await?;
        self.place_copies().await;
        let assigned = self.routing.copies.assigned(id);
        let ledger = self.state.ledger();
        Ok(RaiseAnswer {
            segment: id.to_string(),
            copies: ledger.raise(id).map_or(0, |raise| raise.copies),
            pinned: ledger.pins(id).into_iter().flatten().cloned().collect(),
            assigned,
        })
    }

    /// Whether `worker` shall become empty: it is given nothing, and what it has goes elsewhere.
    pub(crate) async fn drain(&self, worker: &str, draining: bool) -> Result<DrainAnswer, ApiError> {
        let name = worker.to_owned();
        self.amend(move |ledger, _| {
            Ok(if ledger.is_draining(&name) == draining {
                Amendment::none(())
            } else {
                Amendment::ledger(vec![Entry::Drain(name, draining)], ())
            })
        })
        .await?;
        self.place_copies().await;
        let locks = self.state.ledger().lock_count(worker);
        Ok(DrainAnswer {
            worker: worker.to_owned(),
            draining,
            assigned: self.routing.copies.assigned_count(worker),
            locks,
        })
    }

    /// Brings the assignments up to date.
    pub(crate) async fn place_copies(&self) {
        let routing = self.routing.clone();
        let live = move || {
            let now = Instant::now().into_std();
            (routing.workers.hot_workers(now), now)
        };
        let copies = self.routing.copies.clone();
        if let Err(error) = crate::blocking::run(move || copies.refresh(live)).await {
            tracing::error!(%error, "copies could not be placed");
        }
    }
}
