//! What a guest prints, and the WASI context it prints into: clocks and random numbers, and nothing else.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView};

use super::command::CommandCall;
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
    fn new() -> Self {
        let output = Output::last(GUEST_OUTPUT_BYTES_MAX);
        Self::with(output.clone(), output, &mut WasiCtx::builder())
    }

    /// That of an instance, which may be a command's.
    pub(super) fn of(command: Option<&CommandCall>) -> Self {
        command.map_or_else(Self::new, Self::of_command)
    }

    /// As a process has it that handles one message.
    fn of_command(command: &CommandCall) -> Self {
        let mut builder = WasiCtx::builder();
        builder.args(&command.args).envs(&command.environ).stdin(MemoryInputPipe::new(command.stdin.clone()));
        Self::with(command.stdout.clone(), Output::last(GUEST_OUTPUT_BYTES_MAX), &mut builder)
    }

    /// `output` is what the evidence is taken from.
    fn with(stdout: Output, output: Output, builder: &mut WasiCtxBuilder) -> Self {
        builder
            .stdout(stdout)
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
        self.output.with(|kept| kept.bytes.clear());
    }

    pub(super) fn output(&self) -> Output {
        self.output.clone()
    }

    /// The last bytes that were printed, at most `bytes_max`, as text.
    pub(super) fn output_tail(&self, bytes_max: usize) -> String {
        self.output.with(|kept| {
            let from = kept.bytes.len().saturating_sub(bytes_max);
            let bytes: Vec<u8> = kept.bytes.range(from..).copied().collect();
            String::from_utf8_lossy(&bytes).trim().to_owned()
        })
    }
}

/// What one instance writes to a stream, or to several in the order in which they are written.
///
/// A mutex, because WASI's streams are owned by its table and written through their own handles; only
/// the thread that runs the guest ever takes it.
#[derive(Clone)]
pub(super) struct Output(Arc<Mutex<Kept>>);

struct Kept {
    bytes: VecDeque<u8>,
    bytes_max: usize,
    /// Which ones are kept of more than that.
    end: End,
    /// Bytes that were not kept.
    lost: u64,
}

#[derive(Clone, Copy)]
enum End {
    First,
    Last,
}

impl Output {
    /// Keeps the last bytes: the reason for a failure is printed last.
    fn last(bytes_max: usize) -> Self {
        Self::new(bytes_max, End::Last)
    }

    /// Keeps the first bytes, and counts what is lost of the rest.
    pub(super) fn first(bytes_max: usize) -> Self {
        Self::new(bytes_max, End::First)
    }

    fn new(bytes_max: usize, end: End) -> Self {
        Self(Arc::new(Mutex::new(Kept { bytes: VecDeque::new(), bytes_max, end, lost: 0 })))
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut Kept) -> T) -> T {
        use_it(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn keep(&self, bytes: &[u8]) {
        self.with(|kept| match kept.end {
            End::First => {
                let (kept_too, lost) = bytes.split_at(bytes.len().min(kept.bytes_max - kept.bytes.len()));
                kept.bytes.extend(kept_too);
                kept.lost += lost.len() as u64;
            }
            End::Last => {
                let bytes = &bytes[bytes.len().saturating_sub(kept.bytes_max)..];
                let excess = (kept.bytes.len() + bytes.len()).saturating_sub(kept.bytes_max);
                kept.bytes.drain(..excess);
                kept.bytes.extend(bytes);
            }
        });
    }

    /// Takes what was kept, with how many bytes were not.
    pub(super) fn take(&self) -> (Vec<u8>, u64) {
        self.with(|kept| (std::mem::take(&mut kept.bytes).into(), std::mem::take(&mut kept.lost)))
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
        wasi.output.with(|kept| assert_eq!(kept.bytes.len(), GUEST_OUTPUT_BYTES_MAX));
        assert_eq!(wasi.output_tail(12), "xthe reason");
        wasi.output.keep(&vec![b'y'; GUEST_OUTPUT_BYTES_MAX + 1]);
        wasi.output.with(|kept| assert!(kept.bytes.len() == GUEST_OUTPUT_BYTES_MAX && !kept.bytes.contains(&b'x')));
    }

    #[test]
    fn keeps_the_first_bytes_and_counts_the_others() {
        let output = Output::first(5);
        output.keep(b"one");
        output.keep(b"two");
        output.keep(b"three");
        assert_eq!(output.take(), (b"onetw".to_vec(), 6));
        assert_eq!(output.take(), (Vec::new(), 0));
    }
}
