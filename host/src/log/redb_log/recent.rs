//! What readers see without the disk: the newest messages, the topics and the end, as of the last sync.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use crate::log::TopicInfo;
use crate::log::removal::{Removal, ranges_contain};
use crate::message::{Offset, SharedMessage, TopicId};
use crate::topic::TopicName;

/// The synced view, shared by all readers and replaced in place by the writer.
pub(super) struct Visible {
    /// Read for the time of picking messages out; written once per group.
    view: RwLock<View>,
    recent_bytes_max: usize,
}

/// The log as of one sync.
pub(super) struct View {
    /// All messages from `recent_from` to the end that are still there, in order.
    recent: VecDeque<SharedMessage>,
    recent_from: Offset,
    recent_bytes: usize,
    end: Offset,
    /// By id, without gaps.
    topics: Vec<TopicInfo>,
    ids: HashMap<Arc<str>, TopicId>,
}

impl Visible {
    pub(super) fn new(end: Offset, topics: Vec<TopicInfo>, recent_bytes_max: usize) -> Self {
        let ids = topics.iter().map(|topic| (Arc::from(topic.name.as_str()), topic.id)).collect();
        let view = View { recent: VecDeque::new(), recent_from: end, recent_bytes: 0, end, topics, ids };
        Self { view: RwLock::new(view), recent_bytes_max }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, View> {
        // Readers cannot leave it half done, and the writer's panic ends the log anyway.
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows what became durable. Answers the messages that no longer fit or were removed, for the caller
    /// to drop outside the lock.
    pub(super) fn show(
        &self,
        messages: &[SharedMessage],
        topics: Vec<TopicInfo>,
        removals: &[Removal],
    ) -> Vec<SharedMessage> {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        for topic in topics {
            let index = topic.id.0 as usize;
            if index == view.topics.len() {
                view.ids.insert(topic.name.as_str().into(), topic.id);
                view.topics.push(topic);
            } else {
                view.topics[index] = topic;
            }
        }
        for message in messages {
            assert_eq!(message.offset, view.end, "messages become durable in order");
            view.end += 1;
            view.recent_bytes += message.bytes();
            view.recent.push_back(message.clone());
        }
        let mut evicted = Vec::new();
        for removal in removals {
            view.remove(&removal.ranges, &mut evicted);
        }
        while view.recent_bytes > self.recent_bytes_max {
            let Some(oldest) = view.recent.pop_front() else { break };
            view.recent_bytes -= oldest.bytes();
            view.recent_from = oldest.offset + 1;
            evicted.push(oldest);
        }
        evicted
    }
}

impl View {
    pub(super) fn end(&self) -> Offset {
        self.end
    }

    pub(super) fn topics(&self) -> &[TopicInfo] {
        &self.topics
    }

    pub(super) fn topic(&self, name: &str) -> Option<&TopicInfo> {
        self.ids.get(name).map(|id| &self.topics[id.0 as usize])
    }

    pub(super) fn topic_name(&self, id: TopicId) -> Option<TopicName> {
        self.topics.get(id.0 as usize).map(|topic| topic.name.clone())
    }

    pub(super) fn recent_bytes(&self) -> usize {
        self.recent_bytes
    }

    /// The first offset from which on all messages are in memory; the end where none is.
    pub(super) fn recent_from(&self) -> Offset {
        self.recent_from
    }

    /// The messages in memory from an offset on.
    pub(super) fn recent(&self, from: Offset) -> impl Iterator<Item = &SharedMessage> {
        self.recent.range(self.recent.partition_point(|message| message.offset < from)..)
    }

    pub(super) fn recent_message(&self, offset: Offset) -> Option<&SharedMessage> {
        self.recent(offset).next().filter(|message| message.offset == offset)
    }

    /// Bytes of all messages that are there.
    pub(super) fn message_bytes(&self) -> u64 {
        self.topics.iter().map(|topic| topic.bytes).sum()
    }

    fn remove(&mut self, ranges: &[(Offset, Offset)], removed: &mut Vec<SharedMessage>) {
        let last = ranges.last().map_or(0, |range| range.1);
        let is_gone = |message: &SharedMessage| ranges_contain(ranges, message.offset);
        if last <= self.recent_from || !self.recent.iter().take_while(|message| message.offset < last).any(is_gone) {
            return;
        }
        let (gone, kept) = std::mem::take(&mut self.recent).into_iter().partition(is_gone);
        self.recent = kept;
        let gone: VecDeque<SharedMessage> = gone;
        self.recent_bytes -= gone.iter().map(|message| message.bytes()).sum::<usize>();
        removed.extend(gone);
    }
}
