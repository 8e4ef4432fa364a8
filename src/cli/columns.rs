//! Small tables of text.

use std::fmt::Write as _;

/// Rows of text, aligned. A name that begins with `#` is a column of numbers: aligned to the right.
#[derive(Debug)]
pub(super) struct Columns<const N: usize> {
    names: [&'static str; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Columns<N> {
    pub(super) fn new(names: [&'static str; N]) -> Self {
        Self { names, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, row: [String; N]) {
        self.rows.push(row);
    }

    pub(super) fn text(&self) -> String {
        let heads = self.names.map(|name| name.trim_start_matches('#').to_owned());
        let widths: [usize; N] = std::array::from_fn(|column| {
            let cells = self.rows.iter().chain([&heads]);
            cells.map(|row| row[column].chars().count()).max().unwrap_or(0)
        });
        let mut text = String::new();
        for row in [&heads].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for ((cell, width), name) in row.iter().zip(widths).zip(self.names) {
                let _ = match name.starts_with('#') {
                    true => write!(line, "{cell:>width$}  "),
                    false => write!(line, "{cell:<width$}  "),
                };
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_by_kind() {
        let mut table = Columns::new(["NAME", "#N"]);
        table.row(["ü".into(), "1000".into()]);
        table.row(["longer".into(), "7".into()]);
        assert_eq!(table.text(), "NAME       N\nü       1000\nlonger     7\n");
    }
}
