//! Where tasks' secrets that are files lie: a directory on a file system in memory, one for each state directory, with
//! one directory in it for each attempt. Keepers write and remove those; the runner removes what a keeper that was killed
//! left behind, and a new runner what both did.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use outpost_agent_keeper::secrets::remove;
use outpost_proto::ids::AttemptId;
use sha2::{Digest as _, Sha256};

/// Numbers of file systems that are in memory only, as `statfs` has them.
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;
/// Names the state directory that a directory belongs to.
const OF: &str = ".of";

/// The directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(PathBuf);

impl Place {
    /// Makes it, or finds it. `state`: the state directory; `wanted`: where the site wants it.
    ///
    /// # Errors
    /// A sentence when there is no file system in memory that this account can write, or the name is another's.
    pub fn open(state: &Path, wanted: Option<&Path>) -> Result<Self, String> {
        let base = base(wanted)?;
        sweep_others(&base);
        let dir = base.join(name(state));
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(format!("{}: {error}", dir.display()));
            }
            Ok(()) | Err(_) => {}
        }
        // In a directory that everybody can write, somebody else may have made it first.
        if !is_own(&dir) {
            return Err(format!(
                "{} is not this account's own directory: remove it",
                dir.display()
            ));
        }
        // Tasks of other accounts pass through and can list nothing, whatever this process's own mask is.
        std::fs::set_permissions(&dir, Permissions::from_mode(0o711))
            .map_err(|error| format!("{}: {error}", dir.display()))?;
        // There already, or without use: it is only for who comes after this state directory.
        let _ = std::os::unix::fs::symlink(canonical(state), dir.join(OF));
        Ok(Self(dir))
    }

    /// The one that an earlier process made, if there is one.
    #[must_use]
    pub fn existing(state: &Path, wanted: Option<&Path>) -> Option<Self> {
        let dir = base(wanted).ok()?.join(name(state));
        is_own(&dir).then_some(Self(dir))
    }

    /// The directory itself.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// Where an attempt's files are.
    #[must_use]
    pub fn attempt(&self, attempt: AttemptId) -> PathBuf {
        self.0.join(attempt.to_string())
    }

    /// Takes away what a keeper left of an attempt that is over.
    pub fn forget(&self, attempt: AttemptId) {
        remove(&self.attempt(attempt));
    }

    /// Takes away what is of none of these attempts.
    pub fn sweep(&self, living: impl Fn(&str) -> bool) {
        for entry in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if !name.to_str().is_some_and(|name| name == OF || living(name)) {
                remove(&entry.path());
            }
        }
    }

    /// Takes all of it away.
    pub fn close(self) {
        self.sweep(|_| false);
        remove(&self.0);
    }
}

fn base(wanted: Option<&Path>) -> Result<PathBuf, String> {
    match wanted {
        Some(wanted) => in_memory(wanted).map(|()| wanted.to_owned()),
        None => usual().ok_or_else(|| {
            "a secret is to be a file, and neither /dev/shm, $XDG_RUNTIME_DIR nor /run is a file system in memory \
             (tmpfs) that this account can write: mount one and name it as `files_in` in secrets.toml, or use \
             as = \"fd\""
                .to_owned()
        }),
    }
}

fn canonical(state: &Path) -> PathBuf {
    state.canonicalize().unwrap_or_else(|_| state.to_owned())
}

fn begin() -> String {
    format!("outpost-{}-", rustix::process::geteuid().as_raw())
}

/// Of the directory that belongs to a state directory.
fn name(state: &Path) -> String {
    let digest = Sha256::digest(canonical(state).as_os_str().as_encoded_bytes());
    let digest = digest.iter().take(8).map(|byte| format!("{byte:02x}"));
    begin() + &digest.collect::<String>()
}

fn is_own(dir: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    let meta = dir.symlink_metadata();
    meta.is_ok_and(|meta| meta.is_dir() && meta.uid() == own && meta.mode() & 0o022 == 0)
}

fn usual() -> Option<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let candidates = [Some("/dev/shm".into()), runtime, Some("/run".into())];
    first_of(candidates.into_iter().flatten())
}

/// The first that is in memory and can be written.
fn first_of(mut candidates: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    candidates.find(|dir| {
        dir.is_absolute()
            && in_memory(dir).is_ok()
            && rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()
    })
}

fn in_memory(dir: &Path) -> Result<(), String> {
    let stat = rustix::fs::statfs(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    // The field's type differs between machines; its bits do not.
    #[expect(
        clippy::cast_sign_loss,
        reason = "a number of 32 bits in a field of one or another type"
    )]
    let kind = stat.f_type as u64 & 0xffff_ffff;
    if kind == TMPFS || kind == RAMFS {
        Ok(())
    } else {
        Err(format!(
            "{} is no file system in memory: what is written there would reach a disk; mount a tmpfs",
            dir.display()
        ))
    }
}

