//! Settings: from flags, then `SANDPOST_*` variables, then `sandpost.toml`, then defaults.
//!
//! What was typed ([`Given`]) is turned into what is meant ([`Config`]) before anything is opened or
//! listens. Every error names where the value stands, its key and what is allowed.

mod file;
mod topics;
mod value;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::deploy::manifest::ManifestError;
use crate::limits;
use crate::log::redb_log::StateBounds;
use crate::retention::Rules;

pub(crate) use file::SettingsFile;
use value::Reader;

/// The settings file that is read where no other is named.
pub const FILE_NAME: &str = "sandpost.toml";

/// One setting: its names in the file, in the environment and among the flags.
#[derive(Debug)]
pub struct Setting {
    /// With a dot where it stands in a table of the file.
    pub key: &'static str,
    pub variable: &'static str,
    pub flag: &'static str,
    /// What is allowed, as errors say it.
    pub allowed: &'static str,
}

macro_rules! settings {
    ($($name:ident = $key:literal, $variable:literal, $flag:literal, $allowed:literal;)+) => {
        $(const $name: &Setting =
            &Setting { key: $key, variable: $variable, flag: $flag, allowed: $allowed };)+
        /// Every setting there is.
        pub const SETTINGS: &[&Setting] = &[$($name),+];
    };
}

settings! {
    LISTEN = "listen", "SANDPOST_LISTEN", "listen", "an address of this machine with a port, such as \"127.0.0.1:7480\"";
    DATA = "data", "SANDPOST_DATA", "data", "a folder";
    PLUGINS = "plugins", "SANDPOST_PLUGINS", "plugins", "a folder";
    WORKERS = "workers", "SANDPOST_WORKERS", "workers", "a whole number from 1 to 256";
    ALLOWED_HOSTS = "allowed_hosts", "SANDPOST_ALLOWED_HOSTS", "allowed-hosts",
        "host names such as \"bus.local\" or \"bus.local:8080\"";
    ALLOWED_ORIGINS = "allowed_origins", "SANDPOST_ALLOWED_ORIGINS", "allowed-origins",
        "origins of web pages such as \"http://localhost:3000\"";
    HTTP_CA = "http_ca", "SANDPOST_HTTP_CA", "http-ca", "a file of certificates in PEM";
    LOG_FORMAT = "log_format", "SANDPOST_LOG_FORMAT", "log-format", "\"text\" or \"json\"";
    LOG_FILTER = "log_filter", "SANDPOST_LOG_FILTER", "log-filter",
        "a level (error, warn, info, debug, trace) or directives such as \"info,sandpost::dispatch=debug\"";
    MESSAGE_DATA_MAX = "limits.message_data_max", "SANDPOST_MESSAGE_DATA_MAX", "message-data-max",
        "a size from \"1KiB\" to \"8MiB\"";
    DEDUPE_WINDOW = "limits.dedupe_window", "SANDPOST_DEDUPE_WINDOW", "dedupe-window",
        "a duration from \"0s\" (no event is a duplicate) to \"24h\"";
    MIN_FREE = "limits.min_free", "SANDPOST_MIN_FREE", "min-free", "a size of at least twice `limits.reserve`";
    RESERVE = "limits.reserve", "SANDPOST_RESERVE", "reserve", "a size from \"1MiB\" to \"1GiB\"";
    STATE_CONSUMER_MAX = "limits.state_consumer_max", "SANDPOST_STATE_CONSUMER_MAX", "state-consumer-max",
        "a size of at least \"2MiB\", such as \"1GiB\"";
    STATE_MAX = "limits.state_max", "SANDPOST_STATE_MAX", "state-max", "a size of at least \"2MiB\", such as \"4GiB\"";
    RETAIN_AGE = "limits.retain_age", "SANDPOST_RETAIN_AGE", "retain-age",
        "a time of at least \"1s\", such as \"7d\", or \"forever\"";
    RETAIN_BYTES = "limits.retain_bytes", "SANDPOST_RETAIN_BYTES", "retain-bytes",
        "a size of at least \"64KiB\", such as \"10GiB\", or \"unlimited\"";
}

/// How the bus writes its own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// What the bus is told, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// An address of loopback.
    pub listen: SocketAddr,
    /// The data folder.
    pub data: PathBuf,
    /// The plugin folder.
    pub plugins: PathBuf,
    /// Threads that run consumers.
    pub workers: usize,
    pub allowed_hosts: Vec<String>,
    pub allowed_origins: Vec<String>,
    /// Certificate authorities that requests of consumers trust beside the public ones.
    pub http_ca: Option<PathBuf>,
    pub log_format: LogFormat,
    pub log_filter: String,
    /// Bytes of one message's data, at most.
    pub message_data_bytes_max: usize,
    /// How long a second event of the same topic, source and id is a duplicate.
    pub dedupe_window: Duration,
    /// Free space in bytes on the data folder's disk below which no message is accepted.
    pub free_bytes_min: u64,
    /// Bytes set aside for settlements on a full disk.
    pub reserve_bytes: u64,
    /// Bytes that one consumer's state may hold, and those of all together.
    pub state: StateBounds,
    /// What leaves the log, and what topics take.
    pub retention: Rules,
    /// The operator accepts that messages may be lost which were not synced when the bus last failed.
    pub accept_unsynced: bool,
}

/// Where a value was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Flag(&'static str),
    Variable(&'static str),
    File { path: PathBuf, key: &'static str },
    Default(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(formatter, "--{flag}"),
            Self::Variable(variable) => write!(formatter, "the variable {variable}"),
            Self::File { path, key } => write!(formatter, "{}: `{key}`", path.display()),
            Self::Default(key) => write!(formatter, "the default of `{key}`"),
        }
    }
}

