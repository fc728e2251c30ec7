//! Reading and checking, in constant memory: one record at a time.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::bounds::{self, SEGMENT_MOST};
use super::damage::{Damage, diagnose};
use super::pruned::read_pruned;
use super::tear::{MOST, Seen};
use super::{
    HEAD_BYTES, HEADER_BYTES, HEADER_CRC_AT, Head, Kind, LedgerError, MAGIC, PAYLOAD_BYTES, chain,
    io, segment_path, segments,
};

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Microseconds since 1970 by the site's clock; 0 for a segment's start.
    pub wall_us: u64,
    /// The agent's number of the connection.
    pub conn: u64,
    /// As sent, or as the kind says.
    pub payload: Vec<u8>,
    /// Head of the chain over all records up to this one.
    pub head: Head,
}

/// Walks one segment, checking every record against the chain.
pub(super) struct Walk {
    path: PathBuf,
    number: u64,
    file: BufReader<File>,
    size: u64,
    offset: u64,
    torn: u64,
    /// `None` until the segment's start was read.
    head: Option<Head>,
    /// Nobody writes to it and no crash came in between: a torn end is damage.
    complete: bool,
}

impl Walk {
    pub(super) fn segment(dir: &Path, number: u64) -> Result<Self, LedgerError> {
        Self::file(segment_path(dir, number), number, false, SEGMENT_MOST)
    }

    /// The same of a file of any name and at most so many bytes. `complete`: it is a copy that has no torn end.
    pub(super) fn file(
        path: PathBuf,
        number: u64,
        complete: bool,
        most: u64,
    ) -> Result<Self, LedgerError> {
        let (file, size) = bounds::open(&path, most)?;
        Ok(Self {
            path,
            number,
            file: BufReader::new(file),
            size,
            offset: 0,
            torn: 0,
            head: None,
            complete,
        })
    }

    /// Bytes of whole, good records so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Head of the last good record; zeros when there was none.
    pub(super) fn head(&self) -> Head {
        self.head.unwrap_or_default()
    }

    /// Bytes at the end that are no whole record.
    pub(super) fn torn(&self) -> u64 {
        self.torn
    }

    /// At `offset`, in a way that the caller names.
    pub(super) fn damaged_at(&self, offset: u64, what: &str) -> LedgerError {
        self.named(Damage::Tampered, what.to_owned(), offset)
    }

    fn named(&self, kind: Damage, what: String, offset: u64) -> LedgerError {
        LedgerError::Damaged {
            kind,
            what,
            path: self.path.clone(),
            offset,
        }
    }

    /// At the record that was to be read next.
    fn damaged(&self) -> LedgerError {
        let (kind, what) = diagnose(&self.path, self.number, self.offset, self.head);
        self.named(kind, what, self.offset)
    }

    /// The next record, or `None` at the end or at a torn end.
    pub(super) fn next_record(&mut self) -> Result<Option<Entry>, LedgerError> {
        let left = self.size - self.offset;
        if left == 0 {
            return Ok(None);
        }
        let mut header = [0; HEADER_BYTES];
        if left < HEADER_BYTES as u64 {
            return self.torn_end(left);
        }
        self.read(&mut header)?;
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let checksum = crc32fast::hash(&header[..HEADER_CRC_AT]).to_be_bytes();
        if header[HEADER_CRC_AT..] != checksum || length > PAYLOAD_BYTES {
            let seen = Seen::Header(header);
            return self.tear_or_damage(left, seen);
        }
        let whole = (HEADER_BYTES + length + HEAD_BYTES) as u64;
        if left < whole {
            return self.torn_end(left);
        }
        let mut record = header.to_vec();
        record.resize(HEADER_BYTES + length, 0);
        self.read(&mut record[HEADER_BYTES..])?;
        let mut stored = [0; HEAD_BYTES];
        self.read(&mut stored)?;

        let Some(entry) = self.entry(&record, stored) else {
            record.extend_from_slice(&stored);
            let seen = Seen::Record(record);
            return self.tear_or_damage(left, seen);
        };
        if entry.kind == Kind::Newer && self.number > 0 {
            return Err(self.newer());
        }
        self.offset += whole;
        self.head = Some(entry.head);
        Ok(Some(entry))
    }

    fn entry(&self, record: &[u8], stored: Head) -> Option<Entry> {
        let kind = Kind::from_code(record[4]).unwrap_or(Kind::Newer);
        let payload = &record[HEADER_BYTES..];
        let before = match self.head {
            Some(head) => head,
            None => self.start(kind, payload)?,
        };
        let number = |range: std::ops::Range<usize>| {
            record[range]
                .iter()
                .fold(0, |n: u64, b| n << 8 | u64::from(*b))
        };
        (chain(&before, record) == stored).then(|| Entry {
            kind,
            wall_us: number(5..13),
            conn: number(13..21),
            payload: payload.to_vec(),
            head: stored,
        })
    }

    /// A record that is whole and in its place, and of a kind that this version does not know.
    fn newer(&self) -> LedgerError {
        let dir = self.path.parent().unwrap_or(&self.path);
        LedgerError::Newer {
            path: self.path.clone(),
            offset: self.offset,
            dir: dir.to_owned(),
        }
    }

