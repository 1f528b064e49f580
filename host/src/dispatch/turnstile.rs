//! The turnstile of a consumer: its calls pass side by side, and one that has to run alone, alone.
//!
//! A call whose state was changed under it runs again. Where that happens to one message over and over, it
//! is let in alone, over all subscriptions that share the consumer's state, and so it cannot conflict again.
//! Whoever waits here holds no thread, and has settled or given back everything else that it had taken.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// One consumer's. First come, first served: nobody who waits to be alone is overtaken by those who are not.
#[derive(Clone, Default)]
pub(super) struct Turnstile(Arc<RwLock<()>>);

/// Held until the call is settled; to drop it lets the next ones in.
pub(super) enum Turn<'a> {
    Shared { _guard: RwLockReadGuard<'a, ()> },
    Alone { _guard: RwLockWriteGuard<'a, ()> },
}

impl Turnstile {
    /// A turn, where it is free now.
    pub(super) fn try_enter(&self, alone: bool) -> Option<Turn<'_>> {
        if alone {
            self.0.try_write().ok().map(|guard| Turn::Alone { _guard: guard })
        } else {
            self.0.try_read().ok().map(|guard| Turn::Shared { _guard: guard })
        }
    }

    pub(super) async fn enter(&self, alone: bool) -> Turn<'_> {
        if alone { Turn::Alone { _guard: self.0.write().await } } else { Turn::Shared { _guard: self.0.read().await } }
    }
}

/// The turnstiles of all consumers.
#[derive(Default)]
pub struct Turnstiles {
    /// A lock, because a consumer's subscriptions have workers of their own; asked once per run, not per call.
    by_consumer: Mutex<HashMap<Arc<str>, Turnstile>>,
}

impl Turnstiles {
    pub(super) fn of(&self, consumer: &Arc<str>) -> Turnstile {
        let mut by_consumer = self.by_consumer.lock().unwrap_or_else(PoisonError::into_inner);
        by_consumer.entry(consumer.clone()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_alone_waits_for_the_others_and_is_not_overtaken() {
        let turnstiles = Turnstiles::default();
        let [one, other] = [(); 2].map(|()| turnstiles.of(&"stock".into()));
        let first = one.try_enter(false).expect("nobody is alone");
        let second = other.try_enter(false).expect("calls pass side by side");
        assert!(one.try_enter(true).is_none(), "two are there");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut alone = Box::pin(one.enter(true));
            assert!(futures_poll(&mut alone).await.is_none());
            assert!(other.try_enter(false).is_none(), "one waits to be alone");
            drop((first, second));
            let turn = alone.await;
            assert!(other.try_enter(false).is_none());
            drop(turn);
            assert!(other.try_enter(false).is_some());
        });
        assert!(turnstiles.of(&"other".into()).try_enter(true).is_some(), "another consumer's is another one");
    }

    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
