use proptest::prelude::*;

use super::*;
use crate::limits::{HOPS_MAX, MIB};

fn text() -> impl Strategy<Value = String> {
    "[a-z\u{e4}\u{1f680}]{0,12}"
}

prop_compose! {
    fn message()(
        topic in 0..5u32, sequence: u64, accepted_ms: u64, id in text(), source in text(), kind in text(),
        subject in prop::option::of(text()), key in prop::option::of(text()), content_type in prop::option::of(text()),
        attributes in prop::collection::vec((text(), text()), 0..4),
        data in prop::collection::vec(any::<u8>(), 0..300), hops in 0..=HOPS_MAX, named: bool,
    ) -> Message {
        let event = Event {
            topic: TopicName::any(&format!("topic.{topic}")).unwrap(),
            id, source, kind, subject, key, content_type, attributes, data: data.into(), hops, named, deliver_at_ms: None,
        };
        Message { offset: 0, sequence, topic_id: TopicId(topic), accepted_ms, event }
    }
}

fn placed(first: Offset, messages: Vec<Message>) -> Vec<SharedMessage> {
    let place = |(index, message): (usize, Message)| Arc::new(Message { offset: first + index as u64, ..message });
    messages.into_iter().enumerate().map(place).collect()
}

fn unpack(packed: &Packed) -> (Header, Vec<SharedMessage>) {
    let (header, entries) = open(packed.first, &packed.stored[CHECKSUM_BYTES..]).unwrap();
    let whole = |entry: Result<Entry<'_>, Malformed>| {
        let entry = entry.unwrap();
        entry.message(TopicName::any(&format!("topic.{}", entry.topic.0)).unwrap()).unwrap()
    };
    (header, entries.map(whole).collect())
}

proptest! {
    #[test]
    fn messages_come_back(first in 0..u64::from(u32::MAX), messages in prop::collection::vec(message(), 1..40)) {
        let messages = placed(first, messages);
        let packed = pack(&messages);
        prop_assert_eq!(packed.len(), 1);
        let (header, found) = unpack(&packed[0]);
        prop_assert_eq!(header.end, first + messages.len() as u64);
        prop_assert_eq!(header.last_ms, messages.last().unwrap().accepted_ms);
        prop_assert_eq!(&found, &messages);
        for (topic, entry) in &packed[0].topics {
            let of_topic: Vec<_> = messages.iter().filter(|message| message.topic_id == *topic).collect();
            prop_assert_eq!(entry.messages, of_topic.len() as u64);
            prop_assert_eq!(entry.first_sequence, of_topic[0].sequence);
            prop_assert_eq!((entry.first, entry.last), (of_topic[0].offset, of_topic.last().unwrap().offset));
        }
        prop_assert_eq!(packed[0].topics.iter().map(|(_, entry)| entry.messages).sum::<u64>(), messages.len() as u64);
    }

    #[test]
    fn any_bytes_are_answered_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), first: u64) {
        read_all(first, &bytes);
    }

    #[test]
    fn a_block_with_any_byte_changed_is_answered_without_a_panic(
        messages in prop::collection::vec(message(), 1..5), at: prop::sample::Index, to: u8,
    ) {
        let mut packed = pack(&placed(7, messages)).remove(0);
        let at = CHECKSUM_BYTES + at.index(packed.stored.len() - CHECKSUM_BYTES);
        packed.stored[at] = to;
        read_all(7, &packed.stored[CHECKSUM_BYTES..]);
    }
}

fn read_all(first: Offset, bytes: &[u8]) {
    let Ok((header, entries)) = open(first, bytes) else { return };
    for entry in entries.flatten() {
        assert!(entry.offset >= first && entry.offset < header.end);
        let _ = entry.message(TopicName::any("topic").unwrap());
    }
}

#[test]
fn blocks_are_bounded_and_a_larger_message_has_its_own() {
    let sized = |bytes: usize| {
        let event = Event {
            topic: TopicName::any("topic.0").unwrap(),
            id: String::new(),
            source: String::new(),
            kind: String::new(),
            subject: None,
            key: None,
            content_type: None,
            attributes: Vec::new(),
            data: vec![1; bytes].into(),
            hops: 0,
            named: false,
            deliver_at_ms: None,
        };
        Message { offset: 0, sequence: 1, topic_id: TopicId(0), accepted_ms: 0, event }
    };
    let sizes = [100_000, 100_000, 100_000, MIB, 10, 10].map(sized);
    let messages = placed(0, sizes.to_vec());
    let packed = pack(&messages);
    assert_eq!(packed.iter().map(|block| block.first).collect::<Vec<_>>(), [0, 2, 3, 4]);
    let found: Vec<SharedMessage> = packed.iter().flat_map(|block| unpack(block).1).collect();
    assert_eq!(found, messages);
    let many = placed(0, vec![sized(1_000); 2_000]);
    for block in pack(&many) {
        assert!(block.stored.len() + PAGE_OVERHEAD_BYTES <= BLOCK_BYTES_MAX, "{}", block.stored.len());
    }
}
