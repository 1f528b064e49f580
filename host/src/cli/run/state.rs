//! State in memory, and in a file between two runs.
//!
//! The file is a JSON object: a key's value is text, or an object `{"base64": ...}` where it is none.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Bound;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::limits::STATE_CONSUMER_BYTES_DEFAULT;
use crate::sandbox::{StateFull, StateSource, StateSynced, StateUnreadable};

pub(super) type Entries = BTreeMap<String, Bytes>;

pub(super) struct Memory(Entries);

impl Memory {
    pub(super) fn new(entries: Entries) -> Self {
        Self(entries)
    }
}

impl StateSource for Memory {
    fn get(&mut self, key: &str) -> Result<Option<Bytes>, StateUnreadable> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Bytes)>, StateUnreadable> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let entries = self.0.range::<str, _>((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
        Ok(entries.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn synced(&mut self) -> Option<StateSynced> {
        Some(Box::pin(std::future::ready(true)))
    }

    fn room(&mut self) -> u64 {
        STATE_CONSUMER_BYTES_DEFAULT
    }

    fn check_room(&mut self, _writes: &BTreeMap<String, Option<Bytes>>) -> Result<(), StateFull> {
        Ok(())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// Reads a file that may not be there yet.
pub(super) fn read(path: &Path) -> Result<Entries, String> {
    let problem = |what: &str| format!("{} is no state: {what}", path.display());
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Entries::new()),
        Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
    };
    let object: Map<String, Value> = serde_json::from_str(&text).map_err(|error| problem(&error.to_string()))?;
    object
        .into_iter()
        .map(|(key, value)| match (&value, &value["base64"]) {
            (Value::String(text), _) => Ok((key, Bytes::copy_from_slice(text.as_bytes()))),
            (_, Value::String(text)) => match STANDARD.decode(text) {
                Ok(bytes) => Ok((key, bytes.into())),
                Err(error) => Err(problem(&format!("the value of `{key}` is no Base64: {error}"))),
            },
            _ => Err(problem(&format!("the value of `{key}` is neither a text nor {{\"base64\": ...}}"))),
        })
        .collect()
}

pub(super) fn write(path: &Path, before: Entries, writes: &[(String, Option<Bytes>)]) -> Result<(), String> {
    let mut after = before;
    for (key, value) in writes {
        match value {
            Some(value) => drop(after.insert(key.clone(), value.clone())),
            None => drop(after.remove(key)),
        }
    }
    let object: Map<String, Value> = after.iter().map(|(key, value)| (key.clone(), json(value))).collect();
    let text = serde_json::to_string_pretty(&object).map_err(|error| error.to_string())?;
    fs::write(path, text + "\n").map_err(|error| format!("{} cannot be written: {error}", path.display()))
}

/// Bytes as JSON has them: text where they are.
pub(super) fn json(value: &[u8]) -> Value {
    match std::str::from_utf8(value) {
        Ok(text) => json!(text),
        Err(_) => json!({ "base64": STANDARD.encode(value) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_text_and_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        assert_eq!(read(&path).unwrap(), Entries::new());
        let writes = [
            ("text".to_owned(), Some(Bytes::from("gr\u{fc}n"))),
            ("bytes".to_owned(), Some(Bytes::from(&b"\xff\0"[..]))),
        ];
        write(&path, Entries::new(), &writes).unwrap();
        let kept = read(&path).unwrap();
        assert_eq!(kept.len(), 2);
        assert_eq!(&kept["bytes"][..], b"\xff\0");
        write(&path, kept, &[("bytes".to_owned(), None)]).unwrap();
        assert_eq!(read(&path).unwrap().keys().collect::<Vec<_>>(), ["text"]);
        fs::write(&path, r#"{"a": 1}"#).unwrap();
        assert!(read(&path).unwrap_err().contains("neither a text"));
    }

    #[test]
    fn pages_follow_each_other() {
        let entry = |key: &str| (key.to_owned(), Bytes::new());
        let mut memory = Memory::new(["a", "b/1", "b/2", "b/3", "c"].map(entry).into());
        let mut keys = |after: Option<&str>| -> Vec<String> {
            memory.scan("b/", after, 2).unwrap().into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(keys(None), ["b/1", "b/2"]);
        assert_eq!(keys(Some("b/2")), ["b/3"]);
        assert_eq!(keys(Some("a")), ["b/1", "b/2"]);
        assert!(keys(Some("c")).is_empty());
    }
}
