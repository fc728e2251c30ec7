//! A directory with a blank draft in it, made by a keeper that has nothing to do for an attempt that is not known yet:
//! then all that is left to do for that one is to name it.
//!
//! Its name is the keeper's and no attempt's, so that nobody takes it for one. A keeper that ends takes it away; what a
//! killed one leaves goes when a runner starts. Somebody who takes it away earlier costs the time of making another.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags};
use rustix::io::Errno;

use crate::claim::Draft;
use crate::process::ProcessRef;

use super::workdir;

/// One that waits.
#[derive(Debug)]
pub(super) struct Spare {
    path: PathBuf,
    dir: OwnedFd,
    draft: Draft,
}

/// What became of a try to use one.
#[derive(Debug)]
pub(super) enum Used {
    /// It is the attempt's directory now.
    Here(OwnedFd, Draft),
    /// The attempt has a directory already; this one waits for another.
    NotNeeded(Spare),
    /// It is gone, or cannot be used.
    Not,
}

impl Spare {
    /// Makes one beside an attempt's directory.
    pub(super) fn make(attempt: &Path, keeper: ProcessRef) -> io::Result<Self> {
        let path = workdir::spare_beside(attempt, keeper);
        let (dir, is_new) = workdir::make_attempt(&path)?;
        if !is_new {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        match Draft::blank(dir.as_fd(), keeper.pid) {
            Ok(draft) => Ok(Self { path, dir, draft }),
            Err(error) => {
                remove_empty(&path);
                Err(error)
            }
        }
    }

    /// Makes it the directory of an attempt that has none.
    pub(super) fn become_one(self, attempt: &Path) -> Used {
        let beside = self.path.parent() == attempt.parent();
        let named = beside.then(|| {
            rustix::fs::renameat_with(CWD, &self.path, CWD, attempt, RenameFlags::NOREPLACE)
        });
        match named {
            Some(Ok(())) => Used::Here(self.dir, self.draft),
            Some(Err(Errno::EXIST)) => Used::NotNeeded(self),
            // Also a file system that cannot rename so: there is none the next time.
            Some(Err(_)) | None => {
                self.remove();
                Used::Not
            }
        }
    }

    /// Takes it away.
    pub(super) fn remove(self) {
        self.draft.discard(self.dir.as_fd());
        remove_empty(&self.path);
    }
}

/// What stays goes when a runner starts.
fn remove_empty(path: &Path) {
    let _ = rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> ProcessRef {
        ProcessRef::own().unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap().flatten();
        entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn it_becomes_the_directory_of_an_attempt_that_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let spare = Spare::make(&path("before"), own()).unwrap();
        assert!(Spare::make(&path("before"), own()).is_err(), "there is one");
        std::fs::create_dir(path("taken")).unwrap();
        let Used::NotNeeded(spare) = spare.become_one(&path("taken")) else {
            panic!("it has a directory");
        };
        let Used::Here(..) = spare.become_one(&path("new")) else {
            panic!("it has none");
        };
        assert_eq!(
            names(&path("new")),
            [format!("claim.{}", std::process::id())]
        );
        assert_eq!(names(&path("taken")), [""; 0]);
        assert_eq!(names(dir.path()).len(), 2);
    }

    #[test]
    fn one_that_was_taken_away_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let attempt = dir.path().join("attempt");
        let spare = Spare::make(&attempt, own()).unwrap();
        std::fs::remove_dir_all(&spare.path).unwrap();
        assert!(matches!(spare.become_one(&attempt), Used::Not));
        let spare = Spare::make(&attempt, own()).unwrap();
        spare.remove();
        assert_eq!(names(dir.path()), [""; 0]);
        assert!(!attempt.exists());
    }
}
