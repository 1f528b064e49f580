//! A consumer's state, as its calls read it: what is sequenced, and what was read remembered.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::log::{Log, ReadPin, StateRange, StateRead, StateWrite, Txn};
use crate::sandbox::{StateFull, StateSource, StateSynced, StateUnreadable};

pub(super) struct StateReads {
    log: Arc<dyn Log>,
    consumer: Arc<str>,
    /// Taken before the first read, so that the log keeps what validating needs.
    pin: Option<ReadPin>,
    reads: Vec<StateRead>,
}

impl StateReads {
    pub(super) fn new(log: Arc<dyn Log>, consumer: Arc<str>) -> Box<Self> {
        Box::new(Self { log, consumer, pin: None, reads: Vec::new() })
    }

    pub(super) fn is_of(&self, consumer: &str) -> bool {
        *self.consumer == *consumer
    }

    /// What was read, for validation. The pin stays until [`StateReads::unpin`].
    pub(super) fn take_reads(&mut self) -> Vec<StateRead> {
        std::mem::take(&mut self.reads)
    }

    /// The call's transaction was sequenced or refused.
    pub(super) fn unpin(&mut self) {
        self.pin = None;
    }

    fn pinned(&mut self) {
        if self.pin.is_none() {
            self.pin = Some(self.log.pin());
        }
    }
}

/// Whether a consumer's state has room for these writes together, as far as the log knows now.
pub(crate) fn check_room(
    log: &dyn Log,
    consumer: &Arc<str>,
    writes: &BTreeMap<String, Option<Bytes>>,
) -> Result<(), StateFull> {
    let write = |(key, value): (&String, &Option<Bytes>)| StateWrite {
        consumer: consumer.clone(),
        key: key.clone(),
        value: value.clone(),
    };
    let writes: Vec<StateWrite> = writes.iter().map(write).collect();
    log.check_state(&writes).map_err(|full| StateFull(full.to_string()))
}

impl StateSource for StateReads {
    fn get(&mut self, key: &str) -> Result<Option<Bytes>, StateUnreadable> {
        self.pinned();
        let read = self.log.state_get(&self.consumer, key);
        let (value, seen) = read.map_err(|error| StateUnreadable(error.to_string()))?;
        let range = StateRange::Key(key.to_owned());
        self.reads.push(StateRead { consumer: self.consumer.clone(), range, seen });
        Ok(value)
    }

    fn scan(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Bytes)>, StateUnreadable> {
        self.pinned();
        let read = self.log.state_scan(&self.consumer, prefix, after, limit);
        let found = read.map_err(|error| StateUnreadable(error.to_string()))?;
        // A scan that was cut short has seen nothing of what comes after its last entry.
        let cut = found.entries.len() >= limit;
        let through = found.entries.last().filter(|_| cut).map(|(key, _)| key.clone());
        let range = StateRange::Scan { prefix: prefix.to_owned(), after: after.map(str::to_owned), through };
        self.reads.push(StateRead { consumer: self.consumer.clone(), range, seen: found.seen });
        Ok(found.entries)
    }

    /// An empty transaction comes after all that is sequenced, and is durable when that is. It has acknowledgements
    /// that would wait for company written at once, and costs nothing where nothing waits.
    fn synced(&mut self) -> Option<StateSynced> {
        let (waiter, durable) = oneshot::channel();
        let sequenced = self.log.commit(Txn::default(), Some(waiter)).is_ok();
        Some(Box::pin(async move { sequenced && durable.await.is_ok() }))
    }

    fn room(&mut self) -> u64 {
        self.log.state_room(&self.consumer)
    }

    fn check_room(&mut self, writes: &BTreeMap<String, Option<Bytes>>) -> Result<(), StateFull> {
        check_room(&*self.log, &self.consumer, writes)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::log::redb_log::{OpenOptions, RedbLog};
    use crate::log::{Listener, LogFailure, StateWrite, TxnNumber};
    use crate::message::SharedMessage;

    struct Deaf;

    impl Listener for Deaf {
        fn rescheduled(&self) {}

        fn synced(&self, _txn: TxnNumber, _messages: &[SharedMessage]) {}
        fn failed(&self, _failure: LogFailure) {}
    }

    fn poll(synced: &mut StateSynced) -> Poll<bool> {
        synced.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn what_was_read_is_synced_when_the_log_has_synced_it() {
        let folder = tempfile::tempdir().unwrap();
        let log: Arc<dyn Log> = Arc::new(RedbLog::open(&OpenOptions::new(folder.path().join("data"))).unwrap());
        let consumer: Arc<str> = "email".into();
        let write = StateWrite { consumer: consumer.clone(), key: "a".to_owned(), value: Some(Bytes::from("1")) };
        log.commit(Txn { writes: vec![write], ..Txn::default() }, None).unwrap();
        let mut reads = StateReads::new(log.clone(), consumer);
        assert_eq!(reads.get("a").unwrap(), Some(Bytes::from("1")), "it is sequenced, and nothing writes it yet");
        let mut synced = reads.synced().unwrap();
        assert!(poll(&mut synced).is_pending());
        log.start(Arc::new(Deaf));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(runtime.block_on(synced));
        log.close();
        assert_eq!(poll(&mut reads.synced().unwrap()), Poll::Ready(false), "a log that stopped syncs nothing");
    }
}
