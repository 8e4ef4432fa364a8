//! Carries out what rules and heat say of hot copies, and explains it: both ask `heat/decide.rs`.

pub(crate) mod list;

use std::sync::Arc;

use tokio::time::Instant;

use super::Writing;
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        tier_types::{TierAction, TierInfo},
    },
    copies::Trial,
    heat::{
        Averages, Reading,
        decide::{Action, Decision, Question, decide, gives_way},
    },
    registry::{
        catalog::{Located, Lookup},
        ledger::{Entry, Raise, RaisedBy},
        state::Amendment,
    },
    rules::Terms,
    segment::SegmentId,
};

/// Most changes in one look: the next one goes on.
const CHANGES_MAX: usize = 1_000;
/// Of what heat has raised, at most this part is lowered in one look, and one more: whatever the reason, not
/// everything goes at once.
const LOWERED_PART: usize = 10;

/// What all segments have in common at one look.
struct Look {
    now: std::time::Instant,
    now_ms: i64,
    measured_since_ms: i64,
    averages: Averages,
    bytes_per_s: Option<f64>,
}

/// A decision about one segment, and what it was made from.
struct Decided {
    id: SegmentId,
    located: Located,
    terms: Terms,
    heat: Reading,
    wish: Option<Raise>,
    decision: Decision,
    /// Workers that would have copies, as far as it was asked.
    places: Vec<Arc<str>>,
}

impl Writing {
    /// One look: what rules keep hot, what grew old, what demand raises and lowers.
    pub(crate) async fn follow_tiers(self: &Arc<Self>, all_directories: bool) {
        // With the room that workers have now.
        self.place_copies().await;
        let this = self.clone();
        let looked = crate::blocking::run(move || {
            this.routing.copies.follow_rules(all_directories);
            this.routing.copies.follow_age();
            this.changes()
        });
        let (changes, gone) = match looked.await {
            Ok(found) => found,
            Err(error) => return tracing::error!(%error, "tiers could not be looked at"),
        };
        if !(changes.is_empty() && gone.is_empty())
            && let Err(error) = self.carry_out(changes, gone).await
        {
            tracing::error!(%error, "what heat decided could not be written down; the next look tries again");
        }
    }

    /// What is to be changed now; and heat's wishes for segments that the store has not any more.
    fn changes(&self) -> (Vec<Decided>, Vec<(SegmentId, Raise)>) {
        let mut gone = Vec::new();
        let look = self.look_at_tiers();
        let (mut lowered, mut raised, mut staying) = (Vec::new(), Vec::new(), Vec::new());
        let mut by_heat = 0;
        let wishes: Vec<(SegmentId, Raise)> =
            self.state.ledger().wishes().map(|(id, raise)| (id.clone(), raise)).collect();
        for (id, wish) in wishes {
            by_heat += usize::from(wish.by == RaisedBy::Heat);
            let Some(decided) = self.decided(&id, &look) else {
                let is_gone = wish.by == RaisedBy::Heat && self.state.catalog().lookup(&id) == Lookup::Absent;
                gone.extend(is_gone.then_some((id, wish)));
                continue;
            };
            match decided.decision.action {
                Action::Keep if decided.decision.may_give_way => staying.push(decided),
                Action::Keep => {}
                _ if decided.decision.copies_then < decided.decision.copies_now => lowered.push(decided),
                _ => raised.push(decided),
            }
        }
        let settings = &self.rules.heat;
        let per_copy = f64::from(settings.rate_per_copy) * settings.half_life.as_secs_f64();
        let least = f64::from(settings.queries_min).min(per_copy / std::f64::consts::LN_2);
        for (id, _) in self.routing.heat.above(least, look.now) {
            let Ok(id) = SegmentId::parse(&id) else { continue };
            if self.state.ledger().wish(&id).is_some() {
                continue;
            }
            let decided = self.decided(&id, &look);
            raised.extend(decided.filter(|decided| decided.decision.action != Action::Keep));
        }
        // The coldest go first, and what saves most for its room comes first.
        let worth = |decided: &Decided| decided.decision.worth(decided.located.facts.size);
        lowered.sort_by(|a, b| worth(a).total_cmp(&worth(b)));
        staying.sort_by(|a, b| worth(a).total_cmp(&worth(b)));
        staying.truncate(CHANGES_MAX);
        let lowered_max = by_heat / LOWERED_PART + 1;
        lowered.truncate(lowered_max);
        raised.sort_by(|a, b| worth(b).total_cmp(&worth(a)));
        raised.truncate(CHANGES_MAX);
        if !raised.is_empty() {
            let mut trial = self.routing.copies.trial();
            for decided in &lowered {
                trial.take_away(&decided.id);
            }
            raised.retain_mut(|decided| {
                decided.has_room(&mut trial)
                    || (lowered.len() < lowered_max
                        && make_room(decided, &mut staying, &mut trial).is_some_and(|gone| {
                            lowered.push(gone);
                            true
                        }))
            });
        }
        lowered.append(&mut raised);
        (lowered, gone)
    }

