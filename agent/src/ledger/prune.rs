//! What of the ledger stays: the oldest segments go when they are old or when there are too many, and what is left
//! still verifies, because the head that the last one taken away ended with is remembered. What the orchestrator signed for
//! stays in any case, beside the segments.
//!
//! Segments go by age only once the orchestrator has said in this life of the process what time it is, and by the earlier of
//! its clock and the site's: a host that starts with a wrong one loses no evidence. By size they go at any time.
//!
//! A segment goes only as a whole, only after the next one began, and never while a session that has a frame in it
//! stands: what the orchestrator signs for is then still there to be compared.

use std::io::ErrorKind;
use std::time::{Duration, SystemTime};

use outpost_agent_keeper::process::boot_time_us;

use super::pruned::{PrunedTo, TakenAway, read_pruned, write_pruned};
use super::reader::Walk;
use super::receipts::Notice;
use super::writer::{Ledger, size_of};
use super::{DEFAULT_LIMIT_BYTES, LedgerError, MAGIC, io, segment_path, segments};
use crate::ahead;
use crate::dated::Dated;

/// How long a segment is kept after its last record, by default.
pub const DEFAULT_KEEP: Duration = Duration::from_secs(90 * 24 * 3600);

/// How much of the ledger is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all segments.
    pub bytes: u64,
    /// How long a segment stays after its last record.
    pub keep: Duration,
    /// By which of its times.
    pub dated: Dated,
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
            dated: Dated::default(),
        }
    }
}

/// Nothing of an agent is older (November 2023): a file that says so was written before the clock was set.
const EARLIEST: Duration = Duration::from_secs(1_700_000_000);

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
    /// The orchestrator says that it is `server_us`, in microseconds since 1970, where the site's clock says `wall_us` and
    /// `boot_us` have passed since the host's start. What is old goes.
    ///
    /// # Errors
    /// When a segment cannot be taken away.
    pub fn hear(&mut self, server_us: u64, wall_us: u64, boot_us: u64) -> Result<(), LedgerError> {
        self.surely_us = Some(server_us.min(wall_us));
        self.heard_boot_us = boot_us;
        self.prune()
    }

    /// The time that has surely come.
    fn surely(&self) -> Option<SystemTime> {
        let since_us = boot_time_us().saturating_sub(self.heard_boot_us);
        let surely_us = self.surely_us?.saturating_add(since_us);
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(surely_us))
    }

    /// The same, but where there is no room for a word of what goes, it goes later: a full disk ends no agent.
    pub(super) fn prune_if_there_is_room(&mut self) -> Result<(), LedgerError> {
        match self.prune() {
            Err(LedgerError::Io { source, path, .. }) if ahead::is_full(&source) => {
                tracing::warn!("no room for {}: nothing is taken away now", path.display());
                Ok(())
            }
            pruned => pruned,
        }
    }

    /// Takes away what is over the limits, oldest first. Each is said to go in the chain itself before it goes, and in the
    /// file where a reader begins; where there is no room for a word of it, it goes later.
    pub(super) fn prune(&mut self) -> Result<(), LedgerError> {
        let first_kept = self
            .sessions
            .first()
            .unwrap_or(self.number)
            .min(self.number);
        let gone = read_pruned(&self.dir)?.segment;
        for number in segments(&self.dir)? {
            if number <= gone {
                // A crash came between the word and the deed.
                if self.is_over(number) {
                    self.remove(number)?;
                }
                continue;
            }
            if number >= first_kept || !self.is_over(number) {
                break;
            }
            if !self.has_room() {
                let path = segment_path(&self.dir, self.number);
                return Err(io("pruning", &path)(ErrorKind::StorageFull.into()));
            }
            let head = self.head_after(number)?;
            let taken = self.taken_away(number, head);
            self.say_pruned(&taken)?;
            let segment = number;
            write_pruned(&self.dir, &PrunedTo { segment, head })?;
            self.remove(number)?;
            if taken.is_early() {
                self.tell_early(&taken);
            }
        }
        Ok(())
    }

    fn remove(&mut self, number: u64) -> Result<(), LedgerError> {
        let path = segment_path(&self.dir, number);
        let bytes = size_of(&path);
        std::fs::remove_file(&path).map_err(io("pruning", &path))?;
        self.total = self.total.saturating_sub(bytes);
        tracing::info!(
            segment = number,
            bytes,
            "old segment of the ledger taken away"
        );
        Ok(())
    }

    fn is_over(&self, number: u64) -> bool {
        self.total > self.limits.bytes || self.is_old(number)
    }

    /// When a segment was written last. One that was written before the clock was set counts as written with the next one
    /// that was not.
    fn written_at(&self, number: u64) -> Option<SystemTime> {
        (number..=self.number).find_map(|number| {
            let meta = segment_path(&self.dir, number).metadata().ok()?;
            let at = self.limits.dated.of(&meta);
            (at >= SystemTime::UNIX_EPOCH + EARLIEST).then_some(at)
        })
    }

    fn is_old(&self, number: u64) -> bool {
        let (Some(surely), Some(written)) = (self.surely(), self.written_at(number)) else {
            return false;
        };
        surely.duration_since(written).unwrap_or_default() > self.limits.keep
    }

    /// What is said of it. How old it is, by the time that has surely come, or else by this host's clock.
    fn taken_away(&self, segment: u64, head: super::Head) -> TakenAway {
        let seconds = |at: SystemTime| {
            let since = at.duration_since(SystemTime::UNIX_EPOCH);
            since.unwrap_or_default().as_secs()
        };
        TakenAway {
            segment,
            head,
            for_size: !self.is_old(segment),
            last_written_s: self.written_at(segment).map_or(0, seconds),
            taken_away_s: seconds(self.surely().unwrap_or_else(SystemTime::now)),
            keep_s: self.limits.keep.as_secs(),
        }
    }

    /// Whoever makes an agent say much can so make it forget what it said before.
    fn tell_early(&mut self, taken: &TakenAway) {
        self.early.push(Notice::Early(format!(
            "segment {} of the ledger was taken away {} s after its last record, to stay within {} bytes; it was to be kept for \
             {} s. Something makes this agent say much: export the ledger, look at what it says, or allow it more bytes",
            taken.segment,
            taken.age_s(),
            self.limits.bytes,
            taken.keep_s
        )));
    }

    /// The head that a segment ended with: the next one begins with it.
    fn head_after(&self, number: u64) -> Result<super::Head, LedgerError> {
        let damaged = |what: &str| LedgerError::Damaged {
            kind: super::Damage::Tampered,
            what: String::from(what),
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
