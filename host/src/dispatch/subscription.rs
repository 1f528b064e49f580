//! The edge around one dispatcher: carries out its actions, and grows and shrinks its runners.

mod change;
mod lag;
mod situation;
mod standstill;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use async_task::Task;
use tokio::sync::{Notify, watch};

use crate::clock::Clock;
use crate::limits::{INSTANCE_IDLE_MAX, RUN_MESSAGES_MAX, RUN_TARGET};
use crate::log::{CommitError, Counts, DeadRow, Log, RetryRow, SubscriptionId, Txn};
use crate::message::{Millis, Offset, SharedMessage};
use crate::policy::Policy;
use crate::sandbox::{Instance, Program};

use super::fault;
use super::reader::{Asker, Reader, Request};
use super::turnstile::Turnstiles;
use super::workers::Queue;
use super::{Action, Dispatcher, Event, Finished, Item, Refund, Refunded, Witness, runner};
pub use change::{ConfigureError, Reselection, Version};
use lag::LagEpisode;
pub use situation::Situation;

/// What all subscriptions of a bus share.
pub struct Surroundings {
    pub log: Arc<dyn Log>,
    pub clock: Arc<dyn Clock>,
    pub reader: Reader,
    pub workers: usize,
    /// Limit of one staged message's data, in bytes.
    pub message_data_max: usize,
    /// Follows the log's synced end: effects that find too much unsynced wait for it.
    pub synced: watch::Receiver<Offset>,
    pub turnstiles: Turnstiles,
}

/// A subscription that runs.
pub struct Subscription {
    pub name: Arc<str>,
    pub id: SubscriptionId,
    pub(super) shared: Arc<Surroundings>,
    /// What its calls run; none while it is orphaned. Swapped between two messages.
    pub(super) program: ArcSwapOption<Program>,
    queue: Queue,
    /// One lock for the dispatcher and its runners: a runner that finds nothing to do retires under the
    /// same lock under which new work is announced, so no work is left without a runner. It is held
    /// while the log sequences what the dispatcher decided, so that the log's order is the decisions' order.
    inner: Mutex<Inner>,
    timer: Notify,
    /// Set when no further call may begin: the bus drains, or the subscription is removed.
    halted: AtomicBool,
    /// Whether the dispatcher's gate is shut: what a runner has taken and not begun goes back.
    held: AtomicBool,
    /// Runners that wait at their consumer's turnstile.
    at_turnstile: AtomicU32,
}

struct Inner {
    dispatcher: Dispatcher,
    /// The counters as the log has them, sequenced settlements included.
    counts: Counts,
    /// Runners that live, and those of them whose call awaits something.
    runners: u32,
    awaiting: u32,
    tasks: Vec<Task<()>>,
    idle: Vec<(Instance, Instant)>,
    /// When the timer will look again.
    armed_ms: Option<Millis>,
    /// Why the log could not be read for it, if so.
    problem: Option<String>,
    lag: LagEpisode,
    /// Counts its dispatchers: what was asked or called for an earlier one is not told to this one.
    generation: u64,
    /// Whether it is at a standstill.
    frozen: bool,
    /// Who is told how calls end, while a version is on probation.
    witness: Option<Arc<dyn Witness>>,
}

