//! The corpus that the fuzz target `records` begins with: one case at least for each layout, as it is written today.
//! A change of a layout shows here, and asks for another `FORMAT_VERSION`; then
//! `SANDPOST_WRITE_CORPUS=1 cargo test -p sandpost recode` writes the corpus anew.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::log::position::Position;
use crate::log::{
    Cause, Counts, DeadRow, Deployment, DueRefund, HeldRow, KeyHash, Parks, PluginRecord, ProbationEnd, ProbationEnded,
    Redrive, RetryRow, RolledBack, Scheduled, ScheduledAt, Selection, StateSize, SubscriptionRecord, TopicInfo,
};
use crate::message::{Event, Message};
use crate::outcome::{Attempt, DeadReason, Digest, Excuse, History, OutcomeKind};
use crate::topic::TopicFilter;

/// 2026-01-31T09:30:00Z
const NOW_MS: u64 = 1_769_851_800_000;

fn case(letter: u8, key: &[u8], put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut case = vec![letter];
    case.extend_from_slice(key);
    put(&mut case);
    case
}

fn topic() -> TopicName {
    TopicName::any("order.placed").unwrap()
}

fn event(id: &str, data: &'static str) -> Event {
    Event {
        topic: topic(),
        id: id.to_owned(),
        source: "/shop".to_owned(),
        kind: "order.placed".to_owned(),
        subject: Some("o-17".to_owned()),
        key: Some("customer-3".to_owned()),
        content_type: Some("application/json".to_owned()),
        attributes: vec![("time".to_owned(), "2026-01-31T09:30:00Z".to_owned())],
        data: data.into(),
        hops: 1,
        named: true,
        deliver_at_ms: None,
    }
}

fn history() -> History {
    let attempt = |after_ms, outcome, text: &str| Attempt {
        at_ms: NOW_MS + after_ms,
        duration_us: 1_250,
        outcome,
        text: text.to_owned(),
        digest: Digest([7; 32]),
        charged: true,
    };
    let mut history = History { charged: 2, reruns: 1, failing_since_ms: NOW_MS, ..History::default() };
    history.record(attempt(0, OutcomeKind::Retry, "the mail server is busy"));
    history.record(attempt(1_000, OutcomeKind::Trapped, "wasm trap: unreachable"));
    history
}

fn plugin() -> PluginRecord {
    let (digest, manifest_digest) = (Digest([7; 32]), Digest([8; 32]));
    let manifest = "[[subscription]]\ntopics = [\"order.*\"]\n".to_owned();
    let end = ProbationEnd {
        how: ProbationEnded::ALL[0],
        messages: 100,
        failures: 3,
        last: "wasm trap: unreachable".to_owned(),
    };
    let deployment = |number, probation| Deployment {
        number,
        digest,
        manifest_digest,
        manifest: Some(manifest.clone()),
        at_ms: NOW_MS,
        cause: Cause::Folder,
        probation,
    };
    let rolled_back = RolledBack {
        digest,
        manifest: manifest_digest,
        at_ms: NOW_MS,
        by: Cause::Probation,
        why: "3 of 100 failed".to_owned(),
    };
    PluginRecord {
        rolled_back: vec![rolled_back],
        back_to: Some(1),
        refunds: vec![DueRefund { digest, since_ms: NOW_MS }],
        history: vec![deployment(1, None), deployment(2, Some(end))],
        deployed: [2, 0, 1, 0],
        ..PluginRecord::new(digest, manifest.clone(), NOW_MS)
    }
}

