//! The recorded payloads: an npm package of GitHub's own examples.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use example_harness::screen;
use serde::Deserialize;
use serde_json::value::RawValue;

const PACKAGE: &str = "@octokit/webhooks-examples";
const VERSION: &str = "7.6.1";

#[derive(clap::Args)]
pub(crate) struct Source {
    /// Where the recorded webhooks are kept [default: ../webhooks-examples beside this program]
    #[arg(long, value_name = "FOLDER")]
    recorded: Option<PathBuf>,
}

/// A recorded webhook, and how it is published.
pub(crate) struct Webhook {
    /// Its place in the input, from 1. Five payloads repeat, so the content tells no two of them apart.
    pub(crate) id: String,
    /// `github.EVENT`, or `github.EVENT.ACTION`.
    pub(crate) topic: String,
    /// What must stay in order: the repository, or else the organization, or else the installation.
    pub(crate) key: Option<String>,
    /// As recorded.
    pub(crate) payload: Box<RawValue>,
}

/// One kind of event in the package's file.
#[derive(Deserialize)]
struct Kind {
    name: String,
    examples: Vec<Box<RawValue>>,
}

/// The parts of a payload that decide about topic and key.
#[derive(Deserialize)]
struct Payload {
    action: Option<String>,
    repository: Option<Repository>,
    organization: Option<Organization>,
    installation: Option<Installation>,
}

#[derive(Deserialize)]
struct Repository {
    full_name: String,
}

#[derive(Deserialize)]
struct Organization {
    login: String,
}

#[derive(Deserialize)]
struct Installation {
    id: u64,
}

/// Reads the recorded webhooks, in the order of the file; fetches the package where it is not there yet.
pub(crate) fn load(source: &Source) -> Result<Vec<Webhook>> {
    let folder = match &source.recorded {
        Some(folder) => folder.clone(),
        None => std::env::current_exe()?.parent().context("a program stands in a folder")?.join("../webhooks-examples"),
    };
    let file = folder.join("node_modules").join(PACKAGE).join("api.github.com/index.json");
    if !file.exists() {
        fetch(&folder)?;
    }
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    parse(&text).with_context(|| file.display().to_string())
}

fn fetch(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let package = format!("{PACKAGE}@{VERSION}");
    screen::command(&format!("npm install {package}"));
    let output = Command::new("npm")
        .args(["install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"])
        .arg(folder)
        .arg(&package)
        .output()
        .context("npm is needed to fetch the recorded webhooks; it comes with Node.js: https://nodejs.org")?;
    screen::print(String::from_utf8_lossy(&output.stdout).trim());
    if !output.status.success() {
        bail!("npm failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn parse(text: &str) -> Result<Vec<Webhook>> {
    let kinds: Vec<Kind> = serde_json::from_str(text)?;
    let recorded =
        kinds.into_iter().flat_map(|kind| kind.examples.into_iter().map(move |one| (kind.name.clone(), one)));
    recorded
        .enumerate()
        .map(|(index, (event, payload))| {
            let place = index + 1;
            let Payload { action, repository, organization, installation } =
                serde_json::from_str(payload.get()).with_context(|| format!("payload {place}, of `{event}`"))?;
            let topic = match action {
                Some(action) => format!("github.{event}.{action}"),
                None => format!("github.{event}"),
            };
            let key = repository
                .map(|repository| repository.full_name)
                .or(organization.map(|organization| organization.login))
                .or(installation.map(|installation| installation.id.to_string()));
            Ok(Webhook { id: place.to_string(), topic, key, payload })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_and_key_are_the_payloads() {
        let text = r#"[
            { "name": "issues", "examples": [
                { "action": "opened", "repository": { "full_name": "o/r" }, "organization": { "login": "o" } },
                { "action": "opened", "organization": { "login": "o" }, "installation": { "id": 2 } } ] },
            { "name": "push", "examples": [
                { "installation": { "id": 2 } },
                { "sender": { "login": "s" } } ] }
        ]"#;
        let webhooks = parse(text).unwrap();
        let seen: Vec<_> = webhooks.iter().map(|one| (&*one.id, &*one.topic, one.key.as_deref())).collect();
        let expected = [
            ("1", "github.issues.opened", Some("o/r")),
            ("2", "github.issues.opened", Some("o")),
            ("3", "github.push", Some("2")),
            ("4", "github.push", None),
        ];
        assert_eq!(seen, expected);
        assert_eq!(webhooks[3].payload.get(), r#"{ "sender": { "login": "s" } }"#);
    }
}
