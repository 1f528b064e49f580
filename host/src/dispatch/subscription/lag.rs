//! What is said of a backlog that grows too old: once per episode.

use super::Subscription;
use crate::dispatch::announce::{self, Lag};
use crate::log::{CommitError, ReadBounds, Selection, Txn};

/// What was said of the backlog's age.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LagEpisode {
    /// Whether one goes on.
    warned: bool,
    /// Whether one goes on, as the last event told; `None` until that was looked up.
    told: Option<bool>,
    /// How many there were since the process began.
    pub(super) episodes: u64,
}

impl Subscription {
    /// Whether the lag warning is due now; it is given once per episode.
    pub fn warns(&self, lagging: bool) -> bool {
        let lag = &mut self.lock().lag;
        let begins = lagging && !lag.warned;
        lag.warned = lagging;
        lag.episodes += u64::from(begins);
        begins
    }

    /// Stores the event that an episode of lag begins or is over, where that was not told yet, also not by an earlier
    /// process. Where too much waits for the disk, it is told the next time.
    pub fn tell_of_lag(&self, lag: &Lag) {
        let told = self.lock().lag.told;
        // The log is read without the lock: calls that run need that.
        let told = told.unwrap_or_else(|| self.told_last());
        let mut inner = self.lock();
        inner.lag.told = Some(told);
        if told == lag.begins {
            return;
        }
        let now_ms = self.now_ms();
        let event = announce::lag(&self.name, inner.dispatcher.selection(), lag, now_ms);
        let txn = Txn { now_ms, appends: event.into_iter().collect(), ..Txn::default() };
        match self.shared.log.commit(txn, None) {
            Err(CommitError::Busy { .. }) => {}
            Ok(_) => inner.lag.told = Some(lag.begins),
            Err(error) => {
                inner.lag.told = Some(lag.begins);
                tracing::warn!(subscription = %self.name, %error, "no event tells of its lag");
            }
        }
    }

    /// Whether the last event in the log says that an episode began. Where there is none that can be read, none goes on.
    fn told_last(&self) -> bool {
        let log = &self.shared.log;
        let Some(topic) = log.topic(announce::lag_topic(&self.name).as_str()) else { return false };
        let bounds = ReadBounds { messages_max: 1, bytes_max: 1 };
        let last = log.read(&Selection::of_topic(&topic.name), topic.last_offset, bounds);
        last.is_ok_and(|batch| batch.messages.iter().any(|message| announce::says_lag_began(&message.event)))
    }
}
