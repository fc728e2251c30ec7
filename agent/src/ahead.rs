//! Disk space that is taken before it is needed: what must be recorded of work that was begun still fits when somebody
//! else has filled the disk.
//!
//! Journal and ledger keep their files allocated ahead of their ends. The size of a file does not change by it, so that
//! readers see nothing. While the space ahead is less than it should be, the agent takes no new work. Where the file
//! system cannot take any, work is taken all the same, and `check` and the log say so: on a full disk there the agent
//! ends, and tells of its tasks when there is room again.

use std::fs::File;
use std::io;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// Bytes that are taken at once.
const STEP: u64 = 2 << 20;
/// Bytes that are there at any time: an end of each attempt that an agent holds, some hundred bytes each, and hours of
/// heartbeats.
const LEAST: u64 = 1 << 20;

/// What is allocated of one file.
#[derive(Debug)]
pub(crate) struct Ahead {
    /// Up to this offset.
    until: u64,
    /// Whether as much is there as should be. Also where the file system cannot take any.
    enough: bool,
}

impl Ahead {
    /// Takes space behind `end`, the last byte that is written.
    ///
    /// # Errors
    /// When the disk is broken. A full one is no error.
    pub(crate) fn of(file: &File, end: u64) -> io::Result<Self> {
        let mut ahead = Self {
            until: end,
            enough: true,
        };
        ahead.take(file, end)?;
        if !can_take(file)? {
            tracing::warn!("this file system cannot keep space for what is recorded later");
        }
        Ok(ahead)
    }

    /// Takes more once `end` has come near to what is there.
    ///
    /// # Errors
    /// As [`Ahead::of`].
    pub(crate) fn take(&mut self, file: &File, end: u64) -> io::Result<()> {
        if self.until >= end + LEAST {
            return Ok(());
        }
        // From the end on: what is allocated already costs nothing.
        for bytes in [STEP, LEAST] {
            self.enough = allocate(file, end, bytes)? != Taken::NoRoom;
            if self.enough {
                self.until = end + bytes;
                break;
            }
        }
        Ok(())
    }

    /// Whether there is enough.
    pub(crate) fn is_enough(&self) -> bool {
        self.enough
    }
}

/// What became of an attempt to take space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Yes,
    NoRoom,
    /// The file system cannot do it.
    Never,
}

/// Whether space can be taken on this file's file system at all; on a full one that is not known, and it counts as so.
///
/// # Errors
/// When the disk is broken.
pub(crate) fn can_take(file: &File) -> io::Result<bool> {
    Ok(allocate(file, 0, 1)? != Taken::Never)
}

fn allocate(file: &File, from: u64, bytes: u64) -> io::Result<Taken> {
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, from, bytes) {
            Ok(()) => return Ok(Taken::Yes),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(Taken::Never),
            Err(Errno::INTR) => {}
            Err(errno) => {
                let error = io::Error::from(errno);
                return if is_full(&error) {
                    Ok(Taken::NoRoom)
                } else {
                    Err(error)
                };
            }
        }
    }
}

/// Whether there was no room for something.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::StorageFull | K::QuotaExceeded | K::FileTooLarge
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    #[ignore = "needs: root"]
    fn where_no_space_can_be_taken_it_is_known_and_work_goes_on() {
        let dir = crate::testing::tempdir().unwrap();
        let mount = |command: &str, arguments: &[&str]| {
            let mut command = std::process::Command::new(command);
            command.args(arguments).arg(dir.path()).status().unwrap()
        };
        assert!(mount("mount", &["-t", "ramfs", "none"]).success());
        let file = File::create(dir.path().join("file")).unwrap();
        let (ahead, can) = (Ahead::of(&file, 0), can_take(&file));
        drop(file);
        // Another test's child may have it open until its exec.
        assert!(mount("umount", &["-l"]).success());
        assert!(ahead.unwrap().is_enough() && !can.unwrap());
        assert!(can_take(&tempfile::tempfile().unwrap()).unwrap());
    }

    #[test]
    fn what_is_taken_ahead_is_there_and_cannot_be_seen() {
        let file = tempfile::tempfile().unwrap();
        let mut ahead = Ahead::of(&file, 0).unwrap();
        assert!(ahead.is_enough());
        let taken = || file.metadata().unwrap().blocks() * 512;
        assert_eq!(file.metadata().unwrap().len(), 0);
        assert!(taken() >= STEP);
        let before = taken();
        ahead.take(&file, LEAST).unwrap();
        assert_eq!(taken(), before, "there is enough still");
        ahead.take(&file, LEAST + 1).unwrap();
        assert!(taken() > before);
    }
}
