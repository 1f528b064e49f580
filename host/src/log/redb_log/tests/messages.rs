//! Messages: what is written is read, from memory, by the index and from blocks in a row.

use super::*;
use crate::log::ReadError;
use crate::log::redb_log::tests::opening::damage_where;
use crate::message::Sequence;

#[test]
fn a_message_comes_back_whole_from_memory_and_from_the_disk() {
    let bench = Bench::new();
    let whole = Event {
        subject: Some("order 7".to_owned()),
        key: Some("customer-3".to_owned()),
        content_type: Some("application/json".to_owned()),
        attributes: vec![("time".to_owned(), "2026-01-01T00:00:00Z".to_owned()), ("tenant".to_owned(), String::new())],
        data: Bytes::from_static(b"{\"a\":1}"),
        hops: 3,
        ..event("order.placed", "7")
    };
    bench.publish(vec![whole.clone(), event("order.placed", "8")]);
    let read = |bench: &Bench| bench.log.read(&selection("order.placed"), 0, WIDE).unwrap().messages;
    let warm = read(&bench);
    assert_eq!(warm[0].event, whole);
    assert_eq!((warm[1].offset, warm[1].sequence, warm[1].accepted_ms), (1, 2, 1_000));
    let bench = bench.reopen();
    assert_eq!(read(&bench), warm);
    assert_eq!(bench.log.read_offsets(&[1, 0]).unwrap(), [warm[1].clone(), warm[0].clone()]);
}

/// Publishes to several topics over many commits, and says which offset went where.
fn mixed(bench: &Bench, commits: usize, each: usize) -> Vec<(Offset, &'static str, Sequence)> {
    let topics = ["order.placed", "order.paid", "stock.low", "$lag.email"];
    let mut placed = Vec::new();
    for commit in 0..commits {
        let chosen: Vec<&'static str> = (0..each).map(|n| topics[(commit * 7 + n * n) % topics.len()]).collect();
        let appends = chosen.iter().map(|topic| sized(topic, "id", 700)).collect();
        let sequenced = bench.commit(publish(appends)).unwrap();
        let places = sequenced.placed.iter().map(|placed| placed.message().unwrap());
        placed.extend(places.zip(chosen).map(|((offset, sequence), topic)| (offset, topic, sequence)));
    }
    placed
}

#[test]
fn selections_read_the_same_by_every_way() {
    let bench = Bench::new();
    let placed = mixed(&bench, 20, 60);
    let narrow = ReadBounds { messages_max: 7, bytes_max: 1 << 20 };
    let tight = ReadBounds { messages_max: 1_000, bytes_max: 1 };
    let check = |bench: &Bench| {
        for filters in ["order.placed", "order.*", "order.paid,stock.low", ">", "$lag.*", "nothing.here"] {
            let matches = selection(filters);
            for from in [0, 1, 59, 60, 601, 1_199, 1_200] {
                let expected: Vec<Offset> = placed
                    .iter()
                    .filter(|(offset, topic, _)| *offset >= from && matches.from_offset(topic).is_some())
                    .map(|(offset, ..)| *offset)
                    .collect();
                assert_eq!(bench.offsets(filters, from, WIDE), expected, "{filters} from {from}");
                assert_eq!(bench.offsets(filters, from, narrow), expected, "{filters} from {from}");
                assert_eq!(
                    bench.log.count(&matches, &[(from, Offset::MAX)]).unwrap(),
                    expected.len() as u64,
                    "{filters} from {from}"
                );
            }
        }
        assert_eq!(
            bench.offsets("order.paid", 0, tight).len() as u64,
            bench.log.count(&selection("order.paid"), &[(0, Offset::MAX)]).unwrap()
        );
        for (offset, topic, sequence) in &placed {
            assert_eq!(bench.log.locate(topic, *sequence).unwrap(), *offset, "{topic}@{sequence}");
        }
    };
    check(&bench);
    // All from the disk, and then with only the newest messages in memory.
    let bench = bench.reopen();
    check(&bench);
    let bench = bench.reopen_with(|options| options.recent_bytes_max = 30_000);
    let tail = bench.publish(events("stock.high", 20));
    assert_eq!(tail[0], 1_200);
    assert_eq!(bench.offsets("stock.high", 0, narrow), tail);
    let both = bench.offsets("order.paid,stock.high", 0, narrow);
    assert_eq!(both.len() as u64, bench.log.count(&selection("order.paid"), &[(0, Offset::MAX)]).unwrap() + 20);
    assert_eq!(both[both.len() - 20..], tail, "from the disk into memory");
}

