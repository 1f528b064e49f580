//! What an operator does: looks at dead letters, redrives them, drops them.

use tokio::sync::oneshot;

use super::{BusError, DeadLetterFilter, unknown_subscription, views};
use crate::dispatch::Event;
use crate::engine::{Engine, Enrolled};
use crate::limits::FETCH_MESSAGES_MAX;
use crate::log::{CommitError, DeadLetter, SubscriptionId, Txn};
use crate::message::{Offset, SharedMessage};
use crate::view::DeadLetterView;

/// Dead letters whose messages are read at a time, for a redrive: messages may be large.
const REDRIVE_READ_MAX: usize = 16;

/// Commits, and answers when it is synced.
pub(super) async fn synced(engine: &Engine, txn: Txn) -> Result<(), BusError> {
    let (waiter, durable) = oneshot::channel();
    match engine.log.commit(txn, Some(waiter)) {
        Ok(_) => durable.await.map_err(|_| BusError::Stopping),
        Err(CommitError::StaleEpoch { .. } | CommitError::Stopped) => Err(BusError::Stopping),
        Err(error) => unreachable!("an operator's change expects nothing else: {error}"),
    }
}

pub(super) fn list(
    engine: &Engine,
    filter: &DeadLetterFilter,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<DeadLetterView>, BusError> {
    let after = after.map(|id| parse_id(engine, id)).transpose()?;
    let after = after.map(|(enrolled, offset)| (enrolled.subscription.id, offset));
    let letters = select(engine, filter, after, limit)?;
    // One after the other: a message's data may be large, and is not shown in lists.
    letters.iter().map(|letter| Ok(view(engine, letter)?.0)).collect()
}

pub(super) fn show(engine: &Engine, id: &str) -> Result<DeadLetterView, BusError> {
    let (enrolled, offset) = parse_id(engine, id)?;
    let found = engine.log.dead_letter(enrolled.subscription.id, offset)?;
    let found = found.ok_or_else(|| BusError::UnknownDeadLetter { id: id.to_owned() })?;
    let (view, message) = view(engine, &found)?;
    Ok(DeadLetterView { message: Some(message), ..view })
}

pub(super) async fn redrive(engine: &Engine, filter: &DeadLetterFilter) -> Result<u64, BusError> {
    each_page(engine, filter, |enrolled, letters| {
        let mut redriven = 0;
        for letters in letters.chunks(REDRIVE_READ_MAX) {
            let offsets: Vec<Offset> = letters.iter().map(|letter| letter.offset).collect();
            let messages = engine.log.read_offsets(&offsets)?.into_iter();
            let rows = letters.iter().map(|letter| letter.row.clone());
            // What the subscription no longer takes would be skipped, and its evidence be gone.
            let takes = |message: &SharedMessage| {
                enrolled.subscription.takes(message.event.topic.as_str()).is_some_and(|from| from <= message.offset)
            };
            let taken: Vec<_> = messages.zip(rows).filter(|(message, _)| takes(message)).collect();
            redriven += taken.len() as u64;
            enrolled.subscription.tell(Event::Redriven(taken));
        }
        if redriven < letters.len() as u64 {
            let left = letters.len() as u64 - redriven;
            let name = &enrolled.subscription.name;
            tracing::warn!(subscription = %name, left, "dead letters stay: the subscription no longer takes their topics");
        }
        Ok(redriven)
    })
    .await
}

pub(super) async fn drop_letters(engine: &Engine, filter: &DeadLetterFilter) -> Result<u64, BusError> {
    each_page(engine, filter, |enrolled, letters| {
        enrolled.subscription.tell(Event::Dropped(letters.iter().map(|letter| letter.offset).collect()));
        Ok(letters.len() as u64)
    })
    .await
}

/// Does something to the chosen dead letters, a page of one subscription at a time, and waits after each
/// page until it is synced: dead letters are read as synced, so the next page does not meet them again.
/// Letters that die again meanwhile are left alone: what is chosen is what was dead at the beginning.
async fn each_page(
    engine: &Engine,
    filter: &DeadLetterFilter,
    mut act: impl FnMut(&Enrolled, &[DeadLetter]) -> Result<u64, BusError>,
) -> Result<u64, BusError> {
    let _operator = engine.operator.lock().await;
    let began_ms = engine.now_ms();
    let mut after = None;
    let mut total = 0;
    loop {
        let page = select(engine, filter, after, FETCH_MESSAGES_MAX)?;
        let Some(last) = page.last() else { return Ok(total) };
        after = Some((last.subscription, last.offset));
        let mut page: Vec<DeadLetter> = page.into_iter().filter(|one| one.row.died_ms <= began_ms).collect();
        while let Some(first) = page.first() {
            let id = first.subscription;
            let other = page.iter().position(|one| one.subscription != id).unwrap_or(page.len());
            let rest = page.split_off(other);
            if let Some(enrolled) = engine.find_id(id) {
                // It reads the log, which may be the disk.
                total += tokio::task::block_in_place(|| act(&enrolled, &page))?;
            }
            page = rest;
        }
        synced(engine, Txn { now_ms: engine.now_ms(), ..Txn::default() }).await?;
        if !filter.ids.is_empty() {
            return Ok(total);
        }
    }
}

fn select(
    engine: &Engine,
    filter: &DeadLetterFilter,
    after: Option<(SubscriptionId, Offset)>,
    limit: usize,
) -> Result<Vec<DeadLetter>, BusError> {
    let subscription = match &filter.subscription {
        None => None,
        Some(name) => Some(engine.find(name).ok_or_else(|| unknown_subscription(engine, name))?.subscription.id),
    };
    if filter.ids.is_empty() {
        return Ok(engine.log.dead_letters(subscription, after, limit)?);
    }
    let mut letters = Vec::new();
    for id in &filter.ids {
        let (enrolled, offset) = parse_id(engine, id)?;
        let unknown = || BusError::UnknownDeadLetter { id: id.clone() };
        if subscription.is_some_and(|only| only != enrolled.subscription.id) {
            return Err(unknown());
        }
        letters.push(engine.log.dead_letter(enrolled.subscription.id, offset)?.ok_or_else(unknown)?);
    }
    letters.sort_by_key(|letter| (letter.subscription, letter.offset));
    letters.dedup_by_key(|letter| (letter.subscription, letter.offset));
    Ok(letters)
}

/// Reads an id, `SUBSCRIPTION:OFFSET`.
fn parse_id(engine: &Engine, id: &str) -> Result<(Enrolled, Offset), BusError> {
    let unknown = || BusError::UnknownDeadLetter { id: id.to_owned() };
    let (name, offset) = id.rsplit_once(':').ok_or_else(unknown)?;
    let offset = offset.parse().map_err(|_| unknown())?;
    Ok((engine.find(name).ok_or_else(unknown)?, offset))
}

fn view(engine: &Engine, letter: &DeadLetter) -> Result<(DeadLetterView, SharedMessage), BusError> {
    let name = engine.find_id(letter.subscription).map(|one| one.subscription.name.to_string()).unwrap_or_default();
    let mut messages = engine.log.read_offsets(&[letter.offset])?;
    let message = messages.pop().ok_or(crate::log::ReadError::Missing { offset: letter.offset })?;
    Ok((views::dead_letter(&name, letter, &message), message))
}
