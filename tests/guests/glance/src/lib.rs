//! A guest that looks at every byte of a message and acknowledges it: the least that a real consumer
//! does. For measuring what the bus adds.

use sandpost_sdk::prelude::*;

/// Acknowledges every message whose bytes do not add up to one number that none has by chance.
pub fn handle(message: &Message, _bus: &Bus) -> Result<(), Failure> {
    let sum: u64 = message.data.iter().map(|byte| u64::from(*byte)).sum();
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
