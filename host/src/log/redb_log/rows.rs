//! The layouts of all values but blocks. See [`super::encoding`] for how numbers and texts are spelled.

mod plugins;

use super::block;
use super::encoding::{Decoder, Malformed, put_number, put_optional_text, put_signed, put_text};
use crate::log::position::Position;
use crate::log::{
    Counts, DeadRow, HeldRow, KeyHash, LoadedRetry, Parks, Redrive, RetryRow, Scheduled, ScheduledAt, Selection,
    StateSize, SubscriptionRecord, TopicInfo,
};
use crate::message::{Event, Millis, Offset, Sequence, TopicId};
use crate::outcome::{Attempt, DeadReason, Digest, Excuse, History, OutcomeKind};
use crate::topic::{TopicFilter, TopicName};

pub(super) use plugins::{plugin, put_plugin};

/// Where a topic's messages stand in one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TopicBlock {
    pub(super) first_sequence: Sequence,
    pub(super) messages: u64,
    /// The topic's first and last offset in the block.
    pub(super) first: Offset,
    pub(super) last: Offset,
}

/// Layout: first sequence, messages, first - block, last - first.
pub(super) fn put_topic_block(out: &mut Vec<u8>, block: Offset, entry: &TopicBlock) {
    put_number(out, entry.first_sequence);
    put_number(out, entry.messages);
    put_number(out, entry.first - block);
    put_number(out, entry.last - entry.first);
}

pub(super) fn topic_block(block: Offset, bytes: &[u8]) -> Result<TopicBlock, Malformed> {
    let mut decoder = Decoder::new(bytes);
    let first_sequence = decoder.number()?;
    let messages = decoder.number()?;
    let too_large = Malformed("an offset is too large");
    let first = block.checked_add(decoder.number()?).ok_or(too_large)?;
    let last = first.checked_add(decoder.number()?).ok_or(too_large)?;
    decoder.end()?;
    Ok(TopicBlock { first_sequence, messages, first, last })
}

/// Layout: entries, bytes.
pub(super) fn put_state_size(out: &mut Vec<u8>, size: &StateSize) {
    put_number(out, size.entries);
    put_number(out, size.bytes);
}

pub(super) fn state_size(bytes: &[u8]) -> Result<StateSize, Malformed> {
    let mut decoder = Decoder::new(bytes);
    let size = StateSize { entries: decoder.number()?, bytes: decoder.number()? };
    decoder.end()?;
    Ok(size)
}

/// Layout: name, creation, last sequence, last offset, messages, bytes, the end of its gaps, the offset before which
/// it was taken away.
pub(super) fn put_topic(out: &mut Vec<u8>, topic: &TopicInfo) {
    put_text(out, topic.name.as_str());
    let TopicInfo { created_ms, last_sequence, last_offset, messages, bytes, gaps_end, removed_before, .. } = *topic;
    for number in [created_ms, last_sequence, last_offset, messages, bytes, gaps_end, removed_before] {
        put_number(out, number);
    }
}

pub(super) fn topic(id: TopicId, bytes: &[u8]) -> Result<TopicInfo, Malformed> {
    let mut decoder = Decoder::new(bytes);
    let name = TopicName::any(decoder.text()?).map_err(|_| Malformed("its name is no topic's"))?;
    let [created_ms, last_sequence, last_offset] = [decoder.number()?, decoder.number()?, decoder.number()?];
    let [messages, bytes, gaps_end] = [decoder.number()?, decoder.number()?, decoder.number()?];
    let removed_before = decoder.number()?;
    decoder.end()?;
    Ok(TopicInfo { id, name, created_ms, last_sequence, last_offset, messages, bytes, gaps_end, removed_before })
}

/// Layout: acceptance, topic, and the event as [`block::put_event`] spells it.
pub(super) fn put_scheduled(out: &mut Vec<u8>, scheduled: &Scheduled) {
    put_number(out, scheduled.accepted_ms);
    put_text(out, scheduled.event.topic.as_str());
    block::put_event(out, &scheduled.event);
}

pub(super) fn scheduled(at: ScheduledAt, bytes: &[u8]) -> Result<Scheduled, Malformed> {
    let (accepted_ms, topic, decoder) = scheduled_front(bytes)?;
    let topic = TopicName::any(topic).map_err(|_| Malformed("its topic is none"))?;
    let event = Event { deliver_at_ms: Some(at.due_ms), ..block::event(decoder, topic)? };
    Ok(Scheduled { at, accepted_ms, event })
}

