//! The command line. All commands but `serve`, `compact`, `new`, `run`, `dev`, `plugins check` and `plugins
//! deploy` only speak HTTP to a bus.

mod changes;
mod check;
mod client;
mod compact;
mod confirm;
mod dead_letters;
mod deploy;
mod dev;
mod failure;
mod new;
mod output;
mod plugins;
mod publish;
mod run;
mod scheduled;
mod serve;
mod state;
mod subscriptions;
mod tail;
mod topics;
mod workbench;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use client::Client;
use failure::{EXIT_CODES, Failure};
use output::Output;

/// An event bus whose consumers are sandboxed WebAssembly components.
///
/// A producer publishes an event to a topic, such as `order.placed`. The bus stores it durably,
/// and delivers it to every subscribed consumer: a `.wasm` file in the plugin folder with a
/// `.toml` beside it. What fails is tried again; what fails for good is kept as a dead letter,
/// with the evidence.
///
/// A first session:
///   sandpost serve &
///   sandpost plugins deploy email.wasm --manifest email.toml
///   sandpost publish order.placed --key customer-7 --data '{"order": 1}'
///   sandpost subscriptions list
///   sandpost dead-letters list
///   sandpost dead-letters show email:0
///   sandpost dead-letters redrive --subscription email
#[derive(Parser, Debug)]
#[command(name = "sandpost", version, verbatim_doc_comment, after_help = EXIT_CODES)]
#[command(arg_required_else_help = true, subcommand_required = true, disable_help_subcommand = true)]
struct Cli {
    /// The address of the bus, as `serve` prints it
    #[arg(long, global = true, value_name = "URL", env = "SANDPOST_BUS", default_value = "http://127.0.0.1:7480")]
    bus: String,
    /// Print JSON, for scripts: what the bus answers; a line for each event
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Serve(Box<serve::ServeArgs>),
    Publish(publish::PublishArgs),
    Tail(tail::TailArgs),
    New(new::NewArgs),
    Dev(dev::DevArgs),
    Run(run::RunArgs),
    Compact(compact::CompactArgs),
    /// List topics, read their messages, and take topics away
    Topics {
        #[command(subcommand)]
        command: Option<topics::TopicsCommand>,
    },
    /// List, show, move and remove subscriptions
    Subscriptions {
        #[command(subcommand)]
        command: subscriptions::SubscriptionsCommand,
    },
    /// List, show, redrive and drop dead letters
    DeadLetters {
        #[command(subcommand)]
        command: dead_letters::DeadLettersCommand,
    },
    /// List, show and cancel messages that wait for their time
    Scheduled {
        #[command(subcommand)]
        command: scheduled::ScheduledCommand,
    },
    /// Look at what consumers keep in their state, and remove it
    State {
        #[command(subcommand)]
        command: state::StateCommand,
    },
    /// List, show, check, deploy and roll back consumers
    Plugins {
        #[command(subcommand)]
        command: plugins::PluginsCommand,
    },
}

/// Runs the command of this process's arguments. `open` opens the bus that `serve` runs.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json);
    match cli.run(&output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(cli.json),
    }
}

impl Cli {
    fn run(&self, output: &Output) -> Result<(), Failure> {
        let client = || Client::new(&self.bus);
        match &self.command {
            Command::Serve(args) => serve::run(args.config()?, output),
            Command::Publish(args) => publish::run(args, &client()?, output),
            Command::Dev(args) => dev::run(args, output),
            Command::New(args) => new::run(args, output),
            Command::Run(args) => run::run(args, output),
            Command::Compact(args) => compact::run(args, output),
            Command::Tail(args) => tail::run(args, &client()?, output),
            Command::Topics { command } => {
                topics::run(command.as_ref().unwrap_or(&topics::TopicsCommand::List), &client()?, output)
            }
            Command::Subscriptions { command } => subscriptions::run(command, &client()?, output),
            Command::DeadLetters { command } => dead_letters::run(command, &client()?, output),
            Command::Scheduled { command } => scheduled::run(command, &client()?, output),
            Command::State { command } => state::run(command, &client()?, output),
            Command::Plugins { command } => plugins::run(command, &self.bus, output),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::SETTINGS;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_setting_has_a_flag_that_reaches_it() {
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        for setting in SETTINGS {
            assert!(serve.get_arguments().any(|arg| arg.get_long() == Some(setting.flag)), "--{}", setting.flag);
            // A value that no setting takes shows that the flag is read at all.
            let cli = Cli::try_parse_from(["sandpost", "serve", &format!("--{}=", setting.flag)]).unwrap();
            let Command::Serve(args) = cli.command else { panic!("it is serve") };
            let Err(Failure::Usage(text)) = args.config() else { panic!("--{} is not read", setting.flag) };
            assert!(text.starts_with(&format!("--{} is \"\"", setting.flag)), "{text}");
        }
    }

    #[test]
    fn which_dead_letters_are_meant_must_be_said() {
        let parse = |args: &str| Cli::try_parse_from(args.split(' ')).is_ok();
        assert!(parse("sandpost dead-letters redrive email:1 email:2"));
        assert!(parse("sandpost dead-letters redrive --all"));
        assert!(parse("sandpost dead-letters drop --subscription email"));
        assert!(!parse("sandpost dead-letters redrive"));
        assert!(!parse("sandpost dead-letters drop"));
        assert!(!parse("sandpost dead-letters redrive --all --subscription email"));
    }
}
