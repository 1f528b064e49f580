//! Figures, each beside what it must be.

use std::fmt::Display;

use anyhow::{Result, bail};
use comfy_table::{Cell, CellAlignment, Color, Table, presets};

use crate::screen;

/// A table of figures. An example succeeds where all of them are as they must be.
#[derive(Default)]
pub struct Checks {
    rows: Vec<Row>,
}

struct Row {
    what: String,
    found: String,
    expected: String,
    good: bool,
}

impl Checks {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A figure that must be this one.
    pub fn equal<T: PartialEq + Display>(&mut self, what: impl Into<String>, found: T, expected: T) {
        let good = found == expected;
        self.rows.push(Row { what: what.into(), found: found.to_string(), expected: expected.to_string(), good });
    }

    /// A figure that must be as the words say.
    pub fn holds(&mut self, what: impl Into<String>, found: impl Display, expected: &str, good: bool) {
        self.rows.push(Row { what: what.into(), found: found.to_string(), expected: expected.to_owned(), good });
    }

    /// Prints the table, and fails where a figure is not what it must be.
    ///
    /// # Errors
    /// Names each figure that is not.
    pub fn conclude(&self) -> Result<()> {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(["", "bus", "must be", ""]);
        if !screen::is_coloured() {
            table.force_no_tty();
        }
        for row in &self.rows {
            let (word, colour) = if row.good { ("ok", Color::Green) } else { ("WRONG", Color::Red) };
            table.add_row([
                Cell::new(&row.what),
                Cell::new(&row.found).set_alignment(CellAlignment::Right),
                Cell::new(&row.expected).set_alignment(CellAlignment::Right),
                Cell::new(word).fg(colour),
            ]);
        }
        screen::print(&format!("\n{}\n", table.trim_fmt()));
        let wrong: Vec<_> = self.rows.iter().filter(|row| !row.good).map(Row::complaint).collect();
        if !wrong.is_empty() {
            bail!("{}", wrong.join("; "));
        }
        Ok(())
    }
}

impl Row {
    fn complaint(&self) -> String {
        format!("{} is {}, and must be {}", self.what, self.found, self.expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_figure_is_named_and_the_good_ones_are_not() {
        let mut checks = Checks::new();
        checks.equal("acked", 3, 3);
        checks.conclude().unwrap();
        checks.equal("dead", 1, 0);
        checks.holds("keys at once", 1, "2 or more", false);
        let error = checks.conclude().unwrap_err().to_string();
        assert_eq!(error, "dead is 1, and must be 0; keys at once is 1, and must be 2 or more");
    }
}
