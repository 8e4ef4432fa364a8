//! The result as a TOML file for one role.

use std::fmt::Write;

use super::{
    convert::{self, Line},
    settings::Settings,
};
use crate::config::keys::{KeySpec, Role};

/// Widest line of a comment.
const COLUMNS: usize = 100;
/// Keys that stand in a table, at the end.
const TABLE: &str = "trough";

/// The configuration of role `R`. Only keys that it has and values that they take become lines of their own.
pub(super) fn toml<R: Role>(settings: &Settings) -> String {
    let specs = R::specs();
    let spec_of = |key: &str| specs.iter().find(|spec| spec.name == key);
    let mut out = String::new();
    comment(
        &mut out,
        &format!(
            "Made of Trough's settings for `springhouse {}`. Read the comments, then try it: \
             `springhouse config check --role {0} FILE`.",
            R::NAME
        ),
    );
    let (mut keys, mut table, mut notes, mut rules) =
        (String::new(), String::new(), String::new(), String::new());
    let mut before = String::new();
    for line in convert::lines(settings) {
        match line {
            Line::Key { key, value, from } => {
                let Some(spec) = spec_of(key) else { continue };
                match (spec.check)(&own(key, value.clone(), R::NAME)) {
                    Ok(value) => {
                        let out = if key.starts_with(TABLE) { &mut table } else { &mut keys };
                        if before != from {
                            note(out, &format!("{}.", from.trim_end_matches('.')));
                        }
                        put(out, spec, &value);
                        before = from;
                    }
                    Err(why) => {
                        let text = format!("{from}: {value} {why} for {key}; give {}.", spec.allowed);
                        note(&mut notes, &text);
                    }
                }
            }
            Line::Note(text) => note(&mut notes, &text),
            Line::Rule { why, members } => rule(&mut rules, &why, &members),
        }
    }
    out.push_str(&keys);
    if !notes.is_empty() {
        out.push_str("\n# ----- To know -----\n");
        out.push_str(&notes);
    }
    if R::NAME != "worker" && !rules.is_empty() {
        out.push_str(
            "\n# ----- Rules: look whether they say what the programs did, then remove the # -----\n",
        );
        out.push_str(&rules);
    }
    if !table.is_empty() {
        let _ = write!(out, "\n# ----- Trough's clients -----\n[{TABLE}]{table}");
    }
    out
}

/// Of a directory for data each role has its own: one process at a time may use it.
fn own(key: &str, value: String, role: &str) -> String {
    if key == "data" { format!("{value}/{role}") } else { value }
}

fn put(out: &mut String, spec: &KeySpec, value: &str) {
    let name = spec.name.strip_prefix(TABLE).and_then(|rest| rest.strip_prefix('_')).unwrap_or(spec.name);
    let _ = writeln!(out, "{name} = {}", spec.toml(value));
}

fn note(out: &mut String, text: &str) {
    out.push('\n');
    comment(out, text);
}

fn rule(out: &mut String, why: &str, members: &[(&str, String)]) {
    out.push('\n');
    comment(out, why);
    out.push_str("#[[rule]]\n");
    for (key, value) in members {
        let bare = value.bytes().all(|byte| byte.is_ascii_digit());
        // Single quotes leave what a pattern is made of alone.
        let value = if bare { value.clone() } else { format!("'{value}'") };
        let _ = writeln!(out, "#{key} = {value}");
    }
}

/// `text` as comment lines. What was in the settings may hold anything, but no line of its own.
fn comment(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split(|char: char| char.is_whitespace() || char.is_control()).filter(|w| !w.is_empty()) {
        if line.len() > 1 && line.len() + 1 + word.len() > COLUMNS {
            let _ = writeln!(out, "{line}");
            line = "#".into();
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(out, "{line}");
}