/// Each with its file's name.
fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    let messages: Vec<_> = [("1", "{\"total\":12}"), ("2", "{}"), ("3", "")]
        .into_iter()
        .zip(40..)
        .map(|((id, data), offset)| {
            let (sequence, accepted_ms) = (offset - 32, NOW_MS + offset);
            Arc::new(Message { offset, sequence, topic_id: TopicId(1), accepted_ms, event: event(id, data) })
        })
        .collect();
    let packed = block::pack(&messages).remove(0).stored.split_off(super::super::tables::CHECKSUM_BYTES);
    let left = block::without(40, &packed, |offset| offset == 41).unwrap().stored.unwrap();
    let left = &left[super::super::tables::CHECKSUM_BYTES..];
    let info = TopicInfo {
        id: TopicId(1),
        name: topic(),
        created_ms: NOW_MS,
        last_sequence: 10,
        last_offset: 42,
        messages: 3,
        bytes: 240,
        gaps_end: 9,
        removed_before: 40,
    };
    let entry = rows::TopicBlock { first_sequence: 8, messages: 3, first: 40, last: 42 };
    let record = SubscriptionRecord {
        consumer: "email".to_owned(),
        selection: Selection {
            filters: vec![(TopicFilter::parse("order.*").unwrap(), 5), (TopicFilter::parse("payment.>").unwrap(), 0)],
            removed: vec![(topic(), 40)],
        },
        created_ms: NOW_MS,
        epoch: 2,
        passes_dead_before: 3,
        paused: true,
    };
    let position = Position::from_parts(40, vec![(41, 42), (44, 50)]).unwrap();
    let counts =
        Counts { passed: 47, rows: 4, dead: 1, acked: 42, died: [1; DeadReason::ALL.len()], ..Counts::default() };
    let redrive = Redrive {
        reason: DeadReason::ALL[1],
        died_ms: NOW_MS,
        excused: Excuse::from_u8(1),
        parks: Some(Parks::Key(KeyHash(3))),
    };
    let retry = |redrive| RetryRow {
        due_ms: NOW_MS + 5_000,
        accepted_ms: NOW_MS,
        key: Some(KeyHash(3)),
        redrive,
        history: history(),
    };
    let held = HeldRow { offsets: vec![41, 43, 300], front: 1, accepted_ms: NOW_MS };
    let dead = DeadRow::of(&messages[0], DeadReason::ALL[0], NOW_MS, history());
    let at = ScheduledAt { due_ms: NOW_MS, number: 6 };
    // Close to the largest number, where a sum is one too large if anything is changed.
    let last = u64::MAX - 2;
    let last_entry = rows::TopicBlock { first_sequence: last, messages: 1, first: last, last: last + 1 };
    let last_position = Position::from_parts(last - 1, vec![(last, last + 1)]).unwrap();
    let last_held = HeldRow { offsets: vec![1, last, last + 1], front: 0, accepted_ms: last };
    let last_message = Arc::new(Message { offset: last, sequence: last, ..Message::clone(&messages[2]) });
    let last_block = block::pack(&[last_message]).remove(0).stored.split_off(super::super::tables::CHECKSUM_BYTES);
    let scheduled = Scheduled { at, accepted_ms: NOW_MS - 1_000, event: event("4", "{\"total\":1}") };
    vec![
        ("topic", case(b'T', &[], |out| rows::put_topic(out, &info))),
        ("block", case(b'B', &offset_key(40), |out| out.extend_from_slice(&packed))),
        ("block_with_a_gap", case(b'B', &offset_key(40), |out| out.extend_from_slice(left))),
        ("topic_block", case(b'I', &offset_key(40), |out| rows::put_topic_block(out, 40, &entry))),
        ("subscription", case(b'S', &[], |out| rows::put_subscription(out, "email", &record))),
        ("account", case(b'A', &[], |out| rows::put_account(out, &position, &counts))),
        ("retry", case(b'R', &[], |out| rows::put_retry(out, &retry(None)))),
        ("retry_of_a_dead_letter", case(b'R', &[], |out| rows::put_retry(out, &retry(Some(redrive))))),
        ("held", case(b'H', &[], |out| rows::put_held(out, &held))),
        ("dead_letter", case(b'D', &[], |out| rows::put_dead(out, &dead))),
        ("parked_key", case(b'P', &[], |out| rows::put_parked(out, &Parks::Key(KeyHash(3))))),
        ("parked_subscription", case(b'P', &[], |out| rows::put_parked(out, &Parks::Subscription))),
        ("state_size", case(b'Z', &[], |out| rows::put_state_size(out, &StateSize { entries: 3, bytes: 500 }))),
        ("plugin", case(b'C', &[], |out| rows::put_plugin(out, &plugin()))),
        ("last_topic_block", case(b'I', &offset_key(last), |out| rows::put_topic_block(out, last, &last_entry))),
        ("last_block", case(b'B', &offset_key(last), |out| out.extend_from_slice(&last_block))),
        ("last_account", case(b'A', &[], |out| rows::put_account(out, &last_position, &Counts::default()))),
        ("last_held", case(b'H', &[], |out| rows::put_held(out, &last_held))),
        ("scheduled", case(b'W', &scheduled_key(at), |out| rows::put_scheduled(out, &scheduled))),
    ]
}

#[test]
fn the_corpus_of_stored_records_is_what_is_written_today() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/records");
    let corpus = corpus();
    for letter in LETTERS {
        assert!(corpus.iter().any(|(_, case)| case[0] == *letter), "the layout {:?} has no case", char::from(*letter));
    }
    for (name, case) in corpus {
        let recoded = recode(&case).unwrap_or_else(|| panic!("`{name}` is refused"));
        assert_eq!(recoded.case, case, "`{name}` is written as it was read");
        let file = folder.join(name);
        if std::env::var_os("SANDPOST_WRITE_CORPUS").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&file, &case).unwrap();
        }
        let kept = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(kept == case, "the layout of `{name}` is no longer what {} holds", file.display());
    }
}
