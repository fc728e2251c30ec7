//! The directories that a keeper makes: the attempt's own, and the task's working directory where the site names none.
//!
//! A working directory that a task left empty becomes the next task's under a new name: making and deleting thousands
//! of directories a minute is what file systems are slowest at.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid};

use crate::protocol::StartSpec;

/// Makes an attempt's directory, or opens the one that is there; whether it was made now.
pub(super) fn make_attempt(dir: &Path) -> io::Result<(OwnedFd, bool)> {
    let is_new = make(dir)?;
    Ok((crate::socket::open_dir(dir)?, is_new))
}

fn make(dir: &Path) -> io::Result<bool> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// The working directory of the present task, and what is known of the last one's.
#[derive(Debug, Default)]
pub(super) struct Workdir {
    /// One that belongs to the agent's own account.
    last: Option<PathBuf>,
}

impl Workdir {
    /// Makes the working directory that a spec asks for. Never follows a link.
    pub(super) fn make(&mut self, spec: &StartSpec) -> io::Result<()> {
        if !spec.make_cwd {
            return Ok(());
        }
        let last = self.last.take();
        if spec.user.is_none() {
            self.last = Some(spec.cwd.clone());
            if last.is_some_and(|last| rename(&last, &spec.cwd)) {
                return Ok(());
            }
        }
        make(&spec.cwd)?;
        let opened = open(&spec.cwd)?;
        if let Some(user) = &spec.user {
            rustix::fs::fchown(
                &opened,
                Some(Uid::from_raw(user.uid)),
                Some(Gid::from_raw(user.gid)),
            )?;
        }
        Ok(rustix::fs::fchmod(&opened, Mode::RWXU)?)
    }
}

fn open(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, Mode::empty())?)
}

/// Gives an empty directory another name; `false` when it is not empty, or not there any more.
fn rename(from: &Path, to: &Path) -> bool {
    let Ok(opened) = open(from) else {
        return false;
    };
    is_empty(opened.as_fd())
        && rustix::fs::fchmod(&opened, Mode::RWXU).is_ok()
        && rustix::fs::rename(from, to).is_ok()
}

fn is_empty(dir: BorrowedFd<'_>) -> bool {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 512];
    let mut entries = rustix::fs::RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let is_name = entry.map(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."));
        if !matches!(is_name, Ok(false)) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_directory_is_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        make(&path("a")).unwrap();
        assert!(rename(&path("a"), &path("b")));
        assert!(!path("a").exists());
        std::fs::write(path("b").join("left"), "").unwrap();
        assert!(!rename(&path("b"), &path("c")));
        assert!(!rename(&path("never"), &path("c")));
        std::os::unix::fs::symlink(path("b"), path("link")).unwrap();
        assert!(!rename(&path("link"), &path("c")));
        assert!(!path("c").exists());
    }
}
