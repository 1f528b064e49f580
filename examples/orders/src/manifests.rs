//! The consumers' manifests, made for an audience that will not wait for minutes.

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

#[cfg(test)]
mod tests {
    use super::*;

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
