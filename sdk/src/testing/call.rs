//! One call on a [`TestBus`]: the imports, with the bus's own bounds and what is staged.

use super::TestBus;
use crate::{Entry, Event, HttpError, HttpRequest, HttpResponse, Imports, Level, PublishError, StateError};
use std::cell::RefCell;
use std::collections::BTreeMap;

const DATA_BYTES_MAX: usize = 1024 * 1024;
const STAGED_EVENTS_MAX: usize = 1_000;
const STAGED_BYTES_MAX: usize = 8 * 1024 * 1024;
const KEY_BYTES_MAX: usize = 1_024;
const VALUE_BYTES_MAX: usize = 1024 * 1024;
const SCAN_ENTRIES_MAX: u32 = 1_000;
const LOG_BYTES_MAX: usize = 64 * 1024;
const TOPIC_BYTES_MAX: usize = 255;

/// One call's imports: the committed state below, what is staged above.
pub(super) struct Call<'a> {
    bus: &'a TestBus,
    staged: RefCell<Staged>,
}

impl<'a> Call<'a> {
    pub(super) fn new(bus: &'a TestBus) -> Self {
        let staged = Staged { state: bus.state.clone(), ..Staged::default() };
        Call { bus, staged: RefCell::new(staged) }
    }

    pub(super) fn into_staged(self) -> Staged {
        self.staged.into_inner()
    }
}

/// What a call has done so far.
#[derive(Default)]
pub(super) struct Staged {
    /// The whole state as the call sees it: small enough in a test to be copied.
    pub(super) state: BTreeMap<String, Vec<u8>>,
    pub(super) changes: BTreeMap<String, Option<Vec<u8>>>,
    written_bytes: usize,
    pub(super) published: Vec<Event>,
    published_bytes: usize,
    pub(super) logged: Vec<(Level, String)>,
    logged_bytes: usize,
    pub(super) requests: Vec<HttpRequest>,
}

impl Staged {
    fn write(&mut self, key: &str, value: Option<&[u8]>) -> Result<(), StateError> {
        let bytes = key.len() + value.map_or(0, <[u8]>::len);
        if self.written_bytes + bytes > STAGED_BYTES_MAX {
            return Err(StateError::Full(format!("one call writes at most {STAGED_BYTES_MAX} bytes")));
        }
        self.written_bytes += bytes;
        match value {
            Some(value) => drop(self.state.insert(key.to_owned(), value.to_vec())),
            None => drop(self.state.remove(key)),
        }
        self.changes.insert(key.to_owned(), value.map(<[u8]>::to_vec));
        Ok(())
    }
}

impl Imports for Call<'_> {
    fn publish(&self, event: Event) -> Result<(), PublishError> {
        check_names(&event)?;
        if !self.bus.granted.contains(&event.topic) {
            return Err(PublishError::NotGranted(format!("`{}` is not in [grants] publish", event.topic)));
        }
        let bytes = event.data.len();
        if bytes > DATA_BYTES_MAX {
            return Err(PublishError::TooLarge(format!("{bytes} bytes of data, at most {DATA_BYTES_MAX}")));
        }
        let mut staged = self.staged.borrow_mut();
        if staged.published.len() >= STAGED_EVENTS_MAX || staged.published_bytes + bytes > STAGED_BYTES_MAX {
            let bounds = format!("at most {STAGED_EVENTS_MAX} events and {STAGED_BYTES_MAX} bytes");
            return Err(PublishError::TooMany(bounds));
        }
        staged.published_bytes += bytes;
        staged.published.push(event);
        Ok(())
    }

    fn state_get(&self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        check_key(key)?;
        Ok(self.staged.borrow().state.get(key).cloned())
    }

    fn state_set(&self, key: &str, value: &[u8]) -> Result<(), StateError> {
        check_key(key)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(StateError::TooLarge(format!("{} bytes, at most {VALUE_BYTES_MAX}", value.len())));
        }
        self.staged.borrow_mut().write(key, Some(value))
    }

    fn state_delete(&self, key: &str) -> Result<(), StateError> {
        check_key(key)?;
        self.staged.borrow_mut().write(key, None)
    }

    fn state_scan(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<Entry>, StateError> {
        check_key_length(prefix)?;
        check_key_length(after.unwrap_or_default())?;
        let staged = self.staged.borrow();
        let entries = staged.state.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        Ok(entries
            .filter(|(key, _)| after.is_none_or(|after| key.as_str() > after))
            .take(limit.min(SCAN_ENTRIES_MAX) as usize)
            .map(|(key, value)| Entry { key: key.clone(), value: value.clone() })
            .collect())
    }

    fn config(&self, name: &str) -> Option<String> {
        self.bus.config.get(name).cloned().or_else(|| self.bus.outside.placeholder(name))
    }

    fn log(&self, level: Level, text: &str) {
        let mut staged = self.staged.borrow_mut();
        if staged.logged_bytes + text.len() <= LOG_BYTES_MAX {
            staged.logged_bytes += text.len();
            staged.logged.push((level, text.to_owned()));
        }
    }

    fn now_ms(&self) -> u64 {
        self.bus.now_ms
    }

    fn http_send(&self, request: &HttpRequest) -> Result<HttpResponse, HttpError> {
        self.staged.borrow_mut().requests.push(request.clone());
        self.bus.outside.send(request)
    }
}

fn check_names(event: &Event) -> Result<(), PublishError> {
    let topic = &event.topic;
    let is_token = |token: &str| {
        !token.is_empty() && !token.contains(|c: char| c.is_whitespace() || c.is_control() || c == '*' || c == '>')
    };
    if topic.len() > TOPIC_BYTES_MAX || topic.starts_with('$') || !topic.split('.').all(is_token) {
        return Err(PublishError::Invalid(format!("{topic:?} is no topic's name")));
    }
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    match event.attributes.iter().find(|(name, _)| !is_name(name)) {
        Some((name, _)) => Err(PublishError::Invalid(format!("the attribute's name {name:?} is not of [a-z0-9]+"))),
        None => Ok(()),
    }
}

fn check_key(key: &str) -> Result<(), StateError> {
    if key.is_empty() {
        return Err(StateError::InvalidKey("it is empty".to_owned()));
    }
    check_key_length(key)
}

fn check_key_length(key: &str) -> Result<(), StateError> {
    if key.len() > KEY_BYTES_MAX {
        return Err(StateError::InvalidKey(format!("{} bytes, at most {KEY_BYTES_MAX}", key.len())));
    }
    Ok(())
}
