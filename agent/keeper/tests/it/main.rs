//! Spawner and keepers as real processes, with real tasks.
//!
//! The spawner is this test binary itself, started again with `role spawner …`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "a test fails by panicking, in its helpers too"
)]

mod ahead;
mod calls;
mod damage;
mod dead;
mod ends;
mod life;
mod output;
mod races;
mod role;
mod sealed;
mod secrets;
mod site;
mod strangers;
mod trees;
mod versions;
