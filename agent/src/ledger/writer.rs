//! Appending: a burst of records is one write and one sync.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ahead::{self, Ahead};
use crate::torn::{self, UNSYNCED};

use super::beside::Beside;
use super::damage::Damage;
use super::held::Chain;
use super::live::Live;
use super::prune::{Limits, Sessions};
use super::pruned::{TakenAway, read_pruned};
use super::reader::Walk;
use super::receipts::Notice;
use super::signed::Named;
use super::trust::Trust;
use super::{
    HEAD_BYTES, HEADER_BYTES, Head, Kind, LedgerError, MAGIC, SEGMENT_BYTES, chain, io, number,
    segment_path, segments,
};

/// Bytes that are added before it is tried again to begin a segment on a full disk.
const SEGMENT_AGAIN_BYTES: u64 = 64 * 1024;

/// Bytes that are written at once.
const PART_BYTES: usize = 64 * 1024;

/// How far a ledger was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    segment: u64,
    bytes: u64,
}

/// The open ledger. One writer per state directory: the caller holds the directory's lock.
#[derive(Debug)]
pub struct Ledger {
    pub(super) dir: PathBuf,
    file: Arc<File>,
    pub(super) number: u64,
    /// Bytes of the present segment that are in the file.
    written: u64,
    /// Those of them that are surely on the disk.
    durable: u64,
    /// Bytes of all segments.
    pub(super) total: u64,
    pub(super) limits: Limits,
    pub(super) sessions: Sessions,
    /// The earlier of the orchestrator's time and the site's, as it was heard, and when that was since the host's start.
    pub(super) surely_us: Option<u64>,
    pub(super) heard_boot_us: u64,
    head: Head,
    pub(super) buffer: Vec<u8>,
    ahead: Ahead,
    /// Bytes of the present segment from which on the next one begins.
    ends_at: u64,
    /// Bytes of a segment, usually.
    segment_bytes: u64,
    pub(super) live: Live,
    pub(super) beside: Beside,
    pub(super) trust: Trust,
    /// Which agent's it is.
    pub(super) whose: Option<Named>,
    /// When this process opened it, by the site's clock.
    pub(super) opened_us: u64,
    /// What servers presented, by connection.
    pub(super) servers: BTreeMap<u64, Chain>,
    /// The most frames of a connection that were signed for, and the head behind them.
    pub(super) best: BTreeMap<u64, (u64, Head)>,
    /// What went before its time.
    pub(super) early: Vec<Notice>,
    /// A record could not be written, or not synced: nothing may follow it.
    pub(super) broken: bool,
}

/// Where it goes on, or begins.
struct Place {
    number: u64,
    file: File,
    ahead: Ahead,
    /// Bytes of the segment, and the head behind them.
    written: u64,
    head: Head,
    /// Bytes of all segments.
    total: u64,
}

