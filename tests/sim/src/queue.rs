//! Virtual time: what happens when, in an order that is the same on every run.

use std::collections::BTreeMap;

/// Microseconds since the simulation began.
pub(crate) type At = u64;

pub(crate) const MS: At = 1_000;
pub(crate) const SECOND: At = 1_000_000;
pub(crate) const MINUTE: At = 60 * SECOND;

/// Things to come. Those of one instant happen in the order in which they were put in.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    waiting: BTreeMap<(At, u64), T>,
    next: u64,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self {
            waiting: BTreeMap::new(),
            next: 0,
        }
    }

    pub(crate) fn put(&mut self, at: At, what: T) {
        self.waiting.insert((at, self.next), what);
        self.next += 1;
    }

    pub(crate) fn first_at(&self) -> Option<At> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    pub(crate) fn take(&mut self) -> Option<T> {
        self.waiting.pop_first().map(|(_, what)| what)
    }
}

/// A host's boot-time clock: begins with the host and runs a little too fast or too slow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BootClock {
    booted_at: At,
    /// Gained in a million microseconds.
    drift_ppm: i64,
}

impl BootClock {
    pub(crate) fn new(booted_at: At, drift_ppm: i64) -> Self {
        Self {
            booted_at,
            drift_ppm,
        }
    }

    pub(crate) fn booted_at(&self) -> At {
        self.booted_at
    }

    /// What it shows. Any host has been up for a second before anything of ours runs.
    pub(crate) fn shows(&self, now: At) -> u64 {
        SECOND + scale(now.saturating_sub(self.booted_at), self.drift_ppm)
    }

    /// The first instant at which it shows this or more.
    pub(crate) fn when(&self, shown: u64) -> At {
        let mut at = self.booted_at + scale(shown.saturating_sub(SECOND), -self.drift_ppm);
        while self.shows(at) < shown {
            at += 1 + (shown - self.shows(at)) / 2;
        }
        at
    }
}

fn scale(span: u64, ppm: i64) -> u64 {
    let gained = i128::from(span) * i128::from(ppm) / 1_000_000;
    u64::try_from(i128::from(span) + gained).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_instant_keeps_its_order() {
        let mut queue = Queue::new();
        for (at, what) in [(2, 'c'), (1, 'a'), (1, 'b')] {
            queue.put(at, what);
        }
        assert_eq!(queue.first_at(), Some(1));
        let taken: String = std::iter::from_fn(|| queue.take()).collect();
        assert_eq!(taken, "abc");
    }

    #[test]
    fn a_deadline_is_never_reached_too_early() {
        for drift_ppm in [-200, 0, 200] {
            let clock = BootClock::new(5 * SECOND, drift_ppm);
            for shown in [SECOND, SECOND + 1, 999 * SECOND + 13, 100_000 * SECOND] {
                let at = clock.when(shown);
                assert!(clock.shows(at) >= shown, "{drift_ppm} {shown}");
                assert!(
                    at == 5 * SECOND || clock.shows(at - 2) < shown,
                    "{drift_ppm} {shown}"
                );
            }
        }
    }
}
