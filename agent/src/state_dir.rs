//! The agent's state directory: what is where, who may read it, and which agent made it.
//!
//! As root `/var/lib/outpost-agent`, otherwise `$XDG_STATE_HOME/outpost-agent` (`~/.local/state/outpost-agent`).
//! [`LAYOUT`] is the map; `migrate` makes an older directory one of the present format.

mod migrate;
pub(crate) mod modes;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use outpost_proto::ids::{AttemptId, RunId};
use serde::{Deserialize, Serialize};

use crate::files;

/// Format of the directory that this build reads and writes.
pub const VERSION: u32 = 2;

/// What is where in it.
pub const LAYOUT: &str = "\
version       format of everything below; a newer one is refused
id            random, made with the directory
lock          held by the one runner
identity.json what enrolment settled: orchestrator, tenant, name
enrolling     what an enrolment that is not complete settles
keys/         link's own: agent.key, agent.crt, roots.crt
journal       what must not be forgotten
ledger/       every byte that was sent
attempts/ID/  one attempt: claim (what it is, its keeper, its end), log.N
work/ID/      its working directory, while it is needed
runs/ID/      $OUTPOST_RUN_DIR, shared by the tasks of one run
seals/ID      which files of the run are encrypted, while it rests
book          which logs are encrypted, and where each ended; every line vouches for the one before it
trash/        what is being removed
refusals      what was refused, and why: the newest; refusals.older: those before
approvals.json what people here have approved and is not used up (approvals.lock beside it)
try/ID/       of `catalogue try`, while it runs
backup-N/     small files as an agent of format N left them
agent.sock    status, pause, resume, drain: for the same account and root only
agent.token   what who asks there shows: new with each runner
keepers.token what a runner shows to spawner and keepers
";

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system said no.
    #[error("{what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On this.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Made by a newer agent.
    #[error(
        "{path} was made by a newer agent (format {found}, this one knows {VERSION}): run the newer agent, or use another --state directory; nothing was changed"
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Made by an agent so old that nobody knows how.
    #[error(
        "{path} is of format {found}, which this agent does not know any more: run the version before this one once, or enrol anew with another --state directory; nothing was changed"
    )]
    TooOld {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It could not be made one of the present format.
    #[error(
        "{path} could not be migrated from format {from}: it is as it was, with the small files also in backup-{from}; mend what is said and start again"
    )]
    Migration {
        /// The directory.
        path: PathBuf,
        /// From which format.
        from: u32,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// `version` holds no number.
    #[error("{path} is no agent's state directory: its file `version` holds no number")]
    NotOurs {
        /// The directory.
        path: PathBuf,
    },
    /// Others could read or change it.
    #[error("{path} {why}")]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// Another runner has it.
    #[error("another agent is running on {path}: stop it first (outpost-agent status shows it)")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// There is none, and the command does not make one.
    #[error(
        "{path} is no agent's state directory: enrol first with `outpost-agent enrol`, or name it with --state"
    )]
    Missing {
        /// The directory.
        path: PathBuf,
    },
}

fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StateError + 'a {
    move |source| StateError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// What enrolment settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `host:port` of the orchestrator's agent port.
    pub orchestrator: String,
    /// The tenant's name there.
    pub tenant: String,
    /// This agent's name there.
    pub agent: String,
    /// The certificate's one URI SAN.
    pub spiffe_id: String,
}

/// What the variable names, or else this directory of `HOME`: absolute, or not at all.
pub(crate) fn below_home(variable: &str, usual: &str) -> Option<PathBuf> {
    let absolute = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    absolute(variable).or_else(|| Some(absolute("HOME")?.join(usual)))
}

