//! What an agent promises, as directed scenes in the simulated world: one story a test, with the orchestrator's part
//! played by the test (`part`) or by the real one.

#![expect(
    clippy::panic,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, and looks at the few things that matter to it"
)]

mod part;

mod admission;
mod certificates;
mod databases;
mod inventories;
mod leases;
mod lines;
mod memories;
mod order;
mod pace;
mod restarts;
mod spare;
mod streams;
mod strict;
