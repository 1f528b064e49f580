//! What the consumer logs during a run.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// A line of the consumer's, or one of the sandbox about it.
pub(super) struct Line {
    pub(super) level: Level,
    pub(super) text: String,
}

/// A mutex, because tracing shares its layers between threads; only the one that runs the call takes it.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Mutex<Vec<Line>>>);

impl Lines {
    /// Does something, and gathers what is logged meanwhile.
    pub(super) fn gather<T>(&self, work: impl FnOnce() -> T) -> T {
        tracing::subscriber::with_default(tracing_subscriber::registry().with(self.clone()), work)
    }

    pub(super) fn take(&self) -> Vec<Line> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        // Of our own code only what an operator would be told.
        if metadata.target() != "consumer" && *metadata.level() > Level::WARN {
            return;
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Line { level: *metadata.level(), text: text.0 });
    }
}

/// The text of an event, which to tracing is its field `message`.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
