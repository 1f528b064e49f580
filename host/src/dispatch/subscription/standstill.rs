//! A subscription at a standstill: its calls are ended without effect and uncharged, and nothing of it is
//! recorded, until another dispatcher takes over. What was read or called for the one before comes too late.

use std::sync::Arc;

use super::{Dispatcher, Event, Subscription};
use crate::log::Counts;

impl Subscription {
    /// Brings it to a standstill. Answers once no call of it runs any more.
    pub async fn freeze(&self) {
        let (tasks, idle) = {
            let mut inner = self.lock();
            inner.generation += 1;
            inner.frozen = true;
            inner.armed_ms = None;
            (inner.runners, inner.awaiting) = (0, 0);
            (std::mem::take(&mut inner.tasks), std::mem::take(&mut inner.idle))
        };
        drop(idle);
        for task in tasks {
            task.cancel().await;
        }
    }

    /// Goes on with another dispatcher, which was loaded from what is durable.
    pub fn thaw(self: &Arc<Self>, mut dispatcher: Dispatcher, counts: Counts) {
        let mut inner = self.lock();
        dispatcher.inherit(&mut inner.dispatcher);
        inner.dispatcher = dispatcher;
        inner.counts = counts;
        inner.frozen = false;
        self.tell_locked(&mut inner, Event::Tick);
    }
}
