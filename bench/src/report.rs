//! What is aimed at, and what came out: a table, and the same as JSON, Markdown and a picture.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::figures::{Figures, Summary};
use crate::rows::{self, backlog, consumed, idle, latency, publish, restart, swaps};
use crate::{disk, plot};

/// One claim.
#[derive(Serialize)]
pub(crate) struct Line {
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) asked: Ask,
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    pub(crate) reached: bool,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ask {
    AtLeast(f64),
    AtMost(f64),
    /// Nothing: it is stated.
    None,
}

impl Ask {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
            Self::None => true,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(least) => format!("at least {}", number(least)),
            Self::AtMost(most) => format!("at most {}", number(most)),
            Self::None => "stated".to_owned(),
        }
    }
}

pub(crate) struct Report {
    lines: Vec<Line>,
    quick: bool,
}

/// Names under which the benchmark of the engine writes its figures.
mod engine {
    pub(crate) const DELIVERIES: &str = "engine, deliveries/s";
    pub(crate) const HOT_KEY: &str = "engine, deliveries of one hot key/s";
    pub(crate) const FRESH: &str = "engine, deliveries in fresh instances/s";
}

impl Report {
    pub(crate) fn new(figures: &Figures, quick: bool) -> Self {
        let mut lines = Vec::new();
        let mut line = |what, unit, asked: Ask, found: Option<Summary>| {
            let Some(Summary { median, least, most }) = found else { return };
            lines.push(Line { what, unit, asked, median, least, most, reached: asked.is_met(median) });
        };
        let plain = |name: &str| figures.summary(name);
        line("append + fdatasync of the disk", "us", Ask::None, plain(disk::MEDIAN_US));
        line("... its p99", "us", Ask::None, plain(disk::P99_US));

        line("published and consumed, Sandpost", "messages/s", Ask::None, plain(consumed::SANDPOST));
        line("published and consumed, NATS default", "messages/s", Ask::None, plain(consumed::NATS));
        line("published and consumed, NATS always", "messages/s", Ask::None, plain(consumed::NATS_ALWAYS));
        let over = |name| figures.ratio(consumed::SANDPOST, name);
        line("... Sandpost to NATS default", "x", Ask::AtLeast(3.0), over(consumed::NATS));
        line("... Sandpost to NATS always", "x", Ask::AtLeast(30.0), over(consumed::NATS_ALWAYS));
        line("... processor time of the bus", "s per 100,000", Ask::None, plain(consumed::BUS_CPU));
        line("... processor time of the client", "s per 100,000", Ask::None, plain(consumed::CLIENT_CPU));

        line("deliveries inside the bus", "1/s", Ask::AtLeast(600_000.0), plain(engine::DELIVERIES));
        let hot = figures.ratio(engine::HOT_KEY, engine::DELIVERIES);
        line("... one hot key to many keys", "x", Ask::AtLeast(0.5), hot);
        line("... in fresh instances", "1/s", Ask::AtLeast(60_000.0), plain(engine::FRESH));

        line("one synchronous publish, Sandpost", "us", Ask::None, plain(publish::SANDPOST));
        line("one synchronous publish, NATS default", "us", Ask::None, plain(publish::NATS));
        line("one synchronous publish, NATS always", "us", Ask::None, plain(publish::NATS_ALWAYS));
        let sync = figures.ratio(publish::SANDPOST, publish::DISK_US);
        line("... Sandpost to the disk", "x", Ask::AtMost(2.5), sync);
        let to_always = figures.ratio(publish::SANDPOST, publish::NATS_ALWAYS);
        line("... Sandpost to NATS always", "x", Ask::AtMost(1.0), to_always);

        line("publish to handler at 1,000/s, p50", "us", Ask::AtMost(2_000.0), plain(latency::P50_US));
        let disk_p99 = plain(disk::P99_US).map_or(0.0, |summary| 5.0 * summary.median);
        line("publish to handler at 1,000/s, p99", "us", Ask::AtMost(disk_p99.max(10_000.0)), plain(latency::P99_US));

        let swapped = figures.ratio(swaps::SWAPPED_US, swaps::QUIET_US);
        line("delivery p99.9 without swaps", "us", Ask::None, plain(swaps::QUIET_US));
        line("delivery p99.9 with swaps", "us", Ask::None, plain(swaps::SWAPPED_US));
        line("... with swaps to without", "x", Ask::AtMost(2.0), swapped);

        line("clean start with 100 cached plugins", "ms", Ask::AtMost(1_000.0), plain(restart::READY_MS));
        line("idle memory, three consumers", "MiB", Ask::AtMost(60.0), plain(idle::SMALL_MEMORY_MIB));
        line("idle memory, 10,000 topics", "MiB", Ask::AtMost(300.0), plain(idle::LARGE_MEMORY_MIB));
        line("idle processor, 10,000 topics", "% of a core", Ask::AtMost(2.0), plain(idle::LARGE_CPU_PERCENT));

        line("messages of backlog", "", Ask::None, plain(backlog::MESSAGES));
        line(
            "deliveries with the backlog to without",
            "x",
            Ask::AtLeast(0.8),
            figures.ratio(backlog::WARM, backlog::NONE),
        );
        line("... with a cold page cache", "x", Ask::None, figures.ratio(backlog::COLD, backlog::NONE));
        line("memory growth with the backlog", "MiB", Ask::AtMost(64.0), plain(backlog::GROWTH_MIB));
        line("ready after kill -9 with the backlog", "ms", Ask::None, plain(backlog::REOPEN_MS));
        Self { lines, quick }
    }

    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        if self.quick {
            text.push_str("A quick run, with less of everything: to look at, and not to quote.\n\n");
        }
        text.push_str("| what | median | spread | aim | |\n|---|---|---|---|---|\n");
        for line in &self.lines {
            let reached = match (line.asked, line.reached) {
                (Ask::None, _) => "",
                (_, true) => "reached",
                (_, false) => "NOT REACHED",
            };
            let _ = writeln!(
                text,
                "| {} | {} {} | {} - {} | {} | {reached} |",
                line.what,
                number(line.median),
                line.unit,
                number(line.least),
                number(line.most),
                line.asked.text(),
            );
        }
        text
    }

    /// Writes `figures.json`, with every round, `figures.md` and `figures.svg`.
    pub(crate) fn write(&self, figures: &Figures, folder: &Path) -> Result<()> {
        #[derive(Serialize)]
        struct Written<'a> {
            when: String,
            quick: bool,
            message_bytes: usize,
            outstanding: usize,
            batch_messages: usize,
            lines: &'a [Line],
            rounds: &'a Figures,
        }
        let written = Written {
            when: jiff::Timestamp::now().to_string(),
            quick: self.quick,
            message_bytes: rows::MESSAGE_BYTES,
            outstanding: rows::OUTSTANDING,
            batch_messages: rows::BATCH_MESSAGES,
            lines: &self.lines,
            rounds: figures,
        };
        std::fs::write(folder.join("figures.json"), serde_json::to_vec_pretty(&written)?)?;
        std::fs::write(folder.join("figures.md"), self.table())?;
        std::fs::write(folder.join("figures.svg"), plot::svg(figures))?;
        Ok(())
    }
}

/// A number as people read it.
pub(crate) fn number(value: f64) -> String {
    if value.abs() >= 1_000.0 {
        let digits = format!("{:.0}", value.abs());
        let mut text = String::new();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        if value < 0.0 { format!("-{text}") } else { text }
    } else if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in
            [(1_234_567.8, "1,234,568"), (999.6, "1000"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23")]
        {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn what_was_asked_is_held_against_the_median() {
        let mut figures = Figures::default();
        for value in [500_000.0, 650_000.0, 700_000.0] {
            figures.add(engine::DELIVERIES, value);
            figures.add(engine::HOT_KEY, value / 4.0);
        }
        let report = Report::new(&figures, false);
        let reached: Vec<bool> = report.lines.iter().map(|line| line.reached).collect();
        assert_eq!(reached, [true, false]);
        assert!(report.table().contains("NOT REACHED"));
    }
}
