//! The orchestrator's clock: microseconds since 1970 that never go back, whatever happens to the wall clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use outpost_driver::Micros;

/// Readings of the two clocks that came this close together are taken at once, in microseconds.
const CLOSE_US: u64 = 1_000;
/// How often they are read for that; of more the closest counts.
const READINGS: usize = 8;

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
        let (started, wall) = together(Instant::now, |from, to| {
            u64::try_from(to.duration_since(from).as_micros()).unwrap_or(u64::MAX)
        });
        Self {
            base: wall.max(floor),
            started,
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
        let (now, wall) = together(|| self.now().0, |from, to| to - from);
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

/// A monotonic clock and the wall clock, read as if at once: a process can stand still between two readings.
fn together<T: Copy>(monotonic: impl Fn() -> T, apart_us: impl Fn(T, T) -> u64) -> (T, u64) {
    let read = || {
        let (before, wall) = (monotonic(), wall());
        (apart_us(before, monotonic()), before, wall)
    };
    let mut closest = read();
    for _ in 1..READINGS {
        if closest.0 <= CLOSE_US {
            break;
        }
        let again = read();
        if again.0 < closest.0 {
            closest = again;
        }
    }
    let (_, read, wall) = closest;
    (read, wall)
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

    #[test]
    fn a_process_that_stood_still_between_two_readings_reads_again() {
        // The first three readings take 40 ms, the fourth none.
        let readings = std::cell::Cell::new(0);
        let monotonic = || {
            let nth = readings.replace(readings.get() + 1);
            [0, 40_000, 50_000, 90_000, 100_000, 140_000, 150_000][nth.min(6)]
        };
        let (read, _) = together(monotonic, |from, to| to - from);
        assert_eq!((read, readings.get()), (150_000, 8));
        // Where each takes long, the closest counts.
        let readings = std::cell::Cell::new(0_u64);
        let monotonic = || {
            let nth = readings.replace(readings.get() + 1);
            nth * 10_000 - u64::from(nth == 7) * 5_000
        };
        let (read, _) = together(monotonic, |from, to| to - from);
        assert_eq!((read, readings.get()), (60_000, 16));
    }
}
