//! The states of consumers, as calls read and write them.

use std::sync::Arc;

use bytes::Bytes;

use super::{ReadError, TxnNumber};

/// A part of a consumer's state that a call read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRead {
    pub consumer: Arc<str>,
    pub range: StateRange,
    pub seen: TxnNumber,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateRange {
    Key(String),
    /// Keys that begin with `prefix`, come after `after`, and up to `through` where the scan was cut there.
    Scan {
        prefix: String,
        after: Option<String>,
        through: Option<String>,
    },
}

/// A state key's new value; `None` removes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateWrite {
    pub consumer: Arc<str>,
    pub key: String,
    pub value: Option<Bytes>,
}

/// What a consumer's state holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateSize {
    pub entries: u64,
    /// Of keys and values.
    pub bytes: u64,
}

/// The synced state of one moment.
pub trait StateView: Send + Sync {
    fn get(&self, consumer: &str, key: &str) -> Result<Option<Bytes>, ReadError>;

    /// Entries whose keys begin with `prefix` and come after `after`, in order: at most `entries_max`, and none
    /// further once they have `bytes_max` bytes.
    fn page(
        &self,
        consumer: &str,
        prefix: &str,
        after: Option<&str>,
        entries_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<(String, Bytes)>, ReadError>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateEntries {
    pub entries: Vec<(String, Bytes)>,
    pub seen: TxnNumber,
}

/// Keeps recent writes for validation until it is dropped.
pub struct ReadPin {
    release: Option<Box<dyn FnOnce() + Send>>,
}

impl ReadPin {
    pub fn new(release: impl FnOnce() + Send + 'static) -> Self {
        Self { release: Some(Box::new(release)) }
    }
}

impl Drop for ReadPin {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            release();
        }
    }
}
