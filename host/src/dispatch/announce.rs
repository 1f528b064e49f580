//! Events of the bus's own, in topics that begin with `$`: each points to what happened, and carries no data of
//! the message that it happened to.
//!
//! `$dead-letters.SUBSCRIPTION` has one event for each dead letter that is made, stored in the same transaction.
//! `$lag.SUBSCRIPTION` has one when a backlog grows older than `lag_warn`, and one when that is over. About a
//! subscription that takes such topics itself there is none, so one that fails on them cannot loop. A longer way
//! round, over messages that a watcher publishes, ends with their hops.

use serde_json::json;

use crate::limits::{EVENT_ERROR_BYTES_MAX, HOPS_MAX};
use crate::log::{DeadRow, Selection};
use crate::message::{Event, Message, Millis};
use crate::outcome::shortened;
use crate::topic::TopicName;

use super::Dispatcher;

/// The type of the event that an episode begins.
const LAG_BEGAN: &str = "sandpost.lag.began";

/// What begins or ends with an episode of lag.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lag {
    /// Whether it begins; otherwise it is over.
    pub begins: bool,
    pub pending: u64,
    pub oldest_pending_seconds: f64,
    pub lag_warn_seconds: f64,
}

impl Dispatcher {
    /// The event about a dead letter of this subscription; `None` where there is to be none.
    pub(super) fn announcement(&self, message: &Message, row: &DeadRow) -> Option<Event> {
        let topic = message.event.topic.as_str();
        let hops = message.event.hops.saturating_add(1);
        if takes_own_topics(&self.selection) || topic.starts_with('$') || hops > HOPS_MAX {
            return None;
        }
        let id = format!("{}:{}", self.name, message.offset);
        let last = row.last_attempt();
        let data = json!({
            "id": id,
            "subscription": &*self.name,
            "reason": row.reason.as_str(),
            "topic": topic,
            "sequence": message.sequence,
            "offset": message.offset,
            "key": row.key,
            "died_ms": row.died_ms,
            "attempts": row.history.attempts.len() as u64 + row.history.omitted,
            "redrives": row.history.redrives,
            "digest": last.map(|attempt| attempt.digest.to_string()),
            "outcome": last.map(|attempt| attempt.outcome.as_str()),
            "error": last.map(|attempt| shortened(&attempt.text, EVENT_ERROR_BYTES_MAX)),
        });
        // It may die again after a redrive or a seek: that is another event.
        let event_id = format!("{id}:{}", row.died_ms);
        let event = own_event("dead-letters", &self.name, event_id, "sandpost.dead-letter", row.died_ms, &data);
        Some(Event { subject: Some(id), key: row.key.clone(), hops, ..event })
    }
}

/// The event about an episode of a subscription's lag; `None` where there is to be none.
pub fn lag(subscription: &str, selection: &Selection, lag: &Lag, now_ms: Millis) -> Option<Event> {
    if takes_own_topics(selection) {
        return None;
    }
    let (kind, state) = if lag.begins { (LAG_BEGAN, "began") } else { ("sandpost.lag.over", "over") };
    let data = json!({
        "subscription": subscription,
        "state": state,
        "pending": lag.pending,
        "oldest_pending_seconds": lag.oldest_pending_seconds,
        "lag_warn_seconds": lag.lag_warn_seconds,
    });
    let event = own_event("lag", subscription, format!("{subscription}:{state}:{now_ms}"), kind, now_ms, &data);
    Some(Event { subject: Some(subscription.to_owned()), ..event })
}

/// The topic of events about a subscription's lag.
pub fn lag_topic(subscription: &str) -> TopicName {
    own_topic("lag", subscription)
}

/// Whether an event in that topic says that an episode began.
pub fn says_lag_began(event: &Event) -> bool {
    event.kind == LAG_BEGAN
}

/// Whether topics of the bus's own are among those that it takes: only a filter that names them does.
fn takes_own_topics(selection: &Selection) -> bool {
    selection.filters.iter().any(|(filter, _)| filter.as_str().starts_with('$'))
}

fn own_topic(family: &str, subscription: &str) -> TopicName {
    let topic = TopicName::any(&format!("${family}.{subscription}"));
    topic.expect("a subscription's name is one token of a topic")
}

