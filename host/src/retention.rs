//! Retention: which messages leave the log, and when a topic is full. Plans without IO; `engine/retain`
//! carries them out.
//!
//! A message may go once no subscription needs it: each that takes its topic has its floor behind it, and
//! none has a row of it, be that a retry, a held or a dead one. Of those that may go, these do: what an operator
//! took away with its topic, what is older than its topic's age, and what is oldest while a topic or the log
//! holds more bytes than it is to retain.

use std::collections::HashMap;
use std::time::Duration;

use crate::limits;
use crate::log::removal::{Reach, Removal, Standing};
use crate::log::{TopicCap, TopicInfo};
use crate::message::{Offset, TopicId};
use crate::topic::TopicFilter;

/// What may stay, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The first whose filter matches a topic holds for it.
    pub topics: Vec<TopicRule>,
    /// For settled messages of all other topics; `None` keeps them for ever.
    pub age_max: Option<Duration>,
    /// Bytes of all messages, past which settled ones go, the oldest first; `None` sets no bound.
    pub bytes_max: Option<u64>,
}

/// A `[[topic]]` of the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRule {
    pub filter: TopicFilter,
    pub age_max: Option<Duration>,
    /// Bytes of each topic's messages, past which settled ones go, the oldest first.
    pub bytes_max: Option<u64>,
    /// Bytes of each topic's messages, past which it takes no further one.
    pub cap: Option<u64>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            topics: Vec::new(),
            age_max: Some(limits::RETAIN_AGE_DEFAULT),
            bytes_max: Some(limits::RETAIN_BYTES_DEFAULT),
        }
    }
}

impl Rules {
    /// What holds for a topic: age and bytes.
    fn of(&self, topic: &str) -> (Option<Duration>, Option<u64>) {
        match self.topics.iter().find(|rule| rule.filter.matches(topic)) {
            Some(rule) => (rule.age_max, rule.bytes_max),
            None => (self.age_max, None),
        }
    }

    /// The caps, as the log holds them against publishes: the first filter that matches decides.
    pub fn caps(&self) -> Vec<TopicCap> {
        self.topics.iter().map(|rule| TopicCap { filter: rule.filter.clone(), bytes_max: rule.cap }).collect()
    }

    /// Every age that a topic may have.
    pub fn ages(&self) -> Vec<Duration> {
        let mut ages: Vec<_> = self.topics.iter().map(|rule| rule.age_max).chain([self.age_max]).flatten().collect();
        ages.sort_unstable();
        ages.dedup();
        ages
    }
}

/// What may go now.
#[derive(Debug, Default)]
pub struct Plan {
    topics: HashMap<TopicId, TopicPlan>,
    /// Bytes that the log holds past what it is to retain.
    excess: u64,
}

#[derive(Clone, Copy, Debug)]
struct TopicPlan {
    /// From there on a subscription may still need its messages.
    needed_from: Offset,
    /// What stands before it is too old, or was taken away with its topic.
    old_to: Offset,
    excess: u64,
}

impl Plan {
    /// `old_to` answers which offset the first message has that is younger than an age.
    pub fn new(
        rules: &Rules,
        topics: &[TopicInfo],
        reaches: &[Reach],
        mut old_to: impl FnMut(Duration) -> Offset,
    ) -> Self {
        let past =
            |bytes: u64, bytes_max: Option<u64>| bytes_max.map_or(0, |bytes_max| bytes.saturating_sub(bytes_max));
        let excess = past(topics.iter().map(|topic| topic.bytes).sum(), rules.bytes_max);
        let mut plan = Self { topics: HashMap::new(), excess };
        for topic in topics.iter().filter(|topic| topic.messages > 0) {
            let name = topic.name.as_str();
            let (age_max, bytes_max) = rules.of(name);
            let one = TopicPlan {
                needed_from: Offset::MAX,
                old_to: age_max.map_or(0, &mut old_to).max(topic.removed_before),
                excess: past(topic.bytes, bytes_max),
            };
            if one.old_to == 0 && one.excess == 0 && excess == 0 {
                continue;
            }
            let needed = |reach: &Reach| Some(reach.selection.from_offset(name)?.max(reach.floor));
            let needed_from = reaches.iter().filter_map(needed).min().unwrap_or(Offset::MAX);
            plan.topics.insert(topic.id, TopicPlan { needed_from, ..one });
        }
        plan
    }

