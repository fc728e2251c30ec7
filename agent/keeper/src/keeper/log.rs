//! A task's output on disk: `log.0`, `log.1`, … in the attempt's directory, never more than the cap.
//!
//! The keeper reads the pipe whatever happens here, so that neither the cap nor a full disk ever blocks the task.
//! Within the cap everything is kept, in files of equal size (`log_max_bytes / log_files`), the newest with the highest
//! number. Beyond it the beginning (`log.0`) and the newest files stay and the middle goes: the oldest file after
//! `log.0` is deleted, and one line at the end of `log.0` says how many bytes are left out there. With one file the
//! beginning stays and the rest goes. Bytes are written as they come: no lines, no encoding, no escapes.
//!
//! An encrypted log (`sealed`) has the same files. What is left out of it is not said in a line, because nothing in it is
//! ever written twice: each file says how much output came before it, and the last frame how much was left out in all.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::protocol::StartSpec;
use crate::seal::Frame;

mod sealed;

use sealed::Sealing;

/// How much is read at a time: at first, since most tasks say little and a keeper shall be small, and from a task that
/// has filled that once.
const CHUNK_BYTES: (usize, usize) = (4 * 1024, 64 * 1024);
/// Length of the line that tells what is left out; it has its place from the start.
const NOTE_BYTES: u64 = 64;

/// The writer of one task's output.
#[derive(Debug)]
pub(super) struct Log {
    dir: Rc<OwnedFd>,
    begun: bool,
    file_bytes: u64,
    files: u32,
    /// `log.0`, open for the note; `None` when the disk did not even take that.
    head: Option<File>,
    head_len: u64,
    current: Option<File>,
    number: u32,
    oldest_after_head: u32,
    /// Bytes of the current file that are used, and how many of them are output.
    written: u64,
    kept: u64,
    sizes: std::collections::VecDeque<u64>,
    sealing: Option<Box<Sealing>>,
    /// Bytes of output that were looked at, on disk or not.
    position: u64,
    received: u64,
    dropped: u64,
    buffer: Vec<u8>,
}

impl Log {
    /// Of an attempt. Makes nothing yet: `log.0` comes with the first byte.
    pub(super) fn of(dir: Rc<OwnedFd>, spec: &StartSpec) -> Self {
        let mut log = Self::new(dir, spec.log_max_bytes, spec.log_files);
        log.sealing = Sealing::of(spec).map(Box::new);
        // Asked for and not possible: then nothing is written that could be read.
        if spec.seal.is_some() && log.sealing.is_none() {
            log.file_bytes = 0;
        }
        log
    }

    fn new(dir: Rc<OwnedFd>, max_bytes: u64, files: u32) -> Self {
        let files = files.max(1);
        Self {
            begun: false,
            current: None,
            head: None,
            dir,
            file_bytes: max_bytes / u64::from(files),
            files,
            head_len: 0,
            number: 0,
            oldest_after_head: 1,
            written: 0,
            kept: 0,
            sizes: std::collections::VecDeque::new(),
            sealing: None,
            position: 0,
            received: 0,
            dropped: 0,
            buffer: Vec::new(),
        }
    }

    /// Makes `log.0`. A disk that does not take even that drops what comes.
    fn begin(&mut self) {
        self.begun = true;
        if let Ok(head) = open_new(&self.dir, 0) {
            self.current = head.try_clone().ok();
            if let Some(sealing) = &mut self.sealing {
                sealing.begin(&head, 0, 0);
            }
            self.head = Some(head);
        }
    }

    /// The output is over: an encrypted log says so.
    pub(super) fn close(&mut self) {
        let Some(sealing) = self.sealing.as_mut().filter(|_| self.begun) else {
            return;
        };
        let last = Frame::End {
            received: self.received,
            left_out: self.dropped,
        };
        if !sealing.end(self.current.as_ref(), last) {
            self.dropped += sealing.unwritten();
        }
    }

