//! Request bodies, read within bounds of bytes and of time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{KIB, MIB};

/// Bodies that are being read, or are published and wait for their sync, over all requests. Past this,
/// publishers are told to come back: memory stays bounded however many there are.
const BODIES_BYTES_MAX: usize = 256 * MIB;
/// A body whose next bytes do not come for this long is given up.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A whole body arrives within this time, or it holds its memory for too long.
const BODY_TIME_MAX: Duration = Duration::from_secs(60);
/// What is still read of a body that is too large. A client that is cut off in the middle of writing
/// often never reads the answer that tells it why.
const REFUSED_BYTES_MAX: usize = 32 * MIB;

/// Why a body was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body has more than the {bytes_max} bytes that are accepted here")]
    TooLarge { bytes_max: usize },
    #[error("the body did not arrive within {seconds} s, or paused for too long")]
    TooSlow { seconds: u64 },
    #[error("the body broke off")]
    Broken,
    #[error("too many bodies are being read at once")]
    Busy,
    #[error("the body is encoded as `{encoding}`; it must be sent as it is")]
    Encoded { encoding: String },
}

/// The memory that all bodies share.
#[derive(Clone)]
pub(crate) struct Bodies {
    /// A semaphore and not a counter, for a permit gives its bytes back wherever its request ends. In KiB,
    /// since it counts in 32 bits.
    budget: Arc<Semaphore>,
}

/// A whole body. Its bytes are given back to the budget when it is dropped.
pub(crate) struct WholeBody {
    pub(crate) bytes: Bytes,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    pub(crate) fn new() -> Self {
        Self { budget: Arc::new(Semaphore::new(BODIES_BYTES_MAX / KIB)) }
    }

    /// Reads a body of at most `bytes_max` bytes.
    pub(crate) async fn read(&self, headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<WholeBody, BodyError> {
        if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|value| value.as_bytes() != b"identity") {
            return Err(BodyError::Encoded { encoding: String::from_utf8_lossy(encoding.as_bytes()).into_owned() });
        }
        match tokio::time::timeout(BODY_TIME_MAX, self.collect(headers, body, bytes_max)).await {
            Ok(result) => result,
            Err(_) => Err(BodyError::TooSlow { seconds: BODY_TIME_MAX.as_secs() }),
        }
    }

    async fn collect(&self, headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<WholeBody, BodyError> {
        let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let mut stream = body.into_data_stream();
        if announced.is_some_and(|bytes: u64| bytes > bytes_max as u64) {
            // A client that asks first has sent nothing yet, and reading would invite it to.
            if headers.contains_key(EXPECT) {
                return Err(BodyError::TooLarge { bytes_max });
            }
            return Err(refuse_rest(&mut stream, bytes_max).await);
        }
        // What is announced is believed only for as much as has been paid for already.
        let mut bytes = Vec::with_capacity(announced.unwrap_or(0).min(64 * KIB as u64) as usize);
        let mut permit: Option<OwnedSemaphorePermit> = None;
        loop {
            let chunk = match tokio::time::timeout(PAUSE_MAX, stream.next()).await {
                Err(_) => return Err(BodyError::TooSlow { seconds: BODY_TIME_MAX.as_secs() }),
                Ok(None) => return Ok(WholeBody { bytes: bytes.into(), _permit: permit }),
                Ok(Some(Err(_))) => return Err(BodyError::Broken),
                Ok(Some(Ok(chunk))) => chunk,
            };
            if bytes.len() + chunk.len() > bytes_max {
                return Err(refuse_rest(&mut stream, bytes_max).await);
            }
            let wanted = (bytes.len() + chunk.len()).div_ceil(KIB);
            let missing = wanted.saturating_sub(permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
            let more = Arc::clone(&self.budget).try_acquire_many_owned(missing as u32).map_err(|_| BodyError::Busy)?;
            match &mut permit {
                Some(permit) => permit.merge(more),
                None => permit = Some(more),
            }
            bytes.extend_from_slice(&chunk);
        }
    }
}

/// Reads on for a while, so that the client comes to read the answer.
async fn refuse_rest(stream: &mut axum::body::BodyDataStream, bytes_max: usize) -> BodyError {
    let mut rest = 0;
    while rest < REFUSED_BYTES_MAX {
        match tokio::time::timeout(PAUSE_MAX, stream.next()).await {
            Ok(Some(Ok(chunk))) => rest += chunk.len(),
            _ => break,
        }
    }
    BodyError::TooLarge { bytes_max }
}
