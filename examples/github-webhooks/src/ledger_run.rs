//! The second run: many accounts side by side, and each of them in order.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use example_harness::{Bus, Checks, Client, Event, Places, screen};
use ledger::{Entry, Posted};

use crate::{check_account, deploy, settled};

/// The consumer, and the stem of its files.
const NAME: &str = "ledger";
/// Entries that are published at a time; the bus takes at most 1,000.
const BATCH: usize = 1_000;

#[derive(clap::Args)]
pub(crate) struct Size {
    /// How many accounts the ledger has.
    #[arg(long, default_value_t = 200)]
    accounts: u32,
    /// How many entries each of them has.
    #[arg(long, default_value_t = 50)]
    entries: u32,
    /// What the ledger is made up from.
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

pub(crate) fn run(bus: &Bus, places: &Places, size: &Size, checks: &mut Checks) -> Result<()> {
    let client = bus.client();
    let entries = generate(size);
    screen::heading(&format!(
        "{} entries of {} accounts are published, in batches of {BATCH}. Each call waits for a bank.",
        entries.len(),
        size.accounts
    ));
    deploy(bus, places, NAME, "ledger.wasm")?;
    for (batch, entries) in entries.chunks(BATCH).enumerate() {
        let events = entries
            .iter()
            .enumerate()
            .map(|(index, entry)| {
                let id = (batch * BATCH + index + 1).to_string();
                Ok(Event::json(id, "/ledger", "com.example.ledger.entry", entry)?.key(Some(&entry.account)))
            })
            .collect::<Result<Vec<_>>>()?;
        client.publish_batch("ledger.entry", &events)?;
    }
    let most_running = settled(client, NAME, entries.len() as u64)?;
    check(client, &entries, size, most_running, checks)
}

/// Entries of all accounts, mixed; each account's own are in order, and none overdraws it.
fn generate(size: &Size) -> Vec<Entry> {
    let mut random = fastrand::Rng::with_seed(size.seed);
    let mut turns: Vec<u32> = (0..size.accounts).flat_map(|one| vec![one; size.entries as usize]).collect();
    random.shuffle(&mut turns);
    let mut accounts: BTreeMap<u32, (u32, i64)> = BTreeMap::new();
    turns
        .into_iter()
        .map(|account| {
            let (number, balance_cents) = accounts.entry(account).or_default();
            // Up to 500.00 in, or up to all of it out.
            let amount_cents = if *balance_cents == 0 || random.bool() {
                random.i64(1..=50_000)
            } else {
                -random.i64(1..=*balance_cents)
            };
            *number += 1;
            *balance_cents += amount_cents;
            Entry { account: format!("acct-{account:05}"), number: *number, amount_cents }
        })
        .collect()
}

fn check(client: &Client, entries: &[Entry], size: &Size, most_running: u64, checks: &mut Checks) -> Result<()> {
    let account = check_account(client, NAME, entries.len() as u64, checks)?;
    let posted: Vec<Posted> = client
        .messages_once("ledger.posted", account.acked)?
        .into_iter()
        .map(|message| serde_json::from_value(message.data).with_context(|| format!("message {}", message.id)))
        .collect::<Result<_>>()?;
    checks.equal("ledger: messages in ledger.posted", posted.len(), entries.len());

    let by_account = by_account(&posted);
    let expected = balances(entries);
    let right = expected
        .iter()
        .filter(|(name, balances)| {
            by_account.get(*name).is_some_and(|posted| {
                posted.iter().map(|one| (one.number, one.balance_cents)).eq(balances.iter().copied())
            })
        })
        .count();
    checks.equal("ledger: accounts in order, with the right balances", right, size.accounts as usize);
    let one_at_a_time =
        by_account.values().filter(|posted| posted.is_sorted_by(|one, next| one.ended_ms <= next.began_ms));
    checks.equal("ledger: accounts posted one entry at a time", one_at_a_time.count(), size.accounts as usize);

    let (most, allowed) = (most_at_once(&posted), account.concurrency);
    checks.holds("ledger: most accounts at once", most, &format!("2 to {allowed}"), (2..=allowed).contains(&most));
    let (first, last) = (posted.iter().map(|one| one.began_ms).min(), posted.iter().map(|one| one.ended_ms).max());
    if let (Some(first), Some(last)) = (first, last) {
        let calls_ms: u64 = posted.iter().map(|one| one.ended_ms - one.began_ms).sum();
        screen::print(&format!(
            "  calls that take {:.1} s in all were made in {:.1} s: {most} accounts at once at most; the bus counted {most_running}",
            seconds(calls_ms),
            seconds(last - first)
        ));
    }
    Ok(())
}

/// What was posted to each account, in the order in which it was acknowledged.
fn by_account(posted: &[Posted]) -> BTreeMap<&str, Vec<&Posted>> {
    let mut accounts: BTreeMap<&str, Vec<&Posted>> = BTreeMap::new();
    for one in posted {
        accounts.entry(&one.account).or_default().push(one);
    }
    accounts
}

/// The entries of each account with the balance after each.
fn balances(entries: &[Entry]) -> BTreeMap<&str, Vec<(u32, i64)>> {
    let mut accounts: BTreeMap<&str, Vec<(u32, i64)>> = BTreeMap::new();
    for entry in entries {
        let account = accounts.entry(&entry.account).or_default();
        let before_cents = account.last().map_or(0, |(_, balance_cents)| *balance_cents);
        account.push((entry.number, before_cents + entry.amount_cents));
    }
    accounts
}

/// How many calls were under way at once, at least. Times are cut to milliseconds, so calls count only where one
/// began in a millisecond before the one in which the other ended: then they did overlap.
fn most_at_once(posted: &[Posted]) -> u32 {
    let mut changes: Vec<(u64, i32)> = posted.iter().flat_map(|one| [(one.began_ms, 1), (one.ended_ms, -1)]).collect();
    // At the same time, ends come before beginnings.
    changes.sort_unstable();
    let running = changes.iter().scan(0_i32, |running, (_, change)| {
        *running += change;
        Some(*running)
    });
    running.max().unwrap_or(0).unsigned_abs()
}

fn seconds(ms: u64) -> f64 {
    std::time::Duration::from_millis(ms).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_account_is_overdrawn_and_entries_are_numbered() {
        let entries = generate(&Size { accounts: 20, entries: 50, seed: 3 });
        assert_eq!(entries.len(), 1_000);
        for (account, balances) in balances(&entries) {
            assert!(balances.iter().all(|(_, balance_cents)| *balance_cents >= 0), "{account}: {balances:?}");
            assert!(balances.iter().map(|(number, _)| *number).eq(1..=50), "{account}: {balances:?}");
        }
    }

    #[test]
    fn only_calls_that_surely_overlap_are_counted() {
        let call = |began_ms, ended_ms| Posted { account: "a".into(), number: 1, balance_cents: 0, began_ms, ended_ms };
        assert_eq!(most_at_once(&[]), 0);
        assert_eq!(most_at_once(&[call(10, 12), call(12, 15), call(15, 15)]), 1);
        assert_eq!(most_at_once(&[call(10, 12), call(11, 15), call(11, 13), call(14, 20)]), 3);
    }
}
