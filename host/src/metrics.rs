//! Figures of the moment for Prometheus: base units, one prefix.

use prometheus_client::encoding::text::encode as encode_text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

use crate::log::{Cause, LogFigures};
use crate::view::{PluginView, StateSizeView, SubscriptionView, TopicView};

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;
type Counters = Family<Labels, Counter>;

/// Encodes what the bus shows. Built anew for every scrape, so that nothing here can go stale.
pub fn encode(
    log: &LogFigures,
    topics: &[TopicView],
    subscriptions: &[SubscriptionView],
    plugins: &[PluginView],
    states: &[StateSizeView],
) -> String {
    let mut registry = Registry::with_prefix("sandpost");
    log_figures(&mut registry, log);
    topic_figures(&mut registry, topics);
    subscription_figures(&mut registry, subscriptions);
    plugin_figures(&mut registry, plugins);
    state_figures(&mut registry, states);
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = encode_text(&mut text, &registry);
    text.replace("# EOF\n", &(sync_histogram(log) + "# EOF\n"))
}

fn log_figures(registry: &mut Registry, log: &LogFigures) {
    let gauge = |registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>, value: f64| {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, gauge),
            None => registry.register(name, help, gauge),
        }
    };
    let bytes = || Some(Unit::Bytes);
    gauge(registry, "log_unsynced", "Sequenced and not yet synced", bytes(), log.unsynced_bytes as f64);
    gauge(registry, "log_recent", "Newest messages kept in memory", bytes(), log.recent_bytes as f64);
    gauge(registry, "log_file", "Size of the log's file", bytes(), log.file_bytes as f64);
    gauge(registry, "log_messages", "Bytes of all messages that are retained", bytes(), log.message_bytes as f64);
    gauge(registry, "log_free", "Free space on the data folder's disk", bytes(), log.free_bytes as f64);
    gauge(registry, "log_accepting", "1 while publishes from outside are accepted", None, f64::from(log.accepting));
    gauge(registry, "scheduled_messages", "Messages that wait for their time", None, log.scheduled_messages as f64);
    gauge(
        registry,
        "dedupe_window",
        "How far back a second event of the same topic, source and id is known for a duplicate",
        Some(Unit::Seconds),
        log.dedupe_window_ms as f64 / 1e3,
    );
    let counter = |registry: &mut Registry, name: &str, help: &str, value: u64| {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    };
    counter(registry, "log_appended_messages", "Messages that were synced since the start", log.appended_messages);
    counter(
        registry,
        "duplicates",
        "Events since the start that came before and were not stored again",
        log.duplicates,
    );
    counter(registry, "log_appended_bytes", "Bytes of messages that were synced since the start", log.appended_bytes);
    counter(registry, "log_removed_messages", "Messages that retention took out since the start", log.removed_messages);
    counter(
        registry,
        "log_removed_bytes",
        "Bytes of messages that retention took out since the start",
        log.removed_bytes,
    );
}

/// The crate's histograms observe values themselves; the log has counted these already.
fn sync_histogram(log: &LogFigures) -> String {
    use std::fmt::Write as _;
    let mut text = String::from(
        "# HELP sandpost_log_sync_seconds How long a group commit took, sync included.\n# TYPE sandpost_log_sync_seconds histogram\n",
    );
    for (upper, count) in &log.sync_seconds {
        let _ = writeln!(text, "sandpost_log_sync_seconds_bucket{{le=\"{upper}\"}} {count}");
    }
    let _ = writeln!(text, "sandpost_log_sync_seconds_bucket{{le=\"+Inf\"}} {}", log.syncs);
    let _ = writeln!(text, "sandpost_log_sync_seconds_sum {}", log.sync_seconds_sum);
    let _ = writeln!(text, "sandpost_log_sync_seconds_count {}", log.syncs);
    text
}

fn topic_figures(registry: &mut Registry, topics: &[TopicView]) {
    let (messages, retained, bytes) = (Counters::default(), Gauges::default(), Gauges::default());
    for topic in topics {
        let labels = vec![("topic", topic.name.clone())];
        messages.get_or_create(&labels).inc_by(topic.last_sequence);
        retained.get_or_create(&labels).set(topic.messages as f64);
        bytes.get_or_create(&labels).set(topic.bytes as f64);
    }
    registry.register("topic_messages", "Messages ever published to the topic", messages);
    registry.register("topic_retained_messages", "Messages of the topic that are still there", retained);
    registry.register_with_unit("topic_size", "Bytes of the topic's messages that are still there", Unit::Bytes, bytes);
}

