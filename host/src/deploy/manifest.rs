//! Manifests: the text beside a component becomes what it means, or a message that says why not.

mod build;
mod command;
mod http;
mod keys;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use toml::de::DeTable;

use keys::shortened;
pub use keys::{ManifestError, ManifestProblem};
pub(crate) use keys::{Source, Table, Value};

use crate::limits;
use crate::policy::{
    Backoff, BreakerPolicy, GuestLimits, Isolation, Manifest, OnExhausted, Order, Policy, ProbationPolicy, Rate,
    RetryPolicy, START_ALLOWED, StartAt, StartError, SubscriptionSpec,
};
use crate::topic::TopicFilter;

/// What a name must be, in the words of errors.
pub(crate) const NAME_ALLOWED: &str = "1 to 100 letters, digits, `-` and `_`";
const _: () = assert!(limits::NAME_BYTES_MAX == 100, "the text above says so");
const RATE_ALLOWED: &str =
    "a number of calls in a second, minute or hour, such as \"50/s\", \"600/m\" or \"10/h\", of 1 to 1000000";
const _: () = assert!(limits::RATE_COUNT_MAX == 1_000_000, "the text above says so");
/// One page of WebAssembly memory; nothing runs with less.
const MEMORY_BYTES_MIN: u64 = 64 * limits::KIB as u64;

/// Reads the manifest of the consumer `stem`. `file` is its path, for errors.
///
/// Fails at the first key that is unknown, and at the first value that is
/// missing or impossible. Any text is answered; none panics.
pub fn parse(stem: &str, file: &Path, text: &str) -> Result<Manifest, ManifestError> {
    let source = Source { file, text };
    if text.len() > limits::MANIFEST_BYTES_MAX {
        let problem = ManifestProblem::TooLarge { bytes: text.len(), bytes_max: limits::MANIFEST_BYTES_MAX };
        return Err(source.error(None, "", problem));
    }
    let document = DeTable::parse(text).map_err(|error| {
        let message = error.message().replace('\n', "; ");
        source.error(error.span().map(|span| span.start), "", ManifestProblem::Syntax { message })
    })?;
    let root = Table::root(source, document.get_ref());
    root.allow(&["subscription", "limits", "grants", "config", "secrets", "deploy", "command", "build"])?;
    let publish = grants(&root)?;
    Ok(Manifest {
        subscriptions: subscriptions(stem, &root)?,
        limits: guest_limits(&root)?,
        build: build::spec(&root)?,
        command: command::policy(&root, &publish)?,
        publish,
        http: http::grants(&root)?,
        config: config(&root)?,
        secrets: http::secrets(&root)?,
        probation: probation(&root)?,
    })
}

/// Whether a text can name a consumer or a subscription.
pub(crate) fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=limits::NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

fn subscriptions(stem: &str, root: &Table<'_>) -> Result<Vec<SubscriptionSpec>, ManifestError> {
    let needed = "a manifest declares at least one [[subscription]] with its `topics`";
    let value = root.require("subscription", needed)?;
    let tables = value.elements("a list of tables, each written as [[subscription]]")?;
    if tables.is_empty() {
        return Err(value.error(ManifestProblem::Missing { needed: needed.to_owned() }));
    }
    if tables.len() > limits::CONSUMER_SUBSCRIPTIONS_MAX {
        let allowed = format!("at most {} subscriptions", limits::CONSUMER_SUBSCRIPTIONS_MAX);
        return Err(value.impossible(format!("{} subscriptions", tables.len()), allowed));
    }
    let mut specs: Vec<SubscriptionSpec> = Vec::with_capacity(tables.len());
    for value in tables {
        let table = value.table()?;
        table.allow(&[
            "name",
            "topics",
            "from",
            "order",
            "concurrency",
            "timeout",
            "lag_warn",
            "isolation",
            "retry",
            "rate",
            "breaker",
        ])?;
        let name = match table.get("name") {
            Some(name) => {
                let text = name.text("a text")?;
                if !is_name(text) {
                    return Err(name.impossible(text, NAME_ALLOWED));
                }
                if specs.iter().any(|spec| spec.name == text) {
                    return Err(name.error(ManifestProblem::Twice { value: shortened(text) }));
                }
                text
            }
            None if specs.is_empty() && is_name(stem) => stem,
            None if specs.is_empty() => {
                let needed = format!("the file's stem `{stem}` cannot be its name, which is {NAME_ALLOWED}");
                return Err(table.missing("name", needed));
            }
            None => return Err(table.missing("name", "every subscription after the first needs one")),
        };
        specs.push(SubscriptionSpec {
            name: name.to_owned(),
            topics: topics(&table)?,
            from: table.get("from").map_or(Ok(StartAt::Now), |from| start_at(&from))?,
            policy: policy(&table)?,
        });
    }
    Ok(specs)
}

