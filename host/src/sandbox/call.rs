//! One call: an instance handles one message.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::Sleep;
use wasmtime::component::TypedFunc;
use wasmtime::{PoolConcurrencyLimitError, Store};
use wasmtime_wasi::I32Exit;

use super::command::{self, CommandCall};
use super::engine::InstancePermit;
use super::guest::{Call, Guest};
use super::http::Outbound;
use super::kind::Kind;
use super::load::{Component, EntryPoint};
use super::platforms::{spin, wasi_messaging, wasmcloud};
use super::records::{DeliveryRecord, Failure, HandleParams, HandleResults, MessageRecord};
use super::secrets::{SecretError, Secrets};
use super::{CallError, Called, Effects, Offer, StateSource, ending, imports};
use crate::limits::{GUEST_HANDOVER_BYTES_MAX, GUEST_RESOURCES_MAX, INSTANCE_CALLS_MAX};
use crate::message::Message;
use crate::outcome::{Digest, Outcome};
use crate::policy::{CommandPolicy, GuestLimits, Manifest};
use crate::topic::TopicFilter;

/// A version of a consumer, ready to run: its component with what its manifest grants. Clones are the
/// same version, and share instances; two programs made apart do not, however alike.
#[derive(Clone)]
pub struct Program {
    version: Arc<Version>,
}

pub(super) struct Version {
    pub(super) consumer: Arc<str>,
    pub(super) component: Component,
    pub(super) limits: GuestLimits,
    pub(super) publish: Vec<TopicFilter>,
    pub(super) config: BTreeMap<String, String>,
    pub(super) command: Option<CommandPolicy>,
    pub(super) secrets: Secrets,
    pub(super) outbound: Outbound,
}

/// A live instance of one version of a consumer.
pub struct Instance {
    // Dropped before the permit, so that the pool has its room back when the next one is permitted.
    store: Store<Guest>,
    /// Absent while the instance is being set up.
    entry: Option<Entry>,
    calls: u32,
    /// When the call that set the instance up came to the guest's `handle`.
    handling_since: Option<Instant>,
    version: Arc<Version>,
    _permit: InstancePermit,
}

/// What a call enters by, ready to be called.
#[derive(Clone, Copy)]
enum Entry {
    Handle(TypedFunc<HandleParams<'static>, HandleResults>),
    Start(TypedFunc<(), ()>),
    Run(TypedFunc<(), (Result<(), ()>,)>),
    WasmCloud(wasmcloud::Handler),
    WasiMessaging(wasi_messaging::Handler),
    Spin(spin::Handler),
}

/// How a call that ended by itself came back.
enum Returned {
    Handled(Result<(), Failure>),
    /// A command's exit code.
    Exited(i32),
}

impl Program {
    /// Reads the manifest's secrets, so that a version that lacks one is never begun.
    pub fn new(consumer: Arc<str>, component: Component, manifest: &Manifest) -> Result<Self, SecretError> {
        Ok(Self::with_secrets(consumer, component, manifest, Secrets::read(manifest)?))
    }

    /// As [`Program::new`], with secrets that were read, or [withheld](Secrets::withheld), before.
    pub fn with_secrets(consumer: Arc<str>, component: Component, manifest: &Manifest, secrets: Secrets) -> Self {
        let outbound = Outbound::new(manifest, component.loaded().shared.network.clone());
        let version = Version {
            consumer,
            component,
            limits: manifest.limits.clone(),
            publish: manifest.publish.clone(),
            config: manifest.config.clone(),
            command: manifest.command.clone(),
            secrets,
            outbound,
        };
        Self { version: Arc::new(version) }
    }

    #[cfg(test)]
    pub(super) fn version(&self) -> &Arc<Version> {
        &self.version
    }

    /// The consumer's file stem.
    pub fn consumer(&self) -> &Arc<str> {
        &self.version.consumer
    }

    pub fn kind(&self) -> Kind {
        self.version.component.kind()
    }

    pub fn digest(&self) -> Digest {
        self.version.component.digest()
    }

