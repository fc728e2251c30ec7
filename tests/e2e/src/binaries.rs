//! Where the real binaries are, and whether they are what the sources say.
//!
//! Cargo builds no other package's binaries for a test, so a stale one would be tested silently: a binary that is older
//! than any file its dep-info names is refused. `cargo build` leaves one dep-info beside the binary; `cargo test` leaves
//! only those of the libraries that the binary was linked from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

/// One of the three binaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// `outpost-agent`.
    Agent,
    /// `outpost-orchestrator`.
    Orchestrator,
    /// `outpost`.
    Cli,
}

/// Why a binary is not used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refused {
    /// There is none.
    #[error("{} does not exist: build it with `{build}`", path.display())]
    Missing {
        /// Where it would be.
        path: PathBuf,
        /// The command.
        build: String,
    },
    /// A file it was made of has changed since.
    #[error("{} is older than {}: build it again with `{build}`", path.display(), newer.display())]
    Stale {
        /// The binary.
        path: PathBuf,
        /// What is newer, or gone.
        newer: PathBuf,
        /// The command.
        build: String,
    },
}

impl Binary {
    /// Where it is: beside this process's own executable. Checked once.
    ///
    /// # Errors
    /// When it is missing or stale.
    pub fn find(self) -> Result<&'static Path, Refused> {
        static FOUND: [OnceLock<Result<PathBuf, Refused>>; 3] = [const { OnceLock::new() }; 3];
        let (slot, name) = match self {
            Self::Agent => (0, "outpost-agent"),
            Self::Orchestrator => (1, "outpost-orchestrator"),
            Self::Cli => (2, "outpost"),
        };
        let found = FOUND[slot].get_or_init(|| checked(&directory(), name, self.libraries()));
        found.as_ref().map(PathBuf::as_path).map_err(Clone::clone)
    }

    /// What it is linked from, by the beginnings of the crates' names.
    fn libraries(self) -> &'static [&'static str] {
        match self {
            Self::Agent => &["agent", "proto", "driver", "certs"],
            Self::Orchestrator => &["orchestrator", "proto", "driver", "certs"],
            Self::Cli => &["agent", "orchestrator", "proto", "driver", "certs"],
        }
    }

    /// The same, for tests.
    ///
    /// # Panics
    /// When it is missing or stale, with the command that builds it.
    #[must_use]
    #[track_caller]
    pub fn path(self) -> &'static Path {
        self.find().unwrap_or_else(|why| panic!("{why}"))
    }
}

/// Cargo's output directory: tests lie in its `deps`, binaries in itself.
fn directory() -> PathBuf {
    let own = std::env::current_exe().expect("a process has an executable");
    let dir = own.parent().expect("an executable lies in a directory");
    match dir.file_name() {
        Some(name) if name == "deps" => dir.parent().unwrap_or(dir).to_owned(),
        Some(_) | None => dir.to_owned(),
    }
}

fn checked(dir: &Path, name: &str, libraries: &[&str]) -> Result<PathBuf, Refused> {
    let path = dir.join(name);
    let release = if dir.ends_with("release") {
        " --release"
    } else {
        ""
    };
    let build = format!("cargo build --workspace --bins{release}");
    let Some(built) = modified(&path) else {
        return Err(Refused::Missing { path, build });
    };
    let parts = match std::fs::read_to_string(dir.join(format!("{name}.d"))) {
        Ok(info) => parts(&info),
        Err(_) => parts_of_libraries(&dir.join("deps"), libraries),
    };
    if parts.is_empty() {
        let path = dir.join(format!("{name}.d"));
        return Err(Refused::Missing { path, build });
    }
    let newer = parts
        .into_iter()
        .find(|part| modified(part).is_none_or(|at| at > built));
    match newer {
        Some(newer) => Err(Refused::Stale { path, newer, build }),
        None => Ok(path),
    }
}