fn own_event(
    family: &str,
    subscription: &str,
    id: String,
    kind: &str,
    time_ms: Millis,
    data: &serde_json::Value,
) -> Event {
    let topic = own_topic(family, subscription);
    let time = i64::try_from(time_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    Event {
        topic,
        id,
        source: format!("/subscriptions/{subscription}"),
        kind: kind.to_owned(),
        subject: None,
        key: None,
        content_type: Some("application/json".to_owned()),
        attributes: time.map(|time| ("time".to_owned(), time.to_string())).into_iter().collect(),
        data: data.to_string().into(),
        hops: 0,
        deliver_at_ms: None,
        named: false,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::log::position::Position;
    use crate::log::{Counts, LoadedSubscription, SubscriptionId, SubscriptionRecord};
    use crate::message::TopicId;
    use crate::outcome::{Attempt, DeadReason, Digest, History, OutcomeKind};
    use crate::policy::Policy;
    use crate::topic::TopicFilter;

    fn selection(filters: &[&str]) -> Selection {
        Selection {
            filters: filters.iter().map(|filter| (TopicFilter::parse(filter).unwrap(), 0)).collect(),
            removed: Vec::new(),
        }
    }

    fn dispatcher(filters: &[&str]) -> Dispatcher {
        let record = SubscriptionRecord {
            consumer: "email".to_owned(),
            selection: selection(filters),
            created_ms: 0,
            epoch: 0,
            passes_dead_before: 0,
            paused: false,
        };
        let loaded = LoadedSubscription {
            id: SubscriptionId(1),
            name: "email".to_owned(),
            record,
            position: Position::starting_at(0),
            counts: Counts::default(),
            retries: Vec::new(),
            held: Vec::new(),
            parks: Vec::new(),
        };
        Dispatcher::load(&loaded, Policy::default(), 0, 0, 1)
    }

    fn message(topic: &str, hops: u8) -> Message {
        let event = Event {
            topic: TopicName::any(topic).unwrap(),
            id: "m".to_owned(),
            source: "/tests".to_owned(),
            kind: "t".to_owned(),
            subject: None,
            key: Some("customer-7".to_owned()),
            content_type: None,
            attributes: Vec::new(),
            data: Bytes::from_static(b"not to be carried"),
            hops,
            deliver_at_ms: None,
            named: false,
        };
        Message { offset: 12, sequence: 3, topic_id: TopicId(0), accepted_ms: 5, event }
    }

    fn row(message: &Message, text: &str) -> DeadRow {
        let mut history = History::default();
        history.record(Attempt {
            at_ms: 6,
            duration_us: 1,
            outcome: OutcomeKind::Reject,
            text: text.to_owned(),
            digest: Digest([7; 32]),
            charged: true,
        });
        DeadRow::of(message, DeadReason::Rejected, 9, history)
    }

    #[test]
    fn an_event_points_to_the_dead_letter_and_is_small() {
        let message = message("order.placed", 2);
        let event = dispatcher(&["order.>"]).announcement(&message, &row(&message, &"\u{e4}".repeat(4_000))).unwrap();
        assert_eq!((event.topic.as_str(), event.id.as_str()), ("$dead-letters.email", "email:12:9"));
        assert_eq!(
            (event.key.as_deref(), event.subject.as_deref(), event.hops),
            (Some("customer-7"), Some("email:12"), 3)
        );
        let data: serde_json::Value = serde_json::from_slice(&event.data).unwrap();
        assert_eq!(
            (&data["id"], &data["topic"], &data["sequence"]),
            (&json!("email:12"), &json!("order.placed"), &json!(3))
        );
        assert_eq!((&data["reason"], &data["digest"]), (&json!("rejected"), &json!("07".repeat(32))));
        assert!(data["error"].as_str().unwrap().len() <= EVENT_ERROR_BYTES_MAX + 3);
        assert!(!data.to_string().contains("carried") && event.bytes() < 2_048, "{data}");
    }

    #[test]
    fn who_takes_topics_of_the_bus_is_not_told_of() {
        let one = message("order.placed", 0);
        let letter = row(&one, "no");
        for (filters, announced) in [
            (&["order.>"][..], true),
            (&[">"], true),
            (&["$dead-letters.>"], false),
            (&["order.>", "$lag.email"], false),
            (&["$dead-letters.email"], false),
        ] {
            assert_eq!(dispatcher(filters).announcement(&one, &letter).is_some(), announced, "{filters:?}");
            let begins = Lag { begins: true, pending: 1, oldest_pending_seconds: 2.0, lag_warn_seconds: 1.0 };
            assert_eq!(lag("email", &selection(filters), &begins, 1).is_some(), announced, "{filters:?}");
        }
        // The filter that took it is gone since.
        let own = message("$dead-letters.stock", 0);
        assert_eq!(dispatcher(&["order.>"]).announcement(&own, &row(&own, "no")), None);
    }

    #[test]
    fn a_loop_over_published_messages_ends_with_their_hops() {
        let last = message("alert", HOPS_MAX);
        assert_eq!(dispatcher(&["alert"]).announcement(&last, &row(&last, "no")), None);
        let one_before = message("alert", HOPS_MAX - 1);
        let event = dispatcher(&["alert"]).announcement(&one_before, &row(&one_before, "no")).unwrap();
        assert_eq!(event.hops, HOPS_MAX);
    }

    #[test]
    fn an_episode_of_lag_has_two_events() {
        let one = |begins| {
            let state = Lag { begins, pending: 4, oldest_pending_seconds: 400.0, lag_warn_seconds: 300.0 };
            lag("email", &selection(&["order.>"]), &state, 7).unwrap()
        };
        let (began, over) = (one(true), one(false));
        assert_eq!((began.topic.as_str(), began.kind.as_str()), ("$lag.email", "sandpost.lag.began"));
        assert_eq!((over.topic.as_str(), over.kind.as_str()), ("$lag.email", "sandpost.lag.over"));
        assert_ne!(began.id, over.id);
    }
}
