//! A state directory for one attempt that nobody asked for over the network: made beside the agent's own if there is
//! one, so that it is on the same file system, and taken away afterwards.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use outpost_agent_keeper::adopt::SpawnerClient;
use outpost_agent_keeper::exec::Leash;
use outpost_proto::ids::RunId;

use super::Place;
use crate::runner::retention;
use crate::state_dir::StateDir;

/// A directory that nobody holds is somebody's who is about to hold it, for so long.
const ABOUT_TO_HOLD: Duration = Duration::from_secs(60);
/// What is to be looked at stays so long at least, and says so with a file of this name.
const LOOKED_AT: Duration = Duration::from_secs(7 * 24 * 3600);
const KEPT: &str = "kept";
/// How long the spawner may take to end after its leash did.
const SPAWNER_END: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The directory, held and on a leash: whatever runs in it ends with this value, or with this process.
pub(super) struct Scratch {
    pub(super) state: StateDir,
    pub(super) leash: Leash,
    hold: Option<OwnedFd>,
    _lock: File,
    keep: bool,
}

impl Scratch {
    /// `state`: the agent's own state directory, if there is one.
    pub(super) fn make(state: &Path, place: &Place) -> anyhow::Result<Self> {
        let state = match place {
            Place::After(earlier) => trial_in(earlier)?,
            Place::Own | Place::Kept => {
                let parent = parent(state).context("making a place to try the entry in")?;
                sweep(&parent);
                StateDir::create(&parent.join(format!("{:016x}", random()?)))?
            }
        };
        let lock = state.lock()?;
        if *place != Place::Own {
            std::fs::write(state.path().join(KEPT), "").context("noting that it is kept")?;
        }
        let (leash, hold) = Leash::pair().context("making the leash")?;
        Ok(Self {
            state,
            leash,
            hold: Some(hold),
            _lock: lock,
            keep: *place != Place::Own,
        })
    }

    /// The run that an earlier attempt here was of.
    pub(super) fn run(&self) -> Option<RunId> {
        let mut runs = std::fs::read_dir(self.state.runs()).ok()?;
        let name = runs.next()?.ok()?.file_name();
        name.to_str()?.parse().ok()
    }

    /// Ends whatever still runs here, and waits for it.
    fn end(&mut self) {
        drop(self.hold.take());
        let give_up = Instant::now() + SPAWNER_END;
        while SpawnerClient::connect(self.state.path()).is_ok() && Instant::now() < give_up {
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.end();
        if self.keep {
            return;
        }
        if let Err(error) = retention::remove(self.state.path()) {
            let path = self.state.path().display();
            tracing::warn!("{path} stays behind: {error}");
        }
    }
}

/// A directory that an earlier trial left. An enrolled agent's own is no place for one.
fn trial_in(dir: &Path) -> anyhow::Result<StateDir> {
    let state = StateDir::open(dir)?;
    if state.identity()?.is_some() {
        bail!(
            "{} is an agent's own state directory: name one that `catalogue try --keep` left",
            dir.display()
        );
    }
    Ok(state)
}

/// Where such directories are: task users pass through and can list nothing.
fn parent(state: &Path) -> io::Result<PathBuf> {
    let parent = match StateDir::open(state) {
        Ok(state) => state.path().join("try"),
        Err(_) => {
            let own = rustix::process::geteuid().as_raw();
            std::env::temp_dir().join(format!("outpost-try-{own}"))
        }
    };
    match DirBuilder::new().mode(0o711).create(&parent) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io::Error::new(
                error.kind(),
                format!("{}: {error}", parent.display()),
            ));
        }
        Ok(()) | Err(_) => {}
    }
    owned(&parent)?;
    // Whatever this process's own mask is.
    std::fs::set_permissions(&parent, std::fs::Permissions::from_mode(0o711))?;
    Ok(parent)
}

/// In a directory that everybody can write, somebody else may have made it first.
fn owned(parent: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = parent.symlink_metadata()?;
    let own = rustix::process::geteuid().as_raw();
    if meta.is_dir() && meta.uid() == own && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    let why = format!(
        "{} is not this account's own directory: remove it, or set TMPDIR",
        parent.display()
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// Takes away what a killed process left, and what somebody wanted to look at long ago.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let wait = if path.join(KEPT).exists() {
            LOOKED_AT
        } else {
            ABOUT_TO_HOLD
        };
        let old = age(&path).is_some_and(|age| age > wait);
        let left = || StateDir::open(&path).is_ok_and(|state| state.lock().is_ok());
        if old && left() && retention::remove(&path).is_err() {
            tracing::debug!("{} stays behind", path.display());
        }
    }
}

fn age(path: &Path) -> Option<Duration> {
    let changed = path.symlink_metadata().and_then(|meta| meta.modified());
    SystemTime::now().duration_since(changed.ok()?).ok()
}

fn random() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(u64::from_be_bytes(bytes))
}
