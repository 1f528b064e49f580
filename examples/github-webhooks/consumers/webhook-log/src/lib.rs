//! Says which webhooks it was given, in the order in which it handled them.
//!
//! For each message it publishes a [`Seen`] to the topic named by the config `topic`, with the message's key. The
//! publish and the acknowledgement are one transaction, so that topic holds every message that was
//! acknowledged, once.

use sandpost_sdk::prelude::*;
use serde::{Deserialize, Serialize};

/// A webhook that was handled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The message's id.
    pub id: String,
    /// Its topic.
    pub topic: String,
    /// Its place in that topic, from 1.
    pub sequence: u64,
    /// Its key, if it has one.
    pub key: Option<String>,
    /// Who did it, as the payload says; there is nobody where GitHub itself did.
    pub sender: Option<String>,
}

/// The part of a payload that is looked into: every webhook has it, or has nothing of the kind.
#[derive(Deserialize)]
struct Payload {
    sender: Option<Sender>,
}

#[derive(Deserialize)]
struct Sender {
    login: String,
}

/// Notes a webhook.
pub fn handle(message: &Message, bus: &Bus) -> Result<(), Failure> {
    let payload: Payload = message.json()?;
    let seen = Seen {
        id: message.id.clone(),
        topic: message.topic.clone(),
        sequence: bus.delivery().sequence,
        key: message.key.clone(),
        sender: payload.sender.map(|sender| sender.login),
    };
    let mut event = Event::json(bus.required_config("topic")?, &seen)?.subject(&message.id);
    event.key.clone_from(&message.key);
    Ok(bus.publish(event)?)
}

sandpost_sdk::consumer!(handle);
