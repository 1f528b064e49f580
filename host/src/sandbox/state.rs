//! A consumer's state as one call sees it: its own staged writes over what its source holds.

use std::borrow::Cow;
use std::ops::Bound;

use bytes::Bytes;
use wasmtime::StoreContextMut;
use wasmtime::component::{WasmList, WasmStr};

use super::guest::{Call, Guest, StagedWrites};
use super::records::{EntryRecord, StateRefusal};
use super::{StateSource, StateUnreadable};
use crate::limits;

/// Entries that are asked of the source at a time, so that a scan of large values is noticed early.
const SCAN_PAGE: usize = 100;

type Answer<T> = Result<T, StateRefusal>;

/// `state.get`
pub(super) fn get(mut store: StoreContextMut<'_, Guest>, key: &WasmStr) -> wasmtime::Result<Answer<Option<Vec<u8>>>> {
    let key = key.to_str(&store)?.into_owned();
    let value = value_of(store.data_mut(), &key)?;
    Ok(value.map(|value| value.map(|bytes| bytes.to_vec())))
}

/// As [`get`], of a key that stands in the host's memory.
pub(super) fn value_of(guest: &mut Guest, key: &str) -> wasmtime::Result<Answer<Option<Bytes>>> {
    if let Err(refusal) = check_key(key).and_then(|()| guest.call.charge_read(key.len())) {
        return Ok(Err(refusal));
    }
    if let Some(staged) = guest.call.writes.get(key) {
        return Ok(Ok(staged.clone()));
    }
    let found = guest.call.source()?.get(key);
    match found {
        Ok(value) => Ok(Ok(value)),
        Err(unreadable) => Err(guest.call.fail_reading(unreadable)),
    }
}

/// `state.set`
pub(super) fn set(
    mut store: StoreContextMut<'_, Guest>,
    key: &WasmStr,
    value: &WasmList<u8>,
) -> wasmtime::Result<Answer<()>> {
    // Before it is copied out of the guest's memory.
    if let Err(refusal) = check_value(value.len()) {
        return Ok(Err(refusal));
    }
    let key = key.to_str(&store)?.into_owned();
    let value = Bytes::copy_from_slice(value.as_le_slice(&store));
    write(store.data_mut(), key, Some(value))
}

/// Stages a value that stands in the host's memory, or a removal.
pub(super) fn write(guest: &mut Guest, key: String, value: Option<Bytes>) -> wasmtime::Result<Answer<()>> {
    // Nothing may be staged before there is a message whose acknowledgement would commit it.
    guest.call.source()?;
    Ok(check_value(value.as_ref().map_or(0, Bytes::len)).and_then(|()| stage(&mut guest.call, key, value)))
}

fn check_value(bytes: usize) -> Answer<()> {
    let bytes_max = limits::STATE_VALUE_BYTES_MAX;
    if bytes > bytes_max {
        return Err(StateRefusal::TooLarge(format!("the value has {bytes} bytes; at most {bytes_max} are kept")));
    }
    Ok(())
}

/// `state.delete`
pub(super) fn delete(mut store: StoreContextMut<'_, Guest>, key: &WasmStr) -> wasmtime::Result<Answer<()>> {
    let key = key.to_str(&store)?.into_owned();
    write(store.data_mut(), key, None)
}

fn stage(call: &mut Call, key: String, value: Option<Bytes>) -> Answer<()> {
    check_key(&key)?;
    let size = |value: &Option<Bytes>| key.len() + value.as_ref().map_or(0, Bytes::len);
    let before = call.writes.get(&key).map(size);
    let bytes = call.staged_bytes - before.unwrap_or(0) + size(&value);
    if before.is_none() && call.writes.len() >= limits::STAGED_MESSAGES_MAX {
        let keys_max = limits::STAGED_MESSAGES_MAX;
        return Err(StateRefusal::Full(format!("one call writes at most {keys_max} keys")));
    }
    if bytes > limits::STAGED_BYTES_MAX {
        let bytes_max = limits::STAGED_BYTES_MAX;
        return Err(StateRefusal::Full(format!("one call stages at most {bytes_max} bytes")));
    }
    let grows = value.is_some();
    let replaced = call.writes.insert(key.clone(), value);
    // What the bus knows now. It is held against the bounds once more, and for good, when it is sequenced.
    if grows && let Err(full) = call.check_room(bytes) {
        match replaced {
            Some(before) => call.writes.insert(key, before),
            None => call.writes.remove(&key),
        };
        return Err(StateRefusal::Full(full.0));
    }
    call.staged_bytes = bytes;
    Ok(())
}

