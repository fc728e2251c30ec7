//! What people at the site have approved: so many starts of an entry, until a time, with these parameters or any.
//!
//! Written by `outpost-agent approve`, used up by the runner, one start at a time and before it begins: after a crash in
//! between an approval may be used up for nothing, and is never used twice. A file of the state directory under a lock;
//! nothing of it is reachable from outside.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::files;

const FILE: &str = "approvals.json";
const LOCK: &str = "approvals.lock";
/// Approvals kept at a time.
pub(crate) const MOST: usize = 256;
/// Bytes of the file.
const FILE_BYTES: u64 = 4 << 20;

/// One approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Approval {
    /// Of which entry.
    pub(crate) entry: String,
    /// With these values; others may be any.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, String>,
    /// How many starts are left.
    pub(crate) left: u32,
    /// Until when: microseconds since 1970, by the site's clock.
    pub(crate) until_us: u64,
}

impl Approval {
    fn is_live(&self, now_us: u64) -> bool {
        self.left > 0 && now_us < self.until_us
    }

    fn is_for(&self, entry: &str, parameters: &BTreeMap<String, String>) -> bool {
        let mut named = self.parameters.iter();
        self.entry == entry && named.all(|(name, value)| parameters.get(name) == Some(value))
    }
}

/// The approvals of a site.
#[derive(Debug, Clone)]
pub(crate) struct Approvals(PathBuf);

impl Approvals {
    /// Of this state directory.
    pub(crate) fn of(state: &Path) -> Self {
        Self(state.to_owned())
    }

    fn lock(&self) -> io::Result<File> {
        let lock = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(self.0.join(LOCK))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        Ok(lock)
    }

