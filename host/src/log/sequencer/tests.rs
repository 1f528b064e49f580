use proptest::prelude::*;

use super::*;
use crate::log::{Change, CountsDelta, DeadRow, KeyHash, Selection, StateRange, StateRead, StateWrite};
use crate::message::Event;
use crate::outcome::{DeadReason, History};
use crate::topic::TopicName;

const BOUNDS: SequencerBounds = SequencerBounds {
    unsynced_bytes_max: 1 << 20,
    group_bytes_max: 10_000,
    topic_caps: Vec::new(),
    dedupe: DedupeBounds { window_ms: 1_000, names_max: 100 },
    state: StateBounds { consumer_bytes_max: 1 << 40, total_bytes_max: 1 << 40 },
};

fn fresh() -> Sequencer {
    Sequencer::new(Recovered { next_subscription: 1, ..Recovered::default() }, BOUNDS)
}

fn event(topic: &str) -> Event {
    Event {
        topic: TopicName::any(topic).unwrap(),
        id: "1".to_owned(),
        source: "/tests".to_owned(),
        kind: topic.to_owned(),
        subject: None,
        key: None,
        content_type: None,
        attributes: Vec::new(),
        data: Bytes::from_static(&[0; 100]),
        hops: 0,
        named: false,
        deliver_at_ms: None,
    }
}

fn create(name: &str) -> Change {
    let record = SubscriptionRecord {
        consumer: "c".to_owned(),
        selection: Selection::default(),
        created_ms: 0,
        epoch: 1,
        passes_dead_before: 0,
        paused: false,
    };
    Change::CreateSubscription { name: name.to_owned(), record, position: Position::default() }
}

fn changes(changes: Vec<Change>) -> Txn {
    Txn { changes, ..Txn::default() }
}

fn put(key: &str, value: Option<&'static str>) -> StateWrite {
    let value = value.map(|value| Bytes::from_static(value.as_bytes()));
    StateWrite { consumer: "c".into(), key: key.to_owned(), value }
}

fn acked(subscription: SubscriptionId, from: Offset, to: Offset) -> Settlement {
    let count = (to - from) as i64;
    let counts = CountsDelta { passed: count, acked: count, ..CountsDelta::default() };
    Settlement { passed: vec![(from, to)], counts, ..Settlement::new(subscription, 1) }
}

fn row(due_ms: Millis) -> Arc<RetryRow> {
    Arc::new(RetryRow { due_ms, accepted_ms: 0, key: None, redrive: None, history: History::default() })
}

/// Everything that a refusal must leave as it was.
fn picture(sequencer: &Sequencer) -> String {
    let topics: Vec<_> = sequencer.topics.iter().map(|topic| &topic.info).collect();
    let mut accounts: Vec<_> =
        sequencer.accounts.iter().map(|(id, a)| (id, &a.name, &a.record, &a.position, &a.counts)).collect();
    accounts.sort_by_key(|account| account.0);
    let group = &sequencer.gathering;
    format!(
        "{} {} {} {} {topics:?} {accounts:?} {:?} {:?} {:?} {} {} {}",
        sequencer.last_txn,
        sequencer.next_offset,
        sequencer.next_subscription,
        sequencer.unsynced_bytes,
        sequencer.state("c", "k"),
        group.messages,
        group.retries,
        group.bytes,
        group.waiters.len(),
        sequencer.closed.len(),
    )
}

