//! Reading a journal, and telling a torn end from damage.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;

use outpost_agent_core::mirror::Mirror;

use super::line::Read;
use super::{Header, JournalError, SYNCED, VERSION, io};
use crate::torn::{self, UNSYNCED};

/// Bytes of one line: a burst that takes as many parameters as an agent holds, each of their bytes written as six, stays
/// below.
const LINE_BYTES: u64 = 512 * 1024 * 1024;

/// What a replay found.
pub(super) struct Replayed {
    /// Bytes of all good lines.
    pub(super) good: u64,
    /// Of the file's format.
    pub(super) version: u32,
    /// Where the first line begins of which something may not be on the disk, even when a sync has failed.
    pub(super) tail: u64,
}

/// Applies every good line.
pub(super) fn replay(
    path: &Path,
    file: &File,
    mirror: &mut Mirror,
) -> Result<Replayed, JournalError> {
    replay_within(LINE_BYTES, path, file, mirror)
}

/// As [`replay`], where no line has so many bytes.
pub(super) fn replay_within(
    most: u64,
    path: &Path,
    file: &File,
    mirror: &mut Mirror,
) -> Result<Replayed, JournalError> {
    let mut reader = BufReader::new(file);
    let mut good = 0;
    let mut version = VERSION;
    let mut line = Vec::new();
    let mut tail = Tail::default();
    loop {
        line.clear();
        let read = std::io::Read::take(&mut reader, most)
            .read_until(b'\n', &mut line)
            .map_err(io("reading", path))? as u64;
        if read == 0 {
            return Ok(tail.of(good, version));
        }
        let damaged = || JournalError::Damaged {
            path: path.to_owned(),
            offset: good,
        };
        let Some(json) = checked(&line) else {
            let mut behind = Vec::new();
            reader
                .read_to_end(&mut behind)
                .map_err(io("reading", path))?;
            return if read < most && is_torn(good, &line, &behind) {
                Ok(tail.of(good, version))
            } else {
                Err(damaged())
            };
        };
        if good == 0 {
            let header = serde_json::from_slice::<Header>(json).map_err(|_| damaged())?;
            if header.outpost_journal > VERSION {
                return Err(JournalError::Newer {
                    path: path.to_owned(),
                    found: header.outpost_journal,
                });
            }
            version = header.outpost_journal;
        } else {
            let reads = serde_json::from_slice::<Vec<Read>>(json).map_err(|_| damaged())?;
            for read in reads {
                let write = read.write(mirror).ok_or_else(damaged)?;
                mirror.apply(&write);
            }
        }
        tail.line(good, read);
        good += read;
    }
}

/// Where the last lines begin: as many as may be unsynced together, and the one before them.
#[derive(Debug, Default)]
struct Tail(VecDeque<u64>);

impl Tail {
    fn line(&mut self, begins: u64, bytes: u64) {
        self.0.push_back(begins);
        let unsynced_from = (begins + bytes).saturating_sub(UNSYNCED);
        while self.0.get(1).is_some_and(|next| *next <= unsynced_from) {
            self.0.pop_front();
        }
    }

    fn of(&self, good: u64, version: u32) -> Replayed {
        Replayed {
            good,
            version,
            tail: self.0.front().copied().unwrap_or(good),
        }
    }
}

/// Whether a bad line is what a power cut leaves of lines that were not synced: it has no end, or a hole, and nothing
/// behind it says that it was synced. Anything else is damage.
fn is_torn(offset: u64, line: &[u8], behind: &[u8]) -> bool {
    if !line.ends_with(b"\n") {
        return true;
    }
    let behind = torn::without_zeros_behind(behind);
    let was_synced = || {
        let lines = behind.split_inclusive(|byte| *byte == b'\n');
        let mut lines = std::iter::once(line).chain(lines).map(behind_holes);
        lines.any(|line| checked(line) == Some(SYNCED))
    };
    torn::has_hole(offset, line) && behind.len() as u64 <= UNSYNCED && !was_synced()
}

/// The line that follows the holes in what reads as one line with them.
fn behind_holes(line: &[u8]) -> &[u8] {
    let hole_ends = line.iter().rposition(|byte| *byte == 0);
    hole_ends.map_or(line, |at| &line[at + 1..])
}

/// The JSON of a whole line whose checksum is right.
fn checked(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n")?;
    let (checksum, json) = line.split_at_checked(9)?;
    let expected = format!("{:08x} ", crc32fast::hash(json));
    (checksum == expected.as_bytes()).then_some(json)
}
