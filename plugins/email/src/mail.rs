//! The mail itself.

use crate::money::Currency;
use crate::{Item, Order};
use sandpost_sdk::prelude::*;
use serde::{Deserialize, Serialize};

/// A mail, as the API takes it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mail {
    /// The id of its order.
    pub order: String,
    /// The shop's address.
    pub from: String,
    /// The customer's address.
    pub to: String,
    /// One line.
    pub subject: String,
    /// Plain text, lines ended by `\n`.
    pub text: String,
}

impl Mail {
    /// The confirmation of an order. It is a rejection where the amounts overflow: no such order is real.
    pub(crate) fn confirmation(order: &Order, currency: Currency, from: String) -> Result<Self, Failure> {
        let mut text = String::from("Thank you for your order. We have noted:\n\n");
        let mut total: u64 = 0;
        for item in &order.items {
            let amount = amount(item).or_reject(format!("the amount of {} is too large", item.sku))?;
            total = total.checked_add(amount).or_reject("the total is too large")?;
            text += &format!("  {} x {}: {}\n", item.quantity, item.sku, currency.format(amount));
        }
        text += &format!("\nTotal: {}\n", currency.format(total));
        Ok(Mail {
            order: order.id.clone(),
            from,
            to: order.customer.clone(),
            subject: format!("Your order {}", order.id),
            text,
        })
    }
}

fn amount(item: &Item) -> Option<u64> {
    item.price_cents.checked_mul(u64::from(item.quantity))
}

/// Whether mail could be sent there at all: something, one `@`, something. Only the receiving server knows more.
pub(crate) fn is_address(text: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || c.is_control());
    match text.split_once('@') {
        Some((mailbox, host)) => is_part(mailbox) && is_part(host) && !host.contains('@'),
        None => false,
    }
}
