//! What an operator takes away: a topic, or the subscription itself, which is then declared anew. Calls that run
//! meanwhile end too late: nothing of them is recorded.

use crate::dispatch::Dispatcher;
use crate::log::Selection;
use crate::message::Offset;
use crate::outcome::Outcome;
use crate::topic::TopicName;

use super::manifest::filters;
use super::working::Run;
use super::{Auditor, Call, TOPICS, World};

/// A dispatcher that was replaced, with the calls of it that still run.
pub(super) struct Ghost {
    dispatcher: Dispatcher,
    calls: Vec<Call>,
}

impl World {
    /// The edge skips what waits of the topic, subscription by subscription, and then takes the topic away for all. In
    /// between the process may end: then the topic is there still, and can be taken away again.
    pub(super) fn remove_topic(&mut self) {
        let topic = *self.random.choice(&TOPICS).unwrap();
        let before = self.journal.end();
        trace!(self, "remove the topic {topic} before {before}");
        let old = self.dispatcher.selection().clone();
        if old.from_offset(topic).is_some() {
            self.select(without(&old, topic, before));
        }
        if self.random.u32(0..4) == 0 {
            self.sync();
            return self.crash();
        }
        self.sync_first(self.journal.unsynced());
        self.removed.insert(topic, before);
    }

    /// What its filters take of topics that were taken away begins where those ended.
    pub(super) fn with_removed(&self, mut selection: Selection) -> Selection {
        for (&topic, &before) in &self.removed {
            let known =
                selection.removed.iter().find(|(name, _)| name.as_str() == topic).map_or(0, |(_, known)| *known);
            if selection.filters.iter().any(|(filter, _)| filter.matches(topic)) {
                selection = without(&selection, topic, before.max(known));
            }
        }
        selection
    }

    /// The subscription goes with its account and its dead letters, and begins anew with another manifest.
    pub(super) fn remove_subscription(&mut self) {
        trace!(self, "remove the subscription");
        self.leave_ghost();
        let from = *self.random.choice(&[0, self.journal.end(), self.journal.end() / 2]).unwrap();
        let selection = Selection::new(filters(&mut self.random).into_iter().map(|filter| (filter, from)).collect());
        let selection = self.with_removed(selection);
        self.journal.begin_anew(selection.clone(), from);
        if self.random.u32(0..4) == 0 {
            return self.crash();
        }
        self.sync_first(self.journal.unsynced());
        trace!(self, "it begins anew at {from}: {selection:?}");
        self.forget_hands();
        let told = self.journal.told().count();
        self.auditor = Auditor::new(selection, self.policy.order, told);
        for message in self.journal.messages(0, self.journal.end()) {
            self.auditor.message_synced(message);
        }
        self.auditor.synced(self.journal.sequenced_to());
        self.reload_dispatcher();
        self.set_active(self.active);
    }

    /// Keeps the dispatcher of now, with its calls: another one takes its place.
    pub(super) fn leave_ghost(&mut self) {
        let calls: Vec<Call> = self.runs.drain(..).filter_map(|run: Run| run.calling).collect();
        if !calls.is_empty() {
            let spare = self.spare_dispatcher();
            let dispatcher = std::mem::replace(&mut self.dispatcher, spare);
            self.ghosts.push(Ghost { dispatcher, calls });
        }
    }

    /// A call ends that its subscription no longer knows. What it says is refused, whatever it is.
    pub(super) fn haunt(&mut self) {
        let outcome = if self.random.bool() { Outcome::Acked } else { self.outcome() };
        let now_ms = self.now_ms;
        let Some(ghost) = self.ghosts.last_mut() else { return };
        let Some(call) = ghost.calls.pop() else { return drop(self.ghosts.pop()) };
        let mut finished = [call.finished(outcome)];
        let settlement = ghost.dispatcher.record(&mut finished, now_ms);
        trace!(self, "too late: {settlement:?}");
        assert!(!self.journal.accepts(&settlement), "what a subscription says that is gone is refused: {settlement:?}");
    }
}

fn without(selection: &Selection, topic: &str, before: Offset) -> Selection {
    let mut selection = selection.clone();
    selection.removed.retain(|(name, _)| name.as_str() != topic);
    selection.removed.push((TopicName::any(topic).unwrap(), before));
    selection
}
