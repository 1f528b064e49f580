//! What the guest can be told to do.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What to do with the message. As JSON: `{"do": "retry", "reason": "not now"}`, names in kebab-case, fields in
/// snake_case.
///
/// A `topic` is where to publish, as JSON, what was found out. `then` is obeyed afterwards, in the same call; where
/// it is absent the message is acknowledged. What `std` or the bus refuses is a retry, unless the order is there
/// to report it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// Acknowledge.
    Ack,
    /// Obey these one after another, up to the first failure.
    All { orders: Vec<Order> },

    /// Fail with a retry.
    Retry {
        reason: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_ms: Option<u64>,
    },
    /// Fail with a retry in every attempt before this one.
    RetryUntil {
        attempt: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_ms: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        then: Option<Box<Order>>,
    },
    /// Fail with a rejection.
    Reject { reason: String },
    /// Fail as unavailable.
    Unavailable {
        reason: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_ms: Option<u64>,
    },

    /// Panic with this text, in a function named `told_to_trap`.
    Trap { text: String },
    /// Panic where this instance has had an earlier call.
    TrapWhenReused {
        text: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        then: Option<Box<Order>>,
    },
    /// Call `exit`.
    Exit { code: i32 },
    /// Loop without end.
    Spin,
    /// Allocate without end.
    Hog,
    /// Call without end.
    Recurse,
    /// Sleep in the host.
    Sleep {
        ms: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        then: Option<Box<Order>>,
    },
    /// Keep so much memory for ever.
    Leak {
        bytes: usize,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        then: Option<Box<Order>>,
    },
    /// Log so many lines of so many bytes.
    FloodLog {
        lines: u64,
        bytes: usize,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        then: Option<Box<Order>>,
    },
    /// Print so many lines of so many bytes.
    FloodStdout {
        lines: u64,
        bytes: usize,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        then: Option<Box<Order>>,
    },
    /// Print so many lines of so many bytes on the standard error.
    FloodStderr {
        lines: u64,
        bytes: usize,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        then: Option<Box<Order>>,
    },
    /// Log one line at the level info.
    Log {
        text: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        then: Option<Box<Order>>,
    },

    /// Publish this text so many times. What is refused is a retry.
    Publish {
        topic: String,
        #[serde(default = "one")]
        count: u32,
        #[serde(default)]
        data: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deliver_after_ms: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_after_ms: Option<u64>,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        attributes: BTreeMap<String, String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        then: Option<Box<Order>>,
    },
    /// Publish so many bytes, and report `{"to", "error"}`.
    TryPublish { to: String, bytes: usize, topic: String },
    /// Report `{"message", "delivery", "now_ms"}`: everything that the call was given.
    Echo { topic: String },
    /// Report `{"earlier_calls"}` of this instance.
    InstanceCalls { topic: String },

    /// Set a key of the state.
    SetState {
        key: String,
        value: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        then: Option<Box<Order>>,
    },
    /// Set so many keys, `prefix000000` and on, to so many bytes each.
    FillState {
        prefix: String,
        count: u32,
        bytes: usize,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        then: Option<Box<Order>>,
    },
    /// Remove a key of the state.
    DeleteState {
        key: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        then: Option<Box<Order>>,
    },
    /// Read a decimal number from the state, and write it back increased by one.
    Increment {
        key: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        then: Option<Box<Order>>,
    },
    /// Obey `then` where every one of these keys is set; each is read by itself.
    WhereSet { keys: Vec<String>, then: Box<Order> },
    /// Obey `then` where so many keys begin so, from one of these bounds to the other; they are read by one scan.
    WhereKeys {
        prefix: String,
        #[serde(default)]
        at_least: u32,
        #[serde(default = "every")]
        at_most: u32,
        then: Box<Order>,
    },
    /// Read these keys with a pause before each but the first, and reject where their values are not the same.
    RejectWhereDifferent { keys: Vec<String>, pause_ms: u64 },
    /// Obey this order instead while this key of the state is there.
    WhileState {
        key: String,
        order: Box<Order>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        then: Option<Box<Order>>,
    },
    /// Report `{"key", "value"}`.
    GetState { key: String, topic: String },
    /// Report `{"entries": [[key, value], ...]}`.
    ScanState {
        prefix: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
        #[serde(default = "every")]
        limit: u32,
        topic: String,
    },

    /// Report `{"name", "value"}` of the configuration.
    Config { name: String, topic: String },
    /// Read a file. This and all below report `{"tried", "ok"}` or `{"tried", "error"}`.
    ReadFile { path: String, topic: String },
    /// Write a file.
    WriteFile { path: String, topic: String },
    /// List a folder.
    ListFolder { path: String, topic: String },
    /// Read an environment variable.
    Env { name: String, topic: String },
    /// Read the arguments and the names of all environment variables.
    Args { topic: String },
    /// Connect by TCP to `host:port`.
    Connect { addr: String, topic: String },
    /// Listen by TCP at `host:port`.
    Listen { addr: String, topic: String },
    /// Resolve a host's name.
    Resolve { host: String, topic: String },
    /// Read the standard input to its end.
    Stdin { topic: String },
    /// Draw a random number, as a text.
    Random { topic: String },
    /// Read both clocks: `{"wall_ms", "monotonic_advances"}`.
    Clock { topic: String },
}

fn one() -> u32 {
    1
}

fn every() -> u32 {
    u32::MAX
}

impl Order {
    /// The order as the data of a message.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an order has only texts for keys")
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_json())
    }
}
