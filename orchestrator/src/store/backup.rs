//! A copy of the database that can be kept elsewhere, and the way back from one.
//!
//! A backup is one consistent state, taken while a server runs. A restored database begins another life: agents see
//! that by its recovery epoch, and tell what it lacks before they get new work. What is there is never overwritten: it
//! is set aside once the new one is whole and on the disk. A restore that was interrupted is done again.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use outpost_failpoint as failpoint;
use outpost_orchestrator_core::record::{Notice, NoticeKind, Write};
use outpost_orchestrator_core::safety::Safety;
use outpost_proto::ids::RecoveryEpoch;
use outpost_proto::name::TenantName;
use rusqlite::{Connection, OpenFlags};

use super::sqlite::{BUSY, FILE, Sqlite, make_private_dir, read_recovery};
use super::{OpenError, StoreError, migrate, owner};

/// Until a file is whole it has this name besides its own.
const PART: &str = "part";
/// Where a database is made ready before it is the one.
pub(crate) const STAGE: &str = "restoring";
/// What follows the name of a database that was set aside, and the time.
const ASIDE: &str = "before-restore";
/// What a database consists of, by what follows its name: itself, and what is only of use beside it.
const PARTS: [&str; 4] = ["", "-journal", "-wal", "-shm"];
/// Added to the counter when the one of the database that is there, or was before, cannot be read: more restores than
/// anybody makes.
const UNREAD: u32 = 1000;

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
    let is_there = to.symlink_metadata().is_ok();
    if is_there && !force {
        return Err(BackupError::InTheWay(to));
    }
    // Whole before it has its name: a crash on the way leaves what was there.
    let stage = dir.join(STAGE);
    make_private_dir(&stage).map_err(file(&stage))?;
    let part = stage.join(FILE);
    copy(from, &part)?;
    migrate::check(&part).await?;
    migrate::run(&part).await?;
    let before = life_of(&part)?;
    let aside = lives_aside(dir)?;
    let recovery = RecoveryEpoch {
        counter: above(before.counter, aside, is_there.then_some(&to)).max(least),
        database,
    };
    begin_life(&part, recovery, now)?;
    let agents = tell(&stage, before, now).await?;
    fold(&part)?;
    sync(&part)?;
    failpoint::reach("restore-staged");
    if is_there && let Err(error) = overtake(&to) {
        tracing::debug!(%error, "the database that is there cannot be written yet");
    }
    // A log whose database is gone must not become the new one's.
    let was_there = PARTS
        .iter()
        .any(|part| with_suffix(&to, part).symlink_metadata().is_ok());
    let aside = was_there.then(|| move_aside(&to, now)).transpose()?;
    failpoint::reach("restore-cleared");
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

/// A counter above the backup's and those of the databases that are aside or there, as far as they can be read.
fn above(backup: u32, aside: Aside, present: Option<&PathBuf>) -> u32 {
    let (mut highest, mut unread) = (backup.max(aside.highest), aside.unread);
    match present.map(|path| life_of(path)) {
        None => {}
        Some(Ok(life)) => highest = highest.max(life.counter),
        Some(Err(error)) => {
            tracing::warn!(
                "the database that is there cannot be read, so that the epoch leaps: {error}"
            );
            unread = true;
        }
    }
    let next = highest.saturating_add(1);
    if unread {
        next.saturating_add(UNREAD)
    } else {
        next
    }
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

/// Nobody owns the database that is there any more: a server that still has it open, because the lock on its directory did
/// not keep this restore off, ends with its next commit, or look at the row, instead of going on with what is set aside.
/// Waits some seconds for a transaction that is under way.
fn overtake(path: &Path) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    owner::vacate(&connection)
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
    sync(part)?;
    std::fs::rename(part, to).map_err(file(to))?;
    sync_dir(to)
}

fn sync(path: &Path) -> Result<(), BackupError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(file(path))
}

/// Makes sure of the names beside this one.
fn sync_dir(of: &Path) -> Result<(), BackupError> {
    let dir = match of.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        Some(_) | None => Path::new("."),
    };
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(file(dir))
}

/// The database that was there gets other names, with what belongs to it, and goes: first all of it has them, then it
/// has no other ones, its own first. Wherever this stops, what has the database's name is whole or is not there.
fn move_aside(path: &Path, now: u64) -> Result<PathBuf, BackupError> {
    let aside = free_name(path, now);
    for suffix in PARTS {
        let (from, to) = (with_suffix(path, suffix), with_suffix(&aside, suffix));
        match link(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(file(&from)(error)),
        }
    }
    sync_dir(path)?;
    failpoint::reach("restore-linked");
    // Once more, and last: whoever was overtaken may have been started anew, and taken it again, while this was copied.
    let is_there = path.symlink_metadata().is_ok();
    let overtaken = if is_there { overtake(path) } else { Ok(()) };
    for suffix in PARTS {
        let part = with_suffix(path, suffix);
        match std::fs::remove_file(&part) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(file(&part)(error)),
        }
        // In this order on the disk too: a log without its database is nothing, a database without its log is another.
        sync_dir(path)?;
        failpoint::reach("restore-unlinked");
    }
    // Who stood still in a transaction may have come to its end by now; where names are links it is the same file.
    if let Err(error) = overtaken.or_else(|_| overtake(&aside)) {
        tracing::warn!(
            "the database that was there cannot be written, so that a server which still has it open would not notice that \
             it was replaced ({error}): see that none runs"
        );
    }
    Ok(aside)
}

