//! The agent: runs at the site, dials out, starts the site's own tasks when told, reports states and numbers only.
//!
//! One binary in several roles: [`main_from`] is its entry, also for the `outpost` binary that plays the agent in
//! `dev` and `demo`. `runner` decides and records; the network and process roles are crates of their own, so that
//! their dependencies show what they cannot do.

mod ahead;
mod approvals;
pub mod audit;
pub mod capture;
pub mod catalogue;
mod causes;
mod cli;
mod commands;
pub mod dated;
pub mod enrol;
pub mod files;
pub mod health;
pub mod journal;
pub mod leaktest;
pub mod ledger;
pub mod life;
pub mod local_time;
mod log_tail;
pub mod metrics;
mod output;
mod refusals;
pub mod runner;
pub mod sandbox;
pub mod seal;
pub mod secrets;
pub mod state_dir;
#[cfg(test)]
mod testing;
mod torn;
pub mod users;

pub use cli::main_from;

/// Version of this build: major, minor, patch.
#[must_use]
pub fn build_version() -> (u16, u16, u16) {
    let part = |text: &str| text.parse().unwrap_or(0);
    (
        part(env!("CARGO_PKG_VERSION_MAJOR")),
        part(env!("CARGO_PKG_VERSION_MINOR")),
        part(env!("CARGO_PKG_VERSION_PATCH")),
    )
}
