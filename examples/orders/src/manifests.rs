//! The consumers' manifests, made for an audience that will not wait for minutes, and for a mail API of our own.

use anyhow::{Context, Result};
use toml::{Table, Value};

/// Attempts that an order has: the one more than the supplier needs.
pub(crate) const ATTEMPTS_MAX: u32 = 4;

/// Without jitter, so that the demonstration takes the same time each time.
const BACKOFF: &str = r#"backoff = { initial = "400ms", factor = 2.0, max = "1s", jitter = 0.0 }"#;

/// The manifest with few attempts soon after one another. All else is as it is shipped.
///
/// # Errors
/// Where it is not a manifest.
pub(crate) fn impatient(manifest: &str) -> Result<String> {
    let mut manifest: Table = manifest.parse().context("the manifest is no TOML")?;
    let subscriptions = manifest.get_mut("subscription").and_then(Value::as_array_mut);
    for subscription in subscriptions.context("the manifest has no [[subscription]]")? {
        let subscription = subscription.as_table_mut().context("a subscription is a table")?;
        let mut retry: Table = BACKOFF.parse().context("the backoff is TOML")?;
        retry.insert("max_attempts".to_owned(), ATTEMPTS_MAX.into());
        subscription.insert("retry".to_owned(), Value::Table(retry));
    }
    Ok(manifest.to_string())
}

/// The manifest of `email` with another mail API, which is on this machine. All else is as it is.
///
/// # Errors
/// Where it is not the manifest of `email`.
pub(crate) fn mailing_to(manifest: &str, url: &str) -> Result<String> {
    let mut manifest: Table = manifest.parse().context("the manifest is no TOML")?;
    let config = manifest.get_mut("config").and_then(Value::as_table_mut).context("email has a [config]")?;
    config.insert("mail_api".to_owned(), url.into());
    let grants = manifest.get_mut("grants").and_then(|grants| grants.get_mut("http")).and_then(Value::as_array_mut);
    for grant in grants.context("email has [grants] http")? {
        let grant = grant.as_table_mut().context("the grant of the mail API is a table")?;
        grant.insert("url".to_owned(), url.into());
        grant.insert("private".to_owned(), true.into());
    }
    Ok(manifest.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_mail_api_changes() {
        let manifest = "[grants]\nhttp = [{ url = \"https://a\", secrets = [\"k\"] }]\n[config]\nfrom = \"b\"\n";
        let changed: Table = mailing_to(manifest, "http://c").unwrap().parse().unwrap();
        let grant = &changed["grants"]["http"][0];
        assert_eq!((grant["url"].as_str(), grant["private"].as_bool()), (Some("http://c"), Some(true)));
        assert_eq!(grant["secrets"][0].as_str(), Some("k"));
        assert_eq!(changed["config"]["mail_api"].as_str(), Some("http://c"));
        assert_eq!(changed["config"]["from"].as_str(), Some("b"));
        assert!(mailing_to("[config]\n", "http://c").is_err());
    }

    #[test]
    fn only_the_retries_change() {
        let manifest =
            "[[subscription]]\ntopics = [\"a\"]\n[subscription.retry]\nmax_attempts = 6\n[config]\nb = \"c\"\n";
        let changed: Table = impatient(manifest).unwrap().parse().unwrap();
        let subscription = &changed["subscription"][0];
        assert_eq!(subscription["topics"][0].as_str(), Some("a"));
        assert_eq!(subscription["retry"]["max_attempts"].as_integer(), Some(4));
        assert_eq!(subscription["retry"]["backoff"]["initial"].as_str(), Some("400ms"));
        assert_eq!(changed["config"]["b"].as_str(), Some("c"));
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        assert!(impatient("no").is_err());
        assert!(impatient("[config]\n").is_err());
    }
}
