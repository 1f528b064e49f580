//! The bus's own figures, against what follows from the orders.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use example_harness::{Checks, Client, DeadLetter, Message, Subscription};

use crate::mail_api::Book;
use crate::manifests::ATTEMPTS_MAX;
use crate::orders::Orders;
use crate::watch::Watch;
use crate::{CONSUMERS, short};

/// Articles that the shop has few of, and how many: `config` of the inventory's manifest.
const STOCK: (&str, u32) = ("BOOK-1", 40);
/// Below so many left, `stock.low` is published.
const LOW_STOCK: u32 = 10;

/// What the demonstration learned on its way.
pub(crate) struct Told<'a> {
    /// The dead letter, before it was redriven.
    pub(crate) letter: &'a DeadLetter,
    /// Digests of the two versions of `email`.
    pub(crate) broken: &'a str,
    pub(crate) fixed: &'a str,
    /// Mails that were asked for and not acknowledged when the bus was killed.
    pub(crate) interrupted: usize,
    pub(crate) watch: &'a Watch<'a>,
    /// What the mail API has seen.
    pub(crate) book: &'a Book,
}

pub(crate) fn check(client: &Client, orders: &Orders, told: &Told<'_>) -> Result<Checks> {
    let count = orders.all.len() as u64;
    let mut checks = Checks::new();
    let topics = client.topics()?;
    let placed = topics.iter().find(|topic| topic.name == "order.placed").context("there are no orders")?;
    checks.equal("messages in order.placed", placed.last_sequence, count);

    let subscriptions: BTreeMap<_, _> =
        client.subscriptions()?.into_iter().map(|one| (one.name.clone(), one)).collect();
    for name in CONSUMERS {
        let one = subscriptions.get(name).with_context(|| format!("there is no subscription {name}"))?;
        check_account(&mut checks, one, told.watch.failures(one), count);
    }
    check_letter(&mut checks, orders, told);
    let runs = subscriptions["email"].digest.as_deref().unwrap_or("nothing");
    checks.holds("email runs the fixed version", short(runs), short(told.fixed), runs == told.fixed);
    check_mails(&mut checks, orders, &client.messages_once("email.sent", subscriptions["email"].acked)?);
    check_api(&mut checks, orders, told);
    let low = usize::from(orders.ordered(STOCK.0) > STOCK.1 - LOW_STOCK);
    checks.equal("messages in stock.low", client.messages("stock.low")?.len(), low);
    Ok(checks)
}

/// Nothing is lost, and nothing is left.
fn check_account(checks: &mut Checks, one: &Subscription, failures: u64, count: u64) {
    let (failed, redriven) = match one.name.as_str() {
        "email" => (ATTEMPTS_MAX.into(), 1),
        // The supplier confirms in the third attempt.
        "inventory" => (2, 0),
        _ => (0, 0),
    };
    let figures = [
        ("matched", one.matched, count),
        ("failed calls", failures, failed),
        ("redriven", one.redriven, redriven),
        ("acked", one.acked, count),
        ("dead", one.dead, 0),
        ("skipped", one.expired + one.skipped, 0),
        ("pending", one.pending, 0),
    ];
    checks.row(&one.name, &figures);
}

/// What left the bus: one mail for each order by its key, however often it was asked for.
fn check_api(checks: &mut Checks, orders: &Orders, told: &Told<'_>) {
    let book = told.book;
    checks.equal("mails that the API has sent, by key", book.mails.len(), orders.all.len());
    let mailed: BTreeSet<_> = book.mails.values().filter_map(|sent| sent.mail["order"].as_str()).collect();
    let ordered: BTreeSet<_> = orders.all.iter().map(|order| order.id.as_str()).collect();
    checks.equal("orders that have one there", mailed.intersection(&ordered).count(), ordered.len());
    let expected = format!("{} or more", told.interrupted);
    let repeated = book.repeated();
    checks.holds("requests repeated after the crash", repeated, &expected, repeated >= told.interrupted.max(1));
    checks.equal("requests that were no repetition of theirs", book.mixed_up, 0);
    checks.equal("requests without the secret", book.refused, 0);
}

/// The evidence that the dead letter kept.
fn check_letter(checks: &mut Checks, orders: &Orders, told: &Told<'_>) {
    let Told { letter, broken, .. } = told;
    checks.equal("the order that died", letter.message_id.as_str(), &orders.all[orders.poison].id);
    checks.equal("its reason", letter.reason.as_str(), "attempts-exhausted");
    checks.equal("its attempts", letter.attempts_total, ATTEMPTS_MAX.into());
    let evident = letter
        .attempts
        .iter()
        .filter(|attempt| {
            attempt.charged && attempt.outcome == "retry" && attempt.digest == *broken && attempt.text.contains("JPY")
        })
        .count();
    checks.equal("of them with error and version kept", evident, ATTEMPTS_MAX as usize);
}

/// One mail for each order, and each customer's in the order of the orders; but the redriven one comes late.
fn check_mails(checks: &mut Checks, orders: &Orders, mails: &[Message]) {
    checks.equal("messages in email.sent", mails.len(), orders.all.len());
    let mailed: BTreeSet<_> = mails.iter().filter_map(|mail| mail.subject.as_deref()).collect();
    let ordered: BTreeSet<_> = orders.all.iter().map(|order| order.id.as_str()).collect();
    checks.equal("orders that have their mail", mailed.intersection(&ordered).count(), ordered.len());

    let poison = orders.all[orders.poison].id.as_str();
    let mut by_customer: BTreeMap<&str, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
    for order in orders.all.iter().filter(|order| order.id != poison) {
        by_customer.entry(order.customer).or_default().0.push(&order.id);
    }
    for mail in mails.iter().filter(|mail| mail.subject.as_deref() != Some(poison)) {
        if let (Some(customer), Some(order)) = (mail.partitionkey.as_deref(), mail.subject.as_deref()) {
            by_customer.entry(customer).or_default().1.push(order);
        }
    }
    let in_order = by_customer.values().filter(|(ordered, mailed)| ordered == mailed).count();
    checks.equal("customers whose mails are in order", in_order, by_customer.len());
}
