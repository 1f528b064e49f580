//! A guest that says which version handled a message: for tests of a swap between two messages.
//!
//! It publishes `{"id", "attempt", "version"}` to the topic named by the config `topic`, with the message's
//! key; `version` is the config of that name.

use sandpost_sdk::prelude::*;
use serde::{Deserialize, Serialize};

/// What it publishes for each message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handled {
    /// The id of the message.
    pub id: String,
    /// The attempt in which it was handled.
    pub attempt: u32,
    /// The config `version` of the manifest that it was handled under.
    pub version: String,
}

/// Publishes what it handled, and acknowledges it.
pub fn handle(message: &Message, bus: &Bus) -> Result<(), Failure> {
    let handled =
        Handled { id: message.id.clone(), attempt: bus.delivery().attempt, version: bus.required_config("version")? };
    let mut event = Event::json(bus.required_config("topic")?, &handled)?;
    event.key.clone_from(&message.key);
    bus.publish(event)?;
    Ok(())
}

sandpost_sdk::consumer!(handle);

#[cfg(test)]
mod tests {
    use super::*;
    use sandpost_sdk::testing::{TestBus, message};

    #[test]
    fn it_says_its_version() {
        let mut bus = TestBus::new().grant("handled").config("topic", "handled").config("version", "2");
        let message = Message { id: "m-1".into(), key: Some("k".into()), ..message("orders", "") };
        let run = bus.deliver(handle, &message);
        let expected = Handled { id: "m-1".into(), attempt: 1, version: "2".into() };
        assert_eq!(run.published_json::<Handled>("handled"), [expected]);
        assert_eq!(run.published[0].key.as_deref(), Some("k"));
    }
}
