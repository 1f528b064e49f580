//! The worker's part in probations and rollbacks: carries out verdicts, and what operators command.

use std::sync::Arc;

use super::command::{Answer, Command, CommandError, WentBack};
use super::manifest;
use super::probation::{Standing, Verdict};
use super::record::{gone_back, permitted, proven, target};
use super::worker::{Ready, Stopped, Worker};
use super::{ActivateError, Host, Loader};
use crate::dispatch::Refunded;
use crate::log::{Cause, Deployment, PluginRecord};
use crate::outcome::Digest;

/// Tells an operator what came of a command, once it is shown as well.
pub(super) type Reply = Box<dyn FnOnce()>;

impl<L: Loader, H: Host<L::Program>> Worker<L, H> {
    /// Carries out what probations came to. Nothing is compiled for it: the version before is kept ready.
    /// What cannot be done now stays to be done.
    pub(super) fn judge(&mut self) {
        for stem in std::mem::take(&mut self.judged) {
            let Some(trial) = self.trials.get(&stem).cloned() else { continue };
            let standing = trial.standing();
            let done = match trial.verdict() {
                None => continue,
                Some(Verdict::Proven) => self.prove(&stem, &standing),
                Some(Verdict::Failed) => self.fail_probation(&stem, &standing),
            };
            match done {
                Ok(()) => drop(self.stuck.remove(&stem)),
                Err(problem) => {
                    self.stuck.insert(stem.clone(), problem);
                    self.judged.insert(stem);
                }
            }
        }
    }

    fn prove(&mut self, stem: &str, standing: &Standing) -> Result<(), String> {
        let Some(active) = self.known.active.get_mut(stem) else { return Ok(()) };
        let record = proven(&active.record, standing);
        let stored = self.host.record(stem, record.clone());
        stored.map_err(|error| format!("it did well on probation, which could not be recorded: {error}"))?;
        let (digest, messages) = (record.digest.short(), standing.messages);
        tracing::info!(consumer = stem, %digest, messages, failures = standing.failures, "proven: its probation is over");
        active.record = record;
        self.trials.remove(stem);
        self.fallbacks.remove(stem);
        self.sweep();
        Ok(())
    }

    fn fail_probation(&mut self, stem: &str, standing: &Standing) -> Result<(), String> {
        let Some(active) = self.known.active.get(stem) else { return Ok(()) };
        let (messages, failures) = (standing.messages, standing.failures);
        let count = format!("{failures} of {messages} messages failed on probation");
        let stuck = |problem: String| format!("{count}, and it could not be rolled back: {problem}");
        let missing = || stuck("the version before it could not be loaded".to_owned());
        let back_to = active.record.back_to.ok_or_else(missing)?;
        let ready = self.fallbacks.get(stem).cloned().ok_or_else(missing)?;
        let last: Vec<&str> = standing.last.iter().map(String::as_str).collect();
        let last = last.join("; ");
        let why = format!("{count}; the last: {last}");
        let now_ms = (self.options.clock)();
        let before = active.record.digest;
        let record = gone_back(&active.record, back_to, now_ms, Cause::Probation, Some(standing), why);
        let record = record.ok_or_else(missing)?;
        let to = record.digest.short();
        self.activate(stem, ready, record).map_err(|error| stuck(error.to_string()))?;
        let from = before.short();
        tracing::warn!(consumer = stem, %from, %to, messages, failures, %last, "rolled back: too many messages failed on probation");
        self.refund_due(stem);
        self.sweep();
        Ok(())
    }

    /// Takes back what versions charged that were rolled back; at a start, what a crash left undone.
    pub(super) fn refund_due(&mut self, stem: &str) -> Refunded {
        let mut total = Refunded::default();
        let Some(active) = self.known.active.get_mut(stem) else { return total };
        let mut record = active.record.clone();
        while let Some(due) = record.refunds.first().copied() {
            match self.host.refund(stem, due) {
                Ok(refunded) => total += refunded,
                Err(error) => {
                    tracing::warn!(consumer = stem, digest = %due.digest.short(), %error, "attempts are still to be refunded");
                    break;
                }
            }
            record.refunds.remove(0);
        }
        if record.refunds.len() < active.record.refunds.len() {
            tracing::info!(
                consumer = stem,
                attempts = total.attempts,
                messages = total.messages,
                excused = total.excused,
                "refunded what was charged by the version that was rolled back"
            );
            // Where this fails they are refunded again, which changes nothing.
            match self.host.record(stem, record.clone()) {
                Ok(()) => active.record = record,
                Err(error) => tracing::warn!(consumer = stem, %error, "a refund could not be recorded as done"),
            }
        }
        total
    }