/// `state.scan`
pub(super) fn scan(
    mut store: StoreContextMut<'_, Guest>,
    prefix: &WasmStr,
    after: Option<&WasmStr>,
    limit: u32,
) -> wasmtime::Result<Answer<Vec<EntryRecord>>> {
    let prefix = prefix.to_str(&store)?.into_owned();
    let after = after.map(|after| after.to_str(&store).map(Cow::into_owned)).transpose()?;
    let entries = entries(store.data_mut(), &prefix, after.as_deref(), limit)?;
    let record = |(key, value): (String, Bytes)| EntryRecord { key, value: value.to_vec() };
    Ok(entries.map(|entries| entries.into_iter().map(record).collect()))
}

/// As [`scan`], with texts that stand in the host's memory.
pub(super) fn entries(
    guest: &mut Guest,
    prefix: &str,
    after: Option<&str>,
    limit: u32,
) -> wasmtime::Result<Answer<Vec<(String, Bytes)>>> {
    let read_bytes = prefix.len() + after.map_or(0, str::len);
    if read_bytes > 2 * limits::STATE_KEY_BYTES_MAX {
        let bytes_max = limits::STATE_KEY_BYTES_MAX;
        return Ok(Err(StateRefusal::InvalidKey(format!("`prefix` or `after` is longer than {bytes_max} bytes"))));
    }
    if let Err(refusal) = guest.call.charge_read(read_bytes) {
        return Ok(Err(refusal));
    }
    let limit = (limit as usize).min(limits::STATE_SCAN_ENTRIES_MAX);
    let bytes_max = guest.limiter.memory_bytes_max();
    guest.call.source()?;
    let (source, writes) = guest.call.state_parts()?;
    match merged_scan(source, writes, prefix, after, limit, bytes_max) {
        Ok(entries) => Ok(Ok(entries)),
        Err(ScanError::Unreadable(unreadable)) => Err(guest.call.fail_reading(unreadable)),
        Err(ScanError::TooLarge) => {
            guest.limiter.deny();
            Err(wasmtime::format_err!(
                "the entries of one scan are larger than the guest's memory of {bytes_max} bytes"
            ))
        }
    }
}

#[derive(Debug)]
enum ScanError {
    Unreadable(StateUnreadable),
    /// The entries have more bytes than the guest's memory could take.
    TooLarge,
}

