//! Sandpost: an event bus whose consumers are sandboxed WebAssembly components.
//!
//! The way of a message, which is also the order of the modules:
//!
//! 1. [`ingress`]: a request becomes a validated [`message::Event`]; what is wrong with it is answered there.
//! 2. [`publish`]: the event is offered to the log, and the producer waits until it is synced.
//! 3. [`log`]: a transaction is sequenced (its place and validity are decided) and synced (it is durable).
//! 4. [`dispatch`]: each subscription that takes the message decides when it runs, and in what order.
//! 5. [`sandbox`]: the consumer's component is called; what it stages comes back as effects.
//! 6. [`outcome`]: how the call ended, and the evidence that is kept of it.
//! 7. [`settle`]: what follows: acked, held until later, or dead.
//! 8. [`log`] again: the decision, the staged messages and the written state are one transaction. A dead
//!    letter is a row of it.
//!
//! Around that way: [`engine`] is one life of the log with all that is rebuilt from it; [`bus`] answers
//! people, who see [`view`]s and [`metrics`]; [`engine::schedule`] holds what is not to be delivered yet;
//! [`retention`] says what leaves the log; [`deploy`] brings consumers in and
//! takes them out; [`serve`] is the life of the process; [`config`] and [`cli`] are its handles; [`limits`]
//! holds every bound; [`topic`], [`message`] and [`policy`] are the vocabulary.
//!
//! Architecture invariants: `sandbox` never names the log. `log` never names a plugin. `settle` does no
//! IO. On the way only `dispatch` sees both the log and the sandbox. A test holds these.

pub mod ingress;

pub mod publish;

pub mod log;

pub mod dispatch;

pub mod sandbox;

pub mod outcome;

pub mod settle;

pub mod bus;
pub mod cli;
pub mod clock;
pub mod config;
pub mod deploy;
pub mod engine;
#[cfg(fuzzing)]
pub mod fuzzing;
mod headline;
pub mod limits;
pub mod message;
pub mod metrics;
pub mod policy;
pub mod retention;
#[cfg(test)]
mod seeds;
pub mod serve;
pub mod topic;
pub mod view;
