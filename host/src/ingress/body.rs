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
    #[error("the body was not there after {seconds} s of waiting")]
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
    pause_max: Duration,
    time_max: Duration,
}

/// A whole body. Its bytes are given back to the budget when it is dropped.
pub(crate) struct WholeBody {
    pub(crate) bytes: Bytes,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    pub(crate) fn new() -> Self {
        let budget = Arc::new(Semaphore::new(BODIES_BYTES_MAX / KIB));
        Self { budget, pause_max: PAUSE_MAX, time_max: BODY_TIME_MAX }
    }

    /// Reads a body of at most `bytes_max` bytes.
    pub(crate) async fn read(&self, headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<WholeBody, BodyError> {
        if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|value| value.as_bytes() != b"identity") {
            return Err(BodyError::Encoded { encoding: String::from_utf8_lossy(encoding.as_bytes()).into_owned() });
        }
        match tokio::time::timeout(self.time_max, self.collect(headers, body, bytes_max)).await {
            Ok(result) => result,
            Err(_) => Err(BodyError::TooSlow { seconds: self.time_max.as_secs() }),
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
            let chunk = match tokio::time::timeout(self.pause_max, stream.next()).await {
                Err(_) => return Err(BodyError::TooSlow { seconds: self.pause_max.as_secs() }),
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

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use futures_util::stream;

    use super::*;

    fn chunks(sizes: &[usize]) -> Body {
        let chunks: Vec<_> = sizes.iter().map(|size| Ok::<_, std::io::Error>(vec![7_u8; *size])).collect();
        Body::from_stream(stream::iter(chunks))
    }

    fn announcing(bytes: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from_static(bytes))])
    }

    async fn read(headers: HeaderMap, body: Body) -> Result<usize, BodyError> {
        Bodies::new().read(&headers, body, 1_000).await.map(|body| body.bytes.len())
    }

    #[tokio::test]
    async fn a_body_is_bounded_whether_it_announces_its_size_or_not() {
        let too_large = Err(BodyError::TooLarge { bytes_max: 1_000 });
        assert_eq!(read(HeaderMap::new(), chunks(&[])).await, Ok(0));
        assert_eq!(read(HeaderMap::new(), chunks(&[600, 400])).await, Ok(1_000));
        assert_eq!(read(HeaderMap::new(), chunks(&[600, 401])).await, too_large);
        assert_eq!(read(announcing("1000"), chunks(&[1_000])).await, Ok(1_000));
        assert_eq!(read(announcing("1001"), chunks(&[1_001])).await, too_large);
        assert_eq!(read(announcing("18446744073709551615"), chunks(&[])).await, too_large);
    }

    #[tokio::test]
    async fn a_client_that_asks_first_is_refused_without_reading() {
        let mut headers = announcing("1001");
        headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
        // To read this body would take for ever.
        let endless = Body::from_stream(stream::pending::<Result<Vec<u8>, std::io::Error>>());
        assert_eq!(read(headers, endless).await, Err(BodyError::TooLarge { bytes_max: 1_000 }));
    }

    #[tokio::test]
    async fn an_endless_body_is_given_up() {
        let endless = Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(vec![7_u8; 64 * KIB])));
        assert_eq!(read(HeaderMap::new(), endless).await, Err(BodyError::TooLarge { bytes_max: 1_000 }));
    }

    #[tokio::test]
    async fn a_body_that_stalls_or_takes_too_long_is_given_up() {
        let (short, long) = (Duration::from_millis(1), Duration::from_secs(3600));
        for (pause_max, time_max, seconds) in [(short, long, 0), (long, short, 0)] {
            let bodies = Bodies { pause_max, time_max, ..Bodies::new() };
            let first = stream::iter([Ok::<_, std::io::Error>(vec![7_u8; 10])]);
            let stalled = Body::from_stream(first.chain(stream::pending()));
            let read = bodies.read(&announcing("20"), stalled, 1_000).await.map(|body| body.bytes.len());
            assert_eq!(read, Err(BodyError::TooSlow { seconds }));
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_or_is_compressed_is_refused() {
        let broken = stream::iter([Ok(vec![7_u8]), Err(std::io::Error::other("reset"))]);
        assert_eq!(read(HeaderMap::new(), Body::from_stream(broken)).await, Err(BodyError::Broken));
        let encoded = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static("gzip"))]);
        let gzip = Err(BodyError::Encoded { encoding: "gzip".to_owned() });
        assert_eq!(read(encoded, chunks(&[1])).await, gzip);
        let identity = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static("identity"))]);
        assert_eq!(read(identity, chunks(&[1])).await, Ok(1));
    }

    #[tokio::test]
    async fn all_bodies_share_one_budget_and_give_it_back() {
        let bodies = Bodies::new();
        let part = BODIES_BYTES_MAX / 4;
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(bodies.read(&HeaderMap::new(), chunks(&[part]), part).await);
        }
        assert!(held.iter().all(Result::is_ok));
        let refused = bodies.read(&HeaderMap::new(), chunks(&[1]), part).await;
        assert_eq!(refused.map(|body| body.bytes.len()), Err(BodyError::Busy));
        held.pop();
        assert!(bodies.read(&HeaderMap::new(), chunks(&[1]), part).await.is_ok());
    }
}
