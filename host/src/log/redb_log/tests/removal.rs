//! Removal: what goes is gone by every way of reading, what stays is found by every way, and what was
//! removed differs from what is missing.

use proptest::prelude::*;
use redb::ReadableTable;

use super::*;
use crate::log::disk::faults::{FakeDisk, Step};
use crate::log::redb_log::tables::{BLOCKS, REMOVED, TOPIC_BLOCKS};
use crate::log::removal::{Removal, Standing, Stretch};
use crate::log::{CountsDelta, DeadRow, HeldAt, HeldRow, KeyHash, ReadError, RetryRow, Settlement};
use crate::message::{Millis, Sequence};
use crate::outcome::{DeadReason, History};

const TOPICS: [&str; 4] = ["order.placed", "order.paid", "stock.low", "$lag.email"];

#[derive(Clone, Debug)]
enum Move {
    /// Topics of the messages, and how much time passed before.
    Publish(Vec<usize>, Millis),
    /// Everything of some topics below a part of the log, but what a draw keeps.
    Remove {
        topics: Vec<bool>,
        below: prop::sample::Index,
        keep: u8,
        seed: u64,
    },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Move>> {
    let publish =
        (prop::collection::vec(0..4usize, 1..30), 0..50u64).prop_map(|(topics, ms)| Move::Publish(topics, ms));
    let remove = (prop::collection::vec(any::<bool>(), 4), any::<prop::sample::Index>(), 0..4u8, any::<u64>())
        .prop_map(|(topics, below, keep, seed)| Move::Remove { topics, below, keep, seed });
    prop::collection::vec(prop_oneof![5 => publish, 4 => remove, 1 => Just(Move::Reopen)], 1..14)
}

/// A message as the naive model knows it.
#[derive(Clone, Debug)]
struct Known {
    offset: Offset,
    topic: usize,
    sequence: Sequence,
    accepted_ms: Millis,
    gone: bool,
}

/// All that stands, by surveying the whole log.
fn standing(bench: &Bench) -> Vec<Standing> {
    let topics: Vec<_> = bench.log.topics().iter().map(|topic| (topic.id, Offset::MAX)).collect();
    let stretches = bench.log.stretches(&topics, 0, usize::MAX).unwrap();
    stretches.into_iter().flat_map(|stretch| bench.log.survey(stretch).unwrap()).collect()
}

fn remove(bench: &Bench, chosen: impl Fn(&Standing) -> bool) -> Removal {
    let mut removal = Removal::default();
    standing(bench).iter().filter(|message| chosen(message)).for_each(|message| removal.add(message));
    bench.commit(Txn { changes: vec![Change::RemoveMessages(removal.clone())], ..Txn::default() }).unwrap();
    removal
}

fn check(bench: &Bench, known: &[Known]) {
    let end = known.len() as u64;
    let narrow = ReadBounds { messages_max: 3, bytes_max: 1 << 20 };
    for filters in ["order.placed", "order.*", "order.paid,stock.low", ">", "$lag.*", "nothing.here"] {
        let matches = selection(filters);
        for from in [0, end / 3, end / 2, end.saturating_sub(1), end] {
            let expected: Vec<Offset> = known
                .iter()
                .filter(|one| !one.gone && one.offset >= from && matches.from_offset(TOPICS[one.topic]).is_some())
                .map(|one| one.offset)
                .collect();
            assert_eq!(bench.offsets(filters, from, WIDE), expected, "{filters} from {from}");
            let (one, other) = (from + (end - from) / 4, end - (end - from) / 3);
            let ranges = [(from, one), (one.max(other), end)];
            let within = expected.iter().filter(|offset| **offset < one || **offset >= ranges[1].0).count() as u64;
            assert_eq!(bench.log.count(&matches, &ranges).unwrap(), within, "{filters} in {ranges:?}");
            assert_eq!(bench.offsets(filters, from, narrow), expected, "{filters} from {from}, a few at a time");
            assert_eq!(
                bench.log.count(&matches, &[(from, end)]).unwrap(),
                expected.len() as u64,
                "{filters} from {from}"
            );
        }
    }
    for (index, topic) in TOPICS.iter().enumerate() {
        let of_topic: Vec<&Known> = known.iter().filter(|one| one.topic == index).collect();
        let Some(info) = bench.log.topic(topic) else {
            assert!(of_topic.is_empty());
            continue;
        };
        let left: Vec<_> = of_topic.iter().filter(|one| !one.gone).collect();
        assert_eq!((info.messages, info.last_sequence), (left.len() as u64, of_topic.len() as u64), "{topic}");
        let first = left.first().map(|one| (one.sequence, one.offset));
        assert_eq!(bench.log.first_retained(info.id).unwrap(), first, "{topic}");
        for sequence in 0..=of_topic.len() as u64 + 1 {
            let expected = left.iter().find(|one| one.sequence >= sequence).map_or(end, |one| one.offset);
            assert_eq!(bench.log.locate(topic, sequence).unwrap(), expected, "{topic}@{sequence}");
        }
    }
    for one in known {
        let found = bench.log.read_offsets(&[one.offset]);
        if one.gone {
            assert_eq!(found.unwrap_err(), ReadError::Removed { offset: one.offset });
        } else {
            let message = &found.unwrap()[0];
            let place = (message.offset, message.sequence, message.event.topic.as_str(), message.accepted_ms);
            assert_eq!(place, (one.offset, one.sequence, TOPICS[one.topic], one.accepted_ms));
        }
        let first = known.iter().find(|other| !other.gone && other.accepted_ms >= one.accepted_ms);
        let expected = first.map_or(end, |first| first.offset);
        assert_eq!(bench.log.offset_at(one.accepted_ms).unwrap(), expected, "at {}", one.accepted_ms);
    }
    assert_eq!(bench.log.read_offsets(&[end]).unwrap_err(), ReadError::Missing { offset: end });
    let bytes: u64 = standing(bench).iter().map(|message| message.bytes).sum();
    assert_eq!(bench.log.figures().message_bytes, bytes, "what is counted is what is there");
}

fn run(steps: &[Move], recent_bytes_max: usize) {
    let mut bench = Bench::with(|options| options.recent_bytes_max = recent_bytes_max);
    let mut known: Vec<Known> = Vec::new();
    let mut sequences = [0; TOPICS.len()];
    let mut now_ms = 1_000;
    for step in steps {
        match step {
            Move::Publish(topics, later_ms) => {
                now_ms += later_ms;
                let appends = topics.iter().map(|topic| sized(TOPICS[*topic], "1", 20 * topic)).collect();
                let sequenced = bench.commit(Txn { now_ms, ..publish(appends) }).unwrap();
                for (placed, &topic) in sequenced.placed.iter().zip(topics) {
                    sequences[topic] += 1;
                    let (offset, sequence) = placed.message().unwrap();
                    assert_eq!((offset, sequence), (known.len() as u64, sequences[topic]));
                    known.push(Known { offset, topic, sequence, accepted_ms: now_ms, gone: false });
                }
            }
            Move::Remove { topics, below, keep, seed } => {
                let below = below.index(known.len() + 1) as u64;
                let mut random = fastrand::Rng::with_seed(*seed);
                let kept: Vec<bool> = known.iter().map(|_| *keep > 0 && random.u8(..8) < *keep).collect();
                let goes = |offset: Offset| {
                    let one = &known[offset as usize];
                    topics[one.topic] && offset < below && !kept[offset as usize]
                };
                let gone: Vec<Offset> =
                    known.iter().filter(|one| !one.gone && goes(one.offset)).map(|one| one.offset).collect();
                let removal = remove(&bench, |message| goes(message.offset));
                assert_eq!(removal.messages(), gone.len() as u64);
                gone.into_iter().for_each(|offset| known[offset as usize].gone = true);
            }
            Move::Reopen => bench = bench.reopen_with(|options| options.recent_bytes_max = recent_bytes_max),
        }
        check(&bench, &known);
    }
    check(&bench.reopen(), &known);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_stays_and_what_goes_agree_with_a_naive_list(steps in steps(), small: bool) {
        run(&steps, if small { 2_000 } else { 1 << 20 });
    }
}

fn rows(bench: &Bench, table: &'static crate::log::redb_log::tables::Table) -> usize {
    let read = bench.log.inner.snapshot();
    read.open_table(table.definition).unwrap().iter().unwrap().count()
}

#[test]
fn removed_ranges_melt_into_one_row_and_index_rows_follow() {
    let bench = Bench::new();
    for _ in 0..9 {
        bench.publish(vec![event("order.placed", "1"), event("order.paid", "2")]);
    }
    assert_eq!((rows(&bench, &BLOCKS), rows(&bench, &TOPIC_BLOCKS), rows(&bench, &REMOVED)), (9, 18, 0));
    // Two apart, then the one between them.
    remove(&bench, |message| (2..4).contains(&message.offset) || (6..8).contains(&message.offset));
    assert_eq!((rows(&bench, &BLOCKS), rows(&bench, &TOPIC_BLOCKS), rows(&bench, &REMOVED)), (7, 14, 2));
    remove(&bench, |message| (4..6).contains(&message.offset));
    assert_eq!((rows(&bench, &BLOCKS), rows(&bench, &TOPIC_BLOCKS), rows(&bench, &REMOVED)), (6, 12, 1));
    // One topic leaves every block, and keeps no index row.
    remove(&bench, |message| message.offset % 2 == 1);
    assert_eq!((rows(&bench, &BLOCKS), rows(&bench, &TOPIC_BLOCKS), rows(&bench, &REMOVED)), (6, 6, 1));
    remove(&bench, |_| true);
    assert_eq!((rows(&bench, &BLOCKS), rows(&bench, &TOPIC_BLOCKS), rows(&bench, &REMOVED)), (0, 0, 1));
    // An empty log still knows where it ends.
    let bench = bench.reopen();
    assert_eq!((bench.log.end(), bench.publish(events("order.paid", 1))), (18, vec![18]));
    assert_eq!(bench.offsets(">", 0, WIDE), [18]);
}

#[test]
fn what_is_missing_without_a_removal_is_damage() {
    let bench = Bench::new();
    for _ in 0..4 {
        bench.publish(events("order.placed", 3));
    }
    remove(&bench, |message| message.offset < 3);
    let Bench { log, folder, .. } = bench;
    log.close();
    drop(log);
    let database = redb::Database::create(folder.path().join("log.redb")).unwrap();
    let write = database.begin_write().unwrap();
    let mut blocks = write.open_table(BLOCKS.definition).unwrap();
    let second = blocks.first().unwrap().map(|(key, _)| key.value().to_vec()).unwrap();
    assert!(blocks.remove(&*second).unwrap().is_some());
    drop(blocks);
    write.commit().unwrap();
    drop(database);
    let bench = Bench::start(RedbLog::open(&options(&folder)).unwrap(), folder);
    assert_eq!(bench.log.read_offsets(&[1]).unwrap_err(), ReadError::Removed { offset: 1 });
    assert_eq!(bench.log.read_offsets(&[4]).unwrap_err(), ReadError::Missing { offset: 4 });
    assert_eq!(bench.log.read_offsets(&[7]).unwrap()[0].offset, 7);
    let everything = bench.log.read(&selection(">"), 0, WIDE);
    assert_eq!(everything.unwrap_err(), ReadError::Missing { offset: 3 });
}

#[test]
fn messages_with_rows_are_pinned_and_nothing_else_is() {
    let bench = Bench::new();
    let ids = [bench.subscribe("email"), bench.subscribe("stock")];
    for _ in 0..20 {
        bench.publish(events("order.placed", 5));
    }
    let history = History::default;
    let retry = Arc::new(RetryRow { due_ms: 1, accepted_ms: 1, key: None, redrive: None, history: history() });
    let dead = |offset| {
        let (reason, topic) = (DeadReason::Rejected, crate::message::TopicId(0));
        let row = DeadRow {
            reason,
            died_ms: 1,
            accepted_ms: 1,
            topic,
            sequence: offset + 1,
            key: None,
            message_id: String::new(),
            source: String::new(),
            history: history(),
            excused: None,
        };
        (offset, Some(Arc::new(row)))
    };
    let held = |subscription, offsets: Vec<Offset>, front| {
        let at = HeldAt { subscription, key: KeyHash(offsets[0]), first: offsets[0] };
        (at, Some(Arc::new(HeldRow { offsets, front, accepted_ms: 1 })))
    };
    for (index, id) in ids.into_iter().enumerate() {
        let base = 10 * index as u64;
        let settlement = Settlement {
            passed: vec![(0, 100)],
            counts: CountsDelta { passed: 100, acked: 94, rows: 4, dead: 2, ..CountsDelta::default() },
            retries: vec![(base, Some(retry.clone())), (base + 51, Some(retry.clone()))],
            held: vec![held(id, vec![base + 2, base + 3, base + 70], 1)],
            dead: vec![dead(base + 7), dead(base + 88)],
            ..Settlement::new(id, 1)
        };
        bench.commit(Txn { settlements: vec![settlement], ..Txn::default() }).unwrap();
    }
    let all = [0, 3, 7, 10, 13, 17, 51, 61, 70, 80, 88, 98];
    let stretch = |from, to| Stretch { from, to, messages: 0 };
    assert_eq!(bench.log.pinned(&[stretch(0, 100)]).unwrap(), all);
    for (stretches, expected) in [
        (vec![stretch(0, 5), stretch(60, 65), stretch(80, 90)], vec![0, 3, 61, 80, 88]),
        (vec![stretch(1, 3)], vec![]),
        (vec![stretch(5, 10), stretch(15, 20), stretch(98, 99)], vec![7, 17, 98]),
        (vec![], vec![]),
    ] {
        assert_eq!(bench.log.pinned(&stretches).unwrap(), expected, "{stretches:?}");
    }
    assert_eq!(bench.log.reaches().unwrap().iter().map(|reach| reach.floor).collect::<Vec<_>>(), [100, 100]);
    // What is pinned survives the rewriting of its block.
    let pinned = bench.log.pinned(&[stretch(0, 100)]).unwrap();
    remove(&bench, |message| pinned.binary_search(&message.offset).is_err());
    let bench = bench.reopen();
    assert_eq!(bench.offsets(">", 0, WIDE), all);
    assert_eq!(bench.log.read_offsets(&all).unwrap().len(), all.len());
}

#[test]
fn what_a_subscription_has_before_it_is_not_removed() {
    let bench = Bench::new();
    let id = bench.subscribe("email");
    bench.publish(events("order.placed", 4));
    bench.publish(events("stock.low", 1));
    let settlement = Settlement {
        passed: vec![(0, 2)],
        counts: CountsDelta { passed: 2, acked: 2, ..CountsDelta::default() },
        ..Settlement::new(id, 1)
    };
    bench.commit(Txn { settlements: vec![settlement], ..Txn::default() }).unwrap();
    let mut removal = Removal::default();
    standing(&bench)[..3].iter().for_each(|message| removal.add(message));
    let refused = bench.commit(Txn { changes: vec![Change::RemoveMessages(removal)], ..Txn::default() }).unwrap_err();
    let (subscription, topic) = ("email".to_owned(), "order.placed".to_owned());
    assert_eq!(refused, CommitError::StillNeeded { subscription, topic });
    assert_eq!(bench.offsets(">", 0, WIDE), [0, 1, 2, 3, 4]);
    // What it has passed, and what it does not take, may go.
    remove(&bench, |message| message.offset < 2 || message.offset == 4);
    assert_eq!(bench.offsets(">", 0, WIDE), [2, 3]);
}

fn file_bytes(folder: &TempDir) -> u64 {
    std::fs::metadata(folder.path().join("log.redb")).unwrap().len()
}

/// A closed log whose file is mostly free, and what stays in it.
fn drained() -> (Arc<TempDir>, Vec<Offset>) {
    let bench = Bench::new();
    for _ in 0..40 {
        bench.publish((0..50).map(|_| sized("order.placed", "1", 10_000)).collect());
    }
    // The newest ones stay where they are, at the end of the file: redb gives back a free end by itself.
    remove(&bench, |message| message.offset < 1_950 && !message.offset.is_multiple_of(300));
    let left = bench.offsets(">", 0, WIDE);
    let Bench { log, folder, .. } = bench;
    log.close();
    (folder, left)
}

#[test]
fn a_file_that_is_mostly_free_shrinks_when_it_is_compacted() {
    let (folder, left) = drained();
    let full = file_bytes(&folder);
    assert!(full > 20_000_000, "{full}");
    let bench = Bench::start(RedbLog::open(&options(&folder)).unwrap(), folder.clone());
    let refused = RedbLog::compact(&options(&folder)).unwrap_err();
    assert!(refused.to_string().contains("in use by another process"), "{refused}");
    drop(bench);
    let compacted = RedbLog::compact(&options(&folder)).unwrap();
    assert_eq!((compacted.before_bytes, compacted.after_bytes), (full, file_bytes(&folder)));
    assert!(compacted.after_bytes < full / 8, "{compacted:?}");
    let bench = Bench::start(RedbLog::open(&options(&folder)).unwrap(), folder);
    assert_eq!(bench.offsets(">", 0, WIDE), left);
    assert_eq!(bench.publish(events("order.placed", 1)), [2_000]);
    let nowhere = TempDir::new().unwrap();
    assert!(matches!(RedbLog::compact(&options(&nowhere)), Err(crate::log::redb_log::OpenError::Absent { .. })));
}

#[test]
fn a_start_compacts_a_large_file_that_is_mostly_free() {
    let (folder, left) = drained();
    let full = file_bytes(&folder);
    let open = |min| RedbLog::open(&OpenOptions { compact_bytes_min: min, ..options(&folder) }).unwrap();
    drop(open(full + 1));
    assert_eq!(file_bytes(&folder), full, "it is too small to be worth it");
    let bench = Bench::start(open(1 << 20), folder.clone());
    assert!(file_bytes(&folder) < full / 8, "{} of {full}", file_bytes(&folder));
    assert_eq!(bench.offsets(">", 0, WIDE), left);
    // One that is in use is left alone.
    for _ in 0..40 {
        bench.publish((0..50).map(|_| sized("order.placed", "1", 10_000)).collect());
    }
    bench.log.close();
    drop(bench);
    let used = file_bytes(&folder);
    drop(open(1 << 20));
    assert_eq!(file_bytes(&folder), used);
}

/// A reader that decoded a block from an older snapshot does not keep it for others.
#[test]
fn a_block_that_was_read_before_it_was_written_anew_is_not_served_again() {
    let bench = Bench::with(|options| options.recent_bytes_max = 0);
    bench.publish(events("order.placed", 64));
    let old = crate::log::redb_log::blocks::Blocks::open(&bench.log.inner).unwrap();
    remove(&bench, |message| message.offset < 60);
    // It answers from its own snapshot, and what it read stays its own.
    assert!(
        matches!(old.block(5), Ok(crate::log::redb_log::blocks::Place::Block(block)) if block.messages.len() == 64)
    );
    assert_eq!(bench.offsets("order.placed", 0, WIDE), [60, 61, 62, 63]);
    // One that was kept is forgotten.
    remove(&bench, |message| message.offset < 62);
    assert_eq!(bench.offsets("order.placed", 0, WIDE), [62, 63]);
}

#[test]
fn a_power_cut_leaves_all_of_a_removal_or_nothing() {
    let disk = FakeDisk::recording();
    let bench = Bench::on(disk.backend());
    for _ in 0..6 {
        bench.publish((0..10).map(|_| sized("order.placed", "1", 3_000)).collect());
    }
    let mut states: Vec<(usize, Vec<Offset>)> = vec![(disk.step_count(), (0..60).collect())];
    for round in 1..=4 {
        remove(&bench, |message| message.offset < 15 * round && !message.offset.is_multiple_of(7));
        states.push((disk.step_count(), bench.offsets(">", 0, WIDE)));
    }
    drop(bench);
    let steps = disk.steps();
    let (mut synced, mut written) = (Vec::new(), Vec::new());
    for (at, step) in steps.iter().enumerate() {
        if matches!(step, Step::Sync) {
            for image in [&synced, &written].into_iter().filter(|_| at >= states[0].0) {
                let bench = Bench::on(FakeDisk::with_bytes(image.clone()).backend());
                let found = bench.offsets(">", 0, WIDE);
                let answered = states.iter().rposition(|(steps, _)| *steps <= at).unwrap();
                let allowed = &states[answered..states.len().min(answered + 2)];
                assert!(allowed.iter().any(|(_, offsets)| *offsets == found), "before step {at}: {found:?}");
                assert_eq!(bench.publish(events("order.placed", 1)), [60]);
            }
            synced = written.clone();
        }
        step.apply(&mut written);
    }
}
