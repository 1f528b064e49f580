//! The first run: what two consumers saw of the webhooks, against the input.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use example_harness::{Bus, Checks, Client, Event, Places, screen};
use webhook_log::Seen;

use crate::recorded::Webhook;
use crate::{check_account, deploy, settled};

/// Takes `github.>`.
const ALL: &str = "github-all";
/// Takes `github.issues.*`.
const ISSUES: &str = "github-issues";

const PUBLISHED: u64 = 329;
const OF_ISSUES: u64 = 29;

pub(crate) fn run(bus: &Bus, places: &Places, webhooks: &[Webhook], checks: &mut Checks) -> Result<()> {
    let client = bus.client();
    let keys: BTreeSet<_> = webhooks.iter().filter_map(|one| one.key.as_deref()).collect();
    screen::heading(&format!(
        "{} recorded webhooks of {} keys are published, one after the other.",
        webhooks.len(),
        keys.len()
    ));
    checks.equal("webhooks recorded", webhooks.len() as u64, PUBLISHED);
    for webhook in webhooks {
        let event = Event {
            specversion: "1.0",
            id: webhook.id.clone(),
            source: "https://api.github.com",
            r#type: &webhook.topic,
            subject: None,
            partitionkey: webhook.key.as_deref(),
            datacontenttype: Some("application/json"),
            dataref: None,
            data: Some(webhook.payload.clone()),
        };
        client.publish_binary(&webhook.topic, &event)?;
    }

    deploy(bus, places, ALL, "webhook-log.wasm")?;
    deploy(bus, places, ISSUES, "webhook-log.wasm")?;
    settled(client, ALL, PUBLISHED)?;
    settled(client, ISSUES, OF_ISSUES)?;
    let of_issues = |one: &&Webhook| one.topic.strip_prefix("github.issues.").is_some_and(|rest| !rest.contains('.'));
    let (all, issues): (Vec<_>, Vec<_>) = (webhooks.iter().collect(), webhooks.iter().filter(of_issues).collect());
    checks.equal("webhooks of issues recorded", issues.len() as u64, OF_ISSUES);
    check(client, ALL, "seen.all", &all, checks)?;
    check(client, ISSUES, "seen.issues", &issues, checks)
}

/// What a consumer acknowledged, and what it said it saw, in its order.
fn check(client: &Client, name: &str, topic: &str, input: &[&Webhook], checks: &mut Checks) -> Result<()> {
    let acked = check_account(client, name, input.len() as u64, checks)?.acked;
    let seen: Vec<Seen> = client
        .messages_once(topic, acked)?
        .into_iter()
        .map(|message| {
            serde_json::from_value(message.data).with_context(|| format!("message {} of {topic}", message.id))
        })
        .collect::<Result<_>>()?;
    checks.equal(format!("{name}: messages in {topic}"), seen.len(), input.len());

    let expected: BTreeMap<_, _> = input.iter().map(|one| (one.id.as_str(), *one)).collect();
    let as_published: BTreeSet<_> = seen
        .iter()
        .filter(|seen| expected.get(seen.id.as_str()).is_some_and(|one| one.topic == seen.topic && one.key == seen.key))
        .map(|seen| seen.id.as_str())
        .collect();
    checks.equal(format!("{name}: each seen once, with its topic and key"), as_published.len(), input.len());

    let mut by_key: BTreeMap<&str, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
    for (key, id) in input.iter().filter_map(|one| Some((one.key.as_deref()?, one.id.as_str()))) {
        by_key.entry(key).or_default().0.push(id);
    }
    for (key, id) in seen.iter().filter_map(|seen| Some((seen.key.as_deref()?, seen.id.as_str()))) {
        by_key.entry(key).or_default().1.push(id);
    }
    let in_order = by_key.values().filter(|(published, seen)| published == seen).count();
    checks.equal(format!("{name}: keys seen in the order of the input"), in_order, by_key.len());
    let longest = by_key.iter().max_by_key(|(_, (published, _))| published.len());
    if let Some((key, (published, _))) = longest {
        screen::print(&format!(
            "  {name:<13} saw {} webhooks of {} keys, {} of {key}",
            seen.len(),
            by_key.len(),
            published.len()
        ));
    }
    Ok(())
}
