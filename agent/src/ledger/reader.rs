//! Reading and checking, in constant memory: one record at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tear::Seen;
use super::{
    HEAD_BYTES, HEADER_BYTES, HEADER_CRC_AT, Head, Kind, LedgerError, MAGIC, PAYLOAD_BYTES, chain,
    io, segment_path, segments, session_chain,
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

/// What was taken away for want of space: everything up to this segment, which ended with this head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct PrunedTo {
    pub(super) segment: u64,
    pub(super) head: Head,
}

pub(super) fn read_pruned(dir: &Path) -> Result<PrunedTo, LedgerError> {
    let path = dir.join("pruned.json");
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|_| LedgerError::Damaged {
            what: "unreadable memory of pruned segments",
            path,
            offset: 0,
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(PrunedTo::default()),
        Err(error) => Err(io("reading", &path)(error)),
    }
}

pub(super) fn write_pruned(dir: &Path, pruned: &PrunedTo) -> Result<(), LedgerError> {
    let (path, temp) = (dir.join("pruned.json"), dir.join("pruned.json.tmp"));
    let bytes = serde_json::to_vec(pruned).map_err(|error| io("writing", &temp)(error.into()))?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temp)
        .map_err(io("writing", &temp))?;
    file.write_all(&bytes)
        .and_then(|()| file.sync_all())
        .map_err(io("writing", &temp))?;
    std::fs::rename(&temp, &path).map_err(io("writing", &path))
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
}

impl Walk {
    pub(super) fn segment(dir: &Path, number: u64) -> Result<Self, LedgerError> {
        let path = segment_path(dir, number);
        let file = File::open(&path).map_err(io("opening", &path))?;
        let size = file.metadata().map_err(io("reading", &path))?.len();
        Ok(Self {
            path,
            number,
            file: BufReader::new(file),
            size,
            offset: 0,
            torn: 0,
            head: None,
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

    fn damaged(&self, what: &'static str) -> LedgerError {
        LedgerError::Damaged {
            what,
            path: self.path.clone(),
            offset: self.offset,
        }
    }

    /// The next record, or `None` at the end or at a torn end.
    pub(super) fn next_record(&mut self) -> Result<Option<Entry>, LedgerError> {
        let left = self.size - self.offset;
        if left == 0 {
            return Ok(None);
        }
        let mut header = [0; HEADER_BYTES];
        if left < HEADER_BYTES as u64 {
            return Ok(self.torn_end(left));
        }
        self.read(&mut header)?;
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let checksum = crc32fast::hash(&header[..HEADER_CRC_AT]).to_be_bytes();
        if header[HEADER_CRC_AT..] != checksum || length > PAYLOAD_BYTES {
            let seen = Seen::Header(header);
            return self.tear_or_damage(left, seen, "a record with a damaged header");
        }
        let whole = (HEADER_BYTES + length + HEAD_BYTES) as u64;
        if left < whole {
            return Ok(self.torn_end(left));
        }
        let mut record = header.to_vec();
        record.resize(HEADER_BYTES + length, 0);
        self.read(&mut record[HEADER_BYTES..])?;
        let mut stored = [0; HEAD_BYTES];
        self.read(&mut stored)?;

        let Some(entry) = self.entry(&record, stored) else {
            record.extend_from_slice(&stored);
            let seen = Seen::Record(record);
            return self.tear_or_damage(left, seen, "a record that does not continue the chain");
        };
        self.offset += whole;
        self.head = Some(entry.head);
        Ok(Some(entry))
    }

    fn entry(&self, record: &[u8], stored: Head) -> Option<Entry> {
        let kind = Kind::from_code(record[4])?;
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

    /// The head that a segment's first record says it continues.
    fn start(&self, kind: Kind, payload: &[u8]) -> Option<Head> {
        let rest = payload.strip_prefix(MAGIC.as_slice())?;
        let (number, head) = rest.split_at_checked(8)?;
        (kind == Kind::Segment && number == self.number.to_be_bytes()).then_some(())?;
        head.try_into().ok()
    }

    /// What a crash leaves of records that were not synced ends the walk; anything else is damage. `seen`: what was read
    /// of the bad record.
    fn tear_or_damage(
        &mut self,
        left: u64,
        seen: Seen,
        what: &'static str,
    ) -> Result<Option<Entry>, LedgerError> {
        let mut behind = Vec::new();
        self.file
            .read_to_end(&mut behind)
            .map_err(io("reading", &self.path))?;
        if seen.is_torn(self.offset, &behind) {
            Ok(self.torn_end(left))
        } else {
            Err(self.damaged(what))
        }
    }

    fn torn_end(&mut self, left: u64) -> Option<Entry> {
        self.torn = left;
        self.size = self.offset;
        None
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
    /// Bytes at the very end that are no whole record: a write in progress, or what a crash left.
    pub torn: u64,
}

impl Reader {
    /// Begins at the oldest record kept.
    ///
    /// # Errors
    /// [`LedgerError`] when the directory cannot be read.
    pub fn open(dir: &Path) -> Result<Self, LedgerError> {
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
            torn: 0,
        })
    }

    /// The next record, or `None` at the end.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`] at the first record that is not as it was written; nothing is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, LedgerError> {
        loop {
            if let Some(walk) = &mut self.walk {
                if let Some(entry) = walk.next_record()? {
                    if entry.kind == Kind::Segment && entry.payload[16..] != self.head {
                        return Err(walk.damaged("a segment that does not continue the one before"));
                    }
                    self.head = entry.head;
                    return Ok(Some(entry));
                }
                self.torn = walk.torn();
                if self.torn > 0 && self.left.len() > 0 {
                    return Err(walk.damaged("a torn record before the end"));
                }
            }
            let Some(number) = self.left.next() else {
                return Ok(None);
            };
            if number != self.segment + 1 {
                let path = segment_path(&self.dir, self.segment + 1);
                return Err(LedgerError::Damaged {
                    what: "a missing segment",
                    path,
                    offset: 0,
                });
            }
            self.segment = number;
            self.walk = Some(Walk::segment(&self.dir, number)?);
        }
    }
}

/// One session as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct SessionHead {
    /// As the orchestrator numbered it; `None` while it had not answered.
    pub session_epoch: Option<u64>,
    /// Frames sent.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// SHA-256 chain head over them, in hex.
    pub head: String,
}

/// What a whole ledger holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Summary {
    /// Records of all kinds.
    pub records: u64,
    /// Frames sent on streams.
    pub frames: u64,
    /// Their bytes.
    pub frame_bytes: u64,
    /// Requests for certificates.
    pub identity_requests: u64,
    /// Bytes of those.
    pub identity_bytes: u64,
    /// Bytes at the end that are no whole record.
    pub torn_bytes: u64,
    /// Each connection that sent frames, in order.
    pub sessions: Vec<SessionHead>,
    /// Head of the chain over everything, in hex.
    pub head: String,
}

