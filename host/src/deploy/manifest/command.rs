//! The table `[command]`: how a WASI command is run.

use super::{ManifestError, Table, Value};
use crate::limits;
use crate::policy::{CommandPolicy, Stdout};
use crate::topic::{TopicFilter, TopicName};

const STDOUT_ALLOWED: &str = "\"log\", or { publish = TOPIC } with or without `content_type`";

/// `publish` are the topics that are granted.
pub(super) fn policy(root: &Table<'_>, publish: &[TopicFilter]) -> Result<Option<CommandPolicy>, ManifestError> {
    let Some(table) = root.get("command") else { return Ok(None) };
    let table = table.table()?;
    table.allow(&["args", "stdout"])?;
    let args = match table.get("args") {
        Some(args) => arguments(&args)?,
        None => Vec::new(),
    };
    let stdout = table.get("stdout").map_or(Ok(Stdout::Log), |stdout| self::stdout(&stdout, publish))?;
    Ok(Some(CommandPolicy { args, stdout }))
}

fn arguments(value: &Value<'_>) -> Result<Vec<String>, ManifestError> {
    let elements = value.elements("a list of texts, such as [\"--verbose\"]")?;
    if elements.len() > limits::COMMAND_ARGS_MAX {
        let allowed = format!("at most {} arguments", limits::COMMAND_ARGS_MAX);
        return Err(value.impossible(format!("{} arguments", elements.len()), allowed));
    }
    elements.iter().map(|element| Ok(element.text("a text")?.to_owned())).collect()
}

fn stdout(value: &Value<'_>, publish: &[TopicFilter]) -> Result<Stdout, ManifestError> {
    if let Ok(text) = value.text(STDOUT_ALLOWED) {
        return if text == "log" { Ok(Stdout::Log) } else { Err(value.impossible(text, STDOUT_ALLOWED)) };
    }
    let table = value.table()?;
    table.allow(&["publish", "content_type"])?;
    let topic = table.require("publish", "the topic that each line is published to")?;
    let text = topic.text("a topic as a text")?;
    let name = TopicName::client(text).map_err(|error| topic.impossible(text, format!("a topic: {error}")))?;
    if !publish.iter().any(|filter| filter.matches(name.as_str())) {
        return Err(topic.impossible(text, "a topic that `publish` under [grants] names"));
    }
    let content_type = match table.get("content_type") {
        Some(value) => {
            let text = value.text("a media type, such as \"application/json\"")?;
            if text.parse::<mime::Mime>().is_err() {
                return Err(value.impossible(text, "a media type, such as \"application/json\""));
            }
            Some(text.to_owned())
        }
        None => None,
    };
    Ok(Stdout::Publish { topic: name, content_type })
}
