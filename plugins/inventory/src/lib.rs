//! Reserves the stock that an order needs.
//!
//! The stock of an article stands in the state under `stock/SKU`. Customers order side by side, and two of them
//! may want the same article: the bus runs a call again whose reads went stale, so counting down by reading
//! and writing is right without a lock. An order takes all of its items or, failing, none.
//!
//! Config:
//! - `initial_stock/SKU`, or else `initial_stock`: what there is of an article that was never ordered. An
//!   article with neither is not sold here, and its order is rejected.
//! - `low_stock` (10): when an order takes an article below it, `stock.low` is published, once.
//! - `supplier_confirms_on_attempt` (3): the attempt in which the supplier has confirmed a back order. It
//!   stands in for a partner that takes its time to answer, so that a demonstration has something to
//!   wait for; a real one would ask the partner.

use sandpost_sdk::prelude::*;
use serde::{Deserialize, Serialize};

/// An order, as far as the stock is concerned.
#[derive(Debug, Deserialize)]
pub struct Order {
    id: String,
    items: Vec<Item>,
    /// Ordered from the supplier, not from stock.
    #[serde(default)]
    backorder: bool,
}

/// So many of one article.
#[derive(Debug, Deserialize)]
pub struct Item {
    sku: String,
    quantity: u32,
}

/// What is published as `stock.low`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockLow {
    /// The article.
    pub sku: String,
    /// How many are left.
    pub left: u32,
}

/// Reserves the items of an order.
pub fn handle(Json(order): Json<Order>, bus: &Bus) -> Result<(), Failure> {
    if order.backorder {
        return back_order(&order, bus);
    }
    let low_stock = bus.config_or("low_stock", 10)?;
    for item in &order.items {
        let before = stock(&item.sku, bus)?;
        let left = before
            .checked_sub(item.quantity)
            .or_reject(format!("order {} wants {} of {}, and {before} are left", order.id, item.quantity, item.sku))?;
        bus.state().set_json(&stock_key(&item.sku), &left)?;
        if left < low_stock && before >= low_stock {
            bus.warn(format!("{}: {left} left", item.sku));
            let low = StockLow { sku: item.sku.clone(), left };
            bus.publish(Event::json("stock.low", &low)?.key(&item.sku))?;
        }
    }
    Ok(())
}

sandpost_sdk::consumer!(handle);

/// What is left of an article.
fn stock(sku: &str, bus: &Bus) -> Result<u32, Failure> {
    if let Some(left) = bus.state().get_json(&stock_key(sku))? {
        return Ok(left);
    }
    let of_sku = format!("initial_stock/{sku}");
    let name = if bus.config(&of_sku).is_some() { of_sku.as_str() } else { "initial_stock" };
    if bus.config(name).is_none() {
        return Err(Failure::reject(format!("{sku} is not sold here")));
    }
    bus.config_or(name, 0)
}

fn stock_key(sku: &str) -> String {
    format!("stock/{sku}")
}

/// Waits for the supplier, and notes what it will deliver under `backorder/SKU`.
fn back_order(order: &Order, bus: &Bus) -> Result<(), Failure> {
    let confirmed_on: u32 = bus.config_or("supplier_confirms_on_attempt", 3)?;
    if bus.delivery().attempt < confirmed_on {
        return Err(Failure::retry(format!("the supplier has not confirmed order {} yet", order.id)));
    }
    for item in &order.items {
        bus.state().update_json(&format!("backorder/{}", item.sku), |ordered: &mut u64| {
            *ordered += u64::from(item.quantity);
        })?;
    }
    bus.info(format!("the supplier has confirmed order {}", order.id));
    Ok(())
}
