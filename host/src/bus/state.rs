//! What consumers keep in their state, for people. Only what is synced is shown.

use super::{Bus, BusError, operate};
use crate::log::{StateView, StateWrite, Txn};
use crate::view::{StateEntryView, StatePageView, StateSizeView};

/// Keys that are removed in one transaction.
const REMOVE_KEYS: usize = 1_000;
/// Bytes of entries that are read at a time.
const PAGE_BYTES_MAX: usize = 1 << 20;

impl Bus {
    /// What every consumer's state holds, by consumer.
    pub fn state_sizes(&self) -> Result<Vec<StateSizeView>, BusError> {
        let engine = self.engine()?;
        let deployed = |consumer: &str| engine.records().iter().any(|stem| stem == consumer);
        let sizes = engine.log.state_sizes().into_iter();
        Ok(sizes
            .map(|(consumer, size)| StateSizeView {
                deployed: deployed(&consumer),
                consumer,
                entries: size.entries,
                bytes: size.bytes,
            })
            .collect())
    }

    /// Entries of one consumer whose keys begin with `prefix` and come after `after`.
    pub fn state_page(
        &self,
        consumer: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<StatePageView, BusError> {
        let view = self.state_view(consumer)?;
        let entries = view.page(consumer, prefix, after, limit, bytes_max)?;
        let last = entries.last().map(|(key, _)| key.clone());
        let more = last.as_deref().map(|last| view.page(consumer, prefix, Some(last), 1, 1)).transpose()?;
        let next = last.filter(|_| more.is_some_and(|more| !more.is_empty()));
        Ok(StatePageView { entries: entries.into_iter().map(StateEntryView::new).collect(), next })
    }

    pub fn state_entry(&self, consumer: &str, key: &str) -> Result<StateEntryView, BusError> {
        let unknown = || BusError::UnknownStateKey { consumer: consumer.to_owned(), key: key.to_owned() };
        let value = self.state_view(consumer)?.get(consumer, key)?.ok_or_else(unknown)?;
        Ok(StateEntryView::new((key.to_owned(), value)))
    }

    /// All entries as of this moment, to be read page by page.
    pub fn state_export(&self, consumer: &str, prefix: &str) -> Result<StateExport, BusError> {
        let view = self.state_view(consumer)?;
        Ok(StateExport { view, consumer: consumer.to_owned(), prefix: prefix.to_owned(), after: None })
    }

    /// Removes all state of a consumer that is not deployed. Answers how many entries that were, once that is
    /// synced. A crash may leave some of them.
    pub async fn remove_state(&self, consumer: &str) -> Result<u64, BusError> {
        let engine = self.engine()?;
        let _operator = engine.operator.lock().await;
        if engine.records().iter().any(|stem| stem == consumer) {
            return Err(BusError::StillDeployed { consumer: consumer.to_owned() });
        }
        self.state_view(consumer)?;
        let mut removed = 0;
        loop {
            let page = tokio::task::block_in_place(|| {
                engine.log.state_view().page(consumer, "", None, REMOVE_KEYS, usize::MAX)
            })?;
            if page.is_empty() {
                return Ok(removed);
            }
            removed += page.len() as u64;
            let name: std::sync::Arc<str> = consumer.into();
            let writes = page.into_iter().map(|(key, _)| StateWrite { consumer: name.clone(), key, value: None });
            let txn = Txn { now_ms: engine.now_ms(), writes: writes.collect(), ..Txn::default() };
            operate::synced(&engine, txn).await?;
        }
    }

    /// The state as of now, if the consumer has any or is deployed.
    fn state_view(&self, consumer: &str) -> Result<Box<dyn StateView>, BusError> {
        let engine = self.engine()?;
        let mut known: Vec<String> = engine.log.state_sizes().into_iter().map(|(name, _)| name).collect();
        known.extend(engine.records());
        if known.iter().any(|name| name == consumer) {
            Ok(engine.log.state_view())
        } else {
            Err(BusError::UnknownConsumer { consumer: consumer.to_owned(), known })
        }
    }
}

/// Entries of one moment, in the order of their keys.
pub struct StateExport {
    view: Box<dyn StateView>,
    consumer: String,
    prefix: String,
    after: Option<String>,
}

impl StateExport {
    /// The next entries; none at the end. Reads the disk.
    pub fn next_page(&mut self) -> Result<Vec<StateEntryView>, BusError> {
        let page = self.view.page(&self.consumer, &self.prefix, self.after.as_deref(), REMOVE_KEYS, PAGE_BYTES_MAX)?;
        if let Some((last, _)) = page.last() {
            self.after = Some(last.clone());
        }
        Ok(page.into_iter().map(StateEntryView::new).collect())
    }
}
