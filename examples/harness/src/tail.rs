//! A followed topic: server-sent events, read by a thread of its own.

use std::io::{BufRead, BufReader};
use std::sync::mpsc::{self, Receiver};

use ureq::Body;

use crate::views::Message;

/// Messages as they are synced. The stream ends with the bus.
pub struct Tail {
    messages: Receiver<Message>,
}

impl Tail {
    pub(crate) fn new(body: Body) -> Self {
        let (sender, messages) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(body.into_with_config().limit(u64::MAX).reader()).lines();
            // The bus writes each message as one `data` line. What is no message says why the stream ends.
            for line in lines.map_while(Result::ok) {
                let Some(data) = line.strip_prefix("data:") else { continue };
                let Ok(message) = serde_json::from_str(data) else { return };
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        Self { messages }
    }

    /// Those that came since the last time, without waiting.
    pub fn arrived(&self) -> impl Iterator<Item = Message> {
        self.messages.try_iter()
    }
}
