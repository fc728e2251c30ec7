//! A copy of the database that can be kept elsewhere, and the way back from one.
//!
//! A backup is one consistent state, taken while a server runs. A restored database begins another life: agents see
//! that by its recovery epoch, and tell what it lacks before they get new work. What is there is never overwritten.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use outpost_orchestrator_core::record::{Notice, NoticeKind, Write};
use outpost_orchestrator_core::safety::Safety;
use outpost_proto::ids::RecoveryEpoch;
use outpost_proto::name::TenantName;
use rusqlite::{Connection, OpenFlags};

use super::sqlite::{FILE, Sqlite, make_private_dir, read_recovery};
use super::{OpenError, StoreError, migrate, owner};

/// Until a file is whole it has this name besides its own.
const PART: &str = "part";
/// Where a database is made ready before it is the one.
const STAGE: &str = "restoring";

/// Why a backup was not made, or not restored. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The database to copy.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A database that was just restored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is one already.
    #[error("{} exists already; nothing was changed", .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("there is no backup at {}", .0.display())]
    Missing(PathBuf),
    /// A database is where one is to be restored.
    #[error(
        "a database is at {} already; nothing was changed: give --force to move it aside first",
        .0.display()
    )]
    InTheWay(PathBuf),
    /// What was copied is not whole.
    #[error("{} is damaged and was not used: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite's check found first.
        why: String,
    },
    /// SQLite refused.
    #[error("{}: {error}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        error: rusqlite::Error,
    },
    /// The file system refused.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The life of the database that begins.
    pub recovery: RecoveryEpoch,
    /// Agents that are asked before new work is given out.
    pub agents: usize,
    /// Where the database that was there is now.
    pub aside: Option<PathBuf>,
}

fn sqlite(path: &Path) -> impl FnOnce(rusqlite::Error) -> BackupError {
    let path = path.to_owned();
    move |error| BackupError::Sqlite { path, error }
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |error| BackupError::Io { path, error }
}

/// Writes the database in `dir` as it is now to a new file, whether a server runs or not. It is complete and on the
/// disk when this answers. Gives its size in bytes.
///
/// # Errors
/// [`BackupError`]
pub fn backup(dir: &Path, to: &Path) -> Result<u64, BackupError> {
    let from = super::sqlite::existing(dir)?;
    if to.exists() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let part = beside(to, PART);
    copy(&from, &part)?;
    put(&part, to)?;
    Ok(to.metadata().map_err(file(to))?.len())
}

/// Makes the backup the database of `dir`, under a new life: a counter above the backup's, above that of the database
/// that is there, and at least `least`, and a random `database`. The caller holds the directory's lock.
///
/// # Errors
/// [`BackupError`]
pub async fn restore(
    dir: &Path,
    from: &Path,
    (least, database): (u32, u64),
    force: bool,
    now: u64,
) -> Result<Restored, BackupError> {
    if !from.exists() {
        return Err(BackupError::Missing(from.to_owned()));
    }
    make_private_dir(dir).map_err(file(dir))?;
    let to = dir.join(FILE);
    if to.exists() && !force {
        return Err(BackupError::InTheWay(to));
    }
    // Whole before it has its name: a crash on the way leaves what was there.
    let stage = dir.join(STAGE);
    make_private_dir(&stage).map_err(file(&stage))?;
    let part = stage.join(FILE);
    copy(from, &part)?;
    migrate::check(&part).await?;
    migrate::run(&part).await?;
    let present = to.exists().then(|| life_of(&to)).transpose()?;
    let known = life_of(&part)?
        .counter
        .max(present.map_or(0, |life| life.counter));
    let recovery = RecoveryEpoch {
        counter: known.saturating_add(1).max(least),
        database,
    };
    begin_life(&part, recovery, now)?;
    let agents = tell(&stage, now).await?;
    fold(&part)?;
    let aside = to.exists().then(|| move_aside(&to, now)).transpose()?;
    put(&part, &to)?;
    remove(&part)?;
    std::fs::remove_dir(&stage).map_err(file(&stage))?;
    Ok(Restored {
        recovery,
        agents,
        aside,
    })
}

