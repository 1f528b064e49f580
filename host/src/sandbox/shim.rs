//! What stands behind the shim of wrapped modules (`shim/preview1.wat`, `shim/abort.wat`): the bus's side of
//! `shim/shim.wit`.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, WasmList};
use wasmtime_wasi::I32Exit;

use super::guest::Guest;

pub(super) const HOST: &str = "sandpost:shim/host";

/// A text that is longer is cut; what is thrown is evidence, and evidence is short.
const ABORT_UNITS_MAX: usize = 2_048;

type Store<'a> = StoreContextMut<'a, Guest>;

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut host = linker.instance(HOST)?;
    host.func_wrap("print", |mut store: Store<'_>, (file, bytes): (u32, WasmList<u8>)| {
        let output = store.data_mut().output(file);
        output.keep(bytes.as_le_slice(&store));
        Ok(())
    })?;
    host.func_wrap("read", |mut store: Store<'_>, (bytes_max,): (u32,)| {
        let command = store.data_mut().command.as_mut();
        Ok((command.map(|command| command.read(bytes_max as usize).to_vec()).unwrap_or_default(),))
    })?;
    host.func_wrap("args-size", |store: Store<'_>, (): ()| {
        Ok((store.data().command.as_ref().map_or(0, |command| command.args_size()),))
    })?;
    host.func_wrap("environ-size", |store: Store<'_>, (): ()| {
        Ok((store.data().command.as_ref().map_or(0, |command| command.environ_size()),))
    })?;
    host.func_wrap("args-word", |store: Store<'_>, (at,): (u32,)| {
        Ok((store.data().command.as_ref().map_or(0, |command| command.args_word(at)),))
    })?;
    host.func_wrap("environ-word", |store: Store<'_>, (at,): (u32,)| {
        Ok((store.data().command.as_ref().map_or(0, |command| command.environ_word(at)),))
    })?;
    host.func_wrap("clock", |_: Store<'_>, (id,): (u32,)| {
        let elapsed = match id {
            0 => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            _ => BEGAN.elapsed(),
        };
        Ok((u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),))
    })?;
    host.func_wrap("random", |_: Store<'_>, (): ()| {
        Ok((getrandom::u64().map_err(|error| wasmtime::format_err!("no random numbers: {error}"))?,))
    })?;
    host.func_wrap_async("sleep", |_: Store<'_>, (nanoseconds,): (u64,)| {
        Box::new(async move {
            // Longer than any call may last, and short enough for a timer.
            let time = Duration::from_nanos(nanoseconds).min(crate::limits::GUEST_TIMEOUT_MAX * 2);
            tokio::time::sleep(time).await;
            Ok(())
        })
    })?;
    host.func_wrap("exit", |_: Store<'_>, (code,): (u32,)| -> wasmtime::Result<()> {
        Err(wasmtime::Error::from(I32Exit(code.cast_signed())))
    })?;
    host.func_wrap(
        "abort",
        |store: Store<'_>,
         (message, file, line, column): (WasmList<u16>, WasmList<u16>, u32, u32)|
         -> wasmtime::Result<()> {
            let text = |units: &WasmList<u16>| {
                let units = units.as_le_slice(&store);
                String::from_utf16_lossy(&units[..units.len().min(ABORT_UNITS_MAX)])
            };
            let (message, file) = (text(&message), text(&file));
            let message = if message.is_empty() { "aborted" } else { &message };
            let place = if file.is_empty() { String::new() } else { format!(" in {file}({line}:{column})") };
            Err(wasmtime::format_err!("abort: {message}{place}"))
        },
    )?;
    Ok(())
}

/// What monotonic clocks count from.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
