//! A client that does not keep to HTTP: it sends the bytes that a test wants, when it wants, and reads what comes.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::{Answer, Client, PATIENCE};

/// One connection.
pub struct Raw {
    stream: TcpStream,
    /// What came and was not taken yet.
    came: Vec<u8>,
}

impl Client {
    /// The host and port, as a `Host` header names them.
    pub fn host(&self) -> &str {
        self.address().trim_start_matches("http://")
    }

    pub fn raw(&self) -> Raw {
        self.try_raw().expect("the bus listens")
    }

    pub fn try_raw(&self) -> io::Result<Raw> {
        let stream = TcpStream::connect(self.host())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Raw { stream, came: Vec::new() })
    }

    /// The head of a publish to a topic, with these lines besides.
    pub fn head(&self, topic: &str, lines: &str) -> String {
        format!("POST /topics/{topic} HTTP/1.1\r\nHost: {}\r\n{lines}\r\n", self.host())
    }
}

impl Raw {
    /// # Panics
    /// Where the bus does not take it.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the bus takes it");
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends bytes one at a time, and gives the bus a moment to answer after each. Answers how many it came to.
    ///
    /// # Panics
    /// Where the bus takes one after another and never answers.
    #[track_caller]
    pub fn trickle(&mut self, bytes: impl IntoIterator<Item = u8>, pause: Duration) -> u32 {
        self.stream.set_read_timeout(Some(pause)).expect("a pause is a time");
        let mut sent: u32 = 0;
        for byte in bytes {
            // An answer or an end that has come is found below.
            if self.try_send([byte]).is_err() || !matches!(self.read(), Err(error) if is_timeout(&error)) {
                break;
            }
            sent += 1;
            assert!(pause * sent < PATIENCE, "the bus takes it byte by byte for ever");
        }
        self.stream.set_read_timeout(Some(PATIENCE)).expect("patience is a time");
        sent
    }

    /// Nothing more is sent.
    pub fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).expect("the connection is open");
    }

    /// Takes in what has come next, or waits for it: how many bytes, none at the end.
    fn read(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 64 * 1024];
        let count = self.stream.read(&mut bytes)?;
        self.came.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    /// The next answer, with the body that it announces.
    ///
    /// # Panics
    /// Where none comes.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        loop {
            if let Some((answer, bytes)) = whole_answer(&self.came) {
                self.came.drain(..bytes);
                return answer;
            }
            match self.read() {
                Ok(0) => panic!("the connection ended after: {}", String::from_utf8_lossy(&self.came)),
                Ok(_) => {}
                Err(error) => panic!("{error} after: {}", String::from_utf8_lossy(&self.came)),
            }
        }
    }

    /// Waits until the bus ends the connection, and answers what came until then.
    ///
    /// # Panics
    /// Where it does not.
    #[track_caller]
    pub fn ends(&mut self) -> Vec<u8> {
        loop {
            match self.read() {
                Ok(0) => return std::mem::take(&mut self.came),
                // It ended with what was sent unread.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                    return std::mem::take(&mut self.came);
                }
                Ok(_) => {}
                Err(error) => panic!("the bus does not end the connection: {error}"),
            }
        }
    }

    /// Whether the bus has ended the connection, without waiting.
    pub fn has_ended(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("a socket can be told so");
        let ended = loop {
            match self.read() {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) => break !is_timeout(&error),
            }
        };
        self.stream.set_nonblocking(false).expect("a socket can be told so");
        ended
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// An answer that is there in full, and its length in bytes.
fn whole_answer(bytes: &[u8]) -> Option<(Answer, usize)> {
    let head_bytes = bytes.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..head_bytes]);
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let body_bytes: usize = headers.get("content-length").map_or(Some(0), |length| length.parse().ok())?;
    let body = bytes.get(head_bytes..head_bytes + body_bytes)?;
    let body = String::from_utf8_lossy(body).into_owned();
    Some((Answer { status, headers, body }, head_bytes + body_bytes))
}
