//! `outpost dev --reset`: takes away what an earlier `dev` made, and nothing else.
//!
//! A directory is known by the mark in its lock file; one that is in use, or has no mark, is refused. In a directory
//! that was named, only what `dev` itself puts there goes: anything else, and the directory, stay.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::place::{self, LOCK, MADE, MARK};
use crate::failure::Failure;
use crate::output::Out;

/// Removes what earlier ones made: in `dir`, or in all throw-away directories of this account.
///
/// # Errors
/// A directory is in use, was not made by `dev`, or something in it cannot be removed; or the answer was no.
pub(super) fn reset(dir: Option<&Path>, yes: bool, out: Out) -> Result<(), Failure> {
    let found = match dir {
        Some(dir) => named(dir)?.into_iter().collect(),
        None => throw_away(),
    };
    if found.is_empty() {
        return Ok(());
    }
    if !yes {
        let list: Vec<String> = found
            .iter()
            .map(|it| it.root.display().to_string())
            .collect();
        out.confirm(
            &format!(
                "Delete what `outpost dev` made in {}: orchestrator, agent, logs?",
                list.join(", ")
            ),
            "--yes",
        )?;
    }
    for it in &found {
        it.clear()?;
        if dir.is_none() {
            std::fs::remove_dir(&it.root).map_err(Failure::file(&it.root))?;
        }
    }
    Ok(())
}

/// A directory that `dev` made, which nobody uses as long as this lives.
struct Made {
    root: PathBuf,
    _lock: File,
}

/// The directory, if there is something in it.
fn named(dir: &Path) -> Result<Option<Made>, Failure> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::file(dir)(error)),
    };
    if entries.flatten().next().is_none() {
        return Ok(None);
    }
    match made(dir) {
        Ok(made) => Ok(Some(made)),
        Err(why) => Err(Failure::Usage(format!(
            "{} is not reset: {why}",
            dir.display()
        ))),
    }
}

/// Those that nobody uses.
fn throw_away() -> Vec<Made> {
    let family = place::family("dev");
    let mut found: Vec<Made> = Vec::new();
    for base in place::bases() {
        let entries = std::fs::read_dir(base).into_iter().flatten().flatten();
        let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&family));
        found.extend(ours.filter_map(|entry| made(&entry.path()).ok()));
    }
    found
}

/// Takes hold of a directory, if `dev` made it and this account owns it.
fn made(root: &Path) -> Result<Made, String> {
    let meta = root.symlink_metadata().map_err(|error| error.to_string())?;
    if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() {
        return Err("it is no directory of this account".to_owned());
    }
    let path = root.join(LOCK);
    let lock = OpenOptions::new().read(true).write(true).open(&path);
    let strange = "it was not made by `outpost dev`".to_owned();
    let Ok(mut lock) = lock else {
        return Err(strange);
    };
    let mut mark = String::new();
    let read = lock.read_to_string(&mut mark);
    if read.is_err() || mark != MARK {
        return Err(strange);
    }
    if lock.try_lock().is_err() {
        return Err("an `outpost dev` runs in it; end that first".to_owned());
    }
    Ok(Made {
        root: root.to_owned(),
        _lock: lock,
    })
}

impl Made {
    fn clear(&self) -> Result<(), Failure> {
        for name in MADE {
            let path = self.root.join(name);
            let Ok(meta) = path.symlink_metadata() else {
                continue;
            };
            let removed = if meta.is_dir() {
                remove_tree(&path)
            } else {
                std::fs::remove_file(&path)
            };
            removed.map_err(Failure::file(&path))?;
        }
        Ok(())
    }
}

/// Also where a task took away its own directory's permissions.
fn remove_tree(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            open_up(path);
            std::fs::remove_dir_all(path)
        }
        done => done,
    }
}

fn open_up(path: &Path) {
    let Ok(meta) = path.symlink_metadata() else {
        return;
    };
    if !meta.is_dir() {
        return;
    }
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        open_up(&entry.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Format;
    use crate::dev::Place;

    fn base() -> tempfile::TempDir {
        let base = tempfile::tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(base.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        base
    }

    fn out() -> Out {
        Out::new(Format::Table)
    }

    #[test]
    fn only_what_dev_made_is_deleted() {
        let base = base();
        let dir = base.path().join("d");
        let place = Place::create("dev", Some(&dir)).unwrap();
        std::fs::create_dir_all(dir.join("agent/deep")).unwrap();
        std::fs::write(dir.join("agent/deep/x"), "x").unwrap();
        std::fs::write(dir.join("mine.yaml"), "mine").unwrap();

        let refused = reset(Some(&dir), true, out()).unwrap_err().to_string();
        assert!(refused.contains("runs in it"), "{refused}");
        drop(place);
        std::fs::set_permissions(
            dir.join("agent/deep"),
            std::fs::Permissions::from_mode(0o000),
        )
        .unwrap();
        reset(Some(&dir), true, out()).unwrap();
        let left: Vec<_> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|it| it.unwrap().file_name())
            .collect();
        assert_eq!(left, ["mine.yaml"]);
        // What is there now is not ours.
        assert!(reset(Some(&dir), true, out()).is_err());
    }

    #[test]
    fn what_dev_did_not_make_is_refused() {
        let base = base();
        let dir = base.path().join("d");
        drop(Place::create("demo", Some(&dir)).unwrap());
        std::fs::create_dir(dir.join("agent")).unwrap();
        let refused = reset(Some(&dir), true, out()).unwrap_err().to_string();
        assert!(refused.contains("was not made by"), "{refused}");
        assert!(dir.join("agent").exists());
        assert!(reset(Some(&base.path().join("none")), true, out()).is_ok());
    }
}
