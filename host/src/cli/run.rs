//! `sandpost run`: one event through a consumer, with no bus.

mod event;
mod lines;
mod report;
mod state;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;

use super::changes::Changes;
use super::failure::Failure;
use super::output::Output;
use super::workbench::{self, Workbench};
use crate::limits::{COMPONENT_BYTES_MAX, MESSAGE_DATA_BYTES_MAX};
use crate::message::Millis;
use crate::outcome::Outcome;
use crate::policy::Manifest;
use crate::sandbox::{Called, Component, Instance, Offer, Program};
use crate::topic::TopicFilter;

/// Of an event as a file: many times what a message may have, for Base64, attributes and a dead letter's evidence are in it.
const EVENT_BYTES_MAX: usize = 64 << 20;

/// Run one event through a consumer, with no bus.
///
/// Printed is how the call ended, what the consumer logged, published and changed in its state, how long it took and how
/// much memory it used. Nothing of it goes anywhere, but for HTTP requests that the manifest grants: those are made.
///
/// EVENT is a file, or `-` for stdin: a CloudEvent in the JSON format; what `dead-letters show ID --json` prints, which is
/// that delivery once more; or any other bytes, which are then the data of a message that the options describe.
///
/// The manifest is the file of the same stem beside the consumer, or what --manifest names. Without one, the consumer may
/// publish to any topic, and has no configuration.
///
/// The exit code is 0 where the message is acknowledged, and 7 where it is not.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sandpost run email.wasm events/order.json
  echo '{\"id\": \"o-1\"}' | sandpost run hello.wat - --topic order.placed --key customer-7
  sandpost dead-letters show email:120 --json | sandpost run email.wasm -
  sandpost run email.wasm events/order.json --watch")]
pub(super) struct RunArgs {
    /// The consumer: a .wasm file of any kind, or a .wat file
    #[arg(value_name = "FILE")]
    consumer: PathBuf,
    /// The event, or `-` for stdin
    event: PathBuf,
    /// The manifest; otherwise the file of the same stem beside the consumer
    #[arg(long, value_name = "FILE.toml")]
    manifest: Option<PathBuf>,
    /// The subscription of the manifest that the message is for; the first one, or that of the dead letter
    #[arg(long, value_name = "NAME")]
    subscription: Option<String>,
    /// A file with the consumer's state in JSON, which is read before, and written where the message is acknowledged
    #[arg(long, value_name = "FILE.json")]
    state: Option<PathBuf>,
    #[command(flatten)]
    given: event::Given,
    /// Have the same instance handle the event so often, each time with the state of the beginning, and tell the median time
    /// of a call after the first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=1_000_000), conflicts_with = "watch")]
    times: Option<u32>,
    /// Run again whenever the consumer, the event or the manifest changes
    #[arg(long)]
    watch: bool,
}

/// All that one run needs from files.
struct Inputs {
    name: String,
    component: Component,
    manifest: Manifest,
    /// Whether there was a manifest.
    manifest_path: Option<PathBuf>,
    compiled_in: Duration,
    event: Vec<u8>,
}

pub(super) fn run(args: &RunArgs, output: &Output) -> Result<(), Failure> {
    let workbench = Workbench::new()?;
    if !args.watch {
        let outcome = once(args, &workbench, output)?;
        return if outcome == Outcome::Acked { Ok(()) } else { Err(Failure::NotAcked) };
    }
    if args.event == Path::new("-") {
        return Err(Failure::Usage("--watch needs the event in a file: stdin is read once".to_owned()));
    }
    let mut paths = vec![args.consumer.clone(), args.event.clone()];
    paths.push(args.manifest.clone().unwrap_or_else(|| args.consumer.with_extension("toml")));
    let changes = Changes::of(&paths, &[])?;
    loop {
        match once(args, &workbench, output) {
            Ok(_) => {}
            Err(Failure::OutputClosed) => return Ok(()),
            // Half a build is no reason to stop watching.
            Err(failure) => drop(failure.report(output.json)),
        }
        if !output.json {
            output.line(format!("\nwaiting for a change of {}", args.consumer.display()))?;
        }
        changes.wait()?;
    }
}

