//! The one writer of what the core decides: one transaction per burst, durable when `commit` answers.
//!
//! The driver owns it. After a failed commit the connection is thrown away and the next `load` opens a new one, so that
//! nothing half-done is left in it.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use outpost_driver::{CommitError, Effects, LoadError, Store};
use outpost_orchestrator_core::Orchestrator;
use outpost_orchestrator_core::event::Speech;
use outpost_orchestrator_core::record::{Snapshot, Write};
use outpost_proto::ids::RecoveryEpoch;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection, SqliteConnection};

use super::access::{Access, signed};
use super::notices::Hub;
use super::read::{Reader, parse_all};
use super::write::Batch;
use super::{OpenError, StoreError, migrate};
use crate::driver::clock::Clock;

/// The database's name in its directory.
pub const FILE: &str = "outpost.db";
/// How long a statement waits for another process's transaction: administration takes milliseconds.
const BUSY: Duration = Duration::from_secs(5);
/// What a write-ahead log is cut back to.
const JOURNAL_BYTES: &str = "67108864";

/// Idempotency keys count for a day.
const KEY_LIFE_US: u64 = 24 * 60 * 60 * 1_000_000;
/// Event streams can be picked up again for a week.
const NOTICE_LIFE_US: u64 = 7 * 24 * 60 * 60 * 1_000_000;
/// Rows deleted in one go, so that no burst waits long.
const PRUNE_ROWS: i64 = 2000;

const SQLITE_CORRUPT: i32 = 11;
const SQLITE_NOTADB: i32 = 26;
const SQLITE_IOERR_FSYNC: i32 = 1034;
const SQLITE_IOERR_DIR_FSYNC: i32 = 1290;

/// A query over the runs that can still change: `live`.
macro_rules! live {
    ($sql:literal) => {
        concat!(
            "WITH live(run) AS (SELECT run FROM run WHERE state IN ('running', 'cancelling') \
             UNION SELECT run FROM attempt WHERE unsettled = 1) ",
            $sql
        )
    };
}

const NEWEST_TIME: &str = "SELECT max( \
    coalesce((SELECT at FROM notice ORDER BY seq DESC LIMIT 1), 0), \
    coalesce((SELECT max(applied_at) FROM workflow), 0), \
    coalesce((SELECT max(enrolled_at) FROM agent), 0))";

/// What the core decided, in SQLite.
#[derive(Debug)]
pub struct Sqlite {
    path: PathBuf,
    connection: Option<SqliteConnection>,
    clock: Clock,
    recovery: RecoveryEpoch,
    hub: Hub,
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
    /// When there is one already, or the directory is not ours to write.
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
        let refused = |error| OpenError::Sqlite {
            path: path.clone(),
            error,
        };
        let mut connection = open_writer(&path).await.map_err(refused)?;
        migrate::run(&path, &mut connection).await?;
        let epoch = RecoveryEpoch {
            counter: 1,
            database,
        };
        write_recovery(&mut connection, epoch)
            .await
            .map_err(refused)?;
        connection.close().await.map_err(refused)
    }

    /// Opens the database in `dir` and brings it to this program's schema.
    ///
    /// # Errors
    /// When there is none, or a newer program wrote it: then nothing is changed.
    pub async fn open(dir: &Path) -> Result<Self, OpenError> {
        let path = existing(dir)?;
        migrate::check(&path).await?;
        let refused = |error| OpenError::Sqlite {
            path: path.clone(),
            error,
        };
        let mut connection = open_writer(&path).await.map_err(refused)?;
        migrate::run(&path, &mut connection).await?;
        let newest: i64 = sqlx::query_scalar(NEWEST_TIME)
            .fetch_one(&mut connection)
            .await
            .map_err(refused)?;
        let recovery = read_recovery(&mut connection).await.map_err(refused)?;
        let clock = Clock::starting_at_least_at(super::access::unsigned(newest));
        Ok(Self {
            path,
            connection: Some(connection),
            clock,
            recovery,
            hub: Hub::default(),
        })
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
    pub async fn snapshot(&mut self, now: u64) -> Result<Snapshot, StoreError> {
        let recovery = self.recovery;
        let mut tx = self.connection().await?.begin().await?;
        let snapshot = Snapshot {
            recovery,
            tenants: rows(&mut tx, "tenant", TENANTS, now).await?,
            workflows: rows(&mut tx, "workflow", WORKFLOWS, now).await?,
            workflow_states: Vec::new(),
            runs: rows(&mut tx, "run", RUNS, now).await?,
            tasks: rows(&mut tx, "task", TASKS, now).await?,
            attempts: rows(&mut tx, "attempt", ATTEMPTS, now).await?,
            agents: rows(&mut tx, "agent", AGENTS, now).await?,
            invites: rows(&mut tx, "invite", INVITES, now).await?,
            keys: rows(&mut tx, "idempotency_key", KEYS, now).await?,
        };
        tx.rollback().await?;
        Ok(snapshot)
    }

    /// Deletes a bounded number of notices, keys and invitations that are of no more use.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn prune(&mut self) -> Result<(), StoreError> {
        let now = self.clock.now().0;
        let connection = self.connection().await?;
        for (sql, before) in [
            (
                "DELETE FROM notice WHERE seq IN (SELECT seq FROM notice ORDER BY seq LIMIT ?2) AND at < ?1 \
              AND seq < (SELECT max(seq) FROM notice)",
                now.saturating_sub(NOTICE_LIFE_US),
            ),
            (
                "DELETE FROM idempotency_key WHERE (tenant, key) IN \
              (SELECT tenant, key FROM idempotency_key WHERE at < ?1 LIMIT ?2)",
                now.saturating_sub(KEY_LIFE_US),
            ),
            (
                "DELETE FROM invite WHERE token_hash IN \
              (SELECT token_hash FROM invite WHERE expires_at < ?1 LIMIT ?2)",
                now,
            ),
        ] {
            sqlx::query(sql)
                .bind(signed(before))
                .bind(PRUNE_ROWS)
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }

    /// Closes the connection; the write-ahead log is folded into the file.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn close(mut self) -> Result<(), StoreError> {
        match self.connection.take() {
            Some(connection) => Ok(connection.close().await?),
            None => Ok(()),
        }
    }

    async fn connection(&mut self) -> sqlx::Result<&mut SqliteConnection> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => open_writer(&self.path).await?,
        };
        Ok(self.connection.insert(connection))
    }

    async fn write(&mut self, writes: &[Write]) -> sqlx::Result<()> {
        let batch = Batch::new(writes);
        let mut tx = self
            .connection()
            .await?
            .begin_with("BEGIN IMMEDIATE")
            .await?;
        let newest = batch.write(&mut tx).await?;
        tx.commit().await?;
        for (tenant, seq) in newest {
            self.hub.publish(&tenant, seq);
        }
        Ok(())
    }
}

