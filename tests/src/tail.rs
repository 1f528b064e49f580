//! A followed topic.

use std::io::{BufRead, BufReader};

use ureq::BodyReader;

use crate::client::Client;
use crate::views::Event;

/// Messages as they are synced, read one after the other.
pub struct Tail {
    stream: BufReader<BodyReader<'static>>,
}

impl Client {
    /// Follows a topic by the path of its tail, with the parameters that are to be asked for.
    #[track_caller]
    pub fn tail(&self, path: &str, headers: &[(&str, &str)]) -> Tail {
        let response = self.open("GET", path, headers, b"").expect("the bus answers");
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Tail { stream: BufReader::new(response.into_body().into_reader()) }
    }
}

impl Tail {
    /// Waits for the next message; its id in the stream is its offset.
    #[track_caller]
    pub fn next_event(&mut self) -> (u64, Event) {
        let (mut id, mut data) = (None, String::new());
        loop {
            let mut line = String::new();
            assert!(self.stream.read_line(&mut line).expect("the stream can be read") > 0, "the stream ended");
            match line.trim_end().split_once(": ") {
                Some(("id", text)) => id = text.parse().ok(),
                Some(("data", text)) => data += text,
                _ if line == "\n" && !data.is_empty() => {
                    let event = serde_json::from_str(&data).expect("data is a structured event");
                    return (id.expect("every event has an id"), event);
                }
                _ => {}
            }
        }
    }
}
