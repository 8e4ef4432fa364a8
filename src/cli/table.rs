//! Rows side by side for people.

use std::io::{self, Write};

use serde_json::{Value, value::RawValue};

/// Rows that are looked at before the first is printed: they decide how wide the columns are. Later,
/// wider values push their row out of line, which keeps the memory bounded.
const SAMPLE_ROWS: usize = 200;
/// Widest that a column is made for the sake of its values, in characters.
const COLUMN_CHARACTERS_MAX: usize = 60;

/// A table that is printed while its rows come.
pub(crate) struct Table {
    names: Vec<String>,
    /// Filled until the widths are decided.
    sample: Vec<Vec<Cell>>,
    widths: Option<Vec<usize>>,
}

struct Cell {
    text: String,
    number: bool,
}

impl Table {
    pub(crate) fn new(names: impl Iterator<Item = String>) -> Self {
        Self { names: names.map(|name| visible(&name)).collect(), sample: Vec::new(), widths: None }
    }

    /// Takes a row.
    pub(crate) fn row(&mut self, values: &[&RawValue], out: &mut impl Write) -> io::Result<()> {
        let row: Vec<_> = values.iter().map(|value| cell(value)).collect();
        if let Some(widths) = &self.widths {
            return print(&row, widths, out);
        }
        self.sample.push(row);
        if self.sample.len() < SAMPLE_ROWS { Ok(()) } else { self.flush(out) }
    }

    /// After the last row.
    pub(crate) fn finish(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.widths.is_none() { self.flush(out) } else { Ok(()) }
    }

    fn flush(&mut self, out: &mut impl Write) -> io::Result<()> {
        let widths: Vec<_> = self
            .names
            .iter()
            .enumerate()
            .map(|(column, name)| {
                let values = self.sample.iter().filter_map(|row| row.get(column));
                let widest = values.map(|cell| cell.text.chars().count()).max().unwrap_or(0);
                widest.min(COLUMN_CHARACTERS_MAX).max(name.chars().count())
            })
            .collect();
        let head: Vec<_> = self.names.iter().map(|name| Cell { text: name.clone(), number: false }).collect();
        print(&head, &widths, out)?;
        let line: Vec<_> =
            widths.iter().map(|width| Cell { text: "-".repeat(*width), number: false }).collect();
        print(&line, &widths, out)?;
        for row in self.sample.drain(..) {
            print(&row, &widths, out)?;
        }
        self.widths = Some(widths);
        Ok(())
    }
}

fn print(row: &[Cell], widths: &[usize], out: &mut impl Write) -> io::Result<()> {
    let mut line = String::new();
    for (Cell { text, number }, width) in row.iter().zip(widths) {
        let padding = " ".repeat(width.saturating_sub(text.chars().count()));
        let (before, after) = if *number { (padding.as_str(), "") } else { ("", padding.as_str()) };
        line.extend([before, text, after, "  "]);
    }
    writeln!(out, "{}", line.trim_end())
}

/// Numbers exactly as they came, text without anything that moves a terminal's cursor.
fn cell(value: &RawValue) -> Cell {
    let raw = value.get();
    let number = raw.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let text = match serde_json::from_str(raw) {
        _ if number => raw.to_owned(),
        Ok(Value::Null) => "NULL".into(),
        Ok(Value::String(text)) => visible(&text),
        Ok(Value::Object(tagged)) => match (tagged.get("$base64"), tagged.get("$float")) {
            (Some(Value::String(base64)), _) => format!("<{} bytes>", decoded_len(base64)),
            (_, Some(Value::String(float))) => float.clone(),
            _ => visible(raw),
        },
        _ => visible(raw),
    };
    Cell { text, number }
}

fn visible(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
        out
    })
}

/// Bytes behind base64 with padding.
fn decoded_len(base64: &str) -> usize {
    base64.len() / 4 * 3 - base64.bytes().rev().take_while(|byte| *byte == b'=').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(names: &[&str], rows: &[&str]) -> String {
        let mut table = Table::new(names.iter().map(|name| (*name).to_owned()));
        let mut out = Vec::new();
        for row in rows {
            let values: Vec<&RawValue> = serde_json::from_str(row).expect("a row");
            table.row(&values, &mut out).expect("memory");
        }
        table.finish(&mut out).expect("memory");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn aligned_and_exact() {
        let table = printed(
            &["host", "n"],
            &[
                r#"["example.org",9223372036854775807]"#,
                r#"["ü",1.0]"#,
                r#"[null,{"$base64":"AAE="}]"#,
                r#"["a\u001b[2Jb\n",{"$float":"Infinity"}]"#,
            ],
        );
        let expected = "\
host           n
-------------  -------------------
example.org    9223372036854775807
ü                              1.0
NULL           <2 bytes>
a\\u{1b}[2Jb\\n  Infinity
";
        assert_eq!(table, expected);
    }

    #[test]
    fn no_rows_and_many_rows() {
        assert_eq!(printed(&["a"], &[]), "a\n-\n");
        let rows = vec!["[1]"; 3 * SAMPLE_ROWS];
        assert_eq!(printed(&["a"], &rows).lines().count(), 2 + 3 * SAMPLE_ROWS);
    }
}
