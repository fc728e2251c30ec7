//! The orchestrator: accepts agents that dialled out, decides through the pure core, keeps everything in a database and
//! answers people and programs through a REST interface.
//!
//! One task downward: [`api`] asks, [`driver`] runs the core and commits, [`link`] speaks to the agent. The executable
//! and the `outpost` binary both enter through [`main_from`].

use std::ffi::OsString;
use std::process::ExitCode;

pub mod admin;
pub mod api;
pub mod auth;
mod calls;
pub mod cli;
pub mod config;
pub mod driver;
mod http;
pub mod identity;
pub mod link;
mod logs;
pub mod metrics;
mod output;
mod process;
pub mod serve;
pub mod store;
pub mod workflow;

/// What the REST interface is made of. Cheap to clone: one per router.
#[derive(Debug, Clone)]
pub struct ApiState {
    /// Asks the core; every change goes through it.
    pub handle: driver::Handle,
    /// Reads lists and history; never changes anything.
    pub reader: store::read::Reader,
    /// Tokens and tenants, which are not the core's.
    pub access: store::access::Access,
    /// What a join token tells an agent.
    pub join: JoinInfo,
    /// Host names and addresses that requests may be meant for, besides the loopback ones; IPv6 without brackets.
    pub names: Vec<String>,
    /// How often one token may ask.
    pub rate: api::Rate,
    /// Ends when the server drains: event streams close then.
    pub draining: tokio_util::sync::CancellationToken,
}

/// Where agents connect to and whom they trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinInfo {
    /// `host:port` of the agents' listener, as reachable from the sites.
    pub agents: String,
    /// First part of every SPIFFE id.
    pub trust_domain: String,
    /// SHA-256 of the root certificate in DER.
    pub root_pin: [u8; 32],
}

/// Runs the command line and answers with its exit status. `args` begins with the program's name.
#[must_use]
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    cli::run(args)
}