    /// Topics of which messages below an offset may go.
    pub fn wanted(&self) -> Vec<(TopicId, Offset)> {
        let below = |one: &TopicPlan| {
            if one.excess > 0 || self.excess > 0 { one.needed_from } else { one.needed_from.min(one.old_to) }
        };
        self.topics.iter().map(|(id, one)| (*id, below(one))).filter(|(_, below)| *below > 0).collect()
    }

    /// Chooses among messages that stand together. `pinned` are offsets, ascending, that some row needs.
    /// Answers whether nothing stays of what may go but what is pinned.
    pub fn choose(&mut self, standing: &[Standing], pinned: &[Offset], removal: &mut Removal) -> bool {
        let mut exhausted = true;
        for message in standing {
            let Some(topic) = self.topics.get_mut(&message.topic) else { continue };
            if message.offset >= topic.needed_from || pinned.binary_search(&message.offset).is_ok() {
                continue;
            }
            if message.offset < topic.old_to || topic.excess > 0 || self.excess > 0 {
                topic.excess = topic.excess.saturating_sub(message.bytes);
                self.excess = self.excess.saturating_sub(message.bytes);
                removal.add(message);
            } else {
                exhausted = false;
            }
        }
        exhausted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::Selection;
    use crate::topic::TopicName;

    fn info(id: u32, name: &str, bytes: u64) -> TopicInfo {
        TopicInfo {
            id: TopicId(id),
            name: TopicName::any(name).unwrap(),
            created_ms: 0,
            last_sequence: 99,
            last_offset: 99,
            messages: u64::from(bytes > 0),
            bytes,
            removed_before: 0,
            gaps_end: 0,
        }
    }

    fn rule(filter: &str, age: Option<u64>, bytes_max: Option<u64>) -> TopicRule {
        let filter = TopicFilter::parse(filter).unwrap();
        TopicRule { filter, age_max: age.map(Duration::from_secs), bytes_max, cap: None }
    }

    #[test]
    fn the_first_rule_that_matches_holds_and_the_total_holds_for_all() {
        let rules = Rules {
            topics: vec![rule("order.paid", None, None), rule("order.*", Some(5), Some(100))],
            age_max: Some(Duration::from_secs(9)),
            bytes_max: Some(1_000),
        };
        assert_eq!(rules.of("order.paid"), (None, None));
        assert_eq!(rules.of("order.placed"), (Some(Duration::from_secs(5)), Some(100)));
        assert_eq!(rules.of("stock.low"), (Some(Duration::from_secs(9)), None));
        assert_eq!(rules.of("$lag.email"), (Some(Duration::from_secs(9)), None), "the bus's own have no wildcard");
        assert_eq!(rules.ages(), [5, 9].map(Duration::from_secs));
        let topics = [info(0, "order.paid", 500), info(1, "order.placed", 90), info(2, "stock.low", 10)];
        let old_to = |age: Duration| if age.as_secs() == 5 { 50 } else { 20 };
        let wanted = |bytes_max| {
            let plan = Plan::new(&Rules { bytes_max, ..rules.clone() }, &topics, &[], old_to);
            let mut wanted = plan.wanted();
            wanted.sort_unstable();
            wanted
        };
        assert_eq!(wanted(Some(1_000)), [(TopicId(1), 50), (TopicId(2), 20)]);
        let all = [0, 1, 2].map(|id| (TopicId(id), Offset::MAX));
        assert_eq!(wanted(Some(599)), all, "all topics give where the log holds too much");
        assert_eq!(wanted(None), [(TopicId(1), 50), (TopicId(2), 20)]);
    }

    #[test]
    fn a_subscription_keeps_what_it_takes_and_has_before_it() {
        let reach = |filters: &[(&str, Offset)], floor| {
            let filters = filters.iter().map(|(filter, from)| (TopicFilter::parse(filter).unwrap(), *from)).collect();
            Reach { selection: Selection { filters, removed: Vec::new() }, floor }
        };
        let reaches = [reach(&[("order.*", 0)], 30), reach(&[("order.placed", 40)], 10)];
        let topics = [info(0, "order.placed", 9), info(1, "order.paid", 9), info(2, "stock.low", 9)];
        let plan = Plan::new(&Rules { bytes_max: Some(0), ..Rules::default() }, &topics, &reaches, |_| 0);
        let mut wanted = plan.wanted();
        wanted.sort_unstable();
        // What lies before the beginning of a filter is not taken by it.
        assert_eq!(wanted, [(TopicId(0), 30), (TopicId(1), 30), (TopicId(2), Offset::MAX)]);
    }

    #[test]
    fn what_was_taken_away_goes_whatever_its_age() {
        let rules = Rules { topics: Vec::new(), age_max: None, bytes_max: None };
        let topics = [TopicInfo { removed_before: 40, ..info(0, "order.placed", 9) }, info(1, "order.paid", 9)];
        let filters = vec![(TopicFilter::parse("order.*").unwrap(), 0)];
        let removed = vec![(TopicName::any("order.placed").unwrap(), 40)];
        // The subscription has all of it before it, but for what was taken away.
        let reaches = [Reach { selection: Selection { filters, removed }, floor: 0 }];
        assert_eq!(Plan::new(&rules, &topics, &reaches, |_| 0).wanted(), [(TopicId(0), 40)]);
    }

    proptest! {
        #[test]
        fn what_goes_is_old_or_too_much_and_never_needed(
            messages in prop::collection::vec((0..3u32, 1..20u64, any::<bool>()), 1..80),
            needed in prop::collection::vec(0..80u64, 3), old in prop::collection::vec(0..80u64, 3),
            maxes in prop::collection::vec(0..300u64, 3), total in 0..900u64, together in 1..10usize,
        ) {
            let standing: Vec<Standing> = messages.iter().enumerate()
                .map(|(offset, (topic, bytes, _))| Standing { offset: offset as u64, topic: TopicId(*topic), bytes: *bytes })
                .collect();
            let pinned: Vec<Offset> = standing.iter().filter(|one| messages[one.offset as usize].2).map(|one| one.offset).collect();
            let held = |topic: u32| standing.iter().filter(|one| one.topic.0 == topic).map(|one| one.bytes).sum::<u64>();
            let past = |bytes: u64, max: u64| bytes.saturating_sub(max);
            let mut plan = Plan { topics: HashMap::new(), excess: past((0..3).map(held).sum(), total) };
            for topic in 0..3u32 {
                let at = topic as usize;
                let one = TopicPlan { needed_from: needed[at], old_to: old[at], excess: past(held(topic), maxes[at]) };
                plan.topics.insert(TopicId(topic), one);
            }
            let mut removal = Removal::default();
            let mut exhausted = true;
            for part in standing.chunks(together) {
                exhausted &= plan.choose(part, &pinned, &mut removal);
            }
            let gone = |one: &Standing| crate::log::removal::ranges_contain(&removal.ranges, one.offset);
            let may_go = |one: &Standing| one.offset < needed[one.topic.0 as usize] && pinned.binary_search(&one.offset).is_err();
            let mut left = [held(0), held(1), held(2)];
            for one in &standing {
                let at = one.topic.0 as usize;
                let too_much = left[at] > maxes[at] || left.iter().sum::<u64>() > total;
                prop_assert_eq!(gone(one), may_go(one) && (one.offset < old[at] || too_much), "{:?}", one);
                left[at] -= if gone(one) { one.bytes } else { 0 };
            }
            prop_assert_eq!(exhausted, standing.iter().all(|one| gone(one) || !may_go(one)));
            prop_assert_eq!(removal.bytes(), standing.iter().filter(|one| gone(one)).map(|one| one.bytes).sum::<u64>());
        }
    }
}
