//! One life of the log with everything that is rebuilt from it: dispatchers, runners, routes. A log that
//! fails takes all of it along; what follows is a new engine, loaded as after a crash.

pub mod retain;
pub mod schedule;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use crate::clock::Clock;
use crate::deploy::manifest;
use crate::dispatch::Dispatcher;
use crate::dispatch::reader::Reader;
use crate::dispatch::router::Router;
use crate::dispatch::subscription::{Subscription, Surroundings};
use crate::dispatch::turnstile::Turnstiles;
use crate::dispatch::workers::Workers;
use crate::limits::FETCH_MESSAGES_MAX;
use crate::log::position::Position;
use crate::log::removal::ranges_contain;
use crate::log::{
    CommitError, Counts, Listener, LoadedSubscription, Log, LogFailure, PluginRecord, PluginRecords, ReadError,
    Sequenced, SubscriptionId, SubscriptionRecord, Txn, TxnNumber,
};
use crate::message::{Millis, Offset, SharedMessage, TopicId};
use crate::policy::Policy;
use crate::topic::TopicName;
use schedule::Schedule;

/// A subscription and what is known of it besides its messages.
#[derive(Clone)]
pub struct Enrolled {
    pub subscription: Arc<Subscription>,
    /// The consumer's file stem.
    pub consumer: Arc<str>,
    pub created_ms: Millis,
}

pub struct Engine {
    pub log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    shared: Arc<Surroundings>,
    runtime: Handle,
    workers: Mutex<Workers>,
    reader: Mutex<Option<JoinHandle<()>>>,
    /// Taken by the writer's thread for every group that was synced, and where subscriptions change.
    router: Mutex<Router>,
    enrolled: RwLock<BTreeMap<String, Enrolled>>,
    /// What each consumer runs by the log, whether or not it could be started, and the subscriptions that
    /// its manifest declares.
    recorded: Mutex<BTreeMap<String, (PluginRecord, Vec<String>)>>,
    synced: watch::Sender<Offset>,
    failure: watch::Sender<Option<LogFailure>>,
    /// Messages that wait for their time.
    pub schedule: Schedule,
    /// Operators' commands run one at a time, so that what one read is still so when it commits.
    pub operator: tokio::sync::Mutex<()>,
}

