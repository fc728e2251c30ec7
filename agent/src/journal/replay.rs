//! Reading a journal, and telling a torn end from damage.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;

use outpost_agent_core::mirror::Mirror;

use super::line::Read;
use super::{Header, JournalError, SYNCED, VERSION, io};
use crate::torn::{self, UNSYNCED};

/// Bytes of one line: a burst of 1,024 events, each with an assignment of full size, stays below.
const LINE_BYTES: u64 = 256 * 1024 * 1024;

/// What a replay found.
pub(super) struct Replayed {
    /// Bytes of all good lines.
    pub(super) good: u64,
    /// Of the file's format.
    pub(super) version: u32,
}

/// Applies every good line.
pub(super) fn replay(
    path: &Path,
    file: &File,
    mirror: &mut Mirror,
) -> Result<Replayed, JournalError> {
    let mut reader = BufReader::new(file);
    let mut good = 0;
    let mut version = VERSION;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = std::io::Read::take(&mut reader, LINE_BYTES)
            .read_until(b'\n', &mut line)
            .map_err(io("reading", path))? as u64;
        if read == 0 {
            return Ok(Replayed { good, version });
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
            return if is_torn(good, &line, &behind) {
                Ok(Replayed { good, version })
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
        good += read;
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