    /// Bytes received so far, and how many of them are not on disk.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.received, self.dropped)
    }

    /// Takes one chunk from the pipe; `Ok(0)` at its end.
    ///
    /// # Errors
    /// Of the pipe only (`WouldBlock` when it is empty); the disk's are counted, not returned.
    pub(super) fn read_from(&mut self, pipe: &mut impl Read) -> io::Result<usize> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(buffer.len().max(CHUNK_BYTES.0), 0);
        let read = pipe.read(&mut buffer);
        if let Ok(len) = read {
            self.append(buffer.get(..len).unwrap_or_default());
            if len == buffer.len() {
                buffer.resize(CHUNK_BYTES.1, 0);
            }
        }
        self.buffer = buffer;
        read
    }

    fn append(&mut self, mut bytes: &[u8]) {
        if !self.begun && !bytes.is_empty() {
            self.begin();
        }
        self.received += bytes.len() as u64;
        let dropped_before = self.dropped;
        while !bytes.is_empty() {
            let room = self.room();
            if room == 0 {
                if self.rotate() {
                    continue;
                }
                self.dropped += bytes.len() as u64;
                self.position += bytes.len() as u64;
                break;
            }
            let (now, later) =
                bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            self.write(now);
            self.position += now.len() as u64;
            bytes = later;
        }
        if self.dropped != dropped_before && self.sealing.is_none() {
            self.note();
        }
    }

    /// How much the current file still takes.
    fn room(&self) -> u64 {
        if let Some(sealing) = &self.sealing {
            return Sealing::room(self.file_bytes, sealing.used());
        }
        let reserved = if self.number == 0 { NOTE_BYTES } else { 0 };
        self.file_bytes
            .saturating_sub(reserved)
            .saturating_sub(self.written)
    }

    /// Writes what the disk takes of it; the rest is dropped. The position counts as used either way.
    fn write(&mut self, bytes: &[u8]) {
        if let Some(sealing) = &mut self.sealing {
            let length = bytes.len() as u64;
            if sealing.write(self.current.as_ref(), bytes) {
                self.kept += length;
            } else {
                self.dropped += length;
            }
            return;
        }
        let mut done = 0;
        while let (Some(file), Some(rest)) = (
            &self.current,
            bytes.get(done..).filter(|rest| !rest.is_empty()),
        ) {
            match file.write_at(rest, self.written + done as u64) {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.written += done as u64;
        self.kept += done as u64;
        if self.number == 0 {
            self.head_len = self.written;
        }
        self.dropped += (bytes.len() - done) as u64;
    }

    /// Goes on in the next file; `false` when there is none to go on in.
    fn rotate(&mut self) -> bool {
        if self.files == 1 || self.file_bytes <= NOTE_BYTES || !self.takes_another() {
            return false;
        }
        if self.number > 0 {
            self.sizes.push_back(self.kept);
        }
        let next = self.number + 1;
        // One place is log.0's, one the new file's.
        while self.sizes.len() as u64 + 2 > u64::from(self.files) {
            let Some(size) = self.sizes.pop_front() else {
                // Two files: log.0 and the newest, which has just been counted away.
                break;
            };
            self.remove_oldest(size);
        }
        match open_new(&self.dir, next) {
            Ok(file) => {
                self.number = next;
                self.written = 0;
                self.kept = 0;
                if let Some(sealing) = &mut self.sealing {
                    sealing.begin(&file, next, self.position);
                }
                self.current = Some(file);
                true
            }
            Err(_) => {
                if self.number > 0 {
                    self.sizes.pop_back();
                }
                false
            }
        }
    }

    /// Ends an encrypted file, if another one may follow it.
    fn takes_another(&mut self) -> bool {
        let Some(sealing) = &mut self.sealing else {
            return true;
        };
        // A file too small for anything is followed by others like it.
        Sealing::room(self.file_bytes, 0) > 0
            && sealing.end(self.current.as_ref(), Frame::Continues)
    }

    fn remove_oldest(&mut self, size: u64) {
        let _ = rustix::fs::unlinkat(&self.dir, name(self.oldest_after_head), AtFlags::empty());
        self.oldest_after_head += 1;
        self.dropped += size;
    }

    /// Says at the end of `log.0` how much is left out; the number is renewed in its place.
    fn note(&self) {
        let Some(head) = &self.head else {
            return;
        };
        let text = format!(
            "\n[outpost: {} bytes of output left out here]",
            self.dropped
        );
        let width = usize::try_from(NOTE_BYTES - 1).unwrap_or(0);
        let _ = head.write_all_at(format!("{text:<width$}\n").as_bytes(), self.head_len);
    }
}

fn name(number: u32) -> String {
    format!("log.{number}")
}

/// A new file of mode 0600, whatever lies in the way under its name.
fn open_new(dir: &OwnedFd, number: u32) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let _ = rustix::fs::unlinkat(dir.as_fd(), name(number), AtFlags::empty());
    Ok(File::from(rustix::fs::openat(
        dir.as_fd(),
        name(number),
        flags,
        Mode::RUSR | Mode::WUSR,
    )?))
}

#[cfg(test)]
#[path = "log/tests.rs"]
mod tests;
