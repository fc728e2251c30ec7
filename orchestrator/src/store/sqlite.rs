//! The one writer of what the core decides: one transaction per burst, durable when `commit` answers.
//!
//! The driver owns it. After a failed commit the connection is thrown away and the next `load` opens a new one, so that
//! nothing half-done is left in it. Statements run on the caller's thread: a burst of a few writes costs less than
//! handing it to another thread and back, so that the driver is best given a thread of its own.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outpost_driver::{CommitError, Effects, LoadError, Store};
use outpost_failpoint as failpoint;
use outpost_orchestrator_core::Orchestrator;
use outpost_orchestrator_core::event::Speech;
use outpost_orchestrator_core::record::{Snapshot, StoredRun, Write};
use outpost_proto::ids::{RecoveryEpoch, RunId};
use outpost_proto::name::TenantName;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::access::{Access, unsigned};
use super::fold::{self, Folding};
use super::notices::Hub;
use super::owner::{self, Held, WriteError};
use super::read::Reader;
use super::retention::{PATIENCE, Retention, Sweep, step};
use super::write::Batch;
use super::{OpenError, StoreError, load, migrate};
use crate::driver::clock::Clock;

/// The database's name in its directory.
pub const FILE: &str = "outpost.db";

/// It and what SQLite puts beside it.
pub(crate) const FILES: [&str; 4] = [
    FILE,
    "outpost.db-wal",
    "outpost.db-shm",
    "outpost.db-journal",
];
/// How long a statement waits for another process's transaction: administration takes milliseconds.
pub(super) const BUSY: Duration = Duration::from_secs(5);
/// What a write-ahead log is cut back to.
const JOURNAL_BYTES: &str = "67108864";
/// Pages kept in memory, in KiB: the upper levels of large tables.
const CACHE_KIB: i64 = 16 * 1024;
/// Statements kept prepared: more than there are.
const STATEMENTS: usize = 64;

const SQLITE_CORRUPT: i32 = 11;
const SQLITE_NOTADB: i32 = 26;
const SQLITE_IOERR_FSYNC: i32 = 1034;
const SQLITE_IOERR_DIR_FSYNC: i32 = 1290;

/// Workflows and agents are told of when they change, so that no notice is older than they are.
pub(super) const NEWEST: &str = "WITH RECURSIVE t(tenant) AS (SELECT min(tenant) FROM notice UNION ALL \
     SELECT (SELECT min(tenant) FROM notice WHERE tenant > t.tenant) FROM t WHERE t.tenant IS NOT NULL), \
     newest(seq, at) AS (SELECT n.seq, n.at FROM t JOIN notice AS n ON n.tenant = t.tenant \
     AND n.seq = (SELECT max(seq) FROM notice WHERE tenant = t.tenant)) \
     SELECT coalesce(max(seq), 0), coalesce(max(at), 0) FROM newest";

/// What the core decided, in SQLite.
#[derive(Debug)]
pub struct Sqlite {
    path: PathBuf,
    writer: Option<Writer>,
    /// By whom it is written, once that was said.
    held: Option<Held>,
    clock: Clock,
    recovery: RecoveryEpoch,
    restored_at: Option<u64>,
    hub: Hub,
    retention: Retention,
    sweep: Sweep,
}

/// A connection and what is counted along with it.
#[derive(Debug)]
struct Writer {
    connection: Connection,
    folding: Folding,
    /// The next notice's number.
    next_notice: u64,
    /// The newest notice's time.
    newest_at: u64,
}

pub(super) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .foreign_keys(true)
        .busy_timeout(BUSY)
        .synchronous(SqliteSynchronous::Full)
        .pragma("journal_size_limit", JOURNAL_BYTES)
}

