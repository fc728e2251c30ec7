//! A state directory of an older agent becomes one of this agent's: step by step, each step from one format to the
//! next. Called by whoever holds the directory's lock, before anything else is read or written.
//!
//! Before a step the small files that say who this agent is are copied into `backup-N/`. A step can be repeated from
//! its beginning, and the file `version` is replaced only after it: a crash anywhere leaves a directory of the old
//! format, which the next start takes up again.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use super::StateError;
use crate::files;

/// What is copied: small, and not to be made again without the operator. Neither journal nor keys: an agent that went
/// back to older ones would be taken for a copy of itself.
const SMALL: &[&str] = &["version", "id", "identity.json", "life.json"];

/// From one format to the next.
pub(super) struct Step {
    pub(super) from: u32,
    pub(super) run: fn(&Path) -> io::Result<()>,
}

/// All steps, in order; the last ends at the present format.
pub(super) const STEPS: &[Step] = &[Step {
    from: 1,
    run: one_file_per_attempt,
}];

/// 1 to 2: an attempt's keeper, task and end are in one file, `claim`. What format 1 left of attempts stays as it is
/// and is read as before; the new number keeps an older agent from judging attempts whose files it does not know.
fn one_file_per_attempt(dir: &Path) -> io::Result<()> {
    // What says that this is format 2 must be durable before the first attempt of it is.
    File::open(dir)?.sync_all()
}

/// Makes a directory of format `found` one of format `to`. Nothing is done to one that is.
pub(super) fn migrate(dir: &Path, found: u32, to: u32, steps: &[Step]) -> Result<(), StateError> {
    for format in found..to {
        let step = steps.iter().find(|step| step.from == format);
        let step = step.ok_or_else(|| StateError::TooOld {
            path: dir.to_owned(),
            found,
        })?;
        let failed = |source| StateError::Migration {
            path: dir.to_owned(),
            from: format,
            source,
        };
        back_up(dir, format).map_err(failed)?;
        (step.run)(dir).map_err(failed)?;
        let next = (format + 1).to_string();
        files::replace(&dir.join("version"), next.as_bytes()).map_err(failed)?;
        tracing::info!(from = format, to = format + 1, "state directory migrated");
    }
    Ok(())
}

/// Copies the small files, all or none. A copy that is there is of the same files: nothing changed them since.
fn back_up(dir: &Path, format: u32) -> io::Result<()> {
    let (to, temp) = (
        dir.join(format!("backup-{format}")),
        dir.join(format!("backup-{format}.tmp")),
    );
    if to.exists() {
        return Ok(());
    }
    match fs::remove_dir_all(&temp) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    DirBuilder::new().mode(0o700).create(&temp)?;
    for name in SMALL {
        match fs::read(dir.join(name)) {
            Ok(bytes) => files::replace(&temp.join(name), &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    fs::rename(&temp, &to)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests;
