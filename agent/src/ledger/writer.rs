//! Appending: a burst of records is one write and one sync.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ahead::{self, Ahead};
use crate::torn::UNSYNCED;

use super::prune::{Limits, Sessions};
use super::reader::{Walk, read_pruned};
use super::{
    HEAD_BYTES, HEADER_BYTES, Head, Kind, LedgerError, MAGIC, SEGMENT_BYTES, chain, io,
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
    head: Head,
    pub(super) buffer: Vec<u8>,
    ahead: Ahead,
    /// Bytes of the present segment from which on the next one begins.
    ends_at: u64,
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
        let mut walk = Walk::segment(dir, number)?;
        while walk.next_record()?.is_some() {}
        let (good, head, torn) = (walk.offset(), walk.head(), walk.torn());
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(io("opening", &path))?;
        if torn > 0 {
            file.set_len(good)
                .map_err(io("cutting the torn end of", &path))?;
        }
        let mut file = file;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(good))
            .map_err(io("opening", &path))?;
        let ahead = Ahead::of(&file, good).map_err(io("taking space for", &path))?;
        let mut ledger = Self {
            dir: dir.to_owned(),
            file: Arc::new(file),
            number,
            written: good,
            durable: 0,
            ahead,
            ends_at: SEGMENT_BYTES,
            total: total_before + good,
            limits,
            sessions: Sessions::default(),
            head,
            buffer: Vec::new(),
        };
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
        ledger.prune()?;
        Ok(ledger)
    }

    fn begin(dir: &Path, limits: Limits, wall_us: u64) -> Result<Self, LedgerError> {
        let pruned = read_pruned(dir)?;
        let number = pruned.segment + 1;
        let path = segment_path(dir, number);
        let file = create(&path)?;
        let head = pruned.head;
        let ahead = Ahead::of(&file, 0).map_err(io("taking space for", &path))?;
        let mut ledger = Self {
            ahead,
            ends_at: SEGMENT_BYTES,
            dir: dir.to_owned(),
            file: Arc::new(file),
            number,
            written: 0,
            durable: 0,
            total: 0,
            limits,
            sessions: Sessions::default(),
            head,
            buffer: Vec::new(),
        };
        ledger.push_segment_start(wall_us);
        ledger.append(Kind::Opened, 0, wall_us, &[]);
        ledger.sync()?;
        sync_dir(dir)?;
        Ok(ledger)
    }

    /// Adds one record to the burst. Nothing is in the file before [`Ledger::sync`].
    pub fn append(&mut self, kind: Kind, conn: u64, wall_us: u64, payload: &[u8]) {
        self.sessions.note(conn, self.number);
        let start = self.buffer.len();
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.buffer
            .reserve(HEADER_BYTES + payload.len() + HEAD_BYTES);
        self.buffer.extend_from_slice(&length.to_be_bytes());
        self.buffer.push(kind.code());
        self.buffer.extend_from_slice(&wall_us.to_be_bytes());
        self.buffer.extend_from_slice(&conn.to_be_bytes());
        let checksum = crc32fast::hash(&self.buffer[start..]);
        self.buffer.extend_from_slice(&checksum.to_be_bytes());
        self.buffer.extend_from_slice(payload);
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
        if self.buffer.is_empty() {
            return Ok(false);
        }
        let path = segment_path(&self.dir, self.number);
        let burst = std::mem::take(&mut self.buffer);
        self.write_bounded(&burst, &path)?;
        self.buffer = burst;
        self.buffer.clear();
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
        self.file.sync_data().map_err(io("syncing", &path))?;
        self.durable = self.written;
        Ok(())
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
        self.ends_at = SEGMENT_BYTES;
        self.ahead = ahead;
        // The start of a segment carries no time of its own: the first frame in it does.
        self.push_segment_start(0);
        self.sync()?;
        sync_dir(&self.dir)?;
        self.prune()
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
