//! `sandpost compact`: gives the free space in a log's file back to the disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::{HumanBytes, ProgressBar};
use serde_json::json;

use super::failure::Failure;
use super::output::Output;
use crate::config::{Config, Given};
use crate::log::redb_log::{OpenOptions, RedbLog};

/// Return free space of a data folder to its disk, while no bus runs on it
///
/// What retention frees in the log's file is used again by what comes next, so a file never shrinks by
/// itself while a bus runs. A start compacts by itself where a large file is mostly free; this does it at a
/// time of your choosing. It is refused while a bus uses the folder, and may be interrupted: the file is
/// whole at any moment.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(super) struct CompactArgs {
    /// The settings file [default: sandpost.toml, where there is one]
    #[arg(long, value_name = "FILE", env = "SANDPOST_CONFIG")]
    config: Option<PathBuf>,
    /// The data folder [default: as for serve]
    #[arg(long, value_name = "FOLDER")]
    data: Option<String>,
}

pub(super) fn run(args: &CompactArgs, output: &Output) -> Result<(), Failure> {
    let flags: Vec<_> = args.data.clone().map(|data| ("data", data)).into_iter().collect();
    let given = Given {
        flags: &flags,
        variable: &|name| std::env::var_os(name),
        file: args.config.as_deref(),
        accept_unsynced: false,
    };
    let config = Config::load(&given).map_err(|error| Failure::Usage(error.to_string()))?;
    let file = config.data.join("log.redb");
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(100));
    bar.set_message(format!("compacting {} of {}", size(&file), file.display()));
    let compacted = RedbLog::compact(&OpenOptions::new(&config.data));
    bar.finish_and_clear();
    let compacted = compacted.map_err(|error| Failure::Failed(error.to_string()))?;
    let (before, after) = (compacted.before_bytes, compacted.after_bytes);
    output.done(
        &json!({ "file": file, "before_bytes": before, "after_bytes": after }),
        &format!("{}: {} before, {} now", file.display(), HumanBytes(before), HumanBytes(after)),
    )
}

fn size(file: &Path) -> HumanBytes {
    HumanBytes(std::fs::metadata(file).map_or(0, |metadata| metadata.len()))
}
