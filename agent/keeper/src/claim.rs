//! The one file that a keeper leaves of an attempt: `claim`, made whole and exactly once right before exec.
//!
//! Its name is the claim, its lines are who keeps the attempt, the task's process once it is worth a line, and how the
//! attempt ended. Each line carries a checksum, the rest of the file is line ends: the disk space of the last line is
//! there before the task starts. A runner that claims in a keeper's place writes one word instead.
//!
//! Written by the keeper only, and read by [`crate::record`] for everybody.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::failpoint;
use crate::process::ProcessRef;
use crate::protocol::ExitRecord;
use crate::record::{CLAIM, KeeperRecord};
use crate::seal::Witness;

/// Bytes of the file. Records are a few hundred bytes each, but for a text of 512 bytes that may need escapes.
const FILE_BYTES: usize = 4096;
/// What a runner writes.
pub(crate) const BY_RUNNER: &str = "runner";

const CRC_START: &str = "{\"crc32\":\"";
const RECORD_START: &str = "\",\"record\":";

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// Who keeps the attempt: the first line.
    Keeper(Box<KeeperRecord>),
    /// The task's first process; a task that ends within moments has no such line.
    Task(ProcessRef),
    /// How it ended: the last line.
    Exit(Box<ExitRecord>),
}

/// A claim that is written and not made yet.
#[derive(Debug)]
pub(crate) struct Draft {
    file: File,
    name: String,
    used: u64,
    witness: Option<Witness>,
}

/// The claim that this keeper made, open for what follows.
#[derive(Debug)]
pub(crate) struct Claim {
    file: File,
    used: u64,
    /// Signs each line, where the attempt's log is encrypted.
    witness: Option<Witness>,
    over: bool,
}

impl Draft {
    /// Writes everything that must be there when the name appears, and takes the disk space of what follows.
    pub(crate) fn write(
        dir: BorrowedFd<'_>,
        record: KeeperRecord,
        witness: Option<Witness>,
    ) -> io::Result<Self> {
        let keeper = record.keeper.pid;
        let bytes = encode(&Line::Keeper(Box::new(record)), witness.as_ref())?;
        let mut draft = Self::of(dir, keeper, bytes)?;
        draft.witness = witness;
        Ok(draft)
    }

    /// Takes the disk space of a claim, and says nothing yet.
    pub(crate) fn blank(dir: BorrowedFd<'_>, keeper: u32) -> io::Result<Self> {
        Self::of(dir, keeper, Vec::new())
    }

    /// Writes what must be there when the name appears into a blank draft.
    pub(crate) fn fill(
        mut self,
        dir: BorrowedFd<'_>,
        record: KeeperRecord,
        witness: Option<Witness>,
    ) -> io::Result<Self> {
        let bytes = encode(&Line::Keeper(Box::new(record)), witness.as_ref())?;
        match self.file.write_all_at(&bytes, 0) {
            Ok(()) => {
                self.used = bytes.len() as u64;
                self.witness = witness;
                Ok(self)
            }
            Err(error) => {
                self.discard(dir);
                Err(error)
            }
        }
    }

    fn of(dir: BorrowedFd<'_>, keeper: u32, mut bytes: Vec<u8>) -> io::Result<Self> {
        // Two keepers of one attempt, which a restarted spawner may make, must not share a draft.
        let name = format!("{CLAIM}.{keeper}");
        let used = bytes.len() as u64;
        bytes.resize(bytes.len().max(FILE_BYTES), b'\n');
        let mut file = create(dir, &name)?;
        let written = file.write_all(&bytes);
        let draft = Self {
            file,
            name,
            used,
            witness: None,
        };
        match written {
            Ok(()) => Ok(draft),
            Err(error) => {
                draft.discard(dir);
                Err(error)
            }
        }
    }

    /// Makes the claim; `None` when somebody has made it before.
    pub(crate) fn make(self, dir: BorrowedFd<'_>) -> io::Result<Option<Claim>> {
        let is_made = give_name(dir, &self.name)?;
        Ok(is_made.then_some(Claim {
            file: self.file,
            used: self.used,
            witness: self.witness,
            over: false,
        }))
    }

    /// Takes the draft away: there will be no claim.
    pub(crate) fn discard(self, dir: BorrowedFd<'_>) {
        remove(dir, &self.name);
    }
}

impl Claim {
    /// Names the task's process.
    pub(crate) fn task(&mut self, process: ProcessRef) -> io::Result<()> {
        self.append(&Line::Task(process))
    }

    /// Says how the attempt ended; may be tried again.
    ///
    /// It is not synced: a crash of any process keeps it, and after a power cut the boot id already answers that the
    /// task was interrupted, whatever this file says.
    pub(crate) fn exit(&mut self, record: &ExitRecord) -> io::Result<()> {
        self.append(&Line::Exit(Box::new(record.clone())))?;
        self.over = true;
        Ok(())
    }

