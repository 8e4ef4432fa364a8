//! Documents against what they speak of.

use std::fs;

use crate::{
    harness::repository,
    registry::{all, tests},
};

tests! {
    [] every_promise_has_its_test;
}

/// Each paragraph (`###`) of the semantics ends with the test that holds it, and that test exists.
fn every_promise_has_its_test() {
    let text = fs::read_to_string(repository().join("docs/SEMANTICS.md")).expect("docs/SEMANTICS.md");
    let names: Vec<String> = all().map(|test| test.full_name()).collect();
    let mut promises = 0;
    for paragraph in text.split("\n### ").skip(1) {
        let (title, rest) = paragraph.split_once('\n').unwrap_or((paragraph, ""));
        let rest = rest.split("\n## ").next().unwrap_or_default().trim_end();
        let cited =
            rest.lines().next_back().and_then(|line| line.strip_prefix("*Test: `")?.strip_suffix("`*"));
        let cited = cited.unwrap_or_else(|| panic!("{title:?} does not end with *Test: `file::name`*"));
        assert!(names.iter().any(|name| name == cited), "{title:?} names {cited}, which does not exist");
        promises += 1;
    }
    assert!(promises > 20, "only {promises} paragraphs were found");
}
