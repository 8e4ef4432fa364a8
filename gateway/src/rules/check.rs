//! What rules may not say.

use super::{Rule, TierRule};

/// One thing that is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule {} ({name:?}): {key}: {text}", .index + 1)]
pub struct Mistake {
    /// Which rule, from 0.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// The key that is wrong.
    pub key: &'static str,
    /// Reason and remedy.
    pub text: String,
}

/// Everything that is wrong.
pub(super) fn check(rules: &[Rule], minimum: u32, maximum: u32) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let mut wrong =
            |key, text: String| mistakes.push(Mistake { index, name: rule.name.clone(), key, text });
        if rule.name.is_empty() {
            wrong("name", "is empty; leave it out, or give one".into());
        }
        if let Some(before) = rules[..index].iter().position(|other| other.name == rule.name) {
            wrong("name", format!("rule {} is called so too; give each a name of its own", before + 1));
        }
        if let Some(all) = rules[..index].iter().position(Rule::is_for_all) {
            let text = format!(
                "is never reached, because rule {} before it has no condition and matches every segment; move \
                 that one to the end",
                all + 1
            );
            wrong(first_key(rule), text);
        }
        match &rule.prefix {
            Some(prefix) if prefix.is_empty() => {
                wrong("prefix", "is empty, which every id begins with; leave it out".into());
            }
            Some(prefix) if crate::segment::SegmentId::parse(prefix).is_err() => {
                wrong("prefix", format!("no segment id begins with {prefix:?}; ids have A-Z a-z 0-9 . _ -"));
            }
            _ => {}
        }
        let (least, most) = rule.limits(minimum, maximum);
        if least == 0 {
            wrong(
                "copies_minimum",
                "must be at least 1; tier = \"cold\" is for segments without copies".into(),
            );
        } else if least > most {
            let text = format!("is {most}, less than copies_minimum, {least}; change one of the two");
            wrong("copies_maximum", text);
        }
        if rule.tier == TierRule::Cold {
            let means_nothing = [
                ("copies_minimum", rule.copies_minimum.is_some()),
                ("copies_maximum", rule.copies_maximum.is_some()),
                ("ship_every", rule.ship.every.is_some()),
                ("ship_pages", rule.ship.pages.is_some()),
            ];
            for (key, _) in means_nothing.into_iter().filter(|(_, given)| *given) {
                let text = "means nothing with tier = \"cold\": such segments have no copies and cannot be \
                            written; remove one of the two";
                wrong(key, text.into());
            }
        }
        if rule.ship.pages == Some(0) {
            wrong("ship_pages", "must be at least 1".into());
        }
        if rule.ship.every.is_some_and(|every| every.is_zero()) {
            wrong("ship_every", "must be more than 0".into());
        }
    }
    mistakes
}

/// The key that a rule's mistake as a whole is pinned to.
fn first_key(rule: &Rule) -> &'static str {
    match rule {
        Rule { prefix: Some(_), .. } => "prefix",
        Rule { pattern: Some(_), .. } => "pattern",
        Rule { older_than: Some(_), .. } => "older_than",
        _ => "tier",
    }
}
