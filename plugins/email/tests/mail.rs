//! Orders in, mails out, under the manifest that is shipped.

use email::handle;
use sandpost_sdk::prelude::*;
use sandpost_sdk::testing::{Settlement, TestBus, json_message, placeholder, response};
use sandpost_sdk::{HttpError, HttpResponse};
use serde_json::{Value, json};
use std::time::Duration;

const API: &str = "https://mail.example.com/v1/mails";

/// A bus whose mail API takes every mail.
fn bus() -> TestBus {
    answering(|| Ok(response(202)))
}

fn answering(answer: impl Fn() -> Result<HttpResponse, HttpError> + 'static) -> TestBus {
    TestBus::with_manifest(include_str!("../email.toml")).http(move |_| answer())
}

fn order(customer: &str, currency: &str) -> Message {
    let items = json!([
        { "sku": "BOOK-1", "quantity": 2, "price_cents": 1299 },
        { "sku": "MUG-2", "quantity": 1, "price_cents": 850 },
    ]);
    let order = json!({ "id": "o-17", "customer": customer, "items": items, "currency": currency });
    Message { key: Some(customer.to_owned()), ..json_message("order.placed", &order) }
}

#[test]
fn an_order_becomes_a_mail_to_its_customer() {
    let run = bus().deliver(handle, &order("mira@example.com", "EUR"));
    assert_eq!(run.outcome, Ok(()));
    assert_eq!(run.published.len(), 1);
    assert_eq!(run.published[0].key.as_deref(), Some("mira@example.com"));
    let mail = json!({
        "order": "o-17",
        "from": "shop@example.com",
        "to": "mira@example.com",
        "subject": "Your order o-17",
        "text": "Thank you for your order. We have noted:\n\n  2 x BOOK-1: 25.98 EUR\n  1 x MUG-2: 8.50 EUR\n\n\
                 Total: 34.48 EUR\n",
    });
    assert_eq!(run.published_json::<Value>("email.sent"), std::slice::from_ref(&mail));

    let [request] = &run.requests[..] else { panic!("{:?}", run.requests) };
    assert_eq!((request.method.as_str(), request.url.as_str()), ("POST", API));
    assert_eq!(serde_json::from_slice::<Value>(&request.body).unwrap(), mail);
    let header = |name: &str| request.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    assert_eq!(header("authorization"), Some(format!("Bearer {}", placeholder("mail_api_key"))));
    assert_eq!(header("idempotency-key").as_deref(), Some("test:/test:test-1"));
}

#[test]
fn while_the_api_is_down_an_order_waits_and_is_not_charged() {
    let refused = || Err(HttpError::Unreachable("the host refuses connections".to_owned()));
    let (settlement, runs) = answering(refused).settle(handle, &order("mira@example.com", "EUR"));
    assert_eq!(settlement, Settlement::Pending("the host refuses connections".into()));
    assert!(runs[0].published.is_empty(), "a mail that is not sent is not told of");

    let busy = || Ok(HttpResponse { headers: vec![("retry-after".into(), "7".into())], ..response(503) });
    let run = answering(busy).deliver(handle, &order("mira@example.com", "EUR"));
    let failure = Failure::unavailable(format!("{API} answered 503")).after(Duration::from_secs(7));
    assert_eq!(run.outcome, Err(failure));
}

#[test]
fn what_the_api_refuses_for_good_is_a_dead_letter() {
    let refuses = || Ok(HttpResponse { body: b"no such mailbox".to_vec(), ..response(422) });
    let (settlement, runs) = answering(refuses).settle(handle, &order("mira@example.com", "EUR"));
    assert_eq!(settlement, Settlement::Dead(format!("{API} answered 422: no such mailbox")));
    assert_eq!(runs.len(), 1);
}

#[cfg(not(feature = "all-currencies"))]
#[test]
fn an_order_in_yen_is_tried_six_times_and_then_a_dead_letter() {
    let (settlement, runs) = bus().settle(handle, &order("mira@example.com", "JPY"));
    assert_eq!(settlement, Settlement::Dead("no format for amounts in \"JPY\", as order o-17 has them".into()));
    assert_eq!(runs.len(), 6);
}

#[cfg(feature = "all-currencies")]
#[test]
fn an_order_in_yen_has_no_cents() {
    let (settlement, runs) = bus().settle(handle, &order("mira@example.com", "JPY"));
    assert_eq!((settlement, runs.len()), (Settlement::Acked, 1));
    let mails = runs[0].published_json::<Value>("email.sent");
    assert!(mails[0]["text"].as_str().unwrap().ends_with("Total: 3448 JPY\n"), "{mails:?}");
}

#[test]
fn an_order_that_no_mail_can_reach_is_rejected_at_once() {
    for customer in ["mira", "@example.com", "mira@", "mira@@example.com", "mi ra@example.com"] {
        let (settlement, runs) = bus().settle(handle, &order(customer, "EUR"));
        assert!(
            matches!(&settlement, Settlement::Dead(reason) if reason.contains("no mail address")),
            "{settlement:?}"
        );
        assert_eq!(runs.len(), 1);
    }
}
