//! Measures Sandpost beside NATS JetStream and the disk, in one run on one machine, and says what was asked and what came
//! out. `make bench` builds everything, and runs it; docs/benchmarks.md says what each row is.
//!
//! Every round measures the disk, then each side in turn, so that a machine that is slow for a while is slow for all.
//! Compared are medians, and ratios within a round.

#![allow(clippy::print_stdout, reason = "the table is what a benchmark is for")]

mod bus;
mod disk;
mod figures;
mod nats;
mod plot;
mod process;
mod report;
mod rows;
mod sender;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use example_harness::Places;

use figures::Figures;
use rows::Work;

/// Measures Sandpost beside NATS JetStream and the disk.
#[derive(clap::Parser)]
struct Options {
    #[command(flatten)]
    places: Places,
    /// The binary of the NATS server, 2.15
    #[arg(long, value_name = "FILE")]
    nats_server: PathBuf,
    /// What the benchmark of the engine measured, as it wrote it
    #[arg(long, value_name = "FILE")]
    engine: Option<PathBuf>,
    /// Rounds that are measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Less of everything, in under five minutes: figures to look at, and not to quote
    #[arg(long)]
    quick: bool,
    /// Only rows whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// The folder for the figures (`figures.json`) and the picture (`figures.svg`)
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

fn main() -> Result<()> {
    let options = Options::parse();
    std::fs::create_dir_all(&options.out)?;
    let work = if options.quick { Work::quick() } else { Work::full() };
    let rows = rows::all();
    let wanted = |name: &str| options.only.as_ref().is_none_or(|text| name.contains(text.as_str()));
    let mut figures = Figures::default();
    if let Some(file) = &options.engine {
        figures.read(file).with_context(|| format!("the engine's figures in {}", file.display()))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let rig = rows::Rig { places: &options.places, nats_server: &options.nats_server, runtime: &runtime, work };
    let mut unmeasured = Vec::new();
    for round in 1..=options.rounds {
        for row in rows.iter().filter(|row| wanted(row.name)) {
            if round > 1 && row.once {
                continue;
            }
            eprintln!("round {round} of {}: {}", options.rounds, row.name);
            disk::measure(&mut figures)?;
            // What could not be measured is no reason to throw away what was.
            if let Err(error) = (row.measure)(&rig, &mut figures) {
                eprintln!("{} could not be measured: {error:#}", row.name);
                unmeasured.push(row.name);
            }
        }
    }
    let report = report::Report::new(&figures, options.quick);
    print!("{}", report.table());
    report.write(&figures, &options.out)?;
    println!("\nwritten: {0}/figures.json, {0}/figures.md and {0}/figures.svg", options.out.display());
    ensure!(unmeasured.is_empty(), "not everything could be measured: {}", unmeasured.join(", "));
    Ok(())
}
