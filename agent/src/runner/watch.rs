//! Descriptors of other crates, waited for on the runner's loop.
#![expect(
    unsafe_code,
    reason = "AsyncFd trusts its value to keep one open descriptor; the types used here do"
)]

use std::io;
use std::os::fd::OwnedFd;

use outpost_agent_keeper::adopt::{KeeperClient, SpawnerClient};
use outpost_agent_keeper::exec::Leash;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A value that owns one open descriptor for its whole life and never exchanges it.
pub(super) trait Watchable: std::os::fd::AsRawFd {}

impl Watchable for KeeperClient {}
impl Watchable for SpawnerClient {}
impl Watchable for Leash {}
impl Watchable for OwnedFd {}

/// Waits for room in a socket that had none.
pub(super) fn watch_room(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: what `Watchable` says.
    unsafe { AsyncFd::register_with_interest(fd, Interest::WRITABLE) }.map_err(io::Error::from)
}

/// Waits for readability only: these sockets are written when there is something to say.
pub(super) fn watch<T: Watchable>(value: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: what `Watchable` says.
    unsafe { AsyncFd::register_with_interest(value, Interest::READABLE) }.map_err(io::Error::from)
}