/// Takes away what belongs to state directories that are gone.
fn sweep_others(base: &Path) {
    let begin = begin();
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let named = entry.file_name();
        let is_ours = named.to_str().is_some_and(|name| name.starts_with(&begin));
        let of = entry.path().join(OF);
        let is_left = of.symlink_metadata().is_ok() && of.metadata().is_err();
        if is_ours && is_left && is_own(&entry.path()) {
            Place(entry.path()).close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(number: u128) -> AttemptId {
        AttemptId(number)
    }

    #[test]
    fn only_a_file_system_in_memory_will_do() {
        let why = Place::open(Path::new("/nowhere"), Some(Path::new("/proc"))).unwrap_err();
        assert!(why.contains("no file system in memory"), "{why}");
        assert!(Place::open(Path::new("/nowhere"), Some(Path::new("/no/such"))).is_err());
    }

    #[test]
    fn a_directory_that_others_can_change_or_that_is_a_link_is_not_taken_for_its_own() {
        let Ok(base) = tempfile::tempdir_in("/dev/shm") else {
            return;
        };
        let state = crate::testing::tempdir().unwrap();
        let dir = base.path().join(name(state.path()));
        let open = || Place::open(state.path(), Some(base.path()));
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
        let why = open().unwrap_err();
        assert!(why.contains("is not this account's own"), "{why}");
        assert_eq!(Place::existing(state.path(), Some(base.path())), None);
        std::fs::remove_dir(&dir).unwrap();
        std::os::unix::fs::symlink(state.path(), &dir).unwrap();
        assert!(open().is_err());
        std::fs::remove_file(&dir).unwrap();
        std::fs::write(&dir, "").unwrap();
        std::fs::set_permissions(&dir, Permissions::from_mode(0o600)).unwrap();
        assert!(open().unwrap_err().contains("is not this account's own"));
    }

    #[test]
    fn a_directory_of_another_account_is_not_its_own() {
        let dir = crate::testing::tempdir().unwrap();
        assert!(is_own(dir.path()));
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(dir.path(), Some(61_713), None).unwrap();
            assert!(!is_own(dir.path()));
        } else {
            assert!(!is_own(Path::new("/")));
        }
    }

    /// Everybody can write where such directories are, and can put there what looks like one of an agent that is gone.
    #[test]
    fn what_others_put_beside_it_is_not_taken_away() {
        let Ok(base) = tempfile::tempdir_in("/dev/shm") else {
            return;
        };
        let state = crate::testing::tempdir().unwrap();
        let outside = crate::testing::tempdir().unwrap();
        let left = |dir: &Path| {
            std::fs::write(dir.join("precious"), "x").unwrap();
            std::os::unix::fs::symlink("/no/such/state", dir.join(OF)).unwrap();
        };
        left(outside.path());
        let link = base.path().join(begin() + "0123456789abcdef");
        std::os::unix::fs::symlink(outside.path(), &link).unwrap();
        let other = base.path().join("another-program");
        DirBuilder::new().mode(0o700).create(&other).unwrap();
        left(&other);
        let _ = Place::open(state.path(), Some(base.path())).unwrap();
        for dir in [outside.path(), &other] {
            assert!(dir.join("precious").exists(), "{}", dir.display());
        }
    }

    #[test]
    fn without_a_wish_it_is_where_no_disk_is() {
        let Ok(base) = tempfile::tempdir_in("/dev/shm") else {
            return;
        };
        let found = |dirs: &[&Path]| first_of(dirs.iter().map(|dir| dir.to_path_buf()));
        let memory = base.path();
        let climb = "../".repeat(64);
        let relative = Path::new(&climb).join(memory.strip_prefix("/").unwrap());
        assert!(in_memory(&relative).is_ok(), "it leads there all the same");
        let candidates = [&relative, Path::new("/proc"), Path::new("/no/such"), memory];
        assert_eq!(found(&candidates), Some(memory.to_owned()));
        assert_eq!(found(&candidates[..3]), None);
    }

    #[test]
    fn what_is_left_of_other_attempts_and_other_agents_goes() {
        let Ok(base) = tempfile::tempdir_in("/dev/shm") else {
            return;
        };
        let state = crate::testing::tempdir().unwrap();
        let gone = crate::testing::tempdir().unwrap();
        let open = |state: &Path| Place::open(state, Some(base.path())).unwrap();
        let other = open(gone.path());
        assert_eq!(other.dir().metadata().unwrap().mode() & 0o7777, 0o711);
        let put = |place: &Place, number: u128| {
            let dir = place.attempt(attempt(number));
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("name"), "x").unwrap();
            dir
        };
        let left = put(&other, 7);
        let place = open(state.path());
        assert!(left.exists(), "its state directory is there");
        let (one, two, three) = (put(&place, 1), put(&place, 2), put(&place, 3));
        let living = attempt(2).to_string();
        place.sweep(|name| name == living || name == attempt(3).to_string());
        assert!(!one.exists() && two.exists() && three.exists());
        place.forget(attempt(3));
        assert!(!three.exists());
        drop(gone);
        let place_again = open(state.path());
        assert_eq!(place_again, place);
        assert!(!left.exists() && two.exists());
        place.close();
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
    }
}
