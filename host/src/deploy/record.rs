//! What a consumer's record becomes when a version is deployed, proves itself, or is gone back from. Pure
//! functions of the record before.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::Version;
use super::probation::Standing;
use super::store::digest_of;
use crate::limits::{DEPLOYMENTS_TOLD_MAX, ROLLED_BACK_MAX, VERSIONS_KEPT_MAX};
use crate::log::{Cause, Deployment, DueRefund, PluginRecord, ProbationEnd, ProbationEnded, RolledBack};
use crate::message::Millis;
use crate::outcome::Digest;

/// A component and its manifest, by their digests.
type Pair = (Digest, Digest);

/// Why there is no version to go back to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("no version that ran before this one is kept, or all of them were rolled back themselves")]
    Nothing,
    #[error("no version {to} is kept; kept are {}", kept.join(", "))]
    NotKept { to: String, kept: Vec<String> },
    #[error("{to} is the beginning of several digests: {}", found.join(", "))]
    Ambiguous { to: String, found: Vec<String> },
    #[error("{digest} runs already, and no other manifest of it is kept")]
    Runs { digest: String },
}

/// Another version runs from now on. `probation` is whether it has to prove itself; it cannot where nothing
/// ran before that could be gone back to.
pub(crate) fn deployed(
    before: Option<&PluginRecord>,
    version: &Version,
    now_ms: Millis,
    cause: Cause,
    probation: bool,
    standing: Option<&Standing>,
) -> PluginRecord {
    let pair = (version.digest, digest_of(version.text.as_bytes()));
    let mut record = next(before, version.digest, &version.text, now_ms);
    if let Some(before) = before {
        end_probation(&mut record, before, ProbationEnded::Replaced, standing);
        // One that is on probation itself is nothing to go back to.
        let proven = before.back_to.or_else(|| before.history.last().map(|last| last.number));
        let is_other = |number: &u64| before.history.iter().any(|one| one.number == *number && pair_of(one) != pair);
        record.back_to = proven.filter(|_| probation).filter(is_other);
    }
    push(&mut record, pair, now_ms, cause);
    record
}

/// An earlier deployment's version runs again, and the one that ran is marked. `None` where it is not kept.
pub(crate) fn gone_back(
    before: &PluginRecord,
    number: u64,
    now_ms: Millis,
    cause: Cause,
    standing: Option<&Standing>,
    why: String,
) -> Option<PluginRecord> {
    let target = before.history.iter().find(|one| one.number == number)?;
    let (pair, text) = (pair_of(target), target.manifest.as_ref()?);
    let mut record = next(Some(before), target.digest, text, now_ms);
    let how = if cause == Cause::Probation { ProbationEnded::Failed } else { ProbationEnded::Replaced };
    end_probation(&mut record, before, how, standing);
    let (digest, manifest) = current(before);
    record.rolled_back.retain(|one| ![pair, (digest, manifest)].contains(&(one.digest, one.manifest)));
    record.rolled_back.push(RolledBack { digest, manifest, at_ms: now_ms, by: cause, why });
    let excess = record.rolled_back.len().saturating_sub(ROLLED_BACK_MAX);
    record.rolled_back.drain(..excess);
    record.refunds.push(DueRefund { digest, since_ms: before.deployed_ms });
    push(&mut record, pair, now_ms, cause);
    Some(record)
}

/// The version did well.
pub(crate) fn proven(before: &PluginRecord, standing: &Standing) -> PluginRecord {
    let mut record = before.clone();
    end_probation(&mut record, before, ProbationEnded::Proven, Some(standing));
    record.back_to = None;
    forget(&mut record);
    record
}

/// A component may be deployed again.
pub(crate) fn permitted(before: &PluginRecord, digest: Digest) -> PluginRecord {
    let mut record = before.clone();
    record.rolled_back.retain(|one| one.digest != digest);
    record
}

/// The mark that keeps a version from being deployed by itself. A component that was rolled back is not
/// deployed under another manifest either, unless it runs now or has run under that one.
pub(crate) fn mark<'a>(record: &'a PluginRecord, version: &Version) -> Option<&'a RolledBack> {
    let pair = (version.digest, digest_of(version.text.as_bytes()));
    let is_trusted = record.digest == version.digest || record.history.iter().any(|one| pair_of(one) == pair);
    let marks = |one: &&RolledBack| (one.digest, one.manifest) == pair || (one.digest == version.digest && !is_trusted);
    record.rolled_back.iter().rfind(marks)
}

