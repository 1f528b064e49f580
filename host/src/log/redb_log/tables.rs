//! The stored format: every table, its keys and its values.
//!
//! Keys are big-endian, so that their order as bytes is their order as numbers. Every value begins with
//! eight bytes, little-endian: the XXH3 of table name, key and the rest of the value. redb verifies its
//! own checksums only when it repairs a file; these are verified whenever a value is read. The values
//! are spelled as [`super::encoding`] says; [`super::rows`] and [`super::block`] hold their layouts.

use redb::TableDefinition;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::log::{HeldAt, KeyHash, ReadError, ScheduledAt, SubscriptionId};
use crate::message::{Offset, TopicId};

/// The version of everything below. A file of another version is refused by name, never guessed at.
pub(super) const FORMAT_VERSION: u32 = 2;

/// A table with values that carry checksums.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) definition: TableDefinition<'static, &'static [u8], &'static [u8]>,
}

const fn table(name: &'static str) -> Table {
    Table { name, definition: TableDefinition::new(name) }
}

/// Key: a name. `format`: the format version, four bytes little-endian, in this table in every version.
/// `next_subscription`: the id that the next subscription gets.
/// `next_scheduled`: the number that the next message gets that has to wait for its time.
/// Value: as the key says.
/// Present while: always.
pub(super) const META: Table = table("meta");

/// Key: the first offset that the id holds for.
/// Value: the bus's id at the acceptance of messages from there on, 16 bytes.
/// Present while: always; there is one for offset 0.
pub(super) const BUS_IDS: Table = table("bus_ids");

/// Key: topic id.
/// Value: name, creation, last sequence, last offset, messages and bytes that are there, the end of its gaps.
/// Present while: always, from the topic's first message on; ids have no gaps.
pub(super) const TOPICS: Table = table("topics");

/// Key: the first offset that the block accounts for.
/// Value: consecutive messages, packed; see [`super::block`].
/// Present while: one of its messages is retained. Where some were removed, it is written anew under its own
/// key, and accounts for them as before: what its span has and its messages leave out was removed.
pub(super) const BLOCKS: Table = table("blocks");

/// Key: the first offset of a range.
/// Value: the offset after its last one.
/// Present while: always, for blocks of which nothing is retained. Ranges that touch are one, so there is at
/// most one row more than there are blocks. An offset that neither a block nor a range accounts for is damage.
pub(super) const REMOVED: Table = table("removed");

/// Key: topic id, the block's first offset.
/// Value: first sequence, messages, first and last offset of the topic in this block.
/// Present while: the block holds a message of the topic.
pub(super) const TOPIC_BLOCKS: Table = table("topic_blocks");

/// Key: subscription id.
/// Value: name, consumer, selection, creation, epoch.
/// Present while: the subscription is there.
pub(super) const SUBSCRIPTIONS: Table = table("subscriptions");

/// Key: subscription id.
/// Value: position and counters.
/// Present while: the subscription is there.
pub(super) const ACCOUNTS: Table = table("accounts");

/// Key: subscription id, offset.
/// Value: due time, acceptance, key, what its dead letter was, history.
/// Present while: the message waits for another attempt.
pub(super) const RETRIES: Table = table("retries");

/// Key: subscription id, hash of the key, first offset.
/// Value: offsets, how many of its front no longer wait, acceptance of the first.
/// Present while: one of the messages waits there.
pub(super) const HELD: Table = table("held");

/// Key: subscription id, offset.
/// Value: reason, excuse, time, acceptance, topic, sequence, key, the message's id and source, history.
/// Present while: the message is dead in that subscription.
pub(super) const DEAD: Table = table("dead");

/// Key: subscription id, offset.
/// Value: what the dead letter holds back: its key, by its hash, or the subscription.
/// Present while: the dead letter holds something back.
pub(super) const PARKED: Table = table("parked");

/// Key: length of the consumer's name (two bytes), its name, the state's key.
/// Value: the state's value as it is.
/// Present while: the key has a value.
pub(super) const STATE: Table = table("state");

