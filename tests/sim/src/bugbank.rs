//! The bug bank: small patches that put known bugs back. The simulation must find each, or it proves nothing.
//!
//! A patch is applied to a copy of the workspace and built there with a target directory of its own; the shipped sources
//! are never touched. Only what a patch changed is built again.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What became of one bug.
#[derive(Debug)]
pub struct Bug {
    /// The patch's name.
    pub name: String,
    /// What the patch says it puts back: its lines before the first file.
    pub about: String,
    /// How it was found; `None` when it was not.
    pub found: Option<Found>,
}

/// How the simulation found a bug.
#[derive(Debug)]
pub struct Found {
    /// The least seed that broke an invariant: so many were needed.
    pub seed: u64,
    /// The invariant.
    pub invariant: String,
    /// Faults that are left of that seed.
    pub faults: String,
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
    #[error("{name} does not apply any more, make it anew:\n{output}")]
    Stale {
        /// Which patch.
        name: String,
        /// What `patch` said.
        output: String,
    },
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

/// Where bugs are tried.
#[derive(Debug, Clone, Copy)]
pub struct Bank<'a> {
    /// The sources; never changed.
    pub workspace: &'a Path,
    /// The copy and what is built of it.
    pub scratch: &'a Path,
    /// Seeds that each bug is looked for in.
    pub seeds: u64,
    /// Whether what is left of each seed that found a bug is kept as a regression.
    pub keep: bool,
}

/// The patches in `tests/sim/bugs` of a workspace, in order of name.
///
/// # Errors
/// When the directory cannot be read.
pub fn patches(workspace: &Path) -> Result<Vec<PathBuf>, BugbankError> {
    let bugs = workspace.join("tests/sim/bugs");
    let entries = std::fs::read_dir(&bugs).map_err(io(bugs.display().to_string()))?;
    let mut patches: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|is| is == "patch"))
        .collect();
    patches.sort();
    Ok(patches)
}

/// Whether a patch fits the sources of this directory; changes nothing.
///
/// # Errors
/// [`BugbankError::Stale`] when it does not.
pub fn fits(sources: &Path, patch: &Path) -> Result<(), BugbankError> {
    apply(sources, patch, &["--dry-run"])
}

fn apply(sources: &Path, patch: &Path, options: &[&str]) -> Result<(), BugbankError> {
    let mut command = Command::new("patch");
    command
        .args([
            "--strip=1",
            "--forward",
            "--no-backup-if-mismatch",
            "--input",
        ])
        .arg(patch)
        .args(options)
        .current_dir(sources);
    let applied = command.output().map_err(io("running `patch`"))?;
    if applied.status.success() {
        return Ok(());
    }
    let output = String::from_utf8_lossy(&applied.stdout).into_owned();
    let name = name_of(patch);
    Err(BugbankError::Stale { name, output })
}

