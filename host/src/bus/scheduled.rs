//! What an operator sees and does of the schedule.

use super::{Bus, BusError};
use crate::engine::schedule::{self, CancelError};
use crate::limits::{DUE_BYTES_MAX, DUE_MESSAGES_MAX};
use crate::log::{ReadBounds, Scheduled, ScheduledAt};
use crate::topic::TopicFilter;
use crate::view::ScheduledView;

impl Bus {
    /// Synced messages that wait for their time, in the order of it: those after `after` whose topic the filter
    /// takes, at most `limit`. A filter may make it look through all of the schedule.
    pub fn scheduled(
        &self,
        filter: Option<&TopicFilter>,
        mut after: Option<ScheduledAt>,
        limit: usize,
    ) -> Result<Vec<ScheduledView>, BusError> {
        let engine = self.engine()?;
        let bounds = ReadBounds { messages_max: DUE_MESSAGES_MAX, bytes_max: DUE_BYTES_MAX };
        let mut found = Vec::new();
        loop {
            let page = engine.log.scheduled(after, None, bounds)?;
            let Some(last) = page.last() else { return Ok(found) };
            after = Some(last.at);
            let taken = |one: &&Scheduled| filter.is_none_or(|filter| filter.matches(one.event.topic.as_str()));
            found.extend(page.iter().filter(taken).take(limit - found.len()).map(ScheduledView::from));
            if found.len() == limit {
                return Ok(found);
            }
        }
    }

    /// One of them, with its event.
    pub fn scheduled_message(&self, number: u64) -> Result<Scheduled, BusError> {
        self.engine()?.log.scheduled_at(number)?.ok_or(BusError::UnknownScheduled { number })
    }

    /// Takes one out of the schedule, so that it never becomes a message. Answers once that is synced.
    pub async fn cancel_scheduled(&self, number: u64) -> Result<(), BusError> {
        let engine = self.engine()?;
        match schedule::cancel(&engine, number).await {
            Ok(()) => Ok(()),
            Err(CancelError::Unknown) => Err(BusError::UnknownScheduled { number }),
            Err(CancelError::Read(error)) => Err(error.into()),
            Err(CancelError::Stopping) => Err(BusError::Stopping),
        }
    }
}
