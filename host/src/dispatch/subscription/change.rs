//! What changes a subscription from outside: a deployment, and an operator who pauses it.

use std::sync::Arc;

use super::{Inner, Subscription};
use crate::dispatch::{Action, Dispatcher, Event, Witness};
use crate::log::{Change, CommitError, ReadError, Selection, Settlement, Txn};
use crate::message::Offset;
use crate::policy::Policy;
use crate::sandbox::{Instance, Program};

/// A version of a consumer that begins to run.
pub struct Version {
    pub policy: Policy,
    pub program: Arc<Program>,
    /// Who is told of the calls that end from now on, if anybody.
    pub witness: Option<Arc<dyn Witness>>,
}

/// A change of what a subscription takes.
pub struct Reselection {
    pub change: Change,
    pub selection: Selection,
    /// Messages of the selection before that are synced and were not routed yet.
    pub untold: u64,
    /// Messages that were not read yet and are no longer taken.
    pub skipped_unread: u64,
    /// The log's end that the counts stand on.
    pub end: Offset,
}

/// Why a subscription could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigureError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Subscription {
    /// Makes a version run, as one step between two calls: no call runs under the policy of one version and with the
    /// code of the other, also none of what the new policy sets free. What it takes anew and what it skips
    /// is recorded as one transaction. Calls in flight end on the version they began with.
    pub fn deploy(
        self: &Arc<Self>,
        version: Version,
        change: impl FnOnce(&Dispatcher) -> Result<Option<Reselection>, ReadError>,
    ) -> Result<(), ConfigureError> {
        let Version { policy, program, witness } = version;
        let mut inner = self.lock();
        inner.dispatcher.set_version(Some(program.digest()));
        let actions = self.configure(&mut inner, policy, change)?;
        if let Some(witness) = &witness {
            witness.begins(self.now_ms());
        }
        inner.witness = witness;
        let idle = self.swap(&mut inner, Some(program));
        self.perform(&mut inner, actions);
        self.follow_up(&mut inner);
        drop(inner);
        drop(idle);
        Ok(())
    }

    /// Takes another selection, recorded as one transaction with what it skips.
    pub fn reselect(
        self: &Arc<Self>,
        change: impl FnOnce(&Dispatcher) -> Result<Option<Reselection>, ReadError>,
    ) -> Result<(), ConfigureError> {
        let mut inner = self.lock();
        let policy = inner.dispatcher.policy().clone();
        let actions = self.configure(&mut inner, policy, change)?;
        self.perform(&mut inner, actions);
        self.follow_up(&mut inner);
        Ok(())
    }

    /// Sequences a change of policy and selection. Answers what else is to be done.
    fn configure(
        &self,
        inner: &mut Inner,
        policy: Policy,
        change: impl FnOnce(&Dispatcher) -> Result<Option<Reselection>, ReadError>,
    ) -> Result<Vec<Action>, ConfigureError> {
        let reselection = change(&inner.dispatcher)?;
        let now_ms = self.now_ms();
        let mut txn = Txn { now_ms, ..Txn::default() };
        let (selection, untold, skipped_unread, end) = match reselection {
            Some(new) => {
                txn.changes.push(new.change);
                (new.selection, new.untold, new.skipped_unread, new.end)
            }
            None => (inner.dispatcher.selection().clone(), 0, 0, 0),
        };
        let mut actions = Vec::new();
        let configured = Event::Configured { policy, selection, untold, skipped_unread, end };
        inner.dispatcher.step(configured, now_ms, &mut actions);
        actions.retain_mut(|action| match action {
            Action::Commit(settlement) => {
                let taken = std::mem::replace(settlement, Settlement::new(self.id, 0));
                txn.settlements.push(taken);
                false
            }
            _ => true,
        });
        if !(txn.changes.is_empty() && txn.settlements.is_empty()) {
            self.commit(inner, txn)?;
        }
        Ok(actions)
    }

    /// Makes none of its calls begin any more, for its consumer is gone. Calls in flight end.
    pub fn orphan(self: &Arc<Self>) {
        let mut inner = self.lock();
        let idle = self.swap(&mut inner, None);
        inner.dispatcher.set_version(None);
        self.tell_locked(&mut inner, Event::Tick);
        drop(inner);
        drop(idle);
    }

    /// What its calls run from now on. Instances of the version before are of no use any more, and are for the caller to
    /// drop where it holds no lock.
    fn swap(&self, inner: &mut Inner, program: Option<Arc<Program>>) -> Vec<(Instance, std::time::Instant)> {
        self.program.store(program);
        std::mem::take(&mut inner.idle)
    }

    /// Holds everything back, or no longer, and records that. Sequenced when it returns.
    pub fn pause(self: &Arc<Self>, paused: bool) -> Result<(), CommitError> {
        let mut inner = self.lock();
        let change = Change::PauseSubscription { id: self.id, paused };
        let txn = Txn { now_ms: self.now_ms(), changes: vec![change], ..Txn::default() };
        self.commit(&mut inner, txn)?;
        self.tell_locked(&mut inner, Event::Paused(paused));
        Ok(())
    }
}