#[test]
fn a_refused_transaction_changes_nothing() {
    let mut sequencer = fresh();
    let id = sequencer.commit(changes(vec![create("email")]), None, None).unwrap().created[0];
    sequencer.pin();
    sequencer.commit(Txn { writes: vec![put("k", Some("1"))], ..Txn::default() }, None, None).unwrap();
    let whole = || {
        let mut settlement = acked(id, 0, 1);
        settlement.counts = CountsDelta { passed: 1, rows: 1, ..CountsDelta::default() };
        settlement.retries.push((0, Some(row(5))));
        Txn {
            appends: vec![event("a"), event("b")],
            writes: vec![put("k", Some("2"))],
            settlements: vec![settlement],
            changes: vec![create("stock")],
            ..Txn::default()
        }
    };
    let stale = |seen| StateRead { consumer: "c".into(), range: StateRange::Key("k".to_owned()), seen };
    let before = picture(&sequencer);
    let mut refused = |change: &dyn Fn(&mut Txn)| {
        let mut txn = whole();
        change(&mut txn);
        let error = sequencer.commit(txn, None, Some(tokio::sync::oneshot::channel().0)).unwrap_err();
        assert_eq!(picture(&sequencer), before, "{error}");
        error
    };
    assert!(matches!(refused(&|txn| txn.reads.push(stale(1))), CommitError::Conflict { .. }));
    assert_eq!(
        refused(&|txn| txn.settlements.push(Settlement::new(id, 0))),
        CommitError::StaleEpoch { expected: 0, now: Some(1) }
    );
    let unknown = SubscriptionId(99);
    assert_eq!(
        refused(&|txn| txn.settlements.push(Settlement::new(unknown, 1))),
        CommitError::StaleEpoch { expected: 1, now: None }
    );
    let taken = |name: &str| CommitError::NameTaken { name: name.to_owned() };
    assert_eq!(refused(&|txn| txn.changes.push(create("email"))), taken("email"));
    assert_eq!(refused(&|txn| txn.changes.push(create("stock"))), taken("stock"));
    let gone = CommitError::StaleEpoch { expected: 0, now: None };
    assert_eq!(refused(&|txn| txn.changes.push(Change::RemoveSubscription { id: unknown })), gone);
    assert!(matches!(
        refused(&|txn| txn.appends = vec![Event { data: vec![0; 3 << 20].into(), ..event("a") }]),
        CommitError::Busy { .. }
    ));

    // And the same transaction, unspoilt, has all its effects.
    let mut txn = whole();
    txn.reads.push(stale(2));
    let sequenced = sequencer.commit(txn, None, None).unwrap();
    assert_eq!(sequenced.placed.iter().map(|placed| placed.message().unwrap()).collect::<Vec<_>>(), [(0, 1), (1, 1)]);
    assert_eq!(sequencer.state("c", "k"), Some(Some(Bytes::from_static(b"2"))));
    assert_eq!(sequencer.retry(id, 0), Some(Some(row(5))));
}

#[test]
fn a_name_is_free_again_within_the_transaction_that_removes_it() {
    let mut sequencer = fresh();
    let id = sequencer.commit(changes(vec![create("email")]), None, None).unwrap().created[0];
    let replace = vec![Change::RemoveSubscription { id }, create("email")];
    let next = sequencer.commit(changes(replace), None, None).unwrap().created[0];
    assert!(next > id);
    let twice = vec![Change::RemoveSubscription { id: next }, Change::RemoveSubscription { id: next }];
    assert!(sequencer.commit(changes(twice), None, None).is_err());
    sequencer.commit(Txn { settlements: vec![Settlement::new(next, 1)], ..Txn::default() }, None, None).unwrap();
}

#[test]
fn a_raised_epoch_discards_what_was_decided_before() {
    let mut sequencer = fresh();
    let id = sequencer.commit(changes(vec![create("email")]), None, None).unwrap().created[0];
    let record = SubscriptionRecord { epoch: 2, ..sequencer.accounts[&id].record.clone() };
    // What stands in the same transaction is still of the old one.
    let txn =
        Txn { settlements: vec![Settlement::new(id, 1)], ..changes(vec![Change::UpdateSubscription { id, record }]) };
    sequencer.commit(txn, None, None).unwrap();
    let late = Txn { settlements: vec![acked(id, 0, 0)], ..Txn::default() };
    assert_eq!(sequencer.commit(late, None, None).unwrap_err(), CommitError::StaleEpoch { expected: 1, now: Some(2) });
}

