//! Secrets: to the guest they are placeholders, which become values in the headers of requests that leave.
//!
//! A placeholder is made anew whenever a consumer is loaded, and cannot be guessed. What a guest does with it,
//! in its state, its log lines or its messages, tells nobody anything.

use std::collections::BTreeMap;
use std::io::Read;

use http::HeaderValue;

use crate::limits::SECRET_BYTES_MAX;
use crate::policy::http::HttpGrant;
use crate::policy::{Manifest, SecretSource};

const PLACEHOLDER_PREFIX: &str = "sandpost-secret-";

/// The secrets of one version of a consumer, by name. No `Debug`, so that no log line ever has one.
pub struct Secrets {
    all: BTreeMap<String, Secret>,
}

struct Secret {
    placeholder: String,
    /// Absent where the consumer only makes a trial run.
    value: Option<Vec<u8>>,
}

/// Why a consumer's secrets cannot be had. Nothing of their values is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("`secrets.{name}`: the variable {variable} is not set where the bus was started")]
    NotSet { name: String, variable: String },
    #[error("`secrets.{name}`: the file {path} cannot be read: {error}")]
    Unreadable { name: String, path: String, error: String },
    #[error("`secrets.{name}`: its value is empty")]
    Empty { name: String },
    #[error("`secrets.{name}`: its value is longer than {SECRET_BYTES_MAX} bytes")]
    TooLong { name: String },
    #[error("`secrets.{name}`: its value has line ends or other bytes that no header takes")]
    NoHeader { name: String },
    #[error("the system gives no random bytes for placeholders")]
    NoRandom,
}

/// A placeholder stands where its secret may not go.
pub(super) struct Misplaced<'a> {
    pub(super) name: &'a str,
}

impl Secrets {
    /// Reads what a manifest names from the environment and from files.
    pub fn read(manifest: &Manifest) -> Result<Self, SecretError> {
        Self::gather(manifest, |name, source| read(name, source).map(Some))
    }

    /// Placeholders without values: whatever is sent, it holds no secret.
    pub fn withheld(manifest: &Manifest) -> Result<Self, SecretError> {
        Self::gather(manifest, |_, _| Ok(None))
    }

    fn gather(
        manifest: &Manifest,
        mut value: impl FnMut(&str, &SecretSource) -> Result<Option<Vec<u8>>, SecretError>,
    ) -> Result<Self, SecretError> {
        let secret = |(name, source): (&String, &SecretSource)| {
            let secret = Secret { placeholder: placeholder()?, value: value(name, source)? };
            Ok((name.clone(), secret))
        };
        Ok(Self { all: manifest.secrets.iter().map(secret).collect::<Result<_, _>>()? })
    }

    /// What the guest is told in place of a secret.
    pub(super) fn placeholder(&self, name: &str) -> Option<&str> {
        self.all.get(name).map(|secret| secret.placeholder.as_str())
    }

    /// The secret whose placeholder is in a text, if there is one.
    pub(super) fn named_in(&self, text: &[u8]) -> Option<&str> {
        let found = self.all.iter().find(|(_, secret)| find(text, secret.placeholder.as_bytes()).is_some());
        found.map(|(name, _)| name.as_str())
    }

