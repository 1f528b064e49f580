//! Messages: what is written is read, from memory, by the index and from blocks in a row.

use super::*;
use crate::log::ReadError;
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
        placed.extend(sequenced.placed.iter().zip(chosen).map(|(p, topic)| (p.offset, topic, p.sequence)));
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
                assert_eq!(bench.log.count(&matches, from).unwrap(), expected.len() as u64, "{filters} from {from}");
            }
        }
        assert_eq!(
            bench.offsets("order.paid", 0, tight).len() as u64,
            bench.log.count(&selection("order.paid"), 0).unwrap()
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
    bench.publish(events("order.placed", 0).into_iter().chain([]).collect());
    check(&bench);
}
