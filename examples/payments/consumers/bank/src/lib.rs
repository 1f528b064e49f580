//! A bank: keeps the balances of accounts, and books transfers between them.
//!
//! The balance of an account stands in the state under `balance/ACCOUNT`, in cents. A transfer reads two of them and
//! writes two, and says what it decided by an event, `transfer.booked` or `transfer.declined`. All of that is one
//! transaction with the acknowledgement: there is no moment, and no crash, between them.
//!
//! There is no lock either. Transfers from different accounts are decided side by side, and some of them touch the
//! same account: a call whose balances were changed by another one meanwhile is run again by the bus. For the same
//! reason an audit, which adds up all accounts while transfers go on, comes to the exact sum.
//!
//! Nothing here is written by every call, such as a count of all transfers: then each would wait for each.

use sandpost_sdk::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// An account begins to be (`account.opened`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// Its name.
    pub account: String,
    /// What is on it.
    pub cents: u64,
}

/// Somebody wants to pay (`transfer.requested`). The key of the message is `from`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Names it, over all accounts.
    pub id: String,
    /// The account that pays.
    pub from: String,
    /// The account that is paid.
    pub to: String,
    /// How much.
    pub cents: u64,
}

/// What was decided of a transfer (`transfer.booked` or `transfer.declined`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// The transfer.
    pub transfer: Transfer,
    /// What is on the account that pays, afterwards.
    pub from_cents: u64,
    /// What is on the account that is paid, afterwards.
    pub to_cents: u64,
}

/// What is on all accounts (`audit.done`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Of each account.
    pub balances_cents: BTreeMap<String, u64>,
    /// The sum of all.
    pub total_cents: u64,
}

/// Opens an account, decides a transfer or makes an audit, by the topic.
pub fn handle(message: &Message, bus: &Bus) -> Result<(), Failure> {
    match message.topic.as_str() {
        "account.opened" => open(&message.json()?, bus),
        "transfer.requested" => decide(message.json()?, bus),
        "audit.requested" => audit(bus),
        topic => Err(Failure::reject(format!("a bank does nothing about {topic}"))),
    }
}

sandpost_sdk::consumer!(handle);

fn open(opening: &Opening, bus: &Bus) -> Result<(), Failure> {
    let key = key(&opening.account);
    if bus.state().get(&key)?.is_some() {
        return Err(Failure::reject(format!("account {} is there already", opening.account)));
    }
    Ok(bus.state().set_json(&key, &opening.cents)?)
}

fn decide(transfer: Transfer, bus: &Bus) -> Result<(), Failure> {
    if transfer.from == transfer.to {
        return Err(Failure::reject(format!("transfer {} goes from {} to itself", transfer.id, transfer.from)));
    }
    let (from_cents, to_cents) = (balance(&transfer.from, bus)?, balance(&transfer.to, bus)?);
    std::thread::sleep(Duration::from_millis(bus.config_or("screening_ms", 2)?));
    let Some(left_cents) = from_cents.checked_sub(transfer.cents) else {
        return tell("transfer.declined", Decided { transfer, from_cents, to_cents }, bus);
    };
    let to_cents = to_cents.checked_add(transfer.cents).or_reject("the account that is paid is full")?;
    bus.state().set_json(&key(&transfer.from), &left_cents)?;
    bus.state().set_json(&key(&transfer.to), &to_cents)?;
    tell("transfer.booked", Decided { transfer, from_cents: left_cents, to_cents }, bus)
}

fn tell(topic: &str, decided: Decided, bus: &Bus) -> Result<(), Failure> {
    Ok(bus.publish(Event::json(topic, &decided)?.key(decided.transfer.from))?)
}

fn audit(bus: &Bus) -> Result<(), Failure> {
    let mut balances_cents = BTreeMap::new();
    for entry in bus.state().entries(PREFIX) {
        let entry = entry?;
        balances_cents.insert(entry.key[PREFIX.len()..].to_owned(), entry.json()?);
    }
    let total_cents = balances_cents.values().sum();
    Ok(bus.publish(Event::json("audit.done", &Audit { balances_cents, total_cents })?)?)
}

const PREFIX: &str = "balance/";

fn key(account: &str) -> String {
    format!("{PREFIX}{account}")
}

fn balance(account: &str, bus: &Bus) -> Result<u64, Failure> {
    bus.state().get_json(&key(account))?.or_reject(format!("there is no account {account}"))
}
