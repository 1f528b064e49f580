//! The tables `[[topic]]` of the settings: what is retained of a topic, and how much it takes.

use std::path::Path;
use std::time::Duration;

use toml::de::DeTable;

use super::ConfigError;
use crate::deploy::manifest::{ManifestError, ManifestProblem, Source, Table, Value};
use crate::limits::{RETAIN_AGE_MAX, RETAIN_AGE_MIN, RETAIN_BYTES_MIN, TOPIC_RULES_MAX};
use crate::retention::TopicRule;
use crate::topic::TopicFilter;

pub(super) const KEY: &str = "topic";

/// One table, before what it leaves out is filled in.
#[derive(Clone, Debug)]
pub(super) struct TopicTable {
    filter: TopicFilter,
    /// `Some(None)` where it is not to be bounded.
    age_max: Option<Option<Duration>>,
    bytes_max: Option<Option<u64>>,
    cap: Option<u64>,
}

impl TopicTable {
    /// What is not said is as for other topics. A topic with a cap keeps room for new messages: settled ones
    /// leave it from half of its cap on.
    pub(super) fn rule(&self, age_max: Option<Duration>) -> TopicRule {
        TopicRule {
            filter: self.filter.clone(),
            age_max: self.age_max.unwrap_or(age_max),
            bytes_max: self.bytes_max.unwrap_or(self.cap.map(|cap| cap / 2)),
            cap: self.cap,
        }
    }
}

/// Reads the tables of a file that is valid TOML.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<TopicTable>, ConfigError> {
    let source = Source { file: path, text };
    let Ok(document) = DeTable::parse(text) else { return Ok(Vec::new()) };
    let root = Table::root(source, document.get_ref());
    let Some(value) = root.get(KEY) else { return Ok(Vec::new()) };
    tables(&value).map_err(ConfigError::Topic)
}

fn tables(value: &Value<'_>) -> Result<Vec<TopicTable>, ManifestError> {
    let elements = value.elements("a list of tables, each written as [[topic]]")?;
    if elements.len() > TOPIC_RULES_MAX {
        let allowed = format!("at most {TOPIC_RULES_MAX} of them");
        return Err(value.impossible(format!("{} tables", elements.len()), allowed));
    }
    elements.iter().map(|one| topic(&one.table()?)).collect()
}

fn topic(table: &Table<'_>) -> Result<TopicTable, ManifestError> {
    table.allow(&["filter", "max_age", "max_bytes", "cap"])?;
    let filter = table.require("filter", "a topic or a filter such as \"order.*\"")?;
    let text = filter.text("a topic or a filter such as \"order.*\"")?;
    let parsed = TopicFilter::parse(text)
        .map_err(|error| filter.error(ManifestProblem::Topic { value: text.to_owned(), error }))?;
    let age_max = table
        .get("max_age")
        .map(|value| unless(&value, "forever", |value| value.duration(RETAIN_AGE_MIN..=RETAIN_AGE_MAX)));
    let bytes_max = table
        .get("max_bytes")
        .map(|value| unless(&value, "unlimited", |value| value.bytes(RETAIN_BYTES_MIN..=u64::MAX)));
    let (age_max, bytes_max) = (age_max.transpose()?, bytes_max.transpose()?);
    let cap = match table.get("cap") {
        None => None,
        Some(value) if text.starts_with('$') => {
            // A dead letter could not be recorded with its event.
            return Err(value.impossible("a cap", "left out: the bus's own topics take what the bus has to say"));
        }
        Some(value) => {
            let cap = value.bytes(RETAIN_BYTES_MIN..=u64::MAX)?;
            if let Some(Some(bytes_max)) = bytes_max.filter(|bytes_max| bytes_max.is_some_and(|max| max >= cap)) {
                let allowed =
                    format!("more than its `max_bytes` of {bytes_max} bytes, for settled messages would fill it");
                return Err(value.impossible(format!("{cap} bytes"), allowed));
            }
            Some(cap)
        }
    };
    Ok(TopicTable { filter: parsed, age_max, bytes_max, cap })
}

/// A value, or `None` for the word that means that there is no bound.
fn unless<T>(
    value: &Value<'_>,
    word: &str,
    read: impl FnOnce(&Value<'_>) -> Result<T, ManifestError>,
) -> Result<Option<T>, ManifestError> {
    if value.text("").is_ok_and(|text| text == word) { Ok(None) } else { read(value).map(Some) }
}
