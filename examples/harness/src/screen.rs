//! What people see: colours on a terminal, plain lines elsewhere. `NO_COLOR` and `CLICOLOR_FORCE` are kept.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use anyhow::Result;

use crate::Bus;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    /// Something went as it should.
    Good,
    /// Something is being tried again.
    Warning,
    /// Something failed for good.
    Bad,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warning => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default(),
        }
    }
}

/// Whether colours are shown.
#[must_use]
pub fn is_coloured() -> bool {
    AutoStream::choice(&std::io::stdout()) != ColorChoice::Never
}

/// A line. A reader who went away (`| head`) is no failure.
pub fn print(text: &str) {
    let _ = writeln!(anstream::stdout(), "{text}");
}

/// What comes next.
pub fn heading(text: &str) {
    print(&format!("\n{BOLD}{text}{BOLD:#}"));
}

/// A command as it is typed.
pub fn command(text: &str) {
    print(&format!("\n{DIM}${DIM:#} {BOLD}{text}{BOLD:#}"));
}

/// Runs a command of the bus, as it is shown, and shows what it prints.
///
/// # Errors
/// Where the command fails.
pub fn run(bus: &Bus, arguments: &[&str]) -> Result<()> {
    command(&format!("sandpost {}", arguments.join(" ")));
    print(bus.command(arguments)?.trim_end());
    Ok(())
}

/// What is said about the steps of an example, each with its time.
pub struct Story {
    begun: Instant,
}

impl Default for Story {
    fn default() -> Self {
        Self { begun: Instant::now() }
    }
}

impl Story {
    /// Something happened: to whom, and what.
    pub fn tell(&self, tone: Tone, who: &str, what: &str) {
        let (seconds, style) = (self.begun.elapsed().as_secs_f64(), tone.style());
        print(&format!("{DIM}{seconds:5.1} s{DIM:#}  {who:<10} {style}{what}{style:#}"));
    }
}

/// How a program ends, which says what went wrong if something did.
pub fn ended(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// What went wrong, on standard error.
pub fn complain(text: &str) {
    let style = Tone::Bad.style().bold();
    let _ = writeln!(anstream::stderr(), "{style}error:{style:#} {text}");
}
