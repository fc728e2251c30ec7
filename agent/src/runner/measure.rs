//! How much of the disk a run takes: a look at a tree of which tasks made what they wanted, however deep or wide.
//!
//! One directory is open at a time and no call is made within another one of its kind, so that depth costs neither
//! descriptors nor stack. The way up is checked: a tree that is moved meanwhile is not followed to elsewhere. Changes
//! nothing; called by retention, beside the loop.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::beneath;

/// Files and directories that are looked at: a second or two.
const ENTRIES: usize = 1_000_000;
/// Directories whose turn is still to come, with their names.
const PENDING: usize = 100_000;
/// Bytes of what the file system counts in.
const BLOCK_BYTES: u64 = 512;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Bytes that the files of a run take on disk, as far as they can be seen; what could not be is said in the log.
pub(super) fn of_run(dir: &Path) -> u64 {
    match measure(dir, ENTRIES) {
        Ok(measured) => {
            if let Some(why) = measured.not_all {
                tracing::warn!("{} is not measured as a whole: {why}", dir.display());
            }
            measured.bytes
        }
        // It went meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => {
            tracing::warn!("{} cannot be measured: {error}", dir.display());
            0
        }
    }
}

/// What was seen of a tree.
#[derive(Debug, Default, PartialEq, Eq)]
struct Measured {
    bytes: u64,
    /// Why that is not all, the last of the reasons.
    not_all: Option<&'static str>,
}

/// A directory on the way down: which one it is, and what of it is still to be gone into.
struct Level {
    id: (u64, u64),
    pending: Vec<CString>,
}

struct Measuring {
    measured: Measured,
    entries: usize,
    pending: usize,
}

fn measure(root: &Path, entries: usize) -> io::Result<Measured> {
    let mut measuring = Measuring {
        measured: Measured::default(),
        entries,
        pending: PENDING,
    };
    let mut dir = beneath::open_dir(root)?;
    let mut below = measuring.list(&dir)?;
    let mut above = Vec::new();
    loop {
        if let Some(name) = below.pop() {
            measuring.pending += 1;
            match enter(&dir, &name) {
                Ok(next) => {
                    let pending = std::mem::replace(&mut below, measuring.list(&next)?);
                    let id = id_of(&dir)?;
                    above.push(Level { id, pending });
                    dir = next;
                }
                Err(Errno::NOENT) => {}
                Err(_) => measuring.misses("some of its directories cannot be opened"),
            }
        } else {
            let Some(level) = above.pop() else {
                return Ok(measuring.measured);
            };
            let up = rustix::fs::openat(&dir, c"..", DIRECTORY, Mode::empty())?;
            if id_of(&up)? != level.id {
                measuring.misses("it was moved meanwhile");
                return Ok(measuring.measured);
            }
            (dir, below) = (up, level.pending);
        }
    }
}

impl Measuring {
    /// Counts what is in a directory; answers the directories in it.
    fn list(&mut self, dir: &OwnedFd) -> io::Result<Vec<CString>> {
        let mut below = Vec::new();
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Some(left) = self.entries.checked_sub(1) else {
                self.misses("it has more files than are looked at");
                break;
            };
            self.entries = left;
            let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            // Holes take nothing.
            let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
            let bytes = blocks.saturating_mul(BLOCK_BYTES);
            self.measured.bytes = self.measured.bytes.saturating_add(bytes);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                match self.pending.checked_sub(1) {
                    Some(left) => {
                        self.pending = left;
                        below.push(name.to_owned());
                    }
                    None => self.misses("it has more directories than are gone into"),
                }
            }
        }
        Ok(below)
    }

    fn misses(&mut self, why: &'static str) {
        self.measured.not_all = Some(why);
    }
}

/// Opens a directory from which there is a way back.
fn enter(dir: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let next = rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())?;
    rustix::fs::openat(&next, c"..", OFlags::PATH | DIRECTORY, Mode::empty())?;
    Ok(next)
}

fn id_of(dir: &OwnedFd) -> io::Result<(u64, u64)> {
    let Stat { st_dev, st_ino, .. } = rustix::fs::fstat(dir)?;
    Ok((st_dev, st_ino))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    /// Directories below each other, a file of one block or more in the last.
    fn deep(root: &Path, depth: usize) {
        let mut at = beneath::open_dir(root).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let file = rustix::fs::openat(&at, "file", flags, Mode::RWXU).unwrap();
        rustix::io::write(&file, &[7; 1 << 20][..]).unwrap();
        rustix::fs::fsync(&file).unwrap();
    }

    #[test]
    fn k11_what_lies_deeper_than_any_stack_or_number_of_descriptors_is_measured() {
        let dir = crate::testing::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap().join("run");
        std::fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink("/", root.join("link")).unwrap();
        deep(&root, 20_000);
        // A thread with next to no stack.
        let at = root.clone();
        let measured = std::thread::Builder::new()
            .stack_size(64 * 1024)
            .spawn(move || measure(&at, ENTRIES).unwrap());
        let measured = measured.unwrap().join().unwrap();
        assert_eq!(measured.not_all, None);
        assert!(measured.bytes >= 1 << 20, "{measured:?}");
        assert!(measured.bytes < 512 << 20, "the link was followed");
        beneath::raze(&root).unwrap();
    }

    #[test]
    fn k11_more_files_than_are_looked_at_take_bounded_time_and_that_is_said() {
        let dir = crate::testing::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for n in 0..50 {
            std::fs::create_dir(root.join(format!("d{n}"))).unwrap();
            std::fs::write(root.join(format!("d{n}/f")), "x").unwrap();
        }
        let all = measure(&root, 100).unwrap();
        assert_eq!(all.not_all, None);
        let some = measure(&root, 99).unwrap();
        assert!(some.not_all.unwrap().contains("more files"), "{some:?}");
        assert!(some.bytes <= all.bytes);
        let blocks = root.join("d0/f").metadata().unwrap().blocks();
        assert!(all.bytes >= 50 * blocks * 512);
    }

    #[test]
    fn k11_what_goes_while_it_is_looked_at_takes_nothing_from_the_rest() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let dir = crate::testing::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::write(root.join("file"), vec![7; 1 << 16]).unwrap();
        let over = AtomicBool::new(false);
        let measured: Vec<_> = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::fs::create_dir_all(root.join("a/b/c")).unwrap();
                    std::fs::remove_dir_all(root.join("a")).unwrap();
                }
            });
            let measured = (0..2000).map(|_| measure(&root, 100)).collect();
            over.store(true, Ordering::Relaxed);
            measured
        });
        for measured in measured {
            assert!(measured.unwrap().bytes >= 1 << 16);
        }
    }

    #[test]
    fn k11_a_directory_without_a_way_in_or_back_is_said_and_the_others_are_measured() {
        if rustix::process::geteuid().is_root() {
            return;
        }
        let dir = crate::testing::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let closed = root.join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::write(root.join("file"), vec![7; 1 << 16]).unwrap();
        for mode in [0o000, 0o400, 0o100] {
            let mode = Mode::from_raw_mode(mode);
            rustix::fs::chmod(&closed, mode).unwrap();
            let measured = measure(&root, 100).unwrap();
            assert!(measured.not_all.is_some(), "{mode:?}");
            assert!(measured.bytes >= 1 << 16, "{measured:?}");
        }
        rustix::fs::chmod(&closed, Mode::RWXU).unwrap();
    }
}
