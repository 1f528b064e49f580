//! A service outside the bus: an HTTP server of the test's own, on a thread for each connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::PATIENCE;

/// Threads of a test that has a thousand connections must not need a gigabyte.
const STACK_BYTES: usize = 256 << 10;

/// A request that came.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum Reply {
    Full {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    },
    /// In chunks, so that nobody knows before how much it is.
    Chunked(Vec<u8>),
    /// Nothing, until the client goes away.
    Never,
}

impl Reply {
    pub fn text(status: u16, text: &str) -> Self {
        Self::Full { status, headers: Vec::new(), body: text.as_bytes().to_vec() }
    }

    pub fn redirect(status: u16, location: &str) -> Self {
        Self::Full { status, headers: vec![("location", location.to_owned())], body: Vec::new() }
    }
}

/// What a server has seen.
#[derive(Default)]
struct Log {
    seen: Vec<Seen>,
    connections: usize,
    /// Clients that went away from an answer that never came.
    gone: usize,
}

/// A server on loopback. Its threads end with the test's process.
#[derive(Clone)]
pub struct Outside {
    address: SocketAddr,
    scheme: &'static str,
    log: Arc<(Mutex<Log>, Condvar)>,
}

impl Outside {
    /// A server that answers as it is told.
    ///
    /// # Panics
    /// Where no port is free.
    pub fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen("http", answer, |stream| Ok(Box::new(stream)))
    }

    /// The same behind TLS.
    ///
    /// # Panics
    /// Where no port is free.
    pub fn secure(tls: Arc<ServerConfig>, answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen("https", answer, move |stream| {
            let connection = ServerConnection::new(tls.clone()).map_err(io::Error::other)?;
            Ok(Box::new(StreamOwned::new(connection, stream)))
        })
    }

    fn listen(
        scheme: &'static str,
        answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
        wrap: impl Fn(TcpStream) -> io::Result<Box<dyn Wire>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let server = Self { address, scheme, log: Arc::default() };
        let (this, answer, wrap) = (server.clone(), Arc::new(answer), Arc::new(wrap));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (this, answer, wrap) = (this.clone(), answer.clone(), wrap.clone());
                let serve = move || {
                    this.note(|log| log.connections += 1);
                    // A client that goes away is no failure of the server's.
                    let _ = wrap(stream).and_then(|wire| this.serve(wire, &*answer));
                };
                std::thread::Builder::new().stack_size(STACK_BYTES).spawn(serve).expect("a thread can be started");
            }
        });
        server
    }

    fn serve(&self, wire: Box<dyn Wire>, answer: &dyn Fn(&Seen) -> Reply) -> io::Result<()> {
        let mut wire = BufReader::new(wire);
        while let Some(seen) = read(&mut wire)? {
            self.note(|log| log.seen.push(seen.clone()));
            match answer(&seen) {
                Reply::Full { status, headers, body } => {
                    let mut text = format!("HTTP/1.1 {status} Status\r\ncontent-length: {}\r\n", body.len());
                    for (name, value) in headers {
                        text += &format!("{name}: {value}\r\n");
                    }
                    wire.get_mut().write_all(format!("{text}\r\n").as_bytes())?;
                    wire.get_mut().write_all(&body)?;
                }
                Reply::Chunked(body) => {
                    wire.get_mut().write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
                    for chunk in body.chunks(1_000) {
                        wire.get_mut().write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
                        wire.get_mut().write_all(chunk)?;
                        wire.get_mut().write_all(b"\r\n")?;
                    }
                    wire.get_mut().write_all(b"0\r\n\r\n")?;
                }
                Reply::Never => {
                    let _ = wire.read(&mut [0]);
                    self.note(|log| log.gone += 1);
                    return Ok(());
                }
            }
            wire.get_mut().flush()?;
        }
        Ok(())
    }

    fn note(&self, change: impl FnOnce(&mut Log)) {
        let (log, changed) = &*self.log;
        change(&mut log.lock().unwrap_or_else(PoisonError::into_inner));
        changed.notify_all();
    }

    fn look<T>(&self, look: impl FnOnce(&Log) -> T) -> T {
        look(&self.log.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The URL of a path there, by its address.
    pub fn url(&self, path: &str) -> String {
        self.url_by(&self.address.ip().to_string(), path)
    }

    /// The same with another name for the host.
    pub fn url_by(&self, host: &str, path: &str) -> String {
        format!("{}://{host}:{}{path}", self.scheme, self.port())
    }

    /// The requests that came, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.look(|log| log.seen.clone())
    }

    pub fn connections(&self) -> usize {
        self.look(|log| log.connections)
    }

    /// Waits until so many clients have gone away from an answer that never came.
    ///
    /// # Panics
    /// Where they do not.
    #[track_caller]
    pub fn wait_until_gone(&self, count: usize) {
        self.wait(&format!("{count} clients go away"), |log| log.gone >= count);
    }

    /// Waits until so many requests came.
    ///
    /// # Panics
    /// Where they do not.
    #[track_caller]
    pub fn wait_until_seen(&self, count: usize) {
        self.wait(&format!("{count} requests come"), |log| log.seen.len() >= count);
    }

    #[track_caller]
    fn wait(&self, what: &str, holds: impl Fn(&Log) -> bool) {
        let (log, changed) = &*self.log;
        let began = Instant::now();
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        while !holds(&log) {
            let left = PATIENCE.checked_sub(began.elapsed());
            let left = left.unwrap_or_else(|| {
                panic!("this does not come to hold: {what}; {} came, {} went", log.seen.len(), log.gone)
            });
            log = changed.wait_timeout(log, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// One request, or `None` where the client closed the connection.
fn read(wire: &mut BufReader<Box<dyn Wire>>) -> io::Result<Option<Seen>> {
    let mut line = String::new();
    if wire.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let mut seen =
        Seen { method: words.next().unwrap_or_default(), target: words.next().unwrap_or_default(), ..Seen::default() };
    loop {
        line.clear();
        wire.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        seen.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = seen.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    seen.body.resize(length, 0);
    wire.read_exact(&mut seen.body)?;
    Ok(Some(seen))
}
