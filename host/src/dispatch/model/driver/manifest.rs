//! What a manifest says, and that it changes.

use std::time::Duration;

use fastrand::Rng;

use super::{TOPICS, World};
use crate::dispatch::Event;
use crate::log::{Selection, SubscriptionRecord};
use crate::outcome::Digest;
use crate::policy::{Backoff, BreakerPolicy, OnExhausted, Order, Policy, Rate, RetryPolicy};
use crate::topic::TopicFilter;

const FILTERS: [&str; 6] = ["a.x", "a.y", "b", "a.*", ">", "$dead-letters.model"];

impl World {
    /// The manifest changed, as its edge tells it.
    pub(super) fn reload(&mut self) {
        let order = match self.random.u32(0..3) {
            0 => *self.random.choice(&[Order::Key, Order::Topic, Order::None]).unwrap(),
            _ => self.policy.order,
        };
        self.policy = policy(&mut self.random, order);
        self.auditor.reordered(order);
        let old = self.dispatcher.selection().clone();
        if self.random.bool() {
            trace!(self, "reload {:?}", self.policy);
            let event =
                Event::Configured { policy: self.policy.clone(), selection: old, untold: 0, skipped_unread: 0, end: 0 };
            let entry = self.step_with(event, None);
            return self.auditor.configured(entry, &self.policy);
        }
        let end = self.journal.end();
        let held_from = |filter: TopicFilter| {
            let before = old.filters.iter().find(|(one, _)| *one == filter);
            before.cloned().unwrap_or((filter, end))
        };
        let filters = filters(&mut self.random).into_iter().map(held_from).collect();
        let mut new = Selection { filters, removed: old.removed.clone() };
        // A topic that the filters before took and the new ones take keeps its messages.
        for topic in TOPICS {
            if let (Some(before), Some(after)) = (old.from_offset(topic), new.from_offset(topic))
                && before < after
            {
                new.filters.push((TopicFilter::parse(topic).unwrap(), before));
            }
        }
        let new = self.with_removed(new);
        self.select(new);
    }

    /// Takes another selection, and the policy of now.
    pub(super) fn select(&mut self, new: Selection) {
        let end = self.journal.end();
        let old = self.dispatcher.selection().clone();
        let (cursor, passed) = self.dispatcher.reading_from();
        let gaps = passed.gaps_from(cursor, end);
        let unread = |selection: &Selection| self.journal.unread_in(&self.journal.sequenced, selection, &gaps);
        let skipped_unread = unread(&old) - unread(&new);
        let untold = self.journal.count(&old, self.dispatcher.known_end(), end);
        let record = SubscriptionRecord { selection: new.clone(), ..self.journal.sequenced.record.clone() };
        trace!(self, "reload {:?} {record:?}, {untold} untold, {skipped_unread} skipped", self.policy);
        let policy = self.policy.clone();
        let event = Event::Configured { policy, selection: new.clone(), untold, skipped_unread, end };
        let entry = self.step_with(event, Some(record));
        self.auditor.reselected(end, entry, new);
        self.auditor.configured(entry, &self.policy);
    }

    pub(super) fn set_active(&mut self, active: bool) {
        trace!(self, "active: {active}");
        self.active = active;
        self.dispatcher.set_version(active.then_some(digest(self.version)));
        self.rolled_back.remove(&self.version);
        if active {
            self.auditor.streak_ends();
        }
        self.step(Event::Tick);
    }
}

pub(super) fn policy(random: &mut Rng, order: Order) -> Policy {
    let backoff = Backoff {
        initial: Duration::from_millis(random.u64(0..50)),
        factor: 2.0,
        max: Duration::from_millis(400),
        jitter: *random.choice(&[0.0, 1.0]).unwrap(),
    };
    let on_exhausted = *random.choice(&[OnExhausted::DeadLetter, OnExhausted::ParkKey, OnExhausted::Park]).unwrap();
    let retry = RetryPolicy { max_attempts: random.u32(1..5), backoff, on_exhausted };
    let breaker = random.bool().then(|| BreakerPolicy {
        failures: *random.choice(&[2, 2, 3]).unwrap(),
        pause: Duration::from_millis(random.u64(1..200)),
        pause_max: Duration::from_millis(400),
    });
    let per = Duration::from_secs(*random.choice(&[1, 60, 3_600]).unwrap());
    let rate = (random.u32(0..4) == 0).then(|| Rate { count: random.u32(1..100), per });
    let concurrency = random.u32(1..6);
    Policy { order, retry, breaker, rate, concurrency, ..Policy::default() }
}

pub(super) fn digest(version: u8) -> Digest {
    Digest([version; 32])
}

/// Some filters, at least one of them of topics that clients publish to.
pub(super) fn filters(random: &mut Rng) -> Vec<TopicFilter> {
    let mut filters = FILTERS.map(|filter| TopicFilter::parse(filter).unwrap()).to_vec();
    random.shuffle(&mut filters);
    filters.truncate(random.usize(1..4));
    if filters.iter().all(|filter| filter.as_str().starts_with('$')) {
        filters.push(TopicFilter::parse(">").unwrap());
    }
    filters
}
