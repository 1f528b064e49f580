//! A runner: takes runs of messages, calls the sandbox for each, and settles what comes of it.
//!
//! Plain acknowledgements are settled together, at the end of a run. What stages something, reads state
//! or fails is settled at once. The moment a call has to wait, everything before it is settled and
//! everything after it is given back, so that a slow call holds up nothing but itself.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::limits::{HOPS_MAX, RUN_MESSAGES_MAX, RUN_TARGET, UNSYNCED_BYTES_MAX};
use crate::log::{CommitError, StateRead, StateWrite, Txn};
use crate::message::Millis;
use crate::outcome::{Outcome, OutcomeKind};
use crate::policy::{Isolation, Policy};
use crate::sandbox::{CallError, Called, Effects, Instance, Offer, Program};

use super::settling::forced_reason;
use super::state_reads::StateReads;
use super::subscription::{Session, Subscription, Taken};
use super::turnstile::{Turn, Turnstile};
use super::{Event, Finished, Item, expiry};

/// How long to wait where the sandbox could not make a call at all.
const SANDBOX_RETRY: Duration = Duration::from_secs(1);

/// Runs until there is nothing left to do.
pub(super) async fn run(subscription: Arc<Subscription>, generation: u64) {
    let mut runner = Runner {
        subscription,
        generation,
        instance: None,
        state: None,
        call: Duration::from_micros(20),
        done: Vec::with_capacity(RUN_MESSAGES_MAX),
        over: Vec::new(),
        unsettled: Duration::ZERO,
    };
    while let Some(taken) = runner.subscription.take_run(generation, runner.call, &mut runner.instance) {
        runner.run_items(taken).await;
    }
}

/// What became of a call that was to be settled.
enum Settled {
    /// It was recorded, or has to run again, or nothing is recorded any more.
    Recorded,
    /// Too much waits for the disk: it runs again after a sync.
    Busy,
}

struct Runner {
    subscription: Arc<Subscription>,
    /// The dispatcher that it works for.
    generation: u64,
    instance: Option<Instance>,
    /// Kept from call to call, for most calls read no state.
    state: Option<Box<StateReads>>,
    /// What a call takes, as a moving average: it decides how many are taken at a time.
    call: Duration,
    /// Plain acknowledgements that are not settled yet.
    done: Vec<Finished>,
    /// Messages that were over before their call; not settled yet, and after all of `done` that are.
    over: Vec<Item>,
    /// What calls took since the last were settled.
    unsettled: Duration,
}

impl Runner {
    async fn run_items(&mut self, taken: Taken) {
        let began = Instant::now();
        let Taken { items, policy, program } = taken;
        let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
        let Some(program) = program else { return self.flush(items) };
        let mut items = VecDeque::from(items);
        let turnstile = self.subscription.shared.turnstiles.of(program.consumer());
        // Kept from call to call, for most calls pass side by side.
        let mut turn = None;
        while let Some(item) = items.pop_front() {
            let alone = item.runs_alone();
            if alone {
                turn = None;
            }
            if turn.is_none() {
                turn = Some(self.turn(&turnstile, alone, &mut items).await);
            }
            // It may have waited, and much may have changed since. Another version comes with another policy.
            if !self.may_begin(&program) {
                items.push_front(item);
                break;
            }
            let now_ms = self.subscription.now_ms();
            if expiry::is_over(&item, now_ms) {
                if !self.done.is_empty() {
                    self.flush(Vec::new());
                }
                self.over.push(item);
                continue;
            }
            if !self.over.is_empty() {
                self.flush(Vec::new());
            }
            let settled = self.run_item(item, now_ms, &program, &policy, &mut items).await;
            if alone {
                turn = None;
            }
            if let Settled::Busy = settled {
                turn = None;
                // Effects may gather no faster than the disk takes them. What is left waits with them.
                self.flush(items.drain(..).collect());
                let mut synced = self.subscription.shared.synced.clone();
                synced.mark_unchanged();
                if self.subscription.shared.log.unsynced_bytes() <= UNSYNCED_BYTES_MAX {
                    continue;
                }
                let _awaiting = Awaiting::begin(&self.subscription, self.generation);
                // An error means that the engine is gone; then nothing is taken any more.
                let _ = synced.changed().await;
            }
            if self.done.len() >= RUN_MESSAGES_MAX || self.unsettled > RUN_TARGET {
                self.flush(Vec::new());
            }
        }
        self.flush(items.into());
        self.call = (self.call * 3 + began.elapsed() / count.max(1)) / 4;
    }