/// Why the settings cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: cannot be read: {error}", path.display())]
    Unreadable { path: PathBuf, error: String },
    #[error("{}: is no TOML: {error}", path.display())]
    Syntax { path: PathBuf, error: String },
    #[error("{}: there is no setting `{key}`{}", path.display(), suggestion(nearest.as_deref()))]
    UnknownKey { path: PathBuf, key: String, nearest: Option<String> },
    #[error("{}: `{key}` is {found}; it must be a table with settings in it", path.display())]
    NotATable { path: PathBuf, key: String, found: &'static str },
    #[error("{origin} is {found}; it must be {allowed}")]
    Value { origin: Origin, found: String, allowed: &'static str },
    #[error(
        "{origin} is {found}, which other machines can reach. That needs tokens, which this version does not have: use an address of loopback, such as 127.0.0.1:7480"
    )]
    BeyondLoopback { origin: Origin, found: SocketAddr },
    /// A table `[[topic]]`.
    #[error(transparent)]
    Topic(ManifestError),
    #[error("{origin} is {found} bytes; it must be at least twice the reserve, which is {reserve_bytes} bytes")]
    FreeBelowReserve { origin: Origin, found: u64, reserve_bytes: u64 },
}

fn suggestion(nearest: Option<&str>) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean `{nearest}`?"),
        None => {
            let keys: Vec<_> = SETTINGS.iter().map(|setting| setting.key).collect();
            format!("; there are {}", keys.join(", "))
        }
    }
}

/// What was typed, before it is understood.
pub struct Given<'a> {
    /// Values of flags, by the flag's name.
    pub flags: &'a [(&'static str, String)],
    /// Reads a variable of the environment.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// The settings file: the named one must be there, [`FILE_NAME`] may.
    pub file: Option<&'a Path>,
    pub accept_unsynced: bool,
}

impl Config {
    /// Reads and checks all settings. Nothing is opened but the settings file.
    pub fn load(given: &Given<'_>) -> Result<Self, ConfigError> {
        let file = match given.file {
            Some(path) => SettingsFile::read(path)?,
            None if Path::new(FILE_NAME).exists() => SettingsFile::read(Path::new(FILE_NAME))?,
            None => SettingsFile::default(),
        };
        Self::resolve(given, &file)
    }

    fn resolve(given: &Given<'_>, file: &SettingsFile) -> Result<Self, ConfigError> {
        let reader = Reader { flags: given.flags, variable: given.variable, file };
        let (listen, origin) = reader.address(LISTEN, SocketAddr::from(([127, 0, 0, 1], 7480)))?;
        if !listen.ip().is_loopback() {
            return Err(ConfigError::BeyondLoopback { origin, found: listen });
        }
        let (reserve_bytes, _) = reader.size(RESERVE, limits::RESERVE_BYTES, 1 << 20, 1 << 30)?;
        let (free_bytes_min, origin) = reader.size(MIN_FREE, limits::FREE_BYTES_MIN, 0, u64::MAX)?;
        if free_bytes_min / 2 < reserve_bytes {
            // Publishes must stop before the reserve is needed.
            return Err(ConfigError::FreeBelowReserve { origin, found: free_bytes_min, reserve_bytes });
        }
        let (message_data_max, _) = reader.size(
            MESSAGE_DATA_MAX,
            limits::MESSAGE_DATA_BYTES_MAX as u64,
            limits::KIB as u64,
            limits::BATCH_BYTES_MAX as u64,
        )?;
        let age_max = reader.bound(RETAIN_AGE, "forever", limits::RETAIN_AGE_DEFAULT, |text| {
            let allowed = limits::RETAIN_AGE_MIN..=limits::RETAIN_AGE_MAX;
            humantime::parse_duration(text).ok().filter(|age| allowed.contains(age))
        })?;
        let state_max = |setting, default| {
            reader.size(setting, default, limits::STATE_BOUND_BYTES_MIN, u64::MAX).map(|(bytes, _)| bytes)
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(256);
        Ok(Self {
            listen,
            data: reader.folder(DATA, "sandpost-data")?,
            plugins: reader.folder(PLUGINS, "plugins")?,
            workers: reader.number(WORKERS, cores, 1, 256)?,
            allowed_hosts: reader.list(ALLOWED_HOSTS, value::is_host)?,
            allowed_origins: reader.list(ALLOWED_ORIGINS, value::is_origin)?,
            http_ca: reader.file(HTTP_CA)?,
            log_format: reader.log_format(LOG_FORMAT)?,
            log_filter: reader.log_filter(LOG_FILTER, "info")?,
            message_data_bytes_max: message_data_max as usize,
            dedupe_window: reader.duration(
                DEDUPE_WINDOW,
                limits::DEDUPE_WINDOW_DEFAULT,
                Duration::ZERO..=limits::DEDUPE_WINDOW_MAX,
            )?,
            free_bytes_min,
            reserve_bytes,
            state: StateBounds {
                consumer_bytes_max: state_max(STATE_CONSUMER_MAX, limits::STATE_CONSUMER_BYTES_DEFAULT)?,
                total_bytes_max: state_max(STATE_MAX, limits::STATE_BYTES_DEFAULT)?,
            },
            retention: Rules {
                topics: file.topics.iter().map(|topic| topic.rule(age_max)).collect(),
                age_max,
                bytes_max: reader.bound(RETAIN_BYTES, "unlimited", limits::RETAIN_BYTES_DEFAULT, |text| {
                    value::size(text).filter(|bytes| *bytes >= limits::RETAIN_BYTES_MIN)
                })?,
            },
            accept_unsynced: given.accept_unsynced,
        })
    }
}

#[cfg(test)]
mod tests;
