//! A stream of orders through a bus of its own, with everything that can happen to an order on the way.
//!
//! Three consumers take each order: `email` writes the mail, `inventory` reserves the stock, `analytics` counts.
//! One order is confirmed by its supplier only in the third attempt. Another is in yen, which the first version
//! of `email` cannot format: it ends as a dead letter, a fixed version is deployed while orders go on, and
//! the dead letter is redriven. The bus is killed while mails are on their way to the mail API, and started again.
//! At the end the bus and the API are asked for their figures, and each is held against what it must be.

mod mail_api;
mod manifests;
mod orders;
mod producer;
mod summary;
mod watch;

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use example_harness::screen::{self, Story, Tone};
use example_harness::{Bus, Places, wait_for};

use crate::mail_api::{API_KEY, MailApi};
use crate::orders::Orders;
use crate::producer::Producer;
use crate::watch::Watch;

const CONSUMERS: [&str; 3] = ["analytics", "email", "inventory"];

/// Show a stream of orders on a bus of its own, from publish to redrive.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    places: Places,
    /// How many orders are placed, 100 or more.
    #[arg(long, default_value_t = 300)]
    orders: usize,
    /// What the orders are made up from.
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

fn main() -> ExitCode {
    screen::ended(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let orders = Arc::new(Orders::generate(arguments.seed, arguments.orders));
    let api = MailApi::start()?;
    start(&arguments.places, &api)?.live(|bus| show(bus, &orders, &arguments.places, &api))
}

/// The manifest of a consumer, as the demonstration needs it.
fn manifest(places: &Places, name: &str, api: &MailApi) -> Result<String> {
    let manifest = manifests::impatient(&fs::read_to_string(places.guest(&format!("{name}.toml"))?)?)?;
    if name == "email" { manifests::mailing_to(&manifest, &api.url()) } else { Ok(manifest) }
}

/// Starts the bus with the three consumers.
fn start(places: &Places, api: &MailApi) -> Result<Bus> {
    let bus = Bus::prepare(places)?.variable("SANDPOST_SECRET_MAIL_API_KEY", API_KEY);
    for name in CONSUMERS {
        bus.add(name, &places.guest(&format!("{name}.wasm"))?, &manifest(places, name, api)?)?;
    }
    let bus = bus.start_before_eyes()?;
    let plugins = wait_for("the consumers to run", || {
        let plugins = bus.client().plugins()?;
        let running = plugins.iter().filter(|plugin| plugin.status == "running").count();
        Ok((running == CONSUMERS.len()).then_some(plugins))
    })?;
    for plugin in plugins {
        let topics = bus.client().subscription(&plugin.name)?.topics.join(", ");
        let publishes = if plugin.publish.is_empty() { "nothing".to_owned() } else { plugin.publish.join(", ") };
        screen::print(&format!("  {:<10} takes {topics:<13} may publish {publishes}", plugin.name));
    }
    Ok(bus)
}

fn show(bus: &mut Bus, orders: &Arc<Orders>, places: &Places, api: &MailApi) -> Result<()> {
    let (all, back_order, poison) = (&orders.all, &orders.all[orders.back_order], &orders.all[orders.poison]);
    screen::heading(&format!(
        "{} orders are placed. {} waits for its supplier; {} is in yen, which this version of email cannot format.",
        all.len(),
        back_order.id,
        poison.id
    ));
    let story = Story::default();
    let client = bus.client().clone();
    let mut watch = Watch::new(&client, &story, orders)?;
    // More orders are placed while the fixed consumer is swapped in, and the last ones before the crash.
    let producer = Producer::start(client.clone(), orders.clone(), vec![all.len() / 2, all.len() / 5]);

    let letter = watch
        .until("the order in yen to die", &producer, |_| Ok(bus.client().dead_letters("email")?.into_iter().next()))?;
    story.tell(Tone::Bad, "email", &format!("{} is a dead letter: {}", letter.message_id, letter.reason));
    watch.until("the back order to be acked", &producer, |watch| Ok(watch.back_order_is_acked().then_some(())))?;
    screen::run(bus, &["dead-letters", "show", &letter.id])?;

    let broken = digest(bus, "email")?;
    bus.lay_out("fixed", "email", &places.guest("email-fixed.wasm")?, &manifest(places, "email", api)?)?;
    story.tell(Tone::Plain, "shop", "orders go on while a fixed version of email is deployed");
    producer.go_on();
    screen::run(bus, &["plugins", "deploy", "fixed/email.wasm"])?;
    let fixed = watch.until("the fixed version to run", &producer, |_| {
        let now = digest(bus, "email")?;
        Ok((now != broken).then_some(now))
    })?;
    story.tell(Tone::Good, "email", &format!("runs {} in place of {}", short(&fixed), short(&broken)));

    screen::run(bus, &["dead-letters", "redrive", &letter.id])?;
    watch.until("the redriven order to be mailed", &producer, |watch| Ok(watch.yen_mail_is_told().then_some(())))?;
    let interrupted = crash(bus, &mut watch, &producer, &story, api)?;
    watch.until("every order to be settled", &producer, |watch| Ok(watch.all_is_settled().then_some(())))?;
    producer.finish()?;
    watch.tell_progress();

    screen::heading("What the bus and the mail API say in the end, and what it must be");
    let book = api.book();
    let told =
        summary::Told { letter: &letter, broken: &broken, fixed: &fixed, interrupted, watch: &watch, book: &book };
    summary::check(&client, orders, &told)?.conclude()?;
    screen::print("Every order is accounted for.");
    Ok(())
}

/// Kills the bus while the mail API has sent mails whose requests it has not answered yet, and starts it again.
/// Answers how many those were.
fn crash(bus: &mut Bus, watch: &mut Watch<'_>, producer: &Producer, story: &Story, api: &MailApi) -> Result<usize> {
    let concurrency = bus.client().subscription("email")?.concurrency as usize;
    api.hold_answers();
    producer.go_on();
    watch.until("mails to be on their way", producer, |_| Ok((api.book().waiting >= concurrency).then_some(())))?;
    watch.until("the last order to be placed", producer, |_| Ok(producer.is_over().then_some(())))?;
    let interrupted = api.book().waiting;
    let what =
        format!("{interrupted} mails are sent, and their requests not answered yet: the bus is killed (kill -9)");
    story.tell(Tone::Bad, "shop", &what);
    watch.before_the_end();
    bus.kill()?;
    api.answer();
    bus.start_again()?;
    watch.follow_again()?;
    story.tell(
        Tone::Good,
        "shop",
        "the bus runs again; what was not acknowledged is handled again, with the same keys",
    );
    Ok(interrupted)
}

/// The digest of what a consumer runs.
fn digest(bus: &Bus, name: &str) -> Result<String> {
    let plugins = bus.client().plugins()?;
    let plugin = plugins.into_iter().find(|plugin| plugin.name == name).context("the consumer is gone")?;
    plugin.digest.context("the consumer does not run")
}

/// A digest as far as it takes to tell two apart.
fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
