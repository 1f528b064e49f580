//! Every layout of stored values in one form: bytes are decoded, and what they mean is encoded again. The fuzz target
//! `records` holds arbitrary bytes against it, and a test the corpus that the target begins with.
//!
//! A case is a letter that names the layout, the part of the row's key that decoding needs, and the value without its
//! checksum: damage that has a right checksum is what decoders must withstand.

use std::fmt::Debug;

use super::encoding::Malformed;
use super::tables::{offset_key, parse_offset_key, parse_scheduled_key, scheduled_key};
use super::{block, rows};
use crate::message::{SharedMessage, TopicId};
use crate::topic::TopicName;

/// What a case came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Recoded {
    /// The same case as it is written now. Numbers have one spelling then.
    pub(crate) case: Vec<u8>,
    /// What it means, as `Debug` shows it.
    pub(crate) meaning: String,
}

/// The letters of the layouts.
#[cfg(test)]
const LETTERS: &[u8; 12] = b"TBISARHDPZCW";

/// Decodes a case and encodes it again; `None` where it is no case or its value is refused.
///
/// # Panics
/// Where two readings of the same bytes differ: that is what the fuzzer looks for.
pub(crate) fn recode(case: &[u8]) -> Option<Recoded> {
    let (&letter, rest) = case.split_first()?;
    match letter {
        b'T' => value(letter, rows::topic(TopicId(1), rest), rows::put_topic),
        b'B' => {
            let (key, value) = rest.split_at_checked(8)?;
            recode_block(letter, key, value)
        }
        b'I' => {
            let (key, value) = rest.split_at_checked(8)?;
            let block = parse_offset_key(key)?;
            keyed(letter, key, rows::topic_block(block, value), |out, entry| rows::put_topic_block(out, block, entry))
        }
        b'S' => {
            value(letter, rows::subscription(rest), |out, (name, record)| rows::put_subscription(out, name, record))
        }
        b'A' => value(letter, rows::account(rest), |out, (position, counts)| rows::put_account(out, position, counts)),
        b'R' => {
            let row = rows::retry(rest);
            if let Ok(row) = &row {
                // The dispatcher reads the front alone, and must be told the same.
                let front = rows::loaded_retry(0, rest).expect("the whole row was read");
                let told = (front.due_ms, front.accepted_ms, front.key, front.redrive);
                assert_eq!(told, (row.due_ms, row.accepted_ms, row.key, row.redrive));
            }
            value(letter, row, rows::put_retry)
        }
        b'H' => value(letter, rows::held(rest), rows::put_held),
        b'D' => value(letter, rows::dead(rest), rows::put_dead),
        b'P' => value(letter, rows::parked(rest), rows::put_parked),
        b'Z' => value(letter, rows::state_size(rest), rows::put_state_size),
        b'C' => value(letter, rows::plugin(rest), rows::put_plugin),
        b'W' => {
            let (key, value) = rest.split_at_checked(16)?;
            let at = parse_scheduled_key(key)?;
            keyed(letter, &scheduled_key(at), rows::scheduled(at, value), rows::put_scheduled)
        }
        _ => None,
    }
}

fn value<T: Debug>(letter: u8, read: Result<T, Malformed>, put: impl FnOnce(&mut Vec<u8>, &T)) -> Option<Recoded> {
    keyed(letter, &[], read, put)
}

fn keyed<T: Debug>(
    letter: u8,
    key: &[u8],
    read: Result<T, Malformed>,
    put: impl FnOnce(&mut Vec<u8>, &T),
) -> Option<Recoded> {
    let read = read.ok()?;
    let mut case = vec![letter];
    case.extend_from_slice(key);
    put(&mut case, &read);
    Some(Recoded { case, meaning: format!("{read:?}") })
}

/// A block is written anew where messages are removed; here none is, so nothing may change. Its messages are also
/// packed as if they had just come.
fn recode_block(letter: u8, key: &[u8], value: &[u8]) -> Option<Recoded> {
    let first = parse_offset_key(key)?;
    let messages = messages(first, value)?;
    let left = block::without(first, value, |_| false).expect("every entry was read");
    let stored = left.stored?;
    let mut case = vec![letter];
    case.extend_from_slice(&offset_key(first));
    case.extend_from_slice(&stored[super::tables::CHECKSUM_BYTES..]);

    let gapless = messages.iter().zip(first..).all(|(message, offset)| message.offset == offset);
    if gapless {
        let packed = block::pack(&messages);
        let unpacked = packed.iter().flat_map(|packed| {
            let value = &packed.stored[super::tables::CHECKSUM_BYTES..];
            self::messages(packed.first, value).expect("what was packed is read")
        });
        assert!(unpacked.eq(messages.iter().cloned()), "{messages:?}");
    }
    Some(Recoded { case, meaning: format!("{messages:?}") })
}

fn messages(first: u64, value: &[u8]) -> Option<Vec<SharedMessage>> {
    let topic = TopicName::any("order.placed").expect("it is a topic");
    let (_, entries) = block::open(first, value).ok()?;
    let mut messages = Vec::new();
    for entry in entries {
        let entry = entry.ok()?;
        let message = entry.message(topic.clone()).ok()?;
        let name = entry.name().expect("the whole event was read");
        let named = message.event.named.then_some((&*message.event.id, &*message.event.source));
        assert_eq!(name, named, "a duplicate is known by what the message says");
        messages.push(message);
    }
    Some(messages)
}

#[cfg(test)]
mod tests;
