//! Real input, checked: 329 recorded webhooks of GitHub, and then a ledger with many accounts.
//!
//! 1. Every recorded payload is published as a CloudEvent. Then two consumers are deployed that begin with
//!    what is there: one takes all of them, one those of issues. Both say what they saw, and the counts and
//!    the order within each key are held against the input. Most payloads are of one repository, and there
//!    is a backlog from the start: whatever is handled side by side and should not be comes out of order.
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
use example_harness::{Bus, Checks, Client, Places, Subscription, screen, wait_for};

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
    screen::ended(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let webhooks = recorded::load(&arguments.source)?;
    Bus::prepare(&arguments.places)?.start()?.live(|bus| show(bus, &webhooks, arguments))
}

fn show(bus: &Bus, webhooks: &[recorded::Webhook], arguments: &Arguments) -> Result<()> {
    let mut checks = Checks::new();
    webhooks_run::run(bus, &arguments.places, webhooks, &mut checks)?;
    ledger_run::run(bus, &arguments.places, &arguments.size, &mut checks)?;
    screen::heading("What the consumers saw, and what the input says");
    checks.conclude()
}

/// Deploys a component under this name, with the manifest of the same name.
fn deploy(bus: &Bus, places: &Places, name: &str, component: &str) -> Result<()> {
    let manifest = fs::read_to_string(places.guest(&format!("{name}.toml"))?)?;
    bus.lay_out(".", name, &places.guest(component)?, &manifest)?;
    screen::run(bus, &["plugins", "deploy", &format!("{name}.wasm")])
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

/// The account of a subscription that has nothing left to do.
fn check_account(client: &Client, name: &str, matched: u64, checks: &mut Checks) -> Result<Subscription> {
    let one = client.subscription(name)?;
    let figures = [
        ("matched", one.matched, matched),
        ("acked", one.acked, matched),
        ("dead", one.dead, 0),
        ("skipped", one.expired + one.skipped, 0),
        ("pending", one.pending, 0),
    ];
    checks.row(name, &figures);
    Ok(one)
}
