use proptest::prelude::*;

use super::*;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn fetches(window: &mut Window, reads: &[(u64, u64)], file_len: u64) -> Vec<Range<u64>> {
    reads.iter().filter_map(|&(offset, len)| window.observe(offset, len, file_len).fetch).collect()
}

#[test]
fn doubles_to_its_maximum() {
    let mut window = Window::new(8 * MIB);
    let reads: Vec<_> = (0..512).map(|i| (i * 128 * KIB, 128 * KIB)).collect();
    let got = fetches(&mut window, &reads, 1 << 30);
    assert_eq!(got[0], 384 * KIB..640 * KIB, "after three requests in a row");
    assert_eq!(got[1].end - 512 * KIB, 512 * KIB, "doubled half-way through");
    let steady = got.last().expect("many");
    assert_eq!(steady.end - steady.start, 4 * MIB, "half the window at a time");
}

fn established(at: u64) -> Window {
    let mut window = Window::new(8 * MIB);
    let reads: Vec<_> = (0..4).map(|i| (at + i * 128 * KIB, 128 * KIB)).collect();
    assert!(!fetches(&mut window, &reads, 1 << 30).is_empty());
    window
}

#[test]
fn a_seek_starts_over() {
    let mut window = established(0);
    let far = (0..).map(|i| 512 * MIB + i * 128 * KIB);
    let advice: Vec<_> = far.take(4).map(|at| window.observe(at, 128 * KIB, 1 << 30)).collect();
    let seeks: Vec<_> = advice.iter().map(|advice| advice.seek).collect();
    assert_eq!(seeks, [false, false, true, false], "when there is a run elsewhere");
    let first = advice[2].fetch.clone().expect("what follows the run, at once");
    assert_eq!(first.start, 512 * MIB + 384 * KIB);
}

#[test]
fn a_look_elsewhere_is_no_seek() {
    let mut window = established(0);
    let mut ahead = 0;
    for i in 4..400 {
        let (place, len) = if i % 3 == 0 { (700 * MIB + i * MIB / 7, 4 * KIB) } else { (0, 0) };
        if len > 0 {
            assert_eq!(window.observe(place, len, 1 << 30), Advice::default());
        }
        let advice = window.observe(i * 128 * KIB, 128 * KIB, 1 << 30);
        assert!(!advice.seek);
        if let Some(fetch) = advice.fetch {
            assert!(ahead == 0 || fetch.start == ahead, "no gap and nothing twice");
            ahead = fetch.end;
        }
    }
    assert!(ahead > 50 * MIB);
}

#[test]
fn many_looks_elsewhere_are_one() {
    let mut window = established(0);
    let mut random = (1..).map(|i: u64| i.wrapping_mul(7_919) % 500 * MIB + 100 * MIB);
    let seeks = random.by_ref().take(40).filter(|&at| window.observe(at, 4 * KIB, 1 << 30).seek).count();
    assert_eq!(seeks, 1);
    assert_eq!(
        fetches(&mut window, &random.take(40).map(|at| (at, 4 * KIB)).collect::<Vec<_>>(), 1 << 30),
        []
    );
}

/// Four readers in step share the kernel's page cache: each is asked for a part only.
#[test]
fn a_run_of_which_others_read_parts() {
    let mut window = Window::new(8 * MIB);
    let reads: Vec<_> = (0..200).map(|i| (i * 512 * KIB, 128 * KIB)).collect();
    let got = fetches(&mut window, &reads, 1 << 30);
    assert!(got.windows(2).all(|pair| pair[0].end <= pair[1].start), "nothing twice: {got:?}");
    let bytes: u64 = got.iter().map(|range| range.end - range.start).sum();
    assert!((98 * MIB..=108 * MIB).contains(&bytes), "{bytes}");
}

#[test]
fn nothing_for_random_reads_and_small_files() {
    let mut window = Window::new(8 * MIB);
    // One application read of 256 KiB, as the kernel cuts it, at places all over the file.
    for place in [0, 77, 3, 512, 40, 41] {
        let at = place * MIB;
        assert_eq!(fetches(&mut window, &[(at, 128 * KIB), (at + 128 * KIB, 128 * KIB)], 1 << 30), []);
    }
    let mut window = Window::new(8 * MIB);
    assert_eq!(fetches(&mut window, &[(0, 128 * KIB), (128 * KIB, 70 * KIB)], 198 * KIB), []);
    assert_eq!(fetches(&mut Window::new(0), &[(0, 300 * KIB), (300 * KIB, 300 * KIB)], 1 << 30), []);
}

#[test]
fn advice_given_back_comes_again() {
    let mut window = Window::new(MIB);
    let first = fetches(&mut window, &[(0, 300 * KIB)], 1 << 30).remove(0);
    window.give_back(first.start + 64 * KIB);
    let again = window.observe(300 * KIB, 100 * KIB, 1 << 30).fetch.expect("room again");
    assert_eq!(again.start, first.start.max(400 * KIB).max(first.start + 64 * KIB));
}

proptest! {
    /// A sequential reader whose requests are swapped with a neighbour now and then: what is fetched
    /// ahead follows without gap or overlap, stays in the file, and never runs further than the window.
    #[test]
    fn one_run_is_covered_once(
        sizes in prop::collection::vec(1_u64..=128 * KIB, 8..200),
        swaps in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        max in (256 * KIB)..(16 * MIB),
    ) {
        let mut reads = Vec::new();
        let mut at = 0;
        for size in sizes {
            reads.push((at, size));
            at += size;
        }
        let file_len = at;
        for swap in swaps {
            // Pairs only: a request can be late by one, not by many.
            let i = swap.index(reads.len() / 2) * 2;
            // Not within the start of the run, where order decides whether there is one.
            if reads[i].0 > 2 * START_BYTES {
                reads.swap(i, i + 1);
            }
        }
        let mut window = Window::new(max);
        let mut fetched: Option<u64> = None;
        let mut highest = 0;
        for (offset, len) in reads {
            let advice = window.observe(offset, len, file_len);
            highest = highest.max(offset + len);
            prop_assert!(!advice.seek, "a swap is no seek");
            if let Some(range) = advice.fetch {
                prop_assert!(range.start < range.end && range.end <= file_len);
                prop_assert!(range.end <= highest + max);
                prop_assert!(range.start >= fetched.unwrap_or(0), "no byte twice");
                if let Some(end) = fetched.filter(|&end| end > highest) {
                    prop_assert_eq!(range.start, end, "no gap");
                }
                fetched = Some(range.end);
            }
        }
    }

    /// Whatever is read, advice stays inside the file and the window.
    #[test]
    fn never_out_of_bounds(
        reads in prop::collection::vec((0_u64..4 * MIB, 0_u64..MIB), 1..100),
        file_len in 0_u64..4 * MIB,
        max in 0_u64..2 * MIB,
    ) {
        let mut window = Window::new(max);
        for (offset, len) in reads {
            if let Some(range) = window.observe(offset, len, file_len).fetch {
                prop_assert!(range.start < range.end && range.end <= file_len);
                prop_assert!(range.end - range.start <= max);
            }
        }
    }
}
