//! Payments between accounts, on a bus that is killed again and again.
//!
//! A client requests transfers between a few accounts, and sends again what was not answered. The bank decides them:
//! those of one account in order, accounts side by side, and audits now and then while it does. Meanwhile the bus is
//! ended by `kill -9`, several times, in the middle of all that. At the end every transfer was decided once, and every
//! balance is what it must be to the cent: the decisions are made again one after the other, in the order in which
//! the bus has them, and each must come out as it did.

mod client;
mod summary;
mod transfers;

use std::fs;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use example_harness::screen::{self, Story, Tone};
use example_harness::{Bus, Checks, Event, Places, Subscription, wait_for};
use serde_json::json;

use crate::client::Payers;
use crate::transfers::{Size, Transfers};

/// Events of this program come from here.
const SOURCE: &str = "/payments";

/// Request transfers between accounts on a bus that is killed again and again, and check every balance.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    size: Size,
    /// How often the bus is killed.
    #[arg(long, default_value_t = 5)]
    kills: usize,
}

fn main() -> ExitCode {
    screen::ended(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let prepared = Bus::prepare(&arguments.places)?;
    let manifest = fs::read_to_string(arguments.places.guest("bank.toml")?)?;
    prepared.add("bank", &arguments.places.guest("bank.wasm")?, &manifest)?;
    prepared.start_before_eyes()?.live(|bus| show(bus, arguments))
}

fn show(bus: &mut Bus, arguments: &Arguments) -> Result<()> {
    let transfers = Transfers::generate(&arguments.size);
    open_accounts(bus, &transfers)?;
    screen::heading(&format!(
        "{} accounts have {} each. {} transfers between them are requested, and the bus is killed {} times meanwhile.",
        transfers.openings.len(),
        amount(arguments.size.opening_cents()),
        transfers.all.len(),
        arguments.kills
    ));
    let story = Story::default();
    let payers = Payers::start(bus.client().clone(), transfers.all.clone());
    let mut audits = 0;
    for kill in 1..=arguments.kills {
        audits += 1;
        request_audit(bus, audits)?;
        let goal = transfers.all.len() * kill / (arguments.kills + 1);
        let bank = wait_for(&format!("{goal} transfers to be decided"), || {
            let bank = bus.client().subscription("bank")?;
            let is_over = transfers.decided(&bank) >= goal || payers.gave_up_before(goal);
            Ok(is_over.then_some(bank))
        })?;
        if payers.gave_up_before(goal) {
            break;
        }
        story.tell(Tone::Bad, "kill -9", &progress(&transfers, &bank));
        bus.kill()?;
        bus.start_again()?;
        story.tell(Tone::Good, "bus", "is up again");
    }
    let again = payers.finish()?;
    story.tell(Tone::Plain, "payers", &format!("requests were sent again {again} times, for want of an answer"));
    let bank = settled(bus, "bank", transfers.openings.len() + transfers.all.len())?;
    story.tell(Tone::Plain, "bank", &progress(&transfers, &bank));
    // The last one, when nothing moves any more.
    audits += 1;
    request_audit(bus, audits)?;
    settled(bus, "audit", audits)?;

    screen::heading("What the bus says in the end, and what it must be");
    let mut checks = Checks::new();
    summary::check(bus.client(), &transfers, audits, &mut checks)?;
    checks.conclude()?;
    screen::print("Every cent is accounted for.");
    Ok(())
}

fn open_accounts(bus: &Bus, transfers: &Transfers) -> Result<()> {
    let events = transfers
        .openings
        .iter()
        .map(|opening| {
            let event = Event::json(&opening.account, SOURCE, "com.example.account.opened", opening)?;
            Ok(event.key(Some(&opening.account)))
        })
        .collect::<Result<Vec<_>>>()?;
    // The bank's subscription begins with what comes after it was deployed.
    wait_for("the bank to run", || {
        Ok(bus.client().plugins()?.iter().any(|plugin| plugin.status == "running").then_some(()))
    })?;
    bus.client().publish_batch("account.opened", &events)?;
    settled(bus, "bank", events.len()).map(|_| ())
}

fn request_audit(bus: &Bus, number: usize) -> Result<()> {
    let event = Event::json(format!("audit-{number}"), SOURCE, "com.example.audit.requested", &json!({}))?;
    bus.client().publish("audit.requested", &event).map(|_| ())
}

/// Waits until a subscription has settled so many messages, and nothing is left.
fn settled(bus: &Bus, name: &str, messages: usize) -> Result<Subscription> {
    wait_for(&format!("{name} to settle {messages} messages"), || {
        let one = bus.client().subscription(name)?;
        Ok((one.matched >= messages as u64 && one.pending == 0).then_some(one))
    })
}

fn progress(transfers: &Transfers, bank: &Subscription) -> String {
    let (decided, all, again) = (transfers.decided(bank), transfers.all.len(), bank.calls("conflict"));
    let running = bank.waiting.running;
    format!("{decided} of {all} transfers are decided, {running} run now; {again} ran again after a conflict")
}

/// Cents, as people write them.
fn amount(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}
