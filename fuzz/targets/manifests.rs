//! Manifests: any text means something or is refused at a place that is there, and what it means keeps to the bounds
//! that the rest of the bus takes for granted.

#![no_main]

use std::collections::BTreeSet;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sandpost::deploy::manifest::parse;
use sandpost::limits;

fuzz_target!(|text: &str| {
    let read = || parse("email", Path::new("plugins/email.toml"), text);
    let manifest = match read() {
        Err(error) => {
            assert!(error.to_string().contains("plugins/email.toml"), "an error says where: {error}");
            return;
        }
        Ok(manifest) => manifest,
    };
    assert_eq!(read().as_ref(), Ok(&manifest), "a text means one thing");
    let mut names = BTreeSet::new();
    assert!((1..=limits::CONSUMER_SUBSCRIPTIONS_MAX).contains(&manifest.subscriptions.len()));
    for one in &manifest.subscriptions {
        assert!(names.insert(&one.name), "subscriptions have names of their own: {}", one.name);
        assert!((1..=limits::NAME_BYTES_MAX).contains(&one.name.len()));
        assert!((1..=limits::SUBSCRIPTION_FILTERS_MAX).contains(&one.topics.len()));
        let policy = &one.policy;
        assert!((1..=limits::GUEST_CONCURRENCY_MAX).contains(&policy.concurrency));
        assert!((limits::DURATION_MIN..=limits::GUEST_TIMEOUT_MAX).contains(&policy.timeout));
        assert!((1..=limits::MAX_ATTEMPTS_MAX).contains(&policy.retry.max_attempts));
        let backoff = &policy.retry.backoff;
        assert!(backoff.initial <= backoff.max && backoff.max <= limits::RETRY_DELAY_MAX);
        assert!((1.0..=limits::BACKOFF_FACTOR_MAX).contains(&backoff.factor));
        assert!((0.0..=1.0).contains(&backoff.jitter));
        assert!(policy.rate.as_ref().is_none_or(|rate| rate.count >= 1 && !rate.per.is_zero()));
        assert!(
            policy.breaker.as_ref().is_none_or(|breaker| breaker.failures >= 2 && breaker.pause <= breaker.pause_max)
        );
    }
    assert!(manifest.limits.memory_bytes <= limits::GUEST_MEMORY_BYTES_MAX);
    assert!(manifest.publish.iter().all(|filter| !filter.as_str().starts_with('$')));
});