/// A state directory that exists and may be used.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Where it is unless somebody says otherwise; `None` when nothing says where an account's own files are.
    #[must_use]
    pub fn default_path() -> Option<PathBuf> {
        if rustix::process::geteuid().is_root() {
            return Some(PathBuf::from("/var/lib/outpost-agent"));
        }
        let base = below_home("XDG_STATE_HOME", ".local/state")?;
        Some(base.join("outpost-agent"))
    }

    /// Opens the directory, making it with strict modes if there is none.
    ///
    /// # Errors
    /// See [`StateError`]; nothing is changed when it is another's, or of a newer format.
    pub fn create(path: &Path) -> Result<Self, StateError> {
        make_passable(path).map_err(io("making", path))?;
        let path = path.canonicalize().map_err(io("opening", path))?;
        let version = path.join("version");
        if !version.exists() {
            let strict = std::fs::Permissions::from_mode(0o711);
            let empty = path.read_dir().is_ok_and(|mut dir| dir.next().is_none());
            // A directory made for this purpose, by the line above or by hand, whatever the umask was.
            if empty {
                std::fs::set_permissions(&path, strict).map_err(io("securing", &path))?;
            }
            files::replace(&version, VERSION.to_string().as_bytes())
                .map_err(io("writing", &version))?;
        }
        let state = Self::open(&path)?;
        // Tasks of other accounts pass through to their own directories and can list nothing on the way.
        for (name, mode) in [
            ("keys", 0o700),
            ("ledger", 0o700),
            ("attempts", 0o700),
            ("work", 0o711),
            ("runs", 0o711),
        ] {
            let dir = state.path.join(name);
            DirBuilder::new()
                .recursive(true)
                .create(&dir)
                .map_err(io("making", &dir))?;
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode))
                .map_err(io("securing", &dir))?;
        }
        Ok(state)
    }

    /// Opens a directory that exists.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn open(path: &Path) -> Result<Self, StateError> {
        Self::open_any(path).map(|(state, _)| state)
    }

    /// Opens it, whatever format up to the present one it is of; says which.
    fn open_any(path: &Path) -> Result<(Self, u32), StateError> {
        let path = path.canonicalize().map_err(|_| StateError::Missing {
            path: path.to_owned(),
        })?;
        let version = path.join("version");
        let text = match std::fs::read_to_string(&version) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StateError::Missing { path });
            }
            Err(error) => return Err(io("reading", &version)(error)),
        };
        let found = text
            .trim()
            .parse::<u32>()
            .map_err(|_| StateError::NotOurs { path: path.clone() })?;
        if found > VERSION {
            return Err(StateError::Newer { path, found });
        }
        check_safe(&path)?;
        Ok((Self { path }, found))
    }

    /// Makes an older directory one of the present format; `lock`: only the one runner, or an enrolment, may.
    ///
    /// # Errors
    /// When a step fails; the directory is then still of the older format.
    pub fn migrate(&self, _lock: &File) -> Result<(), StateError> {
        let (_, found) = Self::open_any(&self.path)?;
        migrate::migrate(&self.path, found, VERSION, migrate::STEPS)
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Link's key directory.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.path.join("keys")
    }

    /// The ledger's directory.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.path.join("ledger")
    }

    /// One attempt's directory.
    #[must_use]
    pub fn attempt(&self, attempt: AttemptId) -> PathBuf {
        self.attempts().join(attempt.to_string())
    }

    /// All attempts' directories.
    #[must_use]
    pub fn attempts(&self) -> PathBuf {
        self.path.join("attempts")
    }

    /// All working directories.
    #[must_use]
    pub fn works(&self) -> PathBuf {
        self.path.join("work")
    }

    /// All runs' directories.
    #[must_use]
    pub fn runs(&self) -> PathBuf {
        self.path.join("runs")
    }

    /// What is no longer needed, until it is removed; not there before something was.
    #[must_use]
    pub fn trash(&self) -> PathBuf {
        self.path.join("trash")
    }

    /// One attempt's working directory.
    #[must_use]
    pub fn work(&self, attempt: AttemptId) -> PathBuf {
        self.works().join(attempt.to_string())
    }

    /// `$OUTPOST_RUN_DIR` of a run.
    #[must_use]
    pub fn run(&self, run: RunId) -> PathBuf {
        self.runs().join(run.to_string())
    }

    /// What says which files of runs are encrypted; not there before something was.
    #[must_use]
    pub fn lists(&self) -> PathBuf {
        self.path.join("seals")
    }

    /// What was noted of encrypted logs; not there before there was one.
    #[must_use]
    pub fn book(&self) -> PathBuf {
        self.path.join("book")
    }

    /// The list of one run.
    #[must_use]
    pub fn list_of(&self, run: RunId) -> PathBuf {
        self.lists().join(run.to_string())
    }

    /// Where the runner answers the site's own commands.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path.join("agent.sock")
    }

    /// Makes this process the one runner of the directory, for as long as the file lives.
    ///
    /// # Errors
    /// [`StateError::Locked`] when there is another.
    pub fn lock(&self) -> Result<File, StateError> {
        let path = self.path.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io("opening", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => Err(StateError::Locked {
                path: self.path.clone(),
            }),
            Err(std::fs::TryLockError::Error(error)) => Err(io("locking", &path)(error)),
        }
    }

    /// The directory's random id, made on first use.
    ///
    /// # Errors
    /// When it can be neither read nor made.
    pub fn id(&self) -> Result<String, StateError> {
        let path = self.path.join("id");
        match std::fs::read_to_string(&path) {
            Ok(id) => Ok(id.trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let id = format!(
                    "{:032x}",
                    random_u128().map_err(io("drawing an id for", &path))?
                );
                files::replace(&path, id.as_bytes()).map_err(io("writing", &path))?;
                Ok(id)
            }
            Err(error) => Err(io("reading", &path)(error)),
        }
    }

    /// What enrolment settled; `None` before it.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn identity(&self) -> Result<Option<Identity>, StateError> {
        let path = self.path.join("identity.json");
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| io("reading", &path)(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io("reading", &path)(error)),
        }
    }

    /// Remembers what enrolment settled.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_identity(&self, identity: &Identity) -> Result<(), StateError> {
        let path = self.path.join("identity.json");
        let bytes = serde_json::to_vec_pretty(identity)
            .map_err(|error| io("writing", &path)(error.into()))?;
        files::replace(&path, &bytes).map_err(io("writing", &path))
    }
}

/// Makes a directory and what is missing above it, for tasks of other accounts to pass through, whatever the mask is.
fn make_passable(path: &Path) -> io::Result<()> {
    let passable = || std::fs::Permissions::from_mode(0o711);
    match DirBuilder::new().mode(0o711).create(path) {
        Ok(()) => std::fs::set_permissions(path, passable()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = path.parent().filter(|above| !above.as_os_str().is_empty());
            make_passable(above.ok_or(error)?)?;
            make_passable(path)
        }
        Err(error) => Err(error),
    }
}

/// D6: the directory belongs to this account and nobody else can write it.
fn check_safe(path: &Path) -> Result<(), StateError> {
    use std::os::unix::fs::MetadataExt;
    let meta = path.metadata().map_err(io("reading", path))?;
    let unsafe_because = |why: String| {
        Err(StateError::Unsafe {
            path: path.to_owned(),
            why,
        })
    };
    let own = rustix::process::geteuid().as_raw();
    if meta.uid() != own {
        return unsafe_because(format!(
            "belongs to user {}, and this agent runs as user {own}: run it as its owner, or chown -R it",
            meta.uid()
        ));
    }
    if meta.mode() & 0o022 != 0 {
        return unsafe_because(format!(
            "can be written by others (mode {:o}): chmod go-w it",
            meta.mode() & 0o7777
        ));
    }
    Ok(())
}

fn random_u128() -> io::Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests;