/// Key: the consumer's file stem.
/// Value: entries of its state, and the bytes of their keys and values.
/// Present while: it has an entry.
pub(super) const STATE_SIZES: Table = table("state_sizes");

/// Key: the consumer's file stem.
/// Value: digest, manifest, deployment time, digests that were rolled back.
/// Present while: the consumer is deployed.
pub(super) const PLUGINS: Table = table("plugins");

/// Key: due time, number.
/// Value: acceptance, topic, and the event as in a block.
/// Present while: the message waits for its time.
pub(super) const SCHEDULED: Table = table("scheduled");

/// Key: number.
/// Value: due time.
/// Present while: the message waits for its time.
pub(super) const SCHEDULED_NUMBERS: Table = table("scheduled_numbers");

/// All of them: created together with the file, so that a reader never misses one.
pub(super) const ALL: [&Table; 17] = [
    &META,
    &BUS_IDS,
    &TOPICS,
    &BLOCKS,
    &REMOVED,
    &TOPIC_BLOCKS,
    &SUBSCRIPTIONS,
    &ACCOUNTS,
    &RETRIES,
    &HELD,
    &DEAD,
    &PARKED,
    &STATE,
    &STATE_SIZES,
    &PLUGINS,
    &SCHEDULED,
    &SCHEDULED_NUMBERS,
];

pub(super) const META_FORMAT: &[u8] = b"format";
pub(super) const META_NEXT_SUBSCRIPTION: &[u8] = b"next_subscription";
pub(super) const META_NEXT_SCHEDULED: &[u8] = b"next_scheduled";

/// Bytes of the checksum in front of every value.
pub(super) const CHECKSUM_BYTES: usize = 8;

impl Table {
    fn checksum(&self, key: &[u8], value: &[u8]) -> u64 {
        let seed = xxh3_64_with_seed(key, xxh3_64(self.name.as_bytes()));
        xxh3_64_with_seed(value, seed)
    }

    /// Fills in the checksum of a value that was written behind room for it.
    pub(super) fn seal(&self, key: &[u8], stored: &mut [u8]) {
        let (front, value) = stored.split_at_mut(CHECKSUM_BYTES);
        front.copy_from_slice(&self.checksum(key, value).to_le_bytes());
    }

    /// The value behind a stored checksum, if that is right.
    pub(super) fn verify<'a>(&self, key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], ReadError> {
        let (front, value) = stored
            .split_first_chunk::<CHECKSUM_BYTES>()
            .ok_or_else(|| self.damaged(key, "it is shorter than its checksum"))?;
        if u64::from_le_bytes(*front) != self.checksum(key, value) {
            return Err(self.damaged(key, "its checksum does not match"));
        }
        Ok(value)
    }

    /// Names what is damaged.
    pub(super) fn damaged(&self, key: &[u8], why: &str) -> ReadError {
        ReadError::Damaged { table: self.name, what: format!("{}: {why}", self.describe(key)) }
    }

    fn describe(&self, key: &[u8]) -> String {
        let mut rest = key;
        let mut number = |bytes: usize| {
            let (front, behind) = rest.split_at_checked(bytes)?;
            rest = behind;
            Some(front.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte)))
        };
        let described = match self.name {
            "blocks" => number(8).map(|first| format!("the block at offset {first}")),
            "removed" => number(8).map(|first| format!("the removed range at offset {first}")),
            "bus_ids" => number(8).map(|first| format!("the bus id from offset {first} on")),
            "topics" => number(4).map(|id| format!("topic {id}")),
            "subscriptions" => number(4).map(|id| format!("the record of subscription {id}")),
            "accounts" => number(4).map(|id| format!("the position of subscription {id}")),
            "topic_blocks" => {
                number(4).zip(number(8)).map(|(id, first)| format!("the entry of topic {id} for the block at {first}"))
            }
            "retries" => {
                number(4).zip(number(8)).map(|(id, offset)| format!("the retry of offset {offset}, subscription {id}"))
            }
            "dead" => number(4)
                .zip(number(8))
                .map(|(id, offset)| format!("the dead letter of offset {offset}, subscription {id}")),
            "parked" => number(4)
                .zip(number(8))
                .map(|(id, offset)| format!("what the dead letter of offset {offset}, subscription {id} parks")),
            "held" => number(4).zip(number(8)).zip(number(8)).map(|((id, hash), first)| {
                format!("the held messages from offset {first} of key {hash:016x}, subscription {id}")
            }),
            "scheduled" => number(8).zip(number(8)).map(|(_, number)| format!("the scheduled message {number}")),
            "scheduled_numbers" => number(8).map(|number| format!("the due time of the scheduled message {number}")),
            _ => None,
        };
        described.unwrap_or_else(|| format!("the value of `{}`", key.escape_ascii()))
    }
}

