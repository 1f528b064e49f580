//! The consumers that are shipped, under the manifests that are shipped, on a real bus.

use sandpost_tests::{Daemon, guest};
use serde_json::json;

#[test]
fn inventory_sells_what_there_is_and_no_more() {
    // 40 books are there, and 60 customers want one each, side by side and over a crash.
    let manifest = include_str!("../../plugins/inventory/inventory.toml");
    let mut bus = Daemon::with("inventory", &guest("inventory"), manifest);
    let order = |number: u32| {
        let items = json!([{ "sku": "BOOK-1", "quantity": 1 }]);
        (format!("customer-{number}"), json!({ "id": format!("o-{number}"), "items": items }))
    };
    bus.publish_many("order.placed", (0..60).map(order));
    bus.kill();
    bus.restart();
    let account = bus.settled("inventory");
    assert_eq!((account.acked, account.died("rejected")), (40, 20));
    let low: Vec<_> = bus.messages("stock.low").into_iter().map(|low| low.data).collect();
    assert_eq!(low, [json!({ "sku": "BOOK-1", "left": 9 })], "it is told once");
}
