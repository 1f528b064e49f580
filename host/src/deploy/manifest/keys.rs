//! Reads a manifest's keys and values, and knows where each stands: every error names the file, the
//! line, the whole key, and what is allowed. (Derived deserializers know the line or the key, not both,
//! and say what is allowed in the words of Rust's types.)

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::policy::http::UrlError;
use crate::topic::TopicError;

/// Why a manifest is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}{}: {}{problem}", file.display(), line.map_or(String::new(), |line| format!(":{line}")), display_key(key))]
pub struct ManifestError {
    pub file: PathBuf,
    /// From 1; absent where the problem has no place, such as a missing table.
    pub line: Option<usize>,
    /// The whole key, such as `subscription.retry.max_attempts`; empty where it is about the file.
    pub key: String,
    /// Boxed, so that results stay small on their way up.
    pub problem: Box<ManifestProblem>,
}

/// What is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ManifestProblem {
    #[error("it has {bytes} bytes; at most {bytes_max} are allowed")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("it is not valid TOML: {message}")]
    Syntax { message: String },
    #[error("there is no such key here; allowed are {}{}", list(allowed), suggestion(*nearest))]
    UnknownKey { allowed: Vec<&'static str>, nearest: Option<&'static str> },
    #[error("it is missing; {needed}")]
    Missing { needed: String },
    #[error("it is {found}; it must be {expected}")]
    WrongType { found: &'static str, expected: &'static str },
    #[error("`{value}` is not allowed; it must be {allowed}{}", suggestion(*nearest))]
    Impossible { value: String, allowed: String, nearest: Option<&'static str> },
    #[error("`{value}` is not a topic: {error}")]
    Topic { value: String, error: TopicError },
    #[error("`{value}` is there twice")]
    Twice { value: String },
    #[error("`{value}` cannot be granted: {error}")]
    Url { value: String, error: UrlError },
    #[error("`{value}` is not of the public internet; if it is meant, grant it with `private = true`")]
    Private { value: String },
    #[error("`{name}` is in [config] too; a name is one or the other")]
    ConfigToo { name: String },
    #[error("[secrets] has no `{name}`")]
    NoSecret { name: String },
    #[error("no grant under [grants] names it in its `secrets`, so it could go nowhere")]
    UnusedSecret,
    #[error("secrets go over https, or to a grant that is `private`; `{origin}` is neither")]
    Plaintext { origin: String },
}

fn display_key(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("`{key}`: ") }
}

fn list(allowed: &[&str]) -> String {
    allowed.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or(String::new(), |nearest| format!("; did you mean `{nearest}`?"))
}

/// The one of `allowed` that was probably meant.
fn nearest(text: &str, allowed: &[&'static str]) -> Option<&'static str> {
    // Long nonsense is near to nothing, and not worth the quadratic comparison.
    let text = text.get(..text.len().min(64))?.to_lowercase();
    allowed
        .iter()
        .map(|&word| (strsim::damerau_levenshtein(&text, word), word))
        .filter(|&(distance, word)| distance <= 1 + word.len() / 4)
        .min()
        .map(|(_, word)| word)
}

/// The text that is read, for errors.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) file: &'a Path,
    pub(crate) text: &'a str,
}

impl Source<'_> {
    pub(crate) fn error(&self, at: Option<usize>, key: impl Into<String>, problem: ManifestProblem) -> ManifestError {
        let line = at.map(|at| 1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count());
        ManifestError { file: self.file.to_owned(), line, key: key.into(), problem: Box::new(problem) }
    }
}

/// A table of the manifest.
pub(crate) struct Table<'a> {
    source: Source<'a>,
    path: String,
    at: Option<usize>,
    entries: &'a DeTable<'a>,
}

impl<'a> Table<'a> {
    pub(crate) fn root(source: Source<'a>, entries: &'a DeTable<'a>) -> Self {
        Self { source, path: String::new(), at: None, entries }
    }