/// Reads and checks everything.
///
/// # Errors
/// The first damage found.
pub fn verify(dir: &Path) -> Result<Summary, LedgerError> {
    let mut reader = Reader::open(dir)?;
    let mut summary = Summary::default();
    let mut open: BTreeMap<u64, (SessionHead, Head)> = BTreeMap::new();
    let close = |open: &mut BTreeMap<u64, (SessionHead, Head)>, summary: &mut Summary| {
        let closed = std::mem::take(open).into_values();
        summary.sessions.extend(closed.map(|(s, head)| SessionHead {
            head: hex(&head),
            ..s
        }));
    };
    while let Some(entry) = reader.next_entry()? {
        summary.records += 1;
        summary.head = hex(&entry.head);
        let bytes = entry.payload.len() as u64;
        match entry.kind {
            Kind::Frame => {
                let (session, head) = open.entry(entry.conn).or_default();
                *head = session_chain(head, &entry.payload);
                session.frames += 1;
                session.bytes += bytes;
                summary.frames += 1;
                summary.frame_bytes += bytes;
            }
            Kind::Identity => {
                summary.identity_requests += 1;
                summary.identity_bytes += bytes;
            }
            Kind::Session => {
                let epoch = entry
                    .payload
                    .iter()
                    .fold(0, |n: u64, b| n << 8 | u64::from(*b));
                open.entry(entry.conn).or_default().0.session_epoch = Some(epoch);
            }
            Kind::Opened => close(&mut open, &mut summary),
            Kind::Segment | Kind::Receipt | Kind::Cut => {}
        }
    }
    summary.torn_bytes = reader.torn;
    close(&mut open, &mut summary);
    Ok(summary)
}

fn hex(head: &Head) -> String {
    head.iter().map(|byte| format!("{byte:02x}")).collect()
}
