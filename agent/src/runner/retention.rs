//! What stays of attempts that are over, and for how long: directories and logs of attempts that are no longer held,
//! and directories of runs without a held attempt, go when they are old or when there are too many.
//!
//! Whatever goes is first renamed into `trash/`, on the runner's own thread and in small steps, so that no start can
//! come in between; one removal at a time then takes it away beside the loop. Nothing here touches what is held.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use outpost_agent_core::Agent;
use outpost_proto::ids::{AttemptId, RunId};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::spawn_blocking;

use super::Happened;
use crate::state_dir::StateDir;

/// What stays on disk of what is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// How long an attempt's directory (log, exit record) stays after its end, and a run's after its last start. Shorter
    /// than the 30 days for which ends are remembered: no attempt whose claim went can be assigned again unnoticed.
    pub logs: Duration,
    /// Bytes of logs that stay; beyond it the oldest attempts go.
    pub logs_bytes: u64,
    /// How long a segment of the ledger stays after its last record.
    pub ledger: Duration,
    /// Bytes of the ledger that stay.
    pub ledger_bytes: u64,
}

/// Attempts, and runs, that stay at most; the newest do.
const KEPT_COUNT: usize = 10_000;
/// Between two sweeps.
const EVERY: Duration = Duration::from_secs(3600);
/// Directories taken away between two turns of the runner's loop.
const STEP: usize = 64;
/// Between two steps: a full sweep of everything takes a minute, and nobody notices.
const BETWEEN_STEPS: Duration = Duration::from_millis(50);

/// What must stay, whatever its age.
#[derive(Debug, Default)]
pub(crate) struct Held {
    attempts: BTreeSet<AttemptId>,
    runs: BTreeSet<RunId>,
}

impl Held {
    /// What the core holds now.
    pub(super) fn by(core: &Agent) -> Self {
        let mut held = Self::default();
        for record in core.durable().attempts {
            held.attempts.insert(record.assign.attempt);
            held.runs.insert(record.assign.run);
        }
        held
    }
}

/// Takes directories away without making anybody wait.
#[derive(Debug, Clone)]
pub(super) struct Trash {
    state: StateDir,
    thrown: Rc<Notify>,
}

impl Trash {
    /// Removes what was thrown, also by an earlier runner, from now on.
    pub(super) fn start(state: &StateDir) -> Self {
        let trash = Self {
            state: state.clone(),
            thrown: Rc::new(Notify::new()),
        };
        trash.thrown.notify_one();
        let (dir, thrown) = (state.trash(), Rc::clone(&trash.thrown));
        tokio::task::spawn_local(async move {
            loop {
                thrown.notified().await;
                let dir = dir.clone();
                if let Ok(Err(error)) = spawn_blocking(move || empty(&dir)).await {
                    tracing::warn!("what is no longer needed stays for now: {error}");
                }
            }
        });
        trash
    }

    /// Takes a directory away; one that is not there is gone already.
    pub(super) fn throw(&self, path: &Path) {
        match self.try_throw(path) {
            Ok(()) => self.thrown.notify_one(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!("{} could not be taken away: {error}", path.display());
            }
        }
    }

    fn try_throw(&self, path: &Path) -> io::Result<()> {
        let trash = self.state.trash();
        let kind = path.parent().and_then(Path::file_name).unwrap_or_default();
        let mut name = kind.to_owned();
        name.push("-");
        name.push(path.file_name().unwrap_or_default());
        let to = trash.join(name);
        // Most working directories are gone by then: a keeper gave them to another attempt.
        path.symlink_metadata()?;
        let renamed = match std::fs::rename(path, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => rename_into(&trash, path, &to),
            renamed => renamed,
        };
        match renamed {
            // A directory that its owner made unwritable cannot be moved, only by root.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                std::fs::set_permissions(path, Permissions::from_mode(0o700))?;
                std::fs::rename(path, &to)
            }
            renamed => renamed,
        }
    }

    /// Working directories that a crash kept from being thrown: those of attempts that are not held.
    pub(super) fn throw_work(&self, held: &BTreeSet<AttemptId>) -> io::Result<()> {
        for entry in std::fs::read_dir(self.state.works())? {
            let path = entry?.path();
            if id_of::<AttemptId>(&path).is_some_and(|attempt| !held.contains(&attempt)) {
                self.throw(&path);
            }
        }
        Ok(())
    }
}

/// Renames into a trash that may not be there; when it is, the directory itself has gone meanwhile.
fn rename_into(trash: &Path, path: &Path, to: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(trash) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => std::fs::rename(path, to),
    }
}

/// Removes everything in the trash; answers the first thing that stays.
fn empty(trash: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(trash) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let mut stays = Ok(());
    for entry in entries {
        let path = entry?.path();
        if let Err(error) = remove(&path) {
            let said = io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            stays = stays.and(Err(said));
        }
    }
    stays
}

/// Removes a tree, also one in which a task of this account took its own permissions away.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    if !path.symlink_metadata()?.is_dir() {
        return std::fs::remove_file(path);
    }
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            std::fs::remove_dir_all(path)
        }
        removed => removed,
    }
}