impl Subscription {
    pub fn new(
        name: &str,
        dispatcher: Dispatcher,
        counts: Counts,
        shared: Arc<Surroundings>,
        queue: Queue,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            id: dispatcher.id(),
            shared,
            program: ArcSwapOption::empty(),
            queue,
            inner: Mutex::new(Inner {
                dispatcher,
                counts,
                runners: 0,
                awaiting: 0,
                tasks: Vec::new(),
                idle: Vec::new(),
                armed_ms: None,
                problem: None,
                lag: LagEpisode::default(),
                generation: 0,
                frozen: false,
                witness: None,
            }),
            timer: Notify::new(),
            halted: AtomicBool::new(false),
            held: AtomicBool::new(false),
            at_turnstile: AtomicU32::new(0),
        })
    }

    /// Tells the dispatcher what happened, and carries out what it wants.
    pub fn tell(self: &Arc<Self>, event: Event<'_>) {
        let mut inner = self.lock();
        self.tell_locked(&mut inner, event);
    }

    /// Tells one of its dispatchers, if it is still that one.
    pub(super) fn tell_generation(self: &Arc<Self>, generation: u64, event: Event<'_>) {
        let mut inner = self.lock();
        if inner.generation == generation {
            self.tell_locked(&mut inner, event);
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// For a runner of one of its dispatchers, if it is still that one.
    pub(super) fn with_generation(self: &Arc<Self>, generation: u64, events: impl FnOnce(&mut Session<'_>)) {
        let mut inner = self.lock();
        if inner.generation == generation {
            events(&mut Session { subscription: self, inner: &mut inner });
            self.follow_up(&mut inner);
        }
    }

    /// Several things that happened, as one: runs before the next look of any other thread.
    pub(super) fn with(self: &Arc<Self>, events: impl FnOnce(&mut Session<'_>)) {
        let mut inner = self.lock();
        events(&mut Session { subscription: self, inner: &mut inner });
        self.follow_up(&mut inner);
    }

    /// Lets no further call begin.
    pub fn halt(&self) {
        self.halted.store(true, Ordering::Release);
        self.timer.notify_one();
    }

    /// Whether it has a consumer.
    pub fn is_active(&self) -> bool {
        self.program.load().is_some()
    }

    pub fn is_halted(&self) -> bool {
        self.halted.load(Ordering::Acquire)
    }

    /// Whether a call may begin that was taken before.
    pub(super) fn may_begin(&self) -> bool {
        !self.is_halted() && !self.held.load(Ordering::Acquire)
    }

    /// A runner waits at the turnstile, or no longer.
    pub(super) fn waits_at_turnstile(&self, begins: bool) {
        if begins {
            self.at_turnstile.fetch_add(1, Ordering::Relaxed);
        } else {
            self.at_turnstile.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Calls that run now.
    pub fn runners(&self) -> u32 {
        self.lock().runners
    }

    /// Drops every call that runs, without settling it.
    pub fn abandon(&self) {
        self.halt();
        let (tasks, idle) = {
            let mut inner = self.lock();
            (std::mem::take(&mut inner.tasks), std::mem::take(&mut inner.idle))
        };
        drop(tasks);
        drop(idle);
    }

    pub fn policy(&self) -> Policy {
        self.lock().dispatcher.policy().clone()
    }

    pub fn takes(&self, topic: &str) -> Option<Offset> {
        self.lock().dispatcher.selection().from_offset(topic)
    }

    /// Drops instances that had nothing to do for a while.
    pub fn drop_idle(&self) {
        let mut inner = self.lock();
        let now = Instant::now();
        let keep = |idle: &(Instance, Instant)| now.duration_since(idle.1) < INSTANCE_IDLE_MAX;
        let (kept, dropped) = std::mem::take(&mut inner.idle).into_iter().partition(keep);
        inner.idle = kept;
        drop(inner);
        let dropped: Vec<(Instance, Instant)> = dropped;
        drop(dropped);
    }

    /// Wakes the dispatcher whenever one of its messages becomes due. Ends with the subscription.
    pub async fn keep_time(subscription: Weak<Self>) {
        loop {
            let Some(this) = subscription.upgrade() else { return };
            if this.is_halted() {
                return;
            }
            let armed_ms = this.lock().armed_ms;
            let delay = armed_ms.map(|due_ms| Duration::from_millis(due_ms.saturating_sub(this.now_ms())));
            match delay {
                None => this.timer.notified().await,
                Some(delay) if delay.is_zero() => this.tell(Event::Tick),
                Some(delay) => {
                    tokio::select! {
                        () = this.timer.notified() => {}
                        () = tokio::time::sleep(delay) => this.tell(Event::Tick),
                    }
                }
            }
        }
    }

    pub(super) fn now_ms(&self) -> Millis {
        self.shared.clock.now_ms()
    }

    /// What a runner does next, or `None` where it has retired. `call` is what its calls take on average.
    pub(super) fn take_run(
        self: &Arc<Self>,
        generation: u64,
        call: Duration,
        instance: &mut Option<Instance>,
    ) -> Option<Taken> {
        let mut inner = self.lock();
        if inner.generation != generation {
            return None;
        }
        let fitting = RUN_TARGET.as_nanos() / call.as_nanos().max(1);
        let slots = (inner.dispatcher.policy().concurrency as usize).min(self.shared.workers).max(1);
        let share = inner.dispatcher.ready().div_ceil(slots);
        // Several messages of one lane are one thing that is ready, so a small share may still be a long run.
        let max = if share > 1 { share.min(RUN_MESSAGES_MAX) } else { RUN_MESSAGES_MAX };
        let max = max.min(usize::try_from(fitting).unwrap_or(usize::MAX)).max(1);
        let items = if self.is_halted() { Vec::new() } else { inner.dispatcher.take(max, self.now_ms()) };
        if items.is_empty() {
            inner.runners -= 1;
            if let Some(instance) = instance.take() {
                inner.idle.push((instance, Instant::now()));
            }
            self.follow_up(&mut inner);
            return None;
        }
        if instance.is_none() {
            *instance = inner.idle.pop().map(|(instance, _)| instance);
        }
        let policy = inner.dispatcher.policy().clone();
        let program = self.program.load_full();
        self.follow_up(&mut inner);
        Some(Taken { items, policy, program })
    }

    /// A runner's call awaits: another runner may use the worker.
    pub(super) fn awaits(self: &Arc<Self>, generation: u64, begins: bool) {
        let mut inner = self.lock();
        if inner.generation != generation {
            return;
        }
        if begins {
            inner.awaiting += 1;
            self.grow(&mut inner);
        } else {
            inner.awaiting -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|_| fault::end())
    }

    fn tell_locked(self: &Arc<Self>, inner: &mut Inner, event: Event<'_>) {
        if inner.frozen {
            // The dispatcher that comes next counts and reads for itself.
            return;
        }
        let mut actions = Vec::new();
        inner.dispatcher.step(event, self.now_ms(), &mut actions);
        self.perform(inner, actions);
        self.follow_up(inner);
    }

    fn perform(self: &Arc<Self>, inner: &mut Inner, actions: Vec<Action>) {
        let generation = inner.generation;
        let asker = || Asker { subscription: self.clone(), generation };
        for action in actions {
            match action {
                Action::Commit(settlement) => {
                    let txn = Txn { now_ms: self.now_ms(), settlements: vec![settlement], ..Txn::default() };
                    if let Err(error) = self.commit(inner, txn) {
                        self.refused(&error);
                    }
                }
                Action::Fetch { from, messages_max, bytes_max } => {
                    let selection = inner.dispatcher.selection().clone();
                    self.shared.reader.ask(Request::Fetch {
                        asker: asker(),
                        selection,
                        passes_dead_before: inner.dispatcher.passes_dead_before(),
                        from,
                        messages_max,
                        bytes_max,
                    });
                }
                Action::LoadRetries(offsets) => {
                    self.shared.reader.ask(Request::Retries { asker: asker(), offsets });
                }
                Action::LoadRow(at) => self.shared.reader.ask(Request::Row { asker: asker(), at }),
                Action::Refund(refund) => self.shared.reader.ask(Request::Refund { asker: asker(), refund }),
            }
        }
    }

    /// After any change: more runners where there is work for them, and the timer set anew.
    fn follow_up(self: &Arc<Self>, inner: &mut Inner) {
        if inner.frozen {
            return;
        }
        self.held.store(inner.dispatcher.is_held(), Ordering::Release);
        let due_ms = inner.dispatcher.next_due_ms();
        if due_ms != inner.armed_ms {
            inner.armed_ms = due_ms;
            self.timer.notify_one();
        }
        self.grow(inner);
    }

    fn grow(self: &Arc<Self>, inner: &mut Inner) {
        if self.is_halted() {
            return;
        }
        let concurrency = inner.dispatcher.policy().concurrency;
        let mut ready = inner.dispatcher.ready();
        while ready > 0
            && inner.runners < concurrency
            && ((inner.runners - inner.awaiting) as usize) < self.shared.workers
        {
            inner.runners += 1;
            ready -= 1;
            inner.tasks.retain(|task| !task.is_finished());
            let task = self.queue.spawn(runner::run(self.clone(), inner.generation));
            inner.tasks.push(task);
        }
    }

    fn commit(&self, inner: &mut Inner, txn: Txn) -> Result<(), CommitError> {
        let mut counts = inner.counts;
        for settlement in &txn.settlements {
            counts.apply(&settlement.counts);
        }
        self.shared.log.commit(txn, None)?;
        inner.counts = counts;
        Ok(())
    }

    /// The log refused what the dispatcher decided: it will refuse everything else as well.
    fn refused(&self, error: &CommitError) {
        if !self.is_halted() {
            tracing::debug!(subscription = %self.name, %error, "no longer delivered");
        }
        self.halt();
    }

    pub(super) fn set_problem(&self, problem: Option<String>) {
        self.lock().problem = problem;
    }
}

/// What a runner has to do, and the version that it is to be done with, as they were at one moment.
pub(super) struct Taken {
    pub(super) items: Vec<Item>,
    pub(super) policy: Policy,
    /// None where nothing is to begin any more.
    pub(super) program: Option<Arc<Program>>,
}

/// The dispatcher under its lock, for a runner that settles.
pub(super) struct Session<'a> {
    subscription: &'a Arc<Subscription>,
    inner: &'a mut Inner,
}

impl Session<'_> {
    pub(super) fn step(&mut self, event: Event<'_>) {
        let mut actions = Vec::new();
        self.inner.dispatcher.step(event, self.subscription.now_ms(), &mut actions);
        self.subscription.perform(self.inner, actions);
    }

    /// Tells of calls whose settlement is sequenced.
    pub(super) fn settled(&mut self, calls: Vec<Finished>) {
        if let Some(witness) = &self.inner.witness {
            calls.iter().for_each(|call| witness.ended(call));
        }
        self.step(Event::Settled(calls));
    }

    /// Refunds what these rows say that was charged.
    pub(super) fn refund(
        &mut self,
        refund: &Refund,
        retries: Vec<(Offset, Arc<RetryRow>)>,
        dead: Vec<(Offset, Arc<DeadRow>)>,
    ) -> Refunded {
        let before = self.inner.dispatcher.refunds();
        self.step(Event::Refunded { refund, retries, dead });
        self.inner.dispatcher.refunds() - before
    }

    pub(super) fn dispatcher(&mut self) -> &mut Dispatcher {
        &mut self.inner.dispatcher
    }

    /// Sequences a transaction. A refusal that no second try mends ends the subscription's deliveries.
    pub(super) fn commit(&mut self, txn: Txn) -> Result<(), CommitError> {
        match self.subscription.commit(self.inner, txn) {
            Ok(()) => Ok(()),
            Err(
                error @ (CommitError::Conflict { .. }
                | CommitError::Busy { .. }
                | CommitError::TopicFull { .. }
                | CommitError::StateFull { .. }),
            ) => Err(error),
            Err(error) => {
                self.subscription.refused(&error);
                Err(error)
            }
        }
    }
}

/// Messages for one subscription that were synced together.
pub type Share = (Arc<Subscription>, Vec<SharedMessage>);
