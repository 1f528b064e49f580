//! Posts entries to accounts.
//!
//! An [`Entry`] changes the balance of its account, which stands in the state under `balance/ACCOUNT` in cents, and is
//! published as [`Posted`] to `ledger.posted`. Entries of one account must come in order, for an
//! account is not overdrawn: so the account is the key of the message. Accounts have nothing to do with
//! each other, and are posted side by side.
//!
//! The config `bank_ms` (3) is how long the bank takes to answer. It stands in for a call to a service, so that a
//! demonstration has something to wait for.

use sandpost_sdk::prelude::*;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// An entry of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The account.
    pub account: String,
    /// Its place among the account's entries, from 1.
    pub number: u32,
    /// What comes in, or goes out where negative.
    pub amount_cents: i64,
}

/// An entry that was posted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posted {
    /// The account.
    pub account: String,
    /// The entry's place among the account's entries, from 1.
    pub number: u32,
    /// The account's balance with this entry.
    pub balance_cents: i64,
    /// When the call began, in milliseconds since 1970-01-01T00:00:00Z.
    pub began_ms: u64,
    /// When the call was about to end, in the same unit.
    pub ended_ms: u64,
}

/// Posts an entry.
pub fn handle(Json(entry): Json<Entry>, bus: &Bus) -> Result<(), Failure> {
    let began_ms = bus.now_ms();
    let key = format!("balance/{}", entry.account);
    let before_cents: i64 = bus.state().get_json(&key)?.unwrap_or(0);
    let balance_cents =
        before_cents.checked_add(entry.amount_cents).filter(|balance_cents| *balance_cents >= 0).or_reject(format!(
            "account {} has {before_cents} cents, which entry {} over {} cents would overdraw",
            entry.account, entry.number, entry.amount_cents
        ))?;
    std::thread::sleep(Duration::from_millis(bus.config_or("bank_ms", 3)?));
    bus.state().set_json(&key, &balance_cents)?;
    let Entry { account, number, .. } = entry;
    let posted = Posted { account, number, balance_cents, began_ms, ended_ms: bus.now_ms() };
    Ok(bus.publish(Event::json("ledger.posted", &posted)?.key(&posted.account))?)
}

sandpost_sdk::consumer!(handle);
