//! The orders of a small shop, made up from a seed.

use serde::Serialize;

/// What the shop sells, with its price in euro cents.
const CATALOGUE: &[(&str, u64)] = &[
    ("BAG-1", 2_499),
    ("BOOK-2", 1_899),
    ("CAP-1", 1_599),
    ("MUG-2", 899),
    ("NOTE-A5", 649),
    ("PEN-BLACK", 349),
    ("POSTER-A2", 1_499),
    ("SOCKS-42", 799),
    ("TEE-L", 1_999),
    ("TEE-M", 1_999),
    ("TEE-S", 1_999),
];
/// The article that runs low: the shop has 40.
const SCARCE: (&str, u64) = ("BOOK-1", 1_299);
/// So many of it are sold at most, so that each order gets what it wants.
const SCARCE_SOLD_MAX: u32 = 34;

/// Customers, and the currency they pay in.
const CUSTOMERS: &[(&str, &str)] = &[
    ("ada.keller@example.com", "EUR"),
    ("amir.haddad@example.com", "USD"),
    ("anneke.devries@example.org", "EUR"),
    ("bea.lindqvist@example.org", "EUR"),
    ("carlos.vega@example.com", "EUR"),
    ("chiara.russo@example.com", "EUR"),
    ("dev.patel@example.net", "GBP"),
    ("elena.popescu@example.com", "EUR"),
    ("finn.oconnor@example.net", "EUR"),
    ("grace.kim@example.com", "USD"),
    ("henry.walsh@example.net", "GBP"),
    ("ines.moreau@example.com", "EUR"),
    ("jack.turner@example.com", "USD"),
    ("jonas.weber@example.org", "EUR"),
    ("kofi.mensah@example.com", "USD"),
    ("lena.novak@example.org", "EUR"),
    ("lucy.hughes@example.net", "GBP"),
    ("maria.santos@example.com", "USD"),
    ("mira.schmidt@example.org", "EUR"),
    ("noor.rahman@example.net", "GBP"),
    ("omar.farouk@example.com", "USD"),
    ("priya.nair@example.com", "USD"),
    ("rosa.jimenez@example.com", "EUR"),
    ("tom.becker@example.org", "EUR"),
    ("una.byrne@example.net", "EUR"),
    ("victor.lang@example.com", "USD"),
    ("wen.zhao@example.com", "USD"),
    ("yara.costa@example.com", "EUR"),
];
/// Who orders from the supplier, and who pays in yen. They order nothing else, but for what [`Orders`] says.
const BACK_ORDERER: (&str, &str) = ("school.library@example.org", "EUR");
const YEN_PAYER: &str = "hana.sato@example.jp";

/// An order, as it is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) customer: &'static str,
    pub(crate) items: Vec<Item>,
    pub(crate) currency: &'static str,
    /// Ordered from the supplier, not from stock.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) backorder: bool,
}

/// So many of one article, and the price of one in the currency's smallest unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Item {
    pub(crate) sku: &'static str,
    pub(crate) quantity: u32,
    pub(crate) price_cents: u64,
}

/// The orders of a day, in the order in which they are placed.
pub(crate) struct Orders {
    pub(crate) all: Vec<Order>,
    /// The index of the order that the supplier confirms late.
    pub(crate) back_order: usize,
    /// The index of the order in yen, which the first version of the mails cannot format. The customer's next
    /// two orders, in dollars, follow soon.
    pub(crate) poison: usize,
}

impl Orders {
    /// The same orders for the same seed; at least 100.
    pub(crate) fn generate(seed: u64, count: usize) -> Self {
        let count = count.max(100);
        let (back_order, poison) = (count / 10, count / 5);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut scarce_left = SCARCE_SOLD_MAX;
        let all = (0..count)
            .map(|index| {
                let (customer, currency) = match index {
                    _ if index == back_order => BACK_ORDERER,
                    _ if index == poison => (YEN_PAYER, "JPY"),
                    _ if index == poison + 2 || index == poison + 5 => (YEN_PAYER, "USD"),
                    _ => CUSTOMERS[random.usize(..CUSTOMERS.len())],
                };
                let items = if index == back_order {
                    vec![item(("BAG-1", 2_499), 120, currency)]
                } else {
                    items(&mut random, &mut scarce_left, currency)
                };
                Order { id: format!("o-{:04}", index + 1), customer, items, currency, backorder: index == back_order }
            })
            .collect();
        Self { all, back_order, poison }
    }

    /// How many of an article are ordered from stock.
    pub(crate) fn ordered(&self, sku: &str) -> u32 {
        let orders = self.all.iter().filter(|order| !order.backorder);
        orders.flat_map(|order| &order.items).filter(|item| item.sku == sku).map(|item| item.quantity).sum()
    }
}

/// One to three different articles.
fn items(random: &mut fastrand::Rng, scarce_left: &mut u32, currency: &str) -> Vec<Item> {
    let mut items = Vec::new();
    if *scarce_left > 0 && random.u32(..4) == 0 {
        let quantity = random.u32(1..=2).min(*scarce_left);
        *scarce_left -= quantity;
        items.push(item(SCARCE, quantity, currency));
    }
    let articles = random.usize(1..=2);
    for article in random.choose_multiple(CATALOGUE, articles) {
        items.push(item(*article, random.u32(1..=3), currency));
    }
    items
}

fn item((sku, euro_cents): (&'static str, u64), quantity: u32, currency: &str) -> Item {
    // A yen has no cents, and there are about 160 to the euro.
    let price_cents = match currency {
        "GBP" => euro_cents * 86 / 100,
        "USD" => euro_cents * 108 / 100,
        "JPY" => euro_cents * 16 / 10,
        _ => euro_cents,
    };
    Item { sku, quantity, price_cents }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_makes_the_same_orders_and_another_seed_others() {
        let orders = Orders::generate(7, 300);
        assert_eq!(orders.all, Orders::generate(7, 300).all);
        assert_ne!(orders.all, Orders::generate(8, 300).all);
    }

    #[test]
    fn one_order_is_poison_and_one_is_from_the_supplier() {
        for seed in 0..200 {
            let orders = Orders::generate(seed, 300);
            assert_eq!(orders.all.len(), 300);
            assert_eq!(orders.all.iter().map(|order| &order.id).collect::<BTreeSet<_>>().len(), 300);
            let poison: Vec<_> = orders.all.iter().filter(|order| order.currency == "JPY").collect();
            assert_eq!(poison, [&orders.all[orders.poison]]);
            assert_eq!(orders.all.iter().filter(|order| order.customer == YEN_PAYER).count(), 3);
            let supplied: Vec<_> = orders.all.iter().filter(|order| order.backorder).collect();
            assert_eq!(supplied, [&orders.all[orders.back_order]]);
            assert!(orders.all.iter().all(|order| !order.items.is_empty()));
        }
    }

    #[test]
    fn the_scarce_article_runs_low_and_never_out() {
        for seed in 0..200 {
            let ordered = Orders::generate(seed, 300).ordered(SCARCE.0);
            assert!((31..=SCARCE_SOLD_MAX).contains(&ordered), "{ordered} with seed {seed}");
        }
    }
}
