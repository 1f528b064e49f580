//! One stream of orders for seven consumers, which are the projects that `sandpost new` makes in seven languages.
//!
//! Each adds up what every customer has ordered, and publishes an invoice with the total so far. Orders of one customer come
//! in order, so all seven must come to the same totals. In the middle of the stream the consumer that is written in Go is
//! replaced by the one in C: it takes over the state, and nothing is lost or counted twice.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use example_harness::screen::{self, Story, Tone};
use example_harness::{Bus, Checks, Client, Event, Places, Subscription, wait_for};
use serde_json::json;

const TOPIC: &str = "order.placed";
const INVOICES: &str = "invoice.due";
const LANGUAGES: [&str; 7] = ["rust", "js", "ts", "python", "go", "c", "assemblyscript"];
/// Which one is replaced, and by which.
const OLD: &str = "go";
const NEW: &str = "c";
/// Orders are published in so many batches, and the language is changed after half of them.
const BATCHES: usize = 20;

/// Give one stream of orders to seven consumers in seven languages.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    places: Places,
    /// How many orders are placed; at most 20,000.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(20..=20_000))]
    orders: u64,
    /// How many customers place them.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    customers: u64,
}

struct Order {
    id: String,
    customer: String,
    cents: u64,
}

fn main() -> ExitCode {
    screen::ended(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let prepared = Bus::prepare(&arguments.places)?;
    for language in LANGUAGES {
        let manifest = fs::read_to_string(guest(&arguments.places, language, "toml")?)?;
        prepared.add(language, &guest(&arguments.places, language, "wasm")?, &manifest)?;
    }
    screen::print("Seven consumers are compiled. That of Python takes the longest, some seconds; it is done once.");
    prepared.start_before_eyes()?.live(|bus| show(bus, arguments))
}

fn guest(places: &Places, language: &str, extension: &str) -> Result<PathBuf> {
    places
        .guest(&format!("projects/{language}.{extension}"))
        .context("the projects in all languages are built by `make example-polyglot`")
}

fn show(bus: &mut Bus, arguments: &Arguments) -> Result<()> {
    let client = bus.client().clone();
    wait_for("all consumers to run", || {
        let plugins = client.plugins()?;
        if let Some(problem) = plugins.iter().find_map(|plugin| plugin.problem.as_ref()) {
            bail!("{problem}");
        }
        Ok((plugins.iter().filter(|plugin| plugin.status == "running").count() == LANGUAGES.len()).then_some(()))
    })?;
    let orders = orders(arguments);
    screen::heading(&format!(
        "{} orders of {} customers are placed; each of the seven handles all of them.",
        orders.len(),
        arguments.customers
    ));
    let story = Story::default();
    let replacement = fs::read_to_string(guest(&arguments.places, NEW, "toml")?)?;
    bus.lay_out("in-c", OLD, &guest(&arguments.places, NEW, "wasm")?, &replacement)?;
    let go_ran = client.subscription(OLD)?.digest;
    let batch = orders.len().div_ceil(BATCHES);
    for (number, some) in orders.chunks(batch).enumerate() {
        let events = some.iter().map(event).collect::<Result<Vec<_>>>()?;
        client.publish_batch(TOPIC, &events)?;
        if number == BATCHES / 2 {
            tell(&client, &story)?;
            screen::run(bus, &["plugins", "deploy", &format!("in-c/{OLD}.wasm")])?;
        }
    }
    let ended = wait_for("all orders to be handled by all", || {
        let views = LANGUAGES.iter().map(|name| client.subscription(name)).collect::<Result<Vec<_>>>()?;
        Ok(views.iter().all(|one| one.pending == 0).then_some(views))
    })?;
    tell(&client, &story)?;
    check(&client, arguments, &orders, &ended, go_ran)
}

fn orders(arguments: &Arguments) -> Vec<Order> {
    // Multiplied by numbers that are prime to them, customers and amounts look mixed, and are the same in every run.
    let order = |n: u64| Order {
        id: format!("o-{n:05}"),
        customer: format!("customer-{}", n * 7 % arguments.customers),
        cents: 100 + n * 7_919 % 9_901,
    };
    (1..=arguments.orders).map(order).collect()
}

fn event(order: &Order) -> Result<Event<'_>> {
    let data = json!({ "id": order.id, "customer": order.customer, "total_cents": order.cents });
    Ok(Event::json(&order.id, "/shop", "com.example.order.placed", &data)?.key(Some(&order.customer)))
}

fn tell(client: &Client, story: &Story) -> Result<()> {
    for language in LANGUAGES {
        let one = client.subscription(language)?;
        let tone = if one.pending == 0 { Tone::Good } else { Tone::Plain };
        story.tell(tone, language, &format!("{:>5} handled, {:>4} pending", one.acked, one.pending));
    }
    Ok(())
}

fn check(
    client: &Client,
    arguments: &Arguments,
    orders: &[Order],
    ended: &[Subscription],
    go_ran: Option<String>,
) -> Result<()> {
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    for order in orders {
        *expected.entry(&order.customer).or_default() += order.cents;
    }
    // The last invoice of each customer, by who wrote it.
    let mut invoices: BTreeMap<String, (u64, BTreeMap<String, u64>)> = BTreeMap::new();
    for invoice in client.messages(INVOICES)? {
        let language = invoice.source.trim_start_matches("/subscriptions/").to_owned();
        let (count, totals) = invoices.entry(language).or_default();
        *count += 1;
        let text = |name: &str| invoice.data[name].as_str().map(str::to_owned);
        let customer = text("customer").with_context(|| format!("an invoice without a customer: {}", invoice.data))?;
        let total = invoice.data["total_cents"].as_u64().context("an invoice without a total")?;
        totals.insert(customer, total);
    }

    screen::heading("What the bus says in the end, and what it must be");
    let mut checks = Checks::new();
    let placed = orders.len() as u64;
    let sum: u64 = expected.values().sum();
    for one in ended {
        let (count, totals) = invoices.get(&one.name).cloned().unwrap_or_default();
        let right = expected.iter().filter(|(customer, cents)| totals.get(**customer) == Some(cents)).count() as u64;
        checks.row(
            &one.name,
            &[
                ("matched", one.matched, placed),
                ("acked", one.acked, placed),
                ("dead", one.dead, 0),
                ("invoices", count, placed),
                ("right totals", right, arguments.customers),
                ("cents", totals.values().sum(), sum),
            ],
        );
    }
    let swapped = ended.iter().find(|one| one.name == OLD).context("it was asked for")?;
    let c = ended.iter().find(|one| one.name == NEW).context("it was asked for")?;
    checks.holds(
        format!("what runs as `{OLD}` in the end"),
        if swapped.digest == c.digest { NEW } else { OLD },
        "the code in C",
        swapped.digest == c.digest && swapped.digest != go_ran,
    );
    checks.conclude()?;
    screen::print("Seven languages, and one sum.");
    Ok(())
}