/// A consistent copy in one file, checked. Only the copy is written.
fn copy(from: &Path, to: &Path) -> Result<(), BackupError> {
    remove(to)?;
    // Empty and ours alone before anything is in it.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(file(to))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(from, flags).map_err(sqlite(from))?;
    let target = to.to_string_lossy();
    source
        .execute("VACUUM INTO ?1", [target.as_ref()])
        .map_err(sqlite(from))?;
    let copied = Connection::open_with_flags(to, flags).map_err(sqlite(to))?;
    let found: String = copied
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(sqlite(to))?;
    drop(copied);
    if found != "ok" {
        remove(to)?;
        return Err(BackupError::Damaged {
            path: from.to_owned(),
            why: found,
        });
    }
    Ok(())
}

fn life_of(path: &Path) -> Result<RecoveryEpoch, BackupError> {
    let connection = Connection::open(path).map_err(sqlite(path))?;
    read_recovery(&connection).map_err(sqlite(path))
}

fn begin_life(path: &Path, recovery: RecoveryEpoch, now: u64) -> Result<(), BackupError> {
    const SQL: &str = "INSERT INTO meta(key, value) VALUES (?1, ?2) \
        ON CONFLICT DO UPDATE SET value = excluded.value";
    let mut connection = Connection::open(path).map_err(sqlite(path))?;
    let tx = connection.transaction().map_err(sqlite(path))?;
    let life = serde_json::to_string(&recovery)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()));
    tx.execute(SQL, ["recovery", &life.map_err(sqlite(path))?])
        .map_err(sqlite(path))?;
    tx.execute(SQL, ["restored_at", &now.to_string()])
        .map_err(sqlite(path))?;
    owner::vacate(&tx).map_err(sqlite(path))?;
    tx.commit().map_err(sqlite(path))
}

/// Everything in one file: what stands in a write-ahead log would be left behind by a move.
fn fold(path: &Path) -> Result<(), BackupError> {
    let connection = Connection::open(path).map_err(sqlite(path))?;
    connection
        .pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))
        .map_err(sqlite(path))
}

/// Gives a finished file its name, durably.
fn put(part: &Path, to: &Path) -> Result<(), BackupError> {
    File::open(part)
        .and_then(|part| part.sync_all())
        .map_err(file(part))?;
    std::fs::rename(part, to).map_err(file(to))?;
    let dir = match to.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        Some(_) | None => Path::new("."),
    };
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(file(dir))
}

/// The database that was there keeps its content under another name, with what belongs to it.
fn move_aside(path: &Path, now: u64) -> Result<PathBuf, BackupError> {
    let aside = beside(path, &format!("before-restore-{}", now / 1_000_000));
    for suffix in ["-wal", "-shm", ""] {
        let (from, to) = (with_suffix(path, suffix), with_suffix(&aside, suffix));
        match std::fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(file(&from)(error)),
        }
    }
    Ok(aside)
}

/// Says in every tenant's events that this happened, and lets fences leap: those of attempts that the backup does not
/// know are not given out again. Gives the number of agents that are to report.
async fn tell(dir: &Path, now: u64) -> Result<usize, BackupError> {
    let mut store = Sqlite::open(dir).await?;
    let snapshot = store.snapshot(now)?;
    let recovery = snapshot.recovery;
    let mut writes = Vec::new();
    let before = recovery.counter.saturating_sub(1);
    let told = |tenant: &TenantName| {
        let mut agents = snapshot.agents.iter();
        agents.all(|agent| {
            agent.tenant != *tenant || agent.removed || agent.standing.reported >= before
        })
    };
    for mut tenant in snapshot.tenants.iter().cloned() {
        writes.push(Write::Notice(Notice {
            tenant: tenant.tenant.clone(),
            at: now.max(store.clock().now().0),
            what: NoticeKind::Safety {
                what: Safety::Restored,
                agent: None,
                attempt: None,
                by: None,
                reason: Some(format!("recovery epoch {}", recovery.counter)),
            },
        }));
        let told = told(&tenant.tenant);
        tenant.restored(told);
        writes.push(Write::Tenant(tenant));
    }
    let agents = snapshot
        .agents
        .iter()
        .filter(|agent| !agent.removed)
        .count();
    store.write(&writes).map_err(StoreError::from)?;
    store.close()?;
    Ok(agents)
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    PathBuf::from(name)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn remove(path: &Path) -> Result<(), BackupError> {
    for suffix in ["-wal", "-shm", "-journal", ""] {
        let path = with_suffix(path, suffix);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(file(&path)(error)),
        }
    }
    Ok(())
}