    fn read(&self) -> io::Result<Vec<Approval>> {
        match files::read_plain(&self.0.join(FILE), FILE_BYTES) {
            Ok(text) => Ok(serde_json::from_str(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Changes what there is; what has ended goes on the way. Answers what is there then.
    fn change<T>(
        &self,
        now_us: u64,
        change: impl FnOnce(&mut Vec<Approval>) -> io::Result<T>,
    ) -> io::Result<T> {
        let _lock = self.lock()?;
        let before = self.read()?;
        let mut after = before.clone();
        after.retain(|approval| approval.is_live(now_us));
        let changed = change(&mut after)?;
        after.retain(|approval| approval.is_live(now_us));
        if after != before {
            files::replace(&self.0.join(FILE), &serde_json::to_vec(&after)?)?;
        }
        Ok(changed)
    }

    /// Those that still hold.
    ///
    /// # Errors
    /// When the file cannot be read, or is none of this form.
    pub(crate) fn list(&self, now_us: u64) -> io::Result<Vec<Approval>> {
        let mut list = self.read()?;
        list.retain(|approval| approval.is_live(now_us));
        Ok(list)
    }

    /// Whether one start would be approved now. Uses nothing up.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub(crate) fn has(
        &self,
        entry: &str,
        parameters: &BTreeMap<String, String>,
        now_us: u64,
    ) -> io::Result<bool> {
        let list = self.list(now_us)?;
        Ok(list
            .iter()
            .any(|approval| approval.is_for(entry, parameters)))
    }

    /// Adds one.
    ///
    /// # Errors
    /// When it cannot be made durable, or there are too many.
    pub(crate) fn add(&self, approval: Approval, now_us: u64) -> io::Result<()> {
        self.change(now_us, |list| {
            if list.len() >= MOST {
                return Err(io::Error::other(format!(
                    "there are {MOST} approvals already"
                )));
            }
            list.push(approval);
            Ok(())
        })
    }

    /// Takes back all of an entry's; how many that were.
    ///
    /// # Errors
    /// When that cannot be made durable.
    pub(crate) fn withdraw(&self, entry: &str, now_us: u64) -> io::Result<usize> {
        self.change(now_us, |list| {
            let before = list.len();
            list.retain(|approval| approval.entry != entry);
            Ok(before - list.len())
        })
    }

    /// Uses one start up, durably, if it is approved: of the approvals that fit, the one that names most parameters, and
    /// of those the one that ends first.
    ///
    /// # Errors
    /// When the file cannot be read or made durable: then nothing is approved.
    pub(crate) fn take(
        &self,
        entry: &str,
        parameters: &BTreeMap<String, String>,
        now_us: u64,
    ) -> io::Result<bool> {
        self.change(now_us, |list| {
            let fits = list
                .iter_mut()
                .filter(|approval| approval.is_for(entry, parameters));
            let rank = |approval: &&mut Approval| {
                (
                    std::cmp::Reverse(approval.parameters.len()),
                    approval.until_us,
                )
            };
            let Some(approval) = fits.min_by_key(rank) else {
                return Ok(false);
            };
            approval.left -= 1;
            Ok(true)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn approval(entry: &str, left: u32, until_us: u64, parameters: &[(&str, &str)]) -> Approval {
        Approval {
            entry: entry.to_owned(),
            parameters: texts(parameters),
            left,
            until_us,
        }
    }

    fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(text).collect()
    }

    #[test]
    fn each_start_uses_one_up_and_time_ends_the_rest() {
        let dir = crate::testing::tempdir().unwrap();
        let approvals = Approvals::of(dir.path());
        let take = |entry: &str, now: u64| approvals.take(entry, &texts(&[]), now).unwrap();
        assert!(!take("a", 1));
        approvals.add(approval("a", 2, 100, &[]), 1).unwrap();
        approvals.add(approval("b", 1, 50, &[]), 1).unwrap();
        assert!(take("a", 2) && take("a", 3));
        assert!(!take("a", 4), "both are used up");
        assert!(!take("b", 50), "its time is over");
        assert_eq!(approvals.list(4).unwrap(), []);
        approvals.add(approval("a", 9, 100, &[]), 5).unwrap();
        assert_eq!(approvals.withdraw("b", 5).unwrap(), 0);
        assert_eq!(approvals.withdraw("a", 5).unwrap(), 1);
        assert!(!take("a", 6));
    }

    #[test]
    fn one_that_names_parameters_is_for_those_and_is_used_first() {
        let dir = crate::testing::tempdir().unwrap();
        let approvals = Approvals::of(dir.path());
        approvals.add(approval("a", 1, 100, &[]), 1).unwrap();
        approvals
            .add(approval("a", 1, 100, &[("day", "1")]), 1)
            .unwrap();
        let take = |day: &str| {
            approvals
                .take("a", &texts(&[("day", day), ("x", "y")]), 2)
                .unwrap()
        };
        let has = |day: &str| approvals.has("a", &texts(&[("day", day)]), 2).unwrap();
        assert!(has("1") && has("2") && !approvals.has("b", &texts(&[]), 2).unwrap());
        assert!(!approvals.has("a", &texts(&[]), 100).unwrap(), "too late");
        assert!(take("1"));
        let left = approvals.list(2).unwrap();
        assert_eq!(left, [approval("a", 1, 100, &[])]);
        assert!(take("2") && !take("1"));
    }

    #[test]
    fn a_file_that_cannot_be_understood_approves_nothing() {
        let dir = crate::testing::tempdir().unwrap();
        let approvals = Approvals::of(dir.path());
        std::fs::write(dir.path().join(FILE), "[{").unwrap();
        assert!(approvals.take("a", &texts(&[]), 1).is_err());
        assert!(approvals.add(approval("a", 1, 100, &[]), 1).is_err());
        for _ in 0..2 {
            // Nothing is lost of what is there.
            assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), b"[{");
        }
    }

    #[test]
    fn there_are_not_more_than_anybody_gives_and_no_link_is_locked() {
        let dir = crate::testing::tempdir().unwrap();
        let approvals = Approvals::of(dir.path());
        let one = approval("a", 1, 100, &[]);
        let full = serde_json::to_vec(&vec![one.clone(); MOST - 1]).unwrap();
        std::fs::write(dir.path().join(FILE), full).unwrap();
        approvals.add(one.clone(), 1).unwrap();
        let why = approvals.add(one.clone(), 1).unwrap_err().to_string();
        assert!(why.contains("approvals already"), "{why}");
        assert_eq!(approvals.list(1).unwrap().len(), MOST);
        std::fs::remove_file(dir.path().join(LOCK)).unwrap();
        let outside = dir.path().join("outside");
        std::os::unix::fs::symlink(&outside, dir.path().join(LOCK)).unwrap();
        assert!(approvals.take("a", &texts(&[]), 1).is_err());
        assert!(!outside.exists());
    }

    #[test]
    fn two_who_take_at_once_get_one_each() {
        let dir = crate::testing::tempdir().unwrap();
        let approvals = Approvals::of(dir.path());
        approvals.add(approval("a", 5, u64::MAX, &[]), 1).unwrap();
        let take = || {
            let approvals = approvals.clone();
            move || {
                (0..4)
                    .filter(|_| approvals.take("a", &texts(&[]), 2).unwrap())
                    .count()
            }
        };
        let threads = [std::thread::spawn(take()), std::thread::spawn(take())];
        let taken = threads.map(|thread| thread.join().unwrap());
        assert_eq!(taken.iter().sum::<usize>(), 5);
    }
}