fn once(args: &RunArgs, workbench: &Workbench, output: &Output) -> Result<Outcome, Failure> {
    let inputs = read(args, workbench)?;
    let now_ms = now_ms();
    let spec = inputs.manifest.subscriptions.first().map(|spec| spec.name.as_str());
    let recorded = event::read(&inputs.event, &args.given, &inputs.manifest, now_ms).map_err(Failure::Usage)?;
    let name = args.subscription.as_deref().or(recorded.subscription.as_deref()).or(spec).unwrap_or(&inputs.name);
    let spec = inputs.manifest.subscriptions.iter().find(|spec| spec.name == name);
    if spec.is_none() && args.subscription.is_some() {
        let names: Vec<_> = inputs.manifest.subscriptions.iter().map(|spec| spec.name.as_str()).collect();
        return Err(Failure::Usage(format!("the manifest has no subscription `{name}`; it has {}", names.join(", "))));
    }
    let policy = spec.map(|spec| spec.policy.clone()).unwrap_or_default();
    let offer = recorded.offer(name, &policy, now_ms);
    let program = Program::new(inputs.name.as_str().into(), inputs.component.clone(), &inputs.manifest)
        .map_err(|error| Failure::Failed(error.to_string()))?;
    let before = args.state.as_deref().map(state::read).transpose().map_err(Failure::Failed)?.unwrap_or_default();

    let lines = lines::Lines::default();
    let source = Box::new(state::Memory::new(before.clone()));
    let mut slot = None;
    let call = program.call(&mut slot, &recorded.message, &offer, source, MESSAGE_DATA_BYTES_MAX);
    let called = lines.gather(|| workbench.block_on(call));
    let called: Called = called.map_err(|error| Failure::Failed(format!("the call could not be made: {error}")))?;
    let warm = match args.times {
        Some(times) if slot.is_some() => Some(warm(times, &mut slot, &program, &recorded, &offer, &before, workbench)?),
        _ => None,
    };
    let report = report::Report {
        warm,
        inputs: &inputs,
        message: &recorded.message,
        offer: &offer,
        lines: &lines.take(),
        before: &before,
        called: &called,
    };
    report.print(output)?;
    if let (Some(path), Outcome::Acked) = (&args.state, &called.outcome) {
        state::write(path, before, &called.effects.writes).map_err(Failure::Failed)?;
    }
    Ok(called.outcome)
}

/// The median time of calls after the first, as long as none of them ends the instance.
fn warm(
    times: u32,
    slot: &mut Option<Instance>,
    program: &Program,
    recorded: &event::Recorded,
    offer: &Offer,
    before: &state::Entries,
    workbench: &Workbench,
) -> Result<Duration, Failure> {
    let mut durations = Vec::new();
    for _ in 1..times {
        let source = Box::new(state::Memory::new(before.clone()));
        // What is logged was printed once.
        let lines = lines::Lines::default();
        let call = program.call(slot, &recorded.message, offer, source, MESSAGE_DATA_BYTES_MAX);
        let called = lines.gather(|| workbench.block_on(call));
        let called = called.map_err(|error| Failure::Failed(format!("the call could not be made: {error}")))?;
        durations.push(called.duration);
        if slot.is_none() {
            let text = called.outcome.text();
            return Err(Failure::Failed(format!("call {} of {times} ended the instance: {text}", durations.len() + 1)));
        }
    }
    durations.sort_unstable();
    Ok(durations[durations.len() / 2])
}

fn read(args: &RunArgs, workbench: &Workbench) -> Result<Inputs, Failure> {
    let path = &args.consumer;
    let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
    let beside = path.with_extension("toml");
    let manifest_path = args.manifest.clone().or_else(|| beside.is_file().then_some(beside));
    let manifest = match &manifest_path {
        Some(path) => workbench::manifest(&name, path).map_err(Failure::Failed)?,
        None => Manifest { publish: vec![anything()], ..Manifest::default() },
    };
    let bytes = workbench::read(path, COMPONENT_BYTES_MAX).map_err(Failure::Failed)?;
    let (component, compiled_in) = workbench.load(&name, path, &bytes).map_err(Failure::Failed)?;
    let event = if args.event == Path::new("-") {
        workbench::read_from(std::io::stdin().lock(), EVENT_BYTES_MAX)
            .map_err(|error| Failure::Failed(format!("stdin cannot be read: {error}")))?
            .ok_or_else(|| Failure::Failed(workbench::too_large("stdin", EVENT_BYTES_MAX)))?
    } else {
        workbench::read(&args.event, EVENT_BYTES_MAX).map_err(Failure::Failed)?
    };
    Ok(Inputs { name, component, manifest, manifest_path, compiled_in, event })
}

fn anything() -> TopicFilter {
    TopicFilter::parse(">").expect("it is the filter of all topics")
}

fn now_ms() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}
