//! What deployments do to the bus: a version of a consumer begins to run, or none runs any more.

use std::sync::Arc;

use super::Bus;
use crate::deploy::{ActivateError, ActiveVersion, Host};
use crate::dispatch::subscription::{ConfigureError, Reselection, Version};
use crate::dispatch::{Dispatcher, Refunded, Witness};
use crate::engine::{Engine, Enrolled};
use crate::log::position::Position;
use crate::log::{Change, CommitError, DueRefund, PluginRecord, ReadError, Selection, SubscriptionRecord, Txn};
use crate::message::Offset;
use crate::policy::{Manifest, SubscriptionSpec};
use crate::sandbox::Program;

/// What the bus keeps of a version that runs, to run it again on a new engine.
#[derive(Clone)]
pub(super) struct Running {
    manifest: Manifest,
    record: PluginRecord,
    program: Arc<Program>,
    witness: Option<Arc<dyn Witness>>,
}

impl Running {
    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(super) fn digest(&self) -> String {
        self.record.digest.to_string()
    }
}

impl Host<Program> for Bus {
    fn activate(&self, stem: &str, version: ActiveVersion<Program>) -> Result<(), ActivateError> {
        let ActiveVersion { manifest, record, program, witness } = version;
        let running = Running { manifest, record, program, witness };
        let mut active = self.inner.active();
        let engine = self.engine().map_err(|_| stopping())?;
        let _operator = engine.operator.blocking_lock();
        for spec in &running.manifest.subscriptions {
            let claimed = active.iter().find(|(other, running)| {
                *other != stem && running.manifest.subscriptions.iter().any(|one| one.name == spec.name)
            });
            if let Some((other, _)) = claimed {
                return Err(ActivateError::Refused {
                    reason: format!(
                        "the subscription name `{}` is claimed by `{other}.toml` already; give one of them another `name`",
                        spec.name
                    ),
                });
            }
        }
        engine.activate(stem, &running)?;
        active.insert(stem.to_owned(), running);
        Ok(())
    }

    fn record(&self, stem: &str, record: PluginRecord) -> Result<(), ActivateError> {
        let mut active = self.inner.active();
        let engine = self.engine().map_err(|_| stopping())?;
        let _operator = engine.operator.blocking_lock();
        let changes = vec![set_plugin(stem, Some(record.clone()))];
        engine.commit_synced(Txn { now_ms: engine.now_ms(), changes, ..Txn::default() }).map_err(refused)?;
        engine.remember(stem, Some(record.clone()));
        if let Some(running) = active.get_mut(stem) {
            running.record = record;
        }
        Ok(())
    }

    fn refund(&self, stem: &str, due: DueRefund) -> Result<Refunded, ActivateError> {
        let engine = self.engine().map_err(|_| stopping())?;
        let _operator = engine.operator.blocking_lock();
        let mut total = Refunded::default();
        for one in engine.enrolled().iter().filter(|one| *one.consumer == *stem) {
            let refunded = one.subscription.refund_version(due.digest, due.since_ms);
            total += refunded.map_err(|error| ActivateError::Unavailable { reason: error.to_string() })?;
        }
        // It may be forgotten that it is due only when it is durable.
        engine.commit_synced(Txn { now_ms: engine.now_ms(), ..Txn::default() }).map_err(refused)?;
        Ok(total)
    }

    fn deactivate(&self, stem: &str) -> Result<(), ActivateError> {
        let mut active = self.inner.active();
        let engine = self.engine().map_err(|_| stopping())?;
        let _operator = engine.operator.blocking_lock();
        let txn = Txn { now_ms: engine.now_ms(), changes: vec![set_plugin(stem, None)], ..Txn::default() };
        engine.commit_synced(txn).map_err(refused)?;
        engine.remember(stem, None);
        for one in engine.enrolled().iter().filter(|one| *one.consumer == *stem) {
            one.subscription.orphan();
            tracing::warn!(subscription = %one.subscription.name, "orphaned: the files of its consumer `{stem}` are gone");
        }
        active.remove(stem);
        Ok(())
    }
}

