//! The real binaries against each other: one file per kind of promise, one test per case, with the ids of the fault
//! catalogue in names or comments. Tests that need more than an ordinary user say so and are ignored unless asked for.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking, like the tests"
)]

mod ahead;
mod alone;
mod backups;
mod clock;
mod commands;
mod disk;
mod documents;
mod examples;
mod expired;
mod happy;
mod identity;
mod kills;
mod ledger;
mod loops;
mod names;
mod preload;
mod promises;
mod recovery;
mod refusals;
mod root;
mod site;
mod stops;
mod tenants;
mod trees;
mod upgrade;
mod wire;