/// A name with the time in it that nothing has.
fn free_name(path: &Path, now: u64) -> PathBuf {
    let seconds = i64::try_from(now / 1_000_000).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    let name = beside(
        path,
        &format!("{ASIDE}-{}", time.strftime("%Y%m%dT%H%M%SZ")),
    );
    let mut others = (2_u32..).map(|nth| beside(&name, &nth.to_string()));
    let is_free = |name: &PathBuf| {
        let mut parts = PARTS.iter();
        parts.all(|suffix| with_suffix(name, suffix).symlink_metadata().is_err())
    };
    if is_free(&name) {
        return name;
    }
    others.find(is_free).unwrap_or(name)
}

/// Another name for a file; a copy where the file system gives none.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::hard_link(from, to) {
        Err(error)
            if error.kind() == ErrorKind::NotFound || error.kind() == ErrorKind::AlreadyExists =>
        {
            Err(error)
        }
        Err(_) => {
            std::fs::copy(from, to)?;
            File::open(to)?.sync_all()
        }
        Ok(()) => Ok(()),
    }
}

/// Databases that were set aside before.
#[derive(Debug, Clone, Copy, Default)]
struct Aside {
    /// The highest counter that can be read.
    highest: u32,
    /// One cannot be read: a restore that was interrupted may have set it aside, or an earlier one.
    unread: bool,
}

fn lives_aside(dir: &Path) -> Result<Aside, BackupError> {
    let prefix = format!("{FILE}.{ASIDE}-");
    let mut aside = Aside::default();
    for entry in std::fs::read_dir(dir).map_err(file(dir))? {
        let entry = entry.map_err(file(dir))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_part = PARTS
            .iter()
            .any(|part| !part.is_empty() && name.ends_with(part));
        if name.starts_with(&prefix) && !is_part {
            match life_of(&entry.path()) {
                Ok(life) => aside.highest = aside.highest.max(life.counter),
                Err(error) => {
                    tracing::warn!(
                        "a database that was set aside cannot be read, so that the epoch leaps: {error}"
                    );
                    aside.unread = true;
                }
            }
        }
    }
    Ok(aside)
}

/// Says in every tenant's events that this happened, and lets fences leap: those of attempts that the backup does not
/// know are not given out again. `before`: the backup's own life. Gives the number of agents that are to report.
async fn tell(dir: &Path, before: RecoveryEpoch, now: u64) -> Result<usize, BackupError> {
    let mut store = Sqlite::open(dir).await?;
    let snapshot = store.snapshot(now)?;
    let recovery = snapshot.recovery;
    let mut writes = Vec::new();
    let told = |tenant: &TenantName| {
        let mut agents = snapshot.agents.iter();
        agents.all(|agent| {
            agent.tenant != *tenant || agent.removed || agent.standing.reported >= before.counter
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
        tenant.restored(told, now);
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
    for suffix in PARTS {
        let path = with_suffix(path, suffix);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(file(&path)(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database, and a server that has taken it.
    fn taken(dir: &Path) -> (PathBuf, Connection) {
        let path = dir.join(FILE);
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)",
            )
            .unwrap();
        (path, connection)
    }

    #[test]
    fn a_server_that_took_the_database_again_meanwhile_is_overtaken_too() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut server) = taken(dir.path());
        overtake(&path).unwrap();
        let held = owner::take(&mut server, 5).unwrap();
        owner::check(&server, &held).unwrap();
        move_aside(&path, 0).unwrap();
        owner::check(&server, &held).unwrap_err();
    }

    #[test]
    fn a_server_that_stood_still_in_a_transaction_is_overtaken_under_the_new_name() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut server) = taken(dir.path());
        let held = owner::take(&mut server, 5).unwrap();
        server.execute_batch("BEGIN IMMEDIATE").unwrap();
        let there = path.clone();
        let goes_on = std::thread::spawn(move || {
            while there.exists() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            server.execute_batch("COMMIT").unwrap();
            server
        });
        move_aside(&path, 0).unwrap();
        let server = goes_on.join().unwrap();
        owner::check(&server, &held).unwrap_err();
    }
}
