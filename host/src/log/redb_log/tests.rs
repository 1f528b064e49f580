//! Tests of the log on real files, by what they are about.

mod cuts;
mod delivery_rows;
mod durability;
mod failure;
mod flips;
mod messages;
mod opening;
mod removal;
mod scheduled;
mod state;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use redb::StorageBackend;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::{OpenOptions, RedbLog};
use crate::log::position::Position;
use crate::log::{
    Change, CommitError, Listener, Log, LogFailure, ReadBounds, Selection, Sequenced, SubscriptionId,
    SubscriptionRecord, Txn, TxnNumber,
};
use crate::message::{Event, Offset, SharedMessage};
use crate::topic::{TopicFilter, TopicName};

/// What a listener was told.
#[derive(Debug)]
enum Told {
    Synced(TxnNumber, Vec<SharedMessage>),
    Failed(LogFailure),
}

struct Recorder(Mutex<Sender<Told>>);

impl Recorder {
    fn tell(&self, told: Told) {
        // A test that ended no longer listens.
        let _ = self.0.lock().unwrap().send(told);
    }
}

impl Listener for Recorder {
    fn synced(&self, txn: TxnNumber, messages: &[SharedMessage]) {
        self.tell(Told::Synced(txn, messages.to_vec()));
    }

    fn rescheduled(&self) {}

    fn failed(&self, failure: LogFailure) {
        self.tell(Told::Failed(failure));
    }
}

/// A log in a folder of its own, started, with what its listener was told.
struct Bench {
    log: RedbLog,
    told: Receiver<Told>,
    folder: Arc<TempDir>,
}

/// Options for tests: no reserve and no watermark, unless the test is about them.
fn options(folder: &TempDir) -> OpenOptions {
    OpenOptions { reserve_bytes: 0, free_bytes_min: 0, ..OpenOptions::new(folder.path()) }
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut OpenOptions)) -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        let mut options = options(&folder);
        change(&mut options);
        Self::start(RedbLog::open(&options).unwrap(), folder)
    }

    /// On a backend in place of the file.
    fn on(backend: Box<dyn StorageBackend>) -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        let log = super::open::open(&options(&folder), Some(backend)).unwrap();
        Self::start(log, folder)
    }

    fn start(log: RedbLog, folder: Arc<TempDir>) -> Self {
        let (tell, told) = channel();
        log.start(Arc::new(Recorder(Mutex::new(tell))));
        Self { log, told, folder }
    }

    /// Closes the log and opens it again, with nothing in memory.
    fn reopen(self) -> Self {
        self.reopen_with(|_| {})
    }

    fn reopen_with(self, change: impl FnOnce(&mut OpenOptions)) -> Self {
        let Self { log, folder, .. } = self;
        log.close();
        drop(log);
        let mut options = options(&folder);
        change(&mut options);
        Self::start(RedbLog::open(&options).unwrap(), folder)
    }

    /// Commits, and waits for the sync.
    fn commit(&self, txn: Txn) -> Result<Sequenced, CommitError> {
        let (waiter, synced) = oneshot::channel();
        let sequenced = self.log.commit(txn, Some(waiter))?;
        synced.blocking_recv().expect("it is synced");
        Ok(sequenced)
    }

    fn publish(&self, events: Vec<Event>) -> Vec<Offset> {
        let sequenced = self.commit(publish(events)).unwrap();
        sequenced.placed.iter().map(|placed| placed.message().unwrap().0).collect()
    }

    fn subscribe(&self, name: &str) -> SubscriptionId {
        self.commit(subscribe(name)).unwrap().created[0]
    }

    /// Offsets that a selection reads from `from` on, through as many batches as it takes.
    fn offsets(&self, filters: &str, from: Offset, bounds: ReadBounds) -> Vec<Offset> {
        let selection = selection(filters);
        let mut found = Vec::new();
        let mut next = from;
        loop {
            let batch = self.log.read(&selection, next, bounds).unwrap();
            found.extend(batch.messages.iter().map(|message| message.offset));
            assert!(batch.next > next || batch.next >= batch.end, "a read goes on");
            assert!(!batch.messages.is_empty() || batch.next == batch.end, "a read finds something if there is any");
            next = batch.next;
            if next >= batch.end {
                return found;
            }
        }
    }
}

const WIDE: ReadBounds = ReadBounds { messages_max: 1_000, bytes_max: 1 << 24 };

fn event(topic: &str, id: &str) -> Event {
    Event {
        topic: TopicName::any(topic).unwrap(),
        id: id.to_owned(),
        source: "/tests".to_owned(),
        kind: topic.to_owned(),
        subject: None,
        key: None,
        content_type: None,
        attributes: Vec::new(),
        data: Bytes::new(),
        hops: 0,
        named: false,
        deliver_at_ms: None,
    }
}

fn events(topic: &str, count: usize) -> Vec<Event> {
    (0..count).map(|number| event(topic, &number.to_string())).collect()
}

fn sized(topic: &str, id: &str, bytes: usize) -> Event {
    Event { data: Bytes::from(vec![id.len() as u8; bytes]), ..event(topic, id) }
}

fn publish(appends: Vec<Event>) -> Txn {
    Txn { now_ms: 1_000, outside: true, appends, ..Txn::default() }
}

/// Filters by commas, each from the beginning on.
fn selection(filters: &str) -> Selection {
    let filters = filters.split(',').map(|filter| (TopicFilter::parse(filter).unwrap(), 0)).collect();
    Selection::new(filters)
}

fn record() -> SubscriptionRecord {
    SubscriptionRecord {
        consumer: "email".to_owned(),
        selection: selection("order.>"),
        created_ms: 5,
        epoch: 1,
        passes_dead_before: 3,
        paused: false,
    }
}

fn subscribe(name: &str) -> Txn {
    let change = Change::CreateSubscription { name: name.to_owned(), record: record(), position: Position::default() };
    Txn { changes: vec![change], ..Txn::default() }
}
