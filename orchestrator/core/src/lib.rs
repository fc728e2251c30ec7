//! What the orchestrator decides: workflows, runs, tasks, attempts, sessions and leases.
//!
//! A pure state machine: no clock, no disk, no network, no randomness of its own. [`event`] is everything that can
//! happen and everything that can result, [`record`] everything that is durable, [`spec`] a workflow as it was applied.

pub mod event;
pub mod record;
pub mod spec;
