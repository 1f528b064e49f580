use sandpost_sdk::testing::{TestBus, message};
use {{crate}}::{Invoice, handle};

#[test]
fn orders_add_up() {
    let mut bus = TestBus::with_manifest(include_str!("../{{name}}.toml"));
    for (id, total_cents) in [("o-1", 2598), ("o-2", 402)] {
        let order = format!(r#"{{ "id": "{id}", "customer": "ada", "total_cents": {total_cents} }}"#);
        let run = bus.deliver(handle, &message("order.placed", order));
        assert_eq!(run.published_json::<Invoice>("invoice.due").len(), 1);
    }
    assert_eq!(bus.stored_json::<u64>("total/ada"), Some(3000));
}
