//! The REST interface with the real driver and a real database behind it, and agents that are played.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod access;
mod conditions;
mod document;
mod limits;
mod metrics;
mod pages;
mod problems;
mod rig;
mod runs;
mod site;
mod stream;
