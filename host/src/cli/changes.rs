//! Waits until one of some files or folders changes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode};
use notify_debouncer_full::{DebounceEventResult, Debouncer, RecommendedCache, new_debouncer};

use crate::cli::failure::Failure;

/// A file that is written in pieces is one change.
const QUIET: Duration = Duration::from_millis(150);

pub(crate) struct Changes {
    changed: Receiver<Result<(), String>>,
    _watcher: Debouncer<RecommendedWatcher, RecommendedCache>,
}

impl Changes {
    /// Of files, which may not be there yet, and of folders with all that is in them. The folders of files are watched:
    /// programs replace files rather than write them. Of folders what begins with a dot does not count, nor what is in
    /// `ignored`: there a build writes, and would never come to an end.
    pub(crate) fn of(paths: &[PathBuf], ignored: &[PathBuf]) -> Result<Self, Failure> {
        let wanted: BTreeSet<PathBuf> = paths.iter().map(|path| absolute(path)).collect();
        let ignored: Vec<PathBuf> = ignored.iter().map(|path| absolute(path)).collect();
        let mut folders = BTreeMap::new();
        for path in &wanted {
            if path.is_dir() {
                folders.insert(path.clone(), RecursiveMode::Recursive);
            } else if let Some(folder) = path.parent() {
                folders.entry(folder.to_owned()).or_insert(RecursiveMode::NonRecursive);
            }
        }
        let (sender, changed) = mpsc::channel();
        let tell = move |result: DebounceEventResult| {
            let news = match result {
                Ok(events) => {
                    let meant = events
                        .iter()
                        .filter(|event| !event.kind.is_access())
                        .any(|event| event.paths.iter().any(|path| is_meant(path, &wanted, &ignored)));
                    if !meant {
                        return;
                    }
                    Ok(())
                }
                Err(errors) => Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
            };
            // Whoever waited may have gone.
            let _ = sender.send(news);
        };
        let failed = |error: notify::Error| Failure::Failed(format!("changes cannot be watched: {error}"));
        let mut watcher = new_debouncer(QUIET, None, tell).map_err(failed)?;
        for (folder, mode) in folders {
            watcher.watch(folder, mode).map_err(failed)?;
        }
        Ok(Self { changed, _watcher: watcher })
    }

    /// Returns after the next change, or at once after one that came since the last call.
    pub(crate) fn wait(&self) -> Result<(), Failure> {
        let mut news =
            self.changed.recv().map_err(|_| Failure::Failed("changes are not watched any more".to_owned()))?;
        // What came meanwhile is seen by the same look.
        while let Ok(more) = self.changed.try_recv() {
            news = more;
        }
        news.map_err(|error| Failure::Failed(format!("changes cannot be watched: {error}")))
    }
}

fn is_meant(path: &Path, wanted: &BTreeSet<PathBuf>, ignored: &[PathBuf]) -> bool {
    if wanted.contains(path) {
        return true;
    }
    let is_hidden = |within: &Path| within.iter().any(|name| name.as_encoded_bytes().starts_with(b"."));
    let mut folders = path.ancestors().filter(|folder| wanted.contains(*folder));
    folders.any(|folder| path.strip_prefix(folder).is_ok_and(|within| !is_hidden(within)))
        && !ignored.iter().any(|folder| path.starts_with(folder))
}

/// The path under which the system tells of changes.
fn absolute(path: &Path) -> PathBuf {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    path.file_name().map_or_else(|| folder.clone(), |name| folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_folder_everything_counts_but_what_is_hidden_and_what_a_build_writes() {
        let wanted: BTreeSet<PathBuf> = ["/p", "/p/.env", "/q/one.toml"].map(PathBuf::from).into();
        let ignored = [PathBuf::from("/p/build")];
        let meant = |path: &str| is_meant(Path::new(path), &wanted, &ignored);
        for path in ["/p", "/p/handle.go", "/p/sub/other.go", "/p/.env", "/p/builder.go", "/q/one.toml"] {
            assert!(meant(path), "{path}");
        }
        for path in ["/p/.git/index", "/p/.sandpost/data/log", "/p/sub/.x.swp", "/p/build/x.wasm", "/q/two.toml", "/"] {
            assert!(!meant(path), "{path}");
        }
    }
}
