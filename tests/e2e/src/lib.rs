//! The harness: the real binaries as real processes in a directory of their own, driven through the real commands and
//! the API, and watched from outside through /proc.
//!
//! Used by the end-to-end tests, the lottery and the benchmark. It never links agent or orchestrator: what it knows of
//! them is what a person on the machine could see. Everything that was started ends with the [`World`], and, through
//! the leash, with the harness's own process, however that ends.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a harness fails by panicking, like the tests it serves"
)]

pub mod agent;
pub mod api;
pub mod binaries;
pub mod clocks;
pub mod orchestrator;
pub mod process;
pub mod procs;
pub mod report;
pub mod site;
pub mod wait;
pub mod world;

pub use agent::Agent;
pub use api::{Api, Reply};
pub use orchestrator::Orchestrator;
pub use procs::Proc;
pub use site::{Entry, Site};
pub use wait::{eventually, eventually_within};
pub use world::World;
