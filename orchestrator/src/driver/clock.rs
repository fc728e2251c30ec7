//! The orchestrator's clock: microseconds since 1970 that never go back, whatever happens to the wall clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use outpost_driver::Micros;

/// Wall time at the start of the process plus what a monotonic clock counted since.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base: u64,
    started: Instant,
}

impl Clock {
    /// Starts at the wall clock's time, or at `floor` if that is later: nothing may be decided at a time before what
    /// is stored already.
    #[must_use]
    pub fn starting_at_least_at(floor: u64) -> Self {
        Self {
            base: wall().max(floor),
            started: Instant::now(),
        }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Micros {
        Micros(self.base).plus(self.started.elapsed())
    }

    /// How far the wall clock is ahead of this one now, in microseconds.
    #[must_use]
    pub fn wall_is_ahead(&self) -> i64 {
        let (wall, now) = (wall(), self.now().0);
        let apart = i64::try_from(wall.abs_diff(now)).unwrap_or(i64::MAX);
        if wall < now { -apart } else { apart }
    }

    /// How long until `deadline`.
    #[must_use]
    pub fn until(&self, deadline: Micros) -> std::time::Duration {
        std::time::Duration::from_micros(deadline.since(self.now()))
    }
}

/// The wall clock: for what is not decided by the core.
#[must_use]
pub fn wall() -> u64 {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_below_what_is_stored() {
        let floor = wall() + 3_600_000_000;
        let clock = Clock::starting_at_least_at(floor);
        let first = clock.now();
        assert!(first.0 >= floor);
        assert!(clock.now() >= first);
    }
}
