//! Which worker shall write a segment. Pure.

/// A live hot worker that could.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Whether it has a copy that answers queries, of the generation that is in the store.
    pub(super) current: bool,
    /// Whether it has any copy that answers queries.
    pub(super) holds: bool,
    /// Whether it takes nothing new.
    pub(super) closed: bool,
    /// Bytes that it may still take.
    pub(super) free: u64,
    /// Requests it is answering, and segments it is writing.
    pub(super) load: u64,
    /// Whether the lock is being taken from it: the last choice.
    pub(super) former: bool,
}

/// Indices of those that may write a segment of `size` bytes, best first: who has the newest copy, least
/// loaded; who has an older one; else who has room, by load for each byte that is free.
pub(super) fn order(candidates: &[Candidate], size: u64) -> Vec<usize> {
    let mut possible: Vec<usize> = (0..candidates.len())
        .filter(|index| {
            let candidate = &candidates[*index];
            candidate.holds || (!candidate.closed && candidate.free > 0 && candidate.free >= size)
        })
        .collect();
    possible.sort_by(|a, b| {
        let (a, b) = (&candidates[*a], &candidates[*b]);
        // a.load / a.free < b.load / b.free, without dividing; one more than the load: this one counts.
        let burden = |load: u64, free: u64| (u128::from(load) + 1) * u128::from(free.max(1));
        (a.former.cmp(&b.former)).then(b.current.cmp(&a.current)).then(b.holds.cmp(&a.holds)).then_with(
            || {
                if a.holds {
                    a.load.cmp(&b.load)
                } else {
                    burden(a.load, b.free).cmp(&burden(b.load, a.free))
                }
            },
        )
    });
    possible
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty(free: u64, load: u64) -> Candidate {
        Candidate { current: false, holds: false, closed: false, free, load, former: false }
    }

    fn copy(current: bool, load: u64) -> Candidate {
        Candidate { current, holds: true, ..empty(0, load) }
    }

    #[test]
    fn a_copy_then_room_then_nobody() {
        let all = [empty(100, 0), copy(false, 0), copy(true, 9), copy(true, 3), empty(9, 0)];
        assert_eq!(order(&all, 10), [3, 2, 1, 0]);
        assert_eq!(order(&[empty(9, 0)], 10), [0; 0]);
        assert_eq!(order(&[], 10), [0; 0]);
    }

    #[test]
    fn load_counts_against_free_quota() {
        assert_eq!(order(&[empty(100, 1), empty(100, 0)], 1), [1, 0]);
        assert_eq!(
            order(&[empty(100, 1), empty(1000, 4)], 1),
            [1, 0],
            "ten times the room, 2.5 times the load"
        );
        assert_eq!(order(&[empty(100, 0), empty(1000, 10)], 1), [0, 1]);
        assert_eq!(order(&[empty(u64::MAX, u64::MAX), empty(u64::MAX, 0)], 1), [1, 0]);
    }

    #[test]
    fn closed_ones_take_nothing_new_and_the_former_holder_is_last() {
        let closed = Candidate { closed: true, ..empty(100, 0) };
        let holder = Candidate { closed: true, ..copy(true, 0) };
        assert_eq!(order(&[closed, holder], 1), [1]);
        let former = Candidate { former: true, ..copy(true, 0) };
        assert_eq!(order(&[former, empty(10, 5)], 1), [1, 0]);
    }
}
