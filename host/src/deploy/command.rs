//! What an operator may ask of deployments, and why it is refused.

use std::sync::mpsc::Sender;

use serde::Serialize;

use super::record::TargetError;
use crate::outcome::Digest;

pub(super) type Answer<T> = Result<T, CommandError>;

/// Sent to the worker, which does one thing at a time. Each is answered once.
pub(super) enum Command {
    RollBack { name: String, to: Option<String>, answer: Sender<Answer<WentBack>> },
    Permit { name: String, digest: Digest, answer: Sender<Answer<()>> },
}

/// A consumer went back to an earlier version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WentBack {
    pub name: String,
    /// The digest of the version that ran.
    pub from: String,
    /// The digest of the one that runs now.
    pub to: String,
    /// Attempts that the version charged and that are taken back.
    pub refunded: u64,
    /// Dead letters that died of it, which are marked.
    pub excused: u64,
}

/// Why a command was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("there is no consumer `{name}`")]
    UnknownPlugin { name: String, known: Vec<String> },
    #[error("`{name}` cannot go back: {reason}")]
    NoTarget { name: String, reason: TargetError },
    /// The version is kept, and cannot be used.
    #[error("`{name}` cannot go back to {digest}: {problem}")]
    Unusable { name: String, digest: String, problem: String },
    /// Another version took over while this one was loaded.
    #[error("another version of `{name}` was deployed meanwhile")]
    Overtaken { name: String },
    #[error("{reason}")]
    Unavailable { reason: String },
    #[error("the bus is stopping")]
    Stopping,
}
