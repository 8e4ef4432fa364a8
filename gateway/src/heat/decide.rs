//! What shall be done with the hot copies of a segment, and why. Pure: the same facts give the same decision,
//! so the explanation that people ask for is the decision itself.
//!
//! A copy is worth making when the time that it saves is more than the time that it takes. Saved: queries of
//! the coming horizon, if demand goes on as it is, times what a cold answer takes longer than a hot one.
//! Taken: what a copy takes to come from the store, for each copy that has to be made. Up at more than the
//! cost, down at less than a part of it and not before a shortest stay: so nothing goes up and down.

use std::time::{Duration, UNIX_EPOCH};

use super::{Averages, HeatSettings, Reading};
use crate::{
    registry::ledger::{Raise, RaisedBy},
    rules::{Terms, TierRule},
};

/// What every copy takes besides its bytes: opening, verifying, syncs, telling. In seconds.
const COPY_FIXED_S: f64 = 0.1;
/// Taken for the speed of copies as long as no worker has told one, in bytes a second: a slow network.
const COPY_BYTES_PER_S: f64 = 50e6;
/// Taken for a cold answer as long as there was none: where nothing is known, not much is promised.
const COLD_S: f64 = 0.05;
/// Taken for a hot answer as long as there was none.
const HOT_S: f64 = 0.001;
/// What is hot saves this part of a cold answer's time at least: where both take about as long, a difference
/// that comes and goes must not lower what is asked all the time.
const SAVED_PART: f64 = 0.5;
/// Where room is short a segment gives way to one that is worth more than so many times as much.
const GIVES_WAY_FACTOR: f64 = 4.0;
/// A copy that is one of several goes when those that stay would have at most this part of the rate for which
/// one more is made.
const FEWER_PART: f64 = 0.5;

/// What is known of one segment and its surroundings.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// What the rules say.
    pub terms: &'a Terms,
    /// How often it is asked.
    pub heat: Reading,
    /// Bytes in the store.
    pub size: u64,
    /// Over all segments.
    pub averages: Averages,
    /// What the workers tell of the speed of copies, in bytes a second; `None`: none was made yet.
    pub bytes_per_s: Option<f64>,
    /// What is wished.
    pub wish: Option<Raise>,
    /// Whether workers are to have it whatever heat says.
    pub pinned: bool,
    /// Whether it is provisioned for writing: its holder answers all queries, and copies elsewhere none.
    pub locked: bool,
    /// Since when heat is measured, ms since 1970.
    pub measured_since_ms: i64,
    /// Now, ms since 1970.
    pub now_ms: i64,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Keep,
    /// Heat wishes for so many copies from now on; there were fewer, more, or none.
    Wish(u32),
    /// Heat's wish ends, or that of somebody who lowered it for a while.
    Forget,
}

/// What is to be done, and what it follows from. Times in seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// Copies that the segment shall have now.
    pub copies_now: u32,
    /// Copies that it shall have then.
    pub copies_then: u32,
    /// Queries a second, at most.
    pub rate: f64,
    /// What a cold answer takes.
    pub cold_s: f64,
    /// Whether that was measured on this segment.
    pub cold_is_own: bool,
    /// What a hot answer takes.
    pub hot_s: f64,
    /// What copying takes: all copies that have to be made.
    pub copy_s: f64,
    /// Whether the speed of copies was measured.
    pub copy_is_measured: bool,
    /// What copies save within the horizon.
    pub saved_s: f64,
    /// It is lowered when less is saved than this.
    pub lower_below_s: f64,
    /// Whether it is heat's alone and has had its stay: it may give way where room is short.
    pub may_give_way: bool,
    /// Why, in sentences without an end.
    pub reasons: Vec<String>,
}

impl Decision {
    /// How much is saved for each byte that has to be stored: who is raised first where room is short.
    pub fn worth(&self, size: u64) -> f64 {
        self.saved_s / (size.max(1) as f64 * f64::from(self.copies_then.max(1)))
    }

    /// Turns it into the decision to give way to another segment.
    pub fn give_way(&mut self, other: &str) {
        self.because(format!(
            "room is short, and {other} saves more than {GIVES_WAY_FACTOR} times as much for each byte: it gives way"
        ));
        self.act(Action::Forget, 0);
    }
}

/// Whether what is worth `worth` gives way to what is worth `other`: not for a small difference, or the two
/// would take turns.
pub fn gives_way(worth: f64, other: f64) -> bool {
    worth * GIVES_WAY_FACTOR < other
}