/// Makes the tables in an empty file and begins the first recovery epoch.
async fn begin(path: &Path, database: u64) -> Result<(), OpenError> {
    migrate::run(path).await?;
    let refused = |error: rusqlite::Error| OpenError::sqlite(path, error);
    let writer = Writer::open(path).map_err(refused)?;
    let epoch = RecoveryEpoch {
        counter: 1,
        database,
    };
    write_recovery(&writer.connection, epoch).map_err(refused)?;
    writer.close().map_err(refused)
}

/// The database's path, if it is there.
pub(super) fn existing(dir: &Path) -> Result<PathBuf, OpenError> {
    let path = dir.join(FILE);
    match path.metadata() {
        Ok(_) => Ok(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(OpenError::Missing(path)),
        Err(error) => Err(OpenError::Io { path, error }),
    }
}

impl Sqlite {
    /// Makes a new database in `dir` (made too, 0700, if it is not there) under a new recovery epoch.
    ///
    /// # Errors
    /// When there is one already, or the directory is not ours to write, or full: then nothing is left of it.
    pub async fn create(dir: &Path, database: u64) -> Result<(), OpenError> {
        let path = dir.join(FILE);
        let failed = |error| OpenError::Io {
            path: path.clone(),
            error,
        };
        make_private_dir(dir).map_err(|error| OpenError::Io {
            path: dir.to_owned(),
            error,
        })?;
        // SQLite gives its other files the mode of this one.
        match OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
        {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(OpenError::Exists(path));
            }
            Err(error) => return Err(failed(error)),
        }
        let begun = begin(&path, database).await;
        if begun.is_err() {
            // What is half made would look like a database; it was made by this call.
            for file in FILES {
                let _ = std::fs::remove_file(dir.join(file));
            }
        }
        begun
    }

    /// Opens the database in `dir` and brings it to this program's schema.
    ///
    /// # Errors
    /// When there is none, or a newer program wrote it: then nothing is changed.
    pub async fn open(dir: &Path) -> Result<Self, OpenError> {
        let path = existing(dir)?;
        migrate::check(&path).await?;
        migrate::run(&path).await?;
        let refused = |error: rusqlite::Error| OpenError::sqlite(&path, error);
        let writer = Writer::open(&path).map_err(refused)?;
        let recovery = read_recovery(&writer.connection).map_err(refused)?;
        let restored_at = read_restored_at(&writer.connection).map_err(refused)?;
        let clock = Clock::starting_at_least_at(writer.newest_at);
        Ok(Self {
            path,
            writer: Some(writer),
            held: None,
            clock,
            recovery,
            restored_at,
            hub: Hub::default(),
            retention: Retention::default(),
            sweep: Sweep::default(),
        })
    }

    /// Takes the database for this process, which drew `me`: whichever process had it before writes nothing more.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn own(&mut self, me: u64) -> Result<(), StoreError> {
        let writer = self.writer()?;
        let held = blocking(|| owner::take(&mut writer.connection, me))?;
        self.held = Some(held);
        Ok(())
    }

    /// Writes the log's room beforehand, so that a commit waits for its own pages and for nothing else.
    ///
    /// # Errors
    /// [`OpenError`]; then commits work as well, but take longer.
    pub fn reserve(&mut self) -> Result<(), OpenError> {
        let path = self.path.clone();
        let writer = self
            .writer()
            .map_err(|error| OpenError::sqlite(&path, error))?;
        blocking(|| fold::reserve(&mut writer.connection, &path))
    }

    /// Whether [`Self::fold`] has something to do when nothing else is to be done.
    #[must_use]
    pub fn wants_to_fold(&self) -> bool {
        let writer = self.writer.as_ref();
        writer.is_some_and(|writer| writer.folding.is_wanted())
    }

    /// Folds the log into the file if it is time to; nearly all of that beside the caller. To be called between two
    /// commits, when nobody waits for an answer. `idle`: nothing was asked for a while.
    ///
    /// # Errors
    /// [`CommitError::Fatal`] when the disk can no longer be trusted; all else is tried again later.
    pub fn fold(&mut self, idle: bool) -> Result<(), CommitError> {
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        let Writer {
            connection,
            folding,
            ..
        } = writer;
        folding
            .step(connection, idle)
            .map_err(|error| classified(&error.into()))
    }

    /// Says how long what is over is kept.
    pub fn retain(&mut self, retention: Retention) {
        self.retention = retention;
    }

    /// The clock everything in this database is told by.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Wakes whoever watches.
    #[must_use]
    pub fn hub(&self) -> Hub {
        self.hub.clone()
    }

    /// Reads for the same database.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::on(&self.path)
    }

    /// Tenants and tokens of the same database.
    #[must_use]
    pub fn access(&self) -> Access {
        Access::on(&self.path)
    }

    /// Everything that can still change, as of `now`.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn snapshot(&mut self, now: u64) -> Result<Snapshot, StoreError> {
        let life = (self.recovery, self.restored_at);
        let writer = self.writer()?;
        blocking(|| {
            let tx = writer.connection.transaction()?;
            load::snapshot(&tx, life, now)
        })
    }

    /// A run of this tenant as it is stored, with its workflow version and tasks: what the core needs to run it again.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn load_run(
        &mut self,
        tenant: &TenantName,
        run: RunId,
    ) -> Result<Option<StoredRun>, StoreError> {
        let writer = self.writer()?;
        blocking(|| {
            let tx = writer.connection.transaction()?;
            load::stored_run(&tx, tenant, run)
        })
    }

    /// Deletes a bounded number of runs, notices, keys and invitations that are of no more use; `true` when there are
    /// more of them. To be folded like what is committed: it stops when it is ahead of that.
    ///
    /// # Errors
    /// [`CommitError`]
    pub fn prune(&mut self) -> Result<bool, CommitError> {
        let (now, retention) = (self.clock.now().0, self.retention);
        let mut sweep = std::mem::take(&mut self.sweep);
        let begun = Instant::now();
        let more = self.writer().and_then(|writer| {
            blocking(|| {
                loop {
                    let (connection, next) = (&mut writer.connection, writer.next_notice);
                    let more = step(connection, &retention, &mut sweep, next, now)?;
                    writer.folding.committed();
                    let pauses = begun.elapsed() >= PATIENCE || writer.folding.is_behind();
                    if !more || pauses {
                        return Ok(more);
                    }
                }
            })
        });
        self.sweep = sweep;
        more.map_err(|error| classified(&error.into()))
    }

    /// Closes the connection; the write-ahead log is folded into the file.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn close(mut self) -> Result<(), StoreError> {
        match self.writer.take() {
            Some(writer) => Ok(blocking(|| writer.close())?),
            None => Ok(()),
        }
    }

    fn writer(&mut self) -> rusqlite::Result<&mut Writer> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => Writer::open(&self.path)?,
        };
        Ok(self.writer.insert(writer))
    }

    pub(super) fn write(&mut self, writes: &[Write]) -> Result<(), WriteError> {
        let batch = Batch::new(writes);
        let held = self.held.take();
        let committed = self
            .writer()
            .map_err(WriteError::from)
            .and_then(|writer| blocking(|| writer.commit(batch, held.as_ref())));
        self.held = held;
        let newest = committed?;
        for (tenant, seq) in newest {
            self.hub.publish(&tenant, seq);
        }
        Ok(())
    }
}

