//! Descriptors that a process is started with and was not meant to have.
#![expect(
    unsafe_code,
    reason = "closes descriptors by number before anything in this process owns one of them"
)]

use std::os::fd::RawFd;

/// Closes every descriptor but the standard streams and these. First thing in a role: nothing else is open then that
/// this process opened itself. Answers whether they are closed.
pub(crate) fn close_others(kept: &[RawFd]) -> bool {
    let mut kept: Vec<u32> = kept
        .iter()
        .filter_map(|number| u32::try_from(*number).ok())
        .filter(|number| *number > 2)
        .collect();
    kept.sort_unstable();
    kept.push(u32::MAX);
    let mut first = 3;
    let mut closed = true;
    for number in kept {
        if number > first {
            closed &= close_range(first, number - 1);
        }
        first = number.saturating_add(1);
    }
    closed
}

fn close_range(first: u32, last: u32) -> bool {
    // SAFETY: by the contract above nothing in this process owns a descriptor of the range.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) == 0 }
}
