//! What deliveries record: accounts, retries, held rows, dead letters, plugins.

use super::*;
use crate::log::disk::faults::FakeDisk;
use crate::log::{DeadRow, HeldAt, HeldRow, KeyHash, Parks, PluginRecord, Redrive, RetryRow, Settlement};
use crate::message::TopicId;
use crate::outcome::{Attempt, DeadReason, Digest, Excuse, History, OutcomeKind};

fn history() -> History {
    let mut history = History { charged: 2, unavailable: 1, redrives: 3, ..History::default() };
    history.record(Attempt {
        at_ms: 1_700_000_000_000,
        duration_us: 12_345,
        outcome: OutcomeKind::Trapped,
        text: "wasm trap: unreachable\n  0: handle".to_owned(),
        digest: Digest([9; 32]),
        charged: true,
    });
    history
}

fn retry() -> Arc<RetryRow> {
    let redrive = Redrive {
        reason: DeadReason::Rejected,
        died_ms: 45,
        excused: Some(Excuse::Breaker),
        parks: Some(Parks::Subscription),
    };
    let key = Some(KeyHash(u64::MAX));
    Arc::new(RetryRow { due_ms: 50, accepted_ms: 40, key, redrive: Some(redrive), history: history() })
}

fn dead(reason: DeadReason) -> Arc<DeadRow> {
    let (topic, sequence) = (TopicId(0), 4);
    Arc::new(DeadRow {
        reason,
        died_ms: 90,
        accepted_ms: 40,
        topic,
        sequence,
        key: Some("k".to_owned()),
        message_id: "id".to_owned(),
        source: "/tests".to_owned(),
        history: history(),
        excused: None,
    })
}

fn settle(settlement: Settlement) -> Txn {
    Txn { settlements: vec![settlement], ..Txn::default() }
}

#[test]
fn rows_are_seen_before_their_sync_and_over_a_restart() {
    let disk = FakeDisk::new();
    let bench = Bench::on(disk.backend());
    let id = bench.subscribe("email");
    bench.publish(events("order.placed", 10));
    let at = HeldAt { subscription: id, key: KeyHash(7), first: 2 };
    let held = Arc::new(HeldRow { offsets: vec![2, 5, 9], front: 1, accepted_ms: 40 });
    let mut settlement = Settlement::new(id, 1);
    settlement.passed = vec![(0, 3), (5, 6), (9, 10)];
    settlement.counts.passed = 6;
    settlement.counts.acked = 1;
    settlement.counts.rows = 4;
    settlement.counts.dead = 1;
    settlement.counts.died[DeadReason::Rejected as usize] = 1;
    settlement.retries.push((0, Some(retry())));
    settlement.held.push((at, Some(held.clone())));
    settlement.dead.push((1, Some(dead(DeadReason::Rejected))));
    settlement.parks.push((1, Some(Parks::Key(KeyHash(7)))));
    let hold = disk.hold_syncs();
    bench.log.commit(settle(settlement), None).unwrap();
    disk.await_held_sync();
    let check = |bench: &Bench| {
        assert_eq!(bench.log.retry(id, 0).unwrap(), Some(retry()));
        assert_eq!(bench.log.retry(id, 1).unwrap(), None);
        assert_eq!(bench.log.held(at).unwrap(), Some(held.clone()));
    };
    check(&bench);
    assert!(bench.log.dead_letter(id, 1).unwrap().is_none(), "dead letters are seen once they are synced");
    drop(hold);
    bench.commit(Txn::default()).unwrap();
    check(&bench);
    drop(bench);

    let bench = Bench::on(disk.backend());
    check(&bench);
    assert_eq!(bench.log.dead_letter(id, 1).unwrap().unwrap().row, dead(DeadReason::Rejected));
    let loaded = bench.log.load().unwrap().subscriptions.remove(0);
    assert_eq!((loaded.id, &*loaded.name, &loaded.record), (id, "email", &record()));
    assert_eq!(loaded.position, Position::from_parts(3, vec![(5, 6), (9, 10)]).unwrap());
    assert_eq!((loaded.counts.rows, loaded.counts.died[1]), (4, 1));
    let row = loaded.retries[0];
    assert_eq!((row.offset, row.due_ms, row.accepted_ms, row.key), (0, 50, 40, Some(KeyHash(u64::MAX))));
    assert_eq!(row.redrive, retry().redrive);
    assert_eq!(loaded.held, [(at, 2, 40)]);
    assert_eq!(loaded.parks, [(1, Parks::Key(KeyHash(7)))]);

    let mut settlement = Settlement::new(id, 1);
    settlement.counts.rows = -4;
    settlement.counts.acked = 4;
    settlement.retries.push((0, None));
    settlement.held.push((at, None));
    settlement.parks.push((1, None));
    bench.log.commit(settle(settlement), None).unwrap();
    assert_eq!(bench.log.retry(id, 0).unwrap(), None, "a removal is seen before its sync");
    assert_eq!(bench.log.held(at).unwrap(), None);
    bench.commit(Txn::default()).unwrap();
    assert_eq!(bench.log.retry(id, 0).unwrap(), None);
    let loaded = bench.log.load().unwrap().subscriptions.remove(0);
    assert!(loaded.retries.is_empty() && loaded.held.is_empty() && loaded.parks.is_empty());
}

