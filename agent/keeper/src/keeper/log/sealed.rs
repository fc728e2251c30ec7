//! The frames of an encrypted log, on their way to the disk.
//!
//! Each piece of output is a frame of its own and goes to the disk at once: nothing waits here for more of it, so that a
//! log can be followed and a killed keeper loses nothing that it had read. What the disk does not take waits here as it
//! is, and is written again at the same place; until then what comes is left out and counted, as without encryption.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::protocol::StartSpec;
use crate::seal::{Frame, HEADER_BYTES, OVERHEAD_BYTES, SealSpec, Sealer};

/// What stays free for the end of a file: its last frame, and one that tells what was left out before it.
const RESERVED: u64 = (2 * OVERHEAD_BYTES + 16 + 8) as u64;

/// The frames of one attempt's log.
#[derive(Debug)]
pub(super) struct Sealing {
    spec: SealSpec,
    attempt: [u8; 16],
    sealer: Option<Sealer>,
    /// Made and not written, or not all of it.
    pending: Vec<u8>,
    /// How much of that is on the disk, and where in the file it begins.
    done: usize,
    at: u64,
    /// Bytes of output in it.
    content: u64,
    /// Output that was left out since the last frame.
    owed: u64,
    /// Bytes of the file that are used.
    used: u64,
    /// Whether its last frame was made.
    has_last: bool,
}

impl Sealing {
    /// For an attempt whose log shall be encrypted.
    pub(super) fn of(spec: &StartSpec) -> Option<Self> {
        let attempt = u128::from_str_radix(&spec.attempt, 16).ok()?;
        Some(Self::with(spec.seal.clone()?, attempt.to_be_bytes()))
    }

    pub(super) fn with(spec: SealSpec, attempt: [u8; 16]) -> Self {
        Self {
            spec,
            attempt,
            sealer: None,
            pending: Vec::new(),
            done: 0,
            at: 0,
            content: 0,
            owed: 0,
            used: 0,
            has_last: false,
        }
    }

    /// How much output a file takes of which so much is used.
    pub(super) fn room(file_bytes: u64, used: u64) -> u64 {
        let used = used.max(HEADER_BYTES as u64);
        file_bytes.saturating_sub(used + RESERVED + OVERHEAD_BYTES as u64)
    }

    /// Begins a file; `position`: how much output came before it.
    pub(super) fn begin(&mut self, file: &File, number: u32, position: u64) {
        let header = self
            .spec
            .log_header(self.attempt, u64::from(number), position);
        (self.pending, self.done, self.at) = (Vec::new(), 0, 0);
        (self.content, self.owed) = (0, 0);
        self.used = HEADER_BYTES as u64;
        self.has_last = false;
        self.sealer = None;
        if let Ok((sealer, bytes)) = Sealer::begin(&header, &self.spec.key) {
            self.sealer = Some(sealer);
            self.pending.extend_from_slice(&bytes);
            self.flush(Some(file));
        }
    }

    /// How many bytes of the file are used.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Takes output; answers whether it was taken.
    pub(super) fn write(&mut self, file: Option<&File>, bytes: &[u8]) -> bool {
        let length = bytes.len() as u64;
        let takes = self.settle(file) && !self.has_last && self.make(Frame::Bytes(bytes));
        if takes {
            self.content = length;
            self.flush(file);
        } else {
            self.owed += length;
        }
        takes
    }

    /// Ends a file with its last frame; answers whether all of it is on the disk.
    pub(super) fn end(&mut self, file: Option<&File>, last: Frame<'_>) -> bool {
        // What is left out before the very last frame is told by that.
        let settled = match last {
            Frame::End { .. } => self.flush(file),
            Frame::Bytes(_) | Frame::LeftOut(_) | Frame::Attributes(_) | Frame::Continues => {
                self.settle(file)
            }
        };
        if settled && !self.has_last {
            self.has_last = self.make(last);
        }
        settled && self.has_last && self.flush(file)
    }

    /// Writes what is pending, and says what was left out; answers whether nothing of that is to be done any more.
    fn settle(&mut self, file: Option<&File>) -> bool {
        if self.flush(file) && self.owed > 0 && !self.has_last {
            let owed = std::mem::take(&mut self.owed);
            self.make(Frame::LeftOut(owed));
        }
        self.flush(file)
    }

    /// Bytes of output that were taken and are not on the disk.
    pub(super) fn unwritten(&self) -> u64 {
        self.content
    }

    /// Makes a frame that is written next; nothing is pending.
    fn make(&mut self, frame: Frame<'_>) -> bool {
        (self.done, self.at) = (0, self.used);
        self.pending.clear();
        let made = self
            .sealer
            .as_mut()
            .map(|sealer| sealer.frame(frame, &mut self.pending));
        if !matches!(made, Some(Ok(()))) {
            self.pending.clear();
            // A frame that was begun has its number.
            self.sealer = None;
        }
        self.used += self.pending.len() as u64;
        !self.pending.is_empty()
    }

    /// Writes what is pending; answers whether nothing is any more.
    fn flush(&mut self, file: Option<&File>) -> bool {
        let (Some(file), Some(_)) = (file, &self.sealer) else {
            return false;
        };
        while let Some(rest) = self.pending.get(self.done..)
            && !rest.is_empty()
        {
            match file.write_at(rest, self.at + self.done as u64) {
                Ok(length) if length > 0 => self.done += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return false,
            }
        }
        self.pending.clear();
        (self.done, self.content) = (0, 0);
        true
    }
}
