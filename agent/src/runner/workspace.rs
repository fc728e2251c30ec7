//! What a task finds around it: its directories, and an environment with nothing in it that was not declared.

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use outpost_agent_keeper::protocol::{About, StartSpec, UserIds, Want};
use outpost_proto::ids::RunId;
use outpost_proto::message::Assign;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::beneath;
use crate::catalogue::{Entry, Plan, RunAs};
use crate::state_dir::StateDir;

const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";
/// Log files of one attempt: the first is kept, the others turn over.
const LOG_FILES: u32 = 4;
/// How long a run's directories count as ready: far below what retention needs to see that a run is in use.
const READY_FOR: Duration = Duration::from_secs(60);
/// How long after a run began the directories of the next one are made: its task's keeper has the processor first.
const NEXT_AFTER: Duration = Duration::from_millis(1);
/// How many runs' directories are known at a time.
const RUNS_KNOWN: usize = 64;

/// The name of a run's directory, beside those of runs, before its run is known. Nobody but this account can look into
/// it until then.
pub(super) const SPARE: &str = ".spare";

/// Makes what an attempt finds around it and says how to start it. The keeper makes the attempt's own directories.
///
/// # Errors
/// What the file system said.
pub(super) fn prepare(
    state: &StateDir,
    assign: &Assign,
    entry: &Entry,
    plan: Plan,
    lease_until_boot_us: u64,
    begun_us: u64,
) -> io::Result<StartSpec> {
    begin_run(state, assign, entry)?;
    let spec = spec(state, assign, entry, plan, lease_until_boot_us, begun_us);
    begin_outputs(
        &outputs(&state.run(assign.run), assign),
        entry.user.as_ref(),
    )?;
    Ok(spec)
}

/// The runs whose directories were made, or looked at, a short while ago: most tasks of a run find them ready. And the
/// directories of a run to come, made while there was nothing else to do.
#[derive(Debug, Default)]
pub(super) struct Runs {
    known: VecDeque<(RunId, bool, Instant)>,
    spare: Spare,
}

/// What there is of a run to come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Spare {
    /// Nothing, and nobody has asked for it.
    #[default]
    Not,
    /// Nothing; the last run was of this kind and began then, and the next one may well be.
    Wanted { shared: bool, since: Instant },
    /// Its directories, made then.
    Made { shared: bool, at: Instant },
}

impl Runs {
    /// When there is something to be made for a run to come: not while the task for which it was missed starts.
    pub(super) fn may_prepare(&self) -> Option<Instant> {
        match self.spare {
            Spare::Wanted { since, .. } => Some(since + NEXT_AFTER),
            Spare::Not | Spare::Made { .. } => None,
        }
    }

    /// Makes the directories of a run to come; without them they are made when they are needed.
    pub(super) fn prepare_next(&mut self, state: &StateDir) {
        if let Spare::Wanted { shared, .. } = self.spare {
            let spare = state.runs().join(SPARE);
            let made = make(&spare, 0o700).and_then(|()| make(&spare.join("out"), mode(shared)));
            let at = Instant::now();
            self.spare = made.map_or(Spare::Not, |()| Spare::Made { shared, at });
        }
    }

    /// The directories of a run are not as they were made: they are made right again before its next task.
    pub(super) fn forget(&mut self, run: RunId) {
        self.known.retain(|(known, ..)| *known != run);
    }

    /// Makes a run's directories, or takes those that were made for a run to come.
    fn begin(&mut self, state: &StateDir, assign: &Assign, entry: &Entry) -> io::Result<()> {
        let shared = entry.user.is_some();
        let run = state.run(assign.run);
        let since = Instant::now();
        match self.spare {
            Spare::Made { shared: of, at } if of == shared => {
                match name(&state.runs().join(SPARE), &run, shared, at) {
                    Ok(()) => {
                        self.spare = Spare::Wanted { shared, since };
                        return Ok(());
                    }
                    // The run began earlier: the next one may not have.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(_) => self.spare = Spare::Wanted { shared, since },
                }
            }
            // The next run may be of its kind again.
            Spare::Made { .. } => {}
            Spare::Not | Spare::Wanted { .. } => self.spare = Spare::Wanted { shared, since },
        }
        begin_run(state, assign, entry)
    }

    /// The same as [`prepare`], but for what was done already.
    ///
    /// # Errors
    /// What the file system said.
    pub(super) fn prepare(
        &mut self,
        state: &StateDir,
        assign: &Assign,
        entry: &Entry,
        plan: Plan,
        lease_until_boot_us: u64,
        begun_us: u64,
    ) -> io::Result<StartSpec> {
        let key = (assign.run, entry.user.is_some());
        let is_made = self
            .known
            .iter()
            .any(|(run, shared, at)| (*run, *shared) == key && at.elapsed() < READY_FOR);
        if !is_made {
            self.begin(state, assign, entry)?;
            self.known.retain(|(run, shared, _)| (*run, *shared) != key);
            self.known.push_back((key.0, key.1, Instant::now()));
            if self.known.len() > RUNS_KNOWN {
                self.known.pop_front();
            }
        }
        let outputs = outputs(&state.run(assign.run), assign);
        let owner = entry.user.as_ref();
        match begin_outputs(&outputs, owner) {
            // Somebody took the directories away.
            Err(error) if is_made && error.kind() == io::ErrorKind::NotFound => {
                begin_run(state, assign, entry)?;
                begin_outputs(&outputs, owner)?;
            }
            begun => begun?,
        }
        Ok(spec(
            state,
            assign,
            entry,
            plan,
            lease_until_boot_us,
            begun_us,
        ))
    }
}