#[test]
fn each_filter_has_a_beginning_of_its_own() {
    let bench = Bench::new();
    for _ in 0..10 {
        bench.publish(vec![event("order.placed", "1"), event("order.paid", "2"), event("stock.low", "3")]);
    }
    let filter = |text: &str, from| (TopicFilter::parse(text).unwrap(), from);
    let selection = Selection::new(vec![filter("order.*", 9), filter("order.paid", 20), filter("stock.low", 100)]);
    let check = |bench: &Bench| {
        for from in [0, 12] {
            let found = bench.log.read(&selection, from, WIDE).unwrap();
            let offsets: Vec<Offset> = found.messages.iter().map(|message| message.offset).collect();
            let expected: Vec<Offset> = (from.max(9)..30).filter(|offset| offset % 3 != 2).collect();
            assert_eq!(offsets, expected);
            assert_eq!(bench.log.count(&selection, &[(from, Offset::MAX)]).unwrap(), expected.len() as u64);
        }
    };
    check(&bench);
    check(&bench.reopen());
}

#[test]
fn a_quiet_topic_is_found_without_reading_what_is_between() {
    let bench = Bench::new();
    let mut quiet = Vec::new();
    let mut noise = Vec::new();
    for round in 0..6 {
        noise.push(bench.publish((0..20).map(|_| sized("noise", "n", 20_000)).collect())[0]);
        if round % 2 == 0 {
            quiet.extend(bench.publish(vec![event("quiet.a", "1"), event("quiet.b", "2")]));
        }
    }
    let Bench { log, folder, .. } = bench;
    log.close();
    drop(log);
    // Whatever is read of the noise is an error now.
    let damaged = damage_where(&folder, "blocks", |key| {
        let first = u64::from_be_bytes(key.try_into().unwrap());
        !quiet.contains(&first)
    });
    assert!(damaged > 6);
    let bench = Bench::start(RedbLog::open(&options(&folder)).unwrap(), folder);
    assert!(matches!(bench.log.read(&selection("noise"), 0, WIDE), Err(ReadError::Damaged { table: "blocks", .. })));
    assert_eq!(bench.offsets("quiet.*", 0, WIDE), quiet);
    let single = ReadBounds { messages_max: 1, bytes_max: 1 };
    assert_eq!(bench.offsets("quiet.*", 0, single), quiet);
    assert_eq!(bench.log.count(&selection("quiet.*"), &[(1, Offset::MAX)]).unwrap(), 6);
    assert_eq!(bench.log.locate("quiet.b", 2).unwrap(), quiet[3]);
}

#[test]
fn many_quiet_topics_are_read_in_order_over_what_is_between() {
    let bench = Bench::new();
    let mut expected = Vec::new();
    for topic in 0..50 {
        if topic % 10 == 0 {
            // More blocks in a row than are read without asking the index.
            bench.publish((0..30).map(|_| sized("noise", "n", 130_000)).collect());
        }
        expected.extend(bench.publish(vec![event(&format!("quiet.t{topic}"), "1")]));
    }
    let bench = bench.reopen();
    assert_eq!(bench.offsets("quiet.*", 0, WIDE), expected);
    assert_eq!(bench.offsets("quiet.*", 0, ReadBounds { messages_max: 7, bytes_max: 1 << 20 }), expected);
    assert_eq!(bench.log.count(&selection("quiet.*"), &[(0, Offset::MAX)]).unwrap(), 50);
    bench.publish(vec![event("$lag.email", "1")]);
    let bench = bench.reopen();
    assert_eq!(bench.log.count(&selection(">"), &[(0, Offset::MAX)]).unwrap(), bench.log.end() - 1);
    assert_eq!(bench.log.count(&selection(">"), &[(35, Offset::MAX)]).unwrap(), bench.log.end() - 36);
}

