//! Orders in, stock down, under the manifest that is shipped.

use inventory::{StockLow, handle};
use sandpost_sdk::prelude::*;
use sandpost_sdk::testing::{Settlement, TestBus, json_message};
use serde_json::{Value, json};

fn bus() -> TestBus {
    TestBus::with_manifest(include_str!("../inventory.toml"))
}

fn order(items: &Value) -> Message {
    json_message("order.placed", &json!({ "id": "o-17", "customer": "mira@example.com", "items": items }))
}

#[test]
fn an_order_takes_its_items_and_a_low_stock_is_told_once() {
    let mut bus = bus();
    let run =
        bus.deliver(handle, &order(&json!([{ "sku": "BOOK-1", "quantity": 30 }, { "sku": "MUG-2", "quantity": 1 }])));
    assert_eq!((run.outcome, run.published.len()), (Ok(()), 0), "10 are left, and fewer would be low");
    assert_eq!(bus.stored_json::<u32>("stock/BOOK-1"), Some(10));
    assert_eq!(bus.stored_json::<u32>("stock/MUG-2"), Some(999));

    let one_book = order(&json!([{ "sku": "BOOK-1", "quantity": 1 }]));
    let run = bus.deliver(handle, &one_book);
    assert_eq!(run.published_json::<StockLow>("stock.low"), [StockLow { sku: "BOOK-1".into(), left: 9 }]);
    assert_eq!(run.published[0].key.as_deref(), Some("BOOK-1"));
    assert_eq!(bus.deliver(handle, &one_book).published, [], "it was told");
}

#[test]
fn an_order_for_more_than_there_is_takes_nothing() {
    let mut bus = bus();
    let items = json!([{ "sku": "MUG-2", "quantity": 5 }, { "sku": "BOOK-1", "quantity": 25 }, { "sku": "BOOK-1", "quantity": 25 }]);
    let (settlement, runs) = bus.settle(handle, &order(&items));
    assert_eq!(settlement, Settlement::Dead("order o-17 wants 25 of BOOK-1, and 15 are left".into()));
    assert_eq!(runs.len(), 1);
    assert!(bus.stored().is_empty());
}

#[test]
fn an_article_without_a_stock_is_not_sold() {
    let mut bus = TestBus::new().config("initial_stock/BOOK-1", "40");
    let run = bus.deliver(handle, &order(&json!([{ "sku": "MUG-2", "quantity": 1 }])));
    assert_eq!(run.outcome, Err(Failure::reject("MUG-2 is not sold here")));
}

#[test]
fn a_back_order_waits_for_the_supplier() {
    let mut bus = bus();
    let items = json!([{ "sku": "BOOK-1", "quantity": 500 }]);
    let order = json_message("order.placed", &json!({ "id": "o-18", "items": items, "backorder": true }));
    let (settlement, runs) = bus.settle(handle, &order);
    assert_eq!((settlement, runs.len()), (Settlement::Acked, 3));
    assert_eq!(runs[0].outcome, Err(Failure::retry("the supplier has not confirmed order o-18 yet")));
    assert_eq!(bus.stored_json::<u64>("backorder/BOOK-1"), Some(500));
    assert_eq!(bus.stored_json::<u32>("stock/BOOK-1"), None, "nothing was taken from stock");
}
