//! What stays of attempts that are over, and for how long: directories and logs of attempts that are no longer held,
//! and directories of runs without a held attempt, go when they are old or when there are too many.
//!
//! By age something goes only by a time that the orchestrator has confirmed: a clock that is wrong, as one may be when a
//! host starts, takes nothing away. Whatever goes is first renamed into `trash/`, on the runner's own thread and in small steps, so that no start can
//! come in between; one removal at a time then takes it away beside the loop. Nothing here touches what is held.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use outpost_agent_core::Agent;
use outpost_agent_keeper::record::SPARE;
use outpost_proto::ids::{AttemptId, RunId};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::spawn_blocking;

use super::{Happened, measure, workspace};
use crate::dated::Dated;
use crate::seal::Rest;
use crate::state_dir::StateDir;

/// What stays on disk of what is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// How long an attempt's directory (log, exit record) stays after its end, and a run's after its last start. Shorter
    /// than the 30 days for which ends are remembered: no attempt whose claim went can be assigned again unnoticed.
    pub logs: Duration,
    /// Bytes of logs that stay; beyond it the oldest attempts go.
    pub logs_bytes: u64,
    /// Bytes of runs' files, outputs among them, that stay; beyond it the oldest runs go.
    pub runs_bytes: u64,
    /// How long a segment of the ledger stays after its last record.
    pub ledger: Duration,
    /// Bytes of the ledger that stay.
    pub ledger_bytes: u64,
    /// By which of their times.
    pub dated: Dated,
}

/// Attempts, and runs, that stay at most; the newest do.
const KEPT_COUNT: usize = 10_000;
/// Between two sweeps.
const EVERY: Duration = Duration::from_secs(3600);
/// Between two looks whether the orchestrator has said what time it is.
const UNTIMED: Duration = Duration::from_secs(60);
/// What was used so shortly before it was asked what is held may have begun after the answer, and stays.
const UNSETTLED: Duration = Duration::from_secs(60);
/// Nothing of an agent is older (November 2023): who says so was made before the clock was set.
const EARLIEST: Duration = Duration::from_secs(1_700_000_000);
/// Directories taken away between two turns of the runner's loop.
const STEP: usize = 64;
/// Between two steps: a full sweep of everything takes a minute, and nobody notices.
const BETWEEN_STEPS: Duration = Duration::from_millis(50);

/// What must stay, whatever its age.
#[derive(Debug, Default)]
pub(crate) struct Held {
    attempts: BTreeSet<AttemptId>,
    runs: BTreeSet<RunId>,
    /// The time that has surely come; `None` before the orchestrator was heard.
    surely: Option<SystemTime>,
}

impl Held {
    /// Whether an attempt of this run is held.
    pub(super) fn holds(&self, run: RunId) -> bool {
        self.runs.contains(&run)
    }

    /// What the core holds now.
    pub(super) fn by(core: &Agent) -> Self {
        let surely_s = core.surely_s(super::now());
        let mut held = Self {
            surely: (surely_s > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(surely_s)),
            ..Self::default()
        };
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
        match try_throw(&self.state, path) {
            Ok(_) => self.thrown.notify_one(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!("{} could not be taken away: {error}", path.display());
            }
        }
    }

    /// What says which files of a run are encrypted goes with the run's directory.
    fn throw_list_of(&self, run: &Path) {
        if run.parent() == Some(&self.state.runs())
            && let Some(run) = id_of::<RunId>(run)
        {
            let rest = Rest::of(&self.state, run);
            self.throw(&rest.beside());
            self.throw(&rest.list);
        }
    }

    /// Lists of runs that have no directory any more, and those that were on their way when the agent ended.
    fn throw_lists(&self) -> io::Result<()> {
        let entries = match std::fs::read_dir(self.state.lists()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let is_needed = id_of::<RunId>(&path).is_some_and(|run| self.state.run(run).exists());
            if !is_needed {
                self.throw(&path);
            }
        }
        Ok(())
    }

    /// What was thrown by others is removed too.
    pub(super) fn thrown(&self) {
        self.thrown.notify_one();
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

    /// Directories that were made for what was to come: of a killed keeper, and of an earlier runner. A living keeper
    /// makes another.
    pub(super) fn throw_spares(&self) -> io::Result<()> {
        self.throw_lists()?;
        self.throw(&self.state.runs().join(workspace::SPARE));
        for parent in [self.state.attempts(), self.state.works()] {
            for entry in std::fs::read_dir(parent)? {
                let entry = entry?;
                let name = entry.file_name();
                if name.as_encoded_bytes().starts_with(SPARE.as_bytes()) {
                    self.throw(&entry.path());
                }
            }
        }
        Ok(())
    }
}

/// Renames something of the state directory into its trash; answers where it is then.
///
/// # Errors
/// `NotFound` when it is not there; otherwise it is where it was.
pub(super) fn try_throw(state: &StateDir, path: &Path) -> io::Result<PathBuf> {
    let trash = state.trash();
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
            std::fs::rename(path, &to)?;
        }
        renamed => renamed?,
    }
    Ok(to)
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

