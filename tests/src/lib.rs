//! Black-box tests of the daemon, which read as sessions with it:
//!
//! ```no_run
//! use obedient::Order;
//! use sandpost_tests::{Daemon, guest};
//!
//! let manifest = "[[subscription]]\ntopics = [\"orders\"]";
//! let mut bus = Daemon::setup().plugin("worker", &guest("obedient"), manifest).start();
//! bus.publish("orders", "customer-7", Order::Ack);
//! bus.kill();
//! bus.restart();
//! assert_eq!(bus.settled("worker").acked, 1);
//! ```
//!
//! The real binary runs as a process of its own, on real files in a temporary folder, with real guests; it
//! is talked to as its users do: over HTTP, by its command line, by files and by signals. Nothing here
//! knows the host's code.
//!
//! [`daemon`] is the life of one process, with its folders; [`client`] is what is asked of it over HTTP,
//! and [`views`] is what it answers; [`tail`] follows a topic; [`raw`] sends
//! what is no HTTP. [`guest`] finds the components, and [`state()`]
//! reads what an obedient one keeps; [`small_disk`] makes a disk that can be filled; [`outside`] is a service that
//! consumers make requests to; [`ledger`] publishes from many threads, and keeps what was acknowledged to them.
//!
//! No test asserts how long something took. Each waits for an event, and gives up after [`PATIENCE`]
//! with all that is known of the bus.

pub mod client;
pub mod daemon;
mod guests;
pub mod ledger;
mod orders;
pub mod outside;
mod process;
pub mod raw;
pub mod small_disk;
pub mod state;
pub mod tail;
pub mod terminal;
pub mod views;

use std::time::Duration;

pub use client::{Answer, Client, next_id};
pub use daemon::{Daemon, Setup};
pub use guests::{digest, guest, is_built, stamped};
pub use ledger::{Ledger, Publishers};
pub use orders::{publishing, publishing_with_key};
pub use outside::{Outside, Reply};
pub use process::Exit;
pub use raw::Raw;
pub use state::state;
pub use tail::Tail;
pub use terminal::Terminal;
pub use views::{Accepted, Attempt, DeadLetter, Event, Plugin, Problem, Subscription, Topic, Waiting};

/// How long anything that must happen may take. Far longer than it ever takes: past this it is taken to
/// never happen.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Says that a test could not be run here, past the capture of a test's output: a skipped test must not
/// look like one that passed.
pub fn skipped(test: &str, why: &str) {
    use std::io::Write;
    let mut terminal = std::io::stderr();
    // Nothing is lost if nobody reads it.
    let _ = writeln!(terminal, "\n*** SKIPPED {test}: {why}\n");
}