/// How an engine runs.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    pub workers: usize,
    pub message_data_max: usize,
}

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("a thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

impl Engine {
    /// Rebuilds everything from the log and begins to write. Nothing runs until consumers are activated.
    pub fn start(
        log: Arc<dyn Log>,
        clock: Arc<dyn Clock>,
        runtime: &Handle,
        options: EngineOptions,
    ) -> Result<(Arc<Self>, PluginRecords), EngineError> {
        let loaded = log.load()?;
        let (reader, reader_thread) = Reader::start(log.clone())?;
        let workers = Workers::start(options.workers, runtime)?;
        let synced = watch::Sender::new(log.end());
        let shared = Arc::new(Surroundings {
            log: log.clone(),
            clock: clock.clone(),
            reader,
            workers: options.workers,
            message_data_max: options.message_data_max,
            synced: synced.subscribe(),
            turnstiles: Turnstiles::default(),
        });
        let engine = Arc::new(Self {
            synced,
            log: log.clone(),
            clock,
            shared,
            runtime: runtime.clone(),
            workers: Mutex::new(workers),
            reader: Mutex::new(Some(reader_thread)),
            router: Mutex::new(Router::default()),
            enrolled: RwLock::default(),
            recorded: Mutex::new(loaded.plugins.iter().map(with_names).collect()),
            failure: watch::Sender::new(None),
            schedule: Schedule::default(),
            operator: tokio::sync::Mutex::new(()),
        });
        {
            let mut router = engine.router();
            for one in &loaded.subscriptions {
                engine.enrol(one)?;
            }
            engine.reroute(&mut router);
        }
        log.start(Arc::new(Ears(Arc::downgrade(&engine))));
        runtime.spawn(schedule::keep(Arc::downgrade(&engine)));
        Ok((engine, loaded.plugins))
    }

    pub fn now_ms(&self) -> Millis {
        self.clock.now_ms()
    }

    /// Follows the log's synced end.
    pub fn synced(&self) -> watch::Receiver<Offset> {
        self.synced.subscribe()
    }

    /// Becomes `Some` when the log can go no further.
    pub fn failure(&self) -> watch::Receiver<Option<LogFailure>> {
        self.failure.subscribe()
    }

    /// All subscriptions, by name.
    pub fn enrolled(&self) -> Vec<Enrolled> {
        self.enrolled.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn find(&self, name: &str) -> Option<Enrolled> {
        self.enrolled.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub fn find_id(&self, id: SubscriptionId) -> Option<Enrolled> {
        let enrolled = self.enrolled.read().unwrap_or_else(PoisonError::into_inner);
        enrolled.values().find(|one| one.subscription.id == id).cloned()
    }

    /// Commits and waits until it is durable. Not for the threads of the runtime or of the workers.
    pub fn commit_synced(&self, txn: Txn) -> Result<Sequenced, CommitError> {
        let (waiter, durable) = oneshot::channel();
        let sequenced = self.log.commit(txn, Some(waiter))?;
        durable.blocking_recv().map_err(|_| CommitError::Stopped)?;
        Ok(sequenced)
    }

    /// Takes up subscriptions that were just created, with the ids that the log gave them.
    pub fn enrol_created(
        &self,
        ids: Vec<SubscriptionId>,
        created: Vec<(String, SubscriptionRecord, Position)>,
    ) -> Result<(), ReadError> {
        let mut router = self.router();
        for (id, (name, record, position)) in ids.into_iter().zip(created) {
            let counts = Counts::default();
            let (retries, held, parks) = (Vec::new(), Vec::new(), Vec::new());
            self.enrol(&LoadedSubscription { id, name, record, position, counts, retries, held, parks })?;
        }
        self.reroute(&mut router);
        Ok(())
    }

    /// Remembers that a subscription changed hands or filters.
    pub(crate) fn update(&self, router: &mut Router, name: &str, change: impl FnOnce(&mut Enrolled)) {
        {
            let mut enrolled = self.enrolled.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(one) = enrolled.get_mut(name) {
                change(one);
            }
        }
        self.reroute(router);
    }

    /// Forgets a subscription whose removal is sequenced.
    pub fn dismiss(&self, name: &str) {
        let mut router = self.router();
        let gone = self.enrolled.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.reroute(&mut router);
        drop(router);
        if let Some(gone) = gone {
            gone.subscription.abandon();
        }
    }

    /// Lets calls that run end, for at most `patience`; none begins any more. What does not end in time
    /// is not settled, and is delivered again at the next start.
    pub async fn drain(&self, patience: Duration) {
        let all = self.enrolled();
        for one in &all {
            one.subscription.halt();
        }
        let deadline = tokio::time::Instant::now() + patience;
        let mut ended = tokio::time::interval(Duration::from_millis(10));
        while all.iter().any(|one| one.subscription.runners() > 0) && tokio::time::Instant::now() < deadline {
            ended.tick().await;
        }
    }

    /// Ends everything: calls that still run are dropped, what is sequenced is synced, threads are joined.
    pub fn stop(&self) {
        self.schedule.stop();
        for one in self.enrolled() {
            one.subscription.abandon();
        }
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).stop();
        self.log.close();
        self.router().set(Vec::new());
        self.enrolled.write().unwrap_or_else(PoisonError::into_inner).clear();
        // The reader ends when the last of its askers is gone, which the caller's engine may still be.
        drop(self.reader.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    pub(crate) fn router(&self) -> MutexGuard<'_, Router> {
        self.router.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called under the router's lock: no group is routed meanwhile, so what is counted here and what
    /// is routed afterwards meet without a gap.
    fn enrol(&self, loaded: &LoadedSubscription) -> Result<(), ReadError> {
        let (end, unread) = self.unread_to_end(loaded)?;
        let seed = fastrand::u64(..);
        let dispatcher = Dispatcher::load(loaded, Policy::default(), unread, end, seed);
        let queue = self.workers.lock().unwrap_or_else(PoisonError::into_inner).queue();
        let subscription = Subscription::new(&loaded.name, dispatcher, loaded.counts, self.shared.clone(), queue);
        self.runtime.spawn(Subscription::keep_time(Arc::downgrade(&subscription)));
        let enrolled = Enrolled {
            subscription,
            consumer: loaded.record.consumer.as_str().into(),
            created_ms: loaded.record.created_ms,
        };
        self.enrolled.write().unwrap_or_else(PoisonError::into_inner).insert(loaded.name.clone(), enrolled);
        Ok(())
    }

    /// How many messages a subscription has not passed, and the log's end that this stands on.
    pub(crate) fn unread_to_end(&self, loaded: &LoadedSubscription) -> Result<(Offset, u64), ReadError> {
        loop {
            let end = self.log.end();
            let unread = self.unread(&loaded.record, loaded.id, &loaded.position.gaps(end))?;
            // The writer may have been about to show one more group: then it is counted again.
            if self.log.end() == end {
                return Ok((end, unread));
            }
        }
    }

    /// How many messages in ranges that its position has not passed a subscription has before it: all that
    /// it takes but dead letters that it passes over.
    pub(crate) fn unread(
        &self,
        record: &SubscriptionRecord,
        id: SubscriptionId,
        ranges: &[(Offset, Offset)],
    ) -> Result<u64, ReadError> {
        let mut count = self.log.count(&record.selection, ranges)?;
        let Some(&(first, _)) = ranges.first().filter(|(first, _)| *first < record.passes_dead_before) else {
            return Ok(count);
        };
        let names: HashMap<TopicId, TopicName> =
            self.log.topics().into_iter().map(|topic| (topic.id, topic.name)).collect();
        let takes = |topic: TopicId| names.get(&topic).and_then(|name| record.selection.from_offset(name.as_str()));
        let mut after = first.checked_sub(1).map(|offset| (id, offset));
        loop {
            let page = self.log.dead_letters(Some(id), after, FETCH_MESSAGES_MAX)?;
            let Some(last) = page.last() else { return Ok(count) };
            after = Some((id, last.offset));
            let passed_over = page.iter().filter(|letter| {
                letter.offset < record.passes_dead_before
                    && ranges_contain(ranges, letter.offset)
                    && takes(letter.row.topic).is_some_and(|from| from <= letter.offset)
            });
            count = count.saturating_sub(passed_over.count() as u64);
        }
    }

    /// The consumer whose manifest declares a subscription.
    pub fn declared_by(&self, subscription: &str) -> Option<String> {
        let recorded = self.recorded();
        let declares = |names: &[String]| names.iter().any(|name| name == subscription);
        recorded.iter().find(|(_, (_, names))| declares(names)).map(|(stem, _)| stem.clone())
    }

    /// The consumers that are deployed, by file stem.
    pub fn records(&self) -> Vec<String> {
        self.recorded().keys().cloned().collect()
    }

    pub(crate) fn is_recorded(&self, stem: &str, record: &PluginRecord) -> bool {
        self.recorded().get(stem).is_some_and(|(recorded, _)| recorded == record)
    }

    pub(crate) fn remember(&self, stem: &str, record: Option<PluginRecord>) {
        let mut recorded = self.recorded();
        recorded.remove(stem);
        recorded.extend(record.map(|record| with_names(&(stem.to_owned(), record))));
    }

    fn recorded(&self) -> MutexGuard<'_, BTreeMap<String, (PluginRecord, Vec<String>)>> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn reroute(&self, router: &mut Router) {
        let enrolled = self.enrolled.read().unwrap_or_else(PoisonError::into_inner);
        router.set(enrolled.values().map(|one| one.subscription.clone()).collect());
    }
}

/// A record with the names of the subscriptions that its manifest declares.
fn with_names((stem, record): &(String, PluginRecord)) -> (String, (PluginRecord, Vec<String>)) {
    let file = format!("{stem}.toml");
    // It was valid when it was recorded. A version of the bus that no longer takes it declares nothing.
    let manifest = manifest::parse(stem, Path::new(&file), &record.manifest).ok();
    let names = manifest.into_iter().flat_map(|manifest| manifest.subscriptions).map(|spec| spec.name);
    (stem.clone(), (record.clone(), names.collect()))
}

/// The engine's ears at the log. Weak, for the engine owns the log.
struct Ears(Weak<Engine>);

impl Listener for Ears {
    fn synced(&self, _txn: TxnNumber, messages: &[SharedMessage]) {
        let Some(engine) = self.0.upgrade() else { return };
        if !messages.is_empty() {
            engine.router().route(messages);
        }
        engine.synced.send_replace(engine.log.end());
    }

    fn rescheduled(&self) {
        if let Some(engine) = self.0.upgrade() {
            engine.schedule.ring();
        }
    }

    fn failed(&self, failure: LogFailure) {
        let Some(engine) = self.0.upgrade() else { return };
        engine.schedule.stop();
        for one in engine.enrolled() {
            one.subscription.halt();
        }
        engine.failure.send_replace(Some(failure));
    }
}
