//! What a keeper's files say of an attempt: who the keeper is, what it runs, how that ended.
//!
//! Read by the spawner, by the runner (through [`crate::adopt`]) and by people's commands; written in `claim`.
//! Attempts that an older build's keeper holds have three files instead of one; they are read here too, so that an
//! upgrade finds its tasks.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::claim::{self, Line};
use crate::process::ProcessRef;
use crate::protocol::{About, Containment, ExitRecord, NEWEST_READ, OLDEST_READ};
use crate::seal::{SealedWith, Witness};

/// Who may start or report an attempt: made once, whole, under a name that can be made only once.
pub const CLAIM: &str = "claim";
/// Where a later runner finds the keeper: there once the keeper's first runner is gone.
pub const SOCKET: &str = "keeper.sock";
/// How the names of directories begin, beside those of attempts, that keepers have made for attempts to come.
pub const SPARE: &str = ".spare.";
/// Who the keeper is, in version 1.
pub const KEEPER_V1: &str = "keeper.json";
/// How the attempt ended, in version 1.
pub const EXIT_V1: &str = "exit.json";

/// What a claim says that is not a keeper's of a newer version: a runner's, a keeper's of version 1, and one that lost what
/// it said when the power went.
const ELSEWHERE: [&[u8]; 3] = [b"runner", b"keeper", b""];

/// Longer than any of these files.
const FILE_BYTES: u64 = 64 * 1024;
/// A line may be read while it is written: then it is read again, this often and this far apart.
const READS: u32 = 3;
const READ_AGAIN: Duration = Duration::from_millis(1);

/// Who keeps an attempt.
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
    /// The task's first process (in a pid namespace its init), once it is known and worth a line.
    #[serde(default)]
    pub task: Option<ProcessRef>,
    /// What the attempt is, for people.
    #[serde(default)]
    pub about: Option<About>,
    /// Whether its log is encrypted: one that is not is then not its log.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sealed: bool,
    /// With which key. A keeper that says so signs each line of the record; one of an older build says nothing here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_with: Option<SealedWith>,
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

/// A claim's content.
enum Claimed {
    /// There is none.
    Not,
    /// A runner's, or a keeper's of version 1: whatever is known lies elsewhere.
    Elsewhere,
    /// A keeper's.
    Here(Box<Kept>),
}

struct Kept {
    keeper: KeeperRecord,
    /// What follows the keeper's own line may be damaged, and says nothing then; who keeps the attempt is known.
    exit: Result<Option<ExitRecord>, String>,
}

fn read_claim(dir: &Path) -> Result<Claimed, RecordError> {
    let path = dir.join(CLAIM);
    let mut reads = 0;
    loop {
        let Some(bytes) = read_bounded(&path)? else {
            return Ok(Claimed::Not);
        };
        if ELSEWHERE.contains(&bytes.as_slice()) {
            return Ok(Claimed::Elsewhere);
        }
        reads += 1;
        let kept = kept(&bytes);
        let is_whole = kept.as_ref().is_ok_and(|kept| kept.exit.is_ok());
        if !is_whole && reads < READS {
            std::thread::sleep(READ_AGAIN);
            continue;
        }
        return match kept {
            Ok(kept) => Ok(Claimed::Here(Box::new(kept))),
            Err(what) => Err(RecordError::Damaged { path, what }),
        };
    }
}

fn kept(bytes: &[u8]) -> Result<Kept, String> {
    let mut lines = claim::lines(bytes);
    let Some(Line::Keeper(mut keeper)) = lines.next().transpose()? else {
        return Err("it does not begin with its keeper".to_owned());
    };
    check_version(keeper.version)?;
    let exit = exit_in(lines, &mut keeper);
    Ok(Kept {
        keeper: *keeper,
        exit,
    })
}

