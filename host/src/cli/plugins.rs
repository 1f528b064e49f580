//! `sandpost plugins`: what runs, what ran before, what does not run and why.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use serde_json::{Value, json};

use super::check::{self, CheckArgs};
use super::client::{Client, segment};
use super::deploy::{self, DeployArgs};
use super::failure::Failure;
use super::output::{Output, Text, plain, short, text, time};
use crate::ingress::nearest;

#[derive(Subcommand, Debug)]
pub(super) enum PluginsCommand {
    /// List the consumers
    List,
    /// Show one consumer
    Show {
        name: String,
    },
    Check(CheckArgs),
    Deploy(DeployArgs),
    /// List the newest deployments of a consumer, and how their probations ended
    History {
        name: String,
    },
    /// Make an earlier version of a consumer run again
    ///
    /// It takes over between two messages. Attempts that the version charged are taken back, and dead
    /// letters that died of it are marked `rolled-back`; what it wrote to its state and published stays.
    /// The version that is gone back from is not deployed again by itself, though its files may lie in the
    /// plugin folder.
    Rollback {
        name: String,
        /// The beginning of the digest of the version that is to run; otherwise the one before
        #[arg(long, value_name = "DIGEST")]
        to: Option<String>,
    },
}

pub(super) fn run(command: &PluginsCommand, bus: &str, output: &Output) -> Result<(), Failure> {
    match command {
        PluginsCommand::List => list(&Client::new(bus)?, output),
        PluginsCommand::Show { name } => show(name, &Client::new(bus)?, output),
        PluginsCommand::Check(args) => check::run(args, output),
        PluginsCommand::Deploy(args) => deploy::run(args, bus, output),
        PluginsCommand::History { name } => history(name, &Client::new(bus)?, output),
        PluginsCommand::Rollback { name, to } => roll_back(name, to.as_deref(), &Client::new(bus)?, output),
    }
}

/// The consumers as the bus lists them.
pub(super) fn all(client: &Client) -> Result<Vec<Value>, Failure> {
    client.get("/plugins", &[])?.list()
}

/// The status with what is on its way.
fn status(plugin: &Value) -> String {
    let mut status = text(&plugin["status"]);
    if !plugin["probation"].is_null() {
        status += &format!(", on probation ({})", progress(&plugin["probation"]));
    }
    if !plugin["compiling"].is_null() && status != "compiling" {
        status += &format!(", compiling {}", short(&plugin["compiling"]));
    }
    if let Some(seconds) = compiling_seconds(plugin) {
        status += &format!(" for {seconds} s");
    }
    status
}

/// For how long a component is being compiled, by the clock of this machine.
pub(super) fn compiling_seconds(plugin: &Value) -> Option<u64> {
    let since_ms = plugin["compiling_since_ms"].as_u64()?;
    let since = UNIX_EPOCH + Duration::from_millis(since_ms);
    Some(SystemTime::now().duration_since(since).unwrap_or_default().as_secs())
}

/// How a version on probation does.
fn progress(probation: &Value) -> String {
    let count = |name: &str| text(&probation[name]);
    format!("{} of {} messages, {} failed", count("messages"), count("messages_max"), count("failures"))
}

fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let plugins = client.get("/plugins", &[])?;
    if output.json {
        return output.line(&plugins.text);
    }
    let plugins = plugins.list()?;
    let rows = plugins.iter().map(|plugin| {
        let status = status(plugin);
        vec![
            plain(&plugin["name"]),
            if plugin["status"] == "failed" { Text::Bad(status) } else { Text::Good(status) },
            Text::Plain(short(&plugin["digest"])),
            Text::Plain(time(&plugin["deployed_ms"])),
            plain(&plugin["subscriptions"]),
            if plugin["problem"].is_null() { plain(&Value::Null) } else { Text::Bad(text(&plugin["problem"])) },
        ]
    });
    output.table(&["consumer", "status", "digest", "deployed", "subscriptions", "problem"], rows)
}

