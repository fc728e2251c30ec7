//! The row that says which process may write this database, and the look at it in every commit.
//!
//! The lock on the directory keeps a second server off. This row is for when the lock did not: a file system without
//! locks, a directory that was moved or restored under a server that stood still. The server that started last owns
//! the database; whichever was before it ends with its next commit and has written nothing more.

use outpost_orchestrator_core::owner::Owner;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};

const ROW: &str = "SELECT value FROM meta WHERE key = 'owner'";
const PUT: &str = "INSERT INTO meta(key, value) VALUES ('owner', ?1) \
    ON CONFLICT DO UPDATE SET value = excluded.value";
const NOBODY: &str = "DELETE FROM meta WHERE key = 'owner'";

/// The row of this process, and as it is stored: nearly always that is compared and nothing is parsed.
#[derive(Debug, Clone)]
pub(super) struct Held {
    row: Owner,
    text: String,
}

/// Why a burst was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// SQLite refused.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// Another process owns the database by now.
    #[error(
        "another orchestrator took over this database ({found}, this one has fence {}): nothing more is written here; \
         stop this one, or the other one, and keep one",
        held.fence
    )]
    Taken {
        /// What this process holds.
        held: Owner,
        /// What stands in the row.
        found: String,
    },
}

impl WriteError {
    /// As what SQLite said, for those who hold no row.
    pub(super) fn sqlite(&self) -> Option<&rusqlite::Error> {
        match self {
            Self::Sqlite(error) => Some(error),
            Self::Taken { .. } => None,
        }
    }
}

/// Takes the database for the process of this random number.
pub(super) fn take(connection: &mut Connection, me: u64) -> rusqlite::Result<Held> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let row = Owner::next(read(&tx)?.as_deref().and_then(parse), me);
    let text = serde_json::to_string(&row)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    tx.execute(PUT, [&text])?;
    tx.commit()?;
    Ok(Held { row, text })
}

/// Nobody owns it: whoever held it under a former life of the database writes nothing more.
pub(super) fn vacate(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute(NOBODY, []).map(|_| ())
}

/// Whether this process still owns it, within the caller's transaction or as of now.
pub(super) fn check(connection: &Connection, held: &Held) -> Result<(), WriteError> {
    let found = read(connection)?;
    if found.as_ref() == Some(&held.text) {
        return Ok(());
    }
    let row = found.as_deref().and_then(parse);
    if row.is_some_and(|row| row.admits(held.row)) {
        return Ok(());
    }
    Err(WriteError::Taken {
        held: held.row,
        found: row.map_or_else(
            || "it was restored since".to_owned(),
            |row| format!("fence {}", row.fence),
        ),
    })
}

fn read(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let mut row = connection.prepare_cached(ROW)?;
    row.query_row([], |row| row.get(0)).optional()
}

fn parse(text: &str) -> Option<Owner> {
    serde_json::from_str(text).ok()
}