    fn key(&self, key: &str) -> String {
        let key = shortened(key);
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }

    /// Refuses every key that is not one of these.
    pub(crate) fn allow(&self, allowed: &[&'static str]) -> Result<(), ManifestError> {
        let unknown = self.entries.iter().find(|(key, _)| !allowed.contains(&key.get_ref().as_ref()));
        let Some((key, _)) = unknown else { return Ok(()) };
        let name: &str = key.get_ref();
        let problem = ManifestProblem::UnknownKey { allowed: allowed.to_vec(), nearest: nearest(name, allowed) };
        Err(self.source.error(Some(key.span().start), self.key(name), problem))
    }

    pub(crate) fn get(&self, name: &str) -> Option<Value<'a>> {
        let (_, value) = self.entries.iter().find(|(key, _)| *key.get_ref() == name)?;
        Some(Value { source: self.source, path: self.key(name), value })
    }

    /// The value of a key that must be there; `needed` says what it is.
    pub(crate) fn require(&self, name: &str, needed: impl Into<String>) -> Result<Value<'a>, ManifestError> {
        self.get(name).ok_or_else(|| self.missing(name, needed))
    }

    pub(super) fn missing(&self, name: &str, needed: impl Into<String>) -> ManifestError {
        self.source.error(self.at, self.key(name), ManifestProblem::Missing { needed: needed.into() })
    }

    /// Every key with its value, in the order of the keys.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> + '_ {
        self.entries.iter().map(|(key, value)| {
            let key: &'a str = key.get_ref();
            (key, Value { source: self.source, path: self.key(key), value })
        })
    }
}

