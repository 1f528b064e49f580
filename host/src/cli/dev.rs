//! `sandpost dev`: builds, serves and deploys on every change, and shows what happens.

mod bus;
mod project;

use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Instant;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::changes::Changes;
use super::failure::Failure;
use super::output::Output;
use bus::Bus;
use project::Project;

/// Work on a consumer: build it, run a bus, deploy it on every change, and show what happens.
///
/// In the folder of a project, such as `sandpost new` makes it. The manifest has a table [build] with the `command` that
/// builds, its `output`, and the files and folders to `watch`. The bus is one of its own: it listens on a free port of this
/// machine, and keeps its data in the folder .sandpost of the project. Shown are events as they are published, how each
/// delivery ends, and what the consumer logs. Where a build fails, the last good version goes on.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sandpost new invoice --lang ts && cd invoice && sandpost dev
  sandpost dev consumers/invoice/invoice.toml --fresh")]
pub(super) struct DevArgs {
    /// The manifest; otherwise the one in this folder that has a table [build]
    manifest: Option<PathBuf>,
    /// The address of the bus
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: String,
    /// Forget the messages and the state of earlier runs
    #[arg(long)]
    fresh: bool,
}

/// What comes to whoever watches.
enum News {
    /// A line, with what it is about.
    Line {
        who: String,
        what: String,
    },
    Changed,
    Built(Result<(), String>),
    Deployed(Result<String, String>),
    /// The bus has ended by itself.
    Ended(String),
    Stop,
}

pub(super) fn run(args: &DevArgs, output: &Output) -> Result<(), Failure> {
    let project = Project::find(args.manifest.as_deref())?;
    let (sender, news) = mpsc::channel();
    on_signals(sender.clone())?;
    let changes = Changes::of(&project.watched(), &project.written())?;
    let changed = sender.clone();
    thread::spawn(move || {
        // It ends where changes cannot be watched any more, or nobody listens.
        while changes.wait().is_ok() && changed.send(News::Changed).is_ok() {}
    });
    let began = Instant::now();
    let say = |who: &str, what: &str| -> Result<(), Failure> {
        for line in what.lines() {
            output.line(format!("{:>6.1} s  {who:9} {line}", began.elapsed().as_secs_f64()))?;
        }
        Ok(())
    };
    let bus = Bus::start(&project, &args.listen, args.fresh, &sender)?;
    say("bus", &format!("listens on {}", bus.url()))?;
    for line in project.how_to_publish(bus.url()) {
        say("bus", &line)?;
    }

    // One build or deployment at a time; what changes meanwhile is built afterwards.
    let mut busy = true;
    let mut changed = false;
    build(&project, &sender, &say)?;
    for one in news {
        match one {
            News::Line { who, what } => say(&who, &what)?,
            News::Changed if busy => changed = true,
            News::Changed => {
                busy = true;
                build(&project, &sender, &say)?;
            }
            News::Built(Ok(())) => bus.deploy(&project, &sender),
            News::Built(Err(problem)) => {
                say("build", &problem)?;
                busy = false;
            }
            News::Deployed(result) => {
                match result {
                    Ok(words) => say("deploy", &words)?,
                    Err(problem) => say("deploy", &problem)?,
                }
                busy = false;
            }
            News::Ended(how) => return Err(Failure::Failed(format!("the bus has ended: {how}"))),
            News::Stop => break,
        }
        if !busy && changed {
            (busy, changed) = (true, false);
            build(&project, &sender, &say)?;
        }
    }
    drop(bus);
    say("bus", "has stopped")
}

/// Builds on a thread of its own, so that what happens on the bus is shown meanwhile.
fn build(
    project: &Project,
    sender: &Sender<News>,
    say: &impl Fn(&str, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if let Some(command) = project.command() {
        say("build", command)?;
    }
    let (project, sender) = (project.clone(), sender.clone());
    // Whoever waited for it may have been stopped.
    thread::spawn(move || drop(sender.send(News::Built(project.build()))));
    Ok(())
}

fn on_signals(sender: Sender<News>) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::Failed(format!("signals cannot be followed: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        (interrupt, signal(SignalKind::terminate()).map_err(failed)?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        drop(sender.send(News::Stop));
    });
    Ok(())
}
