//! Power cuts: at every sync of a workload, what was written since the last one is lost, in whole or in
//! part, and everything that was answered before must be there.

use super::*;
use crate::log::Settlement;
use crate::log::disk::faults::{FakeDisk, Step};

/// What was answered, and how many steps the disk had made by then.
struct Promise {
    steps: usize,
    offsets: Vec<Offset>,
    /// How far the subscription had come.
    floor: Offset,
}

/// Answers the promises, and from which step on the disk holds a log at all. A log that is cut off while
/// it is begun has no name yet, and is begun again.
fn workload(disk: &FakeDisk) -> (usize, Vec<Promise>) {
    let bench = Bench::on(disk.backend());
    let begun = disk.step_count();
    let id = bench.subscribe("email");
    let mut promises = Vec::new();
    for round in 0..12u64 {
        let appends = (0..=round % 4).map(|n| sized("order.placed", &format!("{round}"), 300 + 9_000 * n as usize));
        let mut settlement = Settlement::new(id, 1);
        let floor = bench.log.end();
        let before = promises.last().map_or(0, |promise: &Promise| promise.floor);
        settlement.passed.push((before, floor));
        settlement.counts.passed = (floor - before) as i64;
        settlement.counts.acked = (floor - before) as i64;
        let txn = Txn { settlements: vec![settlement], ..publish(appends.collect()) };
        let sequenced = bench.commit(txn).unwrap();
        let offsets = sequenced.placed.iter().map(|placed| placed.message().unwrap().0).collect();
        promises.push(Promise { steps: disk.step_count(), offsets, floor });
    }
    (begun, promises)
}

/// Opens an image and holds it against what was promised by then.
fn check(image: Vec<u8>, promises: &[Promise], what: &str) {
    let bench = Bench::on(FakeDisk::with_bytes(image).backend());
    let stored = bench.offsets("order.placed", 0, WIDE);
    assert_eq!(stored, (0..bench.log.end()).collect::<Vec<_>>(), "{what}: no gaps");
    let promised = promises.iter().flat_map(|promise| &promise.offsets).count();
    assert!(stored.len() >= promised, "{what}: {promised} were promised, {} are there", stored.len());
    let loaded = bench.log.load().unwrap();
    if let Some(last) = promises.last() {
        let subscription = &loaded.subscriptions[0];
        assert!(subscription.position.floor() >= last.floor, "{what}: settled work is there");
        assert_eq!(subscription.counts.acked, subscription.position.floor(), "{what}: counts and position agree");
    }
    // And it goes on.
    assert_eq!(bench.publish(events("order.placed", 1)), [stored.len() as u64], "{what}");
}

#[test]
fn what_was_answered_survives_a_power_cut_at_every_sync() {
    let disk = FakeDisk::recording();
    let (begun, promises) = workload(&disk);
    let steps = disk.steps();
    let syncs: Vec<usize> =
        steps.iter().enumerate().filter(|(_, step)| matches!(step, Step::Sync)).map(|(at, _)| at).collect();
    assert!(syncs.len() > 12);
    let mut random = fastrand::Rng::with_seed(7);
    let mut durable = Vec::new();
    let mut done = 0;
    for &sync in &syncs {
        // What was written since the last sync is on its way; only what that sync covered is sure.
        let pending = &steps[done..sync];
        if done < begun {
            pending.iter().for_each(|step| step.apply(&mut durable));
            done = sync;
            continue;
        }
        let promised = &promises[..promises.partition_point(|promise| promise.steps <= sync)];
        check(durable.clone(), promised, &format!("all lost before step {sync}"));
        for cut in 0..3 {
            let mut image: Vec<u8> = durable.clone();
            for step in pending {
                match step {
                    // A write reaches the disk whole, torn at a sector, or not at all.
                    Step::Write(offset, data) => {
                        let kept = match random.u8(..3) {
                            0 => 0,
                            1 => random.usize(..=data.len()) / 512 * 512,
                            _ => data.len(),
                        };
                        if kept > 0 {
                            Step::Write(*offset, data[..kept].to_vec()).apply(&mut image);
                        }
                    }
                    step => step.apply(&mut image),
                }
            }
            check(image, promised, &format!("torn before step {sync}, cut {cut}, seed 7"));
        }
        for step in &steps[done..sync] {
            step.apply(&mut durable);
        }
        done = sync;
    }
    check(durable, &promises[..promises.partition_point(|p| p.steps <= done + 1)], "all synced");
}
