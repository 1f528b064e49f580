//! Orders that many tests give.

use std::collections::BTreeMap;

use obedient::Order;

/// Publish this text so many times.
pub fn publishing(topic: &str, data: &str, count: u32) -> Order {
    Order::Publish {
        topic: topic.into(),
        count,
        data: data.into(),
        key: None,
        id: None,
        deliver_after_ms: None,
        expires_after_ms: None,
        attributes: BTreeMap::new(),
        then: None,
    }
}