impl Writer {
    fn open(path: &Path) -> rusqlite::Result<Self> {
        // What is not there is not made.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        // Answers with the mode it took.
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update_and_check(
            None,
            "journal_size_limit",
            JOURNAL_BYTES,
            |_| Ok(()),
        )?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        let (newest, at): (i64, i64) =
            connection.query_row(NEWEST, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let folding = Folding::of(&connection, path);
        Ok(Self {
            connection,
            folding,
            next_notice: unsigned(newest) + 1,
            newest_at: unsigned(at),
        })
    }

    /// Writes a burst in one transaction, if this process still owns the database; answers the newest notice of each
    /// tenant.
    fn commit(
        &mut self,
        batch: Batch<'_>,
        held: Option<&Held>,
    ) -> Result<BTreeMap<TenantName, u64>, WriteError> {
        let connection = &self.connection;
        // Prepared like all others: parsing these two costs as much as writing a row.
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let newest = held
            .map_or(Ok(()), |held| owner::check(connection, held))
            .and_then(|()| Ok(batch.write(connection, &mut self.next_notice)?))
            .and_then(|newest| {
                failpoint::reach("orchestrator-written");
                connection.prepare_cached("COMMIT")?.execute([])?;
                failpoint::reach("orchestrator-committed");
                Ok(newest)
            });
        if newest.is_ok() {
            self.folding.committed();
        }
        if newest.is_err() && !connection.is_autocommit() {
            // Why it failed is what is told. What cannot be rolled back ends with the connection.
            let _ = connection.execute_batch("ROLLBACK");
        }
        newest
    }

    fn close(self) -> rusqlite::Result<()> {
        self.folding.end()?;
        self.connection.close().map_err(|(_, error)| error)
    }
}

/// Runs what blocks. On a thread that other tasks wait for, they are handed to another one first.
fn blocking<R>(work: impl FnOnce() -> R) -> R {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        Ok(_) | Err(_) => work(),
    }
}

