//! Seeking: the edge around [`crate::dispatch::seek`]. It counts what lies where, brings the subscription to
//! a standstill, commits, and has a dispatcher loaded from what is durable then.

use std::collections::HashMap;

use super::operate::synced;
use super::{BusError, unknown_subscription};
use crate::dispatch::Dispatcher;
use crate::dispatch::seek::{Survey, returned, selection_from};
use crate::engine::{Engine, Enrolled};
use crate::limits::FETCH_MESSAGES_MAX;
use crate::log::{LoadedSubscription, ReadError, Selection, Txn};
use crate::message::{Offset, SharedMessage, TopicId};
use crate::policy::{OnExhausted, StartAt};
use crate::topic::TopicName;
use crate::view::SeekView;

/// Messages of rows that are read at a time: they may be large.
const ROWS_READ_MAX: usize = 16;

/// What a seek would come to now. Messages that are settled meanwhile may be counted either way.
pub(super) fn preview(engine: &Engine, name: &str, to: &StartAt) -> Result<SeekView, BusError> {
    let enrolled = engine.find(name).ok_or_else(|| unknown_subscription(engine, name))?;
    let target = engine.place(to)?;
    let loaded = load(engine, &enrolled)?;
    let survey = survey(engine, &enrolled, &loaded, target, engine.log.end())?;
    Ok(SeekView { dry_run: true, ..view(engine, &loaded, &survey, target, to)? })
}

/// Moves a subscription. Under the engine's operator lock, and never abandoned half way.
pub(super) async fn seek(engine: &Engine, name: &str, to: &StartAt) -> Result<SeekView, BusError> {
    let enrolled = engine.find(name).ok_or_else(|| unknown_subscription(engine, name))?;
    let target = tokio::task::block_in_place(|| engine.place(to))?;
    enrolled.subscription.freeze().await;
    let sought = sought(engine, &enrolled, target, to).await;
    // Whatever came of it: it goes on from what is durable.
    tokio::task::block_in_place(|| engine.revive(&enrolled))?;
    sought
}

async fn sought(engine: &Engine, enrolled: &Enrolled, target: Offset, to: &StartAt) -> Result<SeekView, BusError> {
    // Its dead letters and rows are read as they are synced.
    synced(engine, Txn::default()).await?;
    let (change, view) = tokio::task::block_in_place(|| {
        let loaded = load(engine, enrolled)?;
        let end = engine.log.end();
        let survey = survey(engine, enrolled, &loaded, target, end)?;
        let view = view(engine, &loaded, &survey, target, to)?;
        Ok::<_, BusError>((survey.change(&loaded, target, end), view))
    })?;
    synced(engine, Txn { now_ms: engine.now_ms(), changes: vec![change], ..Txn::default() }).await?;
    Ok(view)
}

fn load(engine: &Engine, enrolled: &Enrolled) -> Result<LoadedSubscription, BusError> {
    engine.log.load_subscription(enrolled.subscription.id)?.ok_or(BusError::Stopping)
}

/// What a selection takes, by topic: names are looked up once.
struct Takes {
    names: HashMap<TopicId, TopicName>,
    selection: Selection,
}

impl Takes {
    fn new(engine: &Engine, selection: Selection) -> Self {
        Self { names: engine.log.topics().into_iter().map(|topic| (topic.id, topic.name)).collect(), selection }
    }

    fn takes(&self, topic: TopicId, offset: Offset) -> bool {
        let from = self.names.get(&topic).and_then(|name| self.selection.from_offset(name.as_str()));
        from.is_some_and(|from| from <= offset)
    }
}

fn survey(
    engine: &Engine,
    enrolled: &Enrolled,
    loaded: &LoadedSubscription,
    target: Offset,
    end: Offset,
) -> Result<Survey, BusError> {
    let log = &*engine.log;
    let (position, selection) = (&loaded.position, &loaded.record.selection);
    let before = Takes::new(engine, selection.clone());
    let after = Takes::new(engine, selection_from(selection, target));
    let mut survey = Survey {
        taken: log.count(selection, &[(target, end)])?,
        taken_in_gaps: log.count(selection, &position.gaps_from(target, end))?,
        unread_before: engine.unread(&loaded.record, loaded.id, &position.gaps(target.min(end)))?,
        taken_after: log.count(&after.selection, &[(target, end)])?,
        ..Survey::default()
    };
    for_each_letter(engine, loaded, |topic, offset| {
        if offset >= target {
            survey.passes_dead = true;
            survey.dead_passed += u64::from(before.takes(topic, offset) && position.contains(offset));
            survey.dead_after += u64::from(after.takes(topic, offset));
        }
    })?;
    let parks_now = enrolled.subscription.policy().retry.on_exhausted != OnExhausted::DeadLetter;
    let redriven = loaded.retries.iter().filter_map(|retry| Some((retry.offset, retry.redrive?))).collect::<Vec<_>>();
    for chunk in redriven.chunks(ROWS_READ_MAX) {
        let offsets: Vec<Offset> = chunk.iter().map(|(offset, _)| *offset).collect();
        for (message, (offset, redrive)) in log.read_offsets(&offsets)?.iter().zip(chunk) {
            // In a preview it may be over by now.
            let Some(row) = log.retry(loaded.id, *offset)? else { continue };
            if *offset >= target {
                survey.passes_dead = true;
                survey.redriven_taken += u64::from(before.takes(message.topic_id, *offset));
                survey.dead_after += u64::from(after.takes(message.topic_id, *offset));
            }
            let parks = redrive.parks.filter(|_| parks_now);
            survey.redriven.push((*offset, returned(message, &row, *redrive), parks));
        }
    }
    for_each_row(engine, loaded, |message| {
        if message.offset < target {
            survey.rows_before += 1;
        } else if before.takes(message.topic_id, message.offset) {
            survey.rows_taken += 1;
        } else {
            survey.rows_left += 1;
        }
    })?;
    Ok(survey)
}

