//! Whether a transaction is valid. Nothing changes here.

use std::collections::HashMap;

use super::Sequencer;
use crate::log::removal::Removal;
use crate::log::{Change, CommitError, Settlement, StateRead, SubscriptionId, Txn};

impl Sequencer {
    pub(super) fn check_room(&self, txn: &Txn, bytes: usize) -> Result<(), CommitError> {
        // A settlement alone always finds room: it ends work, and what it records is small.
        if txn.appends.is_empty() && txn.writes.is_empty() && txn.releases.is_empty() {
            return Ok(());
        }
        let bound = self.bounds.unsynced_bytes_max.saturating_mul(if txn.outside { 1 } else { 2 });
        if self.unsynced_bytes > 0 && self.unsynced_bytes + bytes > bound {
            return Err(CommitError::Busy { unsynced_bytes: self.unsynced_bytes });
        }
        Ok(())
    }

    /// Refuses messages for a topic that holds as many bytes as it may. The bus's own topics take everything,
    /// for what they tell of is recorded with it; and so does a topic whose messages were accepted before.
    pub(super) fn check_caps(&self, txn: &Txn) -> Result<(), CommitError> {
        let may_be_refused = txn.outside || !txn.settlements.is_empty();
        if self.bounds.topic_caps.is_empty() || !may_be_refused {
            return Ok(());
        }
        let mut more: HashMap<&str, u64> = HashMap::new();
        for event in &txn.appends {
            *more.entry(event.topic.as_str()).or_default() += event.bytes() as u64;
        }
        for (name, more) in more {
            let id = self.topic_ids.get(name);
            let bytes_max = match id {
                Some(id) => self.topics[id.0 as usize].bytes_max,
                None => self.cap_of(name),
            };
            let bytes = id.map_or(0, |id| self.topics[id.0 as usize].info.bytes);
            if let Some(bytes_max) = bytes_max.filter(|bytes_max| bytes.saturating_add(more) > *bytes_max) {
                let event = txn.appends.iter().find(|event| event.topic.as_str() == name);
                let topic = event.expect("an event names it").topic.clone();
                return Err(CommitError::TopicFull { topic, bytes, bytes_max, more });
            }
        }
        Ok(())
    }

    pub(super) fn cap_of(&self, topic: &str) -> Option<u64> {
        let caps = &self.bounds.topic_caps;
        caps.iter().find(|cap| cap.filter.matches(topic))?.bytes_max.filter(|_| !topic.starts_with('$'))
    }

    pub(super) fn check_settlements(&self, settlements: &[Settlement]) -> Result<(), CommitError> {
        for settlement in settlements {
            let now = self.accounts.get(&settlement.subscription).map(|account| account.record.epoch);
            if now != Some(settlement.epoch) {
                return Err(CommitError::StaleEpoch { expected: settlement.epoch, now });
            }
        }
        Ok(())
    }

    pub(super) fn check_changes(&self, changes: &[Change]) -> Result<(), CommitError> {
        // What earlier changes of the same transaction made of the names and ids.
        let mut created: Vec<&str> = Vec::new();
        let mut removed: Vec<SubscriptionId> = Vec::new();
        for change in changes {
            match change {
                Change::CreateSubscription { name, .. } => {
                    let standing = self.names.get(name).is_some_and(|id| !removed.contains(id));
                    if standing || created.contains(&name.as_str()) {
                        return Err(CommitError::NameTaken { name: name.clone() });
                    }
                    created.push(name);
                }
                Change::PauseSubscription { id, .. } => {
                    if !self.accounts.contains_key(id) || removed.contains(id) {
                        return Err(CommitError::StaleEpoch { expected: 0, now: None });
                    }
                }
                Change::UpdateSubscription { id, record } => {
                    if !self.accounts.contains_key(id) || removed.contains(id) {
                        return Err(CommitError::StaleEpoch { expected: record.epoch, now: None });
                    }
                }
                Change::Seek { id, record, .. } => {
                    let now = self.accounts.get(id).filter(|_| !removed.contains(id));
                    let (now, expected) = (now.map(|account| account.record.epoch), record.epoch - 1);
                    if now != Some(expected) {
                        return Err(CommitError::StaleEpoch { expected, now });
                    }
                }
                Change::RemoveSubscription { id } => {
                    if !self.accounts.contains_key(id) || removed.contains(id) {
                        return Err(CommitError::StaleEpoch { expected: 0, now: None });
                    }
                    removed.push(*id);
                }
                Change::SetPlugin { .. } | Change::RemoveTopic { .. } => {}
                Change::RemoveMessages(removal) => self.check_removal(removal)?,
            }
        }
        Ok(())
    }

    /// Refuses a removal that was planned before a subscription came to need what it takes. That is a
    /// second lock on the door: who plans one keeps operators' commands out until it is synced. What stands
    /// in a row is not known here; the plan answers for it (see [`Removal`]).
    pub(super) fn check_removal(&self, removal: &Removal) -> Result<(), CommitError> {
        for removed in &removal.topics {
            let topic = &self.topics[removed.topic.0 as usize].info.name;
            for account in self.accounts.values() {
                let from = account.record.selection.from_offset(topic.as_str());
                if from.is_some_and(|from| from.max(account.position.floor()) < removed.end) {
                    let (subscription, topic) = (account.name.clone(), topic.to_string());
                    return Err(CommitError::StillNeeded { subscription, topic });
                }
            }
        }
        Ok(())
    }

    pub(super) fn check_reads(&self, reads: &[StateRead]) -> Result<(), CommitError> {
        match reads.iter().find(|read| self.recent_writes.changed_since(read)) {
            Some(read) => Err(CommitError::Conflict { consumer: read.consumer.to_string() }),
            None => Ok(()),
        }
    }
}
