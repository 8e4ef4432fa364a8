//! Keys of the hot tier as the gateway sees it: how many copies, heat, and the rules by which segments differ.

use springhouse_gateway::{
    HeatSettings, Settings,
    rules::{Mistake, Pattern, Rule, Rules, Ship, TierRule},
};

use super::{
    groups::OnOff,
    keys::{Group, KeySpec, TableSpec, keys},
    places::Word,
    resolve::{Problem, Resolved, table_name},
    value::{Count, HOUR, MINUTE, SECOND, Span, Value, words},
};

words! { impl TierRule { Cold = "cold", Hot = "hot", Heat = "heat", Manual = "manual", } }

/// A day in milliseconds.
const DAY: u64 = 24 * HOUR;

keys! {
    "Hot copies"
    /// How many copies, and which segments get some by themselves.
    pub struct TierKeys {
        /// Hot copies of a raised segment that names no number. Rules may say otherwise.
        ///
        /// A copy is given up only when so many others are there and answer.
        copies_minimum: Count<1, 1000> = "1",
        /// Most hot copies of a segment. Rules may say otherwise.
        copies_maximum: Count<1, 1000> = "4",
        /// How long a hot worker that fell silent keeps what it was assigned.
        ///
        /// Long enough for a restart: copies that move to other workers have to be fetched.
        copies_grace: Span<0, { HOUR }> = "1m",
        /// Whether segments are raised because they are asked often, and lowered when they are not any more.
        ///
        /// off leaves it to people and to rules. `springhouse tiers explain SEGMENT` says what would be done.
        heat: OnOff = "on",
        /// After so long without queries the heat of a segment is half of what it was.
        ///
        /// Shorter follows demand faster, and forgets it faster.
        heat_half_life: Span<{ SECOND }, { 7 * DAY }> = "10m",
        /// For how long the present demand is taken to go on when a copy is weighed against what it saves.
        ///
        /// Longer raises more.
        heat_horizon: Span<{ SECOND }, { 30 * DAY }> = "1h",
        /// Fewest queries, counted with their decay, before a segment is raised at all.
        ///
        /// It keeps segments that are asked once or twice from being copied, however small they are.
        heat_queries_min: Count<1, { 1 << 20 }> = "8",
        /// A segment is lowered when a copy would save less than this many hundredths of what copying costs.
        ///
        /// It was raised at 100: the distance between the two keeps it from going up and down.
        heat_lower_percent: Count<1, 90> = "25",
        /// Shortest stay of what was raised, or of a number of copies, before heat may take it down.
        heat_stay_min: Span<0, { 30 * DAY }> = "10m",
        /// Queries a second for each copy: a segment with more is given one more, up to its maximum.
        heat_rate_per_copy: Count<1, { 1 << 20 }> = "100",
        /// Pause between two looks at the heat of all segments.
        heat_interval: Span<{ SECOND / 10 }, { 10 * MINUTE }> = "10s",
        /// Most segments whose heat is known at once; about 300 bytes each.
        ///
        /// The most asked ones are kept. With fewer, the heat of others is known less exactly.
        heat_segments_max: Count<64, { 1 << 24 }> = "65536",
        /// After `segment lower`, neither heat nor a rule raises the segment for so long.
        lowered_for: Span<0, { 30 * DAY }> = "1h",
    }
}

impl TierKeys {
    /// See [`Group::check`].
    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.copies_maximum.get() < self.copies_minimum.get() {
            return Err(Problem("copies_maximum is less than copies_minimum; change one of the two".into()));
        }
        Ok(())
    }

    /// Puts these keys and the rules into the gateway's settings.
    pub fn complete(&self, rules: &RuleList, settings: Settings) -> Settings {
        Settings {
            copies_minimum: self.copies_minimum.as_u32(),
            copies_maximum: self.copies_maximum.as_u32(),
            copies_grace: self.copies_grace.duration(),
            heat: HeatSettings {
                on: self.heat == OnOff::On,
                half_life: self.heat_half_life.duration(),
                horizon: self.heat_horizon.duration(),
                queries_min: self.heat_queries_min.as_u32(),
                lower_percent: self.heat_lower_percent.as_u32(),
                stay_min: self.heat_stay_min.duration(),
                rate_per_copy: self.heat_rate_per_copy.as_u32(),
                interval: self.heat_interval.duration(),
                segments_max: self.heat_segments_max.as_usize(),
                lowered_for: self.lowered_for.duration(),
            },
            rules: rules.rules(),
            ..settings
        }
    }
}