/// Acceptance and topic of a scheduled message, and where its event begins.
pub(super) fn scheduled_front(bytes: &[u8]) -> Result<(Millis, &str, Decoder<'_>), Malformed> {
    let mut decoder = Decoder::new(bytes);
    Ok((decoder.number()?, decoder.text()?, decoder))
}

/// Layout: name, consumer, creation, epoch, the offset before which dead letters are passed over, whether it is
/// paused, filters (each a text and the offset it begins at), topics that were taken away (each a name and the
/// offset before which).
pub(super) fn put_subscription(out: &mut Vec<u8>, name: &str, record: &SubscriptionRecord) {
    put_text(out, name);
    put_text(out, &record.consumer);
    put_number(out, record.created_ms);
    put_number(out, record.epoch);
    put_number(out, record.passes_dead_before);
    out.push(u8::from(record.paused));
    put_number(out, record.selection.filters.len() as u64);
    for (filter, from) in &record.selection.filters {
        put_text(out, filter.as_str());
        put_number(out, *from);
    }
    put_number(out, record.selection.removed.len() as u64);
    for (topic, before) in &record.selection.removed {
        put_text(out, topic.as_str());
        put_number(out, *before);
    }
}

pub(super) fn subscription(bytes: &[u8]) -> Result<(String, SubscriptionRecord), Malformed> {
    let mut decoder = Decoder::new(bytes);
    let name = decoder.owned_text()?;
    let consumer = decoder.owned_text()?;
    let created_ms = decoder.number()?;
    let epoch = decoder.number()?;
    let passes_dead_before = decoder.number()?;
    let paused = decoder.flag()?;
    let mut filters = Vec::new();
    for _ in 0..decoder.count()? {
        let filter = TopicFilter::parse(decoder.text()?).map_err(|_| Malformed("a filter is none"))?;
        filters.push((filter, decoder.number()?));
    }
    let mut removed = Vec::new();
    for _ in 0..decoder.count()? {
        let topic = TopicName::any(decoder.text()?).map_err(|_| Malformed("a topic's name is none"))?;
        removed.push((topic, decoder.number()?));
    }
    decoder.end()?;
    let selection = Selection { filters, removed };
    Ok((name, SubscriptionRecord { consumer, selection, created_ms, epoch, passes_dead_before, paused }))
}

/// Layout: floor, ranges above it (each the gap before it and its length), counters in the order of
/// [`Counts`], of which `died` is preceded by how many reasons it knows.
pub(super) fn put_account(out: &mut Vec<u8>, position: &Position, counts: &Counts) {
    put_number(out, position.floor());
    put_number(out, position.above().len() as u64);
    let mut last = position.floor();
    for &(from, to) in position.above() {
        put_number(out, from - last);
        put_number(out, to - from);
        last = to;
    }
    for number in
        [counts.passed, counts.rows, counts.dead, counts.acked, counts.expired, counts.skipped, counts.reopened]
    {
        put_number(out, number);
    }
    put_number(out, counts.died.len() as u64);
    counts.died.iter().for_each(|died| put_number(out, *died));
    put_number(out, counts.redriven);
}

pub(super) fn account(bytes: &[u8]) -> Result<(Position, Counts), Malformed> {
    let mut decoder = Decoder::new(bytes);
    let floor = decoder.number()?;
    let mut above = Vec::new();
    let mut last = floor;
    let too_large = Malformed("an offset is too large");
    for _ in 0..decoder.count()? {
        let from = last.checked_add(decoder.number()?).ok_or(too_large)?;
        last = from.checked_add(decoder.number()?).ok_or(too_large)?;
        above.push((from, last));
    }
    let position = Position::from_parts(floor, above).ok_or(Malformed("its ranges are not in order"))?;
    let mut counts = Counts::default();
    for number in [
        &mut counts.passed,
        &mut counts.rows,
        &mut counts.dead,
        &mut counts.acked,
        &mut counts.expired,
        &mut counts.skipped,
        &mut counts.reopened,
    ] {
        *number = decoder.number()?;
    }
    if decoder.count()? != counts.died.len() {
        return Err(Malformed("it knows another number of reasons to die"));
    }
    for died in &mut counts.died {
        *died = decoder.number()?;
    }
    counts.redriven = decoder.number()?;
    decoder.end()?;
    Ok((position, counts))
}

