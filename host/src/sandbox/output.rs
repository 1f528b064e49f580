//! What a guest prints, and the WASI context it prints into: clocks and random numbers, and nothing else.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtx, WasiCtxView};

use crate::limits::{GUEST_OUTPUT_BYTES_MAX, GUEST_RANDOM_BYTES_MAX, GUEST_RESOURCES_MAX};

/// Bytes that a guest may write to a stream at once; it is told so, and comes again with the rest.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// The WASI side of one instance.
pub(super) struct Wasi {
    context: WasiCtx,
    table: ResourceTable,
    output: Output,
}

impl Wasi {
    pub(super) fn new() -> Self {
        let output = Output::default();
        let mut builder = WasiCtx::builder();
        builder
            .stdout(output.clone())
            .stderr(output.clone())
            .max_random_size(GUEST_RANDOM_BYTES_MAX)
            // Refused when a socket is made, so that a guest does not use up the host's descriptors either.
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false);
        let mut table = ResourceTable::new();
        table.set_max_capacity(GUEST_RESOURCES_MAX);
        Self { context: builder.build(), table, output }
    }

    pub(super) fn view(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.context, table: &mut self.table }
    }

    /// Forgets what the last call printed.
    pub(super) fn clear_output(&mut self) {
        self.output.with(VecDeque::clear);
    }

    /// The last bytes that were printed, at most `bytes_max`, as text.
    pub(super) fn output_tail(&self, bytes_max: usize) -> String {
        self.output.with(|kept| {
            let from = kept.len().saturating_sub(bytes_max);
            let bytes: Vec<u8> = kept.range(from..).copied().collect();
            String::from_utf8_lossy(&bytes).trim().to_owned()
        })
    }
}

/// stdout and stderr of one instance, in the order in which they were written. The last
/// [`GUEST_OUTPUT_BYTES_MAX`] bytes are kept: the reason for a failure is printed last.
///
/// A mutex, because WASI's streams are owned by its table and written through their own handles; only
/// the thread that runs the guest ever takes it.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<VecDeque<u8>>>);

impl Output {
    fn with<T>(&self, use_it: impl FnOnce(&mut VecDeque<u8>) -> T) -> T {
        use_it(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn keep(&self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(GUEST_OUTPUT_BYTES_MAX)..];
        self.with(|kept| {
            let excess = (kept.len() + bytes.len()).saturating_sub(GUEST_OUTPUT_BYTES_MAX);
            kept.drain(..excess);
            kept.extend(bytes);
        });
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.keep(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.keep(bytes);
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_bytes_and_no_more() {
        let wasi = Wasi::new();
        for _ in 0..100 {
            wasi.output.keep(&[b'x'; 10_000]);
        }
        wasi.output.keep(b"the reason\n");
        wasi.output.with(|kept| assert_eq!(kept.len(), GUEST_OUTPUT_BYTES_MAX));
        assert_eq!(wasi.output_tail(12), "xthe reason");
        wasi.output.keep(&vec![b'y'; GUEST_OUTPUT_BYTES_MAX + 1]);
        wasi.output.with(|kept| assert!(kept.len() == GUEST_OUTPUT_BYTES_MAX && !kept.contains(&b'x')));
    }
}
