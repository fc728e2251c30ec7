//! What was taken away of the oldest segments, said twice: in `pruned.json`, where a reader begins, and in the chain, where
//! nobody can say it later without making all records behind it anew.
//!
//! Written by `prune`, each before the segment goes; compared by `check`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::bounds::{self, SMALL_BYTES};
use super::damage::Damage;
use super::{HEAD_BYTES, Head, LedgerError, io, number};
use crate::files;

/// The file that says what was taken away.
pub(super) const PRUNED: &str = "pruned.json";
/// Segment, head, why, last written, taken away, how long kept.
const BYTES: usize = 8 + HEAD_BYTES + 1 + 8 + 8 + 8;
/// In the place of the reason.
const FOR_AGE: u8 = 1;
const FOR_SIZE: u8 = 2;

/// A segment that was taken away, as a record of the chain says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenAway {
    /// Which.
    pub segment: u64,
    /// With which head it ended.
    pub(super) head: Head,
    /// Because all were larger together than they may be; else for its age.
    pub for_size: bool,
    /// When it was written last, in seconds since 1970; 0 when that is not known.
    pub last_written_s: u64,
    /// And when it was taken away.
    pub taken_away_s: u64,
    /// How long it was to be kept, in seconds.
    pub keep_s: u64,
}

impl TakenAway {
    /// Whether it went before its time.
    #[must_use]
    pub fn is_early(&self) -> bool {
        self.for_size && self.age_s() < self.keep_s
    }

    /// How old it was.
    #[must_use]
    pub fn age_s(&self) -> u64 {
        self.taken_away_s.saturating_sub(self.last_written_s)
    }

    /// As the payload of a record of kind `Pruned`.
    pub(super) fn payload(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(&self.segment.to_be_bytes());
        bytes.extend_from_slice(&self.head);
        bytes.push(if self.for_size { FOR_SIZE } else { FOR_AGE });
        for seconds in [self.last_written_s, self.taken_away_s, self.keep_s] {
            bytes.extend_from_slice(&seconds.to_be_bytes());
        }
        bytes
    }

    /// From such a payload.
    #[must_use]
    pub fn from_payload(payload: &[u8]) -> Option<Self> {
        let (segment, rest) = payload.split_first_chunk::<8>()?;
        let (head, rest) = rest.split_first_chunk::<HEAD_BYTES>()?;
        let (why, rest) = rest.split_first()?;
        let for_size = match *why {
            FOR_AGE => false,
            FOR_SIZE => true,
            _ => return None,
        };
        (rest.len() == 3 * 8).then(|| Self {
            segment: u64::from_be_bytes(*segment),
            head: *head,
            for_size,
            last_written_s: number(&rest[..8]),
            taken_away_s: number(&rest[8..16]),
            keep_s: number(&rest[16..]),
        })
    }
}

/// What was taken away for its age or for want of space: everything up to this segment, which ended with this head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PrunedTo {
    pub(super) segment: u64,
    pub(super) head: Head,
}

/// The same as a file says it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PrunedFile {
    segment: u64,
    head: Head,
    /// CRC-32 over both, against disks; it keeps nobody from writing another.
    checksum: u32,
}

impl PrunedTo {
    fn checksum(&self) -> u32 {
        crc32fast::hash(&[&self.segment.to_be_bytes()[..], &self.head].concat())
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let file: PrunedFile = serde_json::from_slice(bytes).ok()?;
        let pruned = Self {
            segment: file.segment,
            head: file.head,
        };
        (pruned.checksum() == file.checksum).then_some(pruned)
    }
}

pub(super) fn read_pruned(dir: &Path) -> Result<PrunedTo, LedgerError> {
    let path = dir.join(PRUNED);
    match bounds::read(&path, SMALL_BYTES)? {
        Some(bytes) => PrunedTo::parse(&bytes).ok_or_else(|| LedgerError::Damaged {
            kind: Damage::Tampered,
            what: "what was taken away is not said as it was written".to_owned(),
            path,
            offset: 0,
        }),
        None => Ok(PrunedTo::default()),
    }
}

pub(super) fn write_pruned(dir: &Path, pruned: &PrunedTo) -> Result<(), LedgerError> {
    let path = dir.join(PRUNED);
    let file = PrunedFile {
        segment: pruned.segment,
        head: pruned.head,
        checksum: pruned.checksum(),
    };
    let bytes = serde_json::to_vec(&file).map_err(|error| io("writing", &path)(error.into()))?;
    // The name, too, is on the disk before the segment goes.
    files::replace(&path, &bytes).map_err(io("writing", &path))
}