#[test]
fn groups_hold_whole_transactions_in_order_and_each_row_once() {
    let mut sequencer = fresh();
    let id = sequencer.commit(changes(vec![create("email")]), None, None).unwrap().created[0];
    for round in 0..100u64 {
        let mut settlement = acked(id, round, round + 1);
        settlement.retries.push((7, (round % 2 == 0).then(|| row(round))));
        let txn = Txn {
            appends: vec![event("a"), event(if round % 3 == 0 { "b" } else { "c" })],
            settlements: vec![settlement],
            ..Txn::default()
        };
        sequencer.commit(txn, None, None).unwrap();
    }
    assert_eq!(sequencer.demand(), Demand::Now);
    let (mut next, mut last, mut bytes) = (0, 0, 0);
    let mut groups = 0;
    while let Some(group) = sequencer.take_group() {
        groups += 1;
        assert!(group.last > last);
        last = group.last;
        bytes += group.bytes;
        assert!(group.bytes <= BOUNDS.group_bytes_max);
        assert_eq!(group.messages.len() % 2, 0, "transactions are not torn apart");
        for message in &group.messages {
            assert_eq!(message.offset, next);
            next += 1;
        }
        // The account is as of this group, and not of what was sequenced since.
        let [(account, state)] = &group.accounts[..] else { panic!("one account") };
        assert_eq!((*account, state.position.floor()), (id, next / 2));
        assert_eq!(group.retries.len(), usize::from(next > 0));
        let topics: HashMap<_, _> = group.topics.iter().map(|topic| (topic.name.as_str(), topic)).collect();
        assert_eq!(topics.len(), group.topics.len());
        assert_eq!(topics["a"].last_sequence, next / 2);
    }
    assert!(groups > 3, "{groups}");
    assert_eq!((next, last), (200, sequencer.last_txn()));
    assert_eq!(sequencer.unsynced_bytes(), bytes);
    sequencer.synced(last, bytes, &StateGrowth::default(), Vec::new());
    assert_eq!(sequencer.unsynced_bytes(), 0);
    assert_eq!(sequencer.demand(), Demand::None);
}

#[test]
fn what_is_synced_is_forgotten_and_what_came_after_is_not() {
    let mut sequencer = fresh();
    let id = sequencer.commit(changes(vec![create("email")]), None, None).unwrap().created[0];
    let step = |sequencer: &mut Sequencer, value, due_ms| {
        let mut settlement = Settlement::new(id, 1);
        settlement.retries.push((0, Some(row(due_ms))));
        let at = HeldAt { subscription: id, key: KeyHash(1), first: 4 };
        settlement.held.push((at, Some(Arc::new(HeldRow { offsets: vec![4], front: 0, accepted_ms: due_ms }))));
        let txn = Txn { writes: vec![put("k", value)], settlements: vec![settlement], ..Txn::default() };
        sequencer.commit(txn, None, None).unwrap();
        sequencer.take_group().unwrap()
    };
    let first = step(&mut sequencer, Some("1"), 1);
    let second = step(&mut sequencer, None, 2);
    sequencer.synced(first.last, first.bytes, &first.state_growth, Vec::new());
    assert_eq!(sequencer.state("c", "k"), Some(None), "the removal is not synced yet");
    assert_eq!(sequencer.retry(id, 0), Some(Some(row(2))));
    sequencer.synced(second.last, second.bytes, &second.state_growth, Vec::new());
    assert_eq!(sequencer.state("c", "k"), None);
    assert_eq!(sequencer.retry(id, 0), None);
    assert_eq!(sequencer.held(&HeldAt { subscription: id, key: KeyHash(1), first: 4 }), None);
    assert!(sequencer.state_range("c", "", None, 10).is_empty());
}

#[test]
fn settlements_ride_and_everything_else_is_urgent() {
    let mut sequencer = fresh();
    assert_eq!(sequencer.demand(), Demand::None);
    let id = sequencer.commit(changes(vec![create("email")]), None, None).unwrap().created[0];
    assert_eq!(sequencer.demand(), Demand::Now);
    sequencer.take_group().unwrap();
    let settle = || Txn { settlements: vec![Settlement::new(id, 1)], ..Txn::default() };
    sequencer.commit(settle(), None, None).unwrap();
    assert_eq!(sequencer.demand(), Demand::CanRide);
    sequencer.commit(settle(), None, Some(tokio::sync::oneshot::channel().0)).unwrap();
    assert_eq!(sequencer.demand(), Demand::Now);
    sequencer.take_group().unwrap();
    assert_eq!(sequencer.demand(), Demand::None);
    sequencer.commit(Txn { writes: vec![put("k", None)], ..Txn::default() }, None, None).unwrap();
    assert_eq!(sequencer.demand(), Demand::Now);
}

