//! What decisions promise.

use proptest::prelude::*;

use super::*;
use crate::{
    heat::tally::{AnsweredFrom, Tally},
    rules::{Rule, Rules, Ship},
};

const DAY_MS: i64 = 86_400_000;
/// Long after everything was learnt.
const NOW: i64 = 100 * DAY_MS;

fn terms(tier: TierRule) -> Terms {
    Terms { rule: Some("r".into()), tier, copies_minimum: 1, copies_maximum: 4, ship: Ship::default() }
}

fn settings() -> HeatSettings {
    HeatSettings::default()
}

fn question(terms: &Terms, queries: f64) -> Question<'_> {
    Question {
        terms,
        heat: Reading { queries, cold_s: Some(0.2), ..Reading::default() },
        size: 100_000_000,
        averages: Averages { cold_s: Some(9.0), hot_s: Some(0.002) },
        bytes_per_s: Some(100e6),
        wish: None,
        pinned: false,
        locked: false,
        measured_since_ms: 0,
        now_ms: NOW,
    }
}

fn wish(copies: u32, by: RaisedBy, since_ms: i64) -> Option<Raise> {
    Some(Raise { copies, by, since_ms, until_ms: None })
}

fn by_heat(copies: u32, since_ms: i64) -> Option<Raise> {
    wish(copies, RaisedBy::Heat, since_ms)
}

fn decided(question: &Question<'_>) -> Action {
    decide(question, &settings()).action
}

#[test]
fn raised_when_the_saved_time_exceeds_the_copy() {
    let heat = terms(TierRule::Heat);
    // 1.1 s for the copy; a query a half-life is 4.16 in the hour, and saves 0.198 s each time: 0.82 s.
    let decision = decide(&question(&heat, 100.0), &settings());
    assert!((decision.copy_s - 1.1).abs() < 1e-9, "{decision:?}");
    assert!((decision.saved_s - 100.0 * 6.0 * std::f64::consts::LN_2 * 0.198).abs() < 1e-6, "{decision:?}");
    assert_eq!((decision.action, decision.copies_then), (Action::Wish(1), 1));
    assert!(decision.cold_is_own && decision.copy_is_measured);
    // Too large to be worth it.
    let large = Question { size: 1_000_000_000_000, ..question(&heat, 100.0) };
    assert_eq!(decided(&large), Action::Keep);
    assert!(
        decide(&large, &settings()).reasons[1].contains("not more than"),
        "{:?}",
        decide(&large, &settings())
    );
    // Not on the word of a few queries, and not on what may be somebody else's.
    assert_eq!(decided(&question(&heat, 7.9)), Action::Keep);
    let unsure = Reading { queries: 100.0, error: 95.0, cold_s: Some(0.2), ..Reading::default() };
    assert_eq!(decided(&Question { heat: unsure, ..question(&heat, 0.0) }), Action::Keep);
    // Where no copy was made yet and none of its answers was cold, something is taken for them.
    let unknown = Question {
        bytes_per_s: None,
        averages: Averages::default(),
        heat: Reading { queries: 1000.0, ..Reading::default() },
        ..question(&heat, 0.0)
    };
    let decision = decide(&unknown, &settings());
    assert!(!decision.cold_is_own && !decision.copy_is_measured);
    assert_eq!(decision.action, Action::Wish(1));
}

#[test]
fn lowered_below_a_part_after_its_stay() {
    let heat = terms(TierRule::Heat);
    let at = |queries, since_ms| Question { wish: by_heat(1, since_ms), ..question(&heat, queries) };
    // Raised above 1.1 s; between that and a quarter it stays.
    assert_eq!(decided(&at(1.0, 0)), Action::Keep);
    assert_eq!(decided(&at(0.3, 0)), Action::Forget);
    assert_eq!(decided(&at(0.0, NOW - 599_000)), Action::Keep, "ten minutes are not over");
    assert_eq!(decided(&at(0.0, NOW - 600_000)), Action::Forget);
    // After a start everything looks idle.
    let restarted = Question { measured_since_ms: NOW - 1_199_000, ..at(0.0, 0) };
    assert_eq!(decided(&restarted), Action::Keep);
    assert!(
        decide(&restarted, &settings())
            .reasons
            .last()
            .is_some_and(|why| why.contains("started a moment ago"))
    );
    assert_eq!(decided(&Question { measured_since_ms: NOW - 1_200_000, ..at(0.0, 0) }), Action::Forget);
    let pinned = Question { pinned: true, ..at(0.0, 0) };
    assert_eq!(decided(&pinned), Action::Forget, "the pin stays by itself");
}