impl Store<Orchestrator> for Sqlite {
    async fn commit(&mut self, effects: &Effects<Write, Speech>) -> Result<(), CommitError> {
        if effects.writes.is_empty() {
            return self.still_owned(!effects.speech.is_empty());
        }
        failpoint::reach("orchestrator-decided");
        let Err(error) = self.write(&effects.writes) else {
            return self.keep_up();
        };
        Err(self.give_up(&error))
    }

    async fn load(&mut self) -> Result<Snapshot, LoadError> {
        let now = self.clock.now().0;
        self.snapshot(now)
            .map_err(|error| LoadError(error.to_string()))
    }
}

impl Sqlite {
    /// What state the connection is in after a failed commit is anybody's guess: the next load takes a new one. What is
    /// folded beside it ends first, so that a sync that fails there is heard of.
    fn give_up(&mut self, error: &WriteError) -> CommitError {
        let failed = classified(error);
        let folding = self.writer.take().map(|writer| writer.folding);
        let folded = folding.map_or(Ok(()), |folding| blocking(|| folding.end()));
        match (failed, folded.map_err(|error| classified(&error.into()))) {
            (CommitError::Failed(_), Err(CommitError::Fatal(why))) => CommitError::Fatal(why),
            (failed, Ok(()) | Err(CommitError::Failed(_) | CommitError::Fatal(_))) => failed,
        }
    }

    /// The log must not grow for ever when it is folded more slowly than written.
    fn keep_up(&mut self) -> Result<(), CommitError> {
        let behind = |writer: &Writer| writer.folding.is_behind();
        if !self.writer.as_ref().is_some_and(behind) {
            return Ok(());
        }
        match self.fold(false) {
            // What was to be committed is: only a disk that cannot be trusted takes that back.
            Ok(()) | Err(CommitError::Failed(_)) => Ok(()),
            Err(CommitError::Fatal(why)) => Err(CommitError::Fatal(why)),
        }
    }

    /// What is said without a write, a lease above all, comes from the owner too.
    fn still_owned(&mut self, speaks: bool) -> Result<(), CommitError> {
        let Some(held) = self.held.clone().filter(|_| speaks) else {
            return Ok(());
        };
        let looked = self
            .writer()
            .map_err(WriteError::from)
            .and_then(|writer| blocking(|| owner::check(&writer.connection, &held)));
        looked.map_err(|error| classified(&error))
    }
}

