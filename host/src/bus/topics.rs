//! Taking a topic away: nobody reads, lists or is delivered its messages any more. What was pending of it is
//! skipped, its dead letters stay, and its sequence goes on where it stood. The bytes are given back when
//! retention passes.

use super::operate::synced;
use super::{Bus, BusError};
use crate::dispatch::Dispatcher;
use crate::dispatch::subscription::ConfigureError;
use crate::engine::{Engine, Enrolled};
use crate::log::{Change, ReadError, Selection, TopicInfo, Txn};
use crate::message::Offset;
use crate::topic::TopicName;
use crate::view::{SkippedView, TopicRemovalView};

impl Engine {
    /// A topic that has messages, as far as nobody took them away.
    pub(super) fn topic(&self, name: &str) -> Result<TopicInfo, BusError> {
        let found = self.log.topic(name).filter(is_shown);
        found.ok_or_else(|| BusError::UnknownTopic { topic: name.to_owned() })
    }

    /// What was taken away: of each topic, all before an offset.
    pub(super) fn removed(&self) -> Vec<(TopicName, Offset)> {
        let removed = self.log.topics().into_iter().filter(|topic| topic.removed_before > 0);
        removed.map(|topic| (topic.name, topic.removed_before)).collect()
    }
}

/// Whether a topic is listed: one whose messages were all taken away is not.
pub(super) fn is_shown(topic: &TopicInfo) -> bool {
    topic.removed_before <= topic.last_offset
}

/// What a removal would come to. Of the messages that wait, those in retry or held are not counted.
pub(super) fn preview(engine: &Engine, name: &str) -> Result<TopicRemovalView, BusError> {
    let topic = engine.topic(name)?;
    let before = engine.log.end();
    let mut skipped = Vec::new();
    for enrolled in takers(engine, &topic) {
        let Some(loaded) = engine.log.load_subscription(enrolled.subscription.id)? else { continue };
        let unread = |selection: Selection| {
            let record = crate::log::SubscriptionRecord { selection, ..loaded.record.clone() };
            engine.unread(&record, loaded.id, &loaded.position.gaps(before))
        };
        let selection = &loaded.record.selection;
        let left = unread(selection.clone())?.saturating_sub(unread(without(selection, &topic, before))?);
        skipped.push(SkippedView { subscription: loaded.name.clone(), skipped: left });
    }
    Ok(TopicRemovalView { dry_run: true, ..view(&topic, messages(engine, &topic, before)?, skipped) })
}

/// Takes a topic away, subscription by subscription, and at last for everybody: should the bus end in
/// between, it stands there still, and can be removed again. Under the engine's operator lock.
pub(super) async fn remove(engine: &Engine, name: &str) -> Result<TopicRemovalView, BusError> {
    let (topic, before, view) = tokio::task::block_in_place(|| {
        let topic = engine.topic(name)?;
        let before = engine.log.end();
        let mut skipped = Vec::new();
        for enrolled in takers(engine, &topic) {
            let counted = || enrolled.subscription.explain().counts.skipped;
            let already = counted();
            skip(engine, &enrolled, &topic, before)?;
            let subscription = enrolled.subscription.name.to_string();
            skipped.push(SkippedView { subscription, skipped: counted().saturating_sub(already) });
        }
        let view = view(&topic, messages(engine, &topic, before)?, skipped);
        Ok::<_, BusError>((topic.id, before, view))
    })?;
    let changes = vec![Change::RemoveTopic { topic, before }];
    synced(engine, Txn { now_ms: engine.now_ms(), changes, ..Txn::default() }).await?;
    Ok(view)
}

fn takers(engine: &Engine, topic: &TopicInfo) -> Vec<Enrolled> {
    let takes = |one: &Enrolled| one.subscription.takes(topic.name.as_str()).is_some();
    engine.enrolled().into_iter().filter(takes).collect()
}

fn without(selection: &Selection, topic: &TopicInfo, before: Offset) -> Selection {
    let mut selection = selection.clone();
    selection.removed.retain(|(name, _)| *name != topic.name);
    selection.removed.push((topic.name.clone(), before));
    selection
}

fn skip(engine: &Engine, enrolled: &Enrolled, topic: &TopicInfo, before: Offset) -> Result<(), BusError> {
    // No group is routed meanwhile, so what is counted here and what is routed afterwards meet without a gap.
    let mut router = engine.router();
    let changed = |dispatcher: &Dispatcher| loop {
        let end = engine.log.end();
        let selection = without(dispatcher.selection(), topic, before);
        let reselection = engine.reselected(&enrolled.consumer, enrolled, dispatcher, selection, end)?;
        if engine.log.end() == end {
            break Ok(Some(reselection));
        }
    };
    enrolled.subscription.reselect(changed).map_err(|error| match error {
        ConfigureError::Read(error) => BusError::Read(error),
        ConfigureError::Commit(_) => BusError::Stopping,
    })?;
    engine.reroute(&mut router);
    Ok(())
}

fn messages(engine: &Engine, topic: &TopicInfo, before: Offset) -> Result<u64, ReadError> {
    engine.log.count(&Selection::of_topic(&topic.name), &[(topic.removed_before, before)])
}

fn view(topic: &TopicInfo, messages: u64, skipped: Vec<SkippedView>) -> TopicRemovalView {
    TopicRemovalView {
        topic: topic.name.to_string(),
        dry_run: false,
        messages,
        last_sequence: topic.last_sequence,
        skipped,
    }
}

impl Bus {
    /// What a removal of a topic would come to. Blocks.
    pub fn preview_topic_removal(&self, topic: &str) -> Result<TopicRemovalView, BusError> {
        preview(&*self.engine()?, topic)
    }

    /// Takes a topic away; answers once that is synced.
    pub async fn remove_topic(&self, topic: &str) -> Result<TopicRemovalView, BusError> {
        let (engine, topic) = (self.engine()?, topic.to_owned());
        // A task of its own: it is carried through also where nobody waits for the answer any more.
        let task = tokio::spawn(async move {
            let _operator = engine.operator.lock().await;
            remove(&engine, &topic).await
        });
        task.await.map_err(|_| BusError::Stopping)?
    }
}