#[test]
fn dead_letters_are_listed_by_subscription_and_offset() {
    let bench = Bench::new();
    let ids = [bench.subscribe("email"), bench.subscribe("stock")];
    bench.publish(events("order.placed", 5));
    for id in ids {
        let mut settlement = Settlement::new(id, 1);
        settlement.passed = vec![(0, 5)];
        settlement.counts.passed = 5;
        settlement.counts.dead = 5;
        settlement.dead = (0..5).map(|offset| (offset, Some(dead(DeadReason::AttemptsExhausted)))).collect();
        bench.commit(settle(settlement)).unwrap();
    }
    let list = |subscription, after, limit| {
        let found = bench.log.dead_letters(subscription, after, limit).unwrap();
        found.iter().map(|letter| (letter.subscription, letter.offset)).collect::<Vec<_>>()
    };
    let all: Vec<_> = ids.iter().flat_map(|id| (0..5).map(|offset| (*id, offset))).collect();
    assert_eq!(list(None, None, 100), all);
    assert_eq!(list(Some(ids[1]), None, 100), all[5..]);
    assert_eq!(list(Some(ids[0]), Some((ids[0], 1)), 2), all[2..4]);
    assert_eq!(list(Some(ids[1]), Some((ids[0], 3)), 1), all[5..6], "a place before it is its beginning");
    let mut paged = Vec::new();
    while let [.., last] = &list(None, paged.last().copied(), 3)[..] {
        let page = list(None, paged.last().copied(), 3);
        assert_eq!(page.last(), Some(last));
        paged.extend(page);
    }
    assert_eq!(paged, all);
    assert_eq!(list(None, None, 0), []);

    bench.commit(Txn { changes: vec![Change::RemoveSubscription { id: ids[0] }], ..Txn::default() }).unwrap();
    assert_eq!(list(None, None, 100), all[5..], "they go with their subscription");
}

#[test]
fn a_removed_subscription_leaves_nothing_behind() {
    let bench = Bench::new();
    let (gone, stays) = (bench.subscribe("gone"), bench.subscribe("stays"));
    bench.publish(events("order.placed", 4));
    let row = |id| {
        let mut settlement = Settlement::new(id, 1);
        settlement.passed = vec![(0, 1)];
        settlement.counts.passed = 1;
        settlement.counts.rows = 1;
        settlement.retries.push((0, Some(retry())));
        settle(settlement)
    };
    bench.commit(row(gone)).unwrap();
    bench.commit(row(stays)).unwrap();
    let remove = Txn { changes: vec![Change::RemoveSubscription { id: gone }], ..Txn::default() };
    bench.log.commit(remove, None).unwrap();
    assert_eq!(bench.log.retry(gone, 0).unwrap(), None);
    let error = bench.log.commit(row(gone), None).unwrap_err();
    assert_eq!(error, CommitError::StaleEpoch { expected: 1, now: None });
    let bench = bench.reopen();
    let loaded = bench.log.load().unwrap();
    assert_eq!(loaded.subscriptions.len(), 1);
    assert_eq!(loaded.subscriptions[0].id, stays);
    assert_eq!(loaded.subscriptions[0].retries.len(), 1);
    assert!(bench.log.retry(gone, 0).unwrap().is_none());
}

#[test]
fn records_are_replaced_and_plugins_come_and_go() {
    let bench = Bench::new();
    let id = bench.subscribe("email");
    let record = SubscriptionRecord { epoch: 2, consumer: "mailer".to_owned(), ..record() };
    let plugin = PluginRecord {
        digest: Digest([1; 32]),
        manifest: "[[subscription]]".to_owned(),
        deployed_ms: 77,
        rolled_back: Vec::new(),
        back_to: Some(3),
        refunds: Vec::new(),
        history: Vec::new(),
        deployed: [1, 2, 3, 4],
    };
    let set = |stem: &str, record| Change::SetPlugin { stem: stem.to_owned(), record };
    let changes = vec![
        Change::UpdateSubscription { id, record: record.clone() },
        set("mailer", Some(plugin.clone())),
        set("old", Some(plugin.clone())),
    ];
    bench.commit(Txn { changes, ..Txn::default() }).unwrap();
    bench.commit(Txn { changes: vec![set("old", None)], ..Txn::default() }).unwrap();
    let loaded = bench.reopen().log.load().unwrap();
    assert_eq!(loaded.subscriptions[0].record, record);
    assert_eq!(loaded.plugins, [("mailer".to_owned(), plugin)]);
}
