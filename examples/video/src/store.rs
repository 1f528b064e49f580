//! The store: a folder of uploads, served over HTTP.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::extract::{Path as InPath, State};
use axum::http::StatusCode;
use axum::routing::get;

/// How long the store takes to answer, as one that is far away does: what an instance waits for, others can use.
const LATENCY: Duration = Duration::from_millis(60);

/// The store, on a thread of its own.
pub(crate) struct Store {
    address: SocketAddr,
    shelf: Arc<Shelf>,
}

struct Shelf {
    folder: PathBuf,
    fetched: AtomicUsize,
}

impl Store {
    /// # Errors
    /// Where no port is free.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let shelf = Arc::new(Shelf { folder: folder.to_owned(), fetched: AtomicUsize::new(0) });
        let routes = Router::new().route("/uploads/{name}", get(fetch)).with_state(shelf.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || runtime.block_on(async { axum::serve(listener, routes).await }));
        Ok(Self { address, shelf })
    }

    /// Where uploads are, with the last slash.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/uploads/", self.address)
    }

    /// How often an upload was fetched.
    pub(crate) fn fetched(&self) -> usize {
        self.shelf.fetched.load(Ordering::Relaxed)
    }
}

async fn fetch(State(shelf): State<Arc<Shelf>>, InPath(name): InPath<String>) -> Result<Vec<u8>, StatusCode> {
    tokio::time::sleep(LATENCY).await;
    // A name is one of this folder's files, and leads nowhere else.
    if name.contains(['/', '\\']) || name.starts_with('.') {
        return Err(StatusCode::NOT_FOUND);
    }
    let bytes = std::fs::read(shelf.folder.join(name)).map_err(|_| StatusCode::NOT_FOUND)?;
    shelf.fetched.fetch_add(1, Ordering::Relaxed);
    Ok(bytes)
}
