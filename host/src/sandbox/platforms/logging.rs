//! `wasi:logging/logging`: lines in the bus's log.

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, WasmStr};

use crate::sandbox::guest::Guest;
use crate::sandbox::imports::log_text;
use crate::sandbox::records::Level;

pub(super) const UNVERSIONED: &str = "wasi:logging/logging";
pub(super) const DRAFT: &str = "wasi:logging/logging@0.1.0-draft";

#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "lifting reads the number, and constructs no variant by name")]
enum LoggingLevel {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
    #[component(name = "critical")]
    Critical,
}

pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    for name in [UNVERSIONED, DRAFT] {
        linker.instance(name)?.func_wrap(
            "log",
            |mut store: StoreContextMut<'_, Guest>, (level, context, message): (LoggingLevel, WasmStr, WasmStr)| {
                let (context, message) = (context.to_str(&store)?, message.to_str(&store)?);
                let text = if context.is_empty() { message.into_owned() } else { format!("{context}: {message}") };
                let level = match level {
                    LoggingLevel::Trace => Level::Trace,
                    LoggingLevel::Debug => Level::Debug,
                    LoggingLevel::Info => Level::Info,
                    LoggingLevel::Warn => Level::Warn,
                    LoggingLevel::Error | LoggingLevel::Critical => Level::Error,
                };
                log_text(store.data_mut(), level, &text);
                Ok(())
            },
        )?;
    }
    Ok(())
}