impl Engine {
    /// Records a version, makes its new subscriptions, changes those that differ, and swaps the program.
    pub(super) fn activate(&self, stem: &str, running: &Running) -> Result<(), ActivateError> {
        let now_ms = self.now_ms();
        let mut txn = Txn { now_ms, ..Txn::default() };
        if !self.is_recorded(stem, &running.record) {
            txn.changes.push(set_plugin(stem, Some(running.record.clone())));
        }
        let mut created = Vec::new();
        let removed = self.removed();
        for spec in &running.manifest.subscriptions {
            if self.find(&spec.name).is_none() {
                let from = self.start_of(spec)?;
                let filters = spec.topics.iter().map(|filter| (filter.clone(), from)).collect();
                let record = SubscriptionRecord {
                    consumer: stem.to_owned(),
                    selection: Selection { filters, removed: removed.clone() },
                    created_ms: now_ms,
                    epoch: 0,
                    passes_dead_before: 0,
                    paused: false,
                };
                let position = Position::starting_at(from);
                created.push((spec.name.clone(), record.clone(), position.clone()));
                txn.changes.push(Change::CreateSubscription { name: spec.name.clone(), record, position });
            }
        }
        // A start that changes nothing writes nothing: it must succeed on a full disk, too.
        if !txn.changes.is_empty() {
            let sequenced = self.commit_synced(txn).map_err(refused)?;
            self.remember(stem, Some(running.record.clone()));
            self.enrol_created(sequenced.created, created).map_err(|error| unreadable(&error))?;
        }
        for spec in &running.manifest.subscriptions {
            let Some(enrolled) = self.find(&spec.name) else { continue };
            self.adopt(stem, running, spec, &enrolled)?;
        }
        // Subscriptions that the manifest no longer declares stay, with all that is pending in them.
        for one in self.enrolled().iter().filter(|one| *one.consumer == *stem) {
            if !running.manifest.subscriptions.iter().any(|spec| *spec.name == *one.subscription.name) {
                one.subscription.orphan();
                tracing::warn!(subscription = %one.subscription.name, "orphaned: `{stem}.toml` no longer declares it");
            }
        }
        Ok(())
    }

    /// Gives a subscription the version of its consumer, and the policy and filters of its manifest.
    fn adopt(
        &self,
        stem: &str,
        running: &Running,
        spec: &SubscriptionSpec,
        enrolled: &Enrolled,
    ) -> Result<(), ActivateError> {
        // No group is routed meanwhile, so what is counted here and what is routed afterwards meet without a gap.
        let mut router = self.router();
        let mut adopted = false;
        let changed = |dispatcher: &Dispatcher| loop {
            let end = self.log.end();
            let reselection = self.reselection(stem, spec, enrolled, dispatcher, end)?;
            // The writer may have been about to show one more group: then all is counted again.
            if self.log.end() == end {
                adopted = reselection.is_some();
                break Ok(reselection);
            }
        };
        let version =
            Version { policy: spec.policy.clone(), program: running.program.clone(), witness: running.witness.clone() };
        enrolled.subscription.deploy(version, changed).map_err(|error| match error {
            ConfigureError::Read(error) => unreadable(&error),
            ConfigureError::Commit(error) => refused(error),
        })?;
        if adopted {
            self.update(&mut router, &spec.name, |one| one.consumer = stem.into());
        }
        Ok(())
    }

    /// What changes for a dispatcher; `None` where nothing does.
    fn reselection(
        &self,
        stem: &str,
        spec: &SubscriptionSpec,
        enrolled: &Enrolled,
        dispatcher: &Dispatcher,
        end: Offset,
    ) -> Result<Option<Reselection>, ReadError> {
        let old = dispatcher.selection();
        let selection = self.reselect(old, spec, end);
        if selection == *old && *enrolled.consumer == *stem {
            return Ok(None);
        }
        self.reselected(stem, enrolled, dispatcher, selection, end).map(Some)
    }

