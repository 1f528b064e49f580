//! `sandpost serve`: from settings to a bus that answers, and to its orderly end.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::failure::Failure;
use super::output::Output;
use crate::config::{Config, Given, LogFormat};
use crate::serve::serve;

/// Run the bus.
///
/// Prints one line on stdout once it answers, `sandpost listening on http://ADDRESS:PORT`, and its log
/// on stderr. SIGTERM and SIGINT end it: requests and calls that have begun are finished, and nothing is
/// lost; a second signal ends it at once.
///
/// Each setting is taken from its flag, else from its variable (SANDPOST_ and the flag's name, such as
/// SANDPOST_MESSAGE_DATA_MAX), else from the settings file (the flag's name with underscores, such as
/// `log_format`; `message_data_max`, `dedupe_window`, `min_free`, `reserve`, `state_consumer_max`, `state_max`,
/// `retain_age` and `retain_bytes` stand in its
/// table `[limits]`), else it is the default. Tables `[[topic]]` of the settings file say for the topics that
/// match their `filter`, the first one that does, what is retained of settled messages (`max_age`,
/// `max_bytes`), and how many bytes a topic may hold before it takes no further message (`cap`).
#[derive(Args, Debug)]
#[command(after_help = "\
Example of a sandpost.toml:
  listen = \"127.0.0.1:7480\"
  data = \"/var/lib/sandpost/data\"
  plugins = \"/var/lib/sandpost/plugins\"
  allowed_origins = [\"http://localhost:3000\"]
  [limits]
  message_data_max = \"2MiB\"
  retain_age = \"30d\"
  [[topic]]
  filter = \"order.*\"
  max_age = \"forever\"
  [[topic]]
  filter = \"telemetry.>\"
  max_age = \"6h\"
  max_bytes = \"1GiB\"
  cap = \"4GiB\"")]
pub(super) struct ServeArgs {
    /// The settings file [default: sandpost.toml, where there is one]
    #[arg(long, value_name = "FILE", env = "SANDPOST_CONFIG")]
    config: Option<PathBuf>,
    /// The address to listen on; port 0 takes any free one [default: 127.0.0.1:7480]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// The data folder [default: ./sandpost-data]
    #[arg(long, value_name = "FOLDER")]
    data: Option<String>,
    /// The plugin folder [default: ./plugins]
    #[arg(long, value_name = "FOLDER")]
    plugins: Option<String>,
    /// Threads that run consumers [default: one for each core]
    #[arg(long, value_name = "THREADS")]
    workers: Option<String>,
    /// Host names that requests may be sent to besides those of loopback, with commas
    #[arg(long, value_name = "NAMES")]
    allowed_hosts: Option<String>,
    /// Origins of web pages that may use the bus, with commas
    #[arg(long, value_name = "ORIGINS")]
    allowed_origins: Option<String>,
    /// Certificate authorities, in PEM, that requests of consumers trust beside the public ones
    #[arg(long, value_name = "FILE")]
    http_ca: Option<String>,
    /// How the log is written: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// What is logged: a level, or directives such as info,sandpost::dispatch=debug [default: info]
    #[arg(long, value_name = "FILTER")]
    log_filter: Option<String>,
    /// The largest data of one message [default: 1MiB]
    #[arg(long, value_name = "SIZE")]
    message_data_max: Option<String>,
    /// How long a second event of the same topic, source and id is a duplicate; 0s for never [default: 2m]
    #[arg(long, value_name = "DURATION")]
    dedupe_window: Option<String>,
    /// Free space on the data folder's disk below which no message is accepted [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    min_free: Option<String>,
    /// Space set aside so that work can be settled on a full disk [default: 16MiB]
    #[arg(long, value_name = "SIZE")]
    reserve: Option<String>,
    /// The most that one consumer's state holds [default: 1GiB]
    #[arg(long, value_name = "SIZE")]
    state_consumer_max: Option<String>,
    /// The most that all consumers' states hold together [default: 4GiB]
    #[arg(long, value_name = "SIZE")]
    state_max: Option<String>,
    /// How long settled messages stay, or forever [default: 7d]
    #[arg(long, value_name = "TIME")]
    retain_age: Option<String>,
    /// Bytes of messages past which settled ones go, the oldest first, or unlimited [default: 10GiB]
    #[arg(long, value_name = "SIZE")]
    retain_bytes: Option<String>,
    /// Start although the last run ended on a failed sync and the machine was not restarted since: messages
    /// that were never answered may be missing
    #[arg(long)]
    accept_unsynced: bool,
}

impl ServeArgs {
    pub(super) fn config(&self) -> Result<Config, Failure> {
        let flags = [
            ("listen", &self.listen),
            ("data", &self.data),
            ("plugins", &self.plugins),
            ("workers", &self.workers),
            ("allowed-hosts", &self.allowed_hosts),
            ("allowed-origins", &self.allowed_origins),
            ("http-ca", &self.http_ca),
            ("log-format", &self.log_format),
            ("log-filter", &self.log_filter),
            ("message-data-max", &self.message_data_max),
            ("dedupe-window", &self.dedupe_window),
            ("min-free", &self.min_free),
            ("reserve", &self.reserve),
            ("state-consumer-max", &self.state_consumer_max),
            ("state-max", &self.state_max),
            ("retain-age", &self.retain_age),
            ("retain-bytes", &self.retain_bytes),
        ];
        let flags: Vec<_> = flags.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect();
        let given = Given {
            flags: &flags,
            variable: &|name| std::env::var_os(name),
            file: self.config.as_deref(),
            accept_unsynced: self.accept_unsynced,
        };
        Config::load(&given).map_err(|error| Failure::Usage(error.to_string()))
    }
}

/// Runs the bus until a signal ends it.
pub(super) fn run(config: Config, output: &Output) -> Result<(), Failure> {
    start_log(&config);
    let ready = |address| output.line(format!("sandpost listening on http://{address}"));
    match serve(config.into(), ready) {
        Ok(()) => Ok(()),
        Err(error) => Err(Failure::Failed(error.to_string())),
    }
}

/// The log goes to stderr, for stdout is what scripts read.
fn start_log(config: &Config) {
    let filter = EnvFilter::builder().parse_lossy(&config.log_filter);
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours);
    match config.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}
