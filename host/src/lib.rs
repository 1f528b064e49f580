//! Sandpost: an event bus whose consumers are sandboxed WebAssembly components.

pub mod bus;
pub mod cli;
pub mod config;
pub mod ingress;
pub mod limits;
pub mod log;
pub mod message;
pub mod outcome;
pub mod policy;
pub mod sandbox;
pub mod topic;