/// Up to `limit` entries with their keys between `after` and the end of `prefix`, staged ones in place
/// of stored ones.
fn merged_scan(
    source: &mut dyn StateSource,
    staged: &StagedWrites,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
    bytes_max: usize,
) -> Result<Vec<(String, Bytes)>, ScanError> {
    let from = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    let mut staged =
        staged.range::<str, _>((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix)).peekable();
    let mut stored = Vec::new().into_iter().peekable();
    let mut cursor = after.map(str::to_owned);
    let mut exhausted = false;
    let mut entries = Vec::new();
    let mut bytes = 0;
    while entries.len() < limit {
        if stored.peek().is_none() && !exhausted {
            let wanted = (limit - entries.len()).min(SCAN_PAGE);
            let page = source.scan(prefix, cursor.as_deref(), wanted).map_err(ScanError::Unreadable)?;
            exhausted = page.len() < wanted;
            cursor = page.last().map(|(key, _)| key.clone()).or(cursor);
            stored = page.into_iter().peekable();
        }
        let staged_first = match (staged.peek(), stored.peek()) {
            (None, None) => break,
            (Some((ours, _)), Some((theirs, _))) => ours.as_str() <= theirs.as_str(),
            (ours, _) => ours.is_some(),
        };
        let entry = if staged_first {
            let (key, value) = staged.next().expect("it was peeked at");
            stored.next_if(|(theirs, _)| theirs == key);
            value.as_ref().map(|value| (key.clone(), value.clone()))
        } else {
            stored.next()
        };
        let Some(entry) = entry else { continue };
        bytes += entry.0.len() + entry.1.len();
        if bytes > bytes_max {
            return Err(ScanError::TooLarge);
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn check_key(key: &str) -> Answer<()> {
    let bytes_max = limits::STATE_KEY_BYTES_MAX;
    match key.len() {
        0 => Err(StateRefusal::InvalidKey("the key is empty".to_owned())),
        bytes if bytes > bytes_max => {
            Err(StateRefusal::InvalidKey(format!("the key has {bytes} bytes; at most {bytes_max} are allowed")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::any::Any;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::{StateFull, tests};
    use super::*;

    struct Stored(BTreeMap<String, Bytes>);

    impl StateSource for Stored {
        fn get(&mut self, key: &str) -> Result<Option<Bytes>, StateUnreadable> {
            Ok(self.0.get(key).cloned())
        }

        fn scan(
            &mut self,
            prefix: &str,
            after: Option<&str>,
            limit: usize,
        ) -> Result<Vec<(String, Bytes)>, StateUnreadable> {
            let wanted = |key: &str| key.starts_with(prefix) && after.is_none_or(|after| key > after);
            let entries = self.0.iter().filter(|(key, _)| wanted(key));
            Ok(entries.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
        }

        fn synced(&mut self) -> Option<crate::sandbox::StateSynced> {
            None
        }

        fn room(&mut self) -> u64 {
            u64::MAX
        }

        fn check_room(&mut self, _: &BTreeMap<String, Option<Bytes>>) -> Result<(), StateFull> {
            Ok(())
        }

        fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
            self
        }
    }

    fn key() -> impl Strategy<Value = String> {
        "[ab]{1,4}"
    }

    proptest! {
        #[test]
        fn a_merged_scan_is_a_scan_of_the_merged(
            stored in prop::collection::btree_map(key(), any::<u8>(), 0..30),
            staged in prop::collection::btree_map(key(), prop::option::of(any::<u8>()), 0..30),
            prefix in "[ab]{0,2}", after in prop::option::of("[ab]{0,3}"), limit in 0..40usize,
        ) {
            let value = |byte: u8| Bytes::from(vec![byte]);
            let stored: BTreeMap<_, _> = stored.into_iter().map(|(key, byte)| (key, value(byte))).collect();
            let staged: StagedWrites = staged.into_iter().map(|(key, byte)| (key, byte.map(value))).collect();
            let mut merged = stored.clone();
            for (key, value) in &staged {
                match value {
                    Some(value) => merged.insert(key.clone(), value.clone()),
                    None => merged.remove(key),
                };
            }
            let expected = Stored(merged).scan(&prefix, after.as_deref(), limit).unwrap();
            let found = merged_scan(&mut Stored(stored), &staged, &prefix, after.as_deref(), limit, usize::MAX).unwrap();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn staged_writes_are_bounded_in_count_and_bytes() {
        let mut call = tests::call();
        let value = |bytes: usize| Some(Bytes::from(vec![0; bytes]));
        // Writing a key again takes the room of what it replaces.
        for _ in 0..100 {
            assert_eq!(stage(&mut call, "k".to_owned(), value(limits::MIB)), Ok(()));
        }
        assert_eq!(call.staged_bytes, limits::MIB + 1);
        let fill = (0..7).map(|number| stage(&mut call, format!("{number}"), value(limits::MIB)));
        let refused = StateRefusal::Full("one call stages at most 8388608 bytes".to_owned());
        assert_eq!(fill.filter_map(Result::err).collect::<Vec<_>>(), [refused]);

        let mut call = tests::call();
        for number in 0..limits::STAGED_MESSAGES_MAX {
            assert_eq!(stage(&mut call, format!("{number}"), None), Ok(()));
        }
        assert_eq!(stage(&mut call, "0".to_owned(), value(1)), Ok(()), "a key that is staged already is no new one");
        let refused = stage(&mut call, "one more".to_owned(), None);
        assert_eq!(refused, Err(StateRefusal::Full("one call writes at most 1000 keys".to_owned())));
        let key = "k".repeat(limits::STATE_KEY_BYTES_MAX + 1);
        assert!(matches!(stage(&mut call, key, None), Err(StateRefusal::InvalidKey(_))));
    }

    #[test]
    fn a_state_without_room_takes_nothing_more_and_keeps_what_was_staged() {
        let mut call = tests::call_with_room(30);
        let value = |bytes| Some(Bytes::from(vec![0; bytes]));
        assert_eq!(stage(&mut call, "a".to_owned(), value(20)), Ok(()));
        assert!(matches!(stage(&mut call, "b".to_owned(), value(20)), Err(StateRefusal::Full(_))));
        assert!(matches!(stage(&mut call, "a".to_owned(), value(40)), Err(StateRefusal::Full(_))));
        assert_eq!(stage(&mut call, "c".to_owned(), None), Ok(()), "to remove needs no room");
        assert_eq!(call.writes["a"].as_ref().map(Bytes::len), Some(20));
        assert!(!call.writes.contains_key("b"));
    }

    #[test]
    fn a_scan_goes_on_past_a_page_of_deleted_entries() {
        let keys = || (0..1_000).map(|number| format!("k{number:04}"));
        let stored = keys().map(|key| (key, Bytes::from_static(b"v"))).collect();
        let staged = keys().take(990).map(|key| (key, None)).collect();
        let found = merged_scan(&mut Stored(stored), &staged, "k", None, 5, usize::MAX).unwrap();
        assert_eq!(
            found.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(),
            ["k0990", "k0991", "k0992", "k0993", "k0994"]
        );
    }

    #[test]
    fn a_scan_larger_than_the_guest_is_not_gathered() {
        let stored = (0..10).map(|number| (format!("{number}"), Bytes::from(vec![0; 100]))).collect();
        let found = merged_scan(&mut Stored(stored), &StagedWrites::new(), "", None, 10, 500);
        assert!(matches!(found, Err(ScanError::TooLarge)));
    }
}
