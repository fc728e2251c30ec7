//! What the agent decides: sessions, leases, attempts and what is reported of them.
//!
//! A pure state machine: no clock, no disk, no network, no processes, no randomness of its own. [`event`] is everything
//! that can happen and everything that can result, [`record`] everything that is durable.

pub mod event;
pub mod record;
