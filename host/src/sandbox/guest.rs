//! What one instance's store holds: the call that runs in it, and what it may use.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtxView, WasiView};
use wasmtime_wasi_http::WasiHttpCtxView;

use super::call::Version;
use super::command::CommandCall;
use super::http::{Http, Sending};
use super::output::{Output, Wasi};
use super::records::StateRefusal;
use super::{Effects, Offer, StateFull, StateSource, StateUnreadable};
use crate::limits;
use crate::message::{Event, Message, Millis, Sequence};
use crate::topic::TopicName;

/// State keys that a call wrote, with their new values; `None` removes.
pub(super) type StagedWrites = BTreeMap<String, Option<Bytes>>;

/// The data of a store.
pub(super) struct Guest {
    pub(super) version: Arc<Version>,
    pub(super) limiter: Limiter,
    pub(super) call: Call,
    /// Where the instance is a process.
    pub(super) command: Option<Box<CommandCall>>,
    /// Made when the guest first asks for something of WASI; most calls of most guests never do.
    wasi: Option<Box<Wasi>>,
    http: Option<Box<Http>>,
}

impl Guest {
    pub(super) fn new(version: Arc<Version>, call: Call) -> Self {
        let limiter = Limiter::new(version.limits.memory_bytes);
        Self { version, limiter, call, command: None, wasi: None, http: None }
    }

    /// Makes the store ready for its next message.
    pub(super) fn begin(&mut self, call: Call) {
        self.call = call;
        self.limiter.denied = false;
        if let Some(wasi) = &mut self.wasi {
            wasi.clear_output();
        }
        if let Some(http) = &mut self.http {
            http.begin();
        }
    }

    /// Whether the call leaves a request waiting, or an answer unread: then the instance is not used again, and
    /// with it goes what is open.
    pub(super) fn leaves_requests_open(&self) -> bool {
        self.http.as_ref().is_some_and(|http| http.is_open())
    }

    pub(super) fn http_parts(&mut self) -> (&mut Http, &mut ResourceTable) {
        let http = self.http.get_or_insert_with(|| Box::new(Http::new(Arc::clone(&self.version))));
        let command = self.command.as_deref();
        (http, self.wasi.get_or_insert_with(|| Box::new(Wasi::of(command))).view().table)
    }

    /// The view for the one function that sends a request.
    pub(super) fn sending(&mut self) -> WasiHttpCtxView<'_> {
        let sending = self.call.sending();
        let (http, table) = self.http_parts();
        http.sending(table, sending)
    }

    pub(super) fn table(&mut self) -> &mut ResourceTable {
        self.wasi().view().table
    }

    fn wasi(&mut self) -> &mut Wasi {
        let command = self.command.as_deref();
        self.wasi.get_or_insert_with(|| Box::new(Wasi::of(command)))
    }

    /// Where what a wrapped module prints goes: to 1 (stdout) or 2 (stderr).
    pub(super) fn output(&mut self, file: u32) -> Output {
        match &self.command {
            Some(command) if file == 1 => command.stdout.clone(),
            _ => self.wasi().output(),
        }
    }

    /// The last bytes of what the call printed, at most `bytes_max`.
    pub(super) fn output_tail(&self, bytes_max: usize) -> String {
        self.wasi.as_ref().map(|wasi| wasi.output_tail(bytes_max)).unwrap_or_default()
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi().view()
    }
}

/// One call: whose it is, and what it did so far.
pub(super) struct Call {
    pub(super) subscription: Arc<str>,
    pub(super) topic: TopicName,
    pub(super) sequence: Sequence,
    pub(super) idempotency_key: String,
    pub(super) now_ms: Millis,
    pub(super) hops: u8,
    pub(super) message_data_bytes_max: usize,
    pub(super) publishes: Vec<Event>,
    pub(super) writes: StagedWrites,
    /// Bytes of both.
    pub(super) staged_bytes: usize,
    pub(super) log_bytes: usize,
    pub(super) log_lines_dropped: u64,
    /// Whether the instance is complete, and the guest's own code runs for this message.
    pub(super) handling: bool,
    /// The message's key, where the consumer is of another platform, whose publish cannot name one.
    pub(super) inherited_key: Option<String>,
    /// Bytes of messages that such a consumer holds in the host's memory.
    pub(super) held_bytes: usize,
    /// Why the state could not be read, once that happened.
    pub(super) unreadable: Option<StateUnreadable>,
    state: Option<Box<dyn StateSource>>,
    state_read_bytes: usize,
    /// What the state takes on for sure, once that was asked.
    state_room: Option<u64>,
}

