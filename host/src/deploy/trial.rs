//! Where a version on probation hears how its calls end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::probation::{Probation, Standing, Verdict, sign};
use super::worker::Event;
use crate::dispatch::{Finished, Witness};
use crate::message::Millis;
use crate::outcome::{Attempt, Digest, History};
use crate::policy::ProbationPolicy;

/// One version's probation, fed by the calls of all subscriptions of its consumer. What it counted is lost
/// in a crash, and then it begins anew; that it is on probation is recorded.
pub(super) struct Trial {
    stem: String,
    digest: Digest,
    deployed_ms: Millis,
    /// When the version took over: calls that began before are the old version's, also where both have one
    /// component.
    runs_since_ms: AtomicU64,
    /// Held for a few additions, at the end of every call of a version on probation.
    probation: Mutex<Probation>,
    events: Sender<Event>,
}

impl Trial {
    pub(super) fn new(
        stem: &str,
        digest: Digest,
        deployed_ms: Millis,
        policy: ProbationPolicy,
        events: Sender<Event>,
    ) -> Self {
        let (stem, runs_since_ms, probation) = (stem.to_owned(), u64::MAX.into(), Mutex::new(Probation::new(policy)));
        Self { stem, digest, deployed_ms, runs_since_ms, probation, events }
    }

    pub(super) fn policy(&self) -> ProbationPolicy {
        self.lock().policy()
    }

    pub(super) fn standing(&self) -> Standing {
        self.lock().standing().clone()
    }

    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.lock().verdict()
    }

    fn lock(&self) -> MutexGuard<'_, Probation> {
        self.probation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Witness for Trial {
    fn begins(&self, now_ms: Millis) {
        self.runs_since_ms.fetch_min(now_ms, Ordering::Relaxed);
    }

    fn ended(&self, call: &Finished) {
        if call.digest != self.digest || call.began_ms < self.runs_since_ms.load(Ordering::Relaxed) {
            return;
        }
        let none = History::default();
        let own = |attempt: &Attempt| attempt.digest == self.digest && attempt.at_ms >= self.deployed_ms;
        let (outcome, forced) = (call.outcome.kind(), call.forced.is_some());
        let sign = sign(call.item.history().unwrap_or(&none), own, outcome, forced);
        let told = || match call.forced {
            Some(reason) => reason.as_str().to_owned(),
            None => format!("{}: {}", outcome.as_str(), call.outcome.text()),
        };
        if self.lock().count(sign, told).is_some() {
            // Where the worker is gone, the next start begins the probation anew.
            let _ = self.events.send(Event::Judged(self.stem.clone()));
        }
    }
}
