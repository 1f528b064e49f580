//! What a valid transaction changes. Nothing is refused here.

use std::sync::Arc;

use super::dedupe::NameHash;
use super::{Account, Sequencer, SubscriptionChange, Topic};
use crate::log::{
    Change, Counts, Place, Placed, Release, Scheduled, ScheduledAt, Sequenced, Settlement, SubscriptionId, SyncWaiter,
    TopicInfo, Txn, TxnNumber,
};
use crate::message::{Event, Message, Millis, TopicId};
use crate::topic::TopicName;

impl Sequencer {
    pub(super) fn apply(
        &mut self,
        txn: Txn,
        bytes: usize,
        replaced: Option<&[u64]>,
        on_synced: Option<SyncWaiter>,
    ) -> Sequenced {
        if !self.gathering.is_empty() && self.gathering.bytes + bytes > self.bounds.group_bytes_max {
            self.close_group();
        }
        self.last_txn += 1;
        let number = self.last_txn;
        self.unsynced_bytes += bytes;
        self.gathering.bytes += bytes;
        self.gathering.last = number;
        self.gathering.urgent |=
            on_synced.is_some() || !txn.appends.is_empty() || !txn.writes.is_empty() || !txn.changes.is_empty();

        let placed = txn.appends.into_iter().map(|event| self.place(event, txn.now_ms)).collect();
        for release in txn.releases {
            self.release(release, txn.now_ms);
        }
        for (index, write) in txn.writes.into_iter().enumerate() {
            let replaced = replaced.map(|replaced| replaced[index]);
            self.state_sizes.count(&write, replaced, &self.state, &mut self.gathering.state_growth);
            let key: Arc<str> = write.key.into();
            self.recent_writes.record(number, &write.consumer, &key);
            self.state.put(number, &write.consumer, &key, write.value.clone());
            self.gathering.state.insert((write.consumer, key), write.value);
        }
        for settlement in txn.settlements {
            self.settle(number, settlement, txn.now_ms);
        }
        let mut created = Vec::new();
        for change in txn.changes {
            created.extend(self.change(change));
        }
        self.gathering.waiters.extend(on_synced);
        Sequenced { txn: number, placed, created }
    }

    /// Finds the place of an event: the one of an earlier event of its name, one in the schedule, or the next
    /// one of its topic.
    fn place(&mut self, event: Event, now_ms: Millis) -> Placed {
        let name = (event.named && self.dedupe.is_on()).then(|| NameHash::of(&event));
        if let Some(place) = name.and_then(|name| self.dedupe.find(name, now_ms)) {
            return Placed { place, duplicate: true };
        }
        let place = match event.deliver_at_ms.filter(|due_ms| *due_ms > now_ms) {
            Some(due_ms) => self.schedule(event, due_ms, now_ms),
            None => self.append(event, now_ms),
        };
        if let Some(name) = name {
            self.dedupe.record(name, place, now_ms);
        }
        Placed { place, duplicate: false }
    }

    fn schedule(&mut self, event: Event, due_ms: Millis, now_ms: Millis) -> Place {
        let at = ScheduledAt { due_ms, number: self.next_scheduled };
        self.next_scheduled += 1;
        self.gathering.scheduled.push(Scheduled { at, accepted_ms: now_ms, event });
        Place::Scheduled(at)
    }

    fn release(&mut self, release: Release, now_ms: Millis) {
        let (scheduled, is_due) = match release {
            Release::Due(scheduled) => (scheduled, true),
            Release::Cancelled(scheduled) => (scheduled, false),
        };
        self.gathering.released.push(scheduled.at);
        let event = scheduled.event;
        let name = (event.named && self.dedupe.is_on()).then(|| NameHash::of(&event));
        if is_due {
            let place = self.append(event, now_ms);
            if let Some(name) = name {
                self.dedupe.record(name, place, now_ms);
            }
        } else if let Some(name) = name {
            self.dedupe.forget(name);
        }
    }

    fn append(&mut self, mut event: Event, now_ms: Millis) -> Place {
        let id = match self.topic_ids.get(event.topic.as_str()) {
            Some(id) => *id,
            None => self.create_topic(event.topic.clone(), now_ms),
        };
        let topic = &mut self.topics[id.0 as usize];
        let offset = self.next_offset;
        self.next_offset += 1;
        topic.info.last_sequence += 1;
        topic.info.last_offset = offset;
        topic.info.messages += 1;
        topic.info.bytes += event.bytes() as u64;
        topic.note(id, self.group_number, &mut self.gathering);
        event.deliver_at_ms = None;
        // All messages of a topic share one copy of its name.
        event.topic = topic.info.name.clone();
        let sequence = topic.info.last_sequence;
        let message = Message { offset, sequence, topic_id: id, accepted_ms: now_ms, event };
        self.gathering.messages.push(Arc::new(message));
        Place::Message { offset, sequence }
    }