fn exit_in(
    lines: impl Iterator<Item = Result<Line, String>>,
    keeper: &mut KeeperRecord,
) -> Result<Option<ExitRecord>, String> {
    let mut exit = None;
    for line in lines {
        match line? {
            Line::Keeper(_) => return Err("it names two keepers".to_owned()),
            Line::Task(process) => keeper.task = Some(process),
            Line::Exit(record) => {
                check_version(record.version)?;
                exit = Some(*record);
            }
        }
    }
    Ok(exit)
}

/// How the attempt ended; `None` when it has not.
///
/// # Errors
/// `Damaged` when a single bit of it is not what the keeper wrote.
pub fn read_exit_record(dir: &Path) -> Result<Option<ExitRecord>, RecordError> {
    match read_claim(dir)? {
        Claimed::Here(kept) => kept.exit.map_err(|what| RecordError::Damaged {
            path: dir.join(CLAIM),
            what,
        }),
        Claimed::Not | Claimed::Elsewhere => read_v1(&dir.join(EXIT_V1), |bytes| {
            let line = bytes
                .strip_suffix(b"\n")
                .ok_or("it does not end as a record does")?;
            let record: ExitRecord =
                serde_json::from_slice(claim::unwrap(line)?).map_err(|error| error.to_string())?;
            check_version(record.version).map(|()| record)
        }),
    }
}

/// Who keeps, or kept, the attempt; `None` when no keeper has spoken for it.
///
/// # Errors
/// `Damaged` when it is no such record. Damage behind the keeper's own line does not matter here.
pub fn read_keeper_record(dir: &Path) -> Result<Option<KeeperRecord>, RecordError> {
    match read_claim(dir)? {
        Claimed::Here(kept) => Ok(Some(kept.keeper)),
        Claimed::Not | Claimed::Elsewhere => read_v1(&dir.join(KEEPER_V1), |bytes| {
            let record: KeeperRecord =
                serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
            check_version(record.version).map(|()| record)
        }),
    }
}

/// Whether every line of the attempt's record is as the keeper of its encrypted log wrote it; also of a record that is
/// still written to. What follows the last line may be missing, its end above all.
///
/// # Errors
/// As [`read_keeper_record`]; `Damaged` names the first line that was changed, came from elsewhere, or is not signed.
pub fn check_record(dir: &Path, witness: &Witness) -> Result<(), RecordError> {
    let path = dir.join(CLAIM);
    let damaged = |what: String| RecordError::Damaged {
        path: path.clone(),
        what,
    };
    let mut reads = 0;
    loop {
        let bytes = read_bounded(&path)?.unwrap_or_default();
        reads += 1;
        match signed(&bytes, witness) {
            Err(_) if reads < READS => std::thread::sleep(READ_AGAIN),
            checked => return checked.map_err(damaged),
        }
    }
}

fn signed(bytes: &[u8], witness: &Witness) -> Result<(), String> {
    let mut lines = 0;
    for body in claim::bodies(bytes) {
        lines += 1;
        if !witness.vouches_for(body?) {
            return Err(format!(
                "its line {lines} is not what the attempt's keeper wrote"
            ));
        }
    }
    if lines == 0 {
        return Err("it says nothing".to_owned());
    }
    Ok(())
}

fn read_v1<T>(
    path: &Path,
    parse: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Result<Option<T>, RecordError> {
    let Some(bytes) = read_bounded(path)? else {
        return Ok(None);
    };
    parse(&bytes)
        .map(Some)
        .map_err(|what| RecordError::Damaged {
            path: path.to_owned(),
            what,
        })
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
    read_plain(path, FILE_BYTES).map_err(|source| RecordError::Io {
        path: path.to_owned(),
        source,
    })
}

/// At most so many bytes of a file; `None` where nothing is. What is no file is neither waited for nor believed.
pub(crate) fn read_plain(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// The directory of an attempt, opened.
pub(crate) fn open(dir: &Path) -> io::Result<OwnedFd> {
    crate::socket::open_dir(dir)
}
