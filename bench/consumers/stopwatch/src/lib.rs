//! A consumer that reads the clock when its handler begins: how long ago a message was sent stands in the message.
//!
//! Told to `note`, it keeps the time in memory until it is told to `report`, so that measuring makes no work of its own for
//! the bus. Told to `tell`, it publishes the time with its acknowledgement, which survives that its instance is replaced.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use sandpost_sdk::prelude::*;
use serde::Deserialize;

/// What the benchmark publishes; its `type` says what to do.
#[derive(Debug, Deserialize)]
pub struct Sent {
    /// By the clock of the same machine.
    pub sent_us: u64,
}

thread_local! {
    static NOTED_US: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

pub fn handle(message: &Message, bus: &Bus) -> Result<(), Failure> {
    let began_us = now_us();
    let took_us = || -> Result<u64, Failure> {
        let sent: Sent = message.json()?;
        Ok(began_us.saturating_sub(sent.sent_us))
    };
    match message.event_type.as_str() {
        "note" => {
            let took_us = took_us()?;
            NOTED_US.with_borrow_mut(|noted| noted.push(took_us));
            Ok(())
        }
        "report" => {
            let noted = NOTED_US.take();
            Ok(bus.publish(Event::json("times", &noted)?)?)
        }
        "tell" => Ok(bus.publish(Event::json("times", &[took_us()?])?)?),
        other => Err(Failure::reject(format!("nothing is known of {other:?}"))),
    }
}

sandpost_sdk::consumer!(handle);

#[cfg(test)]
mod tests {
    use super::*;
    use sandpost_sdk::testing::{TestBus, message};

    fn told(kind: &str, sent_us: u64) -> Message {
        Message { event_type: kind.to_owned(), ..message("orders", format!(r#"{{"sent_us":{sent_us}}}"#)) }
    }

    #[test]
    fn times_are_kept_until_they_are_asked_for() {
        let mut bus = TestBus::new().grant("times");
        let times: Vec<Vec<u64>> = ["note", "note", "report", "tell", "report"]
            .into_iter()
            .flat_map(|kind| bus.deliver(handle, &told(kind, now_us() - 1_000)).published_json("times"))
            .collect();
        let counts: Vec<usize> = times.iter().map(Vec::len).collect();
        assert_eq!(counts, [2, 1, 0]);
        assert!(times.iter().flatten().all(|took_us| (1_000..60_000_000).contains(took_us)), "{times:?}");
    }
}