fn topics(table: &Table<'_>) -> Result<Vec<TopicFilter>, ManifestError> {
    let example = "a list of topics and filters, such as [\"order.placed\", \"payment.>\"]";
    let value = table.require("topics", example)?;
    let filters = filters(&value, example)?;
    if filters.is_empty() {
        return Err(value.impossible("[]", "a list of at least one topic or filter"));
    }
    Ok(filters)
}

fn filters(value: &Value<'_>, expected: &'static str) -> Result<Vec<TopicFilter>, ManifestError> {
    let elements = value.elements(expected)?;
    if elements.len() > limits::SUBSCRIPTION_FILTERS_MAX {
        let allowed = format!("a list of at most {}", limits::SUBSCRIPTION_FILTERS_MAX);
        return Err(value.impossible(format!("{} topics", elements.len()), allowed));
    }
    let mut filters = Vec::with_capacity(elements.len());
    for element in elements {
        let text = element.text("a topic or filter as a text")?;
        let topic_problem = |error| element.error(ManifestProblem::Topic { value: shortened(text), error });
        let filter = TopicFilter::parse(text).map_err(topic_problem)?;
        if filters.contains(&filter) {
            return Err(element.error(ManifestProblem::Twice { value: shortened(text) }));
        }
        filters.push(filter);
    }
    Ok(filters)
}

fn start_at(value: &Value<'_>) -> Result<StartAt, ManifestError> {
    if value.is_whole() {
        return value.whole(0..=limits::INTEGER_MAX).map(StartAt::Offset);
    }
    let text = value.scalar()?;
    text.parse().map_err(|error| match error {
        StartError::Unknown => value.impossible(&text, START_ALLOWED),
        StartError::Topic { topic, error } => value.error(ManifestProblem::Topic { value: shortened(&topic), error }),
    })
}

fn policy(table: &Table<'_>) -> Result<Policy, ManifestError> {
    let mut policy = Policy::default();
    if let Some(order) = table.get("order") {
        policy.order = order.word(&[("key", Order::Key), ("topic", Order::Topic), ("none", Order::None)])?;
    }
    if let Some(concurrency) = table.get("concurrency") {
        policy.concurrency = small(&concurrency, limits::GUEST_CONCURRENCY_MAX)?;
    }
    if let Some(timeout) = table.get("timeout") {
        policy.timeout = timeout.duration(limits::DURATION_MIN..=limits::GUEST_TIMEOUT_MAX)?;
    }
    if let Some(lag_warn) = table.get("lag_warn") {
        policy.lag_warn = lag_warn.duration(limits::DURATION_MIN..=limits::LAG_WARN_MAX)?;
    }
    if let Some(isolation) = table.get("isolation") {
        policy.isolation = isolation.word(&[("reuse", Isolation::Reuse), ("fresh", Isolation::Fresh)])?;
    }
    if let Some(retry) = table.get("retry") {
        policy.retry = retry_policy(&retry.table()?)?;
    }
    if let Some(value) = table.get("rate") {
        policy.rate = Some(rate(&value)?);
    }
    if let Some(breaker) = table.get("breaker") {
        policy.breaker = breaker_policy(&breaker.table()?)?;
    }
    Ok(policy)
}

fn retry_policy(table: &Table<'_>) -> Result<RetryPolicy, ManifestError> {
    table.allow(&["max_attempts", "backoff", "on_exhausted"])?;
    let mut retry = RetryPolicy::default();
    if let Some(attempts) = table.get("max_attempts") {
        retry.max_attempts = small(&attempts, limits::MAX_ATTEMPTS_MAX)?;
    }
    if let Some(value) = table.get("on_exhausted") {
        retry.on_exhausted = value.word(&OnExhausted::ALL)?;
    }
    if let Some(value) = table.get("backoff") {
        retry.backoff = backoff(&value.table()?)?;
    }
    Ok(retry)
}

fn backoff(table: &Table<'_>) -> Result<Backoff, ManifestError> {
    table.allow(&["initial", "factor", "max", "jitter"])?;
    let mut backoff = Backoff::default();
    if let Some(initial) = table.get("initial") {
        backoff.initial = initial.duration(limits::DURATION_MIN..=limits::RETRY_DELAY_MAX)?;
    }
    if let Some(factor) = table.get("factor") {
        backoff.factor = factor.number(1.0..=limits::BACKOFF_FACTOR_MAX)?;
    }
    // A first delay above the default for the longest one means a constant delay, not a shorter one.
    backoff.max = match table.get("max") {
        Some(max) => max.duration(backoff.initial..=limits::RETRY_DELAY_MAX)?,
        None => backoff.max.max(backoff.initial),
    };
    if let Some(jitter) = table.get("jitter") {
        backoff.jitter = jitter.number(0.0..=1.0)?;
    }
    Ok(backoff)
}