impl Ledger {
    /// Opens the ledger in `dir`, making it if there is none, and checks the newest segment. A torn end, left by a
    /// crash in the middle of a write, is cut off and noted: those bytes were never sent.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`] when anything but the very end is not as it was written.
    pub fn open(dir: &Path, limits: impl Into<Limits>, wall_us: u64) -> Result<Self, LedgerError> {
        let limits = limits.into();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(io("making", dir))?;
        let present = segments(dir)?;
        let Some(&number) = present.last() else {
            return Self::begin(dir, limits, wall_us);
        };
        let total_before = present
            .iter()
            .rev()
            .skip(1)
            .map(|n| size_of(&segment_path(dir, *n)))
            .sum::<u64>();

        let path = segment_path(dir, number);
        let beside = Beside::open(dir);
        if let Some((tip, _)) = beside.tip.filter(|(tip, _)| *tip > number) {
            return Err(LedgerError::Damaged {
                kind: Damage::MissingSegment,
                what: format!("segment {tip} was begun, and the newest one here is {number}"),
                path: segment_path(dir, tip),
                offset: 0,
            });
        }
        let mut walk = Walk::segment(dir, number)?;
        while walk.next_record()?.is_some() {}
        let (good, head, torn) = (walk.offset(), walk.head(), walk.torn());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io("opening", &path))?;
        if torn > 0 {
            file.set_len(good)
                .map_err(io("cutting the torn end of", &path))?;
        }
        // A sync that failed in an earlier process left the kernel with pages that it takes for written.
        let tail = good.saturating_sub(UNSYNCED + PART_BYTES as u64);
        torn::write_again(&file, tail, good).map_err(io("writing again", &path))?;
        let mut file = file;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(good))
            .map_err(io("opening", &path))?;
        let ahead = Ahead::of(&file, good).map_err(io("taking space for", &path))?;
        let place = Place {
            number,
            file,
            ahead,
            written: good,
            head,
            total: total_before + good,
        };
        let mut ledger = Self::at(dir, place, (limits, wall_us), beside);
        if good == 0 {
            // The crash came before the segment's first record was whole.
            ledger.head = ledger.head_before(number)?;
            ledger.push_segment_start(wall_us);
        }
        if torn > 0 {
            ledger.append(Kind::Cut, 0, wall_us, &torn.to_be_bytes());
        }
        // Everything before it is on the disk when a ledger says that it was opened: readers count on that.
        ledger.write()?;
        ledger.sync_file()?;
        ledger.append(Kind::Opened, 0, wall_us, &[]);
        ledger.sync()?;
        let begun_with = ledger.head_before(number)?;
        ledger.mark_tip(&begun_with);
        ledger.prune_if_there_is_room()?;
        Ok(ledger)
    }

    fn begin(dir: &Path, limits: Limits, wall_us: u64) -> Result<Self, LedgerError> {
        let pruned = read_pruned(dir)?;
        let beside = Beside::open(dir);
        let number = pruned.segment + 1;
        if let Some((tip, _)) = beside.tip {
            return Err(LedgerError::Damaged {
                kind: Damage::MissingSegment,
                what: format!("segment {tip} was begun, and there is none here"),
                path: segment_path(dir, tip),
                offset: 0,
            });
        }
        let path = segment_path(dir, number);
        let file = create(&path)?;
        let head = pruned.head;
        let ahead = Ahead::of(&file, 0).map_err(io("taking space for", &path))?;
        let place = Place {
            number,
            file,
            ahead,
            written: 0,
            head,
            total: 0,
        };
        let mut ledger = Self::at(dir, place, (limits, wall_us), beside);
        ledger.push_segment_start(wall_us);
        ledger.append(Kind::Opened, 0, wall_us, &[]);
        ledger.sync()?;
        sync_dir(dir)?;
        ledger.mark_tip(&pruned.head);
        Ok(ledger)
    }

    fn at(dir: &Path, place: Place, (limits, wall_us): (Limits, u64), beside: Beside) -> Self {
        Self {
            dir: dir.to_owned(),
            file: Arc::new(place.file),
            number: place.number,
            written: place.written,
            durable: 0,
            total: place.total,
            limits,
            sessions: Sessions::default(),
            surely_us: None,
            heard_boot_us: 0,
            head: place.head,
            buffer: Vec::new(),
            ahead: place.ahead,
            ends_at: SEGMENT_BYTES,
            segment_bytes: SEGMENT_BYTES,
            live: Live::default(),
            beside,
            trust: Trust::default(),
            whose: None,
            opened_us: wall_us,
            servers: BTreeMap::new(),
            best: BTreeMap::new(),
            early: Vec::new(),
            broken: false,
        }
    }

    #[cfg(test)]
    pub(super) fn make_segments_of(&mut self, bytes: u64) {
        (self.segment_bytes, self.ends_at) = (bytes, bytes);
    }

    /// Adds one record to the burst. Nothing is in the file before [`Ledger::sync`].
    pub fn append(&mut self, kind: Kind, conn: u64, wall_us: u64, payload: &[u8]) {
        self.sessions.note(conn, self.number);
        match kind {
            // Whoever is forgotten is over long since.
            Kind::Frame => drop(self.live.frame(conn, payload)),
            Kind::Session => drop(self.live.accepted(conn, number(payload))),
            Kind::Segment
            | Kind::Identity
            | Kind::Receipt
            | Kind::Opened
            | Kind::Cut
            | Kind::Carried
            | Kind::Server
            | Kind::Tip
            | Kind::Pruned
            | Kind::Judged
            | Kind::Linked
            | Kind::Newer => {}
        }
        self.push(kind, conn, wall_us, payload);
    }

    fn push(&mut self, kind: Kind, conn: u64, wall_us: u64, payload: &[u8]) {
        let start = self.buffer.len();
        encode(&mut self.buffer, kind, (conn, wall_us), payload);
        self.head = chain(&self.head, &self.buffer[start..]);
        self.buffer.extend_from_slice(&self.head);
    }

    /// Writes the burst and waits until it would survive a power cut.
    ///
    /// # Errors
    /// Any error means that nothing of the burst may be sent and that the process must end: after a failed sync the
    /// kernel's copy can no longer be trusted.
    pub fn sync(&mut self) -> Result<(), LedgerError> {
        if self.write()? {
            self.sync_file()?;
        }
        Ok(())
    }

    /// Writes the burst without waiting for the disk; answers whether there was one. Nothing of it may be sent before
    /// [`Self::file`] is synced.
    ///
    /// # Errors
    /// As [`Ledger::sync`].
    pub fn write(&mut self) -> Result<bool, LedgerError> {
        let path = segment_path(&self.dir, self.number);
        if self.broken {
            let earlier = std::io::Error::other("an earlier write or sync of it failed");
            return Err(io("writing to", &path)(earlier));
        }
        if self.buffer.is_empty() {
            return Ok(false);
        }
        self.write_out(&path)?;
        if self.written >= self.ends_at {
            // Once in a long while: whoever syncs `file` from now on syncs the next segment only.
            self.sync_file()?;
            self.next_segment()?;
        }
        self.ahead
            .take(&self.file, self.written)
            .map_err(io("taking space for", &path))?;
        Ok(true)
    }

    fn write_out(&mut self, path: &Path) -> Result<(), LedgerError> {
        let burst = std::mem::take(&mut self.buffer);
        let written = self.write_bounded(&burst, path);
        self.broken = written.is_err();
        self.buffer = burst;
        self.buffer.clear();
        written
    }

    /// Says in the chain itself what is about to be taken away, and waits until that would survive a power cut.
    ///
    /// # Errors
    /// As [`Ledger::sync`]; whoever goes on all the same finds that nothing more is written.
    pub(super) fn say_pruned(&mut self, taken: &TakenAway) -> Result<(), LedgerError> {
        let path = segment_path(&self.dir, self.number);
        let wall_us = taken.taken_away_s.saturating_mul(1_000_000);
        self.push(Kind::Pruned, 0, wall_us, &taken.payload());
        self.write_out(&path)?;
        self.sync_file()
    }

    /// Writes a burst so that never much of it is not surely on the disk.
    fn write_bounded(&mut self, burst: &[u8], path: &Path) -> Result<(), LedgerError> {
        for part in burst.chunks(PART_BYTES) {
            let added = part.len() as u64;
            // Only when the syncs beside the loop are far behind.
            if self.written - self.durable + added > UNSYNCED {
                self.sync_file()?;
            }
            (&*self.file)
                .write_all(part)
                .map_err(io("writing to", path))?;
            self.written += added;
            self.total += added;
        }
        Ok(())
    }

    /// How far it is written now: for [`Ledger::synced`], once that is on the disk.
    #[must_use]
    pub fn written(&self) -> Written {
        Written {
            segment: self.number,
            bytes: self.written,
        }
    }

    /// Somebody else synced [`Ledger::file`] after it was written so far.
    pub fn synced(&mut self, so_far: Written) {
        if so_far.segment == self.number {
            self.durable = self.durable.max(so_far.bytes);
        }
    }

    /// The present segment: what was written and not synced is in it.
    #[must_use]
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    fn sync_file(&mut self) -> Result<(), LedgerError> {
        let path = segment_path(&self.dir, self.number);
        let synced = self.file.sync_data().map_err(io("syncing", &path));
        self.broken |= synced.is_err();
        self.durable = self.written;
        synced
    }

    /// The ledger's share of its limit, 0 to 100.
    #[must_use]
    pub fn percent(&self) -> u8 {
        let percent = self.total.saturating_mul(100) / self.limits.bytes.max(1);
        u8::try_from(percent.min(100)).unwrap_or(100)
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.total
    }

    /// Whether there is space for what is to be sent of everything that is held.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.ahead.is_enough()
    }

    /// How much of it is kept.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    fn push_segment_start(&mut self, wall_us: u64) {
        let mut payload = Vec::with_capacity(MAGIC.len() + 8 + HEAD_BYTES);
        payload.extend_from_slice(MAGIC);
        payload.extend_from_slice(&self.number.to_be_bytes());
        payload.extend_from_slice(&self.head);
        self.append(Kind::Segment, 0, wall_us, &payload);
    }

    /// How far each session is: what is left can be compared with receipts once the segments before are taken away.
    fn carry_over(&mut self) {
        let carried: Vec<_> = self
            .live
            .all()
            .iter()
            .map(|s| (s.conn, s.carried()))
            .collect();
        for (conn, payload) in carried {
            self.push(Kind::Carried, conn, 0, &payload);
        }
    }

    /// Begins the next segment; goes on with the present one while the disk has no room for another.
    fn next_segment(&mut self) -> Result<(), LedgerError> {
        let path = segment_path(&self.dir, self.number + 1);
        let begun = create(&path).and_then(|file| {
            let ahead = Ahead::of(&file, 0).map_err(io("taking space for", &path))?;
            Ok((file, ahead))
        });
        let (file, ahead) = match begun {
            Ok((file, ahead)) if ahead.is_enough() => (file, ahead),
            Ok(_) => return self.stay(&path),
            Err(LedgerError::Io { source, .. }) if ahead::is_full(&source) => {
                return self.stay(&path);
            }
            Err(error) => return Err(error),
        };
        // Nothing is added to the one before: what was taken behind its end goes back.
        let _ = self.file.set_len(self.written);
        self.number += 1;
        self.file = Arc::new(file);
        self.written = 0;
        self.durable = 0;
        self.ends_at = self.segment_bytes;
        self.ahead = ahead;
        let begun_with = self.head;
        // The start of a segment carries no time of its own: the first frame in it does.
        self.push_segment_start(0);
        self.carry_over();
        self.sync()?;
        sync_dir(&self.dir)?;
        self.mark_tip(&begun_with);
        self.prune_if_there_is_room()
    }

    fn stay(&mut self, next: &Path) -> Result<(), LedgerError> {
        match std::fs::remove_file(next) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io("removing", next)(error));
            }
            Ok(()) | Err(_) => {}
        }
        self.ends_at = self.written + SEGMENT_AGAIN_BYTES;
        tracing::warn!(
            "no room for {}: the segment before it goes on",
            next.display()
        );
        Ok(())
    }

    fn head_before(&self, number: u64) -> Result<Head, LedgerError> {
        let before = number.saturating_sub(1);
        if !segment_path(&self.dir, before).exists() {
            return Ok(read_pruned(&self.dir)?.head);
        }
        let mut walk = Walk::segment(&self.dir, before)?;
        while walk.next_record()?.is_some() {}
        Ok(walk.head())
    }
}

/// Adds header and payload of a record; its head follows.
pub(super) fn encode(
    buffer: &mut Vec<u8>,
    kind: Kind,
    (conn, wall_us): (u64, u64),
    payload: &[u8],
) {
    let start = buffer.len();
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    buffer.reserve(HEADER_BYTES + payload.len() + HEAD_BYTES);
    buffer.extend_from_slice(&length.to_be_bytes());
    buffer.push(kind.code());
    buffer.extend_from_slice(&wall_us.to_be_bytes());
    buffer.extend_from_slice(&conn.to_be_bytes());
    let checksum = crc32fast::hash(&buffer[start..]);
    buffer.extend_from_slice(&checksum.to_be_bytes());
    buffer.extend_from_slice(payload);
}

pub(super) fn size_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

fn create(path: &Path) -> Result<File, LedgerError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(io("making", path))
}

fn sync_dir(dir: &Path) -> Result<(), LedgerError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io("syncing", dir))
}
