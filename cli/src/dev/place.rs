//! Where `dev` and `demo` keep everything: a directory of their own, outside of any clone, that tasks of another
//! account can pass through and nobody else can write to.
//!
//! ```text
//! lock             held while it is in use; says who made it
//! orchestrator/    its directory, as `outpost-orchestrator init` makes it
//! orchestrator.json  its two addresses
//! agent/           the agent's state: ledger, attempts with their logs, runs
//! catalogue.d/     what the agent offers
//! logs/            what the two programs say
//! ```

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Directories of one kind that are kept, the new one included.
const KEPT: usize = 5;
/// Held while the directory is in use, and says who made it.
pub(super) const LOCK: &str = "lock";
/// What stands in the lock of a directory that `dev` made.
pub(super) const MARK: &str = "outpost dev\n";
/// Everything that `dev` puts into its directory. The lock goes last: without it the rest is nobody's.
pub(super) const MADE: [&str; 8] = [
    "orchestrator",
    "orchestrator.json",
    "agent",
    "catalogue.d",
    "logs",
    "join.token",
    "host-report.yaml",
    LOCK,
];

/// A directory that is ours as long as this lives.
#[derive(Debug)]
pub(crate) struct Place {
    root: PathBuf,
    _lock: File,
}

impl Place {
    /// The given directory, which must be new or empty, or a new one of this kind where there is room for it. Older
    /// ones of the same kind and account are removed then.
    pub(crate) fn create(kind: &str, given: Option<&Path>) -> Result<Self, Failure> {
        if let Some(path) = given {
            return Self::at(kind, path);
        }
        let uid = rustix::process::geteuid().as_raw();
        let family = family(kind);
        let mut why = String::from("neither /tmp nor /var/tmp is there");
        for base in bases() {
            let made = unsuitable(&base).map_or_else(|| Self::below(kind, &base, &family), Err);
            match made {
                Ok(place) => {
                    prune(&base, &family, uid);
                    return Ok(place);
                }
                Err(reason) => why = reason,
            }
        }
        Err(Failure::Usage(format!(
            "no place for a directory of our own ({why}); name one with --dir"
        )))
    }

    fn at(kind: &str, path: &Path) -> Result<Self, Failure> {
        match DirBuilder::new().mode(0o711).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let used = std::fs::read_dir(path)
                    .map_err(Failure::file(path))?
                    .next()
                    .is_some();
                if used {
                    let how = if kind == "dev" {
                        ", or delete what an earlier one made with --reset"
                    } else {
                        ""
                    };
                    return Err(Failure::Usage(format!(
                        "{} is not empty; name a new directory{how}",
                        path.display()
                    )));
                }
            }
            made => made.map_err(Failure::file(path))?,
        }
        let path = path.canonicalize().map_err(Failure::file(path))?;
        if let Some(reason) = path.parent().and_then(unsuitable) {
            return Err(Failure::Usage(format!(
                "{} cannot be used: {reason}; choose another",
                path.display()
            )));
        }
        Self::take(kind, path.clone()).map_err(Failure::file(path))
    }

    fn below(kind: &str, base: &Path, family: &str) -> Result<Self, String> {
        let stamp = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string();
        let process = std::process::id();
        for round in 0..100 {
            let root = base.join(format!("{family}{stamp}-{process}-{round}"));
            match DirBuilder::new().mode(0o711).create(&root) {
                Ok(()) => {
                    return Self::take(kind, root)
                        .map_err(|error| format!("{}: {error}", base.display()));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(format!("{}: {error}", base.display())),
            }
        }
        Err(format!("{}: a hundred names are taken", base.display()))
    }

    fn take(kind: &str, root: PathBuf) -> io::Result<Self> {
        // The mask of this process must not decide who can pass.
        std::fs::set_permissions(&root, Permissions::from_mode(0o711))?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(root.join(LOCK))?;
        lock.lock()?;
        (&lock).write_all(format!("outpost {kind}\n").as_bytes())?;
        DirBuilder::new().mode(0o700).create(root.join("logs"))?;
        Ok(Self { root, _lock: lock })
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The orchestrator's directory.
    pub(crate) fn orchestrator(&self) -> PathBuf {
        self.root.join("orchestrator")
    }

    /// The file that says where the orchestrator listens.
    pub(crate) fn ready(&self) -> PathBuf {
        self.root.join("orchestrator.json")
    }

    /// The first administrator's token.
    pub(crate) fn token(&self) -> PathBuf {
        self.orchestrator().join("admin.token")
    }

    /// The agent's state directory.
    pub(crate) fn agent(&self) -> PathBuf {
        self.root.join("agent")
    }

    /// The agent's catalogue.
    pub(crate) fn catalogue(&self) -> PathBuf {
        self.root.join("catalogue.d")
    }

    /// What a program says.
    pub(crate) fn log(&self, program: &str) -> PathBuf {
        self.root.join("logs").join(format!("{program}.log"))
    }
}

/// How throw-away directories of a kind begin, for this account.
pub(super) fn family(kind: &str) -> String {
    format!("outpost-{kind}-{}-", rustix::process::geteuid().as_raw())
}

/// Where such directories are made, in order: what outlives a reboot is not needed, what outlives a login is welcome.
pub(super) fn bases() -> Vec<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let bases = [Some("/tmp".into()), Some("/var/tmp".into()), runtime]
        .into_iter()
        .flatten();
    bases
        .filter_map(|base: PathBuf| base.canonicalize().ok())
        .collect()
}

