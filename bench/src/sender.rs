//! A client that publishes over HTTP: connections that are kept, one request under way on each.

use std::collections::VecDeque;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

pub(crate) const BATCH: &str = "application/cloudevents-batch+json";
pub(crate) const ONE: &str = "application/cloudevents+json";

/// One connection to a bus.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    pub(crate) async fn open(url: &str) -> Result<Self> {
        let host = url.strip_prefix("http://").context("the bus's address is an http one")?.to_owned();
        let stream = TcpStream::connect(&host).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with its sender; what goes wrong on it, a request says.
        tokio::spawn(connection);
        Ok(Self { sender, host })
    }

    /// Publishes, and waits until that is durable.
    pub(crate) async fn publish(&mut self, topic: &str, content_type: &str, body: Bytes) -> Result<()> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/topics/{topic}"))
            .header("host", &self.host)
            .header("content-type", content_type)
            .body(Full::new(body))?;
        // The answer before this one may just have been read.
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        let said = answer.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "publishing was answered by {status}: {}", String::from_utf8_lossy(&said));
        Ok(())
    }
}

/// Publishes bodies over so many connections at a time, until all are durable.
pub(crate) async fn publish_all(url: &str, topic: &str, bodies: VecDeque<Bytes>, connections: usize) -> Result<()> {
    let (senders, mut tasks) = (connections.min(bodies.len()).max(1), Vec::new());
    let (queue, bodies_left) = mpsc::unbounded_channel();
    for body in bodies {
        queue.send(body)?;
    }
    drop(queue);
    let bodies_left = std::sync::Arc::new(tokio::sync::Mutex::new(bodies_left));
    for _ in 0..senders {
        let mut connection = Connection::open(url).await?;
        let (bodies_left, topic) = (bodies_left.clone(), topic.to_owned());
        tasks.push(tokio::spawn(async move {
            loop {
                let Some(body) = bodies_left.lock().await.recv().await else { return anyhow::Ok(()) };
                connection.publish(&topic, BATCH, body).await?;
            }
        }));
    }
    for task in tasks {
        if let Err(error) = task.await? {
            bail!(error);
        }
    }
    Ok(())
}
