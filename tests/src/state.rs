//! The state of an obedient guest, as it tells it.

use std::collections::BTreeMap;

use obedient::Order;

use crate::daemon::Daemon;

/// Entries that one scan gives at most.
const PAGE_ENTRIES: usize = 1_000;

/// The keys that begin so, with their values as texts: the subscription of an obedient guest is ordered, by messages
/// of its topic, to tell them to the topic `told`. Nothing else is to go on there.
#[track_caller]
pub fn state(bus: &mut Daemon, subscription: &str, topic: &str, prefix: &str) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let after = all.last_key_value().map(|(key, _)| key.clone());
        let order = Order::ScanState { prefix: prefix.into(), after, limit: u32::MAX, topic: "told".into() };
        bus.publish(topic, None, order);
        assert_eq!(bus.settled(subscription).dead, 0, "{:#?}", bus.dead_letters(subscription));
        let told = bus.messages("told").pop().expect("it was told");
        let page: Vec<(String, String)> = serde_json::from_value(told.data["entries"].clone()).expect("it is a list");
        let is_last = page.len() < PAGE_ENTRIES;
        all.extend(page);
        if is_last {
            return all;
        }
    }
}