#[test]
fn more_copies_by_rate_up_to_the_maximum_and_fewer_with_a_distance() {
    let heat = terms(TierRule::Heat);
    // Queries within a half-life of ten minutes, decayed, for a rate a second.
    let of_rate = |rate: f64| rate * 600.0 / std::f64::consts::LN_2;
    let at = |rate, copies| Question { wish: by_heat(copies, 0), ..question(&heat, of_rate(rate)) };
    assert_eq!(decided(&question(&heat, of_rate(150.0))), Action::Wish(2));
    assert_eq!(decided(&at(90.0, 1)), Action::Keep);
    assert_eq!(decided(&at(101.0, 1)), Action::Wish(2));
    assert_eq!(decided(&at(10_000.0, 2)), Action::Wish(4), "the maximum");
    assert_eq!(decided(&at(10_000.0, 4)), Action::Keep);
    assert_eq!(decided(&at(90.0, 2)), Action::Keep, "no less than half of what the second was made for");
    assert_eq!(decided(&at(49.0, 2)), Action::Wish(1));
    let fresh = Question { wish: by_heat(2, NOW), ..at(49.0, 2) };
    assert_eq!(decided(&fresh), Action::Keep);
}

#[test]
fn rules_and_people_win_over_heat() {
    let busy = |terms| question(terms, 1e6);
    let [cold, hot, manual, heat] =
        [TierRule::Cold, TierRule::Hot, TierRule::Manual, TierRule::Heat].map(terms);
    assert_eq!(decided(&busy(&cold)), Action::Keep);
    assert_eq!(decided(&Question { wish: by_heat(2, 0), ..busy(&cold) }), Action::Forget);
    assert_eq!(decided(&busy(&manual)), Action::Keep);
    assert_eq!(decided(&Question { wish: by_heat(2, NOW), ..busy(&manual) }), Action::Forget);
    let idle_hot = decide(&question(&hot, 0.0), &settings());
    assert_eq!((idle_hot.action, idle_hot.copies_now), (Action::Keep, 1));
    assert_eq!(decided(&busy(&hot)), Action::Wish(4), "more by demand");
    assert_eq!(decided(&Question { wish: by_heat(4, 0), ..question(&hot, 0.0) }), Action::Forget, "and back");
    for copies in [1, 3] {
        let by_hand = wish(copies, RaisedBy::Hand, 0);
        assert_eq!(decided(&Question { wish: by_hand, ..busy(&heat) }), Action::Keep);
        assert_eq!(decided(&Question { wish: by_hand, ..question(&heat, 0.0) }), Action::Keep);
    }
    let lowered =
        |until_ms| Question { wish: Some(Raise { until_ms, ..Raise::by_hand(0, 0) }), ..busy(&heat) };
    assert_eq!(decided(&lowered(Some(NOW + 1))), Action::Keep);
    assert_eq!(decided(&lowered(Some(NOW))), Action::Forget);
    assert_eq!(decided(&lowered(None)), Action::Keep);
    let locked = Question { locked: true, ..busy(&heat) };
    assert_eq!(decided(&locked), Action::Keep, "copies would answer nothing");
    assert_eq!(decided(&Question { wish: by_heat(1, 0), heat: Reading::default(), ..locked }), Action::Keep);
    let off = HeatSettings { on: false, ..settings() };
    assert_eq!(decide(&busy(&heat), &off).action, Action::Keep);
    assert_eq!(decide(&Question { wish: by_heat(2, 0), ..question(&heat, 0.0) }, &off).action, Action::Keep);
}

#[test]
fn only_what_is_heats_gives_way_and_only_after_its_stay() {
    let heat = terms(TierRule::Heat);
    let may = |wish| decide(&Question { wish, ..question(&heat, 50.0) }, &settings()).may_give_way;
    assert!(may(by_heat(1, 0)) && !may(by_heat(1, NOW)) && !may(wish(1, RaisedBy::Hand, 0)) && !may(None));
    let mut decision = decide(&Question { wish: by_heat(1, 0), ..question(&heat, 50.0) }, &settings());
    assert_eq!(decision.action, Action::Keep);
    decision.give_way("other");
    assert_eq!((decision.action, decision.copies_then), (Action::Forget, 0));
    assert!(gives_way(1.0, 4.1) && !gives_way(1.0, 4.0) && !gives_way(1.0, 1.0));
}

