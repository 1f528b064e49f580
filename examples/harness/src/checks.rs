//! Figures, each beside what it must be.

use std::fmt::Display;

use anyhow::{Result, bail};
use comfy_table::{Cell, CellAlignment, Color, Table, presets};

use crate::screen;

/// Figures of a bus. An example succeeds where all of them are as they must be.
#[derive(Default)]
pub struct Checks {
    /// Columns of `rows`, by the first of them.
    columns: Vec<&'static str>,
    rows: Vec<(String, Vec<Figure>)>,
    singles: Vec<Figure>,
}

struct Figure {
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

    /// Figures of one thing, each with what it must be. All rows have the same columns.
    pub fn row(&mut self, name: &str, figures: &[(&'static str, u64, u64)]) {
        self.columns = figures.iter().map(|(column, ..)| *column).collect();
        let figures = figures.iter().map(|(column, found, expected)| {
            Figure::new(format!("{name}: {column}"), found, expected, found == expected)
        });
        self.rows.push((name.to_owned(), figures.collect()));
    }

    /// A figure that must be this one.
    pub fn equal<T: PartialEq + Display>(&mut self, what: impl Into<String>, found: T, expected: T) {
        self.singles.push(Figure::new(what.into(), &found, &expected, found == expected));
    }

    /// A figure that must be as the words say.
    pub fn holds(&mut self, what: impl Into<String>, found: impl Display, expected: &str, good: bool) {
        self.singles.push(Figure::new(what.into(), found, expected, good));
    }

    /// Prints the figures, and fails where one is not what it must be.
    ///
    /// # Errors
    /// Names each figure that is not.
    pub fn conclude(&self) -> Result<()> {
        for table in [self.matrix(), self.list()].into_iter().filter(|table| table.row_iter().len() > 0) {
            for line in table.lines() {
                screen::print(line.trim_end());
            }
            screen::print("");
        }
        let rows = self.rows.iter().flat_map(|(_, figures)| figures);
        let wrong: Vec<_> = rows.chain(&self.singles).filter(|one| !one.good).map(Figure::complaint).collect();
        if !wrong.is_empty() {
            bail!("{}", wrong.join("; "));
        }
        Ok(())
    }

    fn matrix(&self) -> Table {
        let mut table = plain_table();
        let right = |text: &str| Cell::new(text).set_alignment(CellAlignment::Right);
        table.set_header([Cell::new("")].into_iter().chain(self.columns.iter().map(|column| right(column))));
        for (name, figures) in &self.rows {
            let cells = figures.iter().map(|one| {
                if one.good {
                    right(&one.found)
                } else {
                    right(&format!("{} (must be {})", one.found, one.expected)).fg(Color::Red)
                }
            });
            table.add_row([Cell::new(name)].into_iter().chain(cells));
        }
        table
    }

    fn list(&self) -> Table {
        let mut table = plain_table();
        for one in &self.singles {
            let verdict = if one.good {
                Cell::new("ok").fg(Color::Green)
            } else {
                Cell::new(format!("must be {}", one.expected)).fg(Color::Red)
            };
            table.add_row([Cell::new(&one.what), Cell::new(&one.found).set_alignment(CellAlignment::Right), verdict]);
        }
        table
    }
}

impl Figure {
    fn new(what: String, found: impl Display, expected: impl Display, good: bool) -> Self {
        Self { what, found: found.to_string(), expected: expected.to_string(), good }
    }

    fn complaint(&self) -> String {
        format!("{} is {}, and must be {}", self.what, self.found, self.expected)
    }
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if screen::is_coloured() {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_figure_is_named_and_the_good_ones_are_not() {
        let mut checks = Checks::new();
        checks.equal("messages", 3, 3);
        checks.row("email", &[("acked", 3, 3), ("dead", 0, 0)]);
        checks.conclude().unwrap();
        checks.row("analytics", &[("acked", 2, 3), ("dead", 0, 0)]);
        checks.equal("mails", 1, 0);
        checks.holds("keys at once", 1, "2 or more", false);
        let error = checks.conclude().unwrap_err().to_string();
        let expected = "analytics: acked is 2, and must be 3; mails is 1, and must be 0; \
                        keys at once is 1, and must be 2 or more";
        assert_eq!(error, expected);
    }
}
