//! Rules by which segments are treated differently: tier, number of copies, shipping of what is written.
//! Pure, and plain data: Trough's settings are code that is evaluated for each segment.
//!
//! Rules have an order, and the first that matches a segment holds, alone: nothing is put together from
//! several. What it leaves open comes from the gateway's own settings.

mod check;
mod pattern;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{check::Mistake, pattern::Pattern};

/// Who decides whether a segment has hot copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TierRule {
    /// Nobody: it never has any, so it cannot be raised, pinned or provisioned for writing. The cold range.
    Cold,
    /// The rule: it always has some.
    Hot,
    /// How often it is asked; people may raise and lower it as well.
    #[default]
    Heat,
    /// People only.
    Manual,
}

impl TierRule {
    /// As the configuration has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Hot => "hot",
            Self::Heat => "heat",
            Self::Manual => "manual",
        }
    }
}

/// When committed changes that were not promoted go to the store: whichever comes first. Neither: only
/// promotion brings them there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ship {
    /// At the latest so long after the first change that is not there.
    pub every: Option<Duration>,
    /// When so many pages of the database have changed.
    pub pages: Option<u64>,
}

impl Ship {
    /// Whether anything is shipped at all.
    pub fn is_on(self) -> bool {
        self.every.is_some() || self.pages.is_some()
    }
}

/// One rule. All conditions that it has must hold; without any it matches every segment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rule {
    /// For people.
    pub name: String,
    /// Ids that begin so.
    pub prefix: Option<String>,
    /// Ids that match from end to end.
    pub pattern: Option<Pattern>,
    /// Segments whose last modification in the store is so long ago. One that the store does not have has no
    /// age, and does not match.
    pub older_than: Option<Duration>,
    /// Who decides about hot copies.
    pub tier: TierRule,
    /// Fewest hot copies of a segment that has any; `None`: as the gateway's setting.
    pub copies_minimum: Option<u32>,
    /// Most hot copies; `None`: as the gateway's setting.
    pub copies_maximum: Option<u32>,
    /// When unpromoted changes go to the store.
    pub ship: Ship,
}

impl Rule {
    fn matches(&self, id: &str, age: Option<Duration>) -> bool {
        self.prefix.as_ref().is_none_or(|prefix| id.starts_with(&**prefix))
            && self.pattern.as_ref().is_none_or(|pattern| pattern.matches(id))
            && self.older_than.is_none_or(|least| age.is_some_and(|age| age >= least))
    }

    /// Whether it matches every segment.
    pub fn is_for_all(&self) -> bool {
        self.prefix.is_none() && self.pattern.is_none() && self.older_than.is_none()
    }
}

/// What holds for a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Name of the rule; `None`: no rule matches, the gateway's settings hold.
    pub rule: Option<Arc<str>>,
    /// Who decides about hot copies.
    pub tier: TierRule,
    /// Fewest hot copies of a segment that has any, at least 1.
    pub copies_minimum: u32,
    /// Most hot copies, not below the minimum.
    pub copies_maximum: u32,
    /// When unpromoted changes go to the store.
    pub ship: Ship,
}

impl Terms {
    /// For people: `rule "crawl"`, or that none matches.
    pub fn source(&self) -> String {
        self.rule.as_ref().map_or_else(|| "no rule matches".to_owned(), |rule| format!("rule {rule:?}"))
    }

    /// `copies` as the limits allow; 0 stays 0.
    pub fn clamp(&self, copies: u32) -> u32 {
        if copies == 0 { 0 } else { copies.clamp(self.copies_minimum, self.copies_maximum) }
    }
}

/// All rules of a gateway, checked.
#[derive(Debug, Clone)]
pub struct Rules {
    rules: Vec<(Rule, Terms)>,
    otherwise: Terms,
}

impl Rules {
    /// In order of precedence. `minimum` and `maximum` copies: where a rule says nothing else. Everything
    /// that is wrong is told, not only the first.
    pub fn new(rules: Vec<Rule>, minimum: u32, maximum: u32) -> Result<Self, Vec<Mistake>> {
        let mistakes = check::check(&rules, minimum, maximum);
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let otherwise = Terms {
            rule: None,
            tier: TierRule::default(),
            copies_minimum: minimum,
            copies_maximum: maximum,
            ship: Ship::default(),
        };
        let with_terms = rules.into_iter().map(|rule| {
            let (least, most) = rule.limits(minimum, maximum);
            let terms = Terms {
                rule: Some(rule.name.as_str().into()),
                tier: rule.tier,
                copies_minimum: least,
                copies_maximum: most,
                ship: rule.ship,
            };
            (rule, terms)
        });
        Ok(Self { rules: with_terms.collect(), otherwise })
    }

    /// What holds for segment `id`. `mtime_ms`: its last modification in the store, `None` if that does not
    /// have it; both times in ms since 1970.
    pub fn terms(&self, id: &str, mtime_ms: Option<i64>, now_ms: i64) -> &Terms {
        // A modification in the future is a clock that is wrong: age 0.
        let age =
            mtime_ms.map(|mtime| Duration::from_millis(now_ms.saturating_sub(mtime).max(0).unsigned_abs()));
        let first = self.rules.iter().find(|(rule, _)| rule.matches(id, age));
        first.map_or(&self.otherwise, |(_, terms)| terms)
    }

    /// The rules with what each gives.
    pub fn iter(&self) -> impl Iterator<Item = (&Rule, &Terms)> {
        self.rules.iter().map(|(rule, terms)| (rule, terms))
    }

    /// What holds where no rule matches.
    pub fn otherwise(&self) -> &Terms {
        &self.otherwise
    }

    /// Whether some rule keeps segments hot without being asked.
    pub fn keep_some_hot(&self) -> bool {
        self.rules.iter().any(|(rule, _)| rule.tier == TierRule::Hot)
    }

    /// Whether what holds for a segment may change while nobody touches it.
    pub fn depend_on_age(&self) -> bool {
        self.rules.iter().any(|(rule, _)| rule.older_than.is_some())
    }
}

impl Rule {
    /// Fewest and most copies, with the gateway's where it says nothing. A minimum above the gateway's
    /// maximum lifts that, and a maximum below the gateway's minimum lowers it: the rule is more special.
    fn limits(&self, minimum: u32, maximum: u32) -> (u32, u32) {
        match (self.copies_minimum, self.copies_maximum) {
            (Some(least), Some(most)) => (least, most),
            (Some(least), None) => (least, maximum.max(least)),
            (None, Some(most)) => (minimum.min(most), most),
            (None, None) => (minimum, maximum),
        }
    }
}