    /// Writes decisions down, each only if nobody has wished for something else meanwhile.
    async fn carry_out(&self, changes: Vec<Decided>, gone: Vec<(SegmentId, Raise)>) -> Result<(), ApiError> {
        let now_ms = (self.clock)();
        let done = self
            .amend(move |ledger, _| {
                let still = |(id, wish): &(SegmentId, Raise)| ledger.wish(id) == Some(*wish);
                let gone = gone.into_iter().filter(still);
                let mut entries: Vec<Entry> = gone.map(|(id, _)| Entry::Raise(id, None)).collect();
                let mut done = Vec::new();
                for change in changes {
                    if ledger.wish(&change.id) != change.wish || ledger.is_deleting(&change.id) {
                        continue;
                    }
                    let wish = match change.decision.action {
                        Action::Keep => continue,
                        Action::Forget => None,
                        Action::Wish(copies) => {
                            Some(Raise { copies, by: RaisedBy::Heat, since_ms: now_ms, until_ms: None })
                        }
                    };
                    entries.push(Entry::Raise(change.id.clone(), wish));
                    done.push(change);
                }
                Ok::<_, ApiError>(Amendment::ledger(entries, done))
            })
            .await?;
        for change in &done {
            let Decision { copies_now, copies_then, reasons, .. } = &change.decision;
            let what = match (*copies_now, *copies_then) {
                (0, then) if then > 0 => "raised",
                (now, 0) if now > 0 => "lowered",
                (now, then) if then > now => "more",
                (now, then) if then < now => "fewer",
                _ => "freed",
            };
            self.routing.metrics().tier_changes.with_label_values(&[what]).inc();
            tracing::info!(
                segment = %change.id, what, copies = copies_then, before = copies_now,
                because = reasons.join("; "), "hot copies by demand"
            );
        }
        self.place_copies().await;
        Ok(())
    }