    /// Whether the end is on disk.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        let bytes = encode(line, self.witness.as_ref())?;
        self.file.write_all_at(&bytes, self.used)?;
        self.used += bytes.len() as u64;
        Ok(())
    }
}

/// The checksum is over the record's exact bytes, so that fields of a newer version are covered too.
fn encode(line: &Line, witness: Option<&Witness>) -> io::Result<Vec<u8>> {
    let mut body = serde_json::to_vec(line)?;
    if let Some(witness) = witness {
        let failed = |error: crate::seal::Failed| io::Error::other(error.to_string());
        witness.sign(&mut body).map_err(failed)?;
    }
    Ok(wrap(&body))
}

fn wrap(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FILE_BYTES);
    bytes.extend_from_slice(CRC_START.as_bytes());
    let _ = write!(bytes, "{:08x}", crc32fast::hash(body));
    bytes.extend_from_slice(RECORD_START.as_bytes());
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(b"}\n");
    bytes
}

/// The bytes of a line's record, if they are what was written.
pub(crate) fn unwrap(line: &[u8]) -> Result<&[u8], &'static str> {
    let rest = line
        .strip_prefix(CRC_START.as_bytes())
        .ok_or("it does not begin with a checksum")?;
    let (sum, rest) = rest
        .split_at_checked(8)
        .ok_or("it ends within the checksum")?;
    let rest = rest
        .strip_prefix(RECORD_START.as_bytes())
        .ok_or("it holds no record")?;
    let body = rest
        .strip_suffix(b"}")
        .ok_or("it does not end as a record does")?;
    if sum != format!("{:08x}", crc32fast::hash(body)).as_bytes() {
        return Err("its checksum does not match");
    }
    Ok(body)
}

/// Every line of a claim, each as it was written or what is wrong with it.
pub(crate) fn lines(bytes: &[u8]) -> impl Iterator<Item = Result<Line, String>> {
    bodies(bytes).map(|body| serde_json::from_slice(body?).map_err(|error| error.to_string()))
}

/// The bytes of each line's record.
pub(crate) fn bodies(bytes: &[u8]) -> impl Iterator<Item = Result<&[u8], &'static str>> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| *line != b"\n").map(|line| {
        let line = line
            .strip_suffix(b"\n")
            .ok_or("it does not end as a record does")?;
        unwrap(line)
    })
}

/// Makes the claim in a keeper's place, whole as a keeper does; `false` when somebody has made it before.
pub(crate) fn by_runner(dir: BorrowedFd<'_>) -> io::Result<bool> {
    failpoint::reach("runner-claiming");
    // A keeper's draft is named by a process id; a runner may live in another pid namespace.
    let name = format!("{CLAIM}.{BY_RUNNER}.{}", std::process::id());
    let mut file = create(dir, &name)?;
    if let Err(error) = file.write_all(BY_RUNNER.as_bytes()) {
        remove(dir, &name);
        return Err(error);
    }
    failpoint::reach("runner-drafted");
    let is_made = give_name(dir, &name)?;
    failpoint::reach("runner-claimed");
    Ok(is_made)
}

/// A draft's file, new and empty.
fn create(dir: BorrowedFd<'_>, name: &str) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let create = || rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR);
    let file = match create() {
        Err(Errno::EXIST) => {
            // Of a dead process that had the same id.
            rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
            create()?
        }
        created => created?,
    };
    Ok(File::from(file))
}

/// Makes a draft the claim; `false` when somebody has made it before, and then the draft is gone.
fn give_name(dir: BorrowedFd<'_>, draft: &str) -> io::Result<bool> {
    let made = match rustix::fs::renameat_with(dir, draft, dir, CLAIM, RenameFlags::NOREPLACE) {
        // A file system that cannot rename so can link so.
        Err(Errno::INVAL | Errno::NOSYS) => {
            let linked = rustix::fs::linkat(dir, draft, dir, CLAIM, AtFlags::empty());
            linked.map(|()| remove(dir, draft))
        }
        made => made,
    };
    match made {
        Ok(()) => Ok(true),
        Err(errno) => {
            remove(dir, draft);
            if errno == Errno::EXIST {
                Ok(false)
            } else {
                Err(errno.into())
            }
        }
    }
}

/// What is left of a draft goes with its directory.
fn remove(dir: BorrowedFd<'_>, name: &str) {
    let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
}

/// Whether anybody has made the claim.
pub(crate) fn is_made(dir: BorrowedFd<'_>) -> bool {
    rustix::fs::statat(dir, CLAIM, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}
