//! How the bus shows itself.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::dispatch::runner::idempotency_key;
use crate::engine::{Engine, Enrolled};
use crate::log::{DeadLetter, ReadBounds};
use crate::outcome::{Attempt, DeadReason, Excuse, OutcomeKind};
use crate::policy::Order;
use crate::view::{AttemptView, DeadLetterView, SubscriptionStatus, SubscriptionView};

pub(super) fn subscription(
    engine: &Engine,
    enrolled: &Enrolled,
    digests: &BTreeMap<String, String>,
) -> SubscriptionView {
    let subscription = &enrolled.subscription;
    let situation = subscription.explain();
    let counts = situation.counts;
    let explanation = situation.explanation;
    let oldest_ms = explanation.oldest_ms.or_else(|| {
        // Nothing of it is in memory: the oldest pending message is the next that would be read.
        let bounds = ReadBounds { messages_max: 1, bytes_max: 1 };
        let first = (situation.unread > 0).then(|| engine.log.read(&situation.selection, situation.cursor, bounds))?;
        first.ok()?.messages.first().map(|message| message.accepted_ms)
    });
    let age_ms = oldest_ms.map_or(0, |accepted_ms| engine.now_ms().saturating_sub(accepted_ms));
    let active = subscription.is_active();
    let policy = situation.policy;
    SubscriptionView {
        name: subscription.name.to_string(),
        consumer: enrolled.consumer.to_string(),
        topics: situation.selection.filters.iter().map(|(filter, _)| filter.to_string()).collect(),
        status: match (active, explanation.paused) {
            (false, _) => SubscriptionStatus::Orphaned,
            (true, true) => SubscriptionStatus::Paused,
            (true, false) => SubscriptionStatus::Active,
        },
        created_ms: enrolled.created_ms,
        digest: digests.get(&*enrolled.consumer).filter(|_| active).cloned(),
        order: match policy.order {
            Order::Key => "key",
            Order::Topic => "topic",
            Order::None => "none",
        },
        concurrency: policy.concurrency,
        max_attempts: policy.retry.max_attempts,
        matched: counts.passed + explanation.pending.saturating_sub(counts.rows),
        pending: explanation.pending,
        dead: counts.dead,
        acked: counts.acked,
        expired: counts.expired,
        skipped: counts.skipped,
        reopened: counts.reopened,
        redriven: counts.redriven,
        died: DeadReason::ALL.iter().map(|reason| (reason.as_str(), counts.died[*reason as usize])).collect(),
        oldest_pending_seconds: age_ms as f64 / 1000.0,
        lagging: u128::from(age_ms) > policy.lag_warn.as_millis(),
        lag_warn_seconds: policy.lag_warn.as_secs_f64(),
        lag_episodes: situation.lag_episodes,
        waiting: explanation.waiting,
        parked_by: situation.holders.iter().map(|offset| format!("{}:{offset}", subscription.name)).collect(),
        on_exhausted: policy.retry.on_exhausted.as_str(),
        read_to: situation.cursor,
        outcomes: OutcomeKind::ALL.iter().map(|kind| (kind.as_str(), explanation.outcomes[*kind as usize])).collect(),
        paused: explanation.paused,
        breaker: explanation.breaker,
        rate: policy.rate.map(|rate| rate.to_string()),
        blocked_keys: explanation.blocked_keys,
        reruns: explanation.reruns,
        refunded: explanation.refunded,
        instances: situation.instances,
        problem: situation.problem,
    }
}

/// The message is added by the caller where it is asked for.
/// `bus` is the id under which the message was accepted.
pub(super) fn dead_letter(bus: &Uuid, subscription: &str, letter: &DeadLetter, topic: &str) -> DeadLetterView {
    let row = &letter.row;
    DeadLetterView {
        id: format!("{subscription}:{}", letter.offset),
        subscription: subscription.to_owned(),
        reason: row.reason.as_str(),
        excused: row.excused.map(Excuse::as_str),
        died_ms: row.died_ms,
        topic: topic.to_owned(),
        sequence: row.sequence,
        offset: letter.offset,
        accepted_ms: row.accepted_ms,
        key: row.key.clone(),
        message_id: row.message_id.clone(),
        source: row.source.clone(),
        idempotency_key: idempotency_key(bus, subscription, letter.offset),
        redrives: row.history.redrives,
        attempts_total: row.history.attempts.len() as u64 + row.history.omitted,
        attempts: row.history.attempts.iter().map(attempt).collect(),
        message: None,
    }
}

fn attempt(attempt: &Attempt) -> AttemptView {
    AttemptView {
        at_ms: attempt.at_ms,
        duration_us: attempt.duration_us,
        outcome: attempt.outcome.as_str(),
        text: attempt.text.clone(),
        digest: attempt.digest.to_string(),
        charged: attempt.charged,
    }
}
