//! The agent's journal: the records it must not forget, one line per committed burst.
//!
//! A line is a CRC-32 in hex, a space, and a JSON array of writes ([`line`]): a burst is there as a whole or not at
//! all. An empty array says that everything before it was on the disk when it was written. `journal/replay.rs` stops at
//! a torn end, which a crash leaves of what was not synced and nothing was ever said about; damage before it is
//! reported, never skipped. Once the file has grown well past what it describes, it is written anew from a snapshot; so
//! is one of an older format when it is opened, or as soon as there is room for that: until then it goes on as it is.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outpost_agent_core::mirror::Mirror;
use outpost_agent_core::record::{SessionRecord, Snapshot, Write};
use outpost_agent_keeper::failpoint;
use serde::{Deserialize, Serialize};

mod line;
mod replay;

use crate::ahead::{self, Ahead};
use crate::torn::{self, UNSYNCED};
use line::Told;
use replay::{Replayed, replay};

/// Version of the format; an agent refuses a journal of a newer one.
pub const VERSION: u32 = 2;
/// Bytes below which a journal is never written anew.
const COMPACT_FROM_BYTES: u64 = 4 * 1024 * 1024;
/// Bytes that are added before it is tried again to write a journal anew on a full disk.
const COMPACT_AGAIN_BYTES: u64 = 64 * 1024;
/// The first format in which a line may say what changed only.
const TELLS_STEPS: u32 = 2;
/// A line that says that everything before it is on the disk.
const SYNCED: &[u8] = b"[]";
/// Bytes from which on a line of a journal that is written anew ends: it has no bursts that must stay whole, and no line
/// of it may grow with what is held.
const ANEW_LINE_BYTES: usize = 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Header {
    outpost_journal: u32,
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system said no.
    #[error("{what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On this.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Written by a newer agent.
    #[error(
        "{path} has format {found}, and this agent knows formats up to {VERSION}: run the newer agent again, nothing was changed"
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// What is there is not what was written.
    #[error(
        "{path} is damaged at byte {offset}: restore the state directory, or move it away and enrol again; what ran then is unknown upstream"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where the first bad line begins.
        offset: u64,
    },
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Io { what, path, source }
}

/// The open journal. One per state directory: the caller holds the directory's lock.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Arc<File>,
    /// Of the file's format.
    version: u32,
    /// How often this process has written it anew.
    times_anew: u64,
    bytes: u64,
    /// Bytes that are surely on the disk.
    durable: u64,
    /// Bytes up to the last line that says so.
    said_synced: u64,
    /// Bytes right after the last time it was written anew.
    base_bytes: u64,
    /// Bytes from which on it may be written anew, when there was no room for that before.
    wait_until: u64,
    ahead: Ahead,
    mirror: Mirror,
    line: Vec<u8>,
}

/// How far a journal was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    times_anew: u64,
    bytes: u64,
}

