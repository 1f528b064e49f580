//! The neighbour: a NATS server with a stream on disk, and consumers in this program.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::jetstream::{self, consumer::AckPolicy, consumer::pull, stream};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Deserialize;
use tempfile::TempDir;

use crate::rows::{BATCH_MESSAGES, OUTSTANDING};

const SUBJECT: &str = "order.placed";
const START_PATIENCE: Duration = Duration::from_secs(30);

/// When the server syncs what it acknowledges.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sync {
    /// Every two minutes: an acknowledged message can be lost.
    Default,
    /// Before it acknowledges, as Sandpost does.
    Always,
}

/// A server, with its files in a temporary folder.
pub(crate) struct Server {
    child: Child,
    url: String,
    _folder: TempDir,
}

/// What a consumer makes of a message.
#[derive(Deserialize)]
struct Order {
    number: u64,
    customer: String,
    filler: String,
}

#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
}

impl Server {
    pub(crate) fn start(binary: &Path, sync: Sync) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("nats-").tempdir()?;
        let at = folder.path().display();
        let interval = match sync {
            Sync::Default => "",
            Sync::Always => "sync_interval: always",
        };
        let settings = folder.path().join("nats.conf");
        std::fs::write(
            &settings,
            format!(
                "listen: \"127.0.0.1:-1\"\nports_file_dir: \"{at}\"\njetstream {{ store_dir: \"{at}/store\"\n{interval} }}\n"
            ),
        )?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let child = Command::new(binary)
            .arg("-c")
            .arg(&settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} does not start", binary.display()))?;
        let mut server = Self { child, url: String::new(), _folder: folder };
        server.url = server.address()?;
        Ok(server)
    }

    /// It writes its address to a file that is named after it.
    fn address(&mut self) -> Result<String> {
        let folder = self._folder.path().to_owned();
        let began = Instant::now();
        while began.elapsed() < START_PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                let said = std::fs::read_to_string(folder.join("log"))?;
                bail!("the NATS server ended with {status}: {said}");
            }
            for entry in std::fs::read_dir(&folder)? {
                let path = entry?.path();
                let is_ports = path.extension().is_some_and(|extension| extension == "ports");
                if is_ports
                    && let Ok(ports) = serde_json::from_slice::<Ports>(&std::fs::read(&path)?)
                    && let Some(url) = ports.nats.into_iter().next()
                {
                    return Ok(url);
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("the NATS server does not say its address")
    }

    async fn stream(&self) -> Result<(jetstream::Context, stream::Stream)> {
        let client = async_nats::connect(&self.url).await?;
        let context = jetstream::new(client);
        let config = stream::Config {
            name: "orders".to_owned(),
            subjects: vec![SUBJECT.to_owned()],
            storage: stream::StorageType::File,
            ..stream::Config::default()
        };
        let stream = context.get_or_create_stream(config).await?;
        Ok((context, stream))
    }

    /// How long it takes to publish these, and to have each parsed and acknowledged by so many consumers.
    pub(crate) async fn consumes(&self, payloads: Vec<Bytes>, consumers: usize) -> Result<Duration> {
        let (context, stream) = self.stream().await?;
        let count = payloads.len();
        let mut tasks = Vec::new();
        for number in 0..consumers {
            let config = pull::Config {
                durable_name: Some(format!("consumer-{number}")),
                ack_policy: AckPolicy::Explicit,
                max_ack_pending: OUTSTANDING as i64,
                ..pull::Config::default()
            };
            // Each has its own connection, as a service of its own would.
            let (_, stream) = if number == 0 { (context.clone(), stream.clone()) } else { self.stream().await? };
            let consumer = stream.create_consumer(config).await?;
            let mut messages = consumer.stream().max_messages_per_batch(BATCH_MESSAGES).messages().await?;
            tasks.push(tokio::spawn(async move {
                for _ in 0..count {
                    let message = messages.next().await.context("the consumer ended")??;
                    let order: Order = serde_json::from_slice(&message.payload)?;
                    ensure!(!order.customer.is_empty() && !order.filler.is_empty(), "order {}", order.number);
                    message.ack().await.map_err(|error| anyhow::anyhow!(error))?;
                }
                anyhow::Ok(())
            }));
        }
        let began = Instant::now();
        let mut outstanding = VecDeque::with_capacity(OUTSTANDING);
        for payload in payloads {
            if outstanding.len() == OUTSTANDING {
                let oldest: jetstream::context::PublishAckFuture = outstanding.pop_front().context("it is full")?;
                oldest.await?;
            }
            outstanding.push_back(context.publish(SUBJECT, payload).await?);
        }
        for publish in outstanding {
            publish.await?;
        }
        for task in tasks {
            task.await??;
        }
        Ok(began.elapsed())
    }

    /// What each of these takes to be published and acknowledged, one after another, in microseconds.
    pub(crate) async fn publishes(&self, payloads: Vec<Bytes>) -> Result<Vec<f64>> {
        let (context, _) = self.stream().await?;
        let mut times_us = Vec::with_capacity(payloads.len());
        for payload in payloads {
            let began = Instant::now();
            context.publish(SUBJECT, payload).await?.await?;
            times_us.push(began.elapsed().as_secs_f64() * 1e6);
        }
        Ok(times_us)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
