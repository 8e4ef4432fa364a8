//! The segments that shall have hot copies, page by page: those with a heat first, the hottest first, then the
//! others by id. Heat is known of a bounded number, and the others lie in order already, so a page costs what
//! is on it and what is known, whatever the number of segments.

use std::{cmp::Ordering, collections::HashSet, sync::Arc};

use crate::{
    api::{
        error::{ApiError, ErrorCode},
        tier_types::TierInfo,
    },
    segment::SegmentId,
    writing::Writing,
};

/// Where a page ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    /// [`Reading::rank`] of its last segment; `None`: that has no heat.
    ///
    /// [`Reading::rank`]: crate::heat::Reading::rank
    pub(crate) rank: Option<f64>,
    /// Its last segment.
    pub(crate) segment: SegmentId,
}

/// One page.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) segments: Vec<TierInfo>,
    pub(crate) total: u64,
    /// Absent: there is nothing after it.
    pub(crate) next: Option<Place>,
}

/// The hottest first, and by id where that is the same. By ranks, which do not change while nobody asks:
/// heats fade, each by its own rounding, and those that are nearly the same would change places between pages.
fn order(a: (f64, &SegmentId), b: (f64, &SegmentId)) -> Ordering {
    b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1))
}

/// Those of `hot` that come after `place`, in order.
fn after(mut hot: Vec<(f64, SegmentId)>, place: Option<&Place>) -> Vec<(f64, SegmentId)> {
    if let Some(Place { rank, segment }) = place {
        // Whatever has a heat comes before what has none.
        let last = rank.unwrap_or(f64::NEG_INFINITY);
        hot.retain(|(rank, id)| order((last, segment), (*rank, id)) == Ordering::Less);
    }
    hot.sort_by(|a, b| order((a.0, &a.1), (b.0, &b.1)));
    hot
}

impl Writing {
    /// At most `limit` segments after `place`.
    pub(crate) async fn tiers(
        self: &Arc<Self>,
        limit: usize,
        place: Option<Place>,
    ) -> Result<Page, ApiError> {
        let this = self.clone();
        let listed = crate::blocking::run(move || this.tiers_now(limit, place.as_ref())).await;
        listed.map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))
    }

    fn tiers_now(&self, limit: usize, place: Option<&Place>) -> Page {
        let look = self.look_at_tiers();
        let copies = &self.routing.copies;
        let mut hot = Vec::new();
        for (id, reading) in self.routing.heat.above(0.0, look.now) {
            let Ok(id) = SegmentId::parse(&id) else { continue };
            if reading.rank.is_finite() && copies.is_wanted(&id) {
                hot.push((reading.rank, id));
            }
        }
        let known: HashSet<SegmentId> = hot.iter().map(|(_, id)| id.clone()).collect();
        let hot = after(hot, place).into_iter().map(|(rank, id)| (Some(rank), id));
        // One more than is shown: whether there are more.
        let mut page: Vec<(Option<f64>, SegmentId)> = hot.take(limit + 1).collect();
        if page.len() <= limit {
            let from = place.filter(|place| place.rank.is_none()).map(|place| &place.segment);
            let rest = copies.wanted_after(from, limit + 1 - page.len(), |id| !known.contains(id));
            page.extend(rest.into_iter().map(|id| (None, id)));
        }
        let more = page.len() > limit;
        page.truncate(limit);
        let last = page.last().filter(|_| more);
        let next = last.map(|(rank, segment)| Place { rank: *rank, segment: segment.clone() });
        let shown = page.iter().filter_map(|(_, id)| self.decided(id, &look));
        let segments = shown.map(|decided| self.info(&decided, true)).collect();
        Page { segments, total: copies.wanted_count(), next }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::heat::{AnsweredFrom, tally::Tally};

    const HALF_LIFE_S: f64 = 3600.0;

    proptest! {
        /// However long it takes between pages, what nobody asks for meanwhile comes once, and the hottest
        /// first: also heats that differ by less than the rounding of what is left of them.
        #[test]
        fn pages_together_are_all(
            asked in prop::collection::vec(
                prop_oneof![Just(5.0), 0.0..1e-9_f64, 0.0..1e-3_f64, 0.0..100_000.0_f64],
                0..60,
            ),
            limit in 1_usize..9,
            pauses in prop::collection::vec(0.0..7200.0_f64, 61),
        ) {
            let mut tally = Tally::new(60, HALF_LIFE_S);
            let name = |n: usize| format!("s{n:05}");
            for (n, at) in asked.iter().enumerate() {
                tally.add(&name(n), *at, AnsweredFrom::Copy, 0.0);
            }
            let (mut seen, mut place, mut now) = (Vec::new(), None, 100_000.0);
            for pause in pauses {
                now += pause;
                let read = tally.iter(now);
                let hot = read.map(|(id, reading)| (reading.rank, SegmentId::parse(id).expect("an id")));
                let mut page = after(hot.collect(), place.as_ref());
                page.truncate(limit);
                let Some((rank, last)) = page.last().cloned() else { break };
                seen.extend(page.into_iter().map(|(_, id)| id.as_str().to_owned()));
                place = Some(Place { rank: Some(rank), segment: last });
            }
            let heat = |id: &str| tally.get(id, 100_000.0).expect("counted").queries;
            let falls = seen.windows(2).all(|pair| heat(&pair[0]) >= heat(&pair[1]) * (1.0 - 1e-9));
            prop_assert!(falls, "{seen:?}");
            seen.sort();
            prop_assert_eq!(seen, (0..asked.len()).map(name).collect::<Vec<_>>());
        }
    }
}