    /// Makes the version ready that one on probation is rolled back to.
    pub(super) fn load_fallback(&mut self, stem: &str) -> Result<(), Stopped> {
        let Some(record) = self.known.active.get(stem).map(|active| &active.record) else { return Ok(()) };
        let Some(number) = record.back_to.filter(|_| !self.fallbacks.contains_key(stem)) else { return Ok(()) };
        match self.load_kept(stem, &record.clone(), number)? {
            Ok(ready) => drop(self.fallbacks.insert(stem.to_owned(), ready)),
            Err(problem) => {
                let problem = format!("it is on probation, and the version before it could not be loaded: {problem}");
                self.stuck.insert(stem.to_owned(), problem);
            }
        }
        Ok(())
    }

    /// Loads the version of an earlier deployment from the data folder.
    fn load_kept(
        &mut self,
        stem: &str,
        record: &PluginRecord,
        number: u64,
    ) -> Result<Result<Ready<L::Program>, String>, Stopped> {
        let kept = |one: &&Deployment| one.number == number;
        let Some(Deployment { digest, manifest: Some(text), .. }) = record.history.iter().find(kept) else {
            return Ok(Err("its manifest is no longer kept".to_owned()));
        };
        let manifest = match manifest::parse(stem, &self.inbox.path(stem, "toml"), text) {
            Ok(manifest) => Arc::new(manifest),
            Err(error) => return Ok(Err(error.to_string())),
        };
        let bytes = match self.store.get(*digest) {
            Ok(bytes) => Arc::new(bytes),
            Err(error) => return Ok(Err(error.to_string())),
        };
        let program = self.load(stem, bytes, manifest.clone())?;
        Ok(program.map(|program| Ready { manifest, program }).map_err(|failure| failure.to_string()))
    }

    /// Does what operators asked for until now. The replies are given once it is shown.
    pub(super) fn obey(&mut self) -> Result<Vec<Reply>, Stopped> {
        let mut replies: Vec<Reply> = Vec::new();
        while let Some(command) = self.commands.pop_front() {
            // Whoever asked may have gone away.
            replies.push(match command {
                Command::RollBack { name, to, answer } => {
                    let done = self.roll_back(&name, to.as_deref())?;
                    Box::new(move || drop(answer.send(done)))
                }
                Command::Permit { name, digest, answer } => {
                    let done = self.permit(&name, digest);
                    Box::new(move || drop(answer.send(done)))
                }
            });
        }
        Ok(replies)
    }

    fn unknown(&self, name: &str) -> CommandError {
        CommandError::UnknownPlugin { name: name.to_owned(), known: self.known.active.keys().cloned().collect() }
    }

    fn roll_back(&mut self, name: &str, to: Option<&str>) -> Result<Answer<WentBack>, Stopped> {
        let Some(before) = self.known.active.get(name).map(|active| active.record.clone()) else {
            return Ok(Err(self.unknown(name)));
        };
        let number = match target(&before, to) {
            Ok(number) => number,
            Err(reason) => return Ok(Err(CommandError::NoTarget { name: name.to_owned(), reason })),
        };
        let ready = match self.fallbacks.get(name).filter(|_| before.back_to == Some(number)) {
            Some(ready) => Ok(ready.clone()),
            None => self.load_kept(name, &before, number)?,
        };
        Ok(ready.map_err(|problem| unusable(name, &before, number, problem)).and_then(|ready| {
            // While it was loaded, a probation may have ended.
            if self.known.active.get(name).is_none_or(|active| active.record != before) {
                return Err(CommandError::Overtaken { name: name.to_owned() });
            }
            let standing = self.trials.get(name).map(|trial| trial.standing());
            let (now_ms, why) = ((self.options.clock)(), "by an operator".to_owned());
            let record = gone_back(&before, number, now_ms, Cause::Operator, standing.as_ref(), why);
            let record = record.expect("what was loaded is kept");
            let (from, to) = (before.digest, record.digest);
            self.activate(name, ready, record).map_err(|error| match error {
                ActivateError::Refused { reason } => unusable(name, &before, number, reason),
                ActivateError::Unavailable { reason } => CommandError::Unavailable { reason },
            })?;
            tracing::warn!(consumer = name, from = %from.short(), to = %to.short(), "rolled back by an operator");
            let refunded = self.refund_due(name);
            self.sweep();
            let (from, to) = (from.to_string(), to.to_string());
            Ok(WentBack { name: name.to_owned(), from, to, refunded: refunded.attempts, excused: refunded.excused })
        }))
    }

    fn permit(&mut self, name: &str, digest: Digest) -> Answer<()> {
        let Some(active) = self.known.active.get_mut(name) else { return Err(self.unknown(name)) };
        let record = permitted(&active.record, digest);
        if record != active.record {
            let stored = self.host.record(name, record.clone());
            stored.map_err(|error| CommandError::Unavailable { reason: error.to_string() })?;
            tracing::info!(consumer = name, digest = %digest.short(), "may be deployed again");
            active.record = record;
        }
        Ok(())
    }
}

fn unusable(name: &str, record: &PluginRecord, number: u64, problem: String) -> CommandError {
    let digest = record.history.iter().find(|one| one.number == number).map(|one| one.digest.short());
    CommandError::Unusable { name: name.to_owned(), digest: digest.unwrap_or_default(), problem }
}
