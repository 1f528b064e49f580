//! What a guest may import: the four interfaces of the contract, and WASI 0.2 with nothing behind it but
//! clocks, random numbers, the output that is kept as evidence, and the HTTP that its manifest grants.

use std::borrow::Cow;

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, WasmList, WasmStr};
use wasmtime_wasi::p2::bindings::io::error::Error as IoError;
use wasmtime_wasi_http::p2::bindings::http::{outgoing_handler, types as http_types};
use wasmtime_wasi_http::{WasiHttp, WasiHttpView};

use super::guest::{Call, Guest};
use super::records::{EntryRecord, Level, Outgoing, PublishRefusal, StateRefusal};
use super::{http, platforms, publish, shim, state};
use crate::limits::GUEST_LOG_BYTES_MAX;

/// What a component may import: interfaces, or whole packages of WASI 0.2. Toolchains import
/// `wasi:filesystem` and `wasi:sockets` unasked: there is no folder to open, and every socket and look-up
/// of a name is refused. `wasi:http` may be imported without any grant, so that one build serves manifests with and
/// without one; then every request is refused.
pub(super) const ALLOWED: [&str; 13] = [
    shim::HOST,
    "sandpost:consumer/types@0.1.0",
    "sandpost:consumer/bus@0.1.0",
    "sandpost:consumer/state@0.1.0",
    "sandpost:consumer/config@0.1.0",
    "sandpost:consumer/log@0.1.0",
    "wasi:cli/*@0.2",
    "wasi:clocks/*@0.2",
    "wasi:io/*@0.2",
    "wasi:random/*@0.2",
    "wasi:filesystem/*@0.2",
    "wasi:sockets/*@0.2",
    "wasi:http/*@0.2",
];

/// Whether an import is one of [`ALLOWED`].
pub(super) fn is_allowed(import: &str) -> bool {
    ALLOWED.iter().any(|allowed| match allowed.strip_suffix("*@0.2") {
        Some(package) => {
            import.starts_with(package)
                && import.split_once('@').is_some_and(|(_, version)| version.starts_with("0.2."))
        }
        None => import == *allowed,
    }) || platforms::IMPORTS.contains(&import)
}

type Store<'a> = StoreContextMut<'a, Guest>;

/// Defines all imports. The types are checked against the component's when it is loaded.
pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    let options = wasmtime_wasi_http::p2::bindings::LinkOptions::default();
    outgoing_handler::add_to_linker::<_, WasiHttp>(linker, Guest::sending)?;
    http_types::add_to_linker::<_, WasiHttp>(linker, &(&options).into(), Guest::http)?;
    // wasmtime's own knows only codes, and what a body breaks off with is none yet.
    linker.allow_shadowing(true);
    linker
        .instance("wasi:http/types@0.2.12")?
        .func_wrap("http-error-code", |mut store: Store<'_>, (error,): (Resource<IoError>,)| {
            Ok((http::code_of(store.data_mut(), &error)?,))
        })?;
    linker.allow_shadowing(false);
    shim::link(linker)?;
    platforms::link(linker)?;
    linker.instance("sandpost:consumer/types@0.1.0")?;

    let mut bus = linker.instance("sandpost:consumer/bus@0.1.0")?;
    bus.func_wrap("publish", |store: Store<'_>, (event,): (Outgoing,)| {
        Ok::<(Result<(), PublishRefusal>,), _>((publish::publish(store, &event)?,))
    })?;

    let mut state = linker.instance("sandpost:consumer/state@0.1.0")?;
    state.func_wrap("get", |store: Store<'_>, (key,): (WasmStr,)| {
        Ok::<(Result<Option<Vec<u8>>, StateRefusal>,), _>((state::get(store, &key)?,))
    })?;
    state.func_wrap("set", |store: Store<'_>, (key, value): (WasmStr, WasmList<u8>)| {
        Ok::<(Result<(), StateRefusal>,), _>((state::set(store, &key, &value)?,))
    })?;
    state.func_wrap("delete", |store: Store<'_>, (key,): (WasmStr,)| {
        Ok::<(Result<(), StateRefusal>,), _>((state::delete(store, &key)?,))
    })?;
    state.func_wrap("scan", |store: Store<'_>, (prefix, after, limit): (WasmStr, Option<WasmStr>, u32)| {
        let entries = state::scan(store, &prefix, after.as_ref(), limit)?;
        Ok::<(Result<Vec<EntryRecord>, StateRefusal>,), _>((entries,))
    })?;

    let mut config = linker.instance("sandpost:consumer/config@0.1.0")?;
    config.func_wrap("get", |store: Store<'_>, (name,): (WasmStr,)| {
        let name = name.to_str(&store)?;
        let version = &store.data().version;
        let plain = version.config.get(&*name).cloned();
        Ok((plain.or_else(|| version.secrets.placeholder(&name).map(str::to_owned)),))
    })?;

    let mut log = linker.instance("sandpost:consumer/log@0.1.0")?;
    log.func_wrap("write", |store: Store<'_>, (level, text): (Level, WasmStr)| write_log(store, level, &text))?;
    Ok(())
}