#[test]
fn writes_are_kept_back_to_the_oldest_pin_and_no_longer() {
    let mut sequencer = fresh();
    let write = |sequencer: &mut Sequencer, key: &str| {
        sequencer.commit(Txn { writes: vec![put(key, Some("x"))], ..Txn::default() }, None, None).unwrap().txn
    };
    let conflict = |sequencer: &Sequencer, key: &str, seen| {
        let read = StateRead { consumer: "c".into(), range: StateRange::Key(key.to_owned()), seen };
        sequencer.recent_writes.changed_since(&read)
    };
    let oldest = sequencer.pin();
    write(&mut sequencer, "a");
    let newer = sequencer.pin();
    for _ in 0..10_000 {
        write(&mut sequencer, "hot");
    }
    assert!(conflict(&sequencer, "a", oldest) && conflict(&sequencer, "hot", newer));
    assert!(!conflict(&sequencer, "hot", sequencer.last_txn()));
    assert!(sequencer.recent_writes.kept() < 200, "a hot key does not fill the memory");
    sequencer.unpin(oldest);
    assert!(!conflict(&sequencer, "a", newer) && conflict(&sequencer, "hot", newer));
    sequencer.unpin(newer);
    assert_eq!(sequencer.recent_writes.kept(), 0);
}

#[test]
#[should_panic(expected = "loses a message")]
fn counters_that_do_not_add_up_are_a_bug() {
    let mut sequencer = fresh();
    let id = sequencer.commit(changes(vec![create("email")]), None, None).unwrap().created[0];
    let mut settlement = Settlement::new(id, 1);
    settlement.counts.passed = 1;
    let _ = sequencer.commit(Txn { settlements: vec![settlement], ..Txn::default() }, None, None);
}

#[test]
fn dead_letters_reach_the_group() {
    let mut sequencer = fresh();
    let id = sequencer.commit(changes(vec![create("email")]), None, None).unwrap().created[0];
    let dead = Arc::new(DeadRow {
        reason: DeadReason::Expired,
        died_ms: 1,
        accepted_ms: 1,
        topic: TopicId(0),
        sequence: 1,
        key: None,
        message_id: String::new(),
        source: String::new(),
        history: History::default(),
        excused: None,
    });
    let mut settlement = Settlement::new(id, 1);
    settlement.dead = vec![(3, Some(dead.clone())), (4, Some(dead.clone())), (4, None)];
    sequencer.commit(Txn { settlements: vec![settlement], ..Txn::default() }, None, None).unwrap();
    let group = sequencer.take_group().unwrap();
    assert_eq!(group.dead, HashMap::from([((id, 3), Some(dead)), ((id, 4), None)]));
}

proptest! {
    /// Scans of the overlay, and conflicts, against naive maps.
    #[test]
    fn overlay_and_validation_agree_with_naive_maps(
        steps in prop::collection::vec(("[ab]{0,3}", prop::option::of(Just("v"))), 1..40),
        prefix in "[ab]{0,2}", after in prop::option::of("[ab]{0,3}"), through in prop::option::of("[ab]{0,3}"),
        limit in 0..6usize, synced in 0..40u64, seen in 0..40u64,
    ) {
        let mut sequencer = fresh();
        sequencer.pin();
        let mut last_write = std::collections::BTreeMap::new();
        for (key, value) in &steps {
            let txn = Txn { writes: vec![put(key, *value)], ..Txn::default() };
            let number = sequencer.commit(txn, None, None).unwrap().txn;
            last_write.insert(key.clone(), (number, *value));
        }
        sequencer.synced(synced, 0, &StateGrowth::default(), Vec::new());
        let inside = |key: &str| key.starts_with(&prefix) && after.as_deref().is_none_or(|after| key > after);

        let mut expected = Vec::new();
        let mut present = 0;
        for (key, (number, value)) in &last_write {
            if *number > synced && inside(key) && present < limit {
                present += usize::from(value.is_some());
                expected.push((key.clone(), value.map(|value| Bytes::from_static(value.as_bytes()))));
            }
        }
        let found = sequencer.state_range("c", &prefix, after.as_deref(), limit);
        let found: Vec<_> = found.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
        prop_assert_eq!(found, expected);

        let conflict = last_write.iter().any(|(key, (number, _))| {
            *number > seen && inside(key) && through.as_deref().is_none_or(|through| &**key <= through)
        });
        let range = StateRange::Scan { prefix: prefix.clone(), after: after.clone(), through: through.clone() };
        let read = StateRead { consumer: "c".into(), range, seen };
        let result = sequencer.commit(Txn { reads: vec![read], ..Txn::default() }, None, None);
        prop_assert_eq!(result.is_err(), conflict);
    }
}