fn for_each_letter(
    engine: &Engine,
    loaded: &LoadedSubscription,
    mut show: impl FnMut(TopicId, Offset),
) -> Result<(), ReadError> {
    let mut after = None;
    loop {
        let page = engine.log.dead_letters(Some(loaded.id), after, FETCH_MESSAGES_MAX)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some((last.subscription, last.offset));
        page.iter().for_each(|letter| show(letter.row.topic, letter.offset));
    }
}

/// Shows every message that stands in a row and is not being redriven.
fn for_each_row(
    engine: &Engine,
    loaded: &LoadedSubscription,
    mut show: impl FnMut(&SharedMessage),
) -> Result<(), ReadError> {
    let retries = loaded.retries.iter().filter(|retry| retry.redrive.is_none()).map(|retry| retry.offset);
    let mut offsets: Vec<Offset> = retries.collect();
    for (at, _, _) in &loaded.held {
        let row = engine.log.held(*at)?;
        offsets.extend(row.iter().flat_map(|row| &row.offsets[row.front as usize..]));
    }
    // In order, so that every block is read once.
    offsets.sort_unstable();
    for chunk in offsets.chunks(ROWS_READ_MAX) {
        engine.log.read_offsets(chunk)?.iter().for_each(&mut show);
    }
    Ok(())
}

fn view(
    engine: &Engine,
    loaded: &LoadedSubscription,
    survey: &Survey,
    target: Offset,
    to: &StartAt,
) -> Result<SeekView, ReadError> {
    let sought = survey.sought();
    Ok(SeekView {
        subscription: loaded.name.clone(),
        dry_run: false,
        offset: target,
        pending: sought.pending,
        reopened: sought.reopened,
        restarted: sought.restarted,
        skipped: sought.skipped,
        passed_over: sought.passed_over,
        returned: sought.returned,
        gone: gone(engine, &selection_from(&loaded.record.selection, target), target, to)?,
    })
}

/// Messages from the place on that are no longer there, as far as sequences tell: the log does not know of
/// which topic a removed offset was.
fn gone(engine: &Engine, selection: &Selection, target: Offset, to: &StartAt) -> Result<u64, ReadError> {
    let mut gone = 0;
    for topic in engine.log.topics() {
        if selection.from_offset(topic.name.as_str()).is_none() || topic.gaps_end == 0 {
            continue;
        }
        let first = match engine.log.first_retained(topic.id)? {
            Some((_, offset)) if offset < target => continue,
            Some((sequence, _)) => sequence,
            None => topic.last_sequence + 1,
        };
        let asked = match to {
            StartAt::Beginning | StartAt::Offset(0) => 1,
            StartAt::Sequence(named, sequence) if *named == topic.name => (*sequence).min(first),
            _ => first,
        };
        gone += (topic.last_sequence + 1).saturating_sub(asked).saturating_sub(topic.messages);
    }
    Ok(gone)
}

impl Engine {
    /// The offset of a place, which may be the log's end at most.
    pub(super) fn place(&self, at: &StartAt) -> Result<Offset, ReadError> {
        match at {
            StartAt::Now => Ok(self.log.end()),
            StartAt::Beginning => Ok(0),
            StartAt::Offset(offset) => Ok((*offset).min(self.log.end())),
            StartAt::Sequence(topic, sequence) => self.log.locate(topic.as_str(), *sequence),
            StartAt::Time(time_ms) => self.log.offset_at(*time_ms),
        }
    }

    /// Has a subscription at a standstill go on from what is durable of it.
    fn revive(&self, enrolled: &Enrolled) -> Result<(), BusError> {
        let loaded = load(self, enrolled)?;
        let mut router = self.router();
        let (end, unread) = self.unread_to_end(&loaded)?;
        let subscription = &enrolled.subscription;
        let policy = subscription.policy();
        let dispatcher = Dispatcher::load(&loaded, policy, unread, end, fastrand::u64(..));
        subscription.thaw(dispatcher, loaded.counts);
        self.reroute(&mut router);
        Ok(())
    }
}