    fn create_topic(&mut self, name: TopicName, created_ms: Millis) -> TopicId {
        let id = TopicId(u32::try_from(self.topics.len()).expect("there are fewer than 2^32 topics"));
        self.topic_ids.insert(name.as_str().into(), id);
        let info = TopicInfo {
            id,
            name,
            created_ms,
            last_sequence: 0,
            last_offset: 0,
            messages: 0,
            bytes: 0,
            gaps_end: 0,
            removed_before: 0,
        };
        let bytes_max = self.cap_of(info.name.as_str());
        self.topics.push(Topic { info, bytes_max, noted_in: 0 });
        id
    }

    fn settle(&mut self, number: TxnNumber, settlement: Settlement, now_ms: Millis) {
        let id = settlement.subscription;
        let account = self.accounts.get_mut(&id).expect("the settlement's subscription was checked");
        for &(from, to) in &settlement.passed {
            assert!(to <= self.next_offset, "{} passes {from}..{to}, past the log's end", account.name);
            account.position.pass(from, to);
        }
        account.counts.apply(&settlement.counts);
        assert!(account.counts.conserved(), "{} loses a message: {:?}", account.name, account.counts);
        if account.noted_in != self.group_number {
            account.noted_in = self.group_number;
            self.gathering.noted_accounts.push(id);
        }
        for (offset, row) in settlement.retries {
            self.retries.put(number, (id, offset), row.clone());
            self.gathering.retries.insert((id, offset), row);
        }
        for (at, row) in settlement.held {
            assert_eq!(at.subscription, id, "a settlement holds rows of its own subscription");
            self.held.put(number, at, row.clone());
            self.gathering.held.insert(at, row);
        }
        for (offset, row) in settlement.dead {
            self.gathering.dead.insert((id, offset), row);
        }
        for (offset, parks) in settlement.parks {
            self.gathering.parks.insert((id, offset), parks);
        }
        for event in settlement.events {
            self.append(event, now_ms);
        }
    }

    fn change(&mut self, change: Change) -> Option<SubscriptionId> {
        match change {
            Change::CreateSubscription { name, record, position } => {
                let id = SubscriptionId(self.next_subscription);
                self.next_subscription += 1;
                self.names.insert(name.clone(), id);
                self.gathering
                    .subscriptions
                    .push((id, SubscriptionChange::Put { name: name.clone(), record: record.clone() }));
                let noted_in = self.group_number;
                self.gathering.noted_accounts.push(id);
                self.accounts.insert(id, Account { name, record, position, counts: Counts::default(), noted_in });
                Some(id)
            }
            Change::UpdateSubscription { id, record } => {
                let account = self.accounts.get_mut(&id).expect("the subscription was checked");
                account.record = record.clone();
                let name = account.name.clone();
                self.gathering.subscriptions.push((id, SubscriptionChange::Put { name, record }));
                None
            }
            Change::Seek { id, record, position, counts, dead, parks } => {
                assert!(position.end() <= self.next_offset, "a seek leads past the log's end");
                let account = self.accounts.get_mut(&id).expect("the subscription was checked");
                account.record = record.clone();
                account.position = position;
                account.counts = counts;
                assert!(counts.conserved(), "{} loses a message in a seek: {counts:?}", account.name);
                if account.noted_in != self.group_number {
                    account.noted_in = self.group_number;
                    self.gathering.noted_accounts.push(id);
                }
                let name = account.name.clone();
                self.gathering.subscriptions.push((id, SubscriptionChange::Seek { name, record }));
                self.gathering.dead.extend(dead.into_iter().map(|(offset, row)| ((id, offset), Some(row))));
                self.gathering.parks.extend(parks.into_iter().map(|(offset, parks)| ((id, offset), Some(parks))));
                None
            }
            Change::PauseSubscription { id, paused } => {
                let account = self.accounts.get_mut(&id).expect("the subscription was checked");
                account.record.paused = paused;
                let (name, record) = (account.name.clone(), account.record.clone());
                self.gathering.subscriptions.push((id, SubscriptionChange::Put { name, record }));
                None
            }
            Change::RemoveSubscription { id } => {
                let account = self.accounts.remove(&id).expect("the subscription was checked");
                self.names.remove(&account.name);
                self.gathering.subscriptions.push((id, SubscriptionChange::Remove));
                None
            }
            Change::SetPlugin { stem, record } => {
                self.gathering.plugins.push((stem, record));
                None
            }
            Change::RemoveTopic { topic: id, before } => {
                let topic = &mut self.topics[id.0 as usize];
                topic.info.removed_before = topic.info.removed_before.max(before);
                topic.note(id, self.group_number, &mut self.gathering);
                None
            }
            Change::RemoveMessages(removal) => {
                for removed in &removal.topics {
                    let topic = &mut self.topics[removed.topic.0 as usize];
                    let less = |count: &mut u64, by| *count = count.checked_sub(by).expect("what goes was there");
                    less(&mut topic.info.messages, removed.messages);
                    less(&mut topic.info.bytes, removed.bytes);
                    topic.info.gaps_end = topic.info.gaps_end.max(removed.end);
                    topic.note(removed.topic, self.group_number, &mut self.gathering);
                }
                self.gathering.removals.push(removal);
                None
            }
        }
    }
}
