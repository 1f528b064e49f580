//! One bit of the data file is not what was written, at any place in it.
//!
//! The file is that of a workload which holds all that a log can (see [`cuts`](super::cuts)). What comes out is what was put
//! in, or an error that names what is damaged; never other data.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::cuts::ledger::Ledger;
use super::cuts::workload::live;
use super::*;
use crate::log::disk::faults::FakeDisk;
use crate::log::redb_log::open::{open, said};
use crate::seeds::number_of;

const FLIPS_DEFAULT: u64 = 3_000;
/// Of redb.
const PAGE_BYTES: usize = 4_096;
/// Where redb's header ends: what it knows of the file, and the roots of its trees.
const HEADER_BYTES: usize = 320;

/// What is in a place of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Header,
    /// Keys and where what is below them stands.
    Branch,
    /// Keys and values.
    Leaf,
    /// The rest of large values, and redb's lists of pages.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// All was there: the bit meant nothing.
    Sound,
    /// Not all was there, in a log that was not closed: redb went back to what it had committed before.
    Older,
    /// The log does not open, and says why.
    Refused,
    /// What was asked for is not there, and the error says why.
    Named,
    /// redb gave up a read with a panic.
    GivenUp,
    /// Other data came out.
    Served,
}

fn part(image: &[u8], at: usize) -> Part {
    match (at, image[at / PAGE_BYTES * PAGE_BYTES]) {
        (..HEADER_BYTES, _) => Part::Header,
        (_, 1) => Part::Leaf,
        (_, 2) => Part::Branch,
        _ => Part::Other,
    }
}

/// What becomes of an image, and what is said of it.
fn read(image: Vec<u8>, ledgers: &[Ledger]) -> (End, String) {
    let folder = Arc::new(TempDir::new().unwrap());
    let log = match open(&options(&folder), Some(FakeDisk::with_bytes(image).backend())) {
        Ok(log) => log,
        Err(error) => return (End::Refused, error.to_string()),
    };
    let bench = Bench::start(log, folder);
    let (newest, older) = ledgers.split_last().unwrap();
    match catch_unwind(AssertUnwindSafe(|| Ledger::of(&bench))) {
        Err(panic) => (End::GivenUp, said(&*panic)),
        Ok(Err(error)) => (End::Named, error.to_string()),
        Ok(Ok(found)) if found == *newest => (End::Sound, String::new()),
        Ok(Ok(found)) if older.contains(&found) => (End::Older, newest.difference(&found)),
        Ok(Ok(found)) => (End::Served, newest.difference(&found)),
    }
}

/// Flips so many bits of a file, each in a file that is sound otherwise.
fn flip(sound: &[u8], ledgers: &[Ledger], flips: u64, is_allowed: fn(End) -> bool) -> BTreeMap<(Part, End), usize> {
    // What was never written has nothing to say.
    let written: Vec<usize> = (0..sound.len()).filter(|at| sound[*at] != 0).collect();
    let mut ends = BTreeMap::new();
    for number in 0..flips {
        let mut random = fastrand::Rng::with_seed(number);
        let at = if number % 8 == 0 { random.usize(..HEADER_BYTES) } else { written[random.usize(..written.len())] };
        let mut image = sound.to_vec();
        image[at] ^= 1 << random.u8(..8);
        let part = part(sound, at);
        let (end, said) = read(image, ledgers);
        assert!(is_allowed(end), "flip {number}, of the byte at {at} ({part:?}), is {end:?}: {said}");
        assert!(
            end == End::Sound || !said.is_empty(),
            "flip {number}, of the byte at {at} ({part:?}): nothing is said"
        );
        *ends.entry((part, end)).or_default() += 1;
    }
    let mut table = String::new();
    for ((part, end), count) in &ends {
        let _ = write!(table, "{part:?} {end:?}: {count}; ");
    }
    eprintln!("{table}");
    ends
}

#[test]
fn a_flipped_bit_is_named_and_never_served() {
    let flips = number_of("SANDPOST_FLIPS").unwrap_or(FLIPS_DEFAULT);
    let lived = live(0);
    let ends = flip(&lived.disk.bytes(), &lived.ledgers, flips, |end| !matches!(end, End::Served | End::Older));
    for part in [Part::Header, Part::Branch, Part::Leaf] {
        let noticed = ends.iter().filter(|((of, end), _)| *of == part && *end != End::Sound).map(|(_, count)| count);
        assert!(noticed.sum::<usize>() > 0, "no flip in a {part:?} was noticed");
    }
    let given_up = ends.iter().filter(|((_, end), _)| *end == End::GivenUp).map(|(_, count)| *count).sum::<usize>();
    assert!(given_up as u64 * 100 < flips, "{given_up} of {flips} reads ended in a panic");
}

/// A log that was not closed is checked as a whole when it is opened. redb cannot tell damage of its newest commit from one
/// that was cut off, and then goes back to the one before.
#[test]
fn a_flipped_bit_of_a_log_that_was_not_closed_gives_no_other_data() {
    let flips = number_of("SANDPOST_FLIPS").unwrap_or(FLIPS_DEFAULT) / 3;
    let lived = live(0);
    let mut image = Vec::new();
    lived.steps.iter().for_each(|step| step.apply(&mut image));
    flip(&image, &lived.ledgers, flips, |end| end != End::Served);
}
