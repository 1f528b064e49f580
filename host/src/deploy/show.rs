//! What deployments show of themselves.

use super::plan::Active;
use super::trial::Trial;
use crate::log::{Cause, Deployment, PluginRecord};
use crate::outcome::Digest;
use crate::view::{DeploymentProbationView, DeploymentView, PluginView, ProbationView, RolledBackView};

/// A consumer of which nothing runs.
pub(super) fn idle(stem: &str, status: &'static str) -> PluginView {
    PluginView {
        name: stem.to_owned(),
        status,
        kind: None,
        digest: None,
        deployed_ms: None,
        deployed_by: None,
        compiling: None,
        compiling_since_ms: None,
        probation: None,
        rolled_back: Vec::new(),
        deployments: Vec::new(),
        subscriptions: Vec::new(),
        publish: Vec::new(),
        http: Vec::new(),
        problem: None,
    }
}

pub(super) fn active(stem: &str, active: &Active, trial: Option<&Trial>, problem: Option<String>) -> PluginView {
    let runs = active.down.is_none();
    let record = &active.record;
    let last = record.history.last();
    PluginView {
        kind: active.kind,
        digest: runs.then(|| record.digest.to_string()),
        deployed_ms: runs.then_some(record.deployed_ms),
        deployed_by: last.filter(|_| runs).map(|last| last.cause.as_str()),
        probation: trial.map(|trial| probation(record, trial)),
        rolled_back: record.rolled_back.iter().map(rolled_back).collect(),
        deployments: Cause::ALL.iter().map(|cause| (cause.as_str(), record.deployed[*cause as usize])).collect(),
        subscriptions: active.subscriptions.clone(),
        publish: active.publish.clone(),
        http: active.http.clone(),
        problem,
        ..idle(stem, if runs { "running" } else { "failed" })
    }
}

fn probation(record: &PluginRecord, trial: &Trial) -> ProbationView {
    let back_to = record.history.iter().find(|one| record.back_to == Some(one.number));
    let (policy, standing) = (trial.policy(), trial.standing());
    ProbationView {
        messages: standing.messages,
        messages_max: policy.messages,
        failures: standing.failures,
        max_failures: policy.max_failures,
        back_to: back_to.map(|one| one.digest.to_string()).unwrap_or_default(),
    }
}

fn rolled_back(one: &crate::log::RolledBack) -> RolledBackView {
    RolledBackView { digest: one.digest.to_string(), at_ms: one.at_ms, by: one.by.as_str(), why: one.why.clone() }
}

/// The deployments of a consumer, the newest first.
pub(super) fn history(record: &PluginRecord) -> Vec<DeploymentView> {
    let mut before: Option<&Deployment> = None;
    let mut views = Vec::with_capacity(record.history.len());
    for one in &record.history {
        let differs = |of: fn(&Deployment) -> Digest| before.is_none_or(|before| of(before) != of(one));
        let changes = [("component", differs(|one| one.digest)), ("manifest", differs(|one| one.manifest_digest))];
        let probation = one.probation.as_ref().map(|end| DeploymentProbationView {
            status: end.how.as_str(),
            messages: end.messages,
            failures: end.failures,
            last_failures: end.last.clone(),
        });
        views.push(DeploymentView {
            number: one.number,
            digest: one.digest.to_string(),
            manifest_digest: one.manifest_digest.to_string(),
            deployed_ms: one.at_ms,
            deployed_by: one.cause.as_str(),
            changed: changes.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect(),
            kept: one.manifest.is_some(),
            probation,
        });
        before = Some(one);
    }
    if let (Some(_), Some(last)) = (record.back_to, views.last_mut()) {
        let status = "running";
        last.probation =
            Some(DeploymentProbationView { status, messages: 0, failures: 0, last_failures: String::new() });
    }
    views.reverse();
    views
}
