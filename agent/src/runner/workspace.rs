//! What a task finds around it: its directories, and an environment with nothing in it that was not declared.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use outpost_agent_keeper::protocol::{StartSpec, UserIds, Want};
use outpost_proto::message::Assign;
use serde::{Deserialize, Serialize};

use crate::catalogue::{Entry, Plan, RunAs};
use crate::state_dir::StateDir;

const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";
/// Log files of one attempt: the first is kept, the others turn over.
const LOG_FILES: u32 = 4;

/// What `outpost-agent logs` knows of an attempt: kept beside its log, never sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct About {
    /// Its run.
    pub run: String,
    /// The workflow's name, as the orchestrator gave it.
    pub workflow: String,
    /// The task's name, as the orchestrator gave it.
    pub task: String,
    /// The catalogue entry.
    pub entry: String,
    /// Microseconds since 1970.
    pub begun_us: u64,
}

/// Makes the directories of an attempt and says how to start it.
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
    let dir = state.attempt(assign.attempt);
    make(&dir, 0o700, None)?;
    let about = About {
        run: assign.run.to_string(),
        workflow: assign.workflow_name.to_string(),
        task: assign.task_name.to_string(),
        entry: assign.entry.to_string(),
        begun_us,
    };
    std::fs::write(dir.join("about.json"), serde_json::to_vec(&about)?)?;

    let run = state.run(assign.run);
    // The tasks of one run share this directory, each under its own entry's account: as in /tmp, nobody can remove
    // another's files. Its name is random and its parent cannot be listed.
    let shared = if entry.user.is_some() { 0o1777 } else { 0o700 };
    make(&run, shared, None)?;
    make(&run.join("out"), shared, None)?;
    // Retention goes by it.
    File::open(&run)?.set_modified(std::time::SystemTime::now())?;
    begin_outputs(&outputs(&run, assign), entry.user.as_ref())?;

    let cwd = match &entry.workdir {
        Some(dir) => dir.clone(),
        None => {
            let work = state.work(assign.attempt);
            make(&work, 0o700, entry.user.as_ref())?;
            work
        }
    };
    let env = environment(assign, entry, plan.env, &run, &cwd);
    let shorter = assign
        .deadline_ms
        .map_or(entry.timeout_ms, |deadline| deadline.min(entry.timeout_ms));
    let stop_after_ms = match entry.on_disconnect {
        outpost_proto::message::OnDisconnect::Continue => None,
        outpost_proto::message::OnDisconnect::StopAfter(seconds) => Some(u64::from(seconds) * 1000),
    };
    Ok(StartSpec {
        attempt: assign.attempt.to_string(),
        dir,
        argv: plan.argv,
        env,
        cwd,
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
    })
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

/// Makes a task's outputs anew, its own and empty: what an earlier attempt left there is not this one's, and another
/// task of the run must not be the one who owns it, or point it elsewhere.
fn begin_outputs(path: &Path, owner: Option<&RunAs>) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mode = if owner.is_some() { 0o644 } else { 0o600 };
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    match owner {
        Some(user) => std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    }
}

/// Makes a directory, or makes one right that a crash left half made. Never follows a link.
fn make(dir: &Path, mode: u32, owner: Option<&RunAs>) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(dir)?;
    if let Some(user) = owner {
        std::os::unix::fs::fchown(&opened, Some(user.uid), Some(user.gid))?;
    }
    opened.set_permissions(Permissions::from_mode(mode))
}

#[cfg(test)]
#[path = "workspace_tests.rs"]
mod tests;
