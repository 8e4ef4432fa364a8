//! How things look on the terminal: aligned, short, without colour where nobody sees it.

use std::{io::IsTerminal, time::Duration};

use serde_json::Value;

/// Longer values are cut in the table.
const CELL_CHARS_MAX: usize = 60;

pub fn title(text: &str) {
    if std::io::stdout().is_terminal() {
        println!("\n\x1b[1m{text}\x1b[0m");
    } else {
        println!("\n{text}");
    }
}

pub fn fact(name: &str, value: &str) {
    println!("  {name:<9} {value}");
}

/// Rows under their names; numbers to the right.
pub fn table(names: &[&str], rows: &[Vec<Value>]) {
    let cells: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(cell).collect()).collect();
    let is_number = |c: usize| rows.iter().all(|row| row[c].is_number() || row[c].is_null());
    let width =
        |c: usize| cells.iter().map(|row| row[c].chars().count()).chain([names[c].len()]).max().unwrap_or(0);
    let columns: Vec<(usize, bool)> = (0..names.len()).map(|c| (width(c), is_number(c))).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&columns).map(|(text, (width, number))| {
            if *number { format!("{text:>width$}") } else { format!("{text:<width$}") }
        });
        println!("  {}", padded.collect::<Vec<_>>().join("  ").trim_end());
    };
    line(&names.iter().map(ToString::to_string).collect::<Vec<_>>());
    line(&columns.iter().map(|(width, _)| "-".repeat(*width)).collect::<Vec<_>>());
    for row in &cells {
        line(row);
    }
}

fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "null".into(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.as_u64().map_or_else(|| number.to_string(), count),
        other => other.to_string(),
    };
    if text.chars().count() <= CELL_CHARS_MAX {
        return text;
    }
    text.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect()
}

/// 1234567 as `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let head = digits.len() % 3;
    let mut text = digits[..head].to_owned();
    for group in digits.as_bytes()[head..].chunks(3) {
        if !text.is_empty() {
            text.push(',');
        }
        text.extend(group.iter().map(|digit| char::from(*digit)));
    }
    text
}

pub fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} B"),
        10_000..10_000_000 => format!("{} kB", count(n / 1_000)),
        _ => format!("{} MB", count(n / 1_000_000)),
    }
}

pub fn time(t: Duration) -> String {
    let ms = t.as_secs_f64() * 1e3;
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else if ms < 1_000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.1} s", ms / 1e3)
    }
}
