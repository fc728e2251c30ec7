//! The bug bank: small patches that put known bugs back. The simulation must find each, or it proves nothing.
//!
//! A patch is applied to a copy of the workspace in a temporary directory and built there with a target directory of its
//! own; the shipped sources are never touched.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What became of one bug.
#[derive(Debug)]
pub struct Bug {
    /// The patch's name.
    pub name: String,
    /// What the simulation printed; `None` when it found nothing.
    pub found: Option<String>,
}

/// Why a bug could not be tried.
#[derive(Debug, thiserror::Error)]
pub enum BugbankError {
    /// A file or a program.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The patch does not fit the sources any more.
    #[error("{0} does not apply any more: make it anew")]
    Stale(String),
    /// The patched sources do not build.
    #[error("{name} does not build:\n{output}")]
    Build {
        /// Which patch.
        name: String,
        /// What cargo said.
        output: String,
    },
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> BugbankError {
    let what = what.into();
    move |source| BugbankError::Io { what, source }
}

/// Tries every patch in `tests/sim/bugs` of the workspace on `seeds` seeds each.
///
/// # Errors
/// When a patch cannot be applied or built.
pub fn bugbank(workspace: &Path, scratch: &Path, seeds: u64) -> Result<Vec<Bug>, BugbankError> {
    let bugs = workspace.join("tests/sim/bugs");
    let entries = std::fs::read_dir(&bugs).map_err(io(bugs.display().to_string()))?;
    let mut patches: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    patches.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "patch")
    });
    patches.sort();
    patches
        .iter()
        .map(|patch| try_bug(workspace, scratch, patch, seeds))
        .collect()
}

fn try_bug(
    workspace: &Path,
    scratch: &Path,
    patch: &Path,
    seeds: u64,
) -> Result<Bug, BugbankError> {
    let name = patch
        .file_stem()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let copy = scratch.join("workspace");
    copy_sources(workspace, &copy)?;
    let mut apply = Command::new("patch");
    apply
        .args(["--strip=1", "--forward", "--silent", "--input"])
        .arg(patch)
        .current_dir(&copy);
    let applied = apply.output().map_err(io("running `patch`"))?;
    if !applied.status.success() {
        return Err(BugbankError::Stale(name));
    }
    let mut build = Command::new("cargo");
    build
        .args(["build", "--release", "--offline", "-p", "outpost-sim"])
        .current_dir(&copy);
    let built = build
        .env("CARGO_TARGET_DIR", scratch.join("target"))
        .output()
        .map_err(io("running `cargo`"))?;
    if !built.status.success() {
        let output = String::from_utf8_lossy(&built.stderr).into_owned();
        return Err(BugbankError::Build { name, output });
    }
    let mut sim = Command::new(scratch.join("target/release/outpost-sim"));
    let played = sim
        .args(["--seeds", &seeds.to_string()])
        .output()
        .map_err(io("running the simulation"))?;
    let said = String::from_utf8_lossy(&[played.stdout, played.stderr].concat()).into_owned();
    let found = (!played.status.success() && said.contains("broken: ")).then_some(said);
    Ok(Bug { name, found })
}

/// Copies what a build needs: no build products, no history.
fn copy_sources(from: &Path, to: &Path) -> Result<(), BugbankError> {
    std::fs::create_dir_all(to).map_err(io(to.display().to_string()))?;
    let entries = std::fs::read_dir(from).map_err(io(from.display().to_string()))?;
    for entry in entries {
        let entry = entry.map_err(io(from.display().to_string()))?;
        let (name, path) = (entry.file_name(), entry.path());
        if name == "target" || name == ".git" {
            continue;
        }
        let kind = entry.file_type().map_err(io(path.display().to_string()))?;
        if kind.is_dir() {
            copy_sources(&path, &to.join(name))?;
        } else if kind.is_file() {
            copy_if_changed(&path, &to.join(name))?;
        }
    }
    Ok(())
}

/// A file that is the same keeps its time, so that only what a patch touched is built again.
fn copy_if_changed(from: &Path, to: &Path) -> Result<(), BugbankError> {
    let wanted = std::fs::read(from).map_err(io(from.display().to_string()))?;
    if std::fs::read(to).is_ok_and(|there| there == wanted) {
        return Ok(());
    }
    std::fs::write(to, wanted).map_err(io(to.display().to_string()))
}
