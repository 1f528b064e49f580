//! The bus's time. Injected wherever time decides something, so that tests and simulations own it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::message::Millis;

/// Tells the time of day.
pub trait Clock: Send + Sync + 'static {
    fn now_ms(&self) -> Millis;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> Millis {
        // A clock set before 1970 reads as 0: retries are then due at once, which is harmless.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}
