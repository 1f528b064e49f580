//! What is said of a backlog that grows too old: once per episode.

use super::Subscription;
use crate::dispatch::announce::{self, Lag};
use crate::log::{CommitError, Txn};

/// What was said of the backlog's age.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LagEpisode {
    /// Whether one goes on.
    warned: bool,
    /// Whether one goes on, as the last event told.
    told: bool,
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

    /// Stores the event that an episode of lag begins or is over, where that was not told yet. Where too much
    /// waits for the disk, it is told the next time.
    pub fn tell_of_lag(&self, lag: &Lag) {
        let mut inner = self.lock();
        if inner.lag.told == lag.begins {
            return;
        }
        let now_ms = self.now_ms();
        let event = announce::lag(&self.name, inner.dispatcher.selection(), lag, now_ms);
        let txn = Txn { now_ms, appends: event.into_iter().collect(), ..Txn::default() };
        match self.shared.log.commit(txn, None) {
            Err(CommitError::Busy { .. }) => {}
            Ok(_) => inner.lag.told = lag.begins,
            Err(error) => {
                inner.lag.told = lag.begins;
                tracing::warn!(subscription = %self.name, %error, "no event tells of its lag");
            }
        }
    }
}