fn rate(value: &Value<'_>) -> Result<Rate, ManifestError> {
    let text = value.text(RATE_ALLOWED)?;
    let parsed = text.split_once('/').and_then(|(count, unit)| {
        let count = count.trim().parse().ok().filter(|count| (1..=limits::RATE_COUNT_MAX).contains(count))?;
        let seconds = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            _ => return None,
        };
        Some(Rate { count, per: Duration::from_secs(seconds) })
    });
    parsed.ok_or_else(|| value.impossible(text, RATE_ALLOWED))
}

fn breaker_policy(table: &Table<'_>) -> Result<Option<BreakerPolicy>, ManifestError> {
    table.allow(&["enabled", "failures", "pause", "pause_max"])?;
    let mut breaker = BreakerPolicy::default();
    if let Some(failures) = table.get("failures") {
        let number = failures.whole(2..=u64::from(limits::BREAKER_FAILURES_MAX))?;
        breaker.failures = u32::try_from(number).expect("it is at most a u32");
    }
    if let Some(pause) = table.get("pause") {
        breaker.pause = pause.duration(limits::DURATION_MIN..=limits::RETRY_DELAY_MAX)?;
    }
    breaker.pause_max = match table.get("pause_max") {
        Some(max) => max.duration(breaker.pause..=limits::RETRY_DELAY_MAX)?,
        None => breaker.pause_max.max(breaker.pause),
    };
    let enabled = table.get("enabled").map_or(Ok(true), |enabled| enabled.truth())?;
    Ok(enabled.then_some(breaker))
}

/// A whole number from 1 to `max`.
fn small(value: &Value<'_>, max: u32) -> Result<u32, ManifestError> {
    let number = value.whole(1..=u64::from(max))?;
    Ok(u32::try_from(number).expect("it is at most a u32"))
}

fn guest_limits(root: &Table<'_>) -> Result<GuestLimits, ManifestError> {
    let mut guest_limits = GuestLimits::default();
    let Some(table) = root.get("limits") else { return Ok(guest_limits) };
    let table = table.table()?;
    table.allow(&["memory", "http_request", "http_response"])?;
    if let Some(memory) = table.get("memory") {
        let bytes = memory.bytes(MEMORY_BYTES_MIN..=limits::GUEST_MEMORY_BYTES_MAX as u64)?;
        guest_limits.memory_bytes = usize::try_from(bytes).expect("the bound is a usize");
    }
    if let Some(bytes) = table.get("http_request") {
        guest_limits.http_request_bytes = bytes.bytes(0..=limits::HTTP_BODY_BYTES_MAX)?;
    }
    if let Some(bytes) = table.get("http_response") {
        guest_limits.http_response_bytes = bytes.bytes(0..=limits::HTTP_BODY_BYTES_MAX)?;
    }
    Ok(guest_limits)
}

fn grants(root: &Table<'_>) -> Result<Vec<TopicFilter>, ManifestError> {
    let Some(table) = root.get("grants") else { return Ok(Vec::new()) };
    let table = table.table()?;
    table.allow(&["publish", "http"])?;
    let Some(publish) = table.get("publish") else { return Ok(Vec::new()) };
    let filters = filters(&publish, "a list of topics and filters, such as [\"email.sent\"]")?;
    if let Some(own) = filters.iter().find(|filter| filter.as_str().starts_with('$')) {
        return Err(publish.impossible(own, "topics that do not begin with `$`; those are the bus's own"));
    }
    Ok(filters)
}

fn config(root: &Table<'_>) -> Result<BTreeMap<String, String>, ManifestError> {
    let Some(table) = root.get("config") else { return Ok(BTreeMap::new()) };
    let table = table.table()?;
    table.entries().map(|(key, value)| Ok((key.to_owned(), value.scalar()?))).collect()
}

fn probation(root: &Table<'_>) -> Result<Option<ProbationPolicy>, ManifestError> {
    let Some(deploy) = root.get("deploy") else { return Ok(None) };
    let deploy = deploy.table()?;
    deploy.allow(&["probation"])?;
    let Some(table) = deploy.get("probation") else { return Ok(None) };
    let table = table.table()?;
    table.allow(&["messages", "max_failures"])?;
    let messages = match table.get("messages") {
        Some(messages) => messages.whole(1..=limits::PROBATION_MESSAGES_MAX)?,
        None => limits::PROBATION_MESSAGES_DEFAULT,
    };
    // As many failures as messages could never be too many.
    let max_failures = match table.get("max_failures") {
        Some(max_failures) => max_failures.whole(0..=messages - 1)?,
        None => limits::PROBATION_FAILURES_DEFAULT.min(messages - 1),
    };
    Ok(Some(ProbationPolicy { messages, max_failures }))
}
