//! The bus as its edges see it: what HTTP, the command line and deployments may ask of it.

mod activation;
pub mod filter;
mod letters;
mod operate;
mod rehearse;
mod scheduled;
mod seek;
mod state;
mod topics;
mod views;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::sync::{Semaphore, watch};
use tokio::task::block_in_place;

use crate::deploy::{ActivateError, Deployments};
pub use crate::deploy::{CommandError, TargetError, WentBack};
use crate::dispatch::announce::Lag;
use crate::engine::Engine;
use crate::limits::{FETCH_MESSAGES_MAX, MIB, WINDOW_BYTES_MAX};
use crate::log::{Change, ReadBounds, ReadError, Selection, Txn};
use crate::message::{Event, Offset, Sequence, SharedMessage};
use crate::outcome::Digest;
use crate::policy::StartAt;
use crate::publish::{self, Accepted, PublishError};
use crate::sandbox::Sandbox;
use crate::topic::TopicFilter;
use crate::view::{
    DeadLetterView, DeploymentView, PluginView, Readiness, RehearsalView, SeekView, SubscriptionView, TopicView,
};
use activation::Running;
pub use filter::DeadLetterFilter;
use operate::Deed;
pub use operate::{Operated, Operation};
pub use state::StateExport;

/// Why a question or command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    #[error("there is no topic `{topic}`")]
    UnknownTopic { topic: String },
    #[error("there is no subscription `{subscription}`")]
    UnknownSubscription { subscription: String, known: Vec<String> },
    #[error("there is no dead letter `{id}`")]
    UnknownDeadLetter { id: String },
    #[error("no message is scheduled under the number {number}")]
    UnknownScheduled { number: u64 },
    #[error(transparent)]
    Filter(#[from] filter::FilterError),
    #[error("the chosen dead letters are of several consumers, such as `{one}` and `{other}`")]
    SeveralConsumers { one: String, other: String },
    #[error("nothing of the consumer `{consumer}` is deployed, whose manifest a rehearsal runs under")]
    NotDeployed { consumer: String },
    #[error("the component cannot be rehearsed: {error}")]
    Candidate { error: String },
    #[error("another rehearsal runs")]
    Rehearsing,
    #[error("subscription `{subscription}` is declared by `{manifest}`; remove it there first")]
    StillDeclared { subscription: String, manifest: String },
    #[error("`{consumer}` keeps no state, and is not deployed")]
    UnknownConsumer { consumer: String, known: Vec<String> },
    #[error("`{consumer}` keeps no `{key}` in its state")]
    UnknownStateKey { consumer: String, key: String },
    #[error("`{consumer}` is deployed and may write its state; take its files out of the plugin folder first")]
    StillDeployed { consumer: String },
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Deployments(#[from] CommandError),
    #[error("the bus is stopping")]
    Stopping,
}

/// The events of one publish, accepted or refused as one.
pub type Publish = Vec<Event>;

/// The bus. Cheap to clone; all clones are the same bus.
#[derive(Clone)]
pub struct Bus {
    inner: Arc<Inner>,
}

struct Inner {
    /// None while the bus starts, while a full disk makes it start anew, and when it stops.
    engine: ArcSwapOption<Engine>,
    /// What runs, by consumer. Held while versions change, so that they change one at a time.
    active: Mutex<BTreeMap<String, Running>>,
    /// What is known of consumers that do not run as their files say. Set once deployments have begun.
    deployments: OnceLock<Weak<Deployments>>,
    /// Where rehearsals run. Set once deployments have begun.
    sandbox: OnceLock<Arc<Sandbox>>,
    /// One rehearsal at a time: each may compile, and hold a component in memory.
    rehearsals: Arc<Semaphore>,
    message_data_max: usize,
    /// Whether the consumers were looked at that lay in the plugin folder at the start. Until then a message
    /// would miss subscriptions that are about to come into being.
    open: AtomicBool,
    /// Why there is no engine.
    unready: Mutex<String>,
}

impl Bus {
    /// A bus that is not serving yet.
    pub fn new(message_data_max: usize) -> Self {
        let inner = Inner {
            engine: ArcSwapOption::empty(),
            active: Mutex::default(),
            deployments: OnceLock::new(),
            sandbox: OnceLock::new(),
            rehearsals: Arc::new(Semaphore::new(1)),
            message_data_max,
            open: AtomicBool::new(false),
            unready: Mutex::new("starting".to_owned()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Serves on this engine from now on: runs on it what ran on the one before.
    pub fn serve_on(&self, engine: Arc<Engine>) -> Result<(), ActivateError> {
        for (stem, running) in self.inner.active().iter() {
            engine.activate(stem, running)?;
        }
        self.inner.engine.store(Some(engine));
        Ok(())
    }

    /// Accepts messages from now on.
    pub fn open(&self) {
        self.inner.open.store(true, Ordering::Release);
    }

    fn is_open(&self) -> bool {
        self.inner.open.load(Ordering::Acquire)
    }

    /// Serves no longer, for this reason. Answers with the engine that served.
    pub fn withdraw(&self, reason: &str) -> Option<Arc<Engine>> {
        reason.clone_into(&mut self.inner.unready.lock().unwrap_or_else(PoisonError::into_inner));
        self.inner.engine.swap(None)
    }

    /// Where to ask about versions of consumers, and to command them.
    pub fn report_deployments(&self, deployments: &Arc<Deployments>) {
        // Deployments begin once; a second report would be a bug of ours.
        assert!(self.inner.deployments.set(Arc::downgrade(deployments)).is_ok(), "deployments are reported once");
    }

    /// Where components are rehearsed.
    pub fn rehearse_in(&self, sandbox: Arc<Sandbox>) {
        assert!(self.inner.sandbox.set(sandbox).is_ok(), "a bus has one sandbox");
    }

    /// Publishes events, all or none of them, and answers once they are synced.
    pub async fn publish(&self, events: Publish) -> Result<Vec<Accepted>, PublishError> {
        publish::check(&events, self.inner.message_data_max)?;
        if !self.is_open() {
            return Err(PublishError::Starting);
        }
        let engine = self.engine().map_err(|_| PublishError::Stopping)?;
        publish::publish(&engine, events).await
    }

    pub fn topics(&self) -> Vec<TopicView> {
        let Ok(engine) = self.engine() else { return Vec::new() };
        let enrolled = engine.enrolled();
        let mut topics: Vec<TopicView> = engine
            .log
            .topics()
            .into_iter()
            .filter(topics::is_shown)
            .map(|topic| {
                let takers = enrolled.iter().filter(|one| one.subscription.takes(topic.name.as_str()).is_some());
                TopicView {
                    name: topic.name.to_string(),
                    messages: topic.messages,
                    // What is damaged is named when it is read.
                    first_sequence: engine.log.first_retained(topic.id).ok().flatten().map(|(sequence, _)| sequence),
                    last_sequence: topic.last_sequence,
                    last_offset: topic.last_offset,
                    bytes: topic.bytes,
                    created_ms: topic.created_ms,
                    subscriptions: takers.map(|one| one.subscription.name.to_string()).collect(),
                }
            })
            .collect();
        topics.sort_by(|one, other| one.name.cmp(&other.name));
        topics
    }

    /// Synced messages of a topic from a sequence on, at most `limit`.
    pub fn messages(&self, topic: &str, from: Sequence, limit: usize) -> Result<Vec<SharedMessage>, BusError> {
        let engine = self.engine()?;
        let info = engine.topic(topic)?;
        if from > info.last_sequence {
            return Ok(Vec::new());
        }
        let selection = Selection::of_topic(&info.name);
        let mut next = engine.log.locate(topic, from.max(1))?.max(info.removed_before);
        let mut messages = Vec::new();
        while messages.len() < limit {
            let bounds = ReadBounds { messages_max: limit - messages.len(), bytes_max: WINDOW_BYTES_MAX };
            let batch = engine.log.read(&selection, next, bounds)?;
            messages.extend(batch.messages);
            if batch.next >= batch.end {
                break;
            }
            next = batch.next;
        }
        Ok(messages)
    }

    /// Synced messages of a topic filter from an offset on (the end where `None`), as they become so.
    pub fn tail(&self, filter: TopicFilter, from: Option<Offset>) -> Result<Tail, BusError> {
        let engine = self.engine()?;
        let next = from.unwrap_or_else(|| engine.log.end());
        let selection = Selection { filters: vec![(filter, 0)], removed: engine.removed() };
        Ok(Tail { synced: engine.synced(), engine: Arc::downgrade(&engine), selection, next })
    }

    /// All subscriptions, with everything that was accepted or answered before the call. What they show is
    /// synced by the time they are returned. Blocks for that long.
    pub fn subscriptions(&self) -> Result<Vec<SubscriptionView>, BusError> {
        let engine = self.engine()?;
        shown(&engine, || Ok(self.subscriptions_now(&engine)))
    }

    /// One subscription, under the same promise.
    pub fn subscription(&self, name: &str) -> Result<SubscriptionView, BusError> {
        let engine = self.engine()?;
        shown(&engine, || {
            let enrolled = engine.find(name).ok_or_else(|| unknown_subscription(&engine, name))?;
            Ok(views::subscription(&engine, &enrolled, &self.digests()))
        })
    }

    /// Subscriptions as they stand in memory: some of it may not be synced.
    fn subscriptions_now(&self, engine: &Engine) -> Vec<SubscriptionView> {
        let active = self.digests();
        engine.enrolled().iter().map(|one| views::subscription(engine, one, &active)).collect()
    }

    /// Holds a subscription back, or no longer: running calls end, and nothing new begins.
    pub async fn pause_subscription(&self, name: &str, paused: bool) -> Result<(), BusError> {
        let engine = self.engine()?;
        let _operator = engine.operator.lock().await;
        let enrolled = engine.find(name).ok_or_else(|| unknown_subscription(&engine, name))?;
        enrolled.subscription.pause(paused).map_err(|_| BusError::Stopping)?;
        operate::synced(&engine, Txn { now_ms: engine.now_ms(), ..Txn::default() }).await
    }

    /// Removes an orphaned subscription with its account and dead letters.
    pub async fn remove_subscription(&self, name: &str) -> Result<(), BusError> {
        let engine = self.engine()?;
        let _operator = engine.operator.lock().await;
        let enrolled = engine.find(name).ok_or_else(|| unknown_subscription(&engine, name))?;
        if let Some(stem) = engine.declared_by(name) {
            let manifest = format!("{stem}.toml");
            return Err(BusError::StillDeclared { subscription: name.to_owned(), manifest });
        }
        let change = Change::RemoveSubscription { id: enrolled.subscription.id };
        let txn = Txn { now_ms: engine.now_ms(), changes: vec![change], ..Txn::default() };
        enrolled.subscription.halt();
        operate::synced(&engine, txn).await?;
        engine.dismiss(name);
        Ok(())
    }

    /// What a seek of a subscription would come to. Blocks.
    pub fn preview_seek(&self, name: &str, to: &StartAt) -> Result<SeekView, BusError> {
        seek::preview(&*self.engine()?, name, to)
    }

    /// Moves a subscription to a place in the log; answers once that is synced.
    pub async fn seek(&self, name: &str, to: StartAt) -> Result<SeekView, BusError> {
        let (engine, name) = (self.engine()?, name.to_owned());
        // A task of its own: it is carried through also where nobody waits for the answer any more.
        let task = tokio::spawn(async move {
            let _operator = engine.operator.lock().await;
            seek::seek(&engine, &name, &to).await
        });
        task.await.map_err(|_| BusError::Stopping)?
    }

    /// Dead letters after an id, in the order of subscription and offset.
    pub fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetterView>, BusError> {
        letters::list(&*self.engine()?, filter, after, limit)
    }

    /// One dead letter, with its message.
    pub fn dead_letter(&self, id: &str) -> Result<DeadLetterView, BusError> {
        letters::show(&*self.engine()?, id)
    }

    /// Offers dead letters again to the subscriptions they failed in. Answers once that is synced.
    pub async fn redrive(&self, operation: Operation) -> Result<Operated, BusError> {
        self.operate(operation, Deed::Redrive).await
    }

    /// Drops dead letters; they count as skipped. Answers once that is synced.
    pub async fn drop_dead_letters(&self, operation: Operation) -> Result<Operated, BusError> {
        self.operate(operation, Deed::Drop).await
    }

    async fn operate(&self, operation: Operation, deed: Deed) -> Result<Operated, BusError> {
        let engine = self.engine()?;
        // A task of its own: no page is left half way where nobody waits for the answer any more.
        let task = tokio::spawn(async move { operate::operate(&engine, operation, deed).await });
        task.await.map_err(|_| BusError::Stopping)?
    }

    /// Runs dead letters through a component that is not deployed, with nothing committed.
    pub async fn rehearse(
        &self,
        filter: DeadLetterFilter,
        letters_max: usize,
        component: Bytes,
    ) -> Result<RehearsalView, BusError> {
        let engine = self.engine()?;
        let only = self.inner.rehearsals.clone().try_acquire_owned().map_err(|_| BusError::Rehearsing)?;
        let sandbox = self.inner.sandbox.get().ok_or(BusError::Stopping)?.clone();
        let Some((consumer, cast)) = block_in_place(|| rehearse::cast(&engine, &filter, letters_max))? else {
            return Ok(RehearsalView::default());
        };
        let manifest = self.inner.active().get(&*consumer).map(|running| running.manifest().clone());
        let manifest = manifest.ok_or_else(|| BusError::NotDeployed { consumer: consumer.to_string() })?;
        let message_data_max = self.inner.message_data_max;
        let stage = rehearse::Stage { engine, sandbox, component, message_data_max, _only: only };
        rehearse::rehearse(stage, consumer, manifest, cast).await
    }

    pub fn plugins(&self) -> Vec<PluginView> {
        self.deployments().map_or_else(|_| Vec::new(), |deployments| deployments.views())
    }

    /// The newest deployments of a consumer, the newest first.
    pub fn plugin_history(&self, name: &str) -> Result<Vec<DeploymentView>, BusError> {
        let deployments = self.deployments()?;
        let known = || deployments.views().into_iter().map(|view| view.name).collect();
        let history = deployments.history(name);
        Ok(history.ok_or_else(|| CommandError::UnknownPlugin { name: name.to_owned(), known: known() })?)
    }

    /// Makes an earlier version of a consumer run again: the one before, or the one whose digest begins with
    /// `to`. Blocks until it runs and is recorded.
    pub fn roll_back_plugin(&self, name: &str, to: Option<String>) -> Result<WentBack, BusError> {
        Ok(self.deployments()?.roll_back(name, to)?)
    }

    /// Lets a component be deployed again that was rolled back. Blocks until that is recorded.
    pub fn permit_plugin(&self, name: &str, digest: Digest) -> Result<(), BusError> {
        Ok(self.deployments()?.permit(name, digest)?)
    }

    fn deployments(&self) -> Result<Arc<Deployments>, BusError> {
        self.inner.deployments.get().and_then(Weak::upgrade).ok_or(BusError::Stopping)
    }

    pub fn readiness(&self) -> Readiness {
        match self.engine() {
            Ok(_) if !self.is_open() => {
                Readiness { ready: false, reason: Some("consumers are being loaded".to_owned()) }
            }
            Ok(engine) if engine.log.figures().accepting => Readiness { ready: true, reason: None },
            Ok(_) => {
                Readiness { ready: false, reason: Some("there is no room for more in the data folder".to_owned()) }
            }
            Err(_) => {
                let reason = self.inner.unready.lock().unwrap_or_else(PoisonError::into_inner).clone();
                Readiness { ready: false, reason: Some(reason) }
            }
        }
    }

    /// Figures of the moment, in the Prometheus text format.
    pub fn metrics(&self) -> String {
        let engine = self.engine().ok();
        let figures = engine.as_ref().map(|engine| engine.log.figures()).unwrap_or_default();
        let subscriptions = engine.map(|engine| self.subscriptions_now(&engine)).unwrap_or_default();
        let states = self.state_sizes().unwrap_or_default();
        crate::metrics::encode(&figures, &self.topics(), &subscriptions, &self.plugins(), &states)
    }

    /// What runs every second: lag is warned about once per episode, and idle instances go.
    pub fn look_after(&self) {
        let Ok(engine) = self.engine() else { return };
        for one in engine.enrolled() {
            one.subscription.drop_idle();
            let view = views::subscription(&engine, &one, &BTreeMap::new());
            if one.subscription.warns(view.lagging) {
                tracing::warn!(
                    subscription = view.name,
                    pending = view.pending,
                    oldest_seconds = view.oldest_pending_seconds,
                    "the backlog grows old"
                );
            }
            one.subscription.tell_of_lag(&Lag {
                begins: view.lagging,
                pending: view.pending,
                oldest_pending_seconds: view.oldest_pending_seconds,
                lag_warn_seconds: view.lag_warn_seconds,
            });
        }
    }

    fn engine(&self) -> Result<Arc<Engine>, BusError> {
        self.inner.engine.load_full().ok_or(BusError::Stopping)
    }

    /// The digests of what runs, by consumer.
    fn digests(&self) -> BTreeMap<String, String> {
        self.inner.active().iter().map(|(stem, running)| (stem.clone(), running.digest())).collect()
    }
}

impl Inner {
    fn active(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks when all that was synced has been routed, and answers when all that was seen is synced: nothing
/// that is shown can be undone, and nothing that was answered before is missing.
fn shown<T>(engine: &Engine, look: impl FnOnce() -> Result<T, BusError>) -> Result<T, BusError> {
    let settle = || engine.commit_synced(Txn::default()).map_err(|_| BusError::Stopping);
    settle()?;
    let seen = look()?;
    settle()?;
    Ok(seen)
}

fn unknown_subscription(engine: &Engine, name: &str) -> BusError {
    let known = engine.enrolled().iter().map(|one| one.subscription.name.to_string()).collect();
    BusError::UnknownSubscription { subscription: name.to_owned(), known }
}

/// Messages as they are synced. Reads the log at its reader's pace, so a slow reader costs no memory.
pub struct Tail {
    engine: Weak<Engine>,
    synced: watch::Receiver<Offset>,
    /// Leaves out what was taken away when it began.
    selection: Selection,
    next: Offset,
}

impl Tail {
    /// The next messages, at least one; waits for them. `None` where the bus stops.
    pub async fn next(&mut self) -> Option<Result<Vec<SharedMessage>, ReadError>> {
        loop {
            {
                let engine = self.engine.upgrade()?;
                self.synced.borrow_and_update();
                let bounds = ReadBounds { messages_max: FETCH_MESSAGES_MAX, bytes_max: MIB };
                match engine.log.read(&self.selection, self.next, bounds) {
                    Ok(batch) => {
                        self.next = batch.next;
                        if !batch.messages.is_empty() {
                            return Some(Ok(batch.messages));
                        }
                        if batch.next < batch.end {
                            continue;
                        }
                    }
                    Err(error) => return Some(Err(error)),
                }
            }
            self.synced.changed().await.ok()?;
        }
    }
}