/// Removes a file, or a tree whatever a task made of it. One that went meanwhile is gone.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(meta) if meta.is_dir() => super::beneath::raze(path),
        Ok(_) => std::fs::remove_file(path),
    }
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
        let asked = SystemTime::now();
        let Some(held) = what_is_held(&inbox).await else {
            return;
        };
        let timed = held.surely.is_some();
        let bounds = Bounds::of(&held, keep, asked);
        let (attempts, runs) = (state.attempts(), state.runs());
        let listed = spawn_blocking(move || {
            let is_held = |id: AttemptId| held.attempts.contains(&id);
            let logs: Most = (keep.logs_bytes, log_bytes);
            let attempts = list(&attempts, bounds, Some(logs), is_held)?;
            let files: Most = (keep.runs_bytes, measure::of_run);
            let is_held = |id: RunId| held.runs.contains(&id);
            let runs = list(&runs, bounds, Some(files), is_held)?;
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
                throw_in_steps(&trash, over.collect(), keep.dated).await;
            }
            Ok(Err(error)) => tracing::warn!("what is old cannot be listed: {error}"),
            Err(error) => tracing::warn!("what is old cannot be listed: {error}"),
        }
        wait(&inbox, timed).await;
    }
}

pub(super) async fn what_is_held(inbox: &mpsc::Sender<Happened>) -> Option<Held> {
    let (ask, told) = oneshot::channel();
    inbox.send(Happened::Held(ask)).await.ok()?;
    told.await.ok()
}

/// Until the next sweep: an hour, or less when the time was not known to be right and is now.
async fn wait(inbox: &mpsc::Sender<Happened>, timed: bool) {
    let ends = tokio::time::Instant::now() + EVERY;
    if timed {
        return tokio::time::sleep_until(ends).await;
    }
    while tokio::time::Instant::now() < ends {
        tokio::time::sleep(UNTIMED).await;
        if what_is_held(inbox)
            .await
            .is_none_or(|held| held.surely.is_some())
        {
            return;
        }
    }
}

/// How much of what may be kept is kept: of the number or of the bytes, whichever is nearer to its limit.
fn share(attempts: &Listed, keep: Keep) -> u8 {
    let of_count = (attempts.kept * 100 / KEPT_COUNT) as u64;
    let of_bytes = attempts.bytes.saturating_mul(100) / keep.logs_bytes.max(1);
    u8::try_from(of_count.max(of_bytes).min(100)).unwrap_or(100)
}

async fn throw_in_steps(trash: &Trash, over: Vec<Aged>, dated: Dated) {
    if !over.is_empty() {
        tracing::info!(directories = over.len(), "taking away what is old");
    }
    for step in over.chunks(STEP) {
        for aged in step {
            // One that was used since it was listed stays: a start touches its run.
            if last_change(&aged.path, dated).is_ok_and(|changed| changed == aged.changed) {
                trash.throw(&aged.path);
                trash.throw_list_of(&aged.path);
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

/// By when something was used last.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// What was used later may be held by now.
    settled: SystemTime,
    /// What was used before this is old; `None` while nothing is.
    old: Option<SystemTime>,
    dated: Dated,
}

impl Bounds {
    /// `asked`: when it was asked what is held.
    fn of(held: &Held, keep: Keep, asked: SystemTime) -> Self {
        Self {
            settled: asked - UNSETTLED,
            old: held.surely.and_then(|now| now.checked_sub(keep.logs)),
            dated: keep.dated,
        }
    }

    fn is_settled(&self, changed: SystemTime) -> bool {
        changed <= self.settled
    }

    fn is_old(&self, changed: SystemTime) -> bool {
        changed >= SystemTime::UNIX_EPOCH + EARLIEST && self.old.is_some_and(|old| changed < old)
    }
}

#[derive(Debug)]
struct Listed {
    kept: usize,
    /// Of the logs of what is kept.
    bytes: u64,
    over: Vec<Aged>,
}

/// How many bytes stay at most, and how those of one directory are counted.
type Most = (u64, fn(&Path) -> u64);

fn id_of<T: std::str::FromStr>(path: &Path) -> Option<T> {
    path.file_name()?.to_str()?.parse().ok()
}

/// The directories in `parent` that are named by an id, surely not held, and too old, too many or, where `most` says so,
/// too large together.
fn list<T: std::str::FromStr>(
    parent: &Path,
    bounds: Bounds,
    most: Option<Most>,
    held: impl Fn(T) -> bool,
) -> io::Result<Listed> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(parent)? {
        let path = entry?.path();
        if let Some(id) = id_of::<T>(&path)
            && let Ok(changed) = last_change(&path, bounds.dated)
        {
            let bytes = most.map_or(0, |(_, bytes_of)| bytes_of(&path));
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
    let mut listed = Listed {
        kept: 0,
        bytes: 0,
        over: Vec::new(),
    };
    for (at, (held, aged)) in all.into_iter().enumerate() {
        let too_large = most.is_some_and(|(most, _)| listed.bytes + aged.bytes > most);
        let goes = at >= KEPT_COUNT || bounds.is_old(aged.changed) || too_large;
        if !held && bounds.is_settled(aged.changed) && goes {
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
fn last_change(dir: &Path, dated: Dated) -> io::Result<SystemTime> {
    Ok(dated.of(&dir.symlink_metadata()?))
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
