//! A consumer that parses what it is given, and acknowledges it: what the consumers of the other side do too.

use sandpost_sdk::prelude::*;
use serde::Deserialize;

/// What the benchmark publishes.
#[derive(Debug, Deserialize)]
pub struct Order {
    pub number: u64,
    pub customer: String,
    pub filler: String,
}

pub fn handle(Json(order): Json<Order>, _bus: &Bus) -> Result<(), Failure> {
    // It decides something, so that parsing cannot be optimized away.
    if order.customer.is_empty() || order.filler.is_empty() {
        return Err(Failure::reject(format!("order {} is not whole", order.number)));
    }
    Ok(())
}

sandpost_sdk::consumer!(handle);

#[cfg(test)]
mod tests {
    use super::*;
    use sandpost_sdk::testing::{TestBus, message};

    #[test]
    fn it_takes_whole_orders_alone() {
        let whole = message("orders", r#"{"number":1,"customer":"c","filler":"x"}"#);
        assert!(TestBus::new().deliver(handle, &whole).outcome.is_ok());
        for half in [r#"{"number":1,"customer":"","filler":"x"}"#, r#"{"number":1}"#] {
            assert!(TestBus::new().deliver(handle, &message("orders", half)).outcome.is_err(), "{half}");
        }
    }
}