    /// What is decided for `id`, why, and where copies would go. Nothing is changed.
    pub(crate) async fn explain_tier(self: &Arc<Self>, id: &SegmentId) -> Result<TierInfo, ApiError> {
        self.routing.resolve(id).await?;
        let (this, id) = (self.clone(), id.clone());
        let explained = crate::blocking::run(move || {
            let look = this.look_at_tiers();
            let mut decided = this.decided(&id, &look)?;
            let room = decided.has_room(&mut this.routing.copies.trial());
            Some(this.info(&decided, room))
        });
        let explained = explained.await.map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))?;
        explained.ok_or_else(|| {
            ApiError::new(ErrorCode::SegmentNotFound, "the segment was deleted while it was looked at")
        })
    }

    fn look_at_tiers(&self) -> Look {
        let now = Instant::now().into_std();
        let now_ms = (self.clock)();
        let measured = now.saturating_duration_since(self.routing.heat.started());
        let speeds: Vec<f64> = self
            .routing
            .workers
            .hot(now)
            .iter()
            .filter_map(|worker| Some(worker.hot.as_ref()?.copy_bytes_per_s? as f64))
            .collect();
        Look {
            now,
            now_ms,
            measured_since_ms: now_ms.saturating_sub(i64::try_from(measured.as_millis()).unwrap_or(i64::MAX)),
            averages: self.routing.heat.averages(),
            bytes_per_s: (!speeds.is_empty()).then(|| speeds.iter().sum::<f64>() / speeds.len() as f64),
        }
    }

    /// `None`: the store does not have it, or it is being deleted.
    fn decided(&self, id: &SegmentId, look: &Look) -> Option<Decided> {
        let Lookup::Found(located) = self.state.catalog().lookup(id) else { return None };
        let (wish, pinned, locked) = {
            let ledger = self.state.ledger();
            if ledger.is_deleting(id) {
                return None;
            }
            (ledger.wish(id), ledger.pins(id).is_some(), ledger.lock(id).is_some())
        };
        let terms = self.rules.segments.terms(id.as_str(), Some(located.facts.mtime_ms), look.now_ms);
        let heat = self.routing.heat.of(id, look.now);
        let question = Question {
            terms,
            heat,
            size: located.facts.size,
            averages: look.averages,
            bytes_per_s: look.bytes_per_s,
            wish,
            pinned,
            locked,
            measured_since_ms: look.measured_since_ms,
            now_ms: look.now_ms,
        };
        let decision = decide(&question, &self.rules.heat);
        let terms = terms.clone();
        Some(Decided { id: id.clone(), located, terms, heat, wish, decision, places: Vec::new() })
    }

    fn info(&self, decided: &Decided, room: bool) -> TierInfo {
        let Decided { id, located, terms, heat, wish, decision, places } = decided;
        let ms = |seconds: f64| seconds * 1e3;
        let mut reasons = decision.reasons.clone();
        let action = match (decision.copies_now, decision.copies_then) {
            (now, then) if then > now && !room => {
                reasons.push(
                    "but no hot worker has room for it: nothing is done unless something colder gives way"
                        .into(),
                );
                TierAction::None
            }
            (0, then) if then > 0 => TierAction::Raise,
            (now, 0) if now > 0 => TierAction::Lower,
            (now, then) if then > now => TierAction::More,
            (now, then) if then < now => TierAction::Fewer,
            _ => TierAction::None,
        };
        TierInfo {
            segment: id.to_string(),
            size: located.facts.size,
            mtime_ms: located.facts.mtime_ms,
            rule: terms.rule.as_deref().map(str::to_owned),
            tier: terms.tier,
            copies_minimum: terms.copies_minimum,
            copies_maximum: terms.copies_maximum,
            raised_by: wish.filter(|wish| wish.copies > 0).map(|wish| wish.by),
            since_ms: wish.map(|wish| wish.since_ms).filter(|since| *since > 0),
            lowered_until_ms: wish.filter(|wish| wish.copies == 0).and_then(|wish| wish.until_ms),
            queries: heat.queries,
            queries_error: heat.error,
            queries_per_s: decision.rate,
            cold_ms: ms(decision.cold_s),
            cold_measured: decision.cold_is_own,
            hot_ms: ms(decision.hot_s),
            copy_ms: ms(decision.copy_s),
            copy_measured: decision.copy_is_measured,
            saved_ms: ms(decision.saved_s),
            raise_above_ms: ms(decision.copy_s),
            lower_below_ms: ms(decision.lower_below_s),
            copies: decision.copies_now,
            copies_then: decision.copies_then,
            action,
            reasons,
            assigned: self.routing.copies.assigned(id),
            would_go: places.iter().map(|worker| worker.to_string()).collect(),
        }
    }
}

/// The coldest of `staying` that gives way to `decided`, which has room then. Who gives way is as large at
/// least, so it makes room by itself.
fn make_room(decided: &mut Decided, staying: &mut Vec<Decided>, trial: &mut Trial) -> Option<Decided> {
    let size = decided.located.facts.size;
    let worth = decided.decision.worth(size);
    let coldest = staying.iter().position(|other| {
        let other_size = other.located.facts.size;
        other_size >= size && gives_way(other.decision.worth(other_size), worth)
    })?;
    trial.take_away(&staying[coldest].id);
    let has_room = decided.has_room(trial);
    // In either case it is not tried again: what it holds lies where nothing may be put.
    let mut other = staying.remove(coldest);
    other.decision.give_way(decided.id.as_str());
    has_room.then_some(other)
}

impl Decided {
    /// Whether some worker has room for one copy at least, or none more is needed; notes which.
    fn has_room(&mut self, trial: &mut Trial) -> bool {
        let Decision { copies_now, copies_then, .. } = self.decision;
        let copies = copies_then.max(copies_now) as usize;
        self.places = trial.place(&self.id, self.located.facts.size, copies);
        copies_then <= copies_now || self.places.len() > copies_now as usize
    }
}
