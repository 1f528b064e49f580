//! The accounts, and what is to be paid.

use std::sync::Arc;

use bank::{Opening, Transfer};
use example_harness::Subscription;

/// What is on each account at first, in cents.
const OPENING_CENTS: u64 = 100_000;

#[derive(clap::Args)]
pub(crate) struct Size {
    /// How many accounts there are, 2 or more.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(2..))]
    accounts: u32,
    /// How many transfers are requested.
    #[arg(long, default_value_t = 2_000)]
    transfers: u32,
    /// What they are made up from.
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

impl Size {
    pub(crate) fn opening_cents(&self) -> u64 {
        OPENING_CENTS
    }
}

pub(crate) struct Transfers {
    pub(crate) openings: Vec<Opening>,
    /// In the order in which they are requested; each account's own are decided in it.
    pub(crate) all: Arc<[Transfer]>,
}

impl Transfers {
    /// Up to half of what is on an account at first moves at a time: so now and then there is not enough.
    pub(crate) fn generate(size: &Size) -> Self {
        let mut random = fastrand::Rng::with_seed(size.seed);
        let account = |number: u32| format!("acct-{number:03}");
        let openings =
            (0..size.accounts).map(|number| Opening { account: account(number), cents: OPENING_CENTS }).collect();
        let transfer = |number: u32| {
            let from = random.u32(..size.accounts);
            let to = (from + random.u32(1..size.accounts)) % size.accounts;
            let cents = random.u64(1..=OPENING_CENTS / 2);
            Transfer { id: format!("t-{number:05}"), from: account(from), to: account(to), cents }
        };
        Self { openings, all: (1..=size.transfers).map(transfer).collect() }
    }

    /// How many of them the bank has decided.
    pub(crate) fn decided(&self, bank: &Subscription) -> usize {
        (bank.acked as usize).saturating_sub(self.openings.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_go_from_one_account_to_another() {
        let transfers = Transfers::generate(&Size { accounts: 3, transfers: 500, seed: 1 });
        let names: Vec<_> = transfers.openings.iter().map(|opening| opening.account.as_str()).collect();
        assert_eq!(names, ["acct-000", "acct-001", "acct-002"]);
        assert_eq!(transfers.all.len(), 500);
        for transfer in transfers.all.iter() {
            assert!(transfer.from != transfer.to && transfer.cents > 0, "{transfer:?}");
            assert!(names.contains(&&*transfer.from) && names.contains(&&*transfer.to), "{transfer:?}");
        }
    }
}