/// Emits a tracing event of a consumer's, at a level that is known at compile time. The field is named
/// `delivery`, because to tracing `message` is the text.
macro_rules! consumer_event {
    ($level:ident, $guest:expr, $text:expr) => {{
        let (consumer, call) = (&*$guest.version.consumer, &$guest.call);
        tracing::event!(
            target: "consumer",
            tracing::Level::$level,
            consumer,
            subscription = &*call.subscription,
            delivery = %format_args!("{}@{}", call.topic, call.sequence),
            "{}",
            $text
        );
    }};
}

/// `log.write`
fn write_log(mut store: Store<'_>, level: Level, text: &WasmStr) -> wasmtime::Result<()> {
    let bytes = log_line(store.data(), level, &text.to_str(&store)?);
    charge_line(&mut store.data_mut().call, bytes);
    Ok(())
}

/// Logs a line that stands in the host's memory.
pub(super) fn log_text(guest: &mut Guest, level: Level, text: &str) {
    let bytes = log_line(guest, level, text);
    charge_line(&mut guest.call, bytes);
}

/// Answers how many bytes were logged, or `None` where the call has logged as much as it may.
fn log_line(guest: &Guest, level: Level, text: &str) -> Option<usize> {
    if guest.call.log_bytes + text.len() > GUEST_LOG_BYTES_MAX {
        return None;
    }
    let line = printable(text);
    match level {
        Level::Trace => consumer_event!(TRACE, guest, line),
        Level::Debug => consumer_event!(DEBUG, guest, line),
        Level::Info => consumer_event!(INFO, guest, line),
        Level::Warn => consumer_event!(WARN, guest, line),
        Level::Error => consumer_event!(ERROR, guest, line),
    }
    Some(text.len())
}

fn charge_line(call: &mut Call, bytes: Option<usize>) {
    match bytes {
        // An empty line costs something too.
        Some(bytes) => call.log_bytes += bytes.max(16),
        None => call.log_lines_dropped += 1,
    }
}

/// Tells once, at the end of a call, how many of its lines were dropped.
pub(super) fn report_dropped_lines(guest: &Guest) {
    let lines = guest.call.log_lines_dropped;
    if lines > 0 {
        let text = format_args!("{lines} lines were dropped: one call logs at most {GUEST_LOG_BYTES_MAX} bytes");
        consumer_event!(WARN, guest, text);
    }
}

/// A guest's text without what would forge lines or colours in a terminal.
fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allowed_imports_are_told_apart() {
        for good in ["sandpost:consumer/state@0.1.0", "wasi:cli/stderr@0.2.6", "wasi:sockets/tcp@0.2.0"] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in ["sandpost:consumer/state@0.2.0", "wasi:http/types@0.3.0", "wasi:cli/stderr@0.3.0", "env"] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }

    #[test]
    fn a_line_cannot_forge_another() {
        assert_eq!(printable("plain \u{fc}"), "plain \u{fc}");
        assert_eq!(printable("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
    }
}
