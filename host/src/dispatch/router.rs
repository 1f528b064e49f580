//! Tells each subscription of the messages that it takes, as they are synced.

use std::collections::HashMap;
use std::sync::Arc;

use crate::message::{Offset, SharedMessage, TopicId};

use super::Event;
use super::subscription::{Share, Subscription};

/// Which subscriptions take which topics. A topic's route is made when its first message passes, so a
/// thousand subscriptions of ten thousand idle topics cost nothing.
#[derive(Default)]
pub struct Router {
    subscriptions: Vec<Arc<Subscription>>,
    /// Indices into `subscriptions`, and the offset from which each takes the topic.
    routes: HashMap<TopicId, Vec<(usize, Offset)>>,
}

impl Router {
    /// Replaces what is known, after subscriptions came, went or changed their filters.
    pub fn set(&mut self, subscriptions: Vec<Arc<Subscription>>) {
        self.subscriptions = subscriptions;
        self.routes.clear();
    }

    /// Hands messages that were synced to those that take them: once for each subscription, in order.
    pub fn route(&mut self, messages: &[SharedMessage]) {
        let mut shares: Vec<Option<Share>> = Vec::new();
        shares.resize_with(self.subscriptions.len(), || None);
        for message in messages {
            let topic = message.event.topic.as_str();
            let subscriptions = &self.subscriptions;
            let route = self.routes.entry(message.topic_id).or_insert_with(|| {
                let takes = |(index, one): (usize, &Arc<Subscription>)| Some((index, one.takes(topic)?));
                subscriptions.iter().enumerate().filter_map(takes).collect()
            });
            for &(index, from) in &*route {
                if message.offset >= from {
                    let share = shares[index].get_or_insert_with(|| (subscriptions[index].clone(), Vec::new()));
                    share.1.push(message.clone());
                }
            }
        }
        for (subscription, messages) in shares.into_iter().flatten() {
            subscription.tell(Event::Synced(&messages));
        }
    }
}