fn begin_run(state: &StateDir, assign: &Assign, entry: &Entry) -> io::Result<()> {
    let run = state.run(assign.run);
    // The tasks of one run share this directory, each under its own entry's account: as in /tmp, nobody can remove
    // another's files. Its name is random and its parent cannot be listed.
    let mode = mode(entry.user.is_some());
    make(&run, mode)?;
    make(&run.join("out"), mode)?;
    touch(&run)
}

/// Of a run's directories: `shared` by tasks of several accounts, or not.
fn mode(shared: bool) -> u32 {
    if shared { 0o1777 } else { 0o700 }
}

/// Retention goes by it.
fn touch(run: &Path) -> io::Result<()> {
    File::open(run)?.set_modified(std::time::SystemTime::now())
}

/// Gives the directories of a run to come to a run that has none.
fn name(spare: &Path, run: &Path, shared: bool, made: Instant) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags};
    rustix::fs::renameat_with(CWD, spare, CWD, run, RenameFlags::NOREPLACE)?;
    if shared {
        std::fs::set_permissions(run, Permissions::from_mode(mode(shared)))?;
    }
    if made.elapsed() < READY_FOR {
        return Ok(());
    }
    touch(run)
}

fn spec(
    state: &StateDir,
    assign: &Assign,
    entry: &Entry,
    plan: Plan,
    lease_until_boot_us: u64,
    begun_us: u64,
) -> StartSpec {
    let about = About {
        run: assign.run.to_string(),
        workflow: assign.workflow_name.to_string(),
        task: assign.task_name.to_string(),
        entry: assign.entry.to_string(),
        begun_us,
    };
    let run = state.run(assign.run);
    let made = entry.workdir.is_none();
    let cwd = match &entry.workdir {
        Some(dir) => dir.clone(),
        None => state.work(assign.attempt),
    };
    let env = environment(assign, entry, plan.env, &run, &cwd);
    let shorter = assign
        .deadline_ms
        .map_or(entry.timeout_ms, |deadline| deadline.min(entry.timeout_ms));
    let stop_after_ms = match entry.on_disconnect {
        outpost_proto::message::OnDisconnect::Continue => None,
        outpost_proto::message::OnDisconnect::StopAfter(seconds) => Some(u64::from(seconds) * 1000),
    };
    StartSpec {
        attempt: assign.attempt.to_string(),
        dir: state.attempt(assign.attempt),
        about: Some(about),
        argv: plan.argv,
        env,
        cwd,
        make_cwd: made,
        user: entry.user.as_ref().map(|user| UserIds {
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
        }),
        timeout_ms: Some(shorter),
        grace_ms: u64::from(entry.grace_s) * 1000,
        stop_after_ms,
        lease_until_boot_us,
        log_max_bytes: entry.log_max_bytes,
        log_files: LOG_FILES,
        seal: None,
        containment: Want::Auto,
        umask: if entry.user.is_some() { 0o022 } else { 0o077 },
        no_new_privs: true,
        wall: None,
        secrets: None,
    }
}

/// `$OUTPOST_OUT` of a task.
pub(super) fn outputs(run: &Path, assign: &Assign) -> std::path::PathBuf {
    run.join("out").join(format!("{}.env", assign.task_name))
}

fn environment(
    assign: &Assign,
    entry: &Entry,
    declared: Vec<(String, String)>,
    run: &Path,
    cwd: &Path,
) -> Vec<(String, String)> {
    let text = |path: &Path| path.display().to_string();
    let mut env = vec![
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOME".to_owned(), text(cwd)),
        ("OUTPOST_ATTEMPT".to_owned(), assign.attempt.to_string()),
        ("OUTPOST_RUN".to_owned(), assign.run.to_string()),
        ("OUTPOST_TASK".to_owned(), assign.task_name.to_string()),
        (
            "OUTPOST_WORKFLOW".to_owned(),
            assign.workflow_name.to_string(),
        ),
        ("OUTPOST_ENTRY".to_owned(), assign.entry.to_string()),
        ("OUTPOST_FENCE".to_owned(), assign.fence.to_string()),
        ("OUTPOST_RUN_DIR".to_owned(), text(run)),
        ("OUTPOST_OUT".to_owned(), text(&outputs(run, assign))),
    ];
    let inherited = entry
        .inherit_env
        .iter()
        .filter_map(|name| Some((name.clone(), std::env::var(name).ok()?)));
    for (name, value) in inherited.chain(declared) {
        env.retain(|(other, _)| *other != name);
        env.push((name, value));
    }
    env
}

/// Begins a task's outputs anew: what an earlier attempt left there is not this one's, and another task of the run must
/// not be the one who owns it, or point it elsewhere. Where all tasks are of one account there is no such other: then
/// nothing is there until the task writes it, because files that stay empty are most of what a short task costs.
fn begin_outputs(path: &Path, owner: Option<&RunAs>) -> io::Result<()> {
    // Tasks of the run can write beside it, and may have put a link in its directory's place.
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = beneath::open_dir(dir)?;
    match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    if owner.is_none() && !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let mode = if owner.is_some() { 0o644 } else { 0o600 };
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(mode))?;
    match owner {
        Some(user) => {
            let file = File::from(file);
            // Whatever this process's own mask is.
            file.set_permissions(Permissions::from_mode(mode))?;
            std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid))
        }
        None => Ok(()),
    }
}

/// Makes a directory, or makes one right that a crash left half made. Never follows a link.
fn make(dir: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(dir)?;
    opened.set_permissions(Permissions::from_mode(mode))
}

#[cfg(test)]
#[path = "workspace_tests.rs"]
mod tests;
