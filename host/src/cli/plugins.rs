//! `sandpost plugins`: what runs, what does not and why.

use clap::Subcommand;
use serde_json::Value;

use super::client::Client;
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
    Deploy(DeployArgs),
}

pub(super) fn run(command: &PluginsCommand, bus: &str, output: &Output) -> Result<(), Failure> {
    match command {
        PluginsCommand::List => list(&Client::new(bus)?, output),
        PluginsCommand::Show { name } => show(name, &Client::new(bus)?, output),
        PluginsCommand::Deploy(args) => deploy::run(args, bus, output),
    }
}

/// The consumers as the bus lists them.
pub(super) fn all(client: &Client) -> Result<Vec<Value>, Failure> {
    client.get("/plugins", &[])?.list()
}

fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let plugins = client.get("/plugins", &[])?;
    if output.json {
        return output.line(&plugins.text);
    }
    let plugins = plugins.list()?;
    let rows = plugins.iter().map(|plugin| {
        let status = text(&plugin["status"]);
        vec![
            plain(&plugin["name"]),
            if status == "running" { Text::Good(status) } else { Text::Bad(status) },
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
    output.facts(&[
        ("name", member("name")),
        ("status", member("status")),
        ("digest", member("digest")),
        ("deployed", time(&plugin["deployed_ms"])),
        ("subscriptions", member("subscriptions")),
        ("may publish", member("publish")),
        ("may request", member("http")),
        ("problem", member("problem")),
    ])
}