/// Why a directory cannot hold ours: on its path others can write, tasks cannot pass, or a clone lies around it.
fn unsuitable(base: &Path) -> Option<String> {
    let (own, root) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::geteuid().is_root(),
    );
    base.ancestors().find_map(|part| {
        let Ok(meta) = part.metadata() else {
            return Some(format!("{} cannot be read", part.display()));
        };
        let mode = meta.mode();
        let shown = part.display();
        if meta.uid() != 0 && meta.uid() != own {
            return Some(format!("{shown} belongs to somebody else"));
        }
        if mode & 0o022 != 0 && !(mode & 0o1000 != 0 && meta.uid() == 0) {
            return Some(format!("others can write to {shown}"));
        }
        if root && mode & 0o001 == 0 {
            return Some(format!("tasks, which run as nobody, cannot pass {shown}"));
        }
        let clone = part.join(".git").exists();
        clone.then(|| format!("{shown} is a clone, which nothing is written into"))
    })
}

/// Removes all but the newest of a family that nobody uses. What cannot be removed is left.
fn prune(base: &Path, family: &str, uid: u32) {
    let Ok(entries) = std::fs::read_dir(base) else {
        return;
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(family))
        .map(|entry| entry.path())
        .filter(|path| {
            path.symlink_metadata()
                .is_ok_and(|meta| meta.is_dir() && meta.uid() == uid)
        })
        .collect();
    // Their names begin with when they were made.
    found.sort();
    let surplus = found.len().saturating_sub(KEPT);
    for path in found.drain(..surplus) {
        let lock = OpenOptions::new().write(true).open(path.join(LOCK));
        if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Root's tasks run as somebody else.
    fn passable() -> tempfile::TempDir {
        let base = tempfile::tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(base.path(), Permissions::from_mode(0o711)).unwrap();
        base
    }

    #[test]
    fn a_directory_that_others_can_write_to_or_a_clone_holds_nothing() {
        let base = passable();
        std::fs::create_dir(base.path().join(".git")).unwrap();
        let error = Place::at("x", &base.path().join("d"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("is a clone"), "{error}");
        std::fs::remove_dir(base.path().join(".git")).unwrap();
        std::fs::set_permissions(base.path(), Permissions::from_mode(0o777)).unwrap();
        let error = Place::at("x", &base.path().join("e"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("others can write"), "{error}");
    }

    #[test]
    fn only_the_newest_that_nobody_uses_are_kept() {
        let base = passable();
        let uid = rustix::process::geteuid().as_raw();
        let make = |name: &str| Place::at("x", &base.path().join(name));
        let used = make("outpost-x-1-20260101-000000-1").unwrap();
        for day in 2..9 {
            drop(make(&format!("outpost-x-1-2026010{day}-000000-1")).unwrap());
        }
        std::fs::create_dir(base.path().join("outpost-y-1-20250101")).unwrap();
        prune(base.path(), "outpost-x-1-", uid);
        let mut left = std::fs::read_dir(base.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect::<Vec<_>>();
        left.sort();
        let left = left
            .iter()
            .map(|name| name.to_string_lossy())
            .collect::<Vec<_>>();
        assert_eq!(left.len(), 7, "{left:?}");
        assert!(left.contains(&used.root().file_name().unwrap().to_string_lossy()));
        assert!(left.contains(&"outpost-y-1-20250101".into()));
    }

    #[test]
    fn a_directory_with_something_in_it_is_refused() {
        let base = tempfile::tempdir().unwrap();
        std::fs::write(base.path().join("x"), "").unwrap();
        let error = Place::at("x", base.path()).unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
    }
}