impl Journal {
    /// Opens `dir/journal`, making it if there is none, and replays it.
    ///
    /// # Errors
    /// When it is damaged before its end, or of a newer format.
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        let path = dir.join("journal");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io("opening", &path))?;
        let mut mirror = Mirror::default();
        let Replayed {
            good,
            version,
            tail,
        } = replay(&path, &file, &mut mirror)?;
        let size = file.metadata().map_err(io("reading", &path))?.len();
        if size > good {
            file.set_len(good)
                .map_err(io("cutting the torn end of", &path))?;
        }
        // A sync that failed in an earlier process left the kernel with pages that it takes for written.
        torn::write_again(&file, tail, good).map_err(io("writing again", &path))?;
        let ahead = Ahead::of(&file, good).map_err(io("taking space for", &path))?;
        let mut journal = Self {
            path,
            file: Arc::new(file),
            version,
            times_anew: 0,
            bytes: good,
            durable: 0,
            said_synced: 0,
            base_bytes: good,
            wait_until: 0,
            ahead,
            mirror,
            line: Vec::new(),
        };
        (&*journal.file)
            .seek(SeekFrom::Start(good))
            .map_err(io("opening", &journal.path))?;
        if good == 0 {
            journal.push_line(&Header {
                outpost_journal: VERSION,
            });
            journal.write_line()?;
        }
        // What was read may be in the kernel only: a nonce that is presented must survive a power cut.
        journal.sync()?;
        if version < VERSION {
            journal.compact()?;
        }
        Ok(journal)
    }

    /// What is durable.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.mirror.snapshot()
    }

    /// Adds one burst; synced when one of its writes asks for it.
    ///
    /// # Errors
    /// Any error means that the process must end: the file may hold half a line, which only a replay can judge.
    pub fn commit(&mut self, writes: &[Write]) -> Result<(), JournalError> {
        if self.append(writes)? {
            self.sync()?;
        }
        Ok(())
    }

    /// Adds one burst without waiting for the disk: a crash of the process loses nothing of it. Answers whether one of
    /// its writes must be synced before anything is said because of it.
    ///
    /// # Errors
    /// As [`Journal::commit`].
    pub fn append(&mut self, writes: &[Write]) -> Result<bool, JournalError> {
        if writes.is_empty() {
            // While nothing new is taken nothing may be written: room that was made since is found here.
            if !self.ahead.is_enough() {
                self.take_space()?;
            }
            return Ok(false);
        }
        let is_due = writes.iter().any(|write| self.needs_sync(write));
        self.push_writes(writes);
        self.write_line()?;
        let is_long = self.bytes > COMPACT_FROM_BYTES && self.bytes > 2 * self.base_bytes;
        if (is_long || self.version < VERSION) && self.bytes > self.wait_until {
            self.compact()?;
        }
        self.take_space()?;
        Ok(is_due)
    }

    fn take_space(&mut self) -> Result<(), JournalError> {
        self.ahead
            .take(&self.file, self.bytes)
            .map_err(io("taking space for", &self.path))
    }

    /// Waits until everything added would survive a power cut.
    ///
    /// # Errors
    /// The process must end: what the kernel holds can no longer be trusted.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.file.sync_data().map_err(io("syncing", &self.path))?;
        self.durable = self.bytes;
        Ok(())
    }

    /// How far it is written now: for [`Journal::synced`], once that is on the disk.
    #[must_use]
    pub fn written(&self) -> Written {
        Written {
            times_anew: self.times_anew,
            bytes: self.bytes,
        }
    }

    /// Somebody else synced [`Journal::file`] after it was written so far.
    pub fn synced(&mut self, so_far: Written) {
        if so_far.times_anew == self.times_anew {
            self.durable = self.durable.max(so_far.bytes);
        }
    }

    /// The file that a sync is for, as of now.
    #[must_use]
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// The number of the newest command needs no sync: after a power cut a lower one only hears a command again.
    fn needs_sync(&self, write: &Write) -> bool {
        match write {
            Write::Session(new) => {
                let old = self.mirror.session();
                SessionRecord {
                    command_seq: old.command_seq,
                    ..*new
                } != old
            }
            Write::Attempt(_) | Write::Settled(_) | Write::Forgotten(_) | Write::Site(_) => {
                write.needs_sync()
            }
        }
    }

    /// Each write is told beside everything before it, the burst's own included.
    fn push_writes(&mut self, writes: &[Write]) {
        self.line.clear();
        if self.durable == self.bytes && self.said_synced < self.bytes {
            let begins = begin_line(&mut self.line);
            self.line.extend_from_slice(SYNCED);
            end_line(&mut self.line, begins);
            self.said_synced = self.bytes + self.line.len() as u64;
        }
        let begins = begin_line(&mut self.line);
        let mut before = b'[';
        for write in writes {
            self.line.push(before);
            before = b',';
            if self.version < TELLS_STEPS {
                push_json(&mut self.line, write);
            } else {
                push_json(&mut self.line, &Told::of(write, &self.mirror));
            }
            self.mirror.apply(write);
        }
        self.line.push(b']');
        end_line(&mut self.line, begins);
    }

    fn push_line<T: Serialize>(&mut self, value: &T) {
        self.line.clear();
        let begins = begin_line(&mut self.line);
        push_json(&mut self.line, value);
        end_line(&mut self.line, begins);
    }

    fn write_line(&mut self) -> Result<(), JournalError> {
        let added = self.line.len() as u64;
        let unsynced = self.bytes - self.durable;
        // Only when the syncs beside the loop, or the wish for one, are far behind.
        if unsynced > 0 && unsynced + added > UNSYNCED {
            self.sync()?;
        }
        (&*self.file)
            .write_all(&self.line)
            .map_err(io("writing to", &self.path))?;
        self.bytes += added;
        Ok(())
    }

    /// Bytes of the file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether there is space for the end of everything that is held.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.ahead.is_enough()
    }

    /// Writes the journal anew, unless the disk has no room for a second one: then the long one goes on.
    fn compact(&mut self) -> Result<(), JournalError> {
        match self.write_anew() {
            Err(JournalError::Io { source, .. }) if ahead::is_full(&source) => {
                self.wait_until = self.bytes + COMPACT_AGAIN_BYTES;
                tracing::warn!("no room to write {} anew: {source}", self.path.display());
                Ok(())
            }
            written => written,
        }
    }

    /// Writes the journal anew beside the old one and puts it in its place. The old one stays when that fails.
    fn write_anew(&mut self) -> Result<(), JournalError> {
        let temp = self.path.with_extension("new");
        failpoint::reach("runner-rewriting");
        let written = self.write_beside(&temp);
        let (file, bytes, ahead) = match written {
            Ok(written) => written,
            Err(error) => {
                // Whatever of it is there takes room; the next try begins with an empty one.
                let _ = std::fs::remove_file(&temp);
                return Err(error);
            }
        };
        failpoint::reach("runner-rewritten");
        std::fs::rename(&temp, &self.path).map_err(io("replacing", &self.path))?;
        failpoint::reach("runner-replaced");
        let dir = self.path.parent().unwrap_or(Path::new("."));
        // The old file has no name any more: what fails from here on is the end, a full disk too.
        let fatal = |error: std::io::Error| io("syncing", dir)(std::io::Error::other(error));
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(fatal)?;
        self.file = Arc::new(file);
        self.version = VERSION;
        self.times_anew += 1;
        self.bytes = bytes;
        self.durable = bytes;
        self.said_synced = bytes;
        self.base_bytes = bytes;
        self.wait_until = 0;
        self.ahead = ahead;
        Ok(())
    }

    /// The same journal in another file, synced, with the space that it needs from then on.
    fn write_beside(&mut self, temp: &Path) -> Result<(File, u64, Ahead), JournalError> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(temp)
            .map_err(io("making", temp))?;
        let mut bytes = 0;
        let mut write = |line: &[u8]| {
            bytes += line.len() as u64;
            file.write_all(line).map_err(io("writing to", temp))
        };
        self.push_line(&Header {
            outpost_journal: VERSION,
        });
        write(&self.line)?;
        let mut writes = self.mirror.writes().peekable();
        while writes.peek().is_some() {
            self.line.clear();
            push_some(&mut self.line, &mut writes);
            write(&self.line)?;
        }
        let ahead = Ahead::of(&file, bytes).map_err(io("taking space for", temp))?;
        if !ahead.is_enough() {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(io("taking space for", temp)(full));
        }
        file.sync_data().map_err(io("syncing", temp))?;
        Ok((file, bytes, ahead))
    }
}