fn show(name: &str, client: &Client, output: &Output) -> Result<(), Failure> {
    let plugins = all(client)?;
    let Some(plugin) = plugins.iter().find(|plugin| plugin["name"] == *name) else {
        let names = plugins.iter().filter_map(|plugin| plugin["name"].as_str());
        let near = nearest(name, names).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        return Err(Failure::NotFound(format!("there is no consumer `{name}`{near}")));
    };
    if output.json {
        return output.line(plugin.to_string());
    }
    let member = |name: &str| text(&plugin[name]);
    let probation = &plugin["probation"];
    let probation = match probation {
        Value::Null => "-".to_owned(),
        probation => format!(
            "{}, of at most {}; back to {} where it fails",
            progress(probation),
            text(&probation["max_failures"]),
            short(&probation["back_to"])
        ),
    };
    output.facts(&[
        ("name", member("name")),
        ("status", member("status")),
        ("kind", member("kind")),
        ("digest", member("digest")),
        ("deployed", time(&plugin["deployed_ms"])),
        ("deployed by", member("deployed_by")),
        ("compiling", member("compiling")),
        ("probation", probation),
        ("subscriptions", member("subscriptions")),
        ("may publish", member("publish")),
        ("may request", member("http")),
        ("problem", member("problem")),
    ])?;
    let rolled_back = plugin["rolled_back"].as_array().map(Vec::as_slice).unwrap_or_default();
    if rolled_back.is_empty() {
        return Ok(());
    }
    output.heading("rolled back, and not deployed again by themselves")?;
    let rows = rolled_back.iter().rev().map(|one| {
        vec![
            Text::Plain(short(&one["digest"])),
            Text::Plain(time(&one["at_ms"])),
            plain(&one["by"]),
            plain(&one["why"]),
        ]
    });
    output.table(&["digest", "time", "by", "why"], rows)
}

fn history(name: &str, client: &Client, output: &Output) -> Result<(), Failure> {
    let history = client.get(&format!("/plugins/{}/history", segment(name)), &[])?;
    if output.json {
        return output.line(&history.text);
    }
    let history = history.list()?;
    let rows = history.iter().map(|one| {
        let probation = &one["probation"];
        let told = match probation {
            Value::Null => "-".to_owned(),
            probation => {
                let count = |name: &str| text(&probation[name]);
                format!("{} ({} messages, {} failed)", count("status"), count("messages"), count("failures"))
            }
        };
        let last = text(&probation["last_failures"]);
        vec![
            plain(&one["number"]),
            Text::Plain(time(&one["deployed_ms"])),
            Text::Plain(short(&one["digest"])),
            plain(&one["deployed_by"]),
            plain(&one["changed"]),
            if probation["status"] == "failed" { Text::Bad(told) } else { Text::Plain(told) },
            Text::Plain(if last.is_empty() { "-".to_owned() } else { last }),
            Text::Plain(if one["kept"] == true { "yes" } else { "no" }.to_owned()),
        ]
    });
    output.table(&["no", "deployed", "digest", "by", "changed", "probation", "last failures", "kept"], rows)
}

fn roll_back(name: &str, to: Option<&str>, client: &Client, output: &Output) -> Result<(), Failure> {
    let command = json!({ "to": to }).to_string();
    let went_back = client.post(&format!("/plugins/{}/rollback", segment(name)), &[], command.as_bytes())?;
    if output.json {
        return output.line(&went_back.text);
    }
    let went_back = went_back.value()?;
    let (from, to) = (short(&went_back["from"]), short(&went_back["to"]));
    output.line(format!("{name} went back from {from} to {to}"))?;
    let count = |name: &str| went_back[name].as_u64().unwrap_or(0);
    if count("refunded") + count("excused") > 0 {
        let (refunded, excused) = (count("refunded"), count("excused"));
        output.line(format!("{refunded} attempts are refunded, {excused} dead letters are marked `rolled-back`"))?;
    }
    Ok(())
}
