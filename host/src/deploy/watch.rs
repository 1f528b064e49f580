//! Told by the system when the plugin folder changes. Only a hint: what changed is found by looking.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode};
use notify_debouncer_full::{DebounceEventResult, Debouncer, NoCache, new_debouncer_opt};

use super::inbox::FolderId;

/// Follows one folder by its path, also where another folder takes that path.
pub(super) struct Watch {
    folder: PathBuf,
    /// Changes are gathered for this long.
    quiet: Duration,
    on_change: Arc<dyn Fn() + Send + Sync>,
    /// What is watched, and by what; the watcher is absent where the system refused it.
    watched: Option<(FolderId, Option<Debouncer<RecommendedWatcher, NoCache>>)>,
}

impl Watch {
    pub(super) fn new(folder: PathBuf, quiet: Duration, on_change: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self { folder, quiet, on_change, watched: None }
    }

    /// Watches the folder that has the path now. Answers whether changes will be told.
    pub(super) fn follow(&mut self, id: FolderId) -> bool {
        if self.watched.as_ref().is_none_or(|(watched, _)| *watched != id) {
            let watcher = self.watch().inspect_err(|error| {
                let folder = self.folder.display();
                tracing::warn!(%folder, %error, "the plugin folder cannot be watched, and is looked at often instead");
            });
            self.watched = Some((id, watcher.ok()));
        }
        self.watched.as_ref().is_some_and(|(_, watcher)| watcher.is_some())
    }

    fn watch(&self) -> notify::Result<Debouncer<RecommendedWatcher, NoCache>> {
        let on_change = self.on_change.clone();
        let told = move |result: DebounceEventResult| {
            // Looking at the folder opens it and its files, which must not be a reason to look again.
            let changes = |kind: &EventKind| !kind.is_access();
            if result.map_or(true, |events| events.iter().any(|event| changes(&event.kind))) {
                on_change();
            }
        };
        let mut debouncer = new_debouncer_opt(self.quiet, None, told, NoCache, notify::Config::default())?;
        debouncer.watch(&self.folder, RecursiveMode::NonRecursive)?;
        Ok(debouncer)
    }
}
