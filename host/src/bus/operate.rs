//! What an operator does with dead letters: redrives them, drops them, or counts which ones that would be.
//!
//! It is done a page at a time, and each page is synced before the next is chosen, so a million letters are not
//! in memory at once, and a stop in between leaves done what was done. A caller that limits a page paces the
//! whole: it goes on after the id that it was told.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::block_in_place;

use super::BusError;
use super::filter::DeadLetterFilter;
use super::letters::{self, Page, PageBounds, Place, Topics};
use crate::dispatch::Event;
use crate::engine::{Engine, Enrolled};
use crate::log::{CommitError, DeadLetter, ReadError, Txn};
use crate::message::{Millis, Offset, SharedMessage};

/// Dead letters of one page, unless the caller wants fewer.
const PAGE_LETTERS_MAX: usize = 256;
/// Rows that are looked at for a limited page: about a tenth of a second.
const PAGE_ROWS_MAX: usize = 10_000;
/// Dead letters whose messages are read at a time, for a redrive: messages may be large.
const REDRIVE_READ_MAX: usize = 16;
/// Digests that are told apart in a count. There are more only where nearly every letter failed in a version
/// of its own.
const DIGESTS_MAX: usize = 64;

/// What an operator wants done with dead letters.
#[derive(Clone, Debug, Default)]
pub struct Operation {
    pub filter: DeadLetterFilter,
    /// Those after this one.
    pub after: Option<String>,
    /// At most so many; without it, all.
    pub limit: Option<usize>,
    /// Only says what would be done.
    pub dry_run: bool,
}

/// What was done, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Operated {
    #[serde(skip)]
    pub letters: u64,
    /// Dead letters that stay what they are: their subscription no longer takes their topic, or the message
    /// cannot be read.
    pub left: u64,
    /// Where to go on; `None` where all is done.
    pub after: Option<String>,
    /// What died later is not meant. To go on, it is given again.
    #[serde(skip)]
    pub until_ms: Millis,
    pub by_subscription: BTreeMap<String, u64>,
    pub by_reason: BTreeMap<&'static str, u64>,
    /// By the digest of the component of the last attempt. Past 64 of them, `other` has the rest.
    pub by_digest: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Redrive,
    Drop,
}

/// Commits, and answers when it is synced.
pub(super) async fn synced(engine: &Engine, txn: Txn) -> Result<(), BusError> {
    let (waiter, durable) = oneshot::channel();
    match engine.log.commit(txn, Some(waiter)) {
        Ok(_) => durable.await.map_err(|_| BusError::Stopping),
        Err(CommitError::StaleEpoch { .. } | CommitError::Stopped) => Err(BusError::Stopping),
        Err(error) => unreachable!("an operator's change expects nothing else: {error}"),
    }
}

/// Does it to the chosen dead letters, and answers once that is synced. Letters that die again meanwhile are
/// left alone: what is chosen is what was dead at the beginning.
pub(super) async fn operate(engine: &Engine, operation: Operation, deed: Deed) -> Result<Operated, BusError> {
    let Operation { mut filter, after, limit, dry_run } = operation;
    let until_ms = filter.until_ms.unwrap_or(Millis::MAX).min(engine.now_ms());
    filter.until_ms = Some(until_ms);
    let mut done = Operated { until_ms, ..Operated::default() };
    let mut next = letters::place_after(engine, after.as_deref())?;
    let mut topics = Topics::default();
    let mut left_to_do = limit.unwrap_or(usize::MAX);
    loop {
        let letters_max = left_to_do.min(PAGE_LETTERS_MAX);
        let rows_max = if limit.is_some() { PAGE_ROWS_MAX } else { usize::MAX };
        let bounds = PageBounds { letters_max, rows_max };
        let page = one_page(engine, &filter, next, bounds, (!dry_run).then_some(deed), &mut topics, &mut done).await?;
        next = page.next;
        left_to_do = left_to_do.saturating_sub(page.letters.len());
        let short = page.letters.len() < letters_max;
        if next.is_none() || left_to_do == 0 || (limit.is_some() && short) {
            break;
        }
    }
    done.after = next.and_then(|place| letters::id_at(engine, place));
    Ok(done)
}

