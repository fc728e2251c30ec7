//! What of the ledger stays: the oldest segments go when they are old or when there are too many, and what is left
//! still verifies, because the head that the last one taken away ended with is remembered.
//!
//! A segment goes only as a whole, only after the next one began, and never while a session that has a frame in it
//! stands: what the orchestrator signs for is then still there to be compared.

use std::time::{Duration, SystemTime};

use super::reader::{PrunedTo, Walk, write_pruned};
use super::writer::{Ledger, size_of};
use super::{DEFAULT_LIMIT_BYTES, LedgerError, MAGIC, io, segment_path, segments};

/// How long a segment is kept after its last record, by default.
pub const DEFAULT_KEEP: Duration = Duration::from_secs(90 * 24 * 3600);

/// How much of the ledger is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all segments.
    pub bytes: u64,
    /// How long a segment stays after its last record.
    pub keep: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self::from(DEFAULT_LIMIT_BYTES)
    }
}

impl From<u64> for Limits {
    /// So many bytes, for the default time.
    fn from(bytes: u64) -> Self {
        Self {
            bytes,
            keep: DEFAULT_KEEP,
        }
    }
}

/// Where the newest two connections began. Two, because a new stream stands before the old one ends.
#[derive(Debug, Default)]
pub(super) struct Sessions([Option<(u64, u64)>; 2]);

impl Sessions {
    /// Something of this connection goes into this segment; 0 is nobody's.
    pub(super) fn note(&mut self, conn: u64, segment: u64) {
        let known = self.0.iter().flatten().any(|(known, _)| *known == conn);
        if conn != 0 && !known {
            self.0 = [Some((conn, segment)), self.0[0]];
        }
    }

    /// The first segment that must stay because of them.
    fn first(&self) -> Option<u64> {
        self.0.iter().flatten().map(|(_, segment)| *segment).min()
    }
}

impl Ledger {
    /// Takes away what is over the limits, oldest first.
    pub(super) fn prune(&mut self) -> Result<(), LedgerError> {
        let first_kept = self
            .sessions
            .first()
            .unwrap_or(self.number)
            .min(self.number);
        for number in segments(&self.dir)? {
            if number >= first_kept || !self.is_over(number) {
                break;
            }
            let path = segment_path(&self.dir, number);
            let head = self.head_after(number)?;
            write_pruned(
                &self.dir,
                &PrunedTo {
                    segment: number,
                    head,
                },
            )?;
            let size = size_of(&path);
            std::fs::remove_file(&path).map_err(io("pruning", &path))?;
            self.total = self.total.saturating_sub(size);
            tracing::info!(
                segment = number,
                bytes = size,
                "old segment of the ledger taken away"
            );
        }
        Ok(())
    }

    fn is_over(&self, number: u64) -> bool {
        let written = segment_path(&self.dir, number)
            .metadata()
            .and_then(|meta| meta.modified());
        let age = written.map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
        self.total > self.limits.bytes || age.is_ok_and(|age| age > self.limits.keep)
    }

    /// The head that a segment ended with: the next one begins with it.
    fn head_after(&self, number: u64) -> Result<super::Head, LedgerError> {
        let damaged = |what| LedgerError::Damaged {
            what,
            path: segment_path(&self.dir, number + 1),
            offset: 0,
        };
        let start = Walk::segment(&self.dir, number + 1)?.next_record()?;
        let start = start.ok_or_else(|| damaged("a segment without a start"))?;
        let head = start.payload.get(MAGIC.len() + 8..);
        head.and_then(|head| head.try_into().ok())
            .ok_or_else(|| damaged("a segment's start without a head"))
    }
}
