//! The schedule: messages that wait for their time, and how they become due.
//!
//! They stand in the log, by due time, so that memory knows none of them. One task looks for those that are due,
//! and makes messages of them in the order of their time, as transactions of bounded size.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Mutex, Notify, oneshot};

use crate::engine::Engine;
use crate::limits::{DUE_BYTES_MAX, DUE_MESSAGES_MAX};
use crate::log::{CommitError, ReadBounds, ReadError, Release, Scheduled, ScheduledAt, Txn};

/// The clock may be set, and a machine may sleep: no wait is longer than this before it is looked again.
const LOOK_MAX: Duration = Duration::from_secs(60);
/// How long what could not be taken over waits: its topic or the disk is full, or the log is busy.
const REFUSED_WAIT: Duration = Duration::from_secs(1);
const DUE: ReadBounds = ReadBounds { messages_max: DUE_MESSAGES_MAX, bytes_max: DUE_BYTES_MAX };

/// What the engine keeps of its schedule.
#[derive(Default)]
pub struct Schedule {
    /// Who takes messages out holds it until that is synced: what was read is still there when it is
    /// committed, and a message cannot become due while it is cancelled.
    turn: Mutex<()>,
    bell: Arc<Notify>,
    stopped: AtomicBool,
}

/// Why a scheduled message was not cancelled.
#[derive(Debug)]
pub enum CancelError {
    /// It is not there: it became due, or was cancelled before.
    Unknown,
    Read(ReadError),
    Stopping,
}

impl Schedule {
    /// What is scheduled changed.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.bell.notify_one();
    }
}

/// Makes messages of what is due, until the engine stops.
pub(crate) async fn keep(engine: Weak<Engine>) {
    let Some(bell) = engine.upgrade().map(|engine| engine.schedule.bell.clone()) else { return };
    loop {
        let look = {
            let Some(engine) = engine.upgrade() else { return };
            if engine.schedule.stopped.load(Ordering::Acquire) {
                return;
            }
            take_over(&engine).await
        };
        match look {
            ControlFlow::Break(()) => return,
            ControlFlow::Continue(wait) => {
                let look_again = tokio::time::sleep(wait.unwrap_or(LOOK_MAX).min(LOOK_MAX));
                tokio::select! {
                    () = bell.notified() => {}
                    () = look_again => {}
                }
            }
        }
    }
}

/// Takes over all that is due. Answers how long nothing more is; breaks where the log has stopped.
async fn take_over(engine: &Arc<Engine>) -> ControlFlow<(), Option<Duration>> {
    let _turn = engine.schedule.turn.lock().await;
    let mut after: Option<ScheduledAt> = None;
    let mut refused = false;
    loop {
        let now_ms = engine.now_ms();
        let due = match read(engine, after, Some(now_ms), DUE).await {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(%error, "the schedule cannot be read: nothing of it becomes due");
                return ControlFlow::Continue(Some(LOOK_MAX));
            }
        };
        let Some(last) = due.last() else { break };
        after = Some(last.at);
        match commit(engine, now_ms, due).await {
            Ok(all) => refused |= !all,
            Err(CommitError::Busy { .. }) => return ControlFlow::Continue(Some(REFUSED_WAIT)),
            Err(_) => return ControlFlow::Break(()),
        }
    }
    if refused {
        return ControlFlow::Continue(Some(REFUSED_WAIT));
    }
    let first = read(engine, None, None, ReadBounds { messages_max: 1, bytes_max: 0 }).await;
    let first = first.ok().and_then(|found| found.into_iter().next());
    let wait = first.map(|next| Duration::from_millis(next.at.due_ms.saturating_sub(engine.now_ms())));
    ControlFlow::Continue(wait)
}

/// Makes messages of these, and waits until that is synced. Answers whether all of them became messages: one
/// that its topic has no room for waits, and keeps no other one waiting.
async fn commit(engine: &Engine, now_ms: u64, due: Vec<Scheduled>) -> Result<bool, CommitError> {
    let txn =
        |due: Vec<Scheduled>| Txn { now_ms, releases: due.into_iter().map(Release::Due).collect(), ..Txn::default() };
    let mut all = true;
    match engine.log.commit(txn(due.clone()), None) {
        Ok(_) => {}
        Err(error @ (CommitError::Stopped | CommitError::Busy { .. })) => return Err(error),
        Err(_) => {
            for one in due {
                match engine.log.commit(txn(vec![one]), None) {
                    Ok(_) => {}
                    Err(error @ CommitError::Stopped) => return Err(error),
                    Err(_) => all = false,
                }
            }
        }
    }
    // The log is one order: when this is synced, so is all before it.
    synced(engine, Txn { now_ms, ..Txn::default() }).await?;
    Ok(all)
}

async fn synced(engine: &Engine, txn: Txn) -> Result<(), CommitError> {
    let (waiter, durable) = oneshot::channel();
    engine.log.commit(txn, Some(waiter))?;
    durable.await.map_err(|_| CommitError::Stopped)
}

/// Takes a message out of the schedule; answers when that is synced.
pub(crate) async fn cancel(engine: &Arc<Engine>, number: u64) -> Result<(), CancelError> {
    let _turn = engine.schedule.turn.lock().await;
    let log = engine.log.clone();
    let found = tokio::task::spawn_blocking(move || log.scheduled_at(number)).await;
    let found = found.expect("a read does not panic").map_err(CancelError::Read)?;
    let scheduled = found.ok_or(CancelError::Unknown)?;
    let releases = vec![Release::Cancelled(scheduled)];
    let txn = Txn { now_ms: engine.now_ms(), releases, ..Txn::default() };
    synced(engine, txn).await.map_err(|_| CancelError::Stopping)
}

/// Reads the schedule off the threads of the runtime.
async fn read(
    engine: &Arc<Engine>,
    after: Option<ScheduledAt>,
    until_ms: Option<u64>,
    bounds: ReadBounds,
) -> Result<Vec<Scheduled>, ReadError> {
    let log = engine.log.clone();
    let read = tokio::task::spawn_blocking(move || log.scheduled(after, until_ms, bounds)).await;
    read.expect("a read does not panic")
}
