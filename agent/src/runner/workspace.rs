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

use crate::catalogue::{Entry, Plan, RunAs};
use crate::state_dir::StateDir;

const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";
/// Log files of one attempt: the first is kept, the others turn over.
const LOG_FILES: u32 = 4;
/// How long a run's directories count as ready: far below what retention needs to see that a run is in use.
const READY_FOR: Duration = Duration::from_secs(60);
/// How many runs' directories are known at a time.
const RUNS_KNOWN: usize = 64;

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

/// The runs whose directories were made, or looked at, a short while ago: most tasks of a run find them ready.
#[derive(Debug, Default)]
pub(super) struct Runs(VecDeque<(RunId, bool, Instant)>);

impl Runs {
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
            .0
            .iter()
            .any(|(run, shared, at)| (*run, *shared) == key && at.elapsed() < READY_FOR);
        if !is_made {
            begin_run(state, assign, entry)?;
            self.0.retain(|(run, shared, _)| (*run, *shared) != key);
            self.0.push_back((key.0, key.1, Instant::now()));
            if self.0.len() > RUNS_KNOWN {
                self.0.pop_front();
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
    let shared = if entry.user.is_some() { 0o1777 } else { 0o700 };
    make(&run, shared)?;
    make(&run.join("out"), shared)?;
    // Retention goes by it.
    File::open(&run)?.set_modified(std::time::SystemTime::now())
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
        containment: Want::Auto,
        umask: if entry.user.is_some() { 0o022 } else { 0o077 },
        no_new_privs: true,
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
    if owner.is_none() && !rustix::process::geteuid().is_root() {
        return clear(path);
    }
    let mode = if owner.is_some() { 0o644 } else { 0o600 };
    let create = || {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
    };
    let file = match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(path)?;
            create()?
        }
        created => created?,
    };
    match owner {
        Some(user) => {
            // Whatever this process's own mask is.
            file.set_permissions(Permissions::from_mode(mode))?;
            std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid))
        }
        None => Ok(()),
    }
}

/// Takes away what lies there, if anything does; the directory must be there.
fn clear(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let dir = path.parent().ok_or(error)?;
            dir.symlink_metadata().map(drop)
        }
        removed => removed,
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