    /// Handles one message.
    ///
    /// `slot` holds an instance between calls: one of this version is used again; any other is dropped,
    /// and replaced. It is empty after a trap, an exit, a timeout, running out of memory or
    /// [`INSTANCE_CALLS_MAX`] calls, and if this future is dropped. For a fresh instance, pass an empty
    /// one. `message_data_bytes_max` bounds the data of what the call publishes.
    ///
    /// Must be polled inside a tokio runtime's context, for its timers; it need not be a task of it. A
    /// guest that computes gives way every [`crate::limits::EPOCH_TICK`]; one that waits holds no thread.
    pub async fn call(
        &self,
        slot: &mut Option<Instance>,
        message: &Message,
        offer: &Offer,
        state: Box<dyn StateSource>,
        message_data_bytes_max: usize,
    ) -> Result<Called, CallError> {
        let started = Instant::now();
        let mut instance = match slot.take().filter(|instance| Arc::ptr_eq(&instance.version, &self.version)) {
            Some(mut instance) => {
                let guest = instance.store.data_mut();
                let key_buffer = std::mem::take(&mut guest.call.idempotency_key);
                guest.begin(Call::new(message, offer, state, message_data_bytes_max, key_buffer));
                instance.handling_since = None;
                instance
            }
            None => {
                let mut instance =
                    self.prepare(Call::new(message, offer, state, message_data_bytes_max, String::new()))?;
                if self.kind() == Kind::Command {
                    let command = CommandCall::new(&self.version, message, offer);
                    instance.store.data_mut().command = Some(Box::new(command));
                }
                instance
            }
        };
        let fresh = instance.calls == 0;

        let ended = {
            let guest = pin!(instance.run(message, offer));
            within(started, offer.timeout, guest).await
        };

        let set_up = instance.handling_since.map_or(Duration::ZERO, |since| since - started);
        let guest = instance.store.data_mut();
        let memory_bytes = guest.limiter.memory_bytes();
        let exited = match &ended {
            Some(Ok(Returned::Exited(code))) => Some(*code),
            Some(Err(error)) => error.downcast_ref::<I32Exit>().map(|exit| exit.0),
            _ => None,
        };
        let command_outcome = command::ended(exited, guest, message);
        imports::report_dropped_lines(guest);
        if let Some(unreadable) = guest.call.unreadable.take() {
            return Err(CallError::State(unreadable));
        }
        let Some(state) = guest.call.take_state() else {
            return Err(CallError::Internal("a call lost the source of its state".to_owned()));
        };
        let effects = guest.call.take_effects();
        let (outcome, reusable) = match (command_outcome, ended) {
            // A process has one end.
            (Some(outcome), _) => (outcome, false),
            (None, Some(Ok(Returned::Handled(result)))) => {
                let reusable =
                    instance.calls < INSTANCE_CALLS_MAX && !guest.leaves_requests_open() && !guest.limiter.denied();
                (ending::returned(result, guest), reusable)
            }
            (None, Some(Ok(Returned::Exited(_)))) => {
                return Err(CallError::Internal("a consumer that is no command exited as one".to_owned()));
            }
            (None, Some(Err(error))) => (self.failed(&error, guest)?, false),
            (None, None) => (Outcome::TimedOut { limit: offer.timeout }, false),
        };
        if reusable {
            *slot = Some(instance);
        }
        // For whoever writes a consumer and watches it. What it costs while nobody does is a look at a level.
        tracing::debug!(
            target: "delivery",
            subscription = &*offer.subscription,
            delivery = %format_args!("{}@{}", message.event.topic, message.sequence),
            attempt = offer.attempt,
            outcome = outcome.kind().as_str(),
            took_us = started.elapsed().as_micros() as u64,
            "{}",
            outcome.text()
        );
        let effects = if outcome == Outcome::Acked { effects } else { Effects::default() };
        Ok(Called { outcome, effects, state, duration: started.elapsed(), set_up, memory_bytes, fresh })
    }

    /// A store for a new instance, which is filled within the call's time: a guest's own code may run
    /// then already.
    fn prepare(&self, call: Call) -> Result<Instance, CallError> {
        let shared = &self.version.component.loaded().shared;
        let Some(permit) = shared.permit() else {
            return Err(CallError::NoInstance { instances_max: shared.instances_max });
        };
        let guest = Guest::new(Arc::clone(&self.version), call);
        let mut store = Store::try_new(&shared.engine, guest)
            .map_err(|error| CallError::Internal(format!("no store for an instance: {error:#}")))?;
        store.limiter(|guest| &mut guest.limiter);
        store.set_hostcall_fuel(GUEST_HANDOVER_BYTES_MAX);
        store.set_max_component_handles(GUEST_RESOURCES_MAX);
        store.epoch_deadline_async_yield_and_update(1);
        Ok(Instance {
            store,
            entry: None,
            calls: 0,
            handling_since: None,
            version: Arc::clone(&self.version),
            _permit: permit,
        })
    }

