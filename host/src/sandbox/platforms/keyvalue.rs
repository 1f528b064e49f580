//! `wasi:keyvalue`: the consumer's state, in the transaction of its acknowledgement.
//!
//! The bucket `default`, and one without a name, has the state's keys as they are; the keys of any other begin with its name
//! and `/`.

use bytes::Bytes;
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Linker, LinkerInstance, Lower, Resource, ResourceType};

use crate::limits::STATE_SCAN_ENTRIES_MAX;
use crate::sandbox::guest::Guest;
use crate::sandbox::records::StateRefusal;
use crate::sandbox::state;

pub(super) const STORE: &str = "wasi:keyvalue/store@0.2.0-draft";
pub(super) const STORE_DRAFT2: &str = "wasi:keyvalue/store@0.2.0-draft2";
pub(super) const ATOMICS: &str = "wasi:keyvalue/atomics@0.2.0-draft";
pub(super) const BATCH: &str = "wasi:keyvalue/batch@0.2.0-draft";

/// Of one instance's bucket: positions in lists of keys that it was told as numbers.
const CURSORS_MAX: usize = 1_000;

struct Bucket {
    prefix: String,
    cursors: Vec<String>,
}

#[derive(Clone, Debug, ComponentType, Lower)]
#[component(variant)]
#[expect(dead_code, reason = "two of them never happen here, and are part of the interface")]
enum KeyvalueError {
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

impl From<StateRefusal> for KeyvalueError {
    fn from(refusal: StateRefusal) -> Self {
        Self::Other(refusal.text().to_owned())
    }
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct KeyResponse<C> {
    keys: Vec<String>,
    cursor: Option<C>,
}

type Store<'a> = StoreContextMut<'a, Guest>;
type Answer<T> = (Result<T, KeyvalueError>,);

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut store = linker.instance(STORE)?;
    link_bucket(&mut store)?;
    store.func_wrap(
        "[method]bucket.list-keys",
        |mut store: Store<'_>, (bucket, cursor): (Resource<Bucket>, Option<u64>)| {
            let after = match cursor {
                None => None,
                Some(cursor) => {
                    let known = &store.data_mut().table().get(&bucket)?.cursors;
                    let Some(after) = usize::try_from(cursor).ok().and_then(|cursor| known.get(cursor)) else {
                        let text = format!("there is no cursor {cursor}");
                        return Ok::<Answer<KeyResponse<u64>>, _>((Err(KeyvalueError::Other(text)),));
                    };
                    Some(after.clone())
                }
            };
            let (keys, more) = match list_keys(store.data_mut(), &bucket, after)? {
                Ok(listed) => listed,
                Err(error) => return Ok((Err(error),)),
            };
            let bucket = store.data_mut().table().get_mut(&bucket)?;
            let cursor = keys.last().filter(|_| more && bucket.cursors.len() < CURSORS_MAX).map(|last| {
                bucket.cursors.push(last.clone());
                bucket.cursors.len() as u64 - 1
            });
            Ok((Ok(KeyResponse { keys, cursor }),))
        },
    )?;

    let mut store = linker.instance(STORE_DRAFT2)?;
    link_bucket(&mut store)?;
    store.func_wrap(
        "[method]bucket.list-keys",
        |mut store: Store<'_>, (bucket, cursor): (Resource<Bucket>, Option<String>)| {
            let answer = list_keys(store.data_mut(), &bucket, cursor)?.map(|(keys, more)| {
                let cursor = keys.last().filter(|_| more).cloned();
                KeyResponse { keys, cursor }
            });
            Ok::<Answer<KeyResponse<String>>, _>((answer,))
        },
    )?;

    linker.instance(ATOMICS)?.func_wrap(
        "increment",
        |mut store: Store<'_>, (bucket, key, delta): (Resource<Bucket>, String, u64)| {
            let key = key_in(store.data_mut(), &bucket, key)?;
            Ok::<Answer<u64>, _>((increment(store.data_mut(), key, delta)?,))
        },
    )?;

    let mut batch = linker.instance(BATCH)?;
    batch.func_wrap("get-many", |mut store: Store<'_>, (bucket, keys): (Resource<Bucket>, Vec<String>)| {
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            let inner = key_in(store.data_mut(), &bucket, key.clone())?;
            match state::value_of(store.data_mut(), &inner)? {
                Ok(value) => values.push(value.map(|value| (key, value.to_vec()))),
                Err(refusal) => return Ok::<Answer<Vec<Option<(String, Vec<u8>)>>>, _>((Err(refusal.into()),)),
            }
        }
        Ok((Ok(values),))
    })?;
    batch.func_wrap(
        "set-many",
        |mut store: Store<'_>, (bucket, entries): (Resource<Bucket>, Vec<(String, Vec<u8>)>)| {
            for (key, value) in entries {
                let key = key_in(store.data_mut(), &bucket, key)?;
                if let Err(refusal) = state::write(store.data_mut(), key, Some(value.into()))? {
                    return Ok::<Answer<()>, _>((Err(refusal.into()),));
                }
            }
            Ok((Ok(()),))
        },
    )?;
    batch.func_wrap("delete-many", |mut store: Store<'_>, (bucket, keys): (Resource<Bucket>, Vec<String>)| {
        for key in keys {
            let key = key_in(store.data_mut(), &bucket, key)?;
            if let Err(refusal) = state::write(store.data_mut(), key, None)? {
                return Ok::<Answer<()>, _>((Err(refusal.into()),));
            }
        }
        Ok((Ok(()),))
    })
}