pub(super) fn offset_key(offset: Offset) -> [u8; 8] {
    offset.to_be_bytes()
}

pub(super) fn topic_key(topic: TopicId) -> [u8; 4] {
    topic.0.to_be_bytes()
}

pub(super) fn topic_block_key(topic: TopicId, block: Offset) -> [u8; 12] {
    number_pair(topic.0, block)
}

pub(super) fn subscription_key(subscription: SubscriptionId) -> [u8; 4] {
    subscription.0.to_be_bytes()
}

/// The key of a retry or dead letter.
pub(super) fn message_key(subscription: SubscriptionId, offset: Offset) -> [u8; 12] {
    number_pair(subscription.0, offset)
}

fn number_pair(first: u32, second: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&first.to_be_bytes());
    key[4..].copy_from_slice(&second.to_be_bytes());
    key
}

pub(super) fn held_key(at: HeldAt) -> [u8; 20] {
    let mut key = [0; 20];
    key[..12].copy_from_slice(&number_pair(at.subscription.0, at.key.0));
    key[12..].copy_from_slice(&at.first.to_be_bytes());
    key
}

/// The key of a state entry; with an empty `key`, what all keys of the consumer begin with.
pub(super) fn state_key(consumer: &str, key: &str) -> Vec<u8> {
    let length = u16::try_from(consumer.len()).expect("a file stem is shorter than 64 KiB");
    let mut out = Vec::with_capacity(2 + consumer.len() + key.len());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(consumer.as_bytes());
    out.extend_from_slice(key.as_bytes());
    out
}

pub(super) fn scheduled_key(at: ScheduledAt) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&at.due_ms.to_be_bytes());
    key[8..].copy_from_slice(&at.number.to_be_bytes());
    key
}

pub(super) fn scheduled_number_key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

pub(super) fn parse_scheduled_key(key: &[u8]) -> Option<ScheduledAt> {
    let (due_ms, number) = key.split_first_chunk::<8>()?;
    Some(ScheduledAt { due_ms: u64::from_be_bytes(*due_ms), number: u64::from_be_bytes(number.try_into().ok()?) })
}

/// The offset that a key of [`BLOCKS`] stands for.
pub(super) fn parse_offset_key(key: &[u8]) -> Option<Offset> {
    Some(u64::from_be_bytes(key.try_into().ok()?))
}

/// The two numbers of a [`topic_block_key`] or [`message_key`].
pub(super) fn parse_number_pair(key: &[u8]) -> Option<(u32, u64)> {
    let (first, second) = key.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*first), parse_offset_key(second)?))
}

pub(super) fn parse_subscription_key(key: &[u8]) -> Option<SubscriptionId> {
    Some(SubscriptionId(u32::from_be_bytes(key.try_into().ok()?)))
}

pub(super) fn parse_held_key(key: &[u8]) -> Option<HeldAt> {
    let (subscription, rest) = key.split_first_chunk::<4>()?;
    let (hash, first) = rest.split_first_chunk::<8>()?;
    Some(HeldAt {
        subscription: SubscriptionId(u32::from_be_bytes(*subscription)),
        key: KeyHash(u64::from_be_bytes(*hash)),
        first: parse_offset_key(first)?,
    })
}