/// Only ever does something for an ordinary account, and then to files of its own: root is not refused.
fn open_up(dir: &Path) -> io::Result<()> {
    std::fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

/// Sweeps at once and then every hour. `percent`: how much of what may be kept is kept, for heartbeats.
pub(super) async fn keep(
    state: StateDir,
    keep: Keep,
    trash: Trash,
    inbox: mpsc::Sender<Happened>,
    percent: Rc<Cell<u8>>,
) {
    loop {
        let (ask, told) = oneshot::channel();
        if inbox.send(Happened::Held(ask)).await.is_err() {
            return;
        }
        let Ok(held) = told.await else { return };
        let (attempts, runs) = (state.attempts(), state.runs());
        let listed = spawn_blocking(move || {
            let is_held = |id: AttemptId| held.attempts.contains(&id);
            let attempts = list(&attempts, keep.logs, Some(keep.logs_bytes), is_held)?;
            let runs = list(&runs, keep.logs, None, |id: RunId| held.runs.contains(&id))?;
            io::Result::Ok((attempts, runs))
        });
        match listed.await {
            Ok(Ok((attempts, runs))) => {
                percent.set(share(&attempts, keep));
                let kept = Happened::Kept {
                    bytes: attempts.bytes,
                    attempts: attempts.kept as u64,
                };
                if inbox.send(kept).await.is_err() {
                    return;
                }
                let over = attempts.over.into_iter().chain(runs.over);
                throw_in_steps(&trash, over.collect()).await;
            }
            Ok(Err(error)) => tracing::warn!("what is old cannot be listed: {error}"),
            Err(error) => tracing::warn!("what is old cannot be listed: {error}"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// How much of what may be kept is kept: of the number or of the bytes, whichever is nearer to its limit.
fn share(attempts: &Listed, keep: Keep) -> u8 {
    let of_count = (attempts.kept * 100 / KEPT_COUNT) as u64;
    let of_bytes = attempts.bytes.saturating_mul(100) / keep.logs_bytes.max(1);
    u8::try_from(of_count.max(of_bytes).min(100)).unwrap_or(100)
}

async fn throw_in_steps(trash: &Trash, over: Vec<Aged>) {
    if !over.is_empty() {
        tracing::info!(directories = over.len(), "taking away what is old");
    }
    for step in over.chunks(STEP) {
        for aged in step {
            // One that was used since it was listed stays: a start touches its run.
            if last_change(&aged.path).is_ok_and(|changed| changed == aged.changed) {
                trash.throw(&aged.path);
            }
        }
        tokio::time::sleep(BETWEEN_STEPS).await;
    }
}

/// A directory and when it was last used.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Aged {
    path: PathBuf,
    changed: SystemTime,
    /// Of its logs; 0 where they are not looked at.
    bytes: u64,
}

#[derive(Debug)]
struct Listed {
    kept: usize,
    /// Of the logs of what is kept.
    bytes: u64,
    over: Vec<Aged>,
}

fn id_of<T: std::str::FromStr>(path: &Path) -> Option<T> {
    path.file_name()?.to_str()?.parse().ok()
}

/// The directories in `parent` that are named by an id, not held, and too old, too many or, where `most_bytes` says so,
/// too large together.
fn list<T: std::str::FromStr>(
    parent: &Path,
    keep: Duration,
    most_bytes: Option<u64>,
    held: impl Fn(T) -> bool,
) -> io::Result<Listed> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(parent)? {
        let path = entry?.path();
        if let Some(id) = id_of::<T>(&path)
            && let Ok(changed) = last_change(&path)
        {
            let bytes = most_bytes.map_or(0, |_| log_bytes(&path));
            let aged = Aged {
                path,
                changed,
                bytes,
            };
            all.push((held(id), aged));
        }
    }
    // Held ones first, then the newest: what comes after the limit goes.
    all.sort_by_key(|(held, aged)| std::cmp::Reverse((*held, aged.changed)));
    let oldest = SystemTime::now() - keep;
    let mut listed = Listed {
        kept: 0,
        bytes: 0,
        over: Vec::new(),
    };
    for (at, (held, aged)) in all.into_iter().enumerate() {
        let too_large = most_bytes.is_some_and(|most| listed.bytes + aged.bytes > most);
        if !held && (at >= KEPT_COUNT || aged.changed < oldest || too_large) {
            listed.over.push(aged);
        } else {
            listed.kept += 1;
            listed.bytes += aged.bytes;
        }
    }
    Ok(listed)
}

/// Bytes of the log files in an attempt's directory.
fn log_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    let logs = entries
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"log."));
    logs.filter_map(|entry| entry.metadata().ok())
        .map(|meta| meta.len())
        .sum()
}

/// When something was last added to a directory, or removed from it. Never looks through a link.
fn last_change(dir: &Path) -> io::Result<SystemTime> {
    let meta = dir.symlink_metadata()?;
    let since = Duration::from_secs(u64::try_from(meta.mtime()).unwrap_or(0));
    Ok(SystemTime::UNIX_EPOCH + since)
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
