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
mod asked;
mod at_rest;
mod backups;
mod budget;
mod canaries;
mod capture;
mod clock;
mod commands;
mod dead;
mod disk;
mod documents;
mod evidence;
mod examples;
mod expired;
mod gates;
mod happy;
mod identity;
mod kills;
mod leaktest;
mod ledger;
mod ledger_hostile;
mod ledger_missing;
mod loops;
mod names;
mod observe;
mod packaging;
mod preload;
mod promises;
mod recovery;
mod refusals;
mod root;
mod sandbox;
mod secrets;
mod site;
mod stops;
mod strangers;
mod tenants;
mod trees;
mod upgrade;
mod walls;
mod wire;
