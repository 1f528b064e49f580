//! Chains of consumers: exactly once inside the bus, through hundreds of crashes; and chains that have no end.

use std::collections::{BTreeMap, BTreeSet};

use obedient::Order;
use sandpost_tests::{Daemon, Event, guest, publishing_with_key, state};
use serde_json::json;

/// How often the bus is killed, where `SANDPOST_TEST_KILLS` does not say.
const KILLS: usize = 200;
/// Orders that are placed before each.
const ORDERS: usize = 25;
const CUSTOMERS: usize = 7;
/// The topics of the chain. Each message of one becomes a message of the next.
const STAGES: [&str; 3] = ["order.placed", "payment.captured", "order.shipped"];

/// Three subscriptions that share one state, each with one stage.
const MANIFEST: &str = r#"
[[subscription]]
name = "payment"
topics = ["order.placed"]
[[subscription]]
name = "shipping"
topics = ["payment.captured"]
[[subscription]]
name = "records"
topics = ["order.shipped"]
[grants]
publish = ["payment.captured", "order.shipped", "told"]
"#;
const SUBSCRIPTIONS: [&str; 3] = ["payment", "shipping", "records"];

fn customer(order: usize) -> String {
    format!("customer-{}", order % CUSTOMERS)
}

/// What is to be done at a stage: count the call, the stage and the order, and publish what the next stage is to do.
fn at(stage: usize, order: usize) -> Order {
    let topic = STAGES[stage];
    let mut orders: Vec<_> = ["calls".to_owned(), format!("stage/{topic}"), format!("order/{topic}/{order:06}")]
        .into_iter()
        .map(|key| Order::Increment { key, then: None })
        .collect();
    if let Some(next) = STAGES.get(stage + 1) {
        orders.push(publishing_with_key(next, &customer(order), &at(stage + 1, order).to_json()));
    }
    Order::All { orders }
}

/// The order that a message of a stage is about.
fn order_of(message: &Event) -> usize {
    // What a guest publishes is text, and the test publishes JSON.
    let text = message.data.as_str().map_or_else(|| message.data.to_string(), str::to_owned);
    let prefix = format!("order/{}/", message.topic);
    let at = text.find(&prefix).unwrap_or_else(|| panic!("{message:?} is about no order")) + prefix.len();
    text[at..at + 6].parse().unwrap_or_else(|_| panic!("{message:?} is about no order"))
}

/// Messages that were still to become one of the next stage when the process started.
fn found_half_way(bus: &Daemon) -> u64 {
    let views = ["payment", "shipping"].map(|name| bus.subscription(name));
    views.iter().map(|view| view.pending + view.outcomes("acked")).sum()
}

#[test]
fn a_chain_is_exactly_once_through_hundreds_of_crashes() {
    let kills = std::env::var("SANDPOST_TEST_KILLS").map_or(KILLS, |text| text.parse().expect("it is a number"));
    let mut bus = Daemon::with("shop", &guest("obedient"), MANIFEST);
    let mut interrupted = 0;
    for round in 0..kills {
        let mut tail = bus.tail("/topics/%3E/tail", &[]);
        let orders = round * ORDERS..(round + 1) * ORDERS;
        bus.publish_many(STAGES[0], orders.map(|order| (customer(order), at(0, order))));
        // Each order is three messages in the end; it is killed at another one of them each time.
        for _ in 0..1 + round * 29 % (2 * ORDERS) {
            tail.next_event();
        }
        bus.kill();
        bus.restart();
        interrupted += usize::from(found_half_way(&bus) > 0);
    }
    for name in SUBSCRIPTIONS {
        bus.settled(name);
    }
    eprintln!("{interrupted} of {kills} kills came in the middle of the chain");
    assert!(interrupted * 2 > kills, "only {interrupted} of {kills} kills came in the middle of the chain");

    let total = kills * ORDERS;
    let all: BTreeSet<usize> = (0..total).collect();
    for (topic, subscription) in STAGES.iter().zip(SUBSCRIPTIONS) {
        let messages = bus.messages(topic);
        assert_eq!(messages.len(), total, "{topic}");
        assert_eq!(messages.iter().map(order_of).collect::<BTreeSet<_>>(), all, "each order is once in {topic}");
        let mut of_customer: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for message in &messages {
            of_customer.entry(message.key.clone()).or_default().push(order_of(message));
        }
        assert!(of_customer.values().all(|orders| orders.is_sorted()), "{topic} is in the order of each customer");
        let account = bus.settled(subscription);
        assert_eq!((account.matched, account.acked, account.dead), (total as u64, total as u64, 0));
    }

    let mut expected: BTreeMap<String, String> = BTreeMap::new();
    for topic in STAGES {
        expected.extend((0..total).map(|order| (format!("order/{topic}/{order:06}"), "1".to_owned())));
        expected.insert(format!("stage/{topic}"), total.to_string());
    }
    expected.insert("calls".to_owned(), (STAGES.len() * total).to_string());
    let found = state(&mut bus, "records", STAGES[2], "");
    let wrong: Vec<_> = found.iter().filter(|(key, value)| expected.get(*key) != Some(*value)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(found.len(), expected.len());
}

#[test]
fn two_consumers_that_answer_each_other_are_cut_off() {
    let manifest = |from: &str, to: &str| {
        format!(
            "[[subscription]]\ntopics = [\"{from}\"]\n[grants]\npublish = [\"{to}\"]\n[config]\ntopic = \"{to}\"\nversion = \"1\"\n"
        )
    };
    let setup = Daemon::setup().plugin("ping", &guest("versioned"), &manifest("ping", "pong"));
    let mut bus = setup.plugin("pong", &guest("versioned"), &manifest("pong", "ping")).start();
    bus.publish("ping", None, json!({ "first": true }));
    bus.wait_until("the loop is cut", |bus| bus.subscription("ping").dead + bus.subscription("pong").dead == 1);
    let (ping, pong) = (bus.settled("ping"), bus.settled("pong"));
    assert_eq!(ping.died("too-many-hops") + pong.died("too-many-hops"), 1);
    assert_eq!(ping.acked + pong.acked, 32, "each of these published one message");
    let messages = bus.messages("ping").len() + bus.messages("pong").len();
    assert_eq!(messages as u64, ping.acked + pong.acked + 1, "the last one published nothing");
}
