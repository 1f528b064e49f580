//! The worker threads: as many as cores, they poll the calls of all subscriptions, in turn.
//!
//! A call that runs long is made to yield by the sandbox's epoch, and comes back to the end of its
//! subscription's queue; subscriptions take turns. So an endless loop takes its subscription's fair share
//! of the processor and no thread, and a call that awaits holds nothing.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use async_task::{Runnable, Task};
use tokio::runtime::Handle;

use super::fault::EndOnPanic;

/// A subscription's place among those that take turns.
#[derive(Clone)]
pub struct Queue {
    index: usize,
    shared: Arc<Shared>,
}

/// The threads. Dropping it stops them; futures that are not done are dropped where they stand.
pub struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// One lock for all queues: it is held for a push or a pop, once per run and not per message.
    turns: Mutex<Turns>,
    work: Condvar,
}

#[derive(Default)]
struct Turns {
    queues: Vec<VecDeque<Runnable>>,
    /// Queues that have something to run, in turn; each stands here once.
    turn: VecDeque<usize>,
    idle: usize,
    stopped: bool,
}

impl Workers {
    /// Starts `count` threads. `timers` is the runtime whose timers the calls await.
    pub fn start(count: usize, timers: &Handle) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { turns: Mutex::default(), work: Condvar::new() });
        let threads = (0..count)
            .map(|index| {
                let (shared, timers) = (shared.clone(), timers.clone());
                std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                    let _entered = timers.enter();
                    let _ends = EndOnPanic;
                    shared.run();
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { shared, threads })
    }

    /// A queue for one subscription.
    pub fn queue(&self) -> Queue {
        let mut turns = self.shared.lock();
        turns.queues.push(VecDeque::new());
        Queue { index: turns.queues.len() - 1, shared: self.shared.clone() }
    }

    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Ends the threads. What is queued is dropped; what runs ends at its next yield or end.
    pub fn stop(&mut self) {
        let dropped = {
            let mut turns = self.shared.lock();
            turns.stopped = true;
            turns.turn.clear();
            std::mem::take(&mut turns.queues)
        };
        // Outside the lock: dropping a future may wake another one.
        drop(dropped);
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Queue {
    /// Runs a future on the workers, in this queue's turns. Dropping the task ends it where it stands.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> Task<()> {
        let (index, shared) = (self.index, Arc::downgrade(&self.shared));
        let schedule = move |runnable| {
            if let Some(shared) = shared.upgrade() {
                shared.push(index, runnable);
            }
        };
        let (runnable, task) = async_task::spawn(future, schedule);
        runnable.schedule();
        task
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, index: usize, runnable: Runnable) {
        let mut turns = self.lock();
        if turns.stopped {
            drop(turns);
            drop(runnable);
            return;
        }
        let queue = &mut turns.queues[index];
        let was_empty = queue.is_empty();
        queue.push_back(runnable);
        if was_empty {
            turns.turn.push_back(index);
        }
        if turns.idle > 0 {
            self.work.notify_one();
        }
    }

    fn run(&self) {
        loop {
            let runnable = {
                let mut turns = self.lock();
                loop {
                    if turns.stopped {
                        return;
                    }
                    if let Some(index) = turns.turn.pop_front() {
                        let queue = &mut turns.queues[index];
                        let runnable = queue.pop_front().expect("a queue whose turn it is has something to run");
                        if !queue.is_empty() {
                            turns.turn.push_back(index);
                        }
                        break runnable;
                    }
                    turns.idle += 1;
                    turns = self.work.wait(turns).unwrap_or_else(PoisonError::into_inner);
                    turns.idle -= 1;
                }
            };
            runnable.run();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::sync::mpsc;
    use std::task::{Context, Poll};

    use super::*;

    /// Goes back to the end of the queue once, as a guest does whose time slice is over.
    struct Yield(bool);

    impl Future for Yield {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            if std::mem::replace(&mut self.0, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        }
    }

    #[test]
    fn a_queue_of_many_loops_gets_no_more_turns_than_a_queue_of_one() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let workers = Workers::start(1, runtime.handle()).unwrap();
        let (many, one) = (workers.queue(), workers.queue());
        let turns = Arc::new(AtomicU64::new(0));
        let go = Arc::new(AtomicBool::new(false));
        let loops: Vec<_> = (0..16)
            .map(|_| {
                let (turns, go) = (turns.clone(), go.clone());
                many.spawn(async move {
                    loop {
                        turns.fetch_add(u64::from(go.load(Ordering::SeqCst)), Ordering::SeqCst);
                        Yield(false).await;
                    }
                })
            })
            .collect();
        let (done, answer) = mpsc::channel();
        let counted = turns.clone();
        one.spawn(async move {
            go.store(true, Ordering::SeqCst);
            for _ in 0..100 {
                Yield(false).await;
            }
            done.send(counted.load(Ordering::SeqCst)).unwrap();
        })
        .detach();
        let others = answer.recv_timeout(std::time::Duration::from_secs(60)).expect("the single task gets its turns");
        assert!(others <= 102, "{others} turns of the many for 100 of the one");
        drop(loops);
    }

    #[test]
    fn dropping_the_task_drops_the_future_and_stopping_ends_the_threads() {
        struct Dropped(mpsc::Sender<()>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut workers = Workers::start(2, runtime.handle()).unwrap();
        let (sender, dropped) = mpsc::channel();
        let guard = Dropped(sender);
        let task = workers.queue().spawn(async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        drop(task);
        dropped.recv_timeout(std::time::Duration::from_secs(60)).expect("the future is dropped");
        workers.stop();
    }
}