/// The deployment that `to`, the beginning of a digest, means; without it the version before this one.
pub(crate) fn target(record: &PluginRecord, to: Option<&str>) -> Result<u64, TargetError> {
    let now = current(record);
    let kept = || record.history.iter().rev().filter(|one| one.manifest.is_some());
    let Some(to) = to else {
        let is_marked =
            |one: &Deployment| record.rolled_back.iter().any(|mark| (mark.digest, mark.manifest) == pair_of(one));
        let before = || kept().find(|one| pair_of(one) != now && !is_marked(one)).map(|one| one.number);
        return record.back_to.or_else(before).ok_or(TargetError::Nothing);
    };
    let to = to.to_lowercase();
    let named: BTreeSet<Digest> =
        kept().map(|one| one.digest).filter(|digest| digest.to_string().starts_with(&to)).collect();
    let shorts = |digests: BTreeSet<Digest>| digests.iter().map(Digest::short).collect();
    match named.first() {
        None => Err(TargetError::NotKept { to, kept: shorts(kept().map(|one| one.digest).collect()) }),
        Some(_) if named.len() > 1 => Err(TargetError::Ambiguous { to, found: shorts(named) }),
        Some(digest) => {
            let found = kept().find(|one| one.digest == *digest && pair_of(one) != now);
            found.map(|one| one.number).ok_or_else(|| TargetError::Runs { digest: digest.short() })
        }
    }
}

/// The components whose bytes are kept for a record.
pub(crate) fn kept(record: &PluginRecord) -> impl Iterator<Item = Digest> + '_ {
    let kept = record.history.iter().filter(|one| one.manifest.is_some()).map(|one| one.digest);
    kept.chain([record.digest])
}

fn pair_of(one: &Deployment) -> Pair {
    (one.digest, one.manifest_digest)
}

fn current(record: &PluginRecord) -> Pair {
    (record.digest, digest_of(record.manifest.as_bytes()))
}

/// The record of a version that comes after another one, but for the deployment itself.
fn next(before: Option<&PluginRecord>, digest: Digest, manifest: &str, now_ms: Millis) -> PluginRecord {
    let record = PluginRecord::new(digest, manifest.to_owned(), now_ms);
    let Some(before) = before.cloned() else { return record };
    let PluginRecord { rolled_back, refunds, history, deployed, .. } = before;
    PluginRecord { rolled_back, refunds, history, deployed, ..record }
}

fn end_probation(record: &mut PluginRecord, before: &PluginRecord, how: ProbationEnded, standing: Option<&Standing>) {
    if let (Some(_), Some(last)) = (before.back_to, record.history.last_mut()) {
        let standing = standing.cloned().unwrap_or_default();
        let told: Vec<String> = standing.last.into();
        let (messages, failures, last_failures) = (standing.messages, standing.failures, told.join("; "));
        last.probation = Some(ProbationEnd { how, messages, failures, last: last_failures });
    }
}

/// Adds the deployment that the record is about.
fn push(record: &mut PluginRecord, (digest, manifest_digest): Pair, now_ms: Millis, cause: Cause) {
    record.deployed[cause as usize] += 1;
    let number = record.deployed.iter().sum();
    let manifest = Some(record.manifest.clone());
    let deployment = Deployment { number, digest, manifest_digest, manifest, at_ms: now_ms, cause, probation: None };
    record.history.push(deployment);
    forget(record);
}

/// Forgets what is too old: all but the newest deployments, and the manifests of all but a few versions.
/// The one to go back to stays.
fn forget(record: &mut PluginRecord) {
    let last = record.history.last().map_or(0, |last| last.number);
    let back_to = record.back_to;
    let is_new = |number: u64| number + DEPLOYMENTS_TOLD_MAX as u64 > last;
    record.history.retain(|one| is_new(one.number) || back_to == Some(one.number));
    // The newest deployment of each version keeps its manifest.
    let mut newest: BTreeMap<Pair, u64> = BTreeMap::new();
    for one in &record.history {
        newest.insert(pair_of(one), one.number);
    }
    let mut numbers: Vec<u64> = newest.into_values().collect();
    numbers.sort_unstable_by(|one, other| other.cmp(one));
    numbers.truncate(VERSIONS_KEPT_MAX);
    for one in &mut record.history {
        if !numbers.contains(&one.number) && back_to != Some(one.number) {
            one.manifest = None;
        }
    }
}

#[cfg(test)]
mod tests;
