//! Looks at the bus while orders flow, and tells what is new.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use example_harness::screen::{Story, Tone};
use example_harness::{Client, Subscription, Tail, wait_for};

use crate::orders::Orders;
use crate::producer::Producer;

/// Orders between two lines about how far everything is.
const MILESTONE: usize = 50;
/// Mails that are shown; the others are only counted.
const MAILS_SHOWN: usize = 3;

/// What was seen and told.
pub(crate) struct Watch<'a> {
    client: &'a Client,
    story: &'a Story,
    orders: &'a Orders,
    mails: Tail,
    low_stock: Tail,
    subscriptions: BTreeMap<String, Subscription>,
    /// Failed calls before the bus was killed, by subscription: a bus counts those since its start.
    earlier_failures: BTreeMap<String, u64>,
    placed: usize,
    /// When the back order was known to be placed.
    back_order_since: Option<Instant>,
    /// How old it is at least, as of what is known of the subscriptions.
    back_order_age: Option<Duration>,
    /// Failed calls that were told of, by subscription.
    failures_told: BTreeMap<&'static str, u64>,
    mails_told: usize,
    yen_mail_told: bool,
    milestones_told: usize,
    progress_told: String,
    back_order_told: bool,
    waiting_told: bool,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(client: &'a Client, story: &'a Story, orders: &'a Orders) -> Result<Self> {
        Ok(Self {
            client,
            story,
            orders,
            mails: client.tail("email.sent")?,
            low_stock: client.tail("stock.low")?,
            subscriptions: BTreeMap::new(),
            earlier_failures: BTreeMap::new(),
            placed: 0,
            back_order_since: None,
            back_order_age: None,
            failures_told: BTreeMap::new(),
            mails_told: 0,
            yen_mail_told: false,
            milestones_told: 0,
            progress_told: String::new(),
            back_order_told: false,
            waiting_told: false,
        })
    }

    /// Looks and tells until there is an answer.
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        producer: &Producer,
        mut ask: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        wait_for(what, || {
            self.look(producer)?;
            ask(self)
        })
    }

    /// Keeps what a bus that is killed forgets.
    pub(crate) fn before_the_end(&mut self) {
        let failures = self.subscriptions.values().map(|one| (one.name.clone(), one.calls("retry")));
        self.earlier_failures = failures.collect();
    }

    /// Follows the bus that was started again.
    pub(crate) fn follow_again(&mut self) -> Result<()> {
        self.mails = self.client.tail("email.sent")?;
        self.low_stock = self.client.tail("stock.low")?;
        Ok(())
    }

    /// Failed calls of a subscription, over all starts of the bus.
    pub(crate) fn failures(&self, one: &Subscription) -> u64 {
        self.earlier_failures.get(&one.name).copied().unwrap_or(0) + one.calls("retry")
    }

    fn look(&mut self, producer: &Producer) -> Result<()> {
        if producer.placed() > self.orders.back_order {
            self.back_order_since.get_or_insert_with(Instant::now);
        }
        // Before the bus is asked: if the order is pending then, the oldest pending one is at least as old.
        self.back_order_age = self.back_order_since.map(|since| since.elapsed());
        let asked = self.client.subscriptions()?;
        self.subscriptions = asked.into_iter().map(|one| (one.name.clone(), one)).collect();
        // In this order: a producer that is over has placed what it ever will.
        let is_over = producer.is_over();
        self.placed = producer.placed();
        self.tell_mails()?;
        self.tell_stock();
        self.tell_failures("inventory", &self.orders.all[self.orders.back_order].id.clone());
        self.tell_failures("email", &self.orders.all[self.orders.poison].id.clone());
        self.tell_who_waits();
        self.tell_back_order();
        if self.placed / MILESTONE > self.milestones_told {
            self.milestones_told = self.placed / MILESTONE;
            self.tell_progress();
        }
        if is_over && self.placed < self.orders.all.len() {
            anyhow::bail!("only {} of {} orders were placed", self.placed, self.orders.all.len());
        }
        Ok(())
    }

    /// Whether the supplier's order was acknowledged: it failed, and is neither among the dead nor, for all that
    /// are pending are younger, among the pending.
    pub(crate) fn back_order_is_acked(&self) -> bool {
        let (Some(inventory), Some(age)) = (self.subscriptions.get("inventory"), self.back_order_age) else {
            return false;
        };
        // The bus counts ages in milliseconds.
        let younger = inventory.oldest_pending_seconds + 0.002 < age.as_secs_f64();
        self.failures(inventory) > 0 && inventory.dead == 0 && younger
    }

    /// Whether all orders are placed, no subscription has anything left to do, and all of it was told.
    pub(crate) fn all_is_settled(&self) -> bool {
        let orders = self.orders.all.len();
        let settled = |one: &Subscription| one.pending == 0 && one.dead == 0 && one.matched == orders as u64;
        self.placed == orders && self.yen_mail_told && self.subscriptions.values().all(settled)
    }

    pub(crate) fn yen_mail_is_told(&self) -> bool {
        self.yen_mail_told
    }

    fn tell_mails(&mut self) -> Result<()> {
        let yen = self.orders.all[self.orders.poison].id.as_str();
        for mail in self.mails.arrived() {
            let field = |name: &str| mail.data[name].as_str().context("a mail has fields").map(str::to_owned);
            let of_yen = mail.subject.as_deref() == Some(yen);
            if self.mails_told < MAILS_SHOWN || of_yen {
                self.mails_told += 1;
                self.yen_mail_told |= of_yen;
                let (to, subject, text) = (field("to")?, field("subject")?, field("text")?);
                let total = text.lines().last().unwrap_or_default();
                let tone = if of_yen { Tone::Good } else { Tone::Plain };
                self.story.tell(tone, "email", &format!("to {to}: {subject}. {total}"));
            }
        }
        Ok(())
    }

    fn tell_stock(&self) {
        for low in self.low_stock.arrived() {
            let what = format!("stock.low: {} {} left", low.data["left"], low.data["sku"].as_str().unwrap_or("?"));
            self.story.tell(Tone::Warning, "inventory", &what);
        }
    }

    fn tell_failures(&mut self, name: &'static str, order: &str) {
        let Some(subscription) = self.subscriptions.get(name) else { return };
        let failures = self.failures(subscription);
        let told = self.failures_told.entry(name).or_default();
        for attempt in *told + 1..=failures {
            let what = format!("{order} failed in attempt {attempt} of {}", subscription.max_attempts);
            self.story.tell(Tone::Warning, name, &what);
            *told = attempt;
        }
    }

    fn tell_who_waits(&mut self) {
        let Some(email) = self.subscriptions.get("email") else { return };
        let waiting = &email.waiting;
        // Nothing runs: so what waits behind its key waits behind the one message in retry.
        if !self.waiting_told && waiting.due_later == 1 && waiting.running == 0 && waiting.behind_key == 2 {
            self.waiting_told = true;
            let what = "the same customer's next 2 orders wait behind it, in order; nobody else's do";
            self.story.tell(Tone::Plain, "email", what);
        }
    }

    fn tell_back_order(&mut self) {
        if !self.back_order_told && self.back_order_is_acked() {
            self.back_order_told = true;
            let inventory = &self.subscriptions["inventory"];
            let order = &self.orders.all[self.orders.back_order].id;
            let what = format!("{order} is acked in attempt {}", self.failures(inventory) + 1);
            self.story.tell(Tone::Good, "inventory", &what);
        }
    }

    /// How far everything is, where that is not what was told last.
    pub(crate) fn tell_progress(&mut self) {
        let acked = |name: &str| self.subscriptions.get(name).map_or(0, |one| one.acked);
        let (email, inventory, analytics) = (acked("email"), acked("inventory"), acked("analytics"));
        let what = format!(
            "{} orders placed; acked by email {email}, inventory {inventory}, analytics {analytics}",
            self.placed
        );
        if what != self.progress_told {
            self.story.tell(Tone::Plain, "shop", &what);
            self.progress_told = what;
        }
    }
}
