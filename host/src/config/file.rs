//! `sandpost.toml`: its keys are checked here, its values where they are understood.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::topics::{self, TopicTable};
use super::{ConfigError, SETTINGS};
use crate::ingress::nearest;

/// The settings file, with nothing in it but settings that exist.
#[derive(Default)]
pub(crate) struct SettingsFile {
    pub(super) path: PathBuf,
    table: Table,
    pub(super) topics: Vec<TopicTable>,
}

impl SettingsFile {
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) => Err(ConfigError::Unreadable { path: path.to_owned(), error: error.to_string() }),
        }
    }

    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
            path: path.to_owned(),
            error: error.to_string(),
        })?;
        check(path, &table, "")?;
        Ok(Self { path: path.to_owned(), table, topics: topics::parse(path, text)? })
    }

    /// The value of a key such as `limits.reserve`.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        match key.split_once('.') {
            Some((table, key)) => self.table.get(table)?.get(key),
            None => self.table.get(key),
        }
    }
}

fn check(path: &Path, table: &Table, within: &str) -> Result<(), ConfigError> {
    for (name, value) in table {
        let key = format!("{within}{name}");
        if key == topics::KEY {
            // Its tables are read by themselves.
            continue;
        }
        let is_setting = SETTINGS.iter().any(|setting| setting.key == key);
        let is_table = SETTINGS.iter().any(|setting| setting.key.starts_with(&format!("{key}.")));
        match (is_setting, is_table, value) {
            (true, ..) => {}
            (_, true, Value::Table(inner)) => check(path, inner, &format!("{key}."))?,
            (_, true, other) => {
                let found = kind(other);
                return Err(ConfigError::NotATable { path: path.to_owned(), key, found });
            }
            _ => {
                let nearest = nearest_setting(&key).map(str::to_owned);
                return Err(ConfigError::UnknownKey { path: path.to_owned(), key, nearest });
            }
        }
    }
    Ok(())
}

/// A key may also stand in the wrong table.
fn nearest_setting(key: &str) -> Option<&'static str> {
    let last = |key: &'static str| key.rsplit('.').next().unwrap_or(key);
    let own = key.rsplit('.').next().unwrap_or(key);
    let near = nearest(own, SETTINGS.iter().map(|setting| last(setting.key)))?;
    SETTINGS.iter().map(|setting| setting.key).find(|key| last(key) == near)
}

/// What a value is, for people.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a fraction",
        Value::Boolean(_) => "a boolean",
        Value::Datetime(_) => "a time",
        Value::Array(_) => "an array",
        Value::Table(_) => "a table",
    }
}
