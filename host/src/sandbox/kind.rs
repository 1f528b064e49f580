//! Which kind of consumer a file is. It is told by looking at the file, and needs no word in the manifest.

use std::fmt;

/// What a consumer was built as, and so how it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A component of the world `sandpost:consumer`.
    Component,
    /// A core module that exports `memory`, `handle` and `cabi_realloc`, as binary or as text. It is made a component
    /// when it is loaded.
    Module,
    /// A WASI command, one process run for each message: a core module with `_start`, or a component with `wasi:cli/run`.
    Command,
    /// A component with the handler of another platform, as it is.
    WasmCloud,
    WasiMessaging,
    Spin,
}

impl Kind {
    /// For people, after "it is a".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Component => "component",
            Self::Module => "core module",
            Self::Command => "WASI command",
            Self::WasmCloud => "wasmcloud:messaging@0.2.0 handler",
            Self::WasiMessaging => "wasi:messaging@0.2.0-draft handler",
            Self::Spin => "fermyon:spin/inbound-redis handler",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