/// All of a store but its list of keys, of which there are two forms.
fn link_bucket(store: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    store.resource("bucket", ResourceType::host::<Bucket>(), |mut store, bucket| {
        store.data_mut().table().delete(Resource::<Bucket>::new_own(bucket))?;
        Ok(())
    })?;
    store.func_wrap("open", |mut store: Store<'_>, (identifier,): (String,)| {
        let prefix = match identifier.as_str() {
            "" | "default" => String::new(),
            other => format!("{other}/"),
        };
        let bucket = store.data_mut().table().push(Bucket { prefix, cursors: Vec::new() })?;
        Ok::<Answer<Resource<Bucket>>, _>((Ok(bucket),))
    })?;
    store.func_wrap("[method]bucket.get", |mut store: Store<'_>, (bucket, key): (Resource<Bucket>, String)| {
        let key = key_in(store.data_mut(), &bucket, key)?;
        let value = state::value_of(store.data_mut(), &key)?;
        Ok::<Answer<Option<Vec<u8>>>, _>((value.map(|value| value.map(|value| value.to_vec())).map_err(Into::into),))
    })?;
    store.func_wrap(
        "[method]bucket.set",
        |mut store: Store<'_>, (bucket, key, value): (Resource<Bucket>, String, Vec<u8>)| {
            let key = key_in(store.data_mut(), &bucket, key)?;
            let written = state::write(store.data_mut(), key, Some(value.into()))?;
            Ok::<Answer<()>, _>((written.map_err(Into::into),))
        },
    )?;
    store.func_wrap("[method]bucket.delete", |mut store: Store<'_>, (bucket, key): (Resource<Bucket>, String)| {
        let key = key_in(store.data_mut(), &bucket, key)?;
        Ok::<Answer<()>, _>((state::write(store.data_mut(), key, None)?.map_err(Into::into),))
    })?;
    store.func_wrap("[method]bucket.exists", |mut store: Store<'_>, (bucket, key): (Resource<Bucket>, String)| {
        let key = key_in(store.data_mut(), &bucket, key)?;
        let value = state::value_of(store.data_mut(), &key)?;
        Ok::<Answer<bool>, _>((value.map(|value| value.is_some()).map_err(Into::into),))
    })
}

fn key_in(guest: &mut Guest, bucket: &Resource<Bucket>, key: String) -> wasmtime::Result<String> {
    let prefix = &guest.table().get(bucket)?.prefix;
    Ok(if prefix.is_empty() { key } else { format!("{prefix}{key}") })
}

/// A page of keys after this one, and whether there may be more.
fn list_keys(
    guest: &mut Guest,
    bucket: &Resource<Bucket>,
    after: Option<String>,
) -> wasmtime::Result<Result<(Vec<String>, bool), KeyvalueError>> {
    let prefix = guest.table().get(bucket)?.prefix.clone();
    let after = after.map(|after| format!("{prefix}{after}"));
    let limit = u32::try_from(STATE_SCAN_ENTRIES_MAX).unwrap_or(u32::MAX);
    let entries = match state::entries(guest, &prefix, after.as_deref(), limit)? {
        Ok(entries) => entries,
        Err(refusal) => return Ok(Err(refusal.into())),
    };
    let more = entries.len() == STATE_SCAN_ENTRIES_MAX;
    Ok(Ok((entries.into_iter().map(|(key, _)| key[prefix.len()..].to_owned()).collect(), more)))
}

/// A number is kept as decimal text, as other languages would read it.
fn increment(guest: &mut Guest, key: String, delta: u64) -> wasmtime::Result<Result<u64, KeyvalueError>> {
    let value = match state::value_of(guest, &key)? {
        Ok(value) => value,
        Err(refusal) => return Ok(Err(refusal.into())),
    };
    let number = match &value {
        None => Some(0),
        Some(value) => std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok()),
    };
    let Some(sum) = number.and_then(|number| number.checked_add(delta)) else {
        return Ok(Err(KeyvalueError::Other(format!(
            "the value of `{key}` is no number that {delta} can be added to"
        ))));
    };
    let written = state::write(guest, key, Some(Bytes::from(sum.to_string())))?;
    Ok(written.map(|()| sum).map_err(Into::into))
}
