//! When a file or a directory was last written, where something goes by its age.
//!
//! Whoever owns a file can say of it that it was modified at any time; when it last changed, that among it, only the kernel
//! says. A task that runs under the agent's own account could so make the agent throw its log away, or a part of the
//! ledger.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime};

/// Which of a file's times counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dated {
    /// When it was modified: what was copied with its times is as old as it was. For an agent that is root, whose files no
    /// task owns.
    #[default]
    Modified,
    /// When it last changed in any way, which nobody can set: where tasks run under the agent's own account. What was
    /// restored from a copy is as old as that.
    Changed,
}

impl Dated {
    /// What counts for this process.
    #[must_use]
    pub fn here() -> Self {
        if rustix::process::geteuid().is_root() {
            Self::Modified
        } else {
            Self::Changed
        }
    }

    /// The time, in whole seconds.
    #[must_use]
    pub fn of(self, meta: &Metadata) -> SystemTime {
        let since_s = match self {
            Self::Modified => meta.mtime(),
            Self::Changed => meta.ctime(),
        };
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(since_s).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k16_what_was_said_of_a_file_does_not_make_it_older_where_tasks_share_the_account() {
        let file = tempfile::tempfile().unwrap();
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        // Not beyond 2038, which some file systems cannot say.
        for said in [since, SystemTime::now() + Duration::from_secs(1 << 25)] {
            file.set_modified(said).unwrap();
            let meta = file.metadata().unwrap();
            let is = |dated: Dated| dated.of(&meta);
            assert!(is(Dated::Modified).abs_diff(said) < Duration::from_secs(1));
            assert!(is(Dated::Changed).abs_diff(SystemTime::now()) < Duration::from_secs(3600));
        }
        let is_root = rustix::process::geteuid().is_root();
        assert_eq!(Dated::here() == Dated::Modified, is_root);
    }

    trait AbsDiff {
        fn abs_diff(self, other: Self) -> Duration;
    }

    impl AbsDiff for SystemTime {
        fn abs_diff(self, other: Self) -> Duration {
            self.duration_since(other)
                .unwrap_or_else(|later| later.duration())
        }
    }
}