    /// A turn at the turnstile. Where that takes time, all else of the run is settled or given back first.
    async fn turn<'a>(&mut self, turnstile: &'a Turnstile, alone: bool, rest: &mut VecDeque<Item>) -> Turn<'a> {
        if let Some(turn) = turnstile.try_enter(alone) {
            return turn;
        }
        self.flush(rest.drain(..).collect());
        let _awaiting = Awaiting::begin(&self.subscription, self.generation);
        let _waiting = AtTurnstile::begin(&self.subscription);
        turnstile.enter(alone).await
    }

    /// Whether a call of a version may begin.
    fn may_begin(&self, version: &Arc<Program>) -> bool {
        let runs = self.subscription.program.load();
        runs.as_ref().is_some_and(|program| Arc::ptr_eq(program, version)) && self.subscription.may_begin()
    }

    async fn run_item(
        &mut self,
        item: Item,
        began_ms: Millis,
        program: &Arc<Program>,
        policy: &Policy,
        rest: &mut VecDeque<Item>,
    ) -> Settled {
        let mut settled = Settled::Recorded;
        let offer = self.offer(&item, policy, began_ms);
        let mut called = self.call(&item, program, policy, &offer, rest).await;
        if let Ok(first) = &called
            && !first.fresh
            && matches!(first.outcome, Outcome::Trapped { .. } | Outcome::Exited { .. } | Outcome::OutOfMemory { .. })
        {
            // An earlier message may have left the instance broken. Only what a fresh one does counts.
            self.instance = None;
            called = self.call(&item, program, policy, &offer, rest).await;
        }
        let digest = program.digest();
        let mut finished = Finished {
            item,
            outcome: Outcome::Acked,
            began_ms,
            duration: Duration::ZERO,
            digest,
            of_host: false,
            forced: None,
            decision: None,
        };
        match called {
            Ok(Called { outcome, effects, state, duration, .. }) => {
                finished.outcome = outcome;
                finished.duration = duration;
                self.unsettled += duration;
                let mut state = state.into_any().downcast::<StateReads>().expect("a call gives back the source it got");
                let reads = state.take_reads();
                let plain = reads.is_empty() && effects.publishes.is_empty() && effects.writes.is_empty();
                if plain && finished.outcome == Outcome::Acked {
                    self.done.push(finished);
                } else {
                    finished.forced = forced_reason(HOPS_MAX, &effects.publishes);
                    settled = self.settle(program.consumer(), finished, effects, reads, rest);
                }
                state.unpin();
                self.state = Some(state);
            }
            Err(error) => {
                self.instance = None;
                let name = &self.subscription.name;
                match &error {
                    CallError::NoInstance { .. } => tracing::warn!(subscription = %name, %error, "a call has to wait"),
                    _ => tracing::error!(subscription = %name, %error, "a call could not be made"),
                }
                finished.of_host = true;
                finished.outcome = Outcome::Unavailable { reason: error.to_string(), after: Some(SANDBOX_RETRY) };
                self.settle(program.consumer(), finished, Effects::default(), Vec::new(), rest);
            }
        }
        if policy.isolation == Isolation::Fresh {
            self.instance = None;
        }
        settled
    }

    /// One call. If it has to wait, all else of the run is settled or given back first.
    async fn call(
        &mut self,
        item: &Item,
        program: &Arc<Program>,
        policy: &Policy,
        offer: &Offer,
        rest: &mut VecDeque<Item>,
    ) -> Result<Called, CallError> {
        let shared = &self.subscription.shared;
        // A subscription may have changed hands, and state is its consumer's.
        let kept = self.state.take().filter(|state| state.is_of(program.consumer()));
        let state = kept.unwrap_or_else(|| StateReads::new(shared.log.clone(), program.consumer().clone()));
        let mut instance = self.instance.take();
        if policy.isolation == Isolation::Fresh {
            instance = None;
        }
        let message_data_max = shared.message_data_max;
        let answer = {
            let mut call = pin!(program.call(&mut instance, &item.message, offer, state, message_data_max));
            let first = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
            match first {
                Poll::Ready(answer) => answer,
                Poll::Pending => {
                    self.flush(rest.drain(..).collect());
                    let _awaiting = Awaiting::begin(&self.subscription, self.generation);
                    call.await
                }
            }
        };
        self.instance = instance;
        answer
    }

    fn offer(&self, item: &Item, policy: &Policy, now_ms: u64) -> Offer {
        let history = item.history();
        let subscription = &self.subscription;
        let offset = item.message.offset;
        let first_attempt_ms = history.map_or(0, |history| history.first_attempt_ms);
        Offer {
            subscription: subscription.name.clone(),
            attempt: history.map_or(0, |history| history.charged).saturating_add(1),
            max_attempts: policy.retry.max_attempts,
            redrives: history.map_or(0, |history| history.redrives),
            first_attempt_ms: if first_attempt_ms == 0 { now_ms } else { first_attempt_ms },
            idempotency_key: idempotency_key(&subscription.shared.log.bus_id(offset), &subscription.name, offset),
            timeout: policy.timeout,
            now_ms,
        }
    }

    /// Settles the plain acknowledgements, and gives back what did not run.
    fn flush(&mut self, returned: Vec<Item>) {
        self.unsettled = Duration::ZERO;
        if self.done.is_empty() && self.over.is_empty() && returned.is_empty() {
            return;
        }
        let over = std::mem::take(&mut self.over);
        let mut done = std::mem::take(&mut self.done);
        self.subscription.with_generation(self.generation, |session| {
            if !returned.is_empty() {
                session.step(Event::Returned(returned));
            }
            if !done.is_empty() {
                let now_ms = self.subscription.now_ms();
                let settlement = session.dispatcher().record(&mut done, now_ms);
                let txn = Txn { now_ms, settlements: vec![settlement], ..Txn::default() };
                if session.commit(txn).is_ok() {
                    session.settled(std::mem::replace(&mut done, Vec::with_capacity(RUN_MESSAGES_MAX)));
                }
            }
            if !over.is_empty() {
                session.step(Event::Expired(over));
            }
        });
        done.clear();
        self.done = done;
    }

    /// Settles one call with all that it staged and read, as one transaction.
    fn settle(
        &mut self,
        consumer: &Arc<str>,
        finished: Finished,
        effects: Effects,
        reads: Vec<StateRead>,
        rest: &mut VecDeque<Item>,
    ) -> Settled {
        let acked = finished.outcome == Outcome::Acked && finished.forced.is_none();
        // What failed holds back its key, so the rest of that key did not run.
        let lane = finished.item.lane;
        let mut returned = Vec::new();
        let mut keep = VecDeque::new();
        if lane.is_some() && (!acked || !reads.is_empty()) {
            for item in rest.drain(..) {
                if item.lane == lane { returned.push(item) } else { keep.push_back(item) }
            }
            *rest = keep;
        }
        self.flush(returned);
        let mut settled = Settled::Recorded;
        let mut parked = false;
        let now_ms = self.subscription.now_ms();
        let mut txn = Txn { now_ms, reads, ..Txn::default() };
        if acked {
            txn.appends = effects.publishes;
            txn.writes = (effects.writes.into_iter())
                .map(|(key, value)| StateWrite { consumer: consumer.clone(), key, value })
                .collect();
        }
        self.subscription.with_generation(self.generation, |session| {
            let mut finished = [finished];
            txn.settlements = vec![session.dispatcher().record(&mut finished, now_ms)];
            let [mut finished] = finished;
            match session.commit(txn) {
                Ok(()) => {
                    session.settled(vec![finished]);
                    parked = session.dispatcher().is_parked();
                }
                // A state that filled meanwhile is, as a conflict, what the call could not know: its rerun is told.
                Err(CommitError::Conflict { .. } | CommitError::StateFull { .. }) => {
                    conflicted(session, finished, now_ms);
                }
                Err(CommitError::Busy { .. }) => {
                    settled = Settled::Busy;
                    session.step(Event::NoRoom(finished.item));
                }
                Err(CommitError::TopicFull { topic, bytes, bytes_max, .. }) => {
                    finished.outcome = Outcome::TopicFull { topic, bytes, bytes_max };
                    record(session, finished, now_ms);
                }
                // The log stopped or the subscription is gone: nothing more follows from this call.
                Err(_) => {}
            }
        });
        if parked {
            self.flush(rest.drain(..).collect());
        }
        settled
    }
}

