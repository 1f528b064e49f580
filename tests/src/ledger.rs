//! What was acknowledged, kept outside of the bus, and the threads that publish meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde_json::Value;

use crate::client::{Client, Unacknowledged, next_id};
use crate::views::{Accepted, Event};
use crate::{Answer, PATIENCE};

/// Everything that was published to one topic, and how it was answered.
#[derive(Default)]
pub struct Ledger {
    entries: Mutex<Entries>,
    more: Condvar,
}

#[derive(Default)]
struct Entries {
    acknowledged: BTreeMap<String, (Accepted, String)>,
    /// Stored or not: nobody said.
    unanswered: BTreeMap<String, String>,
    refused: BTreeMap<String, Answer>,
}

impl Ledger {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn acknowledged(&self) -> usize {
        self.lock().acknowledged.len()
    }

    /// What was said to those that were refused.
    pub fn refusals(&self) -> Vec<Answer> {
        self.lock().refused.values().cloned().collect()
    }

    /// Waits until so many are acknowledged.
    #[track_caller]
    pub fn reaches(&self, acknowledged: usize) {
        let fewer = |entries: &mut Entries| entries.acknowledged.len() < acknowledged;
        let (entries, timeout) =
            self.more.wait_timeout_while(self.lock(), PATIENCE, fewer).unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "{} of {acknowledged} are acknowledged", entries.acknowledged.len());
    }

    /// Publishes one event, and writes down what became of it. Answers whether it was acknowledged.
    pub fn publish(&self, client: &Client, topic: &str, key: Option<&str>, data: String) -> bool {
        let id = next_id();
        let result = client.try_publish(topic, key, &id, &data);
        let mut entries = self.lock();
        let acknowledged = result.is_ok();
        match result {
            Ok(accepted) => drop(entries.acknowledged.insert(id, (accepted, data))),
            Err(Unacknowledged::Broken(_)) => drop(entries.unanswered.insert(id, data)),
            Err(Unacknowledged::Refused(answer)) => drop(entries.refused.insert(id, answer)),
        }
        self.more.notify_all();
        acknowledged
    }

    /// Checks a topic against the ledger: its sequences are dense, everything acknowledged is where it was
    /// said to be and as it was published, and nothing is there twice, or was refused, or came from nowhere.
    #[track_caller]
    pub fn check(&self, messages: &[Event]) {
        self.check_all(messages, false);
    }

    /// The same, but what was refused because the disk failed may be there: nobody knows.
    #[track_caller]
    pub fn check_acknowledged(&self, messages: &[Event]) {
        self.check_all(messages, true);
    }

    #[track_caller]
    fn check_all(&self, messages: &[Event], refused_may_be_there: bool) {
        let entries = self.lock();
        let mut missing = entries.acknowledged.clone();
        for (index, message) in messages.iter().enumerate() {
            assert_eq!(message.sequence, index as u64 + 1, "the sequences are not dense: {message:?}");
            let data = match (missing.remove(&message.id), entries.unanswered.get(&message.id)) {
                (Some((accepted, data)), _) => {
                    let place = (message.sequence, message.offset);
                    assert_eq!(place, (accepted.sequence, accepted.offset), "{message:?} is not where it was put");
                    data
                }
                (None, Some(data)) => data.clone(),
                (None, None) if refused_may_be_there && entries.refused.contains_key(&message.id) => continue,
                (None, None) => panic!("this was stored twice, or after it was refused: {message:?}"),
            };
            let published: Value = serde_json::from_str(&data).expect("events of tests are JSON");
            assert_eq!(message.data, published, "{message:?} is not what was published");
        }
        assert!(missing.is_empty(), "{} acknowledged messages are lost: {missing:#?}", missing.len());
        let mut offsets: Vec<_> = messages.iter().map(|message| message.offset).collect();
        offsets.dedup();
        assert_eq!(offsets.len(), messages.len());
        assert!(offsets.is_sorted(), "offsets are in the order of sequences");
    }
}

/// Threads that publish as fast as they are answered, until they are told to stop or one is not
/// acknowledged.
pub struct Publishers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Publishers {
    /// `make` gives the key and the data of each thread's n-th event.
    pub fn start<D: ToString>(
        client: &Client,
        ledger: &Arc<Ledger>,
        topic: &str,
        threads: u64,
        make: impl Fn(u64, u64) -> (Option<String>, D) + Send + Clone + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let publish = |thread| {
            let (client, ledger, topic) = (client.clone(), ledger.clone(), topic.to_owned());
            let (stop, make) = (stop.clone(), make.clone());
            std::thread::spawn(move || {
                for number in 0.. {
                    let (key, data) = make(thread, number);
                    let go_on = ledger.publish(&client, &topic, key.as_deref(), data.to_string());
                    if !go_on || stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            })
        };
        let threads = (0..threads).map(publish).collect();
        Self { stop, threads }
    }

    /// Waits for every thread to have its last answer, or none.
    #[track_caller]
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.ended();
    }

    /// Waits for the threads to end by themselves: each was not acknowledged.
    #[track_caller]
    pub fn ended(self) {
        for thread in self.threads {
            thread.join().expect("a publisher does not panic");
        }
    }
}
