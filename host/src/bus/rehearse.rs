//! Rehearsals: what would become of dead letters under another component. Nothing of it is committed: what the
//! component reads is the state of now, what it stages is thrown away, and no request of it leaves.
//!
//! A rehearsal runs on a thread of its own at low priority, in instances of its own, one at a time, so that what
//! the bus delivers does not feel it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::filter::DeadLetterFilter;
use super::letters::{self, PageBounds, Topics};
use super::{BusError, operate};
use crate::dispatch::check_room;
use crate::dispatch::runner::idempotency_key;
use crate::engine::{Engine, Enrolled};
use crate::limits::{EVIDENCE_TEXT_BYTES_MAX, HOPS_MAX, REHEARSAL_MAX};
use crate::log::{DeadLetter, Log, Txn};
use crate::message::SharedMessage;
use crate::outcome::{Outcome, shortened};
use crate::policy::Manifest;
use crate::sandbox::{Called, Offer, Program, Sandbox, Secrets, StateFull, StateSource, StateSynced, StateUnreadable};
use crate::view::{RehearsalView, RehearsedView};

/// Letters whose messages are read at a time.
const READ_MAX: usize = 16;

/// What a rehearsal needs besides the letters.
pub(super) struct Stage {
    pub(super) engine: Arc<Engine>,
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) component: Bytes,
    pub(super) message_data_max: usize,
    /// Held to the end, also where nobody waits for the answer any more.
    pub(super) _only: OwnedSemaphorePermit,
}

/// One consumer, and dead letters of its subscriptions.
pub(super) type Cast = (Arc<str>, Vec<(Enrolled, DeadLetter)>);

/// The letters that a filter chooses, and the one consumer they are of; `None` where there are none.
pub(super) fn cast(engine: &Engine, filter: &DeadLetterFilter, letters_max: usize) -> Result<Option<Cast>, BusError> {
    let bounds = PageBounds { letters_max, rows_max: usize::MAX };
    let page = letters::page(engine, filter, None, bounds, &mut Topics::default())?;
    let enrolled = |letter: DeadLetter| Some((engine.find_id(letter.subscription)?, letter));
    let cast: Vec<_> = page.letters.into_iter().filter_map(enrolled).collect();
    let Some((first, _)) = cast.first() else { return Ok(None) };
    let consumer = first.consumer.clone();
    if let Some((other, _)) = cast.iter().find(|(one, _)| one.consumer != consumer) {
        return Err(BusError::SeveralConsumers { one: consumer.to_string(), other: other.consumer.to_string() });
    }
    Ok(Some((consumer, cast)))
}

/// Runs the letters through the component, on a thread of its own.
pub(super) async fn rehearse(
    stage: Stage,
    consumer: Arc<str>,
    manifest: Manifest,
    cast: Vec<(Enrolled, DeadLetter)>,
) -> Result<RehearsalView, BusError> {
    let runtime = Handle::current();
    let (sender, answer) = oneshot::channel();
    let run = move || {
        // Raising one's own niceness is always allowed; where it is not, a rehearsal is only less polite.
        let _ = rustix::process::nice(10);
        // Whoever asked may have gone meanwhile.
        let _ = sender.send(perform(&stage, &runtime, &consumer, &manifest, &cast));
    };
    let failed = |error: String| BusError::Candidate { error };
    let thread = std::thread::Builder::new().name("sandpost-rehearse".to_owned()).spawn(run);
    thread.map_err(|error| failed(format!("no thread could be started for it: {error}")))?;
    answer.await.map_err(|_| failed("the compiler failed on it; the bus's log says where".to_owned()))?
}

