//! Processes that do not last: how often in a row the agent ended soon after its start, and how long the next one waits
//! before it connects. Who is not connected takes no work; what runs goes on, and is adopted, all the same.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::files;

/// Where the number of such starts is remembered, in the state directory.
const FILE: &str = "crashes";
/// A process that lived this long has lasted.
const LASTS: Duration = Duration::from_secs(30);
/// So many may end soon before the next one waits: restarts by hand, or two updates.
const FREE: u32 = 3;
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);

/// The memory of one process.
#[derive(Debug)]
pub(super) struct Steady {
    path: PathBuf,
    began: Instant,
    before: u32,
    lasted: bool,
}

impl Steady {
    /// Notes that a process begins: it counts as one that did not last until it has.
    pub(super) fn begin(state: &Path) -> Self {
        let path = state.join(FILE);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let before = text.trim().parse().unwrap_or(0);
        let steady = Self {
            path,
            began: Instant::now(),
            before,
            lasted: false,
        };
        steady.note(before.saturating_add(1));
        let wait = steady.wait();
        if !wait.is_zero() {
            tracing::error!(
                "the agent ended soon after its start {before} times in a row: it connects, and takes work, in {} s",
                wait.as_secs()
            );
        }
        steady
    }

    /// How long this process waits before it connects: doubling with each one before that did not last.
    pub(super) fn wait(&self) -> Duration {
        match self.before.checked_sub(FREE) {
            None => Duration::ZERO,
            Some(over) => Duration::from_secs(1 << over.min(16)).min(LONGEST),
        }
    }

    /// Called now and then.
    pub(super) fn lived(&mut self) {
        if self.began.elapsed() >= LASTS + self.wait() {
            self.ends();
        }
    }

    /// The process has lasted, has brought an attempt to its acknowledged end, or ends in good order.
    pub(super) fn ends(&mut self) {
        if !std::mem::replace(&mut self.lasted, true) {
            self.note(0);
        }
    }

    /// On a full disk nothing is counted: the agent does not end because of this.
    fn note(&self, count: u32) {
        if let Err(error) = files::replace(&self.path, count.to_string().as_bytes()) {
            tracing::warn!("{} cannot be written: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c10_processes_that_do_not_last_wait_longer_and_longer_and_one_that_does_ends_that() {
        let dir = crate::testing::tempdir().unwrap();
        let waits = (0..12).map(|_| Steady::begin(dir.path()).wait().as_secs());
        let waits = waits.collect::<Vec<_>>();
        assert_eq!(waits, [0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        let mut steady = Steady::begin(dir.path());
        steady.lived();
        assert!(!Steady::begin(dir.path()).wait().is_zero(), "not yet");
        steady.ends();
        assert_eq!(Steady::begin(dir.path()).wait(), Duration::ZERO);
    }

    #[test]
    fn a_file_that_says_nothing_counts_as_none() {
        let dir = crate::testing::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "\u{0}").unwrap();
        assert_eq!(Steady::begin(dir.path()).wait(), Duration::ZERO);
    }
}