/// Layout: due time, acceptance, the key's hash if there is one, what its dead letter was if there was one
/// (reason, excuse, time of death, what it parked), history.
pub(super) fn put_retry(out: &mut Vec<u8>, row: &RetryRow) {
    put_number(out, row.due_ms);
    put_number(out, row.accepted_ms);
    out.push(u8::from(row.key.is_some()));
    if let Some(key) = row.key {
        put_key_hash(out, key);
    }
    out.push(u8::from(row.redrive.is_some()));
    if let Some(redrive) = &row.redrive {
        out.push(redrive.reason as u8);
        put_excuse(out, redrive.excused);
        put_number(out, redrive.died_ms);
        put_parks(out, redrive.parks.as_ref());
    }
    put_history(out, &row.history);
}

fn put_key_hash(out: &mut Vec<u8>, key: KeyHash) {
    out.extend_from_slice(&key.0.to_be_bytes());
}

fn key_hash(decoder: &mut Decoder<'_>) -> Result<KeyHash, Malformed> {
    let bytes = decoder.take(8)?.try_into().expect("eight bytes were taken");
    Ok(KeyHash(u64::from_be_bytes(bytes)))
}

fn put_excuse(out: &mut Vec<u8>, excused: Option<Excuse>) {
    out.push(excused.map_or(0, |excuse| excuse as u8));
}

fn excuse(decoder: &mut Decoder<'_>) -> Result<Option<Excuse>, Malformed> {
    match decoder.byte()? {
        0 => Ok(None),
        number => Excuse::from_u8(number).map(Some).ok_or(Malformed("its excuse is unknown")),
    }
}

/// Layout: 0 for nothing, 1 for a key and its hash, 2 for the subscription.
fn put_parks(out: &mut Vec<u8>, parks: Option<&Parks>) {
    match parks {
        None => out.push(0),
        Some(Parks::Key(key)) => {
            out.push(1);
            put_key_hash(out, *key);
        }
        Some(Parks::Subscription) => out.push(2),
    }
}

fn parks(decoder: &mut Decoder<'_>) -> Result<Option<Parks>, Malformed> {
    match decoder.byte()? {
        0 => Ok(None),
        1 => key_hash(decoder).map(|key| Some(Parks::Key(key))),
        2 => Ok(Some(Parks::Subscription)),
        _ => Err(Malformed("what it parks is unknown")),
    }
}

/// What a dead letter parks, as a value of its own.
pub(super) fn put_parked(out: &mut Vec<u8>, parks: &Parks) {
    put_parks(out, Some(parks));
}

pub(super) fn parked(bytes: &[u8]) -> Result<Parks, Malformed> {
    let mut decoder = Decoder::new(bytes);
    let parks = parks(&mut decoder)?.ok_or(Malformed("it parks nothing"))?;
    decoder.end()?;
    Ok(parks)
}

fn retry_front(decoder: &mut Decoder<'_>, offset: Offset) -> Result<LoadedRetry, Malformed> {
    let due_ms = decoder.number()?;
    let accepted_ms = decoder.number()?;
    let key = if decoder.flag()? { Some(key_hash(decoder)?) } else { None };
    let redrive = if decoder.flag()? {
        let reason = dead_reason(decoder)?;
        let excused = excuse(decoder)?;
        let died_ms = decoder.number()?;
        let parks = parks(decoder)?;
        Some(Redrive { reason, died_ms, excused, parks })
    } else {
        None
    };
    Ok(LoadedRetry { offset, due_ms, accepted_ms, key, redrive })
}

/// The front of a retry row: what a dispatcher keeps in memory of it.
pub(super) fn loaded_retry(offset: Offset, bytes: &[u8]) -> Result<LoadedRetry, Malformed> {
    retry_front(&mut Decoder::new(bytes), offset)
}

pub(super) fn retry(bytes: &[u8]) -> Result<RetryRow, Malformed> {
    let mut decoder = Decoder::new(bytes);
    let front = retry_front(&mut decoder, 0)?;
    let history = history(&mut decoder)?;
    decoder.end()?;
    let LoadedRetry { due_ms, accepted_ms, key, redrive, .. } = front;
    Ok(RetryRow { due_ms, accepted_ms, key, redrive, history })
}

/// Layout: acceptance of the first, front, offsets (the first one, then the differences).
pub(super) fn put_held(out: &mut Vec<u8>, row: &HeldRow) {
    put_number(out, row.accepted_ms);
    put_number(out, u64::from(row.front));
    put_number(out, row.offsets.len() as u64);
    let mut last = 0;
    for &offset in &row.offsets {
        put_number(out, offset - last);
        last = offset;
    }
}

