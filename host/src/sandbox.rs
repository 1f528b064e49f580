//! The sandbox: runs a consumer's code, and lets it do nothing else.
//!
//! **Architecture invariant:** the sandbox never sees the log. What a call reads of its state comes from
//! a [`StateSource`]; what it wants to change comes back as [`Effects`], for `dispatch` to commit or drop.
//!
//! [`Sandbox::load`] makes a [`Component`] of a file's bytes (`load`, `artifact`, `signature`), whatever [`Kind`] it is: core
//! modules are looked at (`module`) and made components (`wrap`, with the `shim`), handlers of others are in `platforms`; a
//! [`Program`] is that with what its manifest grants, and runs one message a call (`call`, `ending`; a
//! process for each in `command`).
//! What a guest may touch meanwhile is linked in `imports` (`publish`, `state`, `output`, `http` with its
//! `secrets`), and held in its store (`guest`).

mod artifact;
mod call;
mod command;
mod ending;
mod engine;
mod guest;
mod http;
mod imports;
mod kind;
mod load;
mod module;
mod output;
mod platforms;
mod publish;
mod records;
mod secrets;
mod shim;
mod signature;
mod state;
#[cfg(test)]
mod tests;
mod wrap;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use artifact::ArtifactsError;
pub use call::{Instance, Program};
pub use engine::{Sandbox, SandboxError, SandboxOptions};
pub use http::CaError;
pub use kind::Kind;
pub use load::{Component, LoadError};
pub use secrets::{SecretError, Secrets};

use crate::message::{Event, Millis};
use crate::outcome::Outcome;

/// What is told to the guest about this offer of a message.
#[derive(Clone, Debug)]
pub struct Offer {
    pub subscription: Arc<str>,
    pub attempt: u32,
    pub max_attempts: u32,
    pub redrives: u32,
    pub first_attempt_ms: Millis,
    pub idempotency_key: String,
    /// Wall time of the call.
    pub timeout: Duration,
    /// When the call begins, by the bus's clock.
    pub now_ms: Millis,
}

/// Where a call reads its consumer's state. It remembers what was read, for `dispatch` to have validated.
pub trait StateSource: Send {
    fn get(&mut self, key: &str) -> Result<Option<Bytes>, StateUnreadable>;
    /// Entries whose keys begin with `prefix` and come after `after`, at most `limit`, in key order.
    fn scan(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Bytes)>, StateUnreadable>;
    /// Answers when all that the call could have read so far is durable, with `true`; or with `false` where it
    /// never will be. A request waits for it before it leaves, so that nobody outside learns of what a crash
    /// could undo. `None` where no request of this call is to leave at all.
    fn synced(&mut self) -> Option<StateSynced>;
    /// Bytes that the consumer's state may take on for sure.
    fn room(&mut self) -> u64;
    /// Whether these writes together find room now, as far as is known.
    fn check_room(&mut self, writes: &BTreeMap<String, Option<Bytes>>) -> Result<(), StateFull>;
    /// Gives the source back to its maker with what it remembers.
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any + Send>;
}

/// See [`StateSource::synced`].
pub type StateSynced = Pin<Box<dyn Future<Output = bool> + Send>>;

/// A consumer's state has no room for what a call would write.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StateFull(pub String);

/// The log could not be read: the call cannot go on, and that is not the message's fault.
#[derive(Debug, thiserror::Error)]
#[error("the consumer's state could not be read: {0}")]
pub struct StateUnreadable(pub String);

/// What a call staged. It commits with the acknowledgement, or not at all.
#[derive(Debug, Default)]
pub struct Effects {
    pub publishes: Vec<Event>,
    /// Keys with their new values; `None` removes.
    pub writes: Vec<(String, Option<Bytes>)>,
}

/// How a call went.
pub struct Called {
    pub outcome: Outcome,
    pub effects: Effects,
    pub state: Box<dyn StateSource>,
    pub duration: Duration,
    /// What of it went into a new instance, before the guest's `handle` began.
    pub set_up: Duration,
    /// The instance's memory at the end of the call. It never shrinks.
    pub memory_bytes: usize,
    /// Whether the instance had handled no other message before.
    pub fresh: bool,
}

/// Why a call could not be made at all. Never the message's fault, so never charged.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("no instance is free: all {instances_max} are in use")]
    NoInstance { instances_max: u32 },
    #[error(transparent)]
    State(#[from] StateUnreadable),
    #[error("the sandbox failed: {0}")]
    Internal(String),
}