keys! {
    "Rules"
    /// One rule.
    pub struct RuleKeys {
        /// Name of the rule, for messages.
        ///
        /// Unset: its number.
        name: Option<Word>,
        /// Segments whose ids begin so.
        prefix: Option<Word>,
        /// Segments whose whole ids match this regular expression.
        ///
        /// In TOML best between single quotes, which leave backslashes alone.
        pattern: Option<Pattern>,
        /// Segments that were modified in the store so long ago, or longer.
        older_than: Option<Span<{ SECOND }, { 36_525 * DAY }>>,
        /// Who decides whether they have hot copies: nobody (cold), the rule (hot), demand (heat), people.
        ///
        /// cold: never any, and they cannot be provisioned for writing. hot: always some. heat: by demand
        /// and by hand. manual: by hand only.
        tier: TierRule = "heat",
        /// Fewest hot copies of a segment that has any.
        ///
        /// Unset: the key of the same name at the top.
        copies_minimum: Option<Count<1, 1000>>,
        /// Most hot copies.
        ///
        /// Unset: the key of the same name at the top.
        copies_maximum: Option<Count<1, 1000>>,
        /// How long committed changes may be on their worker's disk alone before they go to the store.
        ///
        /// Unset: until the segment is promoted.
        ship_every: Option<Span<{ SECOND / 10 }, { DAY }>>,
        /// After so many changed pages committed changes go to the store.
        ///
        /// Unset: only time counts.
        ship_pages: Option<Count<1, { u32::MAX as u64 }>>,
    }
}

impl RuleKeys {
    fn rule(&self, index: usize) -> Rule {
        let text = |word: &Option<Word>| word.as_ref().map(|word| word.as_str().to_owned());
        Rule {
            name: text(&self.name).unwrap_or_else(|| (index + 1).to_string()),
            prefix: text(&self.prefix),
            pattern: self.pattern.clone(),
            older_than: self.older_than.map(|span| span.duration()),
            tier: self.tier,
            copies_minimum: self.copies_minimum.map(|count| count.as_u32()),
            copies_maximum: self.copies_maximum.map(|count| count.as_u32()),
            ship: Ship {
                every: self.ship_every.map(|span| span.duration()),
                pages: self.ship_pages.map(|count| count.get()),
            },
        }
    }
}

impl Value for Pattern {
    const PLACEHOLDER: &'static str = "REGEX";

    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
    fn text(&self) -> String {
        self.as_str().to_owned()
    }
    fn allowed() -> String {
        "a regular expression, such as '[0-9]{4}-(news|forum)'".into()
    }
}

/// `[[rule]]`: the rules in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleList(Vec<RuleKeys>);

/// Name of the array of tables.
const RULE: &str = "rule";

impl RuleList {
    /// As the gateway takes them.
    pub fn rules(&self) -> Vec<Rule> {
        self.0.iter().enumerate().map(|(index, keys)| keys.rule(index)).collect()
    }
}

impl Group for RuleList {
    const TITLE: &'static str = "Rules";

    fn specs() -> Vec<KeySpec> {
        Vec::new()
    }

    fn table() -> Option<TableSpec> {
        Some(TableSpec {
            name: RULE,
            title: Self::TITLE,
            about: "Rules say how segments differ: each names some by prefix, pattern or age, and what holds for \
                    them.\nThe first rule that matches a segment holds, alone; without one the keys above hold. \
                    Rules stand in the file only.",
            specs: RuleKeys::specs(),
            examples: &[
                &[("name", "archive"), ("older_than", "1year"), ("tier", "cold")],
                &[("name", "crawls"), ("prefix", "crawl-"), ("copies_minimum", "2"), ("ship_every", "30s")],
            ],
        })
    }

    fn read(resolved: &Resolved) -> Result<Self, Problem> {
        let rows = resolved.tables(RULE).iter();
        rows.map(|(_, row)| RuleKeys::read(row)).collect::<Result<_, _>>().map(Self)
    }

    fn check_within(&self, resolved: &Resolved) -> Vec<Problem> {
        let Ok(tiers) = TierKeys::read(resolved) else { return Vec::new() };
        let (least, most) = (tiers.copies_minimum.as_u32(), tiers.copies_maximum.as_u32());
        // Said already, and it would be said again for each rule.
        if most < least {
            return Vec::new();
        }
        let mistakes = Rules::new(self.rules(), least, most).err().unwrap_or_default();
        mistakes.into_iter().map(|mistake| problem(resolved, &mistake)).collect()
    }
}

/// A mistake with its line.
fn problem(resolved: &Resolved, mistake: &Mistake) -> Problem {
    let row = resolved.tables(RULE).get(mistake.index);
    let at = row.map(|(begin, row)| row.lookup(mistake.key).map_or(begin, |(_, source)| source));
    // A default has no line of its own.
    let at = match (at, row) {
        (Some(super::Source::Default), Some((begin, _))) => Some(begin),
        (at, _) => at,
    };
    let at = at.map(|source| format!("{source}: ")).unwrap_or_default();
    let rule = table_name(RULE, mistake.index, Some(&mistake.name));
    Problem(format!("{at}{rule}: {}: {}", mistake.key, mistake.text))
}
