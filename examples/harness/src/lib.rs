//! What the examples share: a bus of their own, started from the real binary, and a way to talk to it.
//!
//! - [`Bus`] runs `sandpost serve` in a temporary folder, and stops it;
//! - [`Client`] publishes and asks over HTTP, [`Tail`] follows topics;
//! - [`wait_for`] waits for what the bus answers to become so, with a bound;
//! - [`Checks`] holds each figure beside what it must be;
//! - [`screen`] writes to the terminal.

mod bus;
mod checks;
mod client;
pub mod screen;
mod tail;
mod views;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

pub use bus::{Bus, Places};
pub use checks::Checks;
pub use client::{Client, may_be_sent_again};
pub use tail::Tail;
pub use views::{Accepted, Attempt, DeadLetter, Event, Message, Plugin, Subscription, Topic, Waiting};

/// How long one step of an example may take before it is given up. Far more than any needs, also the one that compiles seven
/// consumers, which the bus itself awaits for a minute: a slow machine is no
/// failure.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// How often the bus is asked.
pub const POLL: Duration = Duration::from_millis(25);

/// Asks until there is an answer, for at most [`PATIENCE`].
///
/// # Errors
/// Those of `ask`, and where the time is over; `what` says what was waited for.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if begun.elapsed() > PATIENCE {
            bail!("waited {} s for {what}", PATIENCE.as_secs());
        }
        std::thread::sleep(POLL);
    }
}
