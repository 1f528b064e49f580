//! The edge of the bus that speaks HTTP.
//!
//! A request passes these parts, in this order:
//! 1. [`server`] accepts connections, bounds their number, and drains them at the end; [`connection`] knows what
//!    each one is doing, and which is too slow;
//! 2. [`guard`] refuses what a web page made a browser send: loopback is not authentication;
//! 3. [`routes`] is the table of paths, methods and their answers;
//! 4. [`body`] reads the request's body within bounds of bytes and of time;
//! 5. [`cloud_events`] decodes a publish into events, and encodes messages for readers;
//! 6. [`tail`] streams messages as they are synced;
//! 7. [`problem`] is every refusal, with its cause and what to do next.
//!
//! **Architecture invariant:** the edge holds no state of the bus and decides nothing about messages. It
//! answers a publish once the bus says that it is synced, and passes on what [`Bus`] returns.

mod body;
mod cloud_events;
mod connection;
mod guard;
pub(crate) mod problem;
mod routes;
mod server;
mod tail;

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::bus::Bus;

pub(crate) use cloud_events::{DELIVER_AFTER, DELIVER_AT, EXPIRY, EncodedEvent, Fill, Mode, decode};
pub(crate) use problem::nearest;

/// What the edge is told by the configuration.
#[derive(Clone, Debug)]
pub struct IngressSettings {
    /// Where to listen; port 0 lets the system choose one.
    pub listen: SocketAddr,
    /// Host names, with or without a port, that are served besides the bound address and loopback's names.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may use the bus.
    pub allowed_origins: Vec<String>,
    /// Bytes of one message's data that the bus accepts. The edge reads no more than what could hold it.
    pub message_data_bytes_max: usize,
}

/// A bound address that does not answer yet.
pub struct Ingress {
    listener: TcpListener,
    address: SocketAddr,
    settings: IngressSettings,
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "{address} is in use by another process, maybe another bus; stop it, or listen elsewhere (`--listen 127.0.0.1:0` takes any free port)"
    )]
    InUse { address: SocketAddr },
    #[error("cannot listen on {address}: {error}; choose another address with `--listen`")]
    Other { address: SocketAddr, error: io::Error },
}

/// All that answers requests, without connections.
#[cfg(fuzzing)]
pub(crate) fn router(bus: Bus, settings: &IngressSettings, stop: watch::Receiver<bool>) -> axum::Router {
    routes::router(bus, settings.listen, settings, stop)
}

impl Ingress {
    /// Takes the address. Connections wait in the system's queue until [`Ingress::run`].
    pub async fn bind(settings: IngressSettings) -> Result<Self, BindError> {
        let address = settings.listen;
        let refused = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { address },
            _ => BindError::Other { address, error },
        };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Self { listener, address, settings })
    }

    /// The address that was taken, with its real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until `stop` holds `true` (or its sender is gone). Then accepts no more, ends
    /// the tails, and returns when the requests that had begun are answered, or after 5 s.
    pub async fn run(self, bus: Bus, stop: watch::Receiver<bool>) {
        let router = routes::router(bus, self.address, &self.settings, stop.clone());
        server::run(self.listener, router, stop).await;
    }
}
