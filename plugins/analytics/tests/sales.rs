//! Orders in, counters up, under the manifest that is shipped.

use analytics::{Sales, handle};
use sandpost_sdk::prelude::*;
use sandpost_sdk::testing::{TestBus, json_message, message};
use serde_json::json;

const DAY_MS: u64 = 24 * 3600 * 1000;

fn bus() -> TestBus {
    TestBus::with_manifest(include_str!("../analytics.toml"))
}

fn order(currency: &str) -> Message {
    let items = json!([
        { "sku": "BOOK-1", "quantity": 2, "price_cents": 1299 },
        { "sku": "MUG-2", "quantity": 1, "price_cents": 850 },
    ]);
    json_message("order.placed", &json!({ "id": "o-17", "items": items, "currency": currency }))
}

#[test]
fn sales_are_counted_in_total_and_by_day() {
    let mut bus = bus();
    let today = order("EUR");
    let tomorrow = Message { accepted_ms: today.accepted_ms + DAY_MS, ..order("EUR") };
    for message in [&today, &today, &tomorrow, &order("JPY")] {
        assert_eq!(bus.deliver(handle, message).outcome, Ok(()));
    }
    let sales = |orders| Sales { orders, items: 3 * orders, revenue_minor: 3_448 * orders };
    assert_eq!(bus.stored_json("total/EUR"), Some(sales(3)));
    assert_eq!(bus.stored_json("total/JPY"), Some(sales(1)));
    assert_eq!(bus.stored_json("day/2026-01-01/EUR"), Some(sales(2)));
    assert_eq!(bus.stored_json("day/2026-01-02/EUR"), Some(sales(1)));
    assert_eq!(bus.stored_json("events/order.placed"), Some(4));
}

#[test]
fn other_events_of_orders_are_counted_and_not_looked_into() {
    let mut bus = bus();
    assert_eq!(bus.deliver(handle, &message("order.cancelled", "no JSON")).outcome, Ok(()));
    assert_eq!(bus.stored_json("events/order.cancelled"), Some(1));
}

#[test]
fn an_order_that_cannot_be_counted_is_rejected_and_counts_nothing() {
    let mut bus = bus();
    let huge = json!([{ "quantity": 2, "price_cents": u64::MAX }]);
    let huge = json_message("order.placed", &json!({ "items": huge, "currency": "EUR" }));
    for message in [order("EUR/../x"), huge, message("order.placed", "no JSON")] {
        let outcome = bus.deliver(handle, &message).outcome;
        assert!(matches!(outcome, Err(Failure::Reject(_))), "{outcome:?}");
    }
    assert!(bus.stored().is_empty());
}
