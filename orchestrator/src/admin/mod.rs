//! Administration on the orchestrator's own machine: making it, its tenants and its tokens. Works on the database's
//! file, whether a server runs or not.

pub(crate) mod backup;
pub(crate) mod init;
pub(crate) mod tenant;
pub mod token;

use std::path::Path;

use crate::cli::{DirArg, Failure};
use crate::config;
use crate::store::OpenError;
use crate::store::access::Access;

async fn open(dir: DirArg) -> Result<Access, Failure> {
    let dir = config::directory(dir.dir).map_err(Failure::refused)?;
    Access::open(&dir).await.map_err(|error| of_open(&error))
}

/// Which status an unusable database gives.
pub(crate) fn of_open(error: &OpenError) -> Failure {
    match error {
        OpenError::Missing(_) | OpenError::Exists(_) | OpenError::Newer { .. } => {
            Failure::refused(error)
        }
        OpenError::Damaged { .. } => Failure::fatal(error),
        OpenError::Io { .. } | OpenError::Sqlite { .. } | OpenError::Migrate { .. } => {
            Failure::failed(error)
        }
    }
}

/// A time for people: `2026-03-01T12:00:00Z`.
pub(crate) fn time(micros: u64) -> String {
    let seconds = i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "-".to_owned(), |time| time.to_string())
}

/// A path as text.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
