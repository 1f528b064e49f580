//! How the value of a setting is found and understood.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::Value;
use tracing_subscriber::EnvFilter;

use super::file::SettingsFile;
use super::{ConfigError, LogFormat, Origin, Setting};

/// Finds settings in what was given, the first place first.
pub(super) struct Reader<'a> {
    pub(super) flags: &'a [(&'static str, String)],
    pub(super) variable: &'a dyn Fn(&str) -> Option<OsString>,
    pub(super) file: &'a SettingsFile,
}

impl Reader<'_> {
    /// The value and where it stands. An empty variable counts as one that is not set.
    fn find(&self, setting: &'static Setting) -> Result<Option<(Value, Origin)>, ConfigError> {
        if let Some((_, text)) = self.flags.iter().find(|(flag, _)| *flag == setting.flag) {
            return Ok(Some((Value::String(text.clone()), Origin::Flag(setting.flag))));
        }
        if let Some(text) = (self.variable)(setting.variable).filter(|text| !text.is_empty()) {
            let origin = Origin::Variable(setting.variable);
            return match text.into_string() {
                Ok(text) => Ok(Some((Value::String(text), origin))),
                Err(text) => {
                    let found = format!("{text:?}, which is no UTF-8");
                    Err(ConfigError::Value { origin, found, allowed: setting.allowed })
                }
            };
        }
        let origin = || Origin::File { path: self.file.path.clone(), key: setting.key };
        Ok(self.file.get(setting.key).map(|value| (value.clone(), origin())))
    }

    /// A setting as `understand` reads it, or its default.
    fn read<T>(
        &self,
        setting: &'static Setting,
        default: T,
        understand: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<(T, Origin), ConfigError> {
        let Some((value, origin)) = self.find(setting)? else {
            return Ok((default, Origin::Default(setting.key)));
        };
        match understand(&value) {
            Some(understood) => Ok((understood, origin)),
            None => Err(ConfigError::Value { origin, found: found(&value), allowed: setting.allowed }),
        }
    }

    pub(super) fn address(
        &self,
        setting: &'static Setting,
        default: SocketAddr,
    ) -> Result<(SocketAddr, Origin), ConfigError> {
        self.read(setting, default, |value| {
            let text = value.as_str()?;
            let text = text.strip_prefix("localhost:").map_or(text.to_owned(), |port| format!("127.0.0.1:{port}"));
            text.parse().ok()
        })
    }

    /// Paths of the file are relative to its folder, those of flags and variables to the current one.
    pub(super) fn folder(&self, setting: &'static Setting, default: &str) -> Result<PathBuf, ConfigError> {
        let (path, origin) = self.read(setting, PathBuf::from(default), |value| {
            value.as_str().filter(|text| !text.is_empty()).map(PathBuf::from)
        })?;
        match (&origin, self.file.path.parent()) {
            (Origin::File { .. }, Some(parent)) => Ok(parent.join(path)),
            _ => Ok(path),
        }
    }

    /// A file, if one is given. In the settings file its path is relative to that file's folder.
    pub(super) fn file(&self, setting: &'static Setting) -> Result<Option<PathBuf>, ConfigError> {
        let path = self.folder(setting, "")?;
        Ok(Some(path).filter(|path| !path.as_os_str().is_empty()))
    }

    pub(super) fn size(
        &self,
        setting: &'static Setting,
        default: u64,
        min: u64,
        max: u64,
    ) -> Result<(u64, Origin), ConfigError> {
        self.read(setting, default, |value| {
            let bytes = match value {
                Value::Integer(bytes) => u64::try_from(*bytes).ok()?,
                value => size(value.as_str()?)?,
            };
            (min..=max).contains(&bytes).then_some(bytes)
        })
    }

    pub(super) fn duration(
        &self,
        setting: &'static Setting,
        default: Duration,
        allowed: RangeInclusive<Duration>,
    ) -> Result<Duration, ConfigError> {
        let understand = |value: &Value| {
            let duration = humantime::parse_duration(value.as_str()?).ok()?;
            allowed.contains(&duration).then_some(duration)
        };
        Ok(self.read(setting, default, understand)?.0)
    }

    pub(super) fn number(
        &self,
        setting: &'static Setting,
        default: usize,
        min: usize,
        max: usize,
    ) -> Result<usize, ConfigError> {
        let (number, _) = self.read(setting, default, |value| {
            let number = match value {
                Value::Integer(number) => usize::try_from(*number).ok()?,
                value => value.as_str()?.parse().ok()?,
            };
            (min..=max).contains(&number).then_some(number)
        })?;
        Ok(number)
    }

    /// A bound, or `None` for the word that lifts it.
    pub(super) fn bound<T>(
        &self,
        setting: &'static Setting,
        word: &str,
        default: T,
        understand: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let (bound, _) = self.read(setting, Some(default), |value| match value {
            Value::String(text) if text == word => Some(None),
            Value::String(text) => understand(text).map(Some),
            Value::Integer(number) => understand(&number.to_string()).map(Some),
            _ => None,
        })?;
        Ok(bound)
    }

    /// An array of strings, or one string with commas.
    pub(super) fn list(
        &self,
        setting: &'static Setting,
        is_valid: fn(&str) -> bool,
    ) -> Result<Vec<String>, ConfigError> {
        let (list, _) = self.read(setting, Vec::new(), |value| {
            let items: Vec<String> = match value {
                Value::Array(items) => {
                    items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<_>>()?
                }
                value => value.as_str()?.split(',').map(|item| item.trim().to_owned()).collect(),
            };
            items.iter().all(|item| is_valid(item)).then_some(items)
        })?;
        Ok(list)
    }

    pub(super) fn log_format(&self, setting: &'static Setting) -> Result<LogFormat, ConfigError> {
        let (format, _) = self.read(setting, LogFormat::Text, |value| match value.as_str()? {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        })?;
        Ok(format)
    }

    pub(super) fn log_filter(&self, setting: &'static Setting, default: &str) -> Result<String, ConfigError> {
        let (filter, _) = self.read(setting, default.to_owned(), |value| {
            let text = value.as_str().filter(|text| !text.trim().is_empty())?;
            EnvFilter::builder().parse(text).ok().map(|_| text.to_owned())
        })?;
        Ok(filter)
    }
}