impl Store<Orchestrator> for Sqlite {
    async fn commit(&mut self, effects: &Effects<Write, Speech>) -> Result<(), CommitError> {
        if effects.writes.is_empty() {
            return Ok(());
        }
        let Err(error) = self.write(&effects.writes).await else {
            return Ok(());
        };
        // What state the connection is in is anybody's guess: the next load takes a new one.
        drop(self.connection.take());
        Err(classified(&error))
    }

    async fn load(&mut self) -> Result<Snapshot, LoadError> {
        let now = self.clock.now().0;
        self.snapshot(now)
            .await
            .map_err(|error| LoadError(error.to_string()))
    }
}

/// After a failed fsync nobody knows what of the kernel's pages reached the disk; trying again would lie.
fn classified(error: &sqlx::Error) -> CommitError {
    let code = error
        .as_database_error()
        .and_then(|error| error.code())
        .and_then(|code| code.parse::<i32>().ok());
    match code {
        Some(SQLITE_IOERR_FSYNC | SQLITE_IOERR_DIR_FSYNC) => CommitError::Fatal(error.to_string()),
        Some(code) if matches!(code & 0xff, SQLITE_CORRUPT | SQLITE_NOTADB) => {
            CommitError::Fatal(error.to_string())
        }
        Some(_) | None => CommitError::Failed(error.to_string()),
    }
}

const TENANTS: &str = "SELECT record FROM tenant WHERE record IS NOT NULL ORDER BY tenant";
const AGENTS: &str = "SELECT record FROM agent ORDER BY tenant, agent";
const INVITES: &str = "SELECT record FROM invite WHERE expires_at > ?1 ORDER BY token_hash";
const KEYS: &str =
    "SELECT record FROM idempotency_key WHERE at > ?1 - 86400000000 ORDER BY tenant, key";
const ATTEMPTS: &str = "SELECT record FROM attempt WHERE unsettled = 1 ORDER BY attempt";
const RUNS: &str = live!("SELECT record FROM run WHERE run IN live ORDER BY run");
const TASKS: &str = live!("SELECT record FROM task WHERE run IN live ORDER BY run, task");
const WORKFLOWS: &str = live!(
    "SELECT record FROM workflow AS w WHERE version = \
     (SELECT max(version) FROM workflow AS v WHERE v.tenant = w.tenant AND v.workflow = w.workflow) \
     OR (tenant, workflow, version) IN (SELECT tenant, workflow, version FROM run WHERE run IN live) \
     ORDER BY tenant, workflow, version"
);

async fn rows<T: DeserializeOwned>(
    tx: &mut SqliteConnection,
    table: &'static str,
    sql: &'static str,
    now: u64,
) -> Result<Vec<T>, StoreError> {
    parse_all(
        table,
        sqlx::query_scalar(sql)
            .bind(signed(now))
            .fetch_all(tx)
            .await?,
    )
}

async fn open_writer(path: &Path) -> sqlx::Result<SqliteConnection> {
    SqliteConnection::connect_with(&options(path).journal_mode(SqliteJournalMode::Wal)).await
}

async fn write_recovery(
    connection: &mut SqliteConnection,
    epoch: RecoveryEpoch,
) -> sqlx::Result<()> {
    const SQL: &str = "INSERT INTO meta(key, value) VALUES ('recovery', ?1)";
    let json =
        serde_json::to_string(&epoch).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    sqlx::query(SQL).bind(json).execute(connection).await?;
    Ok(())
}

async fn read_recovery(connection: &mut SqliteConnection) -> sqlx::Result<RecoveryEpoch> {
    const SQL: &str = "SELECT value FROM meta WHERE key = 'recovery'";
    let json: String = sqlx::query_scalar(SQL).fetch_one(connection).await?;
    serde_json::from_str(&json).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// Makes the directory, or takes it away from everybody else if it exists.
fn make_private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    std::fs::set_permissions(dir, Permissions::from_mode(0o700))
}