#[test]
fn offsets_are_found_by_time_and_by_sequence() {
    let bench = Bench::new();
    for round in 0..30u64 {
        bench.commit(Txn { now_ms: 1_000 + 10 * round, ..publish(events("order.placed", 3)) }).unwrap();
    }
    let check = |bench: &Bench| {
        for (time_ms, offset) in [(0, 0), (1_000, 0), (1_001, 3), (1_010, 3), (1_285, 87), (1_290, 87), (1_291, 90)] {
            assert_eq!(bench.log.offset_at(time_ms).unwrap(), offset, "at {time_ms}");
        }
        assert_eq!(bench.log.locate("order.placed", 0).unwrap(), 0);
        assert_eq!(bench.log.locate("order.placed", 91).unwrap(), 90, "past the last one is the end");
        let unknown = ReadError::UnknownTopic { topic: "order.paid".to_owned() };
        assert_eq!(bench.log.locate("order.paid", 1).unwrap_err(), unknown);
        assert_eq!(bench.log.read_offsets(&[90]).unwrap_err(), ReadError::Missing { offset: 90 });
    };
    check(&bench);
    check(&bench.reopen());
    assert_eq!(Bench::new().log.offset_at(5).unwrap(), 0);
}

#[test]
fn a_read_past_the_end_waits_there() {
    let bench = Bench::new();
    let batch = bench.log.read(&selection(">"), 0, WIDE).unwrap();
    assert_eq!((batch.messages.len(), batch.next, batch.end), (0, 0, 0));
    bench.publish(events("order.placed", 2));
    let batch = bench.log.read(&selection(">"), 2, WIDE).unwrap();
    assert_eq!((batch.messages.len(), batch.next, batch.end), (0, 2, 2));
    assert_eq!(bench.log.count(&selection(">"), &[(2, Offset::MAX)]).unwrap(), 0);
}

#[test]
fn topics_are_listed_with_their_figures() {
    let bench = Bench::new();
    bench.publish(vec![sized("order.placed", "1", 100), event("$lag.email", "2"), sized("order.placed", "3", 50)]);
    let check = |bench: &Bench| {
        let topics = bench.log.topics();
        assert_eq!(topics.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["order.placed", "$lag.email"]);
        let placed = bench.log.topic("order.placed").unwrap();
        assert_eq!((placed.id, placed.last_sequence, placed.last_offset), (topics[0].id, 2, 2));
        assert!(placed.bytes >= 150 && placed.created_ms == 1_000);
        assert!(bench.log.topic("order").is_none());
    };
    check(&bench);
    check(&bench.reopen());
}

#[test]
fn ranges_are_counted_from_the_disk_and_from_memory_alike() {
    let bench = Bench::new();
    let placed = mixed(&bench, 20, 60);
    let noise: Vec<_> = (0..60).map(|topic| event(&format!("many.t{topic}"), "1")).collect();
    for _ in 0..30 {
        bench.publish(noise.clone());
    }
    let many = |offset: Offset| offset >= 1_200;
    let ranges = [(3, 90), (91, 92), (200, 1_199), (1_230, 1_231), (1_300, 9_999)];
    let within = |offset: Offset| ranges.iter().any(|&(from, to)| (from..to).contains(&offset));
    let paid = placed.iter().filter(|(offset, topic, _)| *topic == "order.paid" && within(*offset)).count() as u64;
    let low = placed.iter().filter(|(offset, topic, _)| topic.starts_with('$') && within(*offset)).count() as u64;
    let last = bench.log.end();
    let all = (0..last).filter(|offset| within(*offset)).count() as u64;
    let check = |bench: &Bench| {
        assert_eq!(bench.log.count(&selection("order.paid"), &ranges).unwrap(), paid);
        assert_eq!(bench.log.count(&selection(">"), &ranges).unwrap(), all - low);
        let wanted = (0..last).filter(|offset| within(*offset) && many(*offset)).count() as u64;
        assert_eq!(bench.log.count(&selection("many.*"), &ranges).unwrap(), wanted);
    };
    check(&bench);
    let bench = bench.reopen();
    check(&bench);
    let bench = bench.reopen_with(|options| options.recent_bytes_max = 30_000);
    bench.publish(vec![event("$lag.email", "1")]);
    check(&bench);
}
