//! Group commit, restarts, and what is answered when.

use super::*;
use crate::log::Settlement;
use crate::log::disk::faults::FakeDisk;

#[test]
fn what_gathers_during_a_sync_is_synced_at_once() {
    let disk = FakeDisk::new();
    let bench = Bench::on(disk.backend());
    let hold = disk.hold_syncs();
    let commit = |id: &str| {
        let (waiter, synced) = oneshot::channel();
        bench.log.commit(publish(vec![event("order.placed", id)]), Some(waiter)).unwrap();
        synced
    };
    let first = commit("0");
    disk.await_held_sync();
    let waiting: Vec<_> = (1..=500).map(|number| commit(&number.to_string())).collect();
    assert_eq!(bench.log.end(), 0, "nothing is visible before its sync");
    assert!(bench.log.topic("order.placed").is_none());
    let before = disk.syncs();
    drop(hold);
    first.blocking_recv().unwrap();
    for synced in waiting {
        synced.blocking_recv().unwrap();
    }
    assert_eq!(bench.log.figures().syncs, 2, "501 publishes are two groups");
    // redb may sync twice in a commit in which the file grows.
    assert!(disk.syncs() - before <= 4, "{}", disk.syncs() - before);
    assert_eq!(bench.log.end(), 501);
}

#[test]
fn concurrent_publishers_are_all_answered_in_one_order() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let bench = &bench.log;
            scope.spawn(move || {
                for number in 0..50 {
                    let (waiter, synced) = oneshot::channel();
                    let topic = format!("t.{}", thread % 3);
                    let placed = bench.commit(publish(events(&topic, 2)), Some(waiter)).unwrap().placed;
                    synced.blocking_recv().unwrap();
                    let [first, second] = [0, 1].map(|index: usize| placed[index].message().unwrap().0);
                    assert_eq!(second, first + 1, "a transaction is not torn apart");
                    assert!(bench.end() > second, "{thread} {number}: answered means visible");
                }
            });
        }
    });
    let syncs = bench.log.figures().syncs;
    assert!(syncs <= 400, "{syncs} syncs");
    let mut told = Vec::new();
    while told.len() < 800 {
        match bench.told.recv().unwrap() {
            Told::Synced(_, messages) => told.extend(messages.iter().map(|message| message.offset)),
            Told::Failed(failure) => panic!("{failure}"),
        }
    }
    assert_eq!(told, (0..800).collect::<Vec<Offset>>());
    assert_eq!(bench.offsets(">", 0, WIDE), told);
    let bench = bench.reopen();
    assert_eq!(bench.offsets(">", 0, WIDE), told);
    for topic in bench.log.topics() {
        let count = bench.log.count(&selection(topic.name.as_str()), &[(0, Offset::MAX)]).unwrap();
        assert_eq!(topic.last_sequence, count, "sequences are dense");
    }
}

#[test]
fn settlements_alone_are_synced_without_a_waiter() {
    let bench = Bench::new();
    let id = bench.subscribe("email");
    bench.publish(events("order.placed", 2));
    let mut settlement = Settlement::new(id, 1);
    settlement.passed.push((0, 2));
    settlement.counts.passed = 2;
    settlement.counts.acked = 2;
    let sequenced = bench.log.commit(Txn { settlements: vec![settlement], ..Txn::default() }, None).unwrap();
    loop {
        match bench.told.recv().unwrap() {
            Told::Synced(txn, _) if txn < sequenced.txn => {}
            Told::Synced(txn, messages) => break assert_eq!((txn, messages.len()), (sequenced.txn, 0)),
            Told::Failed(failure) => panic!("{failure}"),
        }
    }
    let loaded = bench.reopen().log.load().unwrap();
    assert_eq!(loaded.subscriptions[0].position, Position::starting_at(2));
}

#[test]
fn settlements_ride_with_what_cannot_wait() {
    let disk = FakeDisk::new();
    let bench = Bench::on(disk.backend());
    let id = bench.subscribe("email");
    let before = bench.log.figures().syncs;
    let hold = disk.hold_syncs();
    let (waiter, synced) = oneshot::channel();
    bench.log.commit(publish(events("order.placed", 1)), Some(waiter)).unwrap();
    disk.await_held_sync();
    for _ in 0..20 {
        let settlement = Settlement::new(id, 1);
        bench.log.commit(Txn { settlements: vec![settlement], ..Txn::default() }, None).unwrap();
    }
    let (last, last_synced) = oneshot::channel();
    bench.log.commit(publish(events("order.placed", 1)), Some(last)).unwrap();
    drop(hold);
    synced.blocking_recv().unwrap();
    last_synced.blocking_recv().unwrap();
    assert_eq!(bench.log.figures().syncs - before, 2);
}

#[test]
fn close_syncs_what_is_sequenced_and_refuses_the_rest() {
    let bench = Bench::new();
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let (waiter, synced) = oneshot::channel();
        bench.log.commit(publish(events("order.placed", 3)), Some(waiter)).unwrap();
        waiting.push(synced);
    }
    bench.log.close();
    for synced in waiting {
        synced.blocking_recv().unwrap();
    }
    assert_eq!(bench.log.commit(publish(events("order.placed", 1)), None).unwrap_err(), CommitError::Stopped);
    assert_eq!(bench.reopen().offsets(">", 0, WIDE).len(), 60);
}

#[test]
fn a_dropped_log_answers_nobody_it_did_not_sync() {
    let disk = FakeDisk::new();
    let bench = Bench::on(disk.backend());
    let hold = disk.hold_syncs();
    let (waiter, first) = oneshot::channel();
    bench.log.commit(publish(events("order.placed", 1)), Some(waiter)).unwrap();
    disk.await_held_sync();
    let (waiter, second) = oneshot::channel();
    bench.log.commit(publish(events("order.placed", 1)), Some(waiter)).unwrap();
    let Bench { log, .. } = bench;
    std::thread::scope(|scope| {
        scope.spawn(|| drop(log));
        scope.spawn(|| drop(hold));
    });
    let answered = u64::from(first.blocking_recv().is_ok()) + u64::from(second.blocking_recv().is_ok());
    let stored = Bench::on(disk.backend()).log.end();
    assert!(stored >= answered, "{stored} of {answered} answered are there");
    assert!(answered >= 1, "what was in its commit is finished");
}

#[test]
fn ids_go_on_over_a_restart_and_are_not_used_twice() {
    let bench = Bench::new();
    let first = bench.subscribe("email");
    let second = bench.subscribe("stock");
    bench.publish(events("order.placed", 3));
    bench.commit(Txn { changes: vec![Change::RemoveSubscription { id: second }], ..Txn::default() }).unwrap();
    let bus_id = bench.log.bus_id(0);
    let bench = bench.reopen();
    assert_eq!(bench.log.bus_id(2), bus_id);
    let third = bench.subscribe("stock");
    assert!(third > second && second > first);
    let placed = bench.commit(publish(vec![event("order.placed", "x"), event("order.new", "y")])).unwrap().placed;
    assert_eq!(placed[0].message(), Some((3, 4)));
    assert_eq!(placed[1].message(), Some((4, 1)));
}
