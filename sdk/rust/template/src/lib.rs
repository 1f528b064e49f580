//! Adds up what each customer has ordered, and publishes `invoice.due`.

use sandpost_sdk::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize)]
pub struct Order {
    id: String,
    customer: String,
    total_cents: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoice {
    pub order: String,
    pub customer: String,
    pub total_cents: u64,
}

/// An order that is no JSON of this form is rejected, and becomes a dead letter.
pub fn handle(Json(order): Json<Order>, bus: &Bus) -> Result<(), Failure> {
    let total = format!("total/{}", order.customer);
    let total_cents = bus.state().update_json(&total, |sum: &mut u64| *sum += order.total_cents)?;
    bus.info(format!("{} has ordered {total_cents} cents", order.customer));
    let invoice = Invoice { order: order.id, customer: order.customer, total_cents };
    Ok(bus.publish(Event::json("invoice.due", &invoice)?.key(&invoice.customer))?)
}

sandpost_sdk::consumer!(handle);
