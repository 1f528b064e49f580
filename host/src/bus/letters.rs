//! Dead letters, chosen by a filter a page at a time and shown. Rows say all that a choice and a list need, so
//! no message is read for them.

use super::filter::DeadLetterFilter;
use super::{BusError, unknown_subscription, views};
use crate::engine::{Engine, Enrolled};
use crate::limits::MIB;
use crate::log::{DeadLetter, SubscriptionId, TopicInfo};
use crate::message::{Offset, TopicId};
use crate::view::DeadLetterView;

/// Rows that are read at a time; each may hold the evidence of as many attempts as are kept.
const ROWS_READ_MAX: usize = 64;
/// Bytes of rows in one page, whatever its limit.
const PAGE_BYTES_MAX: usize = 16 * MIB;

/// Where a dead letter stands in the order of all.
pub(super) type Place = (SubscriptionId, Offset);

/// How much one page may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageBounds {
    pub(super) letters_max: usize,
    /// Rows that are looked at, so that a filter that chooses few is answered in time.
    pub(super) rows_max: usize,
}

/// Dead letters that a filter chose, in order.
#[derive(Default)]
pub(super) struct Page {
    pub(super) letters: Vec<DeadLetter>,
    /// Everything up to here was looked at; `None` where that is all there is.
    pub(super) next: Option<Place>,
}

pub(super) fn list(
    engine: &Engine,
    filter: &DeadLetterFilter,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<DeadLetterView>, BusError> {
    let mut after = place_after(engine, after)?;
    let mut topics = Topics::default();
    let mut views = Vec::new();
    loop {
        let bounds = PageBounds { letters_max: limit - views.len(), rows_max: usize::MAX };
        let page = page(engine, filter, after, bounds, &mut topics)?;
        views.extend(page.letters.iter().map(|letter| view(engine, letter, &mut topics)));
        match page.next {
            Some(next) if views.len() < limit => after = Some(next),
            _ => return Ok(views),
        }
    }
}

pub(super) fn show(engine: &Engine, id: &str) -> Result<DeadLetterView, BusError> {
    let (enrolled, offset) = parse_id(engine, id)?;
    let found = engine.log.dead_letter(enrolled.subscription.id, offset)?;
    let found = found.ok_or_else(|| BusError::UnknownDeadLetter { id: id.to_owned() })?;
    let view = view(engine, &found, &mut Topics::default());
    // The evidence is there also where the message is not.
    let message = match engine.log.read_offsets(&[offset]) {
        Ok(mut messages) => messages.pop(),
        Err(error) => {
            tracing::error!(%error, "the message of the dead letter {id} cannot be read");
            None
        }
    };
    Ok(DeadLetterView { message, ..view })
}

/// The place that an id of a page before stands for.
pub(super) fn place_after(engine: &Engine, after: Option<&str>) -> Result<Option<Place>, BusError> {
    let place = after.map(|id| parse_id(engine, id)).transpose()?;
    Ok(place.map(|(enrolled, offset)| (enrolled.subscription.id, offset)))
}

/// The next dead letters that a filter chooses, as they are synced.
pub(super) fn page(
    engine: &Engine,
    filter: &DeadLetterFilter,
    after: Option<Place>,
    bounds: PageBounds,
    topics: &mut Topics,
) -> Result<Page, BusError> {
    let subscription = match &filter.subscription {
        None => None,
        Some(name) => Some(engine.find(name).ok_or_else(|| unknown_subscription(engine, name))?.subscription.id),
    };
    if let Some(ids) = &filter.ids {
        return named(engine, filter, ids, subscription, after, bounds, topics);
    }
    let mut page = Page { letters: Vec::new(), next: after };
    let (mut rows, mut bytes) = (0, 0);
    loop {
        let wanted = ROWS_READ_MAX.min(bounds.rows_max - rows);
        let read = engine.log.dead_letters(subscription, page.next, wanted)?;
        let complete = read.len() < wanted;
        for letter in read {
            rows += 1;
            page.next = Some((letter.subscription, letter.offset));
            if filter.takes(topics.name(engine, letter.row.topic), &letter.row) {
                bytes += letter.row.bytes();
                page.letters.push(letter);
                if page.letters.len() >= bounds.letters_max || bytes >= PAGE_BYTES_MAX {
                    return Ok(page);
                }
            }
        }
        if complete {
            page.next = None;
            return Ok(page);
        }
        if rows >= bounds.rows_max {
            return Ok(page);
        }
    }
}

/// Those with the given ids. A command names no more than its body holds.
fn named(
    engine: &Engine,
    filter: &DeadLetterFilter,
    ids: &[String],
    subscription: Option<SubscriptionId>,
    after: Option<Place>,
    bounds: PageBounds,
    topics: &mut Topics,
) -> Result<Page, BusError> {
    let mut page = Page::default();
    let mut places = Vec::with_capacity(ids.len());
    for id in ids {
        let (enrolled, offset) = parse_id(engine, id)?;
        places.push(((enrolled.subscription.id, offset), id));
    }
    places.sort_unstable();
    places.dedup();
    let mut bytes = 0;
    for (place, id) in places.into_iter().filter(|(place, _)| after.is_none_or(|after| *place > after)) {
        let unknown = || BusError::UnknownDeadLetter { id: id.clone() };
        if subscription.is_some_and(|only| only != place.0) {
            return Err(unknown());
        }
        let letter = engine.log.dead_letter(place.0, place.1)?.ok_or_else(unknown)?;
        if filter.takes(topics.name(engine, letter.row.topic), &letter.row) {
            bytes += letter.row.bytes();
            page.letters.push(letter);
            if page.letters.len() >= bounds.letters_max || bytes >= PAGE_BYTES_MAX {
                page.next = Some(place);
                break;
            }
        }
    }
    Ok(page)
}

/// Names of topics, as they were when one was first asked for that was not among them.
#[derive(Default)]
pub(super) struct Topics {
    known: Vec<TopicInfo>,
}

impl Topics {
    pub(super) fn name(&mut self, engine: &Engine, id: TopicId) -> &str {
        let find = |known: &[TopicInfo]| known.binary_search_by_key(&id, |info| info.id).ok();
        let found = find(&self.known).or_else(|| {
            self.known = engine.log.topics();
            find(&self.known)
        });
        found.map_or("", |index| self.known[index].name.as_str())
    }
}

/// Reads an id, `SUBSCRIPTION:OFFSET`.
fn parse_id(engine: &Engine, id: &str) -> Result<(Enrolled, Offset), BusError> {
    let unknown = || BusError::UnknownDeadLetter { id: id.to_owned() };
    let (name, offset) = id.rsplit_once(':').ok_or_else(unknown)?;
    let offset = offset.parse().map_err(|_| unknown())?;
    Ok((engine.find(name).ok_or_else(unknown)?, offset))
}

/// The id of what stands at a place; `None` where its subscription was removed.
pub(super) fn id_at(engine: &Engine, (subscription, offset): Place) -> Option<String> {
    Some(format!("{}:{offset}", engine.find_id(subscription)?.subscription.name))
}

fn view(engine: &Engine, letter: &DeadLetter, topics: &mut Topics) -> DeadLetterView {
    let name = engine.find_id(letter.subscription).map(|one| one.subscription.name.to_string()).unwrap_or_default();
    views::dead_letter(&engine.log.bus_id(letter.offset), &name, letter, topics.name(engine, letter.row.topic))
}