#[test]
fn limits_that_changed_are_kept_to() {
    let mut two_at_most = terms(TierRule::Heat);
    two_at_most.copies_maximum = 2;
    assert_eq!(decided(&Question { wish: by_heat(3, NOW), ..question(&two_at_most, 50.0) }), Action::Wish(2));
    let rules = Rules::new(vec![Rule { name: "a".into(), copies_minimum: Some(3), ..Rule::default() }], 1, 4);
    let rules = rules.expect("good");
    let three = rules.terms("x", None, 0);
    let decision = decide(&question(three, 100.0), &settings());
    assert_eq!((decision.action, decision.copy_s > 3.2), (Action::Wish(3), true), "three have to be made");
}

/// A copy is there at once, and takes as long as the store did: nothing but the rate may decide then.
fn from(wish: Option<Raise>) -> AnsweredFrom {
    if wish.is_some() { AnsweredFrom::Copy } else { AnsweredFrom::Store }
}

/// Carries decisions out.
fn carry_out(wish: Option<Raise>, action: Action, now_ms: i64) -> Option<Raise> {
    match action {
        Action::Keep => wish,
        Action::Wish(copies) => by_heat(copies, now_ms),
        Action::Forget => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// With any traffic: nothing is taken away before its stay, no number is out of bounds, a decision once
    /// carried out is not followed by another while nothing changes, and every one has a reason.
    #[test]
    fn nothing_goes_up_and_down(
        phases in prop::collection::vec((0u32..40, 1u32..60), 1..30),
        cold_ms in 1u32..5000, size in 0u64..2_000_000_000, tier in 0usize..4,
    ) {
        let settings = HeatSettings { rate_per_copy: 1, ..settings() };
        let terms = terms([TierRule::Heat, TierRule::Heat, TierRule::Hot, TierRule::Manual][tier]);
        let mut tally = Tally::new(4, settings.half_life.as_secs_f64());
        let (mut wish, mut now_s) = (None::<Raise>, 0u32);
        let (mut downs, mut ups) = (0u32, 0u32);
        for (per_step, steps) in phases {
            for _ in 0..steps {
                now_s += 10;
                for _ in 0..per_step {
                    tally.add("s", f64::from(now_s), from(wish), f64::from(cold_ms) / 1e3);
                }
                let now_ms = i64::from(now_s) * 1000;
                let ask = |wish| {
                    let heat = tally.get("s", f64::from(now_s)).unwrap_or_default();
                    decide(&Question { heat, wish, size, measured_since_ms: 0, now_ms, ..question(&terms, 0.0) }, &settings)
                };
                let decision = ask(wish);
                prop_assert!(!decision.reasons.is_empty());
                prop_assert!(decision.copies_then == 0 || (1..=4).contains(&decision.copies_then));
                if decision.action != Action::Keep {
                    prop_assert!(tier != 3, "people decide");
                    if decision.copies_then < decision.copies_now {
                        downs += 1;
                        let since = wish.expect("heat's").since_ms;
                        prop_assert!(now_ms - since >= 600_000, "{decision:?}");
                    } else {
                        ups += 1;
                    }
                    wish = carry_out(wish, decision.action, now_ms);
                    let again = ask(wish);
                    prop_assert_eq!(again.action, Action::Keep, "{:?} then {:?}", decision, again);
                    prop_assert_eq!(again.copies_now, decision.copies_then);
                }
            }
        }
        // Each way down takes a stay.
        prop_assert!(downs <= now_s / 600 + 1);
        prop_assert!(ups <= 4 * (downs + 1));
    }

    /// Demand that does not change leads to one state and stays there.
    #[test]
    fn steady_demand_settles(gap_s in 1u32..600, cold_ms in 1u32..5000, size in 0u64..2_000_000_000) {
        let settings = settings();
        let terms = terms(TierRule::Heat);
        let mut tally = Tally::new(4, settings.half_life.as_secs_f64());
        let (mut wish, mut changes) = (None::<Raise>, 0);
        for now_s in (gap_s..40_000).step_by(gap_s as usize) {
            tally.add("s", f64::from(now_s), from(wish), f64::from(cold_ms) / 1e3);
            let heat = tally.get("s", f64::from(now_s)).unwrap_or_default();
            let now_ms = i64::from(now_s) * 1000;
            let action = decide(&Question { heat, wish, size, now_ms, ..question(&terms, 0.0) }, &settings).action;
            changes += u32::from(action != Action::Keep);
            wish = carry_out(wish, action, now_ms);
        }
        prop_assert!(changes <= 1, "{} changes", changes);
    }
}
