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
    /// Heat of its last segment; 0: it has none.
    pub(crate) queries: f64,
    /// When that was read, ms since 1970.
    pub(crate) at_ms: i64,
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

/// Heats nearer to each other than this part of them are taken to be the same: a heat that was read earlier
/// has lost what it loses with time by another way of rounding.
const SAME: f64 = 1e-6;

impl Place {
    /// Heat of the last segment as it would be at `now_ms`, had nobody asked since.
    fn faded(&self, now_ms: i64, half_life_ms: f64) -> f64 {
        let age = now_ms.saturating_sub(self.at_ms).max(0) as f64;
        self.queries * (-age / half_life_ms.max(1.0)).exp2()
    }
}

/// The hottest first, and by id where that is the same.
fn order(a: &(f64, SegmentId), b: &(f64, SegmentId)) -> Ordering {
    if (a.0 - b.0).abs() <= SAME * a.0.max(b.0) { a.1.cmp(&b.1) } else { b.0.total_cmp(&a.0) }
}

/// Those of `hot` that come after `after`, in order.
fn after(hot: Vec<(f64, SegmentId)>, after: Option<(f64, &SegmentId)>) -> Vec<(f64, SegmentId)> {
    let mut left: Vec<(f64, SegmentId)> = match after {
        None => hot,
        Some((queries, _)) if queries <= 0.0 => Vec::new(),
        Some((queries, segment)) => {
            let last = (queries, segment.clone());
            hot.into_iter().filter(|entry| order(&last, entry) == Ordering::Less).collect()
        }
    };
    // By what is exact: heats that are nearly the same are no order among three.
    left.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    left
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
        let half_life_ms = self.rules.heat.half_life.as_secs_f64() * 1e3;
        let mut hot = Vec::new();
        for (id, reading) in self.routing.heat.above(0.0, look.now) {
            let Ok(id) = SegmentId::parse(&id) else { continue };
            if reading.queries > 0.0 && copies.is_wanted(&id) {
                hot.push((reading.queries, id));
            }
        }
        let known: HashSet<SegmentId> = hot.iter().map(|(_, id)| id.clone()).collect();
        let from = place.map(|place| (place.faded(look.now_ms, half_life_ms), &place.segment));
        let mut page = after(hot, from);
        // One more than is shown: whether there are more.
        page.truncate(limit + 1);
        if page.len() <= limit {
            let from = place.filter(|place| place.queries <= 0.0).map(|place| &place.segment);
            let rest = copies.wanted_after(from, limit + 1 - page.len(), |id| !known.contains(id));
            page.extend(rest.into_iter().map(|id| (0.0, id)));
        }
        let more = page.len() > limit;
        page.truncate(limit);
        let last = page.last().filter(|_| more);
        let next = last.map(|(queries, segment)| Place {
            queries: *queries,
            at_ms: look.now_ms,
            segment: segment.clone(),
        });
        let shown = page.iter().filter_map(|(_, id)| self.decided(id, &look));
        let segments = shown.map(|decided| self.info(&decided, true)).collect();
        Page { segments, total: copies.wanted_count(), next }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: u32) -> SegmentId {
        SegmentId::parse(&format!("s{n:05}")).expect("an id")
    }

    proptest! {
        /// However long it takes between pages, what nobody asks for meanwhile comes once.
        #[test]
        fn pages_together_are_all(
            heats in prop::collection::vec(prop_oneof![Just(0.5), 0.001..1000.0_f64], 0..60),
            limit in 1_usize..9,
            pauses in prop::collection::vec(0_i64..7_200_000, 61),
        ) {
            let half_life_ms = 3_600_000.0;
            let (mut seen, mut place, mut now_ms) = (Vec::new(), None::<Place>, 1_000_i64);
            for pause in pauses {
                now_ms += pause;
                let faded = |heat: f64| heat * (-((now_ms - 1_000) as f64) / half_life_ms).exp2();
                let hot = heats.iter().enumerate().map(|(n, heat)| (faded(*heat), id(n as u32))).collect();
                let from = place.as_ref().map(|place| (place.faded(now_ms, half_life_ms), &place.segment));
                let mut page = after(hot, from);
                page.truncate(limit);
                let Some((queries, last)) = page.last().cloned() else { break };
                seen.extend(page.into_iter().map(|(_, id)| id));
                place = Some(Place { queries, at_ms: now_ms, segment: last });
            }
            let mut expected: Vec<(f64, SegmentId)> =
                heats.iter().enumerate().map(|(n, heat)| (*heat, id(n as u32))).collect();
            expected.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
            let expected: Vec<SegmentId> = expected.into_iter().map(|(_, id)| id).collect();
            // Two that differ by less than is told apart may change places at the end of a page, and one of
            // them be missed: not with these heats, but where they are equal.
            prop_assert_eq!(seen, expected);
        }
    }
}