/// A value as the file would spell it.
fn found(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

/// A size such as `64MiB`: a whole number and a unit, bytes where there is none. `MB` is decimal.
pub(super) fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit: u64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// A host name, an IPv4 address or a bracketed IPv6 address, with or without a port. No wildcard, for
/// that would undo the check of the host.
pub(super) fn is_host(text: &str) -> bool {
    if text.is_empty() || text.ends_with(':') || text.contains(['/', '@', '*', ' ']) {
        return false;
    }
    let Ok(authority) = text.parse::<http::uri::Authority>() else { return false };
    let host = authority.host();
    let port = authority.port_u16().map_or(String::new(), |port| format!(":{port}"));
    !host.is_empty() && text == format!("{host}{port}")
}

/// An origin as browsers send it: a scheme, a host and maybe a port, and no slash at its end.
pub(super) fn is_origin(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, host)| {
        !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) && is_host(host)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let table = [
            ("0", Some(0)),
            ("17", Some(17)),
            ("17B", Some(17)),
            ("64MiB", Some(64 << 20)),
            ("64 mib", Some(64 << 20)),
            (" 1KiB ", Some(1024)),
            ("1kB", Some(1000)),
            ("2GiB", Some(2 << 30)),
            ("", None),
            ("MiB", None),
            ("1.5MiB", None),
            ("-1", None),
            ("1Mi", None),
            ("1M", None),
            ("99999999999999999999", None),
            ("99999999999TiB", None),
        ];
        for (text, expected) in table {
            assert_eq!(size(text), expected, "{text:?}");
        }
    }

    #[test]
    fn hosts_and_origins_are_told_from_other_texts() {
        for host in ["bus.local", "bus.local:8080", "10.0.0.1:7480", "[fe80::1]:7480", "localhost"] {
            assert!(is_host(host), "{host}");
        }
        for host in ["", "*", "*.local", "http://bus.local", "bus local", "bus.local:", "bus.local:port", "a@b", "a/b"]
        {
            assert!(!is_host(host), "{host}");
        }
        for origin in ["http://localhost:3000", "https://shop.example"] {
            assert!(is_origin(origin), "{origin}");
        }
        for origin in ["", "*", "null", "localhost:3000", "http://", "http://shop.example/", "http://*"] {
            assert!(!is_origin(origin), "{origin}");
        }
    }
}