pub(super) fn held(bytes: &[u8]) -> Result<HeldRow, Malformed> {
    let mut decoder = Decoder::new(bytes);
    let accepted_ms = decoder.number()?;
    let front = decoder.small()?;
    let count = decoder.count()?;
    let mut offsets = Vec::with_capacity(count);
    let mut last: Offset = 0;
    for index in 0..count {
        let step = decoder.number()?;
        if index > 0 && step == 0 {
            return Err(Malformed("its offsets do not ascend"));
        }
        last = last.checked_add(step).ok_or(Malformed("an offset is too large"))?;
        offsets.push(last);
    }
    decoder.end()?;
    if front as usize > offsets.len() {
        return Err(Malformed("more of its front is gone than it has"));
    }
    Ok(HeldRow { offsets, front, accepted_ms })
}

/// Layout: reason, excuse (0 for none), time of death, acceptance, topic, sequence, key, the message's id and
/// source, history.
pub(super) fn put_dead(out: &mut Vec<u8>, row: &DeadRow) {
    out.push(row.reason as u8);
    put_excuse(out, row.excused);
    put_number(out, row.died_ms);
    put_number(out, row.accepted_ms);
    put_number(out, u64::from(row.topic.0));
    put_number(out, row.sequence);
    put_optional_text(out, row.key.as_deref());
    put_text(out, &row.message_id);
    put_text(out, &row.source);
    put_history(out, &row.history);
}

pub(super) fn dead(bytes: &[u8]) -> Result<DeadRow, Malformed> {
    let mut decoder = Decoder::new(bytes);
    let reason = dead_reason(&mut decoder)?;
    let excused = excuse(&mut decoder)?;
    let died_ms = decoder.number()?;
    let accepted_ms = decoder.number()?;
    let topic = TopicId(decoder.small()?);
    let sequence = decoder.number()?;
    let key = decoder.optional_text()?;
    let message_id = decoder.text()?.to_owned();
    let source = decoder.text()?.to_owned();
    let history = history(&mut decoder)?;
    decoder.end()?;
    Ok(DeadRow { reason, died_ms, accepted_ms, topic, sequence, key, message_id, source, history, excused })
}

fn dead_reason(decoder: &mut Decoder<'_>) -> Result<DeadReason, Malformed> {
    DeadReason::from_u8(decoder.byte()?).ok_or(Malformed("its reason is unknown"))
}

/// Layout: charged, unavailable, reruns, redrives, first failure, first attempt, omitted, attempts; an attempt is its time (as
/// the difference to the first one), duration, outcome, digest, whether it was charged, text.
fn put_history(out: &mut Vec<u8>, history: &History) {
    put_number(out, u64::from(history.charged));
    put_number(out, u64::from(history.unavailable));
    put_number(out, u64::from(history.reruns));
    put_number(out, u64::from(history.redrives));
    put_number(out, history.failing_since_ms);
    put_number(out, history.first_attempt_ms);
    put_number(out, history.omitted);
    put_number(out, history.attempts.len() as u64);
    for attempt in &history.attempts {
        put_signed(out, attempt.at_ms.wrapping_sub(history.first_attempt_ms) as i64);
        put_number(out, attempt.duration_us);
        out.push(attempt.outcome as u8);
        out.extend_from_slice(&attempt.digest.0);
        out.push(u8::from(attempt.charged));
        put_text(out, &attempt.text);
    }
}

fn history(decoder: &mut Decoder<'_>) -> Result<History, Malformed> {
    let charged = decoder.small()?;
    let unavailable = decoder.small()?;
    let reruns = decoder.small()?;
    let redrives = decoder.small()?;
    let failing_since_ms = decoder.number()?;
    let first_attempt_ms = decoder.number()?;
    let omitted = decoder.number()?;
    let mut attempts = Vec::new();
    for _ in 0..decoder.count()? {
        let at_ms = first_attempt_ms.wrapping_add(decoder.signed()? as u64);
        let duration_us = decoder.number()?;
        let outcome = OutcomeKind::from_u8(decoder.byte()?).ok_or(Malformed("an outcome is unknown"))?;
        let digest = digest(decoder)?;
        let charged = decoder.flag()?;
        let text = decoder.owned_text()?;
        attempts.push(Attempt { at_ms, duration_us, outcome, text, digest, charged });
    }
    Ok(History { charged, unavailable, reruns, redrives, failing_since_ms, first_attempt_ms, attempts, omitted })
}

fn digest(decoder: &mut Decoder<'_>) -> Result<Digest, Malformed> {
    Ok(Digest(decoder.take(32)?.try_into().expect("32 bytes were taken")))
}

#[cfg(test)]
mod tests;
