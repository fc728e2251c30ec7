//! Where things are: one directory per orchestrator, and what `init` wrote into it.
//!
//! `outpost.db` is the database, `ca/` the certificate authority, `server.json` the names it serves under, `lock` is
//! held while a server runs. Module `file` is what a person configures, `reference` lists all that can be.

pub mod file;
pub mod reference;

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The authority's directory.
pub const CA: &str = "ca";
/// What `init` was told.
pub const SERVER: &str = "server.json";
/// The first administrator's token.
pub const ADMIN_TOKEN: &str = "admin.token";
const LOCK: &str = "lock";

/// What `init` was told and `serve` needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerFile {
    /// Host names and addresses that the server's certificate is for, besides the loopback ones.
    pub names: Vec<String>,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// Neither given nor to be guessed.
    #[error(
        "no directory is given and neither XDG_STATE_HOME nor HOME is set; give one with --dir"
    )]
    NoDefault,
    /// A server runs on it.
    #[error("another orchestrator uses {}; stop it first or choose another --dir", .0.display())]
    InUse(PathBuf),
    /// A file is missing, unreadable or not ours to write.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file is not what `init` writes.
    #[error("{} is not what init wrote: {error}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        error: serde_json::Error,
    },
}

/// The given directory, or the usual one: `/var/lib/outpost-orchestrator` for root, otherwise
/// `$XDG_STATE_HOME/outpost-orchestrator`.
///
/// # Errors
/// When there is no usual one.
pub fn directory(given: Option<PathBuf>) -> Result<PathBuf, DirError> {
    if let Some(dir) = given {
        return Ok(dir);
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/outpost-orchestrator"));
    }
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    Ok(state
        .ok_or(DirError::NoDefault)?
        .join("outpost-orchestrator"))
}

/// Keeps every other server off the directory for as long as it lives.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the directory.
    ///
    /// # Errors
    /// When another server has it.
    pub fn take(dir: &Path) -> Result<Self, DirError> {
        let path = dir.join(LOCK);
        let failed = |error| DirError::Io {
            path: path.clone(),
            error,
        };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path);
        let file = file.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(DirError::InUse(dir.to_owned())),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

impl ServerFile {
    /// Reads what `init` wrote.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn read(dir: &Path) -> Result<Self, DirError> {
        let path = dir.join(SERVER);
        let text = std::fs::read(&path).map_err(|error| DirError::Io {
            path: path.clone(),
            error,
        })?;
        serde_json::from_slice(&text).map_err(|error| DirError::Content { path, error })
    }

    /// As it is written.
    ///
    /// # Errors
    /// Never for names that are text.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec_pretty(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_server() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::take(dir.path()).unwrap();
        let error = DirLock::take(dir.path()).unwrap_err().to_string();
        assert!(error.contains("another orchestrator"), "{error}");
        drop(first);
        DirLock::take(dir.path()).unwrap();
    }
}
