//! What the bank decided, against the same decisions made one after the other.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use bank::{Audit, Decided};
use example_harness::{Checks, Client, Message};
use serde::de::DeserializeOwned;

use crate::amount;
use crate::transfers::Transfers;

/// A decision as the bus has it.
struct Decision {
    offset: u64,
    booked: bool,
    key: Option<String>,
    decided: Decided,
}

pub(crate) fn check(client: &Client, transfers: &Transfers, audits: usize, checks: &mut Checks) -> Result<()> {
    check_accounts(client, transfers, audits, checks)?;
    let decisions = decisions(client)?;
    let booked = decisions.iter().filter(|decision| decision.booked).count();
    checks.equal("transfers booked or declined", decisions.len(), transfers.all.len());
    checks.holds("of them booked", booked, "some, not all", (1..decisions.len()).contains(&booked));
    let decided: BTreeSet<_> = decisions.iter().map(|decision| &decision.decided.transfer.id).collect();
    checks.equal("transfers decided once", decided.len(), transfers.all.len());
    check_order(transfers, &decisions, checks);
    let balances = check_replay(transfers, &decisions, checks);
    check_audits(client, transfers, audits, &balances, checks)
}

/// Nothing is lost, and nothing is left.
fn check_accounts(client: &Client, transfers: &Transfers, audits: usize, checks: &mut Checks) -> Result<()> {
    let requested = transfers.openings.len() + transfers.all.len();
    for (name, expected) in [("bank", requested), ("audit", audits)] {
        let one = client.subscription(name)?;
        let expected = expected as u64;
        let figures = [
            ("matched", one.matched, expected),
            ("acked", one.acked, expected),
            ("dead", one.dead, 0),
            ("skipped", one.expired + one.skipped, 0),
            ("pending", one.pending, 0),
        ];
        checks.row(name, &figures);
    }
    Ok(())
}

/// All decisions, in the order in which they were made: that of the bus's offsets.
fn decisions(client: &Client) -> Result<Vec<Decision>> {
    let mut decisions = Vec::new();
    for (topic, booked) in [("transfer.booked", true), ("transfer.declined", false)] {
        for message in client.messages(topic)? {
            let decided = data(&message)?;
            decisions.push(Decision { offset: message.offset, booked, key: message.partitionkey, decided });
        }
    }
    decisions.sort_by_key(|decision| decision.offset);
    Ok(decisions)
}

/// Each account's transfers were decided in the order in which they were requested.
fn check_order(transfers: &Transfers, decisions: &[Decision], checks: &mut Checks) {
    let mut by_account: BTreeMap<&str, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
    for transfer in transfers.all.iter() {
        by_account.entry(&transfer.from).or_default().0.push(&transfer.id);
    }
    for Decision { key, decided, .. } in decisions {
        by_account.entry(key.as_deref().unwrap_or_default()).or_default().1.push(&decided.transfer.id);
    }
    let in_order = by_account.values().filter(|(requested, decided)| requested == decided).count();
    checks.equal("accounts whose transfers were decided in order", in_order, by_account.len());
}

/// Decides all of it again, one after the other. Answers the balances in the end.
fn check_replay(transfers: &Transfers, decisions: &[Decision], checks: &mut Checks) -> BTreeMap<String, u64> {
    let mut balances: BTreeMap<String, u64> =
        transfers.openings.iter().map(|opening| (opening.account.clone(), opening.cents)).collect();
    let (mut right, mut overdrawn) = (0, 0);
    for Decision { booked, decided, .. } in decisions {
        let transfer = &decided.transfer;
        let (from, to) = (balances[&transfer.from], balances[&transfer.to]);
        overdrawn += usize::from(*booked && transfer.cents > from);
        let after = if transfer.cents <= from { (from - transfer.cents, to + transfer.cents) } else { (from, to) };
        right += usize::from(*booked == (transfer.cents <= from) && after == (decided.from_cents, decided.to_cents));
        balances.insert(transfer.from.clone(), after.0);
        balances.insert(transfer.to.clone(), after.1);
    }
    checks.equal("decisions that come out the same one by one", right, decisions.len());
    checks.equal("accounts overdrawn", overdrawn, 0);
    balances
}

/// Every audit found all the money, also while it moved; and the last one each balance as it must be.
fn check_audits(
    client: &Client,
    transfers: &Transfers,
    audits: usize,
    balances: &BTreeMap<String, u64>,
    checks: &mut Checks,
) -> Result<()> {
    let all_cents: u64 = transfers.openings.iter().map(|opening| opening.cents).sum();
    let found: Vec<Audit> =
        client.messages_once("audit.done", audits as u64)?.iter().map(data).collect::<Result<_>>()?;
    checks.equal("audits done", found.len(), audits);
    let exact = found.iter().filter(|audit| audit.total_cents == all_cents).count();
    checks.equal(format!("of them that found {}", amount(all_cents)), exact, audits);
    let last = found.last().context("there was no audit")?;
    let equal = balances.iter().filter(|(account, cents)| last.balances_cents.get(*account) == Some(*cents)).count();
    checks.equal("balances in the state that are the sum of what was booked", equal, transfers.openings.len());
    checks.equal("accounts in the state", last.balances_cents.len(), transfers.openings.len());
    Ok(())
}

fn data<T: DeserializeOwned>(message: &Message) -> Result<T> {
    serde_json::from_value(message.data.clone()).with_context(|| format!("message {}", message.id))
}
