//! A guest that looks at every byte of a message and acknowledges it: the least that a real consumer
//! does. For measuring what the bus adds.

use sandpost_sdk::prelude::*;

/// Acknowledges every message whose bytes do not add up to one number that none has by chance.
pub fn handle(message: &Message, _bus: &Bus) -> Result<(), Failure> {
    let sum = message.data.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    // The sum decides something, so that looking at the bytes cannot be optimized away.
    if sum == u64::MAX {
        return Err(Failure::reject("an impossible sum"));
    }
    Ok(())
}

sandpost_sdk::consumer!(handle);

#[cfg(test)]
mod tests {
    use super::*;
    use sandpost_sdk::testing::{TestBus, message};

    #[test]
    fn it_acknowledges() {
        let run = TestBus::new().deliver(handle, &message("orders", "any bytes"));
        assert!(run.outcome.is_ok());
    }
}