fn subscription_figures(registry: &mut Registry, subscriptions: &[SubscriptionView]) {
    let (pending, oldest, waiting) = (Gauges::default(), Gauges::default(), Gauges::default());
    let (dead, instances, lagging) = (Gauges::default(), Gauges::default(), Gauges::default());
    let (blocked, paused, open) = (Gauges::default(), Gauges::default(), Gauges::default());
    let (reruns, refunds, openings) = (Counters::default(), Counters::default(), Counters::default());
    let (deliveries, letters, messages) = (Counters::default(), Counters::default(), Counters::default());
    let episodes = Counters::default();
    for view in subscriptions {
        let labels = vec![("subscription", view.name.clone())];
        let with = |name, value: &str| vec![("subscription", view.name.clone()), (name, value.to_owned())];
        pending.get_or_create(&labels).set(view.pending as f64);
        oldest.get_or_create(&labels).set(view.oldest_pending_seconds);
        dead.get_or_create(&labels).set(view.dead as f64);
        instances.get_or_create(&labels).set(f64::from(view.instances));
        lagging.get_or_create(&labels).set(f64::from(view.lagging));
        blocked.get_or_create(&labels).set(view.blocked_keys as f64);
        paused.get_or_create(&labels).set(f64::from(view.paused));
        let breaker = view.breaker.as_ref();
        open.get_or_create(&labels).set(f64::from(breaker.is_some_and(|breaker| breaker.state != "closed")));
        openings.get_or_create(&labels).inc_by(breaker.map_or(0, |breaker| breaker.opened));
        reruns.get_or_create(&labels).inc_by(view.reruns);
        refunds.get_or_create(&labels).inc_by(view.refunded);
        episodes.get_or_create(&labels).inc_by(view.lag_episodes);
        let reasons = &view.waiting;
        for (reason, count) in [
            ("running", reasons.running),
            ("runnable", reasons.runnable),
            ("due-later", reasons.due_later),
            ("full", reasons.full.values().sum()),
            ("behind-key", reasons.behind_key),
            ("behind-window", reasons.behind_window),
            ("paused", reasons.paused),
            ("breaker", reasons.breaker),
            ("over-rate", reasons.over_rate),
            ("orphaned", reasons.orphaned),
            ("parked", reasons.parked),
        ] {
            waiting.get_or_create(&with("reason", reason)).set(count as f64);
        }
        for (outcome, count) in &view.outcomes {
            deliveries.get_or_create(&with("outcome", outcome)).inc_by(*count);
        }
        for (reason, count) in &view.died {
            letters.get_or_create(&with("reason", reason)).inc_by(*count);
        }
        for (state, count) in [
            ("matched", view.matched),
            ("acked", view.acked),
            ("expired", view.expired),
            ("skipped", view.skipped),
            ("reopened", view.reopened),
            ("redriven", view.redriven),
        ] {
            messages.get_or_create(&with("state", state)).inc_by(count);
        }
    }
    registry.register("subscription_pending_messages", "Lag: messages neither settled nor dead", pending);
    let help = "Lag: age of the oldest pending message";
    registry.register_with_unit("subscription_oldest_pending", help, Unit::Seconds, oldest);
    registry.register("subscription_lagging", "1 while the oldest pending message is older than lag_warn", lagging);
    registry.register("subscription_lag_episodes", "How often it came to that, since the start", episodes);
    registry.register("subscription_waiting_messages", "Pending messages by what they wait for", waiting);
    registry.register("subscription_dead_letters", "Dead letters now", dead);
    registry.register("subscription_blocked_keys", "Keys that a retry or a dead letter holds back", blocked);
    registry.register("subscription_paused", "1 while an operator holds the subscription back", paused);
    registry.register("subscription_breaker_open", "1 while the breaker is open or half open", open);
    registry.register("subscription_breaker_openings", "Times that the breaker opened, since the start", openings);
    registry.register("subscription_reruns", "Calls made again, or failed, and not charged, since the start", reruns);
    registry.register("subscription_refunds", "Charged attempts that were taken back, since the start", refunds);
    registry.register("subscription_instances", "Instances of the consumer that live", instances);
    registry.register("deliveries", "Calls that ended, by outcome, since the start", deliveries);
    registry.register("dead_letters", "Messages that ever became dead letters, by reason", letters);
    registry.register("subscription_messages", "Durable counters of events", messages);
}

fn state_figures(registry: &mut Registry, states: &[StateSizeView]) {
    let (entries, bytes) = (Gauges::default(), Gauges::default());
    for state in states {
        let labels = vec![("consumer", state.consumer.clone())];
        entries.get_or_create(&labels).set(state.entries as f64);
        bytes.get_or_create(&labels).set(state.bytes as f64);
    }
    registry.register("state_entries", "Keys in the consumer's state", entries);
    registry.register_with_unit("state_size", "Bytes of the consumer's state", Unit::Bytes, bytes);
}

fn plugin_figures(registry: &mut Registry, plugins: &[PluginView]) {
    let (info, deployments, rollbacks) = (Gauges::default(), Counters::default(), Counters::default());
    let (on_probation, messages, failures) = (Gauges::default(), Gauges::default(), Gauges::default());
    for plugin in plugins {
        let plain = vec![("plugin", plugin.name.clone())];
        let labels = vec![
            ("plugin", plugin.name.clone()),
            ("status", plugin.status.to_owned()),
            ("digest", plugin.digest.clone().unwrap_or_default()),
            ("problem", (if plugin.problem.is_some() { "true" } else { "false" }).to_owned()),
        ];
        info.get_or_create(&labels).set(1.0);
        on_probation.get_or_create(&plain).set(f64::from(plugin.probation.is_some()));
        if let Some(probation) = &plugin.probation {
            messages.get_or_create(&plain).set(probation.messages as f64);
            failures.get_or_create(&plain).set(probation.failures as f64);
        }
        for (cause, count) in &plugin.deployments {
            let is_rollback = Cause::ALL.iter().any(|one| one.as_str() == *cause && one.is_rollback());
            let family = if is_rollback { &rollbacks } else { &deployments };
            let labels = vec![("plugin", plugin.name.clone()), ("cause", (*cause).to_owned())];
            family.get_or_create(&labels).inc_by(*count);
        }
    }
    registry.register("plugin_info", "Consumers and what they run", info);
    registry.register("plugin_on_probation", "1 while what runs has to prove itself", on_probation);
    let help = "Messages that a version on probation has ended";
    registry.register("plugin_probation_messages", help, messages);
    let help = "Messages that failed of the fault of a version on probation";
    registry.register("plugin_probation_failures", help, failures);
    registry.register("plugin_deployments", "Versions that were deployed, by cause", deployments);
    registry.register("plugin_rollbacks", "Versions that were gone back from, by cause", rollbacks);
}