/// What the journal in `dir` holds, without opening it for writing: for people who look while no runner has it.
///
/// # Errors
/// As [`Journal::open`].
pub fn peek(dir: &Path) -> Result<Snapshot, JournalError> {
    let path = dir.join("journal");
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Snapshot::default());
        }
        file => file.map_err(io("opening", &path))?,
    };
    let mut mirror = Mirror::default();
    replay(&path, &file, &mut mirror)?;
    Ok(mirror.snapshot())
}

/// A line with so many of them that it is long enough.
fn push_some(line: &mut Vec<u8>, writes: &mut impl Iterator<Item = Write>) {
    let begins = begin_line(line);
    let mut before = b'[';
    while line.len() < ANEW_LINE_BYTES
        && let Some(write) = writes.next()
    {
        line.push(before);
        before = b',';
        push_json(line, &write);
    }
    line.push(b']');
    end_line(line, begins);
}

/// Answers where it begins.
fn begin_line(line: &mut Vec<u8>) -> usize {
    let begins = line.len();
    line.extend_from_slice(b"00000000 ");
    begins
}

fn end_line(line: &mut Vec<u8>, begins: usize) {
    let ended = &mut line[begins..];
    let checksum = format!("{:08x}", crc32fast::hash(&ended[9..]));
    ended[..8].copy_from_slice(checksum.as_bytes());
    line.push(b'\n');
}

/// Our own records are plain data: serialising them into memory cannot fail.
fn push_json<T: Serialize>(line: &mut Vec<u8>, value: &T) {
    let written = serde_json::to_writer(line, value);
    debug_assert!(written.is_ok(), "records are plain data");
}

#[cfg(test)]
mod tests;