impl Call {
    /// `key_buffer` is what the idempotency key is written to, so that a warm call allocates nothing.
    pub(super) fn new(
        message: &Message,
        offer: &Offer,
        state: Box<dyn StateSource>,
        message_data_bytes_max: usize,
        mut key_buffer: String,
    ) -> Self {
        key_buffer.clear();
        key_buffer.push_str(&offer.idempotency_key);
        Self {
            subscription: Arc::clone(&offer.subscription),
            topic: message.event.topic.clone(),
            sequence: message.sequence,
            idempotency_key: key_buffer,
            now_ms: offer.now_ms,
            hops: message.event.hops,
            message_data_bytes_max,
            publishes: Vec::new(),
            writes: BTreeMap::new(),
            staged_bytes: 0,
            log_bytes: 0,
            log_lines_dropped: 0,
            handling: false,
            inherited_key: None,
            held_bytes: 0,
            unreadable: None,
            state: Some(state),
            state_read_bytes: 0,
            state_room: None,
        }
    }

    /// Whether the state has room for what is staged, which is at most so many bytes.
    pub(super) fn check_room(&mut self, staged_bytes: usize) -> Result<(), StateFull> {
        let Some(state) = &mut self.state else { return Ok(()) };
        let room = *self.state_room.get_or_insert_with(|| state.room());
        if staged_bytes as u64 <= room { Ok(()) } else { state.check_room(&self.writes) }
    }

    /// Where the state is read. What a guest read while it was being set up would outlive the message,
    /// and no later call would be validated for it: so that is refused.
    pub(super) fn source(&mut self) -> wasmtime::Result<&mut dyn StateSource> {
        self.state_parts().map(|(source, _)| source)
    }

    /// As [`Call::source`], with the staged writes.
    pub(super) fn state_parts(&mut self) -> wasmtime::Result<(&mut dyn StateSource, &StagedWrites)> {
        match &mut self.state {
            Some(state) if self.handling => Ok((&mut **state, &self.writes)),
            _ => {
                Err(wasmtime::format_err!("state and publishing are there for `handle`, not while the guest is set up"))
            }
        }
    }

    /// The call as a request needs it.
    fn sending(&mut self) -> Sending {
        let state = self.state.as_mut().filter(|_| self.handling);
        Sending {
            synced: state.and_then(|state| state.synced()),
            subscription: Arc::clone(&self.subscription),
            delivery: format!("{}@{}", self.topic, self.sequence),
        }
    }

    /// Counts a read toward what one call may read.
    pub(super) fn charge_read(&mut self, key_bytes: usize) -> Result<(), StateRefusal> {
        self.state_read_bytes += key_bytes + limits::STATE_READ_BYTES;
        if self.state_read_bytes > limits::STATE_READS_BYTES_MAX {
            return Err(StateRefusal::Full("the call has read as many keys as one call may".to_owned()));
        }
        Ok(())
    }

    /// Ends the call, for a reason that is not the guest's.
    pub(super) fn fail_reading(&mut self, unreadable: StateUnreadable) -> wasmtime::Error {
        self.unreadable = Some(unreadable);
        wasmtime::format_err!("the consumer's state could not be read")
    }

    /// Takes back the state source when the call is over.
    pub(super) fn take_state(&mut self) -> Option<Box<dyn StateSource>> {
        self.state.take()
    }

    pub(super) fn take_effects(&mut self) -> Effects {
        Effects {
            publishes: std::mem::take(&mut self.publishes),
            writes: std::mem::take(&mut self.writes).into_iter().collect(),
        }
    }
}

/// Bounds what an instance may take of the host, and remembers whether it wanted more. A trap's code
/// does not tell: an allocation that fails ends in whatever the guest's language makes of it.
pub(super) struct Limiter {
    memory_bytes_max: usize,
    memory_bytes: usize,
    table_elements: usize,
    denied: bool,
}

impl Limiter {
    fn new(memory_bytes_max: usize) -> Self {
        Self { memory_bytes_max, memory_bytes: 0, table_elements: 0, denied: false }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    pub(super) fn memory_bytes_max(&self) -> usize {
        self.memory_bytes_max
    }

    /// Whether memory was refused to the guest during this call.
    pub(super) fn denied(&self) -> bool {
        self.denied
    }

    /// Records that the guest wanted more than its memory.
    pub(super) fn deny(&mut self) {
        self.denied = true;
    }
}

impl ResourceLimiter for Limiter {
    /// All memories of the instance together stay within the limit.
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let growth = desired.saturating_sub(current);
        let allowed = self.memory_bytes.checked_add(growth).filter(|bytes| *bytes <= self.memory_bytes_max);
        match allowed {
            Some(bytes) if maximum.is_none_or(|maximum| desired <= maximum) => {
                self.memory_bytes = bytes;
                Ok(true)
            }
            _ => {
                self.denied = true;
                Ok(false)
            }
        }
    }

    /// What was allowed and then failed stays counted: the host had no memory to give.
    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.denied = true;
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let elements = self.table_elements.saturating_add(desired.saturating_sub(current));
        if elements > limits::GUEST_TABLE_ELEMENTS_MAX {
            return Ok(false);
        }
        self.table_elements = elements;
        Ok(true)
    }

    fn instances(&self) -> usize {
        limits::GUEST_CORE_INSTANCES_MAX as usize
    }

    fn tables(&self) -> usize {
        limits::GUEST_TABLES_MAX as usize
    }

    fn memories(&self) -> usize {
        limits::GUEST_MEMORIES_MAX as usize
    }
}
