//! Transfers in, balances out, under the manifest of the example.

use bank::{Audit, Decided, Opening, Transfer, handle};
use sandpost_sdk::prelude::*;
use sandpost_sdk::testing::{Settlement, TestBus, json_message};
use serde_json::json;

/// Two accounts, with 500 and 70 cents.
fn bus() -> TestBus {
    let mut bus = TestBus::with_manifest(include_str!("../bank.toml"));
    for (account, cents) in [("anna", 500), ("ben", 70)] {
        let opening = Opening { account: account.into(), cents };
        assert_eq!(bus.deliver(handle, &json_message("account.opened", &opening)).outcome, Ok(()));
    }
    bus
}

fn transfer(id: &str, from: &str, to: &str, cents: u64) -> Transfer {
    Transfer { id: id.into(), from: from.into(), to: to.into(), cents }
}

fn requested(transfer: &Transfer) -> Message {
    json_message("transfer.requested", transfer)
}

#[test]
fn a_transfer_is_booked_on_both_accounts() {
    let mut bus = bus();
    let transfer = transfer("t-1", "anna", "ben", 500);
    let run = bus.deliver(handle, &requested(&transfer));
    assert_eq!(run.published[0].key.as_deref(), Some("anna"));
    assert_eq!(run.published_json::<Decided>("transfer.booked"), [Decided { transfer, from_cents: 0, to_cents: 570 }]);
    assert_eq!((bus.stored_json("balance/anna"), bus.stored_json("balance/ben")), (Some(0_u64), Some(570_u64)));
}

#[test]
fn what_would_overdraw_is_declined_and_moves_nothing() {
    let mut bus = bus();
    let transfer = transfer("t-1", "ben", "anna", 71);
    let run = bus.deliver(handle, &requested(&transfer));
    assert_eq!(
        run.published_json::<Decided>("transfer.declined"),
        [Decided { transfer, from_cents: 70, to_cents: 500 }]
    );
    assert_eq!((bus.stored_json("balance/anna"), bus.stored_json("balance/ben")), (Some(500_u64), Some(70_u64)));
}

#[test]
fn what_makes_no_sense_is_rejected() {
    let mut bus = bus();
    let again = json_message("account.opened", &Opening { account: "anna".into(), cents: 1 });
    for (message, reason) in [
        (requested(&transfer("t-1", "anna", "anna", 1)), "transfer t-1 goes from anna to itself"),
        (requested(&transfer("t-2", "anna", "nobody", 1)), "there is no account nobody"),
        (again, "account anna is there already"),
        (json_message("account.closed", &json!({})), "a bank does nothing about account.closed"),
    ] {
        assert_eq!(bus.settle(handle, &message).0, Settlement::Dead(reason.into()));
    }
    assert_eq!(bus.stored_json::<u64>("balance/anna"), Some(500));
}

#[test]
fn an_audit_adds_up_all_accounts() {
    let run = bus().deliver(handle, &json_message("audit.requested", &json!({})));
    let balances_cents = [("anna".to_owned(), 500), ("ben".to_owned(), 70)].into();
    assert_eq!(run.published_json::<Audit>("audit.done"), [Audit { balances_cents, total_cents: 570 }]);
}
