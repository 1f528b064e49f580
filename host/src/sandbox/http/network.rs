//! What all consumers share on the way out: how names are looked up, whom TLS trusts, and the bounds of both.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use super::connector::ConnectError;
use crate::limits;

/// Why the file with further certificate authorities cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the certificate authorities in {} cannot be used: {error}", path.display())]
pub struct CaError {
    path: PathBuf,
    error: String,
}

pub(in crate::sandbox) struct Network {
    pub(super) tls: TlsConnector,
    /// A semaphore, because it bounds what waits too: each look-up holds a thread until the resolver answers.
    lookups: Arc<Semaphore>,
    pub(super) connections: Arc<Semaphore>,
}

impl Network {
    /// Trusts the authorities that browsers trust, and those in `ca_file`, a file of certificates in PEM.
    pub(in crate::sandbox) fn new(ca_file: Option<&Path>) -> Result<Self, CaError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(path) = ca_file {
            add_authorities(&mut roots, path).map_err(|error| CaError { path: path.to_owned(), error })?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has the suites of the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            lookups: Arc::new(Semaphore::new(limits::HTTP_LOOKUPS_MAX)),
            connections: Arc::new(Semaphore::new(limits::HTTP_CONNECTIONS_MAX)),
        })
    }

    /// All addresses of a name, by the system's own resolver.
    pub(super) async fn look_up(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
        let name = (host.to_owned(), port);
        let permit = self.lookups.clone().acquire_owned().await.expect("the semaphore is never closed");
        let looking = tokio::task::spawn_blocking(move || {
            // Held by the thread: the one who asked may have gone, and the resolver still be busy.
            let _permit = permit;
            name.to_socket_addrs().map(Iterator::collect::<Vec<_>>)
        });
        let found = looking.await.unwrap_or_else(|_| Err(io::Error::other("the bus is stopping")));
        let lookup_error = |error: String| ConnectError::Lookup { host: host.to_owned(), error };
        match found {
            Ok(addresses) if addresses.is_empty() => Err(lookup_error("it has no address".to_owned())),
            Ok(addresses) => Ok(addresses),
            Err(error) => Err(lookup_error(error.to_string())),
        }
    }
}

fn add_authorities(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    let before = roots.len();
    for certificate in certificates {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.len() == before { Err("there is no certificate in it".to_owned()) } else { Ok(()) }
}
