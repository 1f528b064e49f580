//! The durable keys and values of a consumer.

use crate::Imports;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;

/// Entries that [`State::entries`] fetches at a time: some 60 KiB where values are small.
const PAGE_ENTRIES: u32 = 256;

/// Durable keys and values of this consumer, shared by its subscriptions.
///
/// Writes are staged: they commit with the acknowledgement, or not at all. A call sees its own writes, and is
/// run again where what it read was changed meanwhile; so reading a counter and writing it back is safe,
/// whatever runs beside it. Keys are ordered by their bytes.
#[derive(Clone, Copy)]
pub struct State<'a> {
    imports: &'a dyn Imports,
}

/// One key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key, from 1 to 1,024 bytes.
    pub key: String,
    /// The value, at most 1 MiB.
    pub value: Vec<u8>,
}

impl Entry {
    /// The value, decoded as JSON.
    ///
    /// # Errors
    /// [`StateError::NotJson`] where it does not fit `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, StateError> {
        decode(&self.key, &self.value)
    }
}

impl<'a> State<'a> {
    pub(crate) fn new(imports: &'a dyn Imports) -> Self {
        State { imports }
    }

    /// The value of a key, if there is one.
    ///
    /// # Errors
    /// [`StateError::InvalidKey`].
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        self.imports.state_get(key)
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// [`StateError::InvalidKey`], [`StateError::TooLarge`] and [`StateError::Full`].
    pub fn set(&self, key: &str, value: impl AsRef<[u8]>) -> Result<(), StateError> {
        self.imports.state_set(key, value.as_ref())
    }

    /// Removes a key. A key that is not there is no error.
    ///
    /// # Errors
    /// [`StateError::InvalidKey`], and [`StateError::Full`] past what one call may write.
    pub fn delete(&self, key: &str) -> Result<(), StateError> {
        self.imports.state_delete(key)
    }

    /// Entries whose keys begin with `prefix` and come after `after`, in order, at most `limit` and never
    /// more than 1,000. All of them are read for the purpose of conflicts, also where a key is missing.
    ///
    /// # Errors
    /// [`StateError::InvalidKey`] where `prefix` or `after` is longer than 1,024 bytes.
    pub fn scan(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<Entry>, StateError> {
        self.imports.state_scan(prefix, after, limit)
    }

    /// All entries whose keys begin with `prefix`, in order, fetched as they are asked for.
    #[must_use]
    pub fn entries(&self, prefix: &str) -> Entries<'a> {
        Entries { state: *self, prefix: prefix.to_owned(), page: Vec::new().into_iter(), next: Next::First }
    }

    /// The value of a key, decoded as JSON.
    ///
    /// # Errors
    /// Those of [`get`](Self::get), and [`StateError::NotJson`] where it does not fit `T`.
    pub fn get_json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StateError> {
        self.get(key)?.map(|value| decode(key, &value)).transpose()
    }

    /// Sets the value of a key to a value encoded as JSON.
    ///
    /// # Errors
    /// Those of [`set`](Self::set), and [`StateError::NotJson`] where the value cannot be JSON.
    pub fn set_json(&self, key: &str, value: &(impl Serialize + ?Sized)) -> Result<(), StateError> {
        self.set(key, serde_json::to_vec(value).map_err(|error| not_json(key, &error))?)
    }

    /// Reads a JSON value (the default of `T` where there is none), changes it and writes it back. Answers
    /// what was written.
    ///
    /// # Errors
    /// Those of [`get_json`](Self::get_json) and [`set_json`](Self::set_json).
    pub fn update_json<T>(&self, key: &str, change: impl FnOnce(&mut T)) -> Result<T, StateError>
    where
        T: Serialize + DeserializeOwned + Default,
    {
        let mut value = self.get_json(key)?.unwrap_or_default();
        change(&mut value);
        self.set_json(key, &value)?;
        Ok(value)
    }
}

/// The entries under a prefix; see [`State::entries`]. It ends after its first error.
pub struct Entries<'a> {
    state: State<'a>,
    prefix: String,
    page: std::vec::IntoIter<Entry>,
    next: Next,
}

enum Next {
    First,
    After(String),
    End,
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(entry) = self.page.next() {
            return Some(Ok(entry));
        }
        let after = match &self.next {
            Next::First => None,
            Next::After(key) => Some(key.as_str()),
            Next::End => return None,
        };
        match self.state.scan(&self.prefix, after, PAGE_ENTRIES) {
            Ok(page) => {
                self.next = page.last().map_or(Next::End, |entry| Next::After(entry.key.clone()));
                self.page = page.into_iter();
                self.page.next().map(Ok)
            }
            Err(error) => {
                self.next = Next::End;
                Some(Err(error))
            }
        }
    }
}

/// Why a read or write of the state failed. Nothing else of the call is affected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateError {
    /// The key is empty or longer than 1,024 bytes.
    InvalidKey(String),
    /// The value is larger than one value may be; the text gives both sizes.
    TooLarge(String),
    /// The consumer's state, or what one call may write, is full.
    Full(String),
    /// The value of this key is not the JSON that was asked for, or cannot be JSON.
    NotJson {
        /// The key.
        key: String,
        /// What is wrong, and where.
        reason: String,
    },
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StateError::InvalidKey(text) => write!(f, "the state's key is not valid: {text}"),
            StateError::TooLarge(text) => write!(f, "the state's value is too large: {text}"),
            StateError::Full(text) => write!(f, "the state is full: {text}"),
            StateError::NotJson { key, reason } => write!(f, "the state's value of {key:?} is other JSON: {reason}"),
        }
    }
}

impl std::error::Error for StateError {}

fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, StateError> {
    serde_json::from_slice(value).map_err(|error| not_json(key, &error))
}

fn not_json(key: &str, error: &serde_json::Error) -> StateError {
    StateError::NotJson { key: key.to_owned(), reason: error.to_string() }
}