    /// A header's value with secrets in the place of their placeholders, or `None` where there are none in it.
    pub(super) fn placed(&self, value: &HeaderValue, grant: &HttpGrant) -> Result<Option<HeaderValue>, Misplaced<'_>> {
        let mut bytes = value.as_bytes().to_vec();
        let mut changed = false;
        for (name, secret) in &self.all {
            let mut from = 0;
            while let Some(at) = find(&bytes[from..], secret.placeholder.as_bytes()) {
                let allowed = secret.value.as_ref().filter(|_| grant.secrets.contains(name));
                let secret_value = allowed.ok_or(Misplaced { name })?;
                let begin = from + at;
                bytes.splice(begin..begin + secret.placeholder.len(), secret_value.iter().copied());
                from = begin + secret_value.len();
                changed = true;
            }
        }
        if !changed {
            return Ok(None);
        }
        // Both parts were valid, so the whole is.
        let mut placed = HeaderValue::from_bytes(&bytes).expect("secrets are checked to be header values");
        placed.set_sensitive(true);
        Ok(Some(placed))
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

fn placeholder() -> Result<String, SecretError> {
    let mut random = [0u8; 16];
    let source = rustls::crypto::ring::default_provider().secure_random;
    source.fill(&mut random).map_err(|_| SecretError::NoRandom)?;
    Ok(format!("{PLACEHOLDER_PREFIX}{:032x}", u128::from_be_bytes(random)))
}

fn read(name: &str, source: &SecretSource) -> Result<Vec<u8>, SecretError> {
    let name = || name.to_owned();
    let mut value = match source {
        SecretSource::Variable(variable) => {
            let value = std::env::var_os(variable);
            let value = value.ok_or_else(|| SecretError::NotSet { name: name(), variable: variable.clone() })?;
            std::os::unix::ffi::OsStringExt::into_vec(value)
        }
        SecretSource::File(path) => {
            let mut bytes = Vec::new();
            let file = std::fs::File::open(path);
            let read = file.and_then(|file| file.take(SECRET_BYTES_MAX as u64 + 3).read_to_end(&mut bytes));
            read.map_err(|error| SecretError::Unreadable {
                name: name(),
                path: path.display().to_string(),
                error: error.to_string(),
            })?;
            bytes
        }
    };
    if value.ends_with(b"\n") {
        value.pop();
        if value.ends_with(b"\r") {
            value.pop();
        }
    }
    match value.len() {
        0 => Err(SecretError::Empty { name: name() }),
        SECRET_BYTES_MAX.. if value.len() > SECRET_BYTES_MAX => Err(SecretError::TooLong { name: name() }),
        _ if HeaderValue::from_bytes(&value).is_err() => Err(SecretError::NoHeader { name: name() }),
        _ => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(secrets: &[(&str, SecretSource)]) -> Manifest {
        let secrets = secrets.iter().map(|(name, source)| ((*name).to_owned(), source.clone())).collect();
        Manifest { secrets, ..Manifest::default() }
    }

    fn of_file(folder: &tempfile::TempDir, name: &str, content: &[u8]) -> Result<Secrets, SecretError> {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        Secrets::read(&manifest(&[(name, SecretSource::File(path))]))
    }

    fn grant(secrets: &[&str]) -> HttpGrant {
        let secrets = secrets.iter().map(|name| (*name).to_owned()).collect();
        HttpGrant { secrets, ..HttpGrant::parse("https://a.test").unwrap() }
    }

    #[test]
    fn a_placeholder_becomes_its_value_where_the_grant_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = of_file(&folder, "key", b"s3cret\n").unwrap();
        let placeholder = secrets.placeholder("key").unwrap();
        let header = |text: String| HeaderValue::from_str(&text).unwrap();
        let value = header(format!("Bearer {placeholder}, {placeholder}"));
        let placed = secrets.placed(&value, &grant(&["key"])).ok().flatten().unwrap();
        assert_eq!(placed.as_bytes(), b"Bearer s3cret, s3cret");
        assert!(placed.is_sensitive());
        assert!(secrets.placed(&value, &grant(&[])).is_err_and(|misplaced| misplaced.name == "key"));
        assert!(secrets.placed(&header("plain".to_owned()), &grant(&[])).is_ok_and(|placed| placed.is_none()));
        assert_eq!(secrets.named_in(format!("/?{placeholder}").as_bytes()), Some("key"));
        let again = of_file(&folder, "key", b"s3cret\n").unwrap();
        assert_ne!(again.placeholder("key"), Some(placeholder), "it is made anew each time");
    }

    #[test]
    fn a_secret_that_is_withheld_goes_nowhere() {
        let manifest = manifest(&[("key", SecretSource::Variable("SANDPOST_SECRET_NEVER_SET".to_owned()))]);
        let secrets = Secrets::withheld(&manifest).unwrap();
        let value = HeaderValue::from_str(secrets.placeholder("key").unwrap()).unwrap();
        assert!(secrets.placed(&value, &grant(&["key"])).is_err());
        let Err(error) = Secrets::read(&manifest) else { panic!() };
        let text = "`secrets.key`: the variable SANDPOST_SECRET_NEVER_SET is not set where the bus was started";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn what_is_no_header_value_is_refused_without_being_shown() {
        let folder = tempfile::tempdir().unwrap();
        let name = || "key".to_owned();
        for (content, expected) in [
            (&b""[..], SecretError::Empty { name: name() }),
            (b"\r\n", SecretError::Empty { name: name() }),
            (b"two\nlines", SecretError::NoHeader { name: name() }),
            (&[b'x'; SECRET_BYTES_MAX + 1], SecretError::TooLong { name: name() }),
        ] {
            assert_eq!(of_file(&folder, "key", content).err(), Some(expected));
        }
        assert!(of_file(&folder, "key", &[b'x'; SECRET_BYTES_MAX]).is_ok());
        let missing = folder.path().join("none");
        let error = Secrets::read(&manifest(&[("key", SecretSource::File(missing))])).err();
        assert!(matches!(error, Some(SecretError::Unreadable { .. })), "{error:?}");
    }
}
