//! Descriptors that a process is started with, and watching descriptors from the runtime.
//!
//! The only unsafe code of this crate: the standard library and tokio cannot check by themselves that a number names
//! an open descriptor that nobody else owns.
#![expect(
    unsafe_code,
    reason = "takes ownership of inherited descriptors by number, and registers owned ones"
)]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_setfd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Takes the descriptor that the parent passed by its number, and makes it close-on-exec.
///
/// # Errors
/// When the number is negative or names no open descriptor.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: the number is not -1; a number that names nothing makes the call fail with EBADF.
    fcntl_setfd(unsafe { BorrowedFd::borrow_raw(number) }, FdFlags::CLOEXEC)?;
    // SAFETY: the descriptor is open (just asked), and a role owns the descriptors named in its arguments.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Registers a descriptor for readiness both ways. Must be called inside a tokio runtime.
///
/// # Errors
/// When the descriptor cannot be watched.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: `OwnedFd` names an open descriptor for its whole life, which the `AsyncFd` takes over.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}

/// Resolves when no write end of the leash pipe is left. Nothing is read and the descriptor's flags stay as they are:
/// other processes hold the same read end.
///
/// # Errors
/// When the descriptor cannot be watched.
pub(crate) async fn leash_end(fd: OwnedFd) -> io::Result<()> {
    // SAFETY: as in `watch`.
    let leash = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
        .map_err(io::Error::from)?;
    loop {
        let mut guard = leash.readable().await?;
        if guard.ready().is_read_closed() {
            return Ok(());
        }
        guard.clear_ready();
    }
}
