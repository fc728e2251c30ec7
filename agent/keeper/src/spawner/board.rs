//! Which attempt each keeper holds: one fixed place per keeper in a file that exists in memory only.
//!
//! A keeper writes its place when it takes an attempt, and nobody is woken by that; the spawner reads it when the
//! keeper has died and its tree may be left.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

use rustix::fs::MemfdFlags;

use crate::protocol::{MAX_KEEPERS, is_attempt_id};

const PLACE_BYTES: u64 = 32;

/// The spawner's side.
#[derive(Debug)]
pub(super) struct Board {
    file: File,
    free: Vec<u32>,
    used: u32,
}

/// A keeper's side.
#[derive(Debug)]
pub(crate) struct Place {
    file: File,
    number: u32,
}

impl Board {
    pub(super) fn new() -> io::Result<Self> {
        let fd: OwnedFd = rustix::fs::memfd_create(c"outpost-keepers", MemfdFlags::CLOEXEC)?;
        Ok(Self {
            file: File::from(fd),
            free: Vec::new(),
            used: 0,
        })
    }

    /// A free place; `None` when there are as many keepers as may be.
    pub(super) fn take(&mut self) -> Option<u32> {
        let most = u32::try_from(MAX_KEEPERS).unwrap_or(u32::MAX);
        self.free.pop().or_else(|| {
            (self.used < most).then(|| {
                self.used += 1;
                self.used - 1
            })
        })
    }

    /// What a keeper inherits.
    pub(super) fn place(&self, number: u32) -> io::Result<Place> {
        Ok(Place {
            file: self.file.try_clone()?,
            number,
        })
    }

    /// The attempt that the keeper of this place held last, and the place back.
    pub(super) fn leave(&mut self, number: u32) -> Option<String> {
        self.free.push(number);
        let mut bytes = [0; PLACE_BYTES as usize];
        let at = u64::from(number) * PLACE_BYTES;
        let read = self.file.read_exact_at(&mut bytes, at);
        let wiped = self.file.write_all_at(&[0; PLACE_BYTES as usize], at);
        read.and(wiped).ok()?;
        let attempt = std::str::from_utf8(&bytes).ok()?;
        is_attempt_id(attempt).then(|| attempt.to_owned())
    }
}

impl Place {
    /// This keeper holds this attempt from now on.
    pub(crate) fn hold(&self, attempt: &str) {
        let at = u64::from(self.number) * PLACE_BYTES;
        // What fails here costs the spawner's help after a death, which the runner gives too.
        let _ = self.file.write_all_at(attempt.as_bytes(), at);
    }
}

impl AsRawFd for Place {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_says_what_was_held_last_and_is_given_again_empty() {
        let mut board = Board::new().unwrap();
        let number = board.take().unwrap();
        let place = board.place(number).unwrap();
        let (one, two) = ("1".repeat(32), "2".repeat(32));
        place.hold(&one);
        place.hold(&two);
        assert_eq!(board.leave(number), Some(two));
        assert_eq!(board.take(), Some(number));
        assert_eq!(board.leave(number), None);
    }
}