/// Decides.
pub fn decide(question: &Question<'_>, settings: &HeatSettings) -> Decision {
    let Question { terms, heat, wish, .. } = question;
    let per_query = std::f64::consts::LN_2 / settings.half_life.as_secs_f64().max(1e-3);
    let rate = heat.queries * per_query;
    let least_rate = heat.least() * per_query;
    let cold_s = heat.cold_s.or(question.averages.cold_s).unwrap_or(COLD_S);
    let hot_s = heat.hot_s.or(question.averages.hot_s).unwrap_or(HOT_S).min(cold_s);
    let speed = question.bytes_per_s.filter(|speed| *speed > 0.0);
    let one_copy_s = COPY_FIXED_S + question.size as f64 / speed.unwrap_or(COPY_BYTES_PER_S);
    let copy_s = one_copy_s * f64::from(terms.copies_minimum);
    let kept_by_rule = if terms.tier == TierRule::Hot { terms.copies_minimum } else { 0 };
    let copies_now = match (terms.tier, wish) {
        (TierRule::Cold, _) => 0,
        (_, Some(wish)) => terms.clamp(wish.copies),
        (_, None) => kept_by_rule,
    };
    let least_part = if copies_now > 0 { SAVED_PART } else { 0.0 };
    let each_s = (cold_s - hot_s).max(cold_s * least_part);
    let saves = |rate: f64| rate * settings.horizon.as_secs_f64() * each_s;
    let mut decision = Decision {
        action: Action::Keep,
        copies_now,
        copies_then: copies_now,
        rate,
        cold_s,
        cold_is_own: heat.cold_s.is_some(),
        hot_s,
        copy_s,
        copy_is_measured: speed.is_some(),
        saved_s: saves(rate),
        lower_below_s: copy_s * f64::from(settings.lower_percent) / 100.0,
        may_give_way: terms.tier == TierRule::Heat
            && settings.on
            && !question.locked
            && wish.is_some_and(|wish| wish.by == RaisedBy::Heat)
            && stays(question, settings).is_none(),
        reasons: Vec::new(),
    };
    if !decision.is_settled(question, settings) {
        decision.by_heat(
            question,
            settings,
            Rates { rate, least: least_rate, least_saved_s: saves(least_rate) },
        );
    }
    decision
}

/// Demand, from both sides of what is known.
struct Rates {
    rate: f64,
    least: f64,
    least_saved_s: f64,
}

impl Decision {
    fn because(&mut self, reason: impl Into<String>) {
        self.reasons.push(reason.into());
    }

    fn act(&mut self, action: Action, copies: u32) {
        (self.action, self.copies_then) = (action, copies);
    }

    /// Whether heat has no say.
    fn is_settled(&mut self, question: &Question<'_>, settings: &HeatSettings) -> bool {
        let Question { terms, wish, now_ms, .. } = question;
        let by_heat = wish.is_some_and(|wish| wish.by == RaisedBy::Heat);
        let source = terms.source();
        match (terms.tier, wish) {
            (TierRule::Cold, _) => {
                self.because(format!("{source}, tier = \"cold\": it never has hot copies"));
                if by_heat {
                    self.act(Action::Forget, 0);
                }
                return true;
            }
            (TierRule::Manual, Some(Raise { by: RaisedBy::Heat, .. })) => {
                self.because(format!("{source}, tier = \"manual\": heat has no say any more"));
                self.act(Action::Forget, 0);
                return true;
            }
            (_, Some(Raise { copies: 0, until_ms: Some(until), .. })) if until <= now_ms => {
                self.because("it was lowered by hand, and the time for which that holds is over");
                let kept = if terms.tier == TierRule::Hot { terms.copies_minimum } else { 0 };
                self.act(Action::Forget, kept);
                return true;
            }
            (_, Some(Raise { copies: 0, until_ms, .. })) => {
                let until = until_ms.map(|until| format!(" until {}", date(until))).unwrap_or_default();
                self.because(format!("it was lowered by hand: neither heat nor a rule raises it{until}"));
                return true;
            }
            (_, Some(Raise { by: RaisedBy::Hand, copies, .. })) => {
                self.because(format!(
                    "it was raised to {} by hand: heat does not change that",
                    count(*copies)
                ));
                return true;
            }
            (TierRule::Manual, None) => {
                self.because(format!("{source}, tier = \"manual\": only people raise it"));
                return true;
            }
            (TierRule::Hot, _) => {
                let kept = count(terms.copies_minimum);
                self.because(format!("{source}, tier = \"hot\": it always has {kept} at least"));
            }
            (TierRule::Heat, _) => {
                self.because(format!("{source}, tier = \"heat\": demand decides"));
            }
        }
        if question.pinned {
            self.because("it is pinned as well: those copies stay whatever heat says");
        }
        if question.locked {
            self.because("it is provisioned for writing: its holder answers, and heat waits for the release");
        }
        if !settings.on {
            self.because("heat = \"off\": nothing is raised or lowered by itself");
        }
        question.locked || !settings.on
    }

