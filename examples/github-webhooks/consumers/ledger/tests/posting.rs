//! Entries in, balances out, under the manifest of the example.

use ledger::{Entry, Posted, handle};
use sandpost_sdk::prelude::*;
use sandpost_sdk::testing::{Settlement, TestBus, json_message};

fn entry(account: &str, number: u32, amount_cents: i64) -> Message {
    json_message("ledger.entry", &Entry { account: account.into(), number, amount_cents })
}

#[test]
fn each_account_has_its_balance() {
    let mut bus = TestBus::with_manifest(include_str!("../ledger.toml"));
    let posted: Vec<(String, u32, i64)> = [("a", 1, 500), ("b", 1, 70), ("a", 2, -200), ("a", 3, -300)]
        .into_iter()
        .map(|(account, number, amount_cents)| {
            let run = bus.deliver(handle, &entry(account, number, amount_cents));
            assert_eq!(run.outcome, Ok(()));
            assert_eq!(run.published[0].key.as_deref(), Some(account));
            let [posted] = &run.published_json::<Posted>("ledger.posted")[..] else { panic!("one is published") };
            (posted.account.clone(), posted.number, posted.balance_cents)
        })
        .collect();
    assert_eq!(posted, [("a".into(), 1, 500), ("b".into(), 1, 70), ("a".into(), 2, 300), ("a".into(), 3, 0)]);
    assert_eq!(bus.stored_json::<i64>("balance/a"), Some(0));
    assert_eq!(bus.stored_json::<i64>("balance/b"), Some(70));
}

#[test]
fn an_account_is_not_overdrawn() {
    let mut bus = TestBus::with_manifest(include_str!("../ledger.toml")).state_json("balance/a", &100);
    let (settlement, _) = bus.settle(handle, &entry("a", 2, -101));
    let reason = "account a has 100 cents, which entry 2 over -101 cents would overdraw";
    assert_eq!(settlement, Settlement::Dead(reason.into()));
    assert_eq!(bus.stored_json::<i64>("balance/a"), Some(100));
}
