//! Redriving and dropping many dead letters: the command asks for page after page, at the rate that is wanted.
//! So the bus keeps no operation that could be left behind, and what was done stays done wherever it ends.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::FilterArgs;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{Output, Text, short};

/// Letters of one request, and ids of one: small enough that an interrupt is heard at once.
const PAGE_LETTERS_MAX: u64 = 256;
const PAGE_IDS_MAX: usize = 1_000;
/// With a rate, this many requests a second at most.
const PAGES_PER_SECOND: f64 = 10.0;
/// How often progress is told where there is no terminal to draw it on.
const LINES_EVERY: Duration = Duration::from_secs(5);

/// What is done, and the words for it.
pub(super) struct Deed {
    path: &'static str,
    done: &'static str,
    would: &'static str,
    would_words: &'static str,
}

pub(super) const REDRIVE: Deed =
    Deed { path: "/dead-letters/redrive", done: "redriven", would: "would_redrive", would_words: "would be redriven" };

pub(super) const DROP: Deed =
    Deed { path: "/dead-letters/drop", done: "dropped", would: "would_drop", would_words: "would be dropped" };

/// With which letters, and how fast.
pub(super) struct Work<'a> {
    pub(super) ids: &'a [String],
    pub(super) filter: &'a FilterArgs,
    pub(super) rate: Option<Rate>,
    pub(super) dry_run: bool,
}

/// Letters in a unit of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate {
    per_second: f64,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(count, unit)| {
            let count = count.parse::<u32>().ok().filter(|count| *count > 0)?;
            let seconds = match unit {
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3_600.0,
                _ => return None,
            };
            Some(Self { per_second: f64::from(count) / seconds })
        });
        parsed.ok_or_else(|| "a rate is a whole number in a unit of time: `50/s`, `100/m` or `1000/h`".to_owned())
    }
}

impl Rate {
    fn page_letters(self) -> u64 {
        ((self.per_second / PAGES_PER_SECOND).ceil() as u64).clamp(1, PAGE_LETTERS_MAX)
    }

    /// When the letter after `done` ones may go, counted from the beginning.
    fn due(self, done: u64) -> Duration {
        Duration::from_secs_f64(done as f64 / self.per_second)
    }
}

/// What the pages came to.
#[derive(Default)]
struct Total {
    letters: u64,
    left: u64,
    /// `by_subscription`, `by_reason` and `by_digest`.
    by: BTreeMap<&'static str, BTreeMap<String, u64>>,
}

impl Total {
    fn add(&mut self, page: &Value, letters: &str) {
        self.letters += page[letters].as_u64().unwrap_or(0);
        self.left += page["left"].as_u64().unwrap_or(0);
        for by in ["by_subscription", "by_reason", "by_digest"] {
            for (name, count) in page[by].as_object().into_iter().flatten() {
                *self.by.entry(by).or_default().entry(name.clone()).or_default() += count.as_u64().unwrap_or(0);
            }
        }
    }

    fn json(&self, letters: &str) -> Value {
        let mut json = json!({ letters: self.letters, "left": self.left });
        for by in ["by_subscription", "by_reason", "by_digest"] {
            json[by] = json!(self.by.get(by).cloned().unwrap_or_default());
        }
        json
    }
}

pub(super) fn run(deed: &Deed, work: &Work<'_>, client: &Client, output: &Output) -> Result<(), Failure> {
    let filters = filters(work);
    if work.dry_run {
        let total = count(deed, &filters, client)?;
        return report_count(deed, &total, output);
    }
    let interrupted = interrupts();
    let mut progress = Progress::begin(work, || Ok(count(deed, &filters, client)?.letters))?;
    let mut total = Total::default();
    let ended = each_page(deed, work, filters, client, &interrupted, &mut total, &mut progress);
    progress.end();
    let mut words = format!("{} {}", total.letters, deed.done);
    if total.left > 0 {
        words += &format!(
            "; {} stay as they are: their topics are no longer taken, or their messages cannot be read",
            total.left
        );
    }
    match ended {
        Ok(true) => output.done(&total.json(deed.done), &words),
        Ok(false) => {
            output.done(&total.json(deed.done), &words)?;
            Err(Failure::Failed("interrupted; the others are dead letters as before".to_owned()))
        }
        Err(failure) => {
            if total.letters > 0 {
                output.done(&total.json(deed.done), &words)?;
            }
            Err(failure)
        }
    }
}

/// The filters of the requests that make up the work: one, or one for each so many ids.
fn filters(work: &Work<'_>) -> Vec<Value> {
    let parts: BTreeMap<_, _> = work.filter.parts().collect();
    let parts = json!(parts);
    if work.ids.is_empty() {
        return vec![parts];
    }
    let with = |ids: &[String]| {
        let mut filter = parts.clone();
        filter["ids"] = json!(ids);
        filter
    };
    work.ids.chunks(PAGE_IDS_MAX).map(with).collect()
}

fn count(deed: &Deed, filters: &[Value], client: &Client) -> Result<Total, Failure> {
    let mut total = Total::default();
    for filter in filters {
        total.add(&ask(deed, client, &json!({ "filter": filter, "dry_run": true }))?, deed.would);
    }
    Ok(total)
}

fn ask(deed: &Deed, client: &Client, command: &Value) -> Result<Value, Failure> {
    let headers = [("content-type".to_owned(), "application/json".to_owned())];
    client.post(deed.path, &headers, command.to_string().as_bytes())?.value()
}

