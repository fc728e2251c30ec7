//! Every file below a directory that tasks wrote, reached from one opened directory to the next and never through a link:
//! whatever a process that outlived its task puts in the way, nothing outside is touched.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

/// Directories below each other that are gone into: each costs a descriptor, and a piece of the stack.
pub(super) const DEPTH: usize = 64;
/// Files and directories that are looked at: some hundred bytes each of the names of one directory, and seconds.
const ENTRIES: usize = 1_000_000;
/// The same, as many as a test can make.
pub(super) const MOST: usize = if cfg!(test) { 5_000 } else { ENTRIES };

/// What was not gone into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Walked {
    /// Directories that were too deep, or could not be opened.
    pub(super) closed: u64,
    /// Whether there was more than is looked at.
    pub(super) too_many: bool,
}

/// A file that was found.
pub(super) struct Found<'a> {
    /// The directory that it is in.
    pub(super) dir: BorrowedFd<'a>,
    /// Its name there.
    pub(super) name: &'a CStr,
    /// Its path from where the walk began.
    pub(super) path: &'a [u8],
    /// What it was when it was listed.
    pub(super) kind: FileType,
}

/// Opens a directory, never through a link.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Shows every file below, those of one directory in order of name, with what is below a directory in its place.
///
/// # Errors
/// The first one of `act`, or of the first directory.
pub(super) fn files(
    root: &Path,
    act: &mut dyn FnMut(&Found<'_>) -> io::Result<()>,
) -> io::Result<Walked> {
    let dir = open(root)?;
    let mut walk = Walk {
        walked: Walked::default(),
        left: MOST,
        act,
    };
    walk.below(dir.as_fd(), &[], DEPTH)?;
    Ok(walk.walked)
}

struct Walk<'a> {
    walked: Walked,
    /// How much more is looked at.
    left: usize,
    act: &'a mut dyn FnMut(&Found<'_>) -> io::Result<()>,
}

impl Walk<'_> {
    fn below(&mut self, dir: BorrowedFd<'_>, above: &[u8], depth: usize) -> io::Result<()> {
        // All names first: what is done to the files changes the directory.
        for (name, kind) in self.names(dir)? {
            let mut path = above.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            if kind == FileType::Directory {
                match depth.checked_sub(1).map(|left| (left, open_at(dir, &name))) {
                    Some((left, Ok(next))) => self.below(next.as_fd(), &path, left)?,
                    Some((_, Err(_))) | None => self.walked.closed += 1,
                }
            } else {
                (self.act)(&Found {
                    dir,
                    name: &name,
                    path: &path,
                    kind,
                })?;
            }
        }
        Ok(())
    }

    fn names(&mut self, dir: BorrowedFd<'_>) -> io::Result<Vec<(CString, FileType)>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Some(left) = self.left.checked_sub(1) else {
                self.walked.too_many = true;
                break;
            };
            self.left = left;
            // Some file systems do not say it in their lists.
            let kind = if entry.file_type() == FileType::Unknown {
                kind_of(dir, name)?
            } else {
                entry.file_type()
            };
            names.push((name.to_owned(), kind));
        }
        names.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        Ok(names)
    }
}

fn open_at(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

fn kind_of(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<FileType> {
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    let stat = rustix::fs::statat(dir, name, flags)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Between the look at a directory and going into it a task that outlived its end may put a link in its place.
    #[test]
    fn a_link_is_neither_gone_into_nor_taken_for_what_it_leads_to() {
        let dir = crate::testing::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let opened = open(dir.path()).unwrap();
        assert!(open_at(opened.as_fd(), c"real").is_ok());
        assert!(open_at(opened.as_fd(), c"link").is_err());
        assert!(open(&dir.path().join("link")).is_err());
        let kind = |name| kind_of(opened.as_fd(), name).unwrap();
        assert_eq!(kind(c"real"), FileType::Directory);
        assert_eq!(kind(c"link"), FileType::Symlink);
    }
}