/// Chooses and does one page, with no other command of an operator between.
async fn one_page(
    engine: &Engine,
    filter: &DeadLetterFilter,
    after: Option<Place>,
    bounds: PageBounds,
    deed: Option<Deed>,
    topics: &mut Topics,
    done: &mut Operated,
) -> Result<Page, BusError> {
    let _operator = engine.operator.lock().await;
    // Both read the log, which may be the disk.
    let page = block_in_place(|| letters::page(engine, filter, after, bounds, topics))?;
    for of_one in page.letters.chunk_by(|one, other| one.subscription == other.subscription) {
        let Some(enrolled) = engine.find_id(of_one[0].subscription) else { continue };
        let mut chosen = of_one.to_vec();
        if deed != Some(Deed::Drop) {
            // What the subscription no longer takes would be skipped, and its evidence be gone.
            chosen.retain(|letter| {
                let from = enrolled.subscription.takes(topics.name(engine, letter.row.topic));
                from.is_some_and(|from| from <= letter.offset)
            });
        }
        let chosen = match deed {
            None => chosen,
            Some(Deed::Redrive) => block_in_place(|| redrive(engine, &enrolled, chosen))?,
            Some(Deed::Drop) => {
                let offsets = chosen.iter().map(|letter| letter.offset).collect();
                enrolled.subscription.tell(Event::Dropped(offsets));
                chosen
            }
        };
        done.count(&enrolled.subscription.name, &chosen);
        let left = (of_one.len() - chosen.len()) as u64;
        done.left += left;
        if left > 0 && deed.is_some() {
            let name = &enrolled.subscription.name;
            tracing::warn!(subscription = %name, left, "dead letters stay: their topics are no longer taken, or their messages cannot be read");
        }
    }
    if deed.is_some() && !page.letters.is_empty() {
        // Dead letters are read as synced, so the next page does not meet these again.
        synced(engine, Txn { now_ms: engine.now_ms(), ..Txn::default() }).await?;
    }
    Ok(page)
}

/// Redrives letters of one subscription. Answers with those whose messages could be read.
fn redrive(engine: &Engine, enrolled: &Enrolled, letters: Vec<DeadLetter>) -> Result<Vec<DeadLetter>, BusError> {
    let mut redriven = Vec::with_capacity(letters.len());
    for some in letters.chunks(REDRIVE_READ_MAX) {
        let mut told = Vec::with_capacity(some.len());
        for (letter, message) in read(engine, some)? {
            told.push((message, letter.row.clone()));
            redriven.push(letter);
        }
        enrolled.subscription.tell(Event::Redriven(told));
    }
    Ok(redriven)
}

/// The messages of dead letters; those that are damaged or gone are left out.
pub(super) fn read(engine: &Engine, letters: &[DeadLetter]) -> Result<Vec<(DeadLetter, SharedMessage)>, BusError> {
    let offsets: Vec<Offset> = letters.iter().map(|letter| letter.offset).collect();
    if let Ok(messages) = engine.log.read_offsets(&offsets) {
        return Ok(letters.iter().cloned().zip(messages).collect());
    }
    // One of them at least cannot be read: which one is found out one by one.
    let mut found = Vec::with_capacity(letters.len());
    for letter in letters {
        match engine.log.read_offsets(&[letter.offset]) {
            Ok(messages) => found.extend(messages.into_iter().map(|message| (letter.clone(), message))),
            Err(error @ ReadError::Io { .. }) => return Err(error.into()),
            Err(_) => {}
        }
    }
    Ok(found)
}

impl Operated {
    fn count(&mut self, subscription: &str, letters: &[DeadLetter]) {
        if letters.is_empty() {
            return;
        }
        self.letters += letters.len() as u64;
        *self.by_subscription.entry(subscription.to_owned()).or_default() += letters.len() as u64;
        for letter in letters {
            *self.by_reason.entry(letter.row.reason.as_str()).or_default() += 1;
            let digest = letter.row.last_attempt().map_or_else(|| "none".to_owned(), |last| last.digest.to_string());
            let known = self.by_digest.contains_key(&digest) || self.by_digest.len() < DIGESTS_MAX;
            *self.by_digest.entry(if known { digest } else { "other".to_owned() }).or_default() += 1;
        }
    }
}
