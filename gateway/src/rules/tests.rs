//! What rules promise.

use proptest::prelude::*;

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn rule(name: &str) -> Rule {
    Rule { name: name.into(), ..Rule::default() }
}

fn rules(rules: Vec<Rule>) -> Rules {
    Rules::new(rules, 1, 4).expect("good rules")
}

fn name<'a>(rules: &'a Rules, id: &str, mtime_ms: Option<i64>, now_ms: i64) -> Option<&'a str> {
    rules.terms(id, mtime_ms, now_ms).rule.as_deref()
}

#[test]
fn the_first_that_matches_holds_alone() {
    let rules = rules(vec![
        Rule { prefix: Some("crawl-".into()), copies_minimum: Some(2), ..rule("crawls") },
        Rule {
            pattern: Some(Pattern::parse("crawl-1|x[0-9]+").expect("one")),
            tier: TierRule::Hot,
            ..rule("hot")
        },
        Rule { older_than: Some(DAY), tier: TierRule::Cold, ..rule("old") },
    ]);
    let day = i64::try_from(DAY.as_millis()).expect("small");
    assert_eq!(name(&rules, "crawl-1", Some(0), 9 * day), Some("crawls"));
    let terms = rules.terms("crawl-1", Some(0), 9 * day);
    assert_eq!((terms.tier, terms.copies_minimum, terms.copies_maximum), (TierRule::Heat, 2, 4));
    assert_eq!(name(&rules, "x12", Some(0), 0), Some("hot"));
    assert_eq!(name(&rules, "x12y", Some(0), 0), None, "from end to end");
    assert_eq!(name(&rules, "y", Some(0), day - 1), None);
    assert_eq!(name(&rules, "y", Some(0), day), Some("old"));
    assert_eq!(name(&rules, "y", None, 9 * day), None, "what the store does not have has no age");
    assert_eq!(name(&rules, "y", Some(9 * day), 0), None, "a clock that is wrong");
    assert!(rules.keep_some_hot() && rules.depend_on_age());
}

#[test]
fn what_is_wrong_names_rule_key_reason_and_remedy() {
    let cold = TierRule::Cold;
    let found = Rules::new(
        vec![
            Rule { copies_minimum: Some(5), copies_maximum: Some(2), ..rule("a") },
            Rule { prefix: Some("/x".into()), ..rule("a") },
            Rule { prefix: Some(String::new()), tier: cold, copies_maximum: Some(1), ..rule("c") },
            Rule { copies_minimum: Some(0), ..rule("d") },
        ],
        1,
        4,
    )
    .expect_err("mistakes");
    let told: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "rule 1 (\"a\"): copies_maximum: is 2, less than copies_minimum, 5; change one of the two",
            "rule 2 (\"a\"): name: rule 1 is called so too; give each a name of its own",
            "rule 2 (\"a\"): prefix: is never reached, because rule 1 before it has no condition and matches \
             every segment; move that one to the end",
            "rule 2 (\"a\"): prefix: no segment id begins with \"/x\"; ids have A-Z a-z 0-9 . _ -",
            "rule 3 (\"c\"): prefix: is never reached, because rule 1 before it has no condition and matches \
             every segment; move that one to the end",
            "rule 3 (\"c\"): prefix: is empty, which every id begins with; leave it out",
            "rule 3 (\"c\"): copies_maximum: means nothing with tier = \"cold\": such segments have no copies \
             and cannot be written; remove one of the two",
            "rule 4 (\"d\"): tier: is never reached, because rule 1 before it has no condition and matches \
             every segment; move that one to the end",
            "rule 4 (\"d\"): copies_minimum: must be at least 1; tier = \"cold\" is for segments without copies",
        ]
    );
}

#[test]
fn one_limit_bends_the_gateways_other() {
    let rules = rules(vec![
        Rule { prefix: Some("a".into()), copies_minimum: Some(9), ..rule("many") },
        Rule { prefix: Some("b".into()), copies_maximum: Some(1), ..rule("one") },
    ]);
    let limits = |id| {
        let terms = rules.terms(id, None, 0);
        (terms.copies_minimum, terms.copies_maximum)
    };
    assert_eq!((limits("a"), limits("b"), limits("c")), ((9, 9), (1, 1), (1, 4)));
}

#[test]
fn patterns_are_bounded_and_told_in_a_line() {
    for bad in ["", "(", "a)|(b", "[z-a]", "x{1000000}", "(?:a{1000}){1000}", &"x".repeat(1001)] {
        let told = Pattern::parse(bad).expect_err(bad);
        assert!(!told.contains('\n') && told.len() < 120, "{told}");
    }
    let alternatives = Pattern::parse("a|bc").expect("good");
    assert!(alternatives.matches("a") && alternatives.matches("bc") && !alternatives.matches("abc"));
}

proptest! {
    /// Against a model that reads like the promise.
    #[test]
    fn first_match_as_a_model_says(
        given in prop::collection::vec(
            (prop::option::of("[ab]{1,2}"), prop::option::of(0u64..5), 0u32..3, prop::option::of("[ab]{1,3}")),
            0..6,
        ),
        id in "[ab]{1,4}", age in prop::option::of(0i64..5),
    ) {
        let list: Vec<Rule> = given.iter().enumerate().map(|(n, (prefix, older, least, pattern))| Rule {
            prefix: prefix.clone(),
            pattern: pattern.as_deref().map(|text| Pattern::parse(text).expect("letters")),
            older_than: older.map(Duration::from_millis),
            copies_minimum: (*least > 0).then_some(*least),
            ..rule(&n.to_string())
        }).collect();
        let reached = list.iter().rev().skip(1).all(|rule| !rule.is_for_all());
        match Rules::new(list, 1, 4) {
            Err(_) => prop_assert!(!reached),
            Ok(rules) => {
                prop_assert!(reached);
                let wanted = given.iter().position(|(prefix, older, _, pattern)| {
                    prefix.as_ref().is_none_or(|p| id.starts_with(p.as_str()))
                        && older.is_none_or(|ms| age.is_some_and(|age| age as u64 >= ms))
                        && pattern.as_ref().is_none_or(|p| *p == id)
                });
                let now = 1_000_000;
                let found = rules.terms(&id, age.map(|age| now - age), now);
                prop_assert_eq!(found.rule.as_deref().map(str::to_owned), wanted.map(|n| n.to_string()));
                prop_assert!(1 <= found.copies_minimum && found.copies_minimum <= found.copies_maximum);
            }
        }
    }
}