    /// Whether and how many copies demand asks for.
    fn by_heat(&mut self, question: &Question<'_>, settings: &HeatSettings, rates: Rates) {
        let terms = question.terms;
        let wished = question.wish.is_some();
        if !wished && terms.tier == TierRule::Heat {
            return self.raise_or_not(question, settings, &rates);
        }
        if let Some(wish) = question.wish
            && wish.copies != terms.clamp(wish.copies)
        {
            let copies = terms.clamp(wish.copies);
            self.because(format!("{} asks for {copies} now", terms.source()));
            return self.act(Action::Wish(copies), copies);
        }
        let per_copy = f64::from(settings.rate_per_copy);
        let more = terms.clamp(copies_for(rates.least, per_copy));
        if more > self.copies_now {
            self.because(format!(
                "{:.1} queries a second are more than {} for each of {}",
                rates.least,
                settings.rate_per_copy,
                count(self.copies_now)
            ));
            return self.act(Action::Wish(more), more);
        }
        let idle = terms.tier == TierRule::Heat && self.saved_s < self.lower_below_s;
        let fewer = terms.clamp(copies_for(rates.rate, per_copy * FEWER_PART));
        if !wished || (!idle && fewer >= self.copies_now) {
            if terms.tier == TierRule::Heat {
                self.because(format!(
                    "a copy saves {} in {}: it stays until that is less than {}",
                    seconds(self.saved_s),
                    time(settings.horizon),
                    seconds(self.lower_below_s)
                ));
            }
            return;
        }
        let what = if idle {
            format!(
                "a copy would save {} in {}, less than {}, {} % of what copying takes",
                seconds(self.saved_s),
                time(settings.horizon),
                seconds(self.lower_below_s),
                settings.lower_percent
            )
        } else {
            format!("{:.1} queries a second need no more than {}", rates.rate, count(fewer))
        };
        self.because(what);
        if let Some(wait) = stays(question, settings) {
            return self.because(wait);
        }
        if idle {
            self.act(Action::Forget, 0);
        } else if terms.tier == TierRule::Hot && fewer == terms.copies_minimum {
            self.act(Action::Forget, fewer);
        } else {
            self.act(Action::Wish(fewer), fewer);
        }
    }

    fn raise_or_not(&mut self, question: &Question<'_>, settings: &HeatSettings, rates: &Rates) {
        let enough = question.heat.least() >= f64::from(settings.queries_min);
        let pays = rates.least_saved_s > self.copy_s;
        let compare = if pays { "more than" } else { "not more than" };
        self.because(format!(
            "{} would save {} in {}, {compare} the {} that copying takes",
            count(question.terms.copies_minimum),
            seconds(rates.least_saved_s),
            time(settings.horizon),
            seconds(self.copy_s)
        ));
        if !enough {
            self.because(format!(
                "it was asked {:.1} times lately, and must be {} times before anything is copied",
                question.heat.least(),
                settings.queries_min
            ));
        }
        if enough && pays {
            let copies =
                question.terms.clamp(copies_for(rates.least, f64::from(settings.rate_per_copy)).max(1));
            self.act(Action::Wish(copies), copies);
        }
    }
}

/// Why nothing is taken away yet, if so.
fn stays(question: &Question<'_>, settings: &HeatSettings) -> Option<String> {
    let since_ms = question.wish.map_or(0, |wish| wish.since_ms);
    let stay_ms = i64::try_from(settings.stay_min.as_millis()).unwrap_or(i64::MAX);
    if question.now_ms < since_ms.saturating_add(stay_ms) {
        return Some(format!(
            "it stays so for {} at least, which is since {}",
            time(settings.stay_min),
            date(since_ms)
        ));
    }
    // After a start nothing is known of what is asked: what looks idle may only not have been asked yet.
    let learn = settings.stay_min.max(settings.half_life.saturating_mul(2));
    let learn_ms = i64::try_from(learn.as_millis()).unwrap_or(i64::MAX);
    let learnt_ms = question.measured_since_ms.saturating_add(learn_ms);
    (question.now_ms < learnt_ms).then(|| {
        format!("the gateway started a moment ago: nothing is taken down before {}", date(learnt_ms))
    })
}

/// Copies for a rate, when each shall have `per_copy` of it at most.
fn copies_for(rate: f64, per_copy: f64) -> u32 {
    let copies = (rate / per_copy.max(f64::MIN_POSITIVE)).ceil();
    // A float that is too large for the type becomes its largest value.
    (copies as u32).max(1)
}

fn count(copies: u32) -> String {
    if copies == 1 { "1 copy".into() } else { format!("{copies} copies") }
}

/// Seconds as people read them.
fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.0005 => "0 s".into(),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 100.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{s:.0} s"),
        s => format!("{:.1} h", s / 3600.0),
    }
}

fn time(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// As UTC to the second.
pub(crate) fn date(ms: i64) -> String {
    match u64::try_from(ms) {
        Ok(ms) if ms > 0 => {
            humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
        }
        _ => "an unknown time".into(),
    }
}

#[cfg(test)]
mod tests;
