//! A task's output on disk: `log.0`, `log.1`, … in the attempt's directory, never more than the cap.
//!
//! The keeper reads the pipe whatever happens here, so that neither the cap nor a full disk ever blocks the task.
//! Within the cap everything is kept, in files of equal size (`log_max_bytes / log_files`), the newest with the highest
//! number. Beyond it the beginning (`log.0`) and the newest files stay and the middle goes: the oldest file after
//! `log.0` is deleted, and one line at the end of `log.0` says how many bytes are left out there. With one file the
//! beginning stays and the rest goes. Bytes are written as they come: no lines, no encoding, no escapes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags};

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
    written: u64,
    sizes: std::collections::VecDeque<u64>,
    received: u64,
    dropped: u64,
    buffer: Vec<u8>,
}

impl Log {
    /// Makes nothing yet: `log.0` comes with the first byte.
    pub(super) fn new(dir: Rc<OwnedFd>, max_bytes: u64, files: u32) -> Self {
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
            sizes: std::collections::VecDeque::new(),
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
            self.head = Some(head);
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
                break;
            }
            let (now, later) =
                bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            self.write(now);
            bytes = later;
        }
        if self.dropped != dropped_before {
            self.note();
        }
    }

    /// How much the current file still takes.
    fn room(&self) -> u64 {
        let reserved = if self.number == 0 { NOTE_BYTES } else { 0 };
        self.file_bytes
            .saturating_sub(reserved)
            .saturating_sub(self.written)
    }

    /// Writes what the disk takes of it; the rest is dropped. The position counts as used either way.
    fn write(&mut self, bytes: &[u8]) {
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
        if self.number == 0 {
            self.head_len = self.written;
        }
        self.dropped += (bytes.len() - done) as u64;
    }

    /// Goes on in the next file; `false` when there is none to go on in.
    fn rotate(&mut self) -> bool {
        if self.files == 1 || self.file_bytes <= NOTE_BYTES {
            return false;
        }
        if self.number > 0 {
            self.sizes.push_back(self.written);
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
                self.current = Some(file);
                self.number = next;
                self.written = 0;
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
mod tests {
    use std::path::Path;

    use super::*;

    fn run(max: u64, files: u32, output: &[u8]) -> (tempfile::TempDir, Log) {
        let dir = tempfile::tempdir().unwrap();
        let opened = crate::socket::open_dir(dir.path()).unwrap();
        let mut log = Log::new(Rc::new(opened), max, files);
        let mut source = output;
        while log.read_from(&mut source).unwrap() > 0 {}
        (dir, log)
    }

    fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
        let mut found: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (
                    entry.file_name().into_string().unwrap(),
                    std::fs::read(entry.path()).unwrap(),
                )
            })
            .collect();
        found.sort_by_key(|(name, _)| name.trim_start_matches("log.").parse::<u32>().unwrap());
        found
    }

    #[test]
    fn within_the_cap_every_byte_is_kept_in_order() {
        let output: Vec<u8> = (0..3500_u32).map(|i| i.to_le_bytes()[0]).collect();
        let (dir, log) = run(4096, 4, &output);
        assert_eq!(log.counts(), (3500, 0));
        let found = files(dir.path());
        assert_eq!(found.len(), 4);
        // log.0 keeps a place for the note.
        assert_eq!(found[0].1.len(), 1024 - 64);
        assert_eq!(
            found
                .into_iter()
                .flat_map(|(_, bytes)| bytes)
                .collect::<Vec<_>>(),
            output
        );
    }

    #[test]
    fn beyond_the_cap_the_beginning_and_the_newest_stay_and_one_line_counts_the_rest() {
        let output: Vec<u8> = (0..500_000_u32)
            .flat_map(|i| format!("{i}\n").into_bytes())
            .collect();
        let (dir, log) = run(8192, 4, &output);
        let found = files(dir.path());
        let total: usize = found.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(total <= 8192, "{total} bytes on disk");
        assert_eq!(found.len(), 4);
        assert_eq!(found[0].0, "log.0");
        let (received, dropped) = log.counts();
        assert_eq!(received, output.len() as u64);
        let (head, note) = found[0].1.split_at(2048 - 64);
        assert!(output.starts_with(head));
        let note = std::str::from_utf8(note).unwrap();
        assert_eq!(
            note.trim(),
            format!("[outpost: {dropped} bytes of output left out here]")
        );
        let tail: Vec<u8> = found[1..]
            .iter()
            .flat_map(|(_, bytes)| bytes.clone())
            .collect();
        assert!(output.ends_with(&tail));
        assert_eq!((head.len() + tail.len()) as u64, received - dropped);
    }

    #[test]
    fn one_file_keeps_the_beginning_and_no_room_keeps_nothing() {
        let (dir, log) = run(1064, 1, &[b'x'; 5000]);
        assert_eq!(log.counts(), (5000, 4000));
        assert_eq!(files(dir.path())[0].1.len(), 1064);
        let (_dir, log) = run(0, 3, &[b'x'; 5000]);
        assert_eq!(log.counts(), (5000, 5000));
    }

    #[test]
    fn two_files_keep_the_beginning_and_the_newest() {
        let (dir, log) = run(4096, 2, &[b'x'; 20_000]);
        let found = files(dir.path());
        assert_eq!(found.len(), 2);
        assert!(found.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() <= 4096);
        let (received, dropped) = log.counts();
        let kept: usize = 2048 - 64 + found[1].1.len();
        assert_eq!(received - dropped, kept as u64);
    }
}