/// The sources of the newest build of each of our libraries among `libraries`.
fn parts_of_libraries(deps: &Path, libraries: &[&str]) -> Vec<PathBuf> {
    let mut newest: BTreeMap<String, (SystemTime, String)> = BTreeMap::new();
    for entry in std::fs::read_dir(deps).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let stem = name
            .strip_prefix("lib")
            .and_then(|name| name.strip_suffix(".rlib"));
        let Some((library, _)) = stem.and_then(|stem| stem.rsplit_once('-')) else {
            continue;
        };
        let ours = library
            .strip_prefix("outpost_")
            .is_some_and(|own| libraries.iter().any(|library| own.starts_with(library)));
        let Some(built) = modified(&entry.path()).filter(|_| ours) else {
            continue;
        };
        let stem = stem.unwrap_or_default().to_owned();
        let known = newest
            .entry(library.to_owned())
            .or_insert((built, stem.clone()));
        if built > known.0 {
            *known = (built, stem);
        }
    }
    // These dep-infos name the workspace's files relative to its root.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let info = |stem: &String| std::fs::read_to_string(deps.join(format!("{stem}.d"))).ok();
    let infos = newest.values().filter_map(|(_, stem)| info(stem));
    infos
        .flat_map(|info| parts(&info))
        .map(|part| root.join(part))
        .collect()
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().ok()?.modified().ok()
}

/// The files in a dep-info line `target: file file …`, where a space within a name is `\ `.
fn parts(info: &str) -> Vec<PathBuf> {
    let Some((_, files)) = info.lines().next().and_then(|line| line.split_once(": ")) else {
        return Vec::new();
    };
    let marked = files.replace("\\ ", "\0");
    let names = marked.split(' ').filter(|name| !name.is_empty());
    names
        .map(|name| PathBuf::from(name.replace('\0', " ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_older_than_one_of_its_sources_is_refused_with_the_command_that_builds_it() {
        let dir = tempfile::tempdir().unwrap();
        let error = checked(dir.path(), "it", &[]).unwrap_err().to_string();
        assert!(error.contains("cargo build"), "{error}");

        let source = dir.path().join("a source.rs");
        std::fs::write(&source, "").unwrap();
        std::fs::write(dir.path().join("it"), "").unwrap();
        let named = source.display().to_string().replace(' ', "\\ ");
        std::fs::write(dir.path().join("it.d"), format!("it: {named} {named}\n")).unwrap();
        checked(dir.path(), "it", &[]).unwrap();

        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        let file = std::fs::File::options().append(true).open(&source).unwrap();
        file.set_modified(later).unwrap();
        let error = checked(dir.path(), "it", &[]).unwrap_err().to_string();
        assert!(error.contains("a source.rs"), "{error}");
        std::fs::remove_file(&source).unwrap();
        assert!(checked(dir.path(), "it", &[]).is_err());
    }

    #[test]
    fn without_a_dep_info_of_its_own_the_libraries_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let deps = dir.path().join("deps");
        std::fs::create_dir(&deps).unwrap();
        let source = dir.path().join("lib.rs");
        std::fs::write(&source, "").unwrap();
        std::fs::write(dir.path().join("it"), "").unwrap();
        let look = |libraries: &[&str]| checked(dir.path(), "it", libraries);
        assert!(look(&["agent"]).is_err(), "nothing is known of it");

        std::fs::write(deps.join("liboutpost_agent_core-0f.rlib"), "").unwrap();
        let info = format!("it: {}\n", source.display());
        std::fs::write(deps.join("outpost_agent_core-0f.d"), info).unwrap();
        look(&["agent"]).unwrap();
        assert!(look(&["orchestrator"]).is_err(), "nothing is known of it");

        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        let file = std::fs::File::options().append(true).open(&source).unwrap();
        file.set_modified(later).unwrap();
        let error = look(&["agent"]).unwrap_err().to_string();
        assert!(error.contains("lib.rs"), "{error}");
    }
}
