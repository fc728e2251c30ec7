//! Where everything durable lives: one SQLite file per orchestrator.
//!
//! [`sqlite`] is the one writer of what the core decides, used by the driver only. [`read`] answers lists and history
//! from its own connections. [`access`] keeps tenants and tokens, which the core does not know. No secret is stored,
//! only hashes.

pub mod access;
pub mod backup;
pub mod bounds;
mod fold;
mod load;
mod migrate;
pub mod notices;
mod owner;
mod page;
#[cfg(test)]
mod plans;
pub mod read;
pub mod retention;
mod runs;
pub mod sqlite;
pub mod tokens;
mod write;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

pub use migrate::SCHEMA_VERSION;

/// Why a database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none.
    #[error("there is no database at {}; make one with `outpost-orchestrator init`", .0.display())]
    Missing(PathBuf),
    /// There is one already.
    #[error("a database exists at {} already; nothing was changed", .0.display())]
    Exists(PathBuf),
    /// A newer program wrote it.
    #[error(
        "the database {} has schema version {found}, this program knows up to {known}; nothing was changed: \
         run the newer version, or restore a backup made before the upgrade",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest this program knows.
        known: i64,
    },
    /// The file or directory could not be made or read.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// SQLite refused.
    #[error("the database {} could not be opened: {error}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        error: Box<dyn Error + Send + Sync>,
    },
    /// What the file holds is no database, or no whole one.
    #[error(
        "the database {} is damaged: {error}; look at the disk, then put a backup in its place with \
         `outpost-orchestrator restore FILE --force`",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        error: Box<dyn Error + Send + Sync>,
    },
    /// A migration failed; the database is as it was before.
    #[error("the database {} could not be brought to the current schema: {error}", path.display())]
    Migrate {
        /// The file.
        path: PathBuf,
        /// Why.
        error: sqlx::migrate::MigrateError,
    },
}

/// Why something could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("the database could not answer: {0}")]
    Sqlite(#[source] Box<dyn Error + Send + Sync>),
    /// A record is not of the form this program writes.
    #[error("a record of table {table} cannot be read: {error}")]
    Record {
        /// Where it is.
        table: &'static str,
        /// What is wrong.
        error: serde_json::Error,
    },
    /// The cursor was not made by an earlier page.
    #[error("the cursor is not one that this server handed out")]
    BadCursor,
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sqlite(error.into())
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error.into())
    }
}

impl From<owner::WriteError> for StoreError {
    fn from(error: owner::WriteError) -> Self {
        Self::Sqlite(error.into())
    }
}

impl OpenError {
    fn sqlite(path: &Path, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let (path, error) = (path.to_owned(), error.into());
        if is_damage(error.as_ref()) {
            Self::Damaged { path, error }
        } else {
            Self::Sqlite { path, error }
        }
    }
}

/// Whether SQLite says that the file is no database, or no whole one.
fn is_damage(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    if let Some(error) = error.downcast_ref::<rusqlite::Error>() {
        return matches!(
            error.sqlite_error_code(),
            Some(DatabaseCorrupt | NotADatabase)
        );
    }
    let code = error
        .downcast_ref::<sqlx::Error>()
        .and_then(|error| error.as_database_error()?.code()?.parse::<u32>().ok());
    // The low byte is the code that a more exact one belongs to: SQLITE_CORRUPT, SQLITE_NOTADB.
    code.is_some_and(|code| matches!(code & 0xff, 11 | 26))
}