/// A value of the manifest.
pub(crate) struct Value<'a> {
    source: Source<'a>,
    path: String,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Value<'a> {
    pub(crate) fn error(&self, problem: ManifestProblem) -> ManifestError {
        self.source.error(Some(self.value.span().start), &self.path, problem)
    }

    pub(crate) fn impossible(&self, value: impl Display, allowed: impl Into<String>) -> ManifestError {
        let value = shortened(&value.to_string());
        self.error(ManifestProblem::Impossible { value, allowed: allowed.into(), nearest: None })
    }

    fn wrong_type(&self, expected: &'static str) -> ManifestError {
        let found = match self.value.get_ref() {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.error(ManifestProblem::WrongType { found, expected })
    }

    pub(crate) fn table(&self) -> Result<Table<'a>, ManifestError> {
        let entries = self.value.get_ref().as_table().ok_or_else(|| self.wrong_type("a table"))?;
        Ok(Table { source: self.source, path: self.path.clone(), at: Some(self.value.span().start), entries })
    }

    /// The elements of a list. Where it has several, each is named by its number, from 1.
    pub(crate) fn elements(&self, expected: &'static str) -> Result<Vec<Self>, ManifestError> {
        let elements = self.value.get_ref().as_array().ok_or_else(|| self.wrong_type(expected))?;
        let several = elements.len() > 1;
        let path = |index: usize| if several { format!("{}[{}]", self.path, index + 1) } else { self.path.clone() };
        let elements = elements.iter().enumerate();
        Ok(elements.map(|(index, value)| Self { source: self.source, path: path(index), value }).collect())
    }

    pub(crate) fn text(&self, expected: &'static str) -> Result<&'a str, ManifestError> {
        self.value.get_ref().as_str().ok_or_else(|| self.wrong_type(expected))
    }

    /// Any single value, as text.
    pub(super) fn scalar(&self) -> Result<String, ManifestError> {
        match self.value.get_ref() {
            DeValue::String(text) => Ok(text.to_string()),
            DeValue::Integer(number) => Ok(number.to_string()),
            DeValue::Float(number) => Ok(number.to_string()),
            DeValue::Boolean(truth) => Ok(truth.to_string()),
            DeValue::Datetime(time) => Ok(time.to_string()),
            DeValue::Array(_) | DeValue::Table(_) => Err(self.wrong_type("a single value, such as a text")),
        }
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&'static str, T)]) -> Result<T, ManifestError> {
        let text = self.text("a text")?;
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*meaning);
        }
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        let problem = ManifestProblem::Impossible {
            value: shortened(text),
            allowed: words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", "),
            nearest: nearest(text, &words),
        };
        Err(self.error(problem))
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.get_ref().is_table()
    }

    pub(super) fn truth(&self) -> Result<bool, ManifestError> {
        self.value.get_ref().as_bool().ok_or_else(|| self.wrong_type("true or false"))
    }

    pub(super) fn is_whole(&self) -> bool {
        self.value.get_ref().is_integer()
    }

    pub(super) fn whole(&self, allowed: RangeInclusive<u64>) -> Result<u64, ManifestError> {
        let number = self.value.get_ref().as_integer().ok_or_else(|| self.wrong_type("a whole number"))?;
        let parsed = u64::from_str_radix(number.as_str(), number.radix()).ok();
        parsed.filter(|parsed| allowed.contains(parsed)).ok_or_else(|| {
            self.impossible(number, format!("a whole number from {} to {}", allowed.start(), allowed.end()))
        })
    }

    pub(super) fn number(&self, allowed: RangeInclusive<f64>) -> Result<f64, ManifestError> {
        let text = match self.value.get_ref() {
            DeValue::Float(number) => number.as_str(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            _ => return Err(self.wrong_type("a number")),
        };
        // NaN is in no range.
        let parsed = text.parse().ok().filter(|parsed| allowed.contains(parsed));
        parsed.ok_or_else(|| self.impossible(text, format!("a number from {} to {}", allowed.start(), allowed.end())))
    }

    pub(crate) fn duration(&self, allowed: RangeInclusive<Duration>) -> Result<Duration, ManifestError> {
        let text = self.text("a duration with its unit, such as \"5s\"")?;
        let parsed = humantime::parse_duration(text).ok().filter(|parsed| allowed.contains(parsed));
        parsed.ok_or_else(|| {
            let show = |duration: &Duration| humantime::format_duration(*duration).to_string();
            let (least, most) = (show(allowed.start()), show(allowed.end()));
            self.impossible(text, format!("a duration with its unit, such as \"5s\", from {least} to {most}"))
        })
    }

    /// A number of bytes: a whole number, or a text with a unit.
    pub(crate) fn bytes(&self, allowed: RangeInclusive<u64>) -> Result<u64, ManifestError> {
        let (shown, parsed) = match self.value.get_ref() {
            DeValue::Integer(number) => (number.to_string(), u64::from_str_radix(number.as_str(), number.radix()).ok()),
            DeValue::String(text) => (text.to_string(), parse_bytes(text)),
            _ => return Err(self.wrong_type("a size with its unit, such as \"64MiB\"")),
        };
        parsed.filter(|parsed| allowed.contains(parsed)).ok_or_else(|| {
            let (least, most) = (show_bytes(*allowed.start()), show_bytes(*allowed.end()));
            self.impossible(shown, format!("a size with its unit, such as \"64MiB\", from {least} to {most}"))
        })
    }
}

/// A part of the manifest as an error repeats it: on one line, and no longer than a reader needs.
pub(super) fn shortened(text: &str) -> String {
    const CHARACTERS_MAX: usize = 80;
    let shown = |character: char| if character.is_control() { char::REPLACEMENT_CHARACTER } else { character };
    let mut short: String = text.chars().take(CHARACTERS_MAX).map(shown).collect();
    if text.chars().nth(CHARACTERS_MAX).is_some() {
        short.push_str("...");
    }
    short
}

const UNITS: [(&str, u64); 8] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit_at = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show_bytes(bytes: u64) -> String {
    let unit = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match unit.iter().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor)) {
        Some((name, factor)) => format!("{} {name}", bytes / factor),
        None => format!("{bytes} bytes"),
    }
}
