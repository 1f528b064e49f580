//! What the sandbox answers to those who try its walls: `{"tried", "ok"}` or `{"tried", "error"}`.

use serde::Serialize;
use serde_json::{Value, json};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::Instant;

pub(crate) fn read_file(path: &str) -> Value {
    answer(format!("read {path}"), std::fs::read_to_string(path))
}

pub(crate) fn write_file(path: &str) -> Value {
    answer(format!("write {path}"), std::fs::write(path, "written by a guest"))
}

pub(crate) fn list_folder(path: &str) -> Value {
    let names = std::fs::read_dir(path).and_then(|entries| {
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<std::io::Result<Vec<_>>>()
    });
    answer(format!("list {path}"), names)
}

pub(crate) fn env(name: &str) -> Value {
    answer(format!("variable {name}"), std::env::var(name))
}

pub(crate) fn args() -> Value {
    let args: Vec<_> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let variables: Vec<_> = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    answer("arguments".to_owned(), Ok::<_, std::io::Error>(json!({ "args": args, "variables": variables })))
}

pub(crate) fn connect(addr: &str) -> Value {
    answer(format!("connect {addr}"), TcpStream::connect(addr).map(drop))
}

pub(crate) fn listen(addr: &str) -> Value {
    answer(format!("listen {addr}"), TcpListener::bind(addr).map(drop))
}

pub(crate) fn resolve(host: &str) -> Value {
    let addresses =
        (host, 0).to_socket_addrs().map(|found| found.map(|addr| addr.ip().to_string()).collect::<Vec<_>>());
    answer(format!("resolve {host}"), addresses)
}

pub(crate) fn stdin() -> Value {
    let mut text = String::new();
    answer("standard input".to_owned(), std::io::stdin().read_to_string(&mut text).map(|_| text))
}

/// `std` seeds its hashers from the system's randomness. A text, for a double does not hold 64 bits.
pub(crate) fn random() -> Value {
    answer("random".to_owned(), Ok::<_, std::io::Error>(RandomState::new().hash_one(0).to_string()))
}

pub(crate) fn clock(wall_ms: u64) -> Value {
    let before = Instant::now();
    let advances = Instant::now() >= before;
    let clocks = json!({ "wall_ms": wall_ms, "monotonic_advances": advances });
    answer("clock".to_owned(), Ok::<_, std::io::Error>(clocks))
}

fn answer<T: Serialize, E: fmt::Display>(tried: String, result: Result<T, E>) -> Value {
    match result {
        Ok(value) => json!({ "tried": tried, "ok": value }),
        Err(error) => json!({ "tried": tried, "error": error.to_string() }),
    }
}
