//! The body of an answer, on its way to the guest.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::Error;

/// Passes on what comes, up to a number of bytes.
pub(super) struct Body {
    incoming: Incoming,
    bytes_max: u64,
    bytes_left: u64,
    /// How long the guest wants to wait for the next part.
    quiet: Option<(Duration, Pin<Box<Sleep>>)>,
    /// Counts it as open.
    _open: Arc<()>,
}

impl Body {
    pub(super) fn new(incoming: Incoming, bytes_max: u64, quiet_max: Option<Duration>, open: Arc<()>) -> Self {
        let quiet = quiet_max.map(|limit| (limit, Box::pin(tokio::time::sleep(limit))));
        Self { incoming, bytes_max, bytes_left: bytes_max, quiet, _open: open }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match Pin::new(&mut self.incoming).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => {
                let parsed_wrong = error.is_parse();
                let error = if parsed_wrong { Error::HttpProtocolError } else { Error::HttpResponseIncomplete };
                return Poll::Ready(Some(Err(error)));
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {
                let quiet = self.quiet.as_mut().map(|(_, sleep)| sleep.as_mut().poll(context));
                return match quiet {
                    Some(Poll::Ready(())) => Poll::Ready(Some(Err(Error::ConnectionReadTimeout))),
                    _ => Poll::Pending,
                };
            }
        };
        if let Some((limit, sleep)) = &mut self.quiet {
            sleep.as_mut().reset(Instant::now() + *limit);
        }
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => {
                self.bytes_left = left;
                Poll::Ready(Some(Ok(frame)))
            }
            None => Poll::Ready(Some(Err(Error::HttpResponseBodySize(Some(self.bytes_max))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
