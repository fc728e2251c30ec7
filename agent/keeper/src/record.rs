//! The keeper's files in an attempt's directory: who the keeper is, who made the claim, how the attempt ended.
//!
//! Written by the keeper, read by the spawner and by the runner (through [`crate::adopt`]). Every file appears whole
//! (temporary name, then rename or link); the exit record carries a checksum and has its disk space before the task
//! starts.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::process::ProcessRef;
use crate::protocol::{Containment, ExitRecord, NEWEST_READ, OLDEST_READ};

/// Who may start or report an attempt: made once, with `O_EXCL`.
pub const CLAIM: &str = "claim";
/// Who the keeper is.
pub const KEEPER: &str = "keeper.json";
/// Where a later runner finds the keeper.
pub const SOCKET: &str = "keeper.sock";
/// How the attempt ended.
pub const EXIT: &str = "exit.json";

const EXIT_RESERVED: &str = "exit.tmp";
const KEEPER_NEW: &str = "keeper.tmp";
/// Longer than any exit record: fields are fixed but for a text of 512 bytes.
const EXIT_BYTES: usize = 8192;
const CRC_START: &str = "{\"crc32\":\"";
const RECORD_START: &str = "\",\"record\":";

/// Who keeps an attempt: `keeper.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeeperRecord {
    /// Version of the record.
    pub version: u8,
    /// Version of the keeper's binary.
    pub binary: String,
    /// The attempt's id.
    pub attempt: String,
    /// Boot id of the kernel it runs under.
    pub boot_id: String,
    /// The keeper itself.
    pub keeper: ProcessRef,
    /// How the task's processes are held together; `None` before that is decided.
    #[serde(default)]
    pub containment: Option<Containment>,
    /// The task's leaf cgroup, if it has one.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
    /// The task's first process (in a pid namespace its init), once there is one.
    #[serde(default)]
    pub task: Option<ProcessRef>,
}

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system refused.
    #[error("`{}` cannot be read", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what was written. The attempt's end is unknown; nothing must be concluded from the file.
    #[error("`{}` is damaged: {what}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// Disk space for the exit record, taken before the task starts, so that a full disk cannot cost an outcome.
#[derive(Debug)]
pub(crate) struct ExitSlot {
    file: File,
    written: bool,
}

fn create(dir: BorrowedFd<'_>, name: &str, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(File::from(rustix::fs::openat(
        dir,
        name,
        flags,
        Mode::RUSR | Mode::WUSR,
    )?))
}

impl ExitSlot {
    /// Takes the space.
    pub(crate) fn reserve(dir: BorrowedFd<'_>) -> io::Result<Self> {
        let mut file = create(dir, EXIT_RESERVED, OFlags::TRUNC)?;
        file.write_all(&[b' '; EXIT_BYTES])?;
        Ok(Self {
            file,
            written: false,
        })
    }

    /// Whether the record is on disk.
    pub(crate) fn is_written(&self) -> bool {
        self.written
    }

    /// Puts the record into the directory, whole or not at all; may be tried again.
    ///
    /// It is not synced: a crash of any process keeps it, and after a power cut the boot id already answers that the
    /// task was interrupted, whatever this file says.
    pub(crate) fn write(&mut self, dir: BorrowedFd<'_>, record: &ExitRecord) -> io::Result<()> {
        let bytes = encode_exit(record)?;
        self.file.write_all_at(&bytes, 0)?;
        self.file.set_len(bytes.len() as u64)?;
        rustix::fs::renameat(dir, EXIT_RESERVED, dir, EXIT)?;
        self.written = true;
        Ok(())
    }

    /// Gives the space back: there will be no record.
    pub(crate) fn discard(self, dir: BorrowedFd<'_>) {
        let _ = rustix::fs::unlinkat(dir, EXIT_RESERVED, AtFlags::empty());
    }
}

/// The checksum is over the record's exact bytes, so that fields of a newer version are covered too.
fn encode_exit(record: &ExitRecord) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(record)?;
    let mut bytes = format!("{CRC_START}{:08x}{RECORD_START}", crc32fast::hash(&body)).into_bytes();
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(b"}\n");
    Ok(bytes)
}

