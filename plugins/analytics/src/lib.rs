//! Counts orders, items and revenue.
//!
//! In the state, as JSON:
//! - `total/CURRENCY` and `day/YYYY-MM-DD/CURRENCY`: `{"orders", "items", "revenue_minor"}`, revenue in the currency's
//!   smallest unit, days in UTC by the time that the bus accepted the order.
//! - `events/TOPIC`: how many messages came from each topic.
//!
//! Its manifest takes every topic under `order`. What is not `order.placed` is counted and not looked into.
//! A counter is exact however often a message is delivered: it moves with the acknowledgement or not at all.

use jiff::Timestamp;
use jiff::tz::Offset;
use sandpost_sdk::prelude::*;
use serde::{Deserialize, Serialize};

const PLACED: &str = "order.placed";

/// An order, as far as it is counted.
#[derive(Debug, Deserialize)]
pub struct Order {
    items: Vec<Item>,
    currency: String,
}

/// So many of one article, and the price of one in the currency's smallest unit.
#[derive(Debug, Deserialize)]
pub struct Item {
    quantity: u32,
    price_cents: u64,
}

/// What was sold in one currency, ever or on one day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sales {
    /// Orders.
    pub orders: u64,
    /// Articles, each as often as it was ordered.
    pub items: u64,
    /// In the currency's smallest unit.
    pub revenue_minor: u64,
}

impl Sales {
    /// The sales of one order. `None` where a sum overflows.
    fn of(order: &Order) -> Option<Self> {
        let one = Sales { orders: 1, ..Sales::default() };
        order.items.iter().try_fold(one, |sales, item| {
            let quantity = u64::from(item.quantity);
            Some(Sales {
                orders: sales.orders,
                items: sales.items.checked_add(quantity)?,
                revenue_minor: sales.revenue_minor.checked_add(item.price_cents.checked_mul(quantity)?)?,
            })
        })
    }

    fn checked_add(self, other: Sales) -> Option<Sales> {
        Some(Sales {
            orders: self.orders.checked_add(other.orders)?,
            items: self.items.checked_add(other.items)?,
            revenue_minor: self.revenue_minor.checked_add(other.revenue_minor)?,
        })
    }
}

/// Counts a message.
pub fn handle(message: &Message, bus: &Bus) -> Result<(), Failure> {
    bus.state().update_json(&format!("events/{}", message.topic), |count: &mut u64| *count += 1)?;
    if message.topic != PLACED {
        return Ok(());
    }
    let order: Order = message.json()?;
    if !is_currency(&order.currency) {
        return Err(Failure::reject(format!("{:?} is no currency: three capital letters are", order.currency)));
    }
    let sales = Sales::of(&order).or_reject("the order's amounts are too large")?;
    let day = day(message.accepted_ms)?;
    add(bus, &format!("total/{}", order.currency), sales)?;
    add(bus, &format!("day/{day}/{}", order.currency), sales)
}

sandpost_sdk::consumer!(handle);

fn add(bus: &Bus, key: &str, sales: Sales) -> Result<(), Failure> {
    let before: Sales = bus.state().get_json(key)?.unwrap_or_default();
    let after = before.checked_add(sales).or_reject(format!("the sum of {key} is too large"))?;
    Ok(bus.state().set_json(key, &after)?)
}

/// The code becomes part of a key, and every new one a counter: anything else would fill the state.
fn is_currency(code: &str) -> bool {
    code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// The day in UTC, as `YYYY-MM-DD`.
fn day(time_ms: u64) -> Result<String, Failure> {
    let time_ms = i64::try_from(time_ms).or_reject("the time of acceptance")?;
    let time = Timestamp::from_millisecond(time_ms).or_reject("the time of acceptance")?;
    Ok(Offset::UTC.to_datetime(time).date().to_string())
}