/// A call stood on state that changed meanwhile. It runs again; one that did so too often has failed.
fn conflicted(session: &mut Session<'_>, mut finished: Finished, now_ms: u64) {
    if !session.dispatcher().charges_conflict(&finished.item) {
        session.dispatcher().count_outcome(OutcomeKind::Conflict);
        return session.step(Event::Conflicted(finished.item));
    }
    finished.outcome = Outcome::Conflict;
    finished.forced = None;
    record(session, finished, now_ms);
}

/// Records a call without its effects.
fn record(session: &mut Session<'_>, finished: Finished, now_ms: u64) {
    let mut finished = [finished];
    let settlement = session.dispatcher().record(&mut finished, now_ms);
    if session.commit(Txn { now_ms, settlements: vec![settlement], ..Txn::default() }).is_ok() {
        session.step(Event::Settled(finished.into()));
    }
}

/// Counts a runner as waiting at the turnstile for as long as it lives.
struct AtTurnstile<'a>(&'a Arc<Subscription>);

impl<'a> AtTurnstile<'a> {
    fn begin(subscription: &'a Arc<Subscription>) -> Self {
        subscription.waits_at_turnstile(true);
        Self(subscription)
    }
}

impl Drop for AtTurnstile<'_> {
    fn drop(&mut self) {
        self.0.waits_at_turnstile(false);
    }
}

/// Counts a call as awaiting for as long as it lives, also where the call is abandoned.
struct Awaiting<'a>(&'a Arc<Subscription>, u64);

impl<'a> Awaiting<'a> {
    fn begin(subscription: &'a Arc<Subscription>, generation: u64) -> Self {
        subscription.awaits(generation, true);
        Self(subscription, generation)
    }
}

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        self.0.awaits(self.1, false);
    }
}

/// The same for every attempt of a message by a subscription, and for nothing else: 32 hexadecimal digits.
pub(crate) fn idempotency_key(bus: &uuid::Uuid, subscription: &str, offset: u64) -> String {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    hash.update(bus.as_bytes());
    hash.update(subscription.as_bytes());
    hash.update(&offset.to_le_bytes());
    let digits = b"0123456789abcdef";
    let mut text = String::with_capacity(32);
    for byte in hash.digest128().to_be_bytes() {
        text.push(char::from(digits[usize::from(byte >> 4)]));
        text.push(char::from(digits[usize::from(byte & 15)]));
    }
    text
}