fn decode_exit(bytes: &[u8]) -> Result<ExitRecord, String> {
    let rest = bytes
        .strip_prefix(CRC_START.as_bytes())
        .ok_or("it does not begin with a checksum")?;
    let (sum, rest) = rest
        .split_at_checked(8)
        .ok_or("it ends within the checksum")?;
    let rest = rest
        .strip_prefix(RECORD_START.as_bytes())
        .ok_or("it holds no record")?;
    let body = rest
        .strip_suffix(b"}\n")
        .ok_or("it does not end as a record does")?;
    if sum != format!("{:08x}", crc32fast::hash(body)).as_bytes() {
        return Err("its checksum does not match".to_owned());
    }
    let record: ExitRecord = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    check_version(record.version)?;
    Ok(record)
}

fn check_version(version: u8) -> Result<(), String> {
    if (OLDEST_READ..=NEWEST_READ).contains(&version) {
        return Ok(());
    }
    Err(format!(
        "it has version {version}; this build reads {OLDEST_READ} to {NEWEST_READ}"
    ))
}

fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>, RecordError> {
    let fail = |source| RecordError::Io {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mut bytes = Vec::new();
    file.take(64 * 1024).read_to_end(&mut bytes).map_err(fail)?;
    Ok(Some(bytes))
}

/// Reads `exit.json`; `None` when the attempt has not ended.
///
/// # Errors
/// `Damaged` when a single bit of it is not what the keeper wrote.
pub fn read_exit_record(dir: &Path) -> Result<Option<ExitRecord>, RecordError> {
    let path = dir.join(EXIT);
    let Some(bytes) = read_bounded(&path)? else {
        return Ok(None);
    };
    decode_exit(&bytes)
        .map(Some)
        .map_err(|what| RecordError::Damaged { path, what })
}

/// Reads `keeper.json`; `None` when no keeper ever was here.
///
/// # Errors
/// `Damaged` when it is no such record.
pub fn read_keeper_record(dir: &Path) -> Result<Option<KeeperRecord>, RecordError> {
    let path = dir.join(KEEPER);
    let Some(bytes) = read_bounded(&path)? else {
        return Ok(None);
    };
    let parsed = serde_json::from_slice::<KeeperRecord>(&bytes).map_err(|error| error.to_string());
    let checked = parsed.and_then(|record| check_version(record.version).map(|()| record));
    checked
        .map(Some)
        .map_err(|what| RecordError::Damaged { path, what })
}

/// Writes `keeper.json` for the first time; `false` when another keeper was here before.
pub(crate) fn register_keeper(dir: BorrowedFd<'_>, record: &KeeperRecord) -> io::Result<bool> {
    write_new(dir, record)?;
    let linked = rustix::fs::linkat(dir, KEEPER_NEW, dir, KEEPER, AtFlags::empty());
    let _ = rustix::fs::unlinkat(dir, KEEPER_NEW, AtFlags::empty());
    match linked {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Replaces `keeper.json`.
pub(crate) fn update_keeper(dir: BorrowedFd<'_>, record: &KeeperRecord) -> io::Result<()> {
    write_new(dir, record)?;
    Ok(rustix::fs::renameat(dir, KEEPER_NEW, dir, KEEPER)?)
}

fn write_new(dir: BorrowedFd<'_>, record: &KeeperRecord) -> io::Result<()> {
    let _ = rustix::fs::unlinkat(dir, KEEPER_NEW, AtFlags::empty());
    create(dir, KEEPER_NEW, OFlags::EXCL)?.write_all(&serde_json::to_vec(record)?)
}

/// Makes the claim on an attempt; `false` when somebody has made it before.
pub(crate) fn claim(dir: BorrowedFd<'_>, who: &str) -> io::Result<bool> {
    let file = match create(dir, CLAIM, OFlags::EXCL) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(error),
    };
    // The name is what counts; who made it is for people.
    let _ = (&file).write_all(who.as_bytes());
    Ok(true)
}

/// Whether anybody has made the claim.
pub(crate) fn is_claimed(dir: BorrowedFd<'_>) -> bool {
    rustix::fs::statat(dir, CLAIM, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// The directory of an attempt, opened.
pub(crate) fn open(dir: &Path) -> io::Result<OwnedFd> {
    crate::socket::open_dir(dir)
}

/// The same, borrowed for the calls above.
pub(crate) fn claim_at(dir: &Path, who: &str) -> io::Result<bool> {
    claim(open(dir)?.as_fd(), who)
}
