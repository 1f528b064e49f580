//! Orders that many tests give.

use std::collections::BTreeMap;

use obedient::Order;

/// Publish this text so many times.
pub fn publishing(topic: &str, data: &str, count: u32) -> Order {
    publish(topic, None, data, count)
}

/// Publish this text with a key.
pub fn publishing_with_key(topic: &str, key: &str, data: &str) -> Order {
    publish(topic, Some(key), data, 1)
}

fn publish(topic: &str, key: Option<&str>, data: &str, count: u32) -> Order {
    Order::Publish {
        topic: topic.into(),
        count,
        data: data.into(),
        key: key.map(Into::into),
        id: None,
        deliver_after_ms: None,
        expires_after_ms: None,
        attributes: BTreeMap::new(),
        then: None,
    }
}
