//! Chaos end to end: a field of real agents and a real orchestrator, a steady stream of work, faults of every kind, and
//! at the end the check of what both sides recorded.
//!
//! Used by `cargo chaos` and by the tests beside it. It sees the programs under test as a person on the machine does:
//! processes, files, ports. What it counts, the tasks wrote down themselves.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a harness fails by panicking, like the tests it serves"
)]

pub mod disk;
pub mod fault;
pub mod field;
pub mod gather;
pub mod kind;
pub mod network;
pub mod places;
pub mod plan;
pub mod preload;
pub mod work;
pub mod wrap;
