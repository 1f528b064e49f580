use proptest::prelude::*;

use super::*;
use crate::log::{Cause, Deployment, DueRefund, PluginRecord, ProbationEnd, ProbationEnded, RolledBack};

fn text() -> impl Strategy<Value = String> {
    "[ -~\u{e4}\u{1f680}\n]{0,20}"
}

fn digest_of(byte: u8) -> Digest {
    Digest([byte; 32])
}

prop_compose! {
    fn attempt()(
        at_ms: u64, duration_us: u64, outcome in 0..OutcomeKind::ALL.len(), text in text(), digest: u8, charged: bool,
    ) -> Attempt {
        Attempt { at_ms, duration_us, outcome: OutcomeKind::ALL[outcome], text, digest: digest_of(digest), charged }
    }
}

prop_compose! {
    fn some_history()(
        charged: u32, unavailable: u32, reruns: u32, redrives: u32, failing_since_ms: u64, first_attempt_ms: u64, omitted: u64,
        attempts in prop::collection::vec(attempt(), 0..4),
    ) -> History {
        History { charged, unavailable, reruns, redrives, failing_since_ms, first_attempt_ms, attempts, omitted }
    }
}

prop_compose! {
    fn some_deployment()(
        number: u64, digest: u8, at_ms: u64, manifest in prop::option::of(text()), cause in 0..Cause::ALL.len(),
        end in prop::option::of((0..ProbationEnded::ALL.len(), any::<u64>(), any::<u64>(), text())),
    ) -> Deployment {
        let probation = end.map(|(how, messages, failures, last)| {
            ProbationEnd { how: ProbationEnded::ALL[how], messages, failures, last }
        });
        let (digest, manifest_digest) = (digest_of(digest), digest_of(digest.wrapping_add(1)));
        Deployment { number, digest, manifest_digest, manifest, at_ms, cause: Cause::ALL[cause], probation }
    }
}

prop_compose! {
    fn some_plugin()(
        digest: u8, manifest in text(), deployed_ms: u64, deployed: [u64; Cause::ALL.len()],
        rolled_back in prop::collection::vec((any::<u8>(), any::<u64>(), 0..Cause::ALL.len(), text()), 0..4),
        back_to in prop::option::of(1..u64::MAX), refunds in prop::collection::vec(any::<(u8, u64)>(), 0..3),
        history in prop::collection::vec(some_deployment(), 0..4),
    ) -> PluginRecord {
        let rolled_back = rolled_back.into_iter().map(|(digest, at_ms, by, why)| {
            RolledBack { digest: digest_of(digest), manifest: digest_of(7), at_ms, by: Cause::ALL[by], why }
        });
        let refunds = refunds.into_iter().map(|(digest, since_ms)| DueRefund { digest: digest_of(digest), since_ms });
        let (rolled_back, refunds) = (rolled_back.collect(), refunds.collect());
        PluginRecord { digest: digest_of(digest), manifest, deployed_ms, rolled_back, back_to, refunds, history, deployed }
    }
}

/// Ascending offsets made of steps.
fn ascending(first: u64, steps: &[u64]) -> Vec<Offset> {
    let mut last = first;
    std::iter::once(first)
        .chain(steps.iter().map(|step| {
            last += step;
            last
        }))
        .collect()
}

fn encoded(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out);
    out
}

