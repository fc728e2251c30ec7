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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_dir::Identity;

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().permissions().mode() & 0o777
    }

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_a_directory_of_this_account_that_nobody_else_writes_is_its_own() {
        let dir = crate::testing::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("own")).unwrap();
        chmod(&path("own"), 0o755);
        assert!(owned(&path("own")).is_ok());
        std::os::unix::fs::symlink("own", path("link")).unwrap();
        std::fs::write(path("file"), "").unwrap();
        chmod(&path("file"), 0o600);
        for other in ["link", "file", "none"] {
            assert!(owned(&path(other)).is_err(), "{other}");
        }
        for open in [0o720, 0o702] {
            chmod(&path("own"), open);
            assert!(owned(&path("own")).is_err(), "{open:o}");
        }
        chmod(&path("own"), 0o700);
        if std::os::unix::fs::chown(path("own"), Some(61_713), None).is_ok() {
            assert!(owned(&path("own")).is_err());
        }
    }

    #[test]
    fn a_link_where_trials_are_is_not_followed() {
        let dir = crate::testing::tempdir().unwrap();
        let state = StateDir::create(&dir.path().join("state")).unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        chmod(&outside, 0o700);
        let tries = state.path().join("try");
        std::os::unix::fs::symlink(&outside, &tries).unwrap();
        assert!(Scratch::make(state.path(), &Place::Own).is_err());
        assert_eq!(mode(&outside), 0o700);
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        std::fs::remove_file(&tries).unwrap();
        assert_eq!(parent(state.path()).unwrap(), tries.canonicalize().unwrap());
        assert_eq!(mode(&tries), 0o711);
    }

    #[test]
    fn an_agents_own_directory_is_no_place_for_a_trial() {
        let dir = crate::testing::tempdir().unwrap();
        let state = StateDir::create(dir.path()).unwrap();
        assert!(trial_in(dir.path()).is_ok());
        let identity = Identity {
            orchestrator: "o:1".to_owned(),
            tenant: "t".to_owned(),
            agent: "a".to_owned(),
            spiffe_id: "s".to_owned(),
        };
        state.set_identity(&identity).unwrap();
        let why = trial_in(dir.path()).err().unwrap().to_string();
        assert!(why.contains("an agent's own state directory"), "{why}");
    }

    #[test]
    fn what_was_left_goes_and_what_is_held_kept_new_or_no_trial_stays() {
        let dir = crate::testing::tempdir().unwrap();
        let make = |name: &str, age: Duration| {
            let path = dir.path().join(name);
            let state = StateDir::create(&path).unwrap();
            let opened = File::open(&path).unwrap();
            opened.set_modified(SystemTime::now() - age).unwrap();
            state
        };
        let old = 2 * ABOUT_TO_HOLD;
        let (left, held) = (make("left", old), make("held", old));
        let new = make("new", Duration::ZERO);
        let (kept, forgotten) = (make("kept", Duration::ZERO), make("forgotten", old));
        for (state, age) in [(&kept, old), (&forgotten, 2 * LOOKED_AT)] {
            std::fs::write(state.path().join(KEPT), "").unwrap();
            let opened = File::open(state.path()).unwrap();
            opened.set_modified(SystemTime::now() - age).unwrap();
        }
        let other = dir.path().join("other");
        std::fs::create_dir(&other).unwrap();
        let opened = File::open(&other).unwrap();
        opened.set_modified(SystemTime::now() - old).unwrap();
        let lock = held.lock().unwrap();
        // The lock's file may be new there.
        let opened = File::open(held.path()).unwrap();
        opened.set_modified(SystemTime::now() - old).unwrap();
        sweep(dir.path());
        for gone in [&left, &forgotten] {
            assert!(!gone.path().exists(), "{}", gone.path().display());
        }
        for stays in [held.path(), new.path(), kept.path(), &other] {
            assert!(stays.exists(), "{}", stays.display());
        }
        drop(lock);
    }
}