fn name_of(patch: &Path) -> String {
    let stem = patch.file_stem();
    stem.map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

impl Bank<'_> {
    /// Tries every patch, or those whose names contain `only`; each is told of as soon as it was tried.
    ///
    /// # Errors
    /// When a patch cannot be applied or built.
    pub fn try_all(
        &self,
        only: Option<&str>,
        mut tried: impl FnMut(&Bug),
    ) -> Result<Vec<Bug>, BugbankError> {
        let mut bugs = Vec::new();
        for patch in patches(self.workspace)? {
            if only.is_some_and(|only| !name_of(&patch).contains(only)) {
                continue;
            }
            let bug = self.try_bug(&patch)?;
            tried(&bug);
            bugs.push(bug);
        }
        Ok(bugs)
    }

    fn try_bug(&self, patch: &Path) -> Result<Bug, BugbankError> {
        let name = name_of(patch);
        let text = std::fs::read_to_string(patch).map_err(io(patch.display().to_string()))?;
        let about = text.lines().take_while(|line| !line.starts_with("--- "));
        let about = about.collect::<Vec<_>>().join(" ").trim().to_owned();
        let copy = self.scratch.join("workspace");
        copy_sources(self.workspace, &copy)?;
        apply(&copy, patch, &[])?;
        self.build(&copy, &name)?;
        let regressions = self.workspace.join("tests/sim/regressions");
        let mut sim = Command::new(self.scratch.join("target/release/outpost-sim"));
        sim.args(["--seeds", &self.seeds.to_string()]);
        if self.keep {
            sim.arg("--keep").arg(self.scratch);
        }
        let played = sim.output().map_err(io("running the simulation"))?;
        let said = String::from_utf8_lossy(&[played.stdout, played.stderr].concat()).into_owned();
        let found = (!played.status.success()).then(|| found(&said)).flatten();
        if let Some(found) = found.as_ref().filter(|_| self.keep) {
            let script = self.scratch.join(format!("seed-{}.json", found.seed));
            let kept = regressions.join(format!("{name}.json"));
            std::fs::create_dir_all(&regressions).map_err(io(regressions.display().to_string()))?;
            std::fs::copy(&script, &kept).map_err(io(script.display().to_string()))?;
        }
        Ok(Bug { name, about, found })
    }

    fn build(&self, copy: &Path, name: &str) -> Result<(), BugbankError> {
        let mut build = Command::new("cargo");
        build
            .args(["build", "--release", "--offline", "-p", "outpost-sim"])
            .env("CARGO_TARGET_DIR", self.scratch.join("target"))
            // One function changes from patch to patch.
            .env("CARGO_INCREMENTAL", "1")
            .current_dir(copy);
        let built = build.output().map_err(io("running `cargo`"))?;
        if built.status.success() {
            return Ok(());
        }
        let output = String::from_utf8_lossy(&built.stderr).into_owned();
        let name = name.to_owned();
        Err(BugbankError::Build { name, output })
    }
}

/// What the simulation printed of the seed that failed.
fn found(said: &str) -> Option<Found> {
    let after = |start: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(start))?;
        Some(line.to_owned())
    };
    let seed = after("seed ")?;
    let seed = seed.split(';').next()?.trim().parse().ok()?;
    let faults = after("with ").and_then(|line| Some(line.split_once(" faults")?.0.to_owned()));
    Some(Found {
        seed,
        invariant: after("broken: ")?,
        faults: faults.unwrap_or_else(|| "?".to_owned()),
    })
}

impl Bug {
    /// In one line.
    #[must_use]
    pub fn told(&self, seeds: u64) -> String {
        match &self.found {
            Some(found) => format!(
                "{}: seed {}, {} faults left: {}",
                self.name, found.seed, found.faults, found.invariant
            ),
            None => format!("{}: NOT FOUND in {seeds} seeds", self.name),
        }
    }
}

/// The rows of a table for bugs that were not tried this time, and whose patches are still there.
#[must_use]
pub fn other_rows(table: &str, workspace: &Path, tried: &[Bug]) -> Vec<String> {
    let known = patches(workspace).unwrap_or_default();
    let names: Vec<String> = known.iter().map(|patch| name_of(patch)).collect();
    let is_other = |row: &&str| {
        let name = row.trim_start_matches("| ").split(" |").next();
        name.is_some_and(|name| {
            names.iter().any(|known| known == name) && !tried.iter().any(|bug| bug.name == name)
        })
    };
    let rows = table.lines().filter(|row| row.starts_with("| "));
    rows.filter(is_other).map(str::to_owned).collect()
}

/// The table that is kept beside the patches: the bugs that were tried, and rows of others.
#[must_use]
pub fn table(bugs: &[Bug], seeds: u64, others: Vec<String>) -> String {
    let mut text = format!(
        "# Bug bank\n\nEach patch here puts one bug back into the pure cores. `cargo bugbank` applies each to a copy of \
         the workspace, builds it and plays up to {seeds} seeds; every one has to be found, and this table is what it \
         wrote. Seeds needed: the number of the first seed that broke an invariant. Faults left: what remained of that \
         seed's faults once it was made smaller.\n\n\
         | patch | what it puts back | seeds needed | faults left | invariant that broke |\n|---|---|---|---|---|\n"
    );
    let mut rows = others;
    for bug in bugs {
        let (seed, faults, invariant) = match &bug.found {
            Some(found) => (
                found.seed.to_string(),
                found.faults.as_str(),
                found.invariant.as_str(),
            ),
            None => ("not found".to_owned(), "", ""),
        };
        rows.push(format!(
            "| {} | {} | {seed} | {faults} | {invariant} |",
            bug.name, bug.about
        ));
    }
    rows.sort();
    for row in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{row}");
    }
    text
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
