//! The agent's process keepers.
//!
//! One **spawner** per state directory forks one small **keeper** per task; a keeper owns one process tree from the
//! last check before exec to its exit record. Keepers and tasks outlive the runner, the link and the spawner; a later
//! runner adopts them through their sockets. No async runtime here: a keeper is a plain fork of a small
//! single-threaded process and stays small.
//!
//! The runner uses [`adopt`] and speaks [`protocol`]; the binary's role dispatch calls [`spawner::main`];
//! [`exec`] is how every role of the one binary is started.

pub mod adopt;
pub mod containment;
pub mod exec;
pub mod failpoint;
pub mod process;
pub mod protocol;
pub mod record;
pub mod seal;
pub mod secrets;
pub mod spawner;

mod calls;
mod claim;
mod door;
mod keeper;
mod packets;
mod socket;
mod sys;
pub mod wall;

pub use calls::are_filtered as calls_are_filtered;
pub use socket::peer_may_speak;
pub use sys::memory;
