//! What is kept of a consumer's versions: which one runs, which ran before, and which are not to come back.

use crate::message::Millis;
use crate::outcome::Digest;

/// What each consumer runs, by file stem.
pub type PluginRecords = Vec<(String, PluginRecord)>;

/// What a consumer runs now, and what it ran before. The components' bytes are files of the data folder,
/// by digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginRecord {
    pub digest: Digest,
    /// The manifest's text as it was deployed.
    pub manifest: String,
    pub deployed_ms: Millis,
    /// Versions that are not deployed again by themselves, the oldest first.
    pub rolled_back: Vec<RolledBack>,
    /// While the version is on probation: the deployment that it is rolled back to if it fails.
    pub back_to: Option<u64>,
    /// What is still to be refunded of versions that were rolled back.
    pub refunds: Vec<DueRefund>,
    /// The newest deployments, the oldest first. The last one is what runs.
    pub history: Vec<Deployment>,
    /// Deployments ever made, by [`Cause`].
    pub deployed: [u64; Cause::ALL.len()],
}

impl PluginRecord {
    /// A version before which there was none.
    pub fn new(digest: Digest, manifest: String, deployed_ms: Millis) -> Self {
        Self {
            digest,
            manifest,
            deployed_ms,
            rolled_back: Vec::new(),
            back_to: None,
            refunds: Vec::new(),
            history: Vec::new(),
            deployed: [0; Cause::ALL.len()],
        }
    }
}

/// A version that was rolled back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolledBack {
    pub digest: Digest,
    /// The digest of its manifest's text.
    pub manifest: Digest,
    pub at_ms: Millis,
    /// [`Cause::Probation`] or [`Cause::Operator`].
    pub by: Cause,
    /// What went wrong, for people.
    pub why: String,
}

/// Attempts that a version charged, since it was deployed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DueRefund {
    pub digest: Digest,
    pub since_ms: Millis,
}

/// One deployment of a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Counts the deployments of a consumer, from 1.
    pub number: u64,
    pub digest: Digest,
    /// The digest of its manifest's text.
    pub manifest_digest: Digest,
    /// The manifest's text, while the bytes are kept: then it can be gone back to.
    pub manifest: Option<String>,
    pub at_ms: Millis,
    pub cause: Cause,
    /// How its probation ended; `None` where it had none, or is on it.
    pub probation: Option<ProbationEnd>,
}

/// What brought a version in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Cause {
    /// It was put into the plugin folder.
    Folder = 0,
    /// It lay in the plugin folder when the bus started.
    Start = 1,
    /// The version after it failed its probation.
    Probation = 2,
    /// An operator went back to it.
    Operator = 3,
}

impl Cause {
    pub const ALL: [Self; 4] = [Self::Folder, Self::Start, Self::Probation, Self::Operator];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::Start => "start",
            Self::Probation => "probation",
            Self::Operator => "operator",
        }
    }

    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    pub fn is_rollback(self) -> bool {
        matches!(self, Self::Probation | Self::Operator)
    }
}

/// How a probation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbationEnd {
    pub how: ProbationEnded,
    /// Messages that it ended, and those of them that failed of its own fault.
    pub messages: u64,
    pub failures: u64,
    /// Its last failures, for people; empty where it had none.
    pub last: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ProbationEnded {
    /// It did well for as many messages as were asked for.
    Proven = 0,
    /// Too many messages failed.
    Failed = 1,
    /// Another version took its place before.
    Replaced = 2,
}

impl ProbationEnded {
    pub const ALL: [Self; 3] = [Self::Proven, Self::Failed, Self::Replaced];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Failed => "failed",
            Self::Replaced => "replaced",
        }
    }

    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}
