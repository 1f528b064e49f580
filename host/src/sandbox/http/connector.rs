//! Connections to the outside: a name is looked up, every address it has is checked, and one that was checked is
//! connected to. So no answer of a name server can lead past the check, however it changes between two asks.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

use super::network::Network;
use crate::limits;
use crate::policy::address::{Reach, reach};
use crate::policy::http::{Host, HttpGrant, Origin, Scheme, UrlError};

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ConnectError {
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error("`{host}` could not be looked up: {error}")]
    Lookup { host: String, error: String },
    #[error("{address} {}; `private = true` in the grant of {origin} would allow it", .reach.why())]
    Private { address: IpAddr, reach: Reach, origin: String },
    #[error("{address} {}; nothing but a grant of this very address would allow it", .reach.why())]
    Metadata { address: IpAddr, reach: Reach },
    #[error("{address} {}", .reach.why())]
    Nowhere { address: IpAddr, reach: Reach },
    #[error("{address} refuses connections")]
    Refused { address: SocketAddr },
    #[error("{address} cannot be reached: {error}")]
    Unreachable { address: SocketAddr, error: String },
    #[error("no connection within {limit:?}")]
    TimedOut { limit: Duration },
    #[error("the certificate is not good for `{host}`: {error}")]
    Certificate { host: String, error: String },
    #[error("TLS with `{host}` failed: {error}")]
    Tls { host: String, error: String },
    #[error("{max} connections are open already")]
    TooMany { max: usize },
}

impl Reach {
    fn why(self) -> &'static str {
        match self {
            Self::Public => "is of the public internet",
            Self::Private => "is not of the public internet",
            Self::Metadata => "is where the machine's own credentials are handed out",
            Self::Nowhere => "is no host's address",
        }
    }
}

/// Connects for one version of a consumer.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) network: Arc<Network>,
    pub(super) grants: Arc<[HttpGrant]>,
}

impl Connector {
    async fn connect(self, origin: Origin) -> Result<TokioIo<Wire>, ConnectError> {
        let deadline = Instant::now() + limits::HTTP_CONNECT_MAX;
        let connecting = self.connect_until(&origin, deadline);
        let timed_out = |_| ConnectError::TimedOut { limit: limits::HTTP_CONNECT_MAX };
        timeout_at(deadline, connecting).await.map_err(timed_out)?
    }

    async fn connect_until(&self, origin: &Origin, deadline: Instant) -> Result<TokioIo<Wire>, ConnectError> {
        let max = limits::HTTP_CONNECTIONS_MAX;
        let permit = self.network.connections.clone().try_acquire_owned();
        let permit = permit.map_err(|_| ConnectError::TooMany { max })?;
        let addresses = match (&origin.host, origin.host.address()) {
            (_, Some(address)) => vec![SocketAddr::new(address, origin.port)],
            (host, None) => self.network.look_up(&host.to_string(), origin.port).await?,
        };
        for address in &addresses {
            self.check(origin, address.ip())?;
        }
        let stream = connect_first(&addresses, deadline).await?;
        // A request is written in a few pieces, none of which is to wait for the next.
        let _ = stream.set_nodelay(true);
        let stream: Box<dyn Stream> = match origin.scheme {
            Scheme::Http => Box::new(stream),
            Scheme::Https => Box::new(self.secure(&origin.host, stream).await?),
        };
        Ok(TokioIo::new(Wire { stream, _permit: permit }))
    }

    /// `private` of a grant holds for all of its origin, for connections are used for any of its paths.
    fn check(&self, origin: &Origin, address: IpAddr) -> Result<(), ConnectError> {
        let private = self.grants.iter().any(|grant| grant.private && grant.origin == *origin);
        let reach = reach(address);
        match reach {
            Reach::Public => Ok(()),
            Reach::Private if private => Ok(()),
            Reach::Private => Err(ConnectError::Private { address, reach, origin: origin.to_string() }),
            Reach::Metadata if private && origin.host.address() == Some(address) => Ok(()),
            Reach::Metadata => Err(ConnectError::Metadata { address, reach }),
            Reach::Nowhere => Err(ConnectError::Nowhere { address, reach }),
        }
    }

    async fn secure(
        &self,
        host: &Host,
        stream: TcpStream,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ConnectError> {
        let tls_error = |error: String| ConnectError::Tls { host: host.to_string(), error };
        let name = match host {
            Host::Name(name) => ServerName::try_from(name.clone()).map_err(|error| tls_error(error.to_string()))?,
            Host::V4(address) => ServerName::from(IpAddr::from(*address)),
            Host::V6(address) => ServerName::from(IpAddr::from(*address)),
        };
        self.network.tls.connect(name, stream).await.map_err(|error| {
            match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(rustls::Error::InvalidCertificate(why)) => {
                    ConnectError::Certificate { host: host.to_string(), error: why.to_string() }
                }
                _ => tls_error(error.to_string()),
            }
        })
    }
}

/// Tries the addresses in their order, each with its share of the time that is left.
async fn connect_first(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, ConnectError> {
    let tried = &addresses[..addresses.len().min(limits::HTTP_ADDRESSES_MAX)];
    let mut failure = ConnectError::TimedOut { limit: limits::HTTP_CONNECT_MAX };
    for (index, address) in tried.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(tried.len() - index).expect("they are few");
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                failure = ConnectError::Refused { address: *address };
            }
            Ok(Err(error)) => failure = ConnectError::Unreachable { address: *address, error: error.to_string() },
            Err(_) => {}
        }
    }
    Err(failure)
}

impl tower_service::Service<http::Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let origin = Origin::of(&uri)?;
            connector.connect(origin).await
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection, with or without TLS.
pub(super) struct Wire {
    stream: Box<dyn Stream>,
    _permit: OwnedSemaphorePermit,
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(grant: &str, private: bool, address: &str) -> Result<(), ConnectError> {
        let grant = HttpGrant { private, ..HttpGrant::parse(grant).unwrap() };
        let origin = grant.origin.clone();
        let network = Arc::new(Network::new(None).unwrap());
        Connector { network, grants: Arc::new([grant]) }.check(&origin, address.parse().unwrap())
    }

    #[test]
    fn only_a_private_grant_reaches_private_addresses() {
        assert_eq!(check("https://a.test", false, "1.1.1.1"), Ok(()));
        assert_eq!(check("https://a.test", true, "10.0.0.1"), Ok(()));
        assert!(matches!(check("https://a.test", false, "10.0.0.1"), Err(ConnectError::Private { .. })));
        assert!(matches!(check("https://a.test", false, "::ffff:127.0.0.1"), Err(ConnectError::Private { .. })));
        assert!(matches!(check("https://a.test", true, "0.0.0.0"), Err(ConnectError::Nowhere { .. })));
    }

    #[test]
    fn a_metadata_service_is_reached_only_where_the_grant_is_that_address() {
        let metadata = "169.254.169.254";
        assert!(matches!(check("http://a.test", true, metadata), Err(ConnectError::Metadata { .. })));
        assert_eq!(check("http://169.254.169.254", true, metadata), Ok(()));
        assert!(matches!(check("http://169.254.169.254", false, metadata), Err(ConnectError::Metadata { .. })));
    }
}
