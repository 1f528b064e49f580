//! Carries out retention, a bounded turn at a time.
//!
//! A turn holds the operators' lock from the look to the sync of its last removal. What it saw may be out of
//! date by what was settled meanwhile, which only makes less needed (see [`Removal`]); everything that could
//! make more needed (a seek, a redrive, a new subscription, other filters) takes the same lock. A removal is
//! sequenced in the log's one order, and carries offsets, not blocks: the writer rewrites what it finds.
//! So a crash at any point leaves whole removals, and the next look finds the rest.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::limits::{RETENTION_LOOK, RETENTION_PIECE_STRETCHES, RETENTION_TURN_STRETCHES};
use crate::log::removal::{Removal, Stretch};
use crate::log::{Change, CommitError, ReadError, Txn};
use crate::message::{Millis, Offset};
use crate::retention::{Plan, Rules};

use super::Engine;

/// A pass that took long is followed by a pause so much longer: retention is never the bus's main work.
const PAUSE_FACTOR: u32 = 10;
/// What is older than an age is looked for again after this part of the age, within these bounds.
const AGE_PARTS: u32 = 100;
const AGE_LOOK_MAX: Duration = Duration::from_secs(60);

/// Looks after the log of an engine until that ends.
pub async fn run(engine: Weak<Engine>, rules: Arc<Rules>) {
    let mut retention = Retention { rules, old: HashMap::new(), spent: HashMap::new(), problem: None };
    let mut pause = RETENTION_LOOK;
    loop {
        tokio::time::sleep(pause).await;
        let engine = engine.clone();
        let pass = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let goes_on = retention.pass(&engine);
            (retention, goes_on, began.elapsed())
        });
        // A panic is a fault of ours, which the runtime has reported; without retention the bus still serves.
        let Ok((came_back, goes_on, took)) = pass.await else { return };
        if !goes_on {
            return;
        }
        retention = came_back;
        pause = RETENTION_LOOK.max(took * PAUSE_FACTOR);
    }
}

struct Retention {
    rules: Arc<Rules>,
    /// The first offset younger than each age, and when that was found out.
    old: HashMap<Duration, (Offset, Millis)>,
    /// Stretches of which nothing but pinned messages was left, by their first offset: how many messages and
    /// pins there were. While both are the same, there is nothing new to find in them.
    spent: HashMap<Offset, (u64, usize)>,
    /// What keeps it from reading, so that it is said once.
    problem: Option<ReadError>,
}

impl Retention {
    /// Looks through the whole log once. False where the engine is gone.
    fn pass(&mut self, engine: &Weak<Engine>) -> bool {
        let mut spent = HashMap::new();
        let mut from = Some(0);
        while let Some(at) = from {
            let Some(engine) = engine.upgrade() else { return false };
            from = match self.turn(&engine, at, &mut spent) {
                Ok(next) => next,
                Err(TurnError::Stopped) => return false,
                Err(TurnError::Read(error)) => {
                    if self.problem.as_ref() != Some(&error) {
                        tracing::error!("retention cannot read the log, and removes nothing for now: {error}");
                        self.problem = Some(error);
                    }
                    return true;
                }
            };
        }
        self.problem = None;
        self.spent = spent;
        true
    }

    /// One turn, from an offset on. Answers where the next one begins, if there may be more to do.
    fn turn(
        &mut self,
        engine: &Engine,
        from: Offset,
        spent: &mut HashMap<Offset, (u64, usize)>,
    ) -> Result<Option<Offset>, TurnError> {
        let _operator = engine.operator.blocking_lock();
        self.look_for_old(engine)?;
        let old = |age: Duration| self.old.get(&age).map_or(0, |(offset, _)| *offset);
        let mut plan = Plan::new(&self.rules, &engine.log.topics(), &engine.log.reaches()?, old);
        let wanted = plan.wanted();
        if wanted.is_empty() {
            return Ok(None);
        }
        let stretches = engine.log.stretches(&wanted, from, RETENTION_TURN_STRETCHES)?;
        let pinned = engine.log.pinned(&stretches)?;
        for piece in stretches.chunks(RETENTION_PIECE_STRETCHES) {
            let mut removal = Removal::default();
            for stretch in piece {
                let pins = within(&pinned, stretch);
                let mark = (stretch.messages, pins.len());
                if self.spent.get(&stretch.from) == Some(&mark) {
                    spent.insert(stretch.from, mark);
                    continue;
                }
                match engine.log.survey(*stretch) {
                    Ok(standing) => {
                        let before = removal.messages();
                        if plan.choose(&standing, pins, &mut removal) {
                            let left = stretch.messages.saturating_sub(removal.messages() - before);
                            spent.insert(stretch.from, (left, pins.len()));
                        }
                    }
                    Err(error @ ReadError::Damaged { .. }) => {
                        tracing::error!("retention leaves alone what it cannot read: {error}");
                        spent.insert(stretch.from, mark);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            commit(engine, removal)?;
        }
        let full = stretches.len() == RETENTION_TURN_STRETCHES;
        Ok(stretches.last().filter(|_| full).map(|last| last.to))
    }

    /// Finds out up to where the log is older than each age, where that was not looked for lately.
    fn look_for_old(&mut self, engine: &Engine) -> Result<(), ReadError> {
        let now_ms = engine.now_ms();
        for age in self.rules.ages() {
            let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            let every = (age / AGE_PARTS).min(AGE_LOOK_MAX).as_millis() as u64;
            let looked_ms = self.old.get(&age).map(|(_, at_ms)| *at_ms);
            // A clock that was set back makes it look again.
            if looked_ms.is_some_and(|at_ms| (at_ms..at_ms.saturating_add(every)).contains(&now_ms)) {
                continue;
            }
            let offset = match now_ms.checked_sub(age_ms) {
                Some(time_ms) => engine.log.offset_at(time_ms)?,
                None => 0,
            };
            self.old.insert(age, (offset, now_ms));
        }
        Ok(())
    }
}

/// The offsets within a stretch.
fn within<'a>(pinned: &'a [Offset], stretch: &Stretch) -> &'a [Offset] {
    let from = pinned.partition_point(|offset| *offset < stretch.from);
    let to = pinned.partition_point(|offset| *offset < stretch.to);
    &pinned[from..to]
}

fn commit(engine: &Engine, removal: Removal) -> Result<(), TurnError> {
    if removal.is_empty() {
        return Ok(());
    }
    let (messages, bytes) = (removal.messages(), removal.bytes());
    let txn = Txn { now_ms: engine.now_ms(), changes: vec![Change::RemoveMessages(removal)], ..Txn::default() };
    match engine.commit_synced(txn) {
        Ok(_) => {
            tracing::debug!(messages, bytes, "removed what is no longer retained");
            Ok(())
        }
        Err(error @ CommitError::StillNeeded { .. }) => {
            // The next look sees what changed.
            tracing::warn!(%error, "nothing was removed");
            Ok(())
        }
        Err(_) => Err(TurnError::Stopped),
    }
}

enum TurnError {
    Read(ReadError),
    /// The log takes nothing any more.
    Stopped,
}

impl From<ReadError> for TurnError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}