    /// The head that a segment's first record says it continues.
    fn start(&self, kind: Kind, payload: &[u8]) -> Option<Head> {
        let rest = payload.strip_prefix(MAGIC.as_slice())?;
        let (number, head) = rest.split_at_checked(8)?;
        (kind == Kind::Segment && number == self.number.to_be_bytes()).then_some(())?;
        head.try_into().ok()
    }

    /// What a crash leaves of records that were not synced ends the walk; anything else is damage. `seen`: what was read
    /// of the bad record.
    fn tear_or_damage(&mut self, left: u64, seen: Seen) -> Result<Option<Entry>, LedgerError> {
        if self.complete {
            return Err(self.damaged());
        }
        let mut behind = Vec::new();
        (&mut self.file)
            .take(MOST)
            .read_to_end(&mut behind)
            .map_err(io("reading", &self.path))?;
        // Of what is farther behind only zeros can be what was never written.
        if self.only_zeros_follow()? && seen.is_torn(self.offset, &behind) {
            self.torn_end(left)
        } else {
            Err(self.damaged())
        }
    }

    fn only_zeros_follow(&mut self) -> Result<bool, LedgerError> {
        let mut part = vec![0; PAYLOAD_BYTES];
        loop {
            let read = self.file.read(&mut part);
            let read = read.map_err(io("reading", &self.path))?;
            if read == 0 || part[..read].iter().any(|byte| *byte != 0) {
                return Ok(read == 0);
            }
        }
    }

    fn torn_end(&mut self, left: u64) -> Result<Option<Entry>, LedgerError> {
        if self.complete {
            return Err(self.truncated(left));
        }
        self.torn = left;
        self.size = self.offset;
        Ok(None)
    }

    fn truncated(&self, left: u64) -> LedgerError {
        let what = format!("the file ends in the middle of a record, with {left} bytes of it");
        self.named(Damage::Truncated, what, self.offset)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), LedgerError> {
        self.file
            .read_exact(into)
            .map_err(io("reading", &self.path))
    }
}

/// Reads all records of a ledger in order, checking each.
pub struct Reader {
    dir: PathBuf,
    left: std::vec::IntoIter<u64>,
    walk: Option<Walk>,
    head: Head,
    segment: u64,
    complete: bool,
    /// Bytes at the very end that are no whole record: a write in progress, or what a crash left.
    pub torn: u64,
}

impl Reader {
    /// Begins at the oldest record kept.
    ///
    /// # Errors
    /// [`LedgerError`] when the directory cannot be read.
    pub fn open(dir: &Path) -> Result<Self, LedgerError> {
        Self::begin(dir, false)
    }

    /// The same of a copy that nobody writes to and no crash tore: an end that is torn is damage.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn open_copy(dir: &Path) -> Result<Self, LedgerError> {
        Self::begin(dir, true)
    }

    fn begin(dir: &Path, complete: bool) -> Result<Self, LedgerError> {
        let pruned = read_pruned(dir)?;
        let left = segments(dir)?
            .into_iter()
            .filter(|n| *n > pruned.segment)
            .collect::<Vec<_>>()
            .into_iter();
        Ok(Self {
            dir: dir.to_owned(),
            left,
            walk: None,
            head: pruned.head,
            segment: pruned.segment,
            complete,
            torn: 0,
        })
    }

    /// The segment that the last entry is in, and the offset of the next one.
    #[must_use]
    pub fn at(&self) -> (u64, u64) {
        (self.segment, self.walk.as_ref().map_or(0, Walk::offset))
    }

    /// The next record, or `None` at the end.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`] at the first record that is not as it was written; nothing is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, LedgerError> {
        loop {
            if let Some(walk) = &mut self.walk {
                if let Some(entry) = walk.next_record()? {
                    let begins = entry.payload.get(MAGIC.len() + 8..);
                    if entry.kind == Kind::Segment && begins != Some(&self.head) {
                        return Err(self.wrong_start());
                    }
                    self.head = entry.head;
                    return Ok(Some(entry));
                }
                self.torn = walk.torn();
                if self.torn > 0 && self.left.len() > 0 {
                    return Err(walk.truncated(self.torn));
                }
            }
            let Some(number) = self.left.next() else {
                return Ok(None);
            };
            if number != self.segment + 1 {
                return Err(LedgerError::Damaged {
                    kind: Damage::MissingSegment,
                    what: format!("a missing segment: the next one here is {number}"),
                    path: segment_path(&self.dir, self.segment + 1),
                    offset: 0,
                });
            }
            self.segment = number;
            let path = segment_path(&self.dir, number);
            self.walk = Some(Walk::file(path, number, self.complete, SEGMENT_MOST)?);
        }
    }

    fn wrong_start(&self) -> LedgerError {
        let what = "a segment that does not begin with the head that the one before ended with: that one was cut at its \
                    end, or one of both is another";
        LedgerError::Damaged {
            kind: Damage::WrongPreviousHead,
            what: what.to_owned(),
            path: segment_path(&self.dir, self.segment),
            offset: 0,
        }
    }
}