/// After a failed fsync nobody knows what of the kernel's pages reached the disk; trying again would lie.
fn classified(error: &WriteError) -> CommitError {
    let Some(refused) = error.sqlite() else {
        return CommitError::Fatal(error.to_string());
    };
    let code = refused.sqlite_error().map(|error| error.extended_code);
    match code {
        Some(SQLITE_IOERR_FSYNC | SQLITE_IOERR_DIR_FSYNC) => CommitError::Fatal(error.to_string()),
        Some(code) if matches!(code & 0xff, SQLITE_CORRUPT | SQLITE_NOTADB) => {
            CommitError::Fatal(error.to_string())
        }
        Some(_) | None => CommitError::Failed(error.to_string()),
    }
}

fn write_recovery(connection: &Connection, epoch: RecoveryEpoch) -> rusqlite::Result<()> {
    const SQL: &str = "INSERT INTO meta(key, value) VALUES ('recovery', ?1)";
    let json = serde_json::to_string(&epoch)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    connection.execute(SQL, [json]).map(|_| ())
}

pub(super) fn read_recovery(connection: &Connection) -> rusqlite::Result<RecoveryEpoch> {
    const SQL: &str = "SELECT value FROM meta WHERE key = 'recovery'";
    let json: String = connection.query_row(SQL, [], |row| row.get(0))?;
    serde_json::from_str(&json).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error.into())
    })
}

/// Whether this life of the database began by a restore, and when.
fn read_restored_at(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    const SQL: &str = "SELECT value FROM meta WHERE key = 'restored_at'";
    let text: Option<String> = connection.query_row(SQL, [], |row| row.get(0)).optional()?;
    Ok(text.and_then(|text| text.parse().ok()))
}

/// Makes the directory, or takes it away from everybody else if it exists.
pub(super) fn make_private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    std::fs::set_permissions(dir, Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use outpost_orchestrator_core::record::{Notice, NoticeKind, RunState};

    use super::*;

    #[tokio::test]
    async fn a_sync_that_failed_beside_a_failed_commit_is_heard_of() {
        const SQLITE_IOERR_WRITE: i32 = 778;
        let dir = tempfile::tempdir().unwrap();
        Sqlite::create(dir.path(), 1).await.unwrap();
        let mut store = Sqlite::open(dir.path()).await.unwrap();
        let full = || WriteError::from(rusqlite::Error::InvalidQuery);
        for (code, fatal) in [(SQLITE_IOERR_FSYNC, true), (SQLITE_IOERR_WRITE, false)] {
            store.writer().unwrap().folding.fails(code);
            let given_up = store.give_up(&full());
            assert_eq!(matches!(given_up, CommitError::Fatal(_)), fatal, "{code}");
            assert!(store.writer.is_none());
        }
        let given_up = store.give_up(&full());
        assert!(matches!(given_up, CommitError::Failed(_)), "{given_up:?}");
    }

    #[tokio::test]
    async fn what_is_pruned_is_folded_although_nothing_is_committed() {
        const FIRST: u32 = 20;
        let dir = tempfile::tempdir().unwrap();
        Sqlite::create(dir.path(), 1).await.unwrap();
        let mut store = Sqlite::open(dir.path()).await.unwrap();
        let write = |run| {
            Write::Notice(Notice {
                tenant: "a".parse().unwrap(),
                at: 5,
                what: NoticeKind::Run {
                    run: RunId(run),
                    workflow: "w".parse().unwrap(),
                    state: RunState::Running,
                },
            })
        };
        let old: Vec<Write> = (0..30_000).map(write).collect();
        store.write(&old).unwrap();
        store.close().unwrap();
        let mut store = Sqlite::open(dir.path()).await.unwrap();
        store.writer().unwrap().folding.begins_at(FIRST);
        // As the driver does.
        while store.prune().unwrap() {
            store.fold(false).unwrap();
        }
        let log = dir.path().join(format!("{FILE}-wal")).metadata().unwrap();
        let pages = log.len() / 4096;
        assert!((1..=u64::from(FIRST) * 10).contains(&pages), "{pages}");
    }
}
