//! The disk is cut off, at every write and at every sync.
//!
//! A workload that a seed decides goes through the real log on a disk in memory that remembers each of its steps. Then the
//! power fails before each step in turn: what was written since the last sync is kept, lost, torn, or there in parts. What
//! is left is opened as after any crash, and must be what [`ledger`] says of some number of transactions, all of those
//! that were answered among them: whole transactions, in their order, and nothing else. Then the log has to go on.
//!
//! A failure says its seed, its step and what became of the writes. `SANDPOST_CUTS_SEED` tries one seed in all ways at every
//! step, `SANDPOST_CUTS_SEEDS` so many of them, as `make soak` does. Without them the disk is cut in all ways before each
//! sync, where most is on its way, and in one way before each write. A seed repeats its transactions and which of them share
//! a sync; which pages redb writes for them, and in which order, differs from run to run, so that a failure may want a few tries.

pub(super) mod ledger;
pub(super) mod workload;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::*;
use crate::log::disk::faults::{FakeDisk, Step};
use crate::seeds::number_of;
use ledger::Ledger;
use workload::{Lived, live};

const SEEDS_DEFAULT: u64 = 15;
/// What is torn is torn between sectors: of old disks, and of new ones.
const SECTORS: [usize; 2] = [512, 4_096];

/// What became of what was written since the last sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// All of it reached the disk.
    Kept,
    /// Nothing did.
    Lost,
    /// All before the last write did, and of that a part.
    Torn(usize),
    /// Some did and some did not, whatever their order.
    Parts,
    /// Some did, each of them perhaps in part.
    TornParts(usize),
}

const FATES: [Fate; 7] = [
    Fate::Kept,
    Fate::Lost,
    Fate::Torn(SECTORS[0]),
    Fate::Torn(SECTORS[1]),
    Fate::Parts,
    Fate::TornParts(SECTORS[0]),
    Fate::TornParts(SECTORS[1]),
];

impl Fate {
    /// What a disk holds that held `durable`, and then was given these steps.
    fn befall(self, durable: &[u8], pending: &[Step], random: &mut fastrand::Rng) -> Vec<u8> {
        let mut image = durable.to_vec();
        let last = pending.len().saturating_sub(1);
        for (index, step) in pending.iter().enumerate() {
            let tear = match self {
                Self::Kept => None,
                Self::Lost => return image,
                Self::Torn(sector) if index == last => Some(sector),
                Self::Torn(_) => None,
                Self::Parts | Self::TornParts(_) if random.bool() => continue,
                Self::Parts => None,
                Self::TornParts(sector) => random.bool().then_some(sector),
            };
            match (step, tear) {
                (Step::Write(offset, data), Some(sector)) => torn(*offset, data, sector, random).apply(&mut image),
                _ => step.apply(&mut image),
            }
        }
        image
    }
}

/// The beginning of a write, to a sector's end.
fn torn(offset: u64, data: &[u8], sector: usize, random: &mut fastrand::Rng) -> Step {
    let sectors = data.len() / sector;
    Step::Write(offset, data[..random.usize(..=sectors) * sector].to_vec())
}

/// Opens what a crash left, and holds it against what was promised by then.
fn audit(image: Vec<u8>, lived: &Lived, step: usize) {
    let bench = Bench::on(FakeDisk::with_bytes(image).backend());
    let found = Ledger::of(&bench).expect("what is left can be read");
    let promised = lived.answered_by(step);
    let after = (promised..lived.ledgers.len()).find(|&txns| lived.ledgers[txns] == found);
    let Some(txns) = after else {
        let before = lived.ledgers[..promised].iter().rposition(|ledger| *ledger == found);
        match before {
            Some(txns) => panic!("{promised} transactions were answered, and only {txns} are there"),
            None => panic!(
                "it is not what any number of transactions from {promised} on leave: {}",
                lived.ledgers[promised].difference(&found)
            ),
        }
    };
    found.check();
    // What came before is known for a duplicate, and what comes next is stored.
    for (event, place) in lived.names_of(txns) {
        let again = bench.commit(Txn { now_ms: workload::NOW_MS, ..publish(vec![event.clone()]) }).unwrap().placed[0];
        assert_eq!((again.place, again.duplicate), (place, true), "a duplicate of {:?}", event.id);
    }
    assert_eq!(bench.publish(events("order.placed", 1)), [found.end()], "it goes on");
}

/// Lives through a seed, and cuts. Answers how often.
fn cut(seed: u64, everywhere: bool) -> usize {
    let lived = live(seed);
    let (mut durable, mut synced, mut cuts) = (Vec::new(), 0, 0);
    for step in 0..=lived.steps.len() {
        let pending = &lived.steps[synced..step];
        let is_sync = matches!(lived.steps.get(step), Some(Step::Sync));
        let drawn = fastrand::Rng::with_seed(seed << 32 | step as u64).usize(..FATES.len());
        for (index, fate) in FATES.into_iter().enumerate() {
            if step < lived.begun || !(everywhere || is_sync || index == drawn) {
                continue;
            }
            // By itself, so that the same cut is the same whatever else is tried.
            let mut random = fastrand::Rng::with_seed(seed << 32 | (step as u64) << 8 | index as u64);
            let image = fate.befall(&durable, pending, &mut random);
            cuts += 1;
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| audit(image, &lived, step))) {
                eprintln!(
                    "seed {seed}, cut before step {step} of {}, what was not synced: {fate:?}\n\
                     SANDPOST_CUTS_SEED={seed} cargo test -p sandpost --lib cuts",
                    lived.steps.len()
                );
                resume_unwind(panic);
            }
        }
        if is_sync {
            pending.iter().for_each(|step| step.apply(&mut durable));
            synced = step;
        }
    }
    cuts
}

#[test]
fn what_was_answered_survives_a_cut_at_every_write_and_sync() {
    let (seeds, everywhere) = match (number_of("SANDPOST_CUTS_SEED"), number_of("SANDPOST_CUTS_SEEDS")) {
        (Some(seed), _) => (seed..seed + 1, true),
        (None, Some(count)) => (0..count, true),
        (None, None) => (0..SEEDS_DEFAULT, false),
    };
    let cuts: usize = seeds.map(|seed| cut(seed, everywhere)).sum();
    eprintln!("the disk was cut off {cuts} times");
    assert!(cuts > 300, "{cuts} cuts are too few to prove anything");
}
