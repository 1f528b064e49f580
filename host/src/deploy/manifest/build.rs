//! The table `[build]`: how authors build the consumer. The bus checks it, so that no word is misspelt in silence, and does
//! nothing with it.

use std::path::PathBuf;

use super::{ManifestError, Table, Value};
use crate::limits;
use crate::policy::BuildSpec;

pub(super) fn spec(root: &Table<'_>) -> Result<Option<BuildSpec>, ManifestError> {
    let Some(table) = root.get("build") else { return Ok(None) };
    let table = table.table()?;
    table.allow(&["command", "output", "watch"])?;
    let command = match table.get("command") {
        Some(command) => Some(command.text("a command line as a text")?.to_owned()),
        None => None,
    };
    let output = path(&table.require("output", "the path of the .wasm or .wat file that is deployed")?)?;
    let watch = match table.get("watch") {
        Some(watch) => paths(&watch)?,
        None => Vec::new(),
    };
    Ok(Some(BuildSpec { command, output, watch }))
}

fn paths(value: &Value<'_>) -> Result<Vec<PathBuf>, ManifestError> {
    let elements = value.elements("a list of paths, such as [\"src\"]")?;
    if elements.len() > limits::BUILD_PATHS_MAX {
        let allowed = format!("at most {} paths", limits::BUILD_PATHS_MAX);
        return Err(value.impossible(format!("{} paths", elements.len()), allowed));
    }
    elements.iter().map(path).collect()
}

fn path(value: &Value<'_>) -> Result<PathBuf, ManifestError> {
    match value.text("a path as a text")? {
        "" => Err(value.impossible("", "a path below the manifest's folder")),
        text => Ok(PathBuf::from(text)),
    }
}