fn perform(
    stage: &Stage,
    runtime: &Handle,
    consumer: &Arc<str>,
    manifest: &Manifest,
    cast: &[(Enrolled, DeadLetter)],
) -> Result<RehearsalView, BusError> {
    let candidate = |error: String| BusError::Candidate { error };
    let component = stage.sandbox.load(consumer, &stage.component).map_err(|error| candidate(error.to_string()))?;
    let secrets = Secrets::withheld(manifest).map_err(|error| candidate(error.to_string()))?;
    let program = Program::with_secrets(consumer.clone(), component, manifest, secrets);
    let mut view = RehearsalView {
        consumer: Some(consumer.to_string()),
        digest: Some(program.digest().to_string()),
        ..RehearsalView::default()
    };
    let began = Instant::now();
    for some in cast.chunks(READ_MAX) {
        let letters: Vec<DeadLetter> = some.iter().map(|(_, letter)| letter.clone()).collect();
        for (letter, message) in operate::read(&stage.engine, &letters)? {
            let enrolled = some.iter().find(|(_, one)| one.subscription == letter.subscription);
            let Some((enrolled, _)) = enrolled else { continue };
            // A redrive leaves such a one where it is.
            let from = enrolled.subscription.takes(message.event.topic.as_str());
            if from.is_none_or(|from| letter.offset < from) {
                continue;
            }
            let left = REHEARSAL_MAX.saturating_sub(began.elapsed());
            if let Some(one) = runtime.block_on(one(stage, &program, enrolled, &letter, &message, left)) {
                *view.outcomes.entry(one.outcome).or_default() += 1;
                view.rehearsed += 1;
                view.letters.push(one);
            }
        }
    }
    view.left = cast.len() as u64 - view.rehearsed;
    // What was read of the state may not have been synced, and is told from here on.
    runtime.block_on(operate::synced(&stage.engine, Txn::default()))?;
    Ok(view)
}

/// One letter; `None` where the time for all is over before it ends.
async fn one(
    stage: &Stage,
    program: &Program,
    enrolled: &Enrolled,
    letter: &DeadLetter,
    message: &SharedMessage,
    left: Duration,
) -> Option<RehearsedView> {
    let engine = &stage.engine;
    let subscription = &enrolled.subscription;
    let policy = subscription.policy();
    let history = &letter.row.history;
    let now_ms = engine.now_ms();
    let offer = Offer {
        subscription: subscription.name.clone(),
        attempt: 1,
        max_attempts: policy.retry.max_attempts,
        redrives: history.redrives.saturating_add(1),
        first_attempt_ms: if history.first_attempt_ms == 0 { now_ms } else { history.first_attempt_ms },
        idempotency_key: idempotency_key(&engine.log.bus_id(letter.offset), &subscription.name, letter.offset),
        timeout: policy.timeout,
        now_ms,
    };
    let wants_http = Arc::new(AtomicBool::new(false));
    let state = Box::new(Glimpse {
        log: engine.log.clone(),
        consumer: program.consumer().clone(),
        wants_http: wants_http.clone(),
    });
    let mut instance = None;
    let call = program.call(&mut instance, message, &offer, state, stage.message_data_max);
    let called = tokio::time::timeout(left, call).await.ok()?;
    let (outcome, text, duration, publishes, writes) = match called {
        Ok(Called { outcome, effects, duration, .. }) => {
            let looping = effects.publishes.iter().any(|event| event.hops > HOPS_MAX);
            let name = match &outcome {
                Outcome::Acked if looping => "too-many-hops",
                outcome => outcome.kind().as_str(),
            };
            (name, outcome.text(), duration, effects.publishes.len(), effects.writes.len())
        }
        Err(error) => ("not-called", error.to_string(), Duration::ZERO, 0, 0),
    };
    Some(RehearsedView {
        id: format!("{}:{}", subscription.name, letter.offset),
        outcome: if wants_http.load(Ordering::Relaxed) { "needs-http" } else { outcome },
        text: shortened(&text, EVIDENCE_TEXT_BYTES_MAX),
        duration_us: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
        publishes,
        writes,
    })
}

/// The state of now, for a call that nothing follows from: nothing that it reads is validated.
struct Glimpse {
    log: Arc<dyn Log>,
    consumer: Arc<str>,
    /// Set where the call was about to send a request.
    wants_http: Arc<AtomicBool>,
}

impl StateSource for Glimpse {
    fn get(&mut self, key: &str) -> Result<Option<Bytes>, StateUnreadable> {
        let read = self.log.state_get(&self.consumer, key);
        Ok(read.map_err(|error| StateUnreadable(error.to_string()))?.0)
    }

    fn scan(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Bytes)>, StateUnreadable> {
        let read = self.log.state_scan(&self.consumer, prefix, after, limit);
        Ok(read.map_err(|error| StateUnreadable(error.to_string()))?.entries)
    }

    fn synced(&mut self) -> Option<StateSynced> {
        self.wants_http.store(true, Ordering::Relaxed);
        None
    }

    fn room(&mut self) -> u64 {
        self.log.state_room(&self.consumer)
    }

    fn check_room(&mut self, writes: &BTreeMap<String, Option<Bytes>>) -> Result<(), StateFull> {
        check_room(&*self.log, &self.consumer, writes)
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any + Send> {
        self
    }
}
