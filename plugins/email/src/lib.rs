//! Writes the confirmation mail of an order.
//!
//! It takes `order.placed` and publishes the mail as `email.sent`, for the gateway that speaks SMTP:
//! `{"order", "from", "to", "subject", "text"}`, with the customer as its key. Nothing here sends twice: the event
//! and the acknowledgement are one transaction.
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

/// Writes the mail of an order. The config `from` is its sender.
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
    bus.publish(Event::json("email.sent", &mail)?.key(&order.customer).subject(&order.id))?;
    bus.info(format!("order {}: mail to {}", order.id, order.customer));
    Ok(())
}

sandpost_sdk::consumer!(handle);
