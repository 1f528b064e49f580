//! Writes the confirmation mail of an order, and sends it.
//!
//! It takes `order.placed`, posts the mail to the mail API as JSON (`{"order", "from", "to", "subject", "text"}`), and
//! publishes it as `email.sent`, with the customer as its key. The event and the acknowledgement are one
//! transaction. The request is not a part of it: a crash between the two has it made again, and the API knows by the
//! idempotency key that it has sent that mail.
//!
//! While the API is down or busy, orders wait and are not charged an attempt. What it refuses for good is a dead letter.
//!
//! An order in a currency that this version cannot format is retried rather than rejected, for a later
//! version may be able to: built with the feature `all-currencies` it is one.

mod mail;
mod money;

use mail::Mail;
use money::Currency;
use sandpost_sdk::prelude::*;
use serde::Deserialize;

/// An order, as far as its mail needs it.
#[derive(Debug, Deserialize)]
pub struct Order {
    id: String,
    customer: String,
    items: Vec<Item>,
    currency: String,
}

/// So many of one article, and the price of one in the currency's smallest unit.
#[derive(Debug, Deserialize)]
pub struct Item {
    sku: String,
    quantity: u32,
    price_cents: u64,
}

/// Sends the mail of an order. The config `from` is its sender, `mail_api` the URL of the API, and the secret
/// `mail_api_key` its key.
pub fn handle(Json(order): Json<Order>, bus: &Bus) -> Result<(), Failure> {
    if !mail::is_address(&order.customer) {
        return Err(Failure::reject(format!(
            "the customer of order {}, {:?}, is no mail address",
            order.id, order.customer
        )));
    }
    let currency = Currency::named(&order.currency)
        .or_retry(format!("no format for amounts in {:?}, as order {} has them", order.currency, order.id))?;
    let mail = Mail::confirmation(&order, currency, bus.required_config("from")?)?;
    bus.http()
        .post(bus.required_config("mail_api")?)
        .bearer(bus.secret("mail_api_key")?)
        .idempotency_key()
        .json(&mail)?
        .send()?
        .ok()?;
    bus.publish(Event::json("email.sent", &mail)?.key(&order.customer).subject(&order.id))?;
    bus.info(format!("order {}: mail to {}", order.id, order.customer));
    Ok(())
}

sandpost_sdk::consumer!(handle);