    /// Tells the guest's failures from the host's.
    fn failed(&self, error: &wasmtime::Error, guest: &Guest) -> Result<Outcome, CallError> {
        if error.is::<PoolConcurrencyLimitError>() {
            let instances_max = self.version.component.loaded().shared.instances_max;
            return Err(CallError::NoInstance { instances_max });
        }
        if error.chain().any(|cause| cause.is::<std::io::Error>()) {
            return Err(CallError::Internal(format!("{error:#}")));
        }
        Ok(ending::failed(error, guest))
    }
}

impl Instance {
    /// Sets the instance up if it is new, and has it handle the message.
    async fn run(&mut self, message: &Message, offer: &Offer) -> wasmtime::Result<Returned> {
        self.store.set_epoch_deadline(1);
        let entry = match self.entry {
            Some(entry) => entry,
            None => {
                let loaded = self.version.component.loaded();
                let instance = loaded.pre.instantiate_async(&mut self.store).await?;
                let store = &mut self.store;
                let entry = match loaded.entry {
                    EntryPoint::Handle(index) => Entry::Handle(instance.get_typed_func(store, index)?),
                    EntryPoint::Start(index) => Entry::Start(instance.get_typed_func(store, index)?),
                    EntryPoint::Run(index) => Entry::Run(instance.get_typed_func(store, index)?),
                    EntryPoint::WasmCloud(index) => Entry::WasmCloud(instance.get_typed_func(store, index)?),
                    EntryPoint::WasiMessaging(index) => Entry::WasiMessaging(instance.get_typed_func(store, index)?),
                    EntryPoint::Spin(index) => Entry::Spin(instance.get_typed_func(store, index)?),
                };
                self.handling_since = Some(Instant::now());
                *self.entry.insert(entry)
            }
        };
        self.calls += 1;
        self.store.data_mut().call.handling = true;
        match entry {
            Entry::Handle(handle) => {
                // The function type is kept for `'static`, and is as good for the shorter life of one message.
                let handle: TypedFunc<HandleParams<'_>, HandleResults> = handle;
                let params = (MessageRecord::from(message), DeliveryRecord::new(message, offer));
                let (result,) = handle.call_async(&mut self.store, params).await?;
                Ok(Returned::Handled(result))
            }
            Entry::Start(start) => {
                start.call_async(&mut self.store, ()).await?;
                Ok(Returned::Exited(0))
            }
            Entry::Run(run) => {
                let (result,) = run.call_async(&mut self.store, ()).await?;
                Ok(Returned::Exited(i32::from(result.is_err())))
            }
            Entry::WasmCloud(handler) => {
                Ok(Returned::Handled(wasmcloud::call(&mut self.store, handler, message).await?))
            }
            Entry::WasiMessaging(handler) => {
                let called = wasi_messaging::call(&mut self.store, handler, message, offer).await?;
                Ok(Returned::Handled(called))
            }
            Entry::Spin(handler) => Ok(Returned::Handled(spin::call(&mut self.store, handler, message).await?)),
        }
    }
}

/// What `guest` comes to, or `None` where that takes longer than `limit` since `started`. A guest that
/// never waits costs no timer.
async fn within<F: Future>(started: Instant, limit: Duration, mut guest: Pin<&mut F>) -> Option<F::Output> {
    let mut sleep: Option<Pin<Box<Sleep>>> = None;
    std::future::poll_fn(|context| {
        // A guest in a loop is polled again and again, perhaps with no turn for the timer between.
        if sleep.is_some() && started.elapsed() >= limit {
            return Poll::Ready(None);
        }
        if let Poll::Ready(output) = guest.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        let remaining = || limit.saturating_sub(started.elapsed());
        let sleep = sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(remaining())));
        sleep.as_mut().poll(context).map(|()| None)
    })
    .await
}
