//! What stands between committers and the writer: the sequencer behind its lock.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::limits::ACK_RIDE_MAX;
use crate::log::sequencer::{Demand, Group, Sequencer, StateGrowth};
use crate::log::{CommitError, ReadPin, Sequenced, StateSize, SyncWaiter, Txn, TxnNumber};

/// The sequencer, and the writer's bell.
pub(super) struct Queue {
    /// One lock, because there is one order. It is held for a transaction's bookkeeping, never for IO.
    state: Mutex<State>,
    /// Rung when the writer waits for longer than it now should.
    bell: Condvar,
}

struct State {
    sequencer: Sequencer,
    /// What the writer sleeps through. `None` while it is awake, and looks by itself.
    sleeps_through: Option<Demand>,
    ending: Option<Ending>,
    alarm: bool,
}

/// How the writer is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// After what is sequenced is synced.
    Drain,
    /// At once; what is not synced is discarded.
    Discard,
}

/// Why the writer woke.
pub(super) enum Wake {
    Group(Box<Group>),
    /// Nothing came for a while, or the disk has to be looked at.
    Idle,
    /// It is to end. What was sequenced and not written is dropped with its waiters.
    End(Vec<Group>),
}

impl Queue {
    pub(super) fn new(sequencer: Sequencer) -> Arc<Self> {
        let state = State { sequencer, sleeps_through: None, ending: None, alarm: false };
        Arc::new(Self { state: Mutex::new(state), bell: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the sequencer does not panic; its invariants are broken")
    }

    pub(super) fn commit(
        &self,
        txn: Txn,
        replaced: Option<&[u64]>,
        on_synced: Option<SyncWaiter>,
    ) -> Result<Sequenced, CommitError> {
        let mut state = self.lock();
        let sequenced = state.sequencer.commit(txn, replaced, on_synced)?;
        let rings = state.sleeps_through.is_some_and(|demand| state.sequencer.demand() > demand);
        if rings {
            state.sleeps_through = None;
        }
        drop(state);
        if rings {
            self.bell.notify_one();
        }
        Ok(sequenced)
    }

    /// Reads what is sequenced.
    pub(super) fn with<T>(&self, look: impl FnOnce(&Sequencer) -> T) -> T {
        look(&self.lock().sequencer)
    }

    pub(super) fn pin(self: &Arc<Self>) -> ReadPin {
        let at = self.lock().sequencer.pin();
        // A call may outlive the log that it read.
        let queue = Arc::downgrade(self);
        ReadPin::new(move || {
            if let Some(queue) = queue.upgrade() {
                queue.lock().sequencer.unpin(at);
            }
        })
    }

    /// Waits for a group. Settlements alone wait [`ACK_RIDE_MAX`] for company; `idle` bounds all waiting.
    pub(super) fn next(&self, idle: Duration) -> Wake {
        let begun = Instant::now();
        let mut riding: Option<Instant> = None;
        let mut state = self.lock();
        loop {
            if std::mem::take(&mut state.alarm) {
                return Wake::Idle;
            }
            let demand = state.sequencer.demand();
            let now = Instant::now();
            let until = match (state.ending, demand) {
                (Some(Ending::Discard), _) | (Some(Ending::Drain), Demand::None) => {
                    return Wake::End(state.sequencer.stop());
                }
                (Some(Ending::Drain), _) | (None, Demand::Now) => now,
                (None, Demand::CanRide) => *riding.get_or_insert(now) + ACK_RIDE_MAX,
                (None, Demand::None) => {
                    if now >= begun + idle {
                        return Wake::Idle;
                    }
                    begun + idle
                }
            };
            if now >= until {
                let group = state.sequencer.take_group().expect("there is demand");
                return Wake::Group(Box::new(group));
            }
            state.sleeps_through = Some(demand);
            state = self.bell.wait_timeout(state, until - now).expect("the sequencer does not panic").0;
            state.sleeps_through = None;
        }
    }

    /// A group became durable: its last transaction, its bytes, and what it made of consumers' states.
    pub(super) fn synced(
        &self,
        txn: TxnNumber,
        bytes: usize,
        growth: &StateGrowth,
        state_sizes: Vec<(Arc<str>, StateSize)>,
    ) {
        self.lock().sequencer.synced(txn, bytes, growth, state_sizes);
    }

    /// Refuses what comes from now on, and gives back what was not written.
    pub(super) fn stop(&self) -> Vec<Group> {
        self.lock().sequencer.stop()
    }

    /// Tells the writer to end. The stricter of two endings holds.
    pub(super) fn end(&self, ending: Ending) {
        let mut state = self.lock();
        state.sequencer.refuse();
        if state.ending != Some(Ending::Discard) {
            state.ending = Some(ending);
        }
        drop(state);
        self.bell.notify_one();
    }

    /// Makes the writer look at the disk now.
    pub(super) fn alarm(&self) {
        self.lock().alarm = true;
        self.bell.notify_one();
    }
}
