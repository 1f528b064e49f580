//! The schedule, and which events are duplicates, over restarts.

use std::time::Duration;

use super::*;
use crate::log::{Place, Placed, Release, ScheduledAt};

fn named(id: &str) -> Event {
    Event { named: true, ..event("order.placed", id) }
}

fn later(id: &str, due_ms: u64) -> Event {
    Event { deliver_at_ms: Some(due_ms), ..named(id) }
}

fn at(now_ms: u64, appends: Vec<Event>) -> Txn {
    Txn { now_ms, ..publish(appends) }
}

fn one(bench: &Bench, txn: Txn) -> Placed {
    bench.commit(txn).unwrap().placed[0]
}

fn waiting(bench: &Bench) -> Vec<(u64, u64, String)> {
    let found = bench.log.scheduled(None, None, WIDE).unwrap();
    assert_eq!(bench.log.figures().scheduled_messages, found.len() as u64);
    found.into_iter().map(|one| (one.at.due_ms, one.at.number, one.event.id)).collect()
}

fn message(offset: u64) -> Place {
    Place::Message { offset, sequence: offset + 1 }
}

#[test]
fn a_duplicate_is_answered_with_the_first_ones_place_also_after_a_restart() {
    let mut bench = Bench::new();
    assert_eq!(one(&bench, at(1_000, vec![named("a")])), Placed { place: message(0), duplicate: false });
    // An id that the bus made is no name, and the next one is no duplicate of it.
    assert_eq!(one(&bench, at(1_000, vec![event("order.placed", "b")])).place, message(1));
    for now_ms in [1_001, 120_000, 120_999] {
        bench = bench.reopen();
        assert_eq!(one(&bench, at(now_ms, vec![named("a")])), Placed { place: message(0), duplicate: true });
        let other = Event { source: "/other".to_owned(), ..named("a") };
        assert_eq!(one(&bench, at(now_ms, vec![other])).duplicate, now_ms > 1_001, "another source, another event");
    }
    let both = bench.commit(at(120_999, vec![named("b"), named("a"), named("b")])).unwrap().placed;
    assert_eq!(both.iter().map(|placed| placed.duplicate).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!(both[0].place, both[2].place);
    assert!(!one(&bench, at(121_000, vec![named("a")])).duplicate, "the window of two minutes is over");
}

#[test]
fn without_a_window_nothing_is_a_duplicate() {
    let bench = Bench::with(|options| options.dedupe_window = Duration::ZERO);
    for offset in 0..3 {
        assert_eq!(one(&bench, at(1_000, vec![named("a")])), Placed { place: message(offset), duplicate: false });
    }
}

#[test]
fn what_is_for_later_waits_in_the_order_of_its_times() {
    let bench = Bench::new();
    let placed =
        bench.commit(at(1_000, vec![later("late", 9_000), later("soon", 2_000), later("now", 1_000)])).unwrap().placed;
    let at_number = |due_ms, number| Place::Scheduled(ScheduledAt { due_ms, number });
    assert_eq!(
        placed.iter().map(|placed| placed.place).collect::<Vec<_>>(),
        [at_number(9_000, 1), at_number(2_000, 2), message(0)]
    );
    assert!(bench.log.topic("order.placed").is_some_and(|topic| topic.last_sequence == 1), "only one is a message");

    let bench = bench.reopen();
    let soon = || "soon".to_owned();
    assert_eq!(waiting(&bench), [(2_000, 2, soon()), (9_000, 1, "late".to_owned())]);
    let due = |now_ms| bench.log.scheduled(None, Some(now_ms), WIDE).unwrap();
    assert_eq!((due(1_999).len(), due(2_000).len(), due(9_000).len()), (0, 1, 2));
    let after = Some(ScheduledAt { due_ms: 2_000, number: 2 });
    assert_eq!(bench.log.scheduled(after, None, WIDE).unwrap().len(), 1);
    assert!(bench.log.scheduled(after, Some(1_000), WIDE).unwrap().is_empty());
    let whole = bench.log.scheduled_at(2).unwrap().unwrap();
    assert_eq!((whole.accepted_ms, &whole.event), (1_000, &later("soon", 2_000)));

    // Due, it is a message and no longer scheduled, in one transaction.
    bench.commit(Txn { now_ms: 2_005, releases: vec![Release::Due(whole)], ..Txn::default() }).unwrap();
    assert_eq!(waiting(&bench), [(9_000, 1, "late".to_owned())]);
    let read = bench.log.read(&selection("order.placed"), 1, WIDE).unwrap().messages;
    assert_eq!((read[0].accepted_ms, read[0].sequence, &read[0].event), (2_005, 2, &named("soon")));

    // The number of a message that is gone is never used again.
    let cancelled = bench.log.scheduled_at(1).unwrap().unwrap();
    bench.commit(Txn { releases: vec![Release::Cancelled(cancelled)], ..Txn::default() }).unwrap();
    let bench = bench.reopen();
    assert!(waiting(&bench).is_empty() && bench.log.scheduled_at(1).unwrap().is_none());
    assert_eq!(one(&bench, at(3_000, vec![later("next", 9_000)])).place, at_number(9_000, 3));
}

#[test]
fn a_scheduled_event_is_known_while_it_waits_and_when_it_became_a_message() {
    let bench = Bench::new();
    let first = one(&bench, at(1_000, vec![later("a", 5_000)])).place;
    let bench = bench.reopen();
    // Whenever the second one is to be delivered, the first one's time holds.
    assert_eq!(one(&bench, at(1_500, vec![later("a", 8_000)])), Placed { place: first, duplicate: true });
    assert_eq!(one(&bench, at(1_500, vec![named("a")])), Placed { place: first, duplicate: true });

    let due = bench.log.scheduled_at(1).unwrap().unwrap();
    bench.commit(Txn { now_ms: 5_000, releases: vec![Release::Due(due)], ..Txn::default() }).unwrap();
    assert_eq!(one(&bench, at(5_001, vec![named("a")])), Placed { place: message(0), duplicate: true });
    let bench = bench.reopen();
    assert_eq!(one(&bench, at(5_002, vec![named("a")])), Placed { place: message(0), duplicate: true });

    // One that was cancelled never came.
    one(&bench, at(6_000, vec![later("b", 9_000)]));
    let cancelled = bench.log.scheduled_at(2).unwrap().unwrap();
    bench.commit(Txn { now_ms: 6_000, releases: vec![Release::Cancelled(cancelled)], ..Txn::default() }).unwrap();
    assert!(!one(&bench, at(6_001, vec![named("b")])).duplicate);
}

#[test]
fn a_damaged_scheduled_message_is_named() {
    let bench = Bench::new();
    one(&bench, at(1_000, vec![later("a", 5_000)]));
    let Bench { log, folder, .. } = bench;
    log.close();
    drop(log);
    assert_eq!(opening::damage_where(&folder, "scheduled", |_| true), 1);
    let bench = Bench::start(RedbLog::open(&options(&folder)).unwrap(), folder);
    let error = bench.log.scheduled_at(1).unwrap_err();
    assert_eq!(error.to_string(), "damaged: the scheduled message 1: its checksum does not match in table `scheduled`");
    // The others go on.
    one(&bench, at(1_000, vec![later("b", 6_000)]));
    let found = bench.log.scheduled(None, None, WIDE).unwrap();
    assert_eq!(found.iter().map(|one| one.at.number).collect::<Vec<_>>(), [2]);
}