    /// What changes for a dispatcher that takes another selection from now on. `end` is the log's end.
    pub(super) fn reselected(
        &self,
        consumer: &str,
        enrolled: &Enrolled,
        dispatcher: &Dispatcher,
        selection: Selection,
        end: Offset,
    ) -> Result<Reselection, ReadError> {
        let old = dispatcher.selection();
        let record = SubscriptionRecord {
            consumer: consumer.to_owned(),
            selection: selection.clone(),
            created_ms: enrolled.created_ms,
            epoch: dispatcher.epoch(),
            passes_dead_before: dispatcher.passes_dead_before(),
            paused: dispatcher.is_paused(),
        };
        let (untold, skipped_unread) = if selection == *old {
            (0, 0)
        } else {
            let untold = self.log.count(old, &[(dispatcher.known_end(), end)])?;
            // What is not read yet, and would no longer be taken.
            let (cursor, passed) = dispatcher.reading_from();
            let unread = passed.gaps_from(cursor, end);
            let counted = |selection: &Selection| {
                let record = SubscriptionRecord { selection: selection.clone(), ..record.clone() };
                self.unread(&record, dispatcher.id(), &unread)
            };
            (untold, counted(old)?.saturating_sub(counted(&selection)?))
        };
        let change = Change::UpdateSubscription { id: dispatcher.id(), record };
        let end = if selection == *old { 0 } else { end };
        Ok(Reselection { change, selection, untold, skipped_unread, end })
    }

    /// The filters of a manifest with the offsets they hold from: those that were there keep theirs, also
    /// for topics that another filter takes now; new ones begin at the end.
    fn reselect(&self, old: &Selection, spec: &SubscriptionSpec, end: Offset) -> Selection {
        let mut filters = Vec::new();
        for filter in &spec.topics {
            let before = old.filters.iter().find(|(one, _)| one == filter);
            filters.push(before.cloned().unwrap_or_else(|| (filter.clone(), end)));
        }
        for (filter, from) in &old.filters {
            if filters.iter().any(|(one, _)| one == filter) {
                continue;
            }
            for topic in self.log.topics() {
                let name = topic.name.as_str();
                let taken = spec.topics.iter().any(|one| one.matches(name));
                if taken
                    && filter.matches(name)
                    && let Ok(literal) = crate::topic::TopicFilter::parse(name)
                {
                    filters.push((literal, *from));
                }
            }
        }
        let mut removed = old.removed.clone();
        for (topic, before) in self.removed() {
            // One that it did not take when it was taken away again was not told of that.
            match removed.iter_mut().find(|(name, _)| *name == topic) {
                Some((_, known)) => *known = before.max(*known),
                None if filters.iter().any(|(one, _)| one.matches(topic.as_str())) => removed.push((topic, before)),
                None => {}
            }
        }
        Selection { filters, removed }
    }

    fn start_of(&self, spec: &SubscriptionSpec) -> Result<Offset, ActivateError> {
        let start = self.place(&spec.from);
        start.map_err(|error| match error {
            ReadError::UnknownTopic { topic } => ActivateError::Refused {
                reason: format!("`from` of subscription `{}` names the topic `{topic}`, which is not there", spec.name),
            },
            error => unreadable(&error),
        })
    }
}

fn set_plugin(stem: &str, record: Option<PluginRecord>) -> Change {
    Change::SetPlugin { stem: stem.to_owned(), record }
}

fn stopping() -> ActivateError {
    ActivateError::Unavailable { reason: "the bus is stopping".to_owned() }
}

fn unreadable(error: &ReadError) -> ActivateError {
    ActivateError::Unavailable { reason: error.to_string() }
}

fn refused(error: CommitError) -> ActivateError {
    ActivateError::Unavailable { reason: error.to_string() }
}
