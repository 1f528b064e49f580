//! Real input, checked: 329 recorded webhooks of GitHub, and then a ledger with many accounts.
//!
//! 1. Every recorded payload is published as a CloudEvent. One consumer takes all of them, another those of
//!    issues; both say what they saw, and the counts and the order within each key are held against the
//!    input. Most payloads are of one repository, so this is mostly about order.
//! 2. The entries of a ledger are published, with the account as key. The consumer waits for a bank in each
//!    call; how many accounts it handled at once, and that it never handled one account twice at once, is
//!    counted from the times in what it published.

mod ledger_run;
mod recorded;
mod webhooks_run;

use std::fs;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use example_harness::{Bus, Checks, Client, Places, screen, wait_for};

/// Publish recorded GitHub webhooks and a generated ledger, and check counts and order.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    source: recorded::Source,
    #[command(flatten)]
    size: ledger_run::Size,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen::complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let webhooks = recorded::load(&arguments.source)?;
    let bus = Bus::prepare(&arguments.places)?;
    for (stem, component) in [
        (webhooks_run::ALL, "webhook-log.wasm"),
        (webhooks_run::ISSUES, "webhook-log.wasm"),
        (ledger_run::NAME, "ledger.wasm"),
    ] {
        let manifest = fs::read_to_string(arguments.places.guest(&format!("{stem}.toml"))?)?;
        bus.add(stem, &arguments.places.guest(component)?, &manifest)?;
    }
    let bus = bus.start()?;
    let outcome = show(bus.client(), &webhooks, &arguments.size);
    if outcome.is_err() {
        screen::complain(&format!("the last lines of the bus's log:\n{}", bus.log_end()));
    }
    outcome?;
    bus.stop()
}

fn show(client: &Client, webhooks: &[recorded::Webhook], size: &ledger_run::Size) -> Result<()> {
    wait_for("the consumers to run", || {
        let plugins = client.plugins()?;
        Ok((plugins.iter().filter(|plugin| plugin.status == "running").count() == 3).then_some(()))
    })?;
    let mut checks = Checks::new();
    webhooks_run::run(client, webhooks, &mut checks)?;
    ledger_run::run(client, size, &mut checks)?;
    screen::heading("What the consumers saw, and what the input says");
    checks.conclude()
}

/// Waits until a subscription has nothing left to do. The most keys that the bus said were running at once is
/// answered along with it.
fn settled(client: &Client, name: &str, matched: u64) -> Result<u64> {
    let mut most = 0;
    wait_for(&format!("{name} to settle {matched} messages"), || {
        let one = client.subscription(name)?;
        most = most.max(one.waiting.running);
        Ok((one.matched == matched && one.pending == 0).then_some(most))
    })
}
