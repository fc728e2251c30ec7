//! This machine's two clocks side by side: what the kernel counts from its boot, at a moment that people know.

use std::time::{Duration, SystemTime};

/// What the kernel counts the starts of processes in, one hundred to a second.
pub const TICK: Duration = Duration::from_millis(10);

/// When this machine was started, by the wall clock, to less than a [`TICK`].
///
/// # Panics
/// When the kernel's clock says nothing that is a time.
#[must_use]
pub fn boot() -> SystemTime {
    let since_boot = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::try_from(now).expect("a clock that began at 0")
    };
    loop {
        let (before, now, after) = (since_boot(), SystemTime::now(), since_boot());
        if after - before < TICK {
            return now - before;
        }
    }
}