proptest! {
    #[test]
    fn topics_come_back(created_ms: u64, last_sequence: u64, last_offset: u64, messages: u64, bytes: u64, gaps_end: u64) {
        let name = TopicName::any("$lag.a-b").unwrap();
        let info = TopicInfo { id: TopicId(3), name, created_ms, last_sequence, last_offset, messages, bytes, gaps_end, removed_before: last_offset };
        let found = topic(TopicId(3), &encoded(|out| put_topic(out, &info))).unwrap();
        prop_assert_eq!(format!("{found:?}"), format!("{info:?}"));
    }

    #[test]
    fn index_rows_come_back(block in 0..1u64 << 60, first in 0..1u64 << 30, last in 0..1u64 << 30, first_sequence: u64, messages: u64) {
        let first = block + first;
        let entry = TopicBlock { first_sequence, messages, first, last: first + last };
        prop_assert_eq!(topic_block(block, &encoded(|out| put_topic_block(out, block, &entry))), Ok(entry));
    }

    #[test]
    fn subscriptions_come_back(name in text(), consumer in text(), created_ms: u64, epoch: u64, passes_dead_before: u64, paused: bool, from: u64, filters in 0..4usize) {
        let filters = ["order.*", ">", "$lag.>", "a"][..filters].iter().map(|f| (TopicFilter::parse(f).unwrap(), from));
        let removed = vec![(TopicName::any("$lag.a").unwrap(), from)];
        let selection = Selection { filters: filters.collect(), removed };
        let record = SubscriptionRecord { consumer, selection, created_ms, epoch, passes_dead_before, paused };
        let found = subscription(&encoded(|out| put_subscription(out, &name, &record)));
        prop_assert_eq!(found, Ok((name, record)));
    }

    #[test]
    fn accounts_come_back(floor in 0..1u64 << 40, steps in prop::collection::vec(1..1u64 << 30, 0..12), numbers: [u64; 8], died: [u64; DeadReason::ALL.len()]) {
        let ends = ascending(floor, &steps);
        let above = ends[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        let position = Position::from_parts(floor, above).unwrap();
        let [passed, rows, dead, acked, expired, skipped, reopened, redriven] = numbers;
        let counts = Counts { passed, rows, dead, acked, expired, skipped, reopened, died, redriven };
        prop_assert_eq!(account(&encoded(|out| put_account(out, &position, &counts))), Ok((position, counts)));
    }

    #[test]
    fn retries_come_back(due_ms: u64, accepted_ms: u64, key in prop::option::of(any::<u64>()), died_ms in prop::option::of(any::<u64>()), excused in 0..3u8, parks in 0..3u64, history in some_history()) {
        let parks = [None, Some(Parks::Key(KeyHash(accepted_ms))), Some(Parks::Subscription)][parks as usize];
        let (reason, excused) = (DeadReason::ALL[usize::from(excused)], Excuse::from_u8(excused));
        let redrive = died_ms.map(|died_ms| Redrive { reason, died_ms, excused, parks });
        let row = RetryRow { due_ms, accepted_ms, key: key.map(KeyHash), redrive, history };
        let bytes = encoded(|out| put_retry(out, &row));
        let front = loaded_retry(9, &bytes).unwrap();
        prop_assert_eq!((front.offset, front.due_ms, front.accepted_ms), (9, due_ms, accepted_ms));
        prop_assert_eq!((front.key, front.redrive), (row.key, row.redrive));
        prop_assert_eq!(retry(&bytes), Ok(row));
    }

    #[test]
    fn held_rows_come_back(accepted_ms: u64, first in 0..1u64 << 40, steps in prop::collection::vec(1..1u64 << 20, 0..50), front: prop::sample::Index) {
        let offsets = ascending(first, &steps);
        let row = HeldRow { front: front.index(offsets.len() + 1) as u32, offsets, accepted_ms };
        prop_assert_eq!(held(&encoded(|out| put_held(out, &row))), Ok(row));
    }

    #[test]
    fn dead_letters_come_back(reason in 0..DeadReason::ALL.len(), died_ms: u64, accepted_ms: u64, topic: u32, sequence: u64, texts in (prop::option::of(text()), text(), text()), excused in 0..3u8, history in some_history()) {
        let (key, message_id, source) = texts;
        let excused = Excuse::from_u8(excused);
        let row = DeadRow { reason: DeadReason::ALL[reason], died_ms, accepted_ms, topic: TopicId(topic), sequence, key, message_id, source, history, excused };
        prop_assert_eq!(dead(&encoded(|out| put_dead(out, &row))), Ok(row));
    }

    #[test]
    fn what_is_parked_comes_back(key: u64, whole: bool) {
        let parks = if whole { Parks::Subscription } else { Parks::Key(KeyHash(key)) };
        prop_assert_eq!(parked(&encoded(|out| put_parked(out, &parks))), Ok(parks));
    }

    #[test]
    fn plugins_come_back(record in some_plugin()) {
        prop_assert_eq!(plugin(&encoded(|out| put_plugin(out, &record))), Ok(record));
    }

    #[test]
    fn any_bytes_are_answered_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), block: u64) {
        let _ = topic(TopicId(1), &bytes);
        let _ = topic_block(block, &bytes);
        let _ = subscription(&bytes);
        let _ = account(&bytes);
        let _ = loaded_retry(1, &bytes);
        let _ = retry(&bytes);
        let _ = held(&bytes);
        let _ = dead(&bytes);
        let _ = parked(&bytes);
        let _ = plugin(&bytes);
    }

    #[test]
    fn small_numbers_are_answered_without_a_panic(bytes in prop::collection::vec(0..3u8, 0..60)) {
        // Bytes that pass for counts and flags reach further into a layout than random ones.
        let _ = account(&bytes);
        let _ = retry(&bytes);
        let _ = held(&bytes);
        let _ = subscription(&bytes);
    }
}

#[test]
fn what_follows_a_value_is_damage() {
    let row = HeldRow { offsets: vec![1, 2], front: 0, accepted_ms: 3 };
    let mut bytes = encoded(|out| put_held(out, &row));
    bytes.push(0);
    assert_eq!(held(&bytes), Err(Malformed("it has more bytes than its value")));
}