/// Whether all was done; false where it was interrupted.
fn each_page(
    deed: &Deed,
    work: &Work<'_>,
    filters: Vec<Value>,
    client: &Client,
    interrupted: &Receiver<()>,
    total: &mut Total,
    progress: &mut Progress,
) -> Result<bool, Failure> {
    let began = Instant::now();
    let limit = work.rate.map_or(PAGE_LETTERS_MAX, Rate::page_letters);
    // What died after the beginning is not meant, in no page.
    let mut until = None;
    for mut filter in filters {
        let mut after = Value::Null;
        loop {
            let wait = work.rate.map_or(Duration::ZERO, |rate| rate.due(total.letters)).saturating_sub(began.elapsed());
            // The sender goes only with the process, or after it has sent.
            if interrupted.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                return Ok(false);
            }
            if let Some(until) = &until {
                filter["until"] = Value::clone(until);
            }
            let page = ask(deed, client, &json!({ "filter": filter, "after": after, "limit": limit }))?;
            total.add(&page, deed.done);
            progress.at(total.letters, deed);
            after = page["after"].clone();
            until.get_or_insert_with(|| page["until"].clone());
            if after.is_null() {
                break;
            }
        }
    }
    Ok(true)
}

/// Answers once somebody presses Ctrl-C: the page that is under way is waited for, and none is begun.
fn interrupts() -> Receiver<()> {
    let (sender, receiver) = mpsc::channel();
    let (listens, begun) = mpsc::channel::<()>();
    thread::spawn(move || {
        let listen = async move {
            let mut interrupt = signal(SignalKind::interrupt()).ok()?;
            drop(listens);
            interrupt.recv().await
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let heard = runtime.ok().and_then(|runtime| runtime.block_on(listen));
        if heard.is_some() {
            let _ = sender.send(());
        } else {
            // Without a handler Ctrl-C ends the process as it does by default. The receiver must not take the
            // end of this thread for an interrupt.
            thread::park();
        }
    });
    // Nothing is begun before it is heard: answers once `listens` is gone, one way or the other.
    let _ = begun.recv();
    receiver
}

fn report_count(deed: &Deed, total: &Total, output: &Output) -> Result<(), Failure> {
    if output.json {
        return output.line(total.json(deed.would).to_string());
    }
    output.line(format!("{} {}", total.letters, deed.would_words))?;
    if total.left > 0 {
        output.line(format!("{} would stay as they are: their topics are no longer taken", total.left))?;
    }
    let rows = |by: &'static str| total.by.get(by).into_iter().flatten();
    if total.letters > 0 {
        output.line("")?;
        let table = ["subscription", "reason", "digest"].into_iter().flat_map(|what| {
            let by = match what {
                "subscription" => "by_subscription",
                "reason" => "by_reason",
                _ => "by_digest",
            };
            rows(by).map(move |(name, count)| {
                let name = if what == "digest" { short(&json!(name)) } else { name.clone() };
                vec![Text::Plain(what.to_owned()), Text::Plain(name), Text::Plain(count.to_string())]
            })
        });
        output.table(&["by", "", "dead letters"], table)?;
    }
    Ok(())
}

/// How far it is: a bar on a terminal, a line now and then elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    all: Option<u64>,
    told: Instant,
}

impl Progress {
    /// `count` says how many there are, where somebody looks on for long enough to want to know.
    fn begin(work: &Work<'_>, count: impl FnOnce() -> Result<u64, Failure>) -> Result<Self, Failure> {
        let terminal = std::io::stderr().is_terminal();
        let all = if terminal || work.rate.is_some() { Some(count()?) } else { None };
        let bar = all.filter(|all| terminal && *all > PAGE_LETTERS_MAX.min(10)).map(|all| {
            let style = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len}, {per_sec}, {eta} left");
            ProgressBar::new(all).with_style(style.expect("the template is one"))
        });
        Ok(Self { bar, all, told: Instant::now() })
    }

    fn at(&mut self, letters: u64, deed: &Deed) {
        if let Some(bar) = &self.bar {
            bar.set_position(letters);
        } else if self.told.elapsed() >= LINES_EVERY {
            self.told = Instant::now();
            let of = self.all.map(|all| format!(" of {all}")).unwrap_or_default();
            eprintln!("{letters}{of} {}", deed.done);
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_in_a_unit_of_time() {
        for (text, per_second) in [("50/s", 50.0), ("120/m", 2.0), ("36/h", 0.01)] {
            assert_eq!(text.parse(), Ok(Rate { per_second }), "{text}");
        }
        for text in ["", "50", "0/s", "-1/s", "5/d", "1.5/s", "/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rate_says_how_many_go_at_once_and_when_the_next_may() {
        let rate = |text: &str| text.parse::<Rate>().unwrap();
        assert_eq!(rate("50/s").page_letters(), 5);
        assert_eq!(rate("1/h").page_letters(), 1);
        assert_eq!(rate("1000000/s").page_letters(), PAGE_LETTERS_MAX);
        assert_eq!(rate("50/s").due(100), Duration::from_secs(2));
        assert_eq!(rate("1/m").due(1), Duration::from_secs(60));
    }

    #[test]
    fn pages_add_up() {
        let mut total = Total::default();
        for _ in 0..2 {
            total.add(&json!({ "redriven": 3, "left": 1, "by_reason": { "rejected": 2, "expired": 1 } }), "redriven");
        }
        let json = total.json("redriven");
        assert_eq!((&json["redriven"], &json["left"]), (&json!(6), &json!(2)));
        assert_eq!(json["by_reason"], json!({ "rejected": 4, "expired": 2 }));
    }
}
