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
}

impl Kind {
    /// For people, after "it is a".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Component => "component",
            Self::Module => "core module",
            Self::Command => "WASI command",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
