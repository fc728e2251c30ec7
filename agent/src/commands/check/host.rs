//! What the host gives an agent: descriptors, processes, /proc, and a way to hold task trees together.

use std::fs;
use std::path::Path;

use outpost_agent_keeper::containment;
use outpost_agent_keeper::protocol::Containment;
use rustix::process::{Resource, getrlimit};

use super::Findings;
use crate::state_dir::StateDir;

const LIMITS: &str = "limits";
/// Descriptors for a handful of tasks: a runner uses about thirty, and some for each task.
const LEAST_FILES: u64 = 256;
/// Descriptors for as many tasks as an ordinary host runs.
const GOOD_FILES: u64 = 1024;
/// Processes: runner, link, dial, spawner, and two for each of some tasks.
const LEAST_PROCESSES: u64 = 64;

/// Limits of this process, which `run` would inherit, and /proc.
pub(super) fn look(found: &mut Findings) {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let files_fix = "raise it: LimitNOFILE=65536 in the agent's unit, or ulimit -n";
    if files < LEAST_FILES {
        let says =
            format!("{files} descriptors (RLIMIT_NOFILE) are too few for an agent with tasks");
        found.failure(LIMITS, says, files_fix);
    } else if files < GOOD_FILES {
        let says = format!("{files} descriptors (RLIMIT_NOFILE) are enough for few tasks only");
        found.warning(LIMITS, says, files_fix);
    } else {
        found.ok(LIMITS, format!("{files} descriptors"));
    }
    processes(found);
    proc(found);
}

fn processes(found: &mut Findings) {
    let root = rustix::process::geteuid().is_root();
    // The kernel does not hold root to it.
    let limit = getrlimit(Resource::Nproc).current.filter(|_| !root);
    if let Some(limit) = limit.filter(|limit| *limit < LEAST_PROCESSES) {
        let says = format!("{limit} processes (RLIMIT_NPROC) are too few for an agent with tasks");
        let fix = "raise it: LimitNPROC in the agent's unit, or ulimit -u";
        return found.failure(LIMITS, says, fix);
    }
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    let max = own.map(|path| format!("/sys/fs/cgroup{path}/pids.max"));
    let max = max.and_then(|path| fs::read_to_string(path).ok());
    if let Some(max) = max.and_then(|max| max.trim().parse::<u64>().ok())
        && max < LEAST_PROCESSES
    {
        let says = format!(
            "{max} processes (pids.max of this cgroup) are too few for an agent with tasks"
        );
        found.failure(LIMITS, says, "raise it: TasksMax in the agent's unit");
    }
}

/// An agent asks /proc which life of the host this is, and finds its tasks there.
fn proc(found: &mut Findings) {
    const CHECK: &str = "proc";
    let shown = fs::read_link("/proc/self").ok();
    if let Some(says) = shown.and_then(|shown| foreign(&shown, std::process::id())) {
        let fix = "mount a /proc of the namespace that the agent runs in (unshare --mount-proc)";
        return found.failure(CHECK, says, fix);
    }
    let Err(error) = fs::read("/proc/1/stat") else {
        return found.ok(CHECK, "/proc shows what an agent must see");
    };
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match hidden(&mounts) {
        Some(option) => found.failure(
            CHECK,
            format!("/proc is mounted with {option}, which hides /proc/1 from this account"),
            "mount it with hidepid=0 for the agent (ProtectProc=default in its unit), or give gid= a group of the agent's account",
        ),
        None => found.failure(
            CHECK,
            format!("/proc/1/stat cannot be read: {error}"),
            "mount /proc where the agent runs",
        ),
    }
}

/// What is wrong when /proc shows this process under a number that is not its own.
fn foreign(shown: &Path, own: u32) -> Option<String> {
    let says = || {
        format!(
            "/proc is of another PID namespace: this process is {} there and {own} here",
            shown.display()
        )
    };
    (shown != Path::new(&own.to_string())).then(says)
}

/// The option that hides processes, if /proc is mounted with one (proc(5)).
fn hidden(mountinfo: &str) -> Option<&str> {
    let mounts = mountinfo.lines().rev();
    let mut at_proc = mounts.filter(|line| line.split(' ').nth(4) == Some("/proc"));
    let options = at_proc.next()?.rsplit(' ').next()?;
    let mut options = options.split(',');
    options.find(|option| {
        option
            .strip_prefix("hidepid=")
            .is_some_and(|value| !matches!(value, "0" | "off"))
    })
}

/// Which level holds task trees together, and what a better one would need.
pub(super) fn containment(state: &StateDir, found: &mut Findings) {
    const CHECK: &str = "containment";
    let fix = "run the agent in a cgroup of its own: Delegate=yes in its unit (cgroup v2, Linux 5.14 or newer)";
    match containment::probe(state.path()) {
        Containment::Cgroup => found.ok(
            CHECK,
            "cgroup: the kernel ends a task's whole tree at once and counts its memory",
        ),
        Containment::PidNamespace => found.warning(
            CHECK,
            "pid_namespace, the second of three levels: a tree is ended as a whole, its memory is not counted",
            fix,
        ),
        Containment::Subreaper => found.warning(
            CHECK,
            "subreaper, the third of three levels: a tree is searched for and ended process by process",
            fix,
        ),
    }
}

/// What keeps tasks apart from the agent and from each other.
pub(super) fn separation(found: &mut Findings) {
    const CHECK: &str = "separation";
    let fix = "run the agent as root, so that each task has an account of its own, or on Linux 6.12 or newer with \
               Landlock in force (`landlock` in the kernel's lsm= list)";
    match crate::runner::separation() {
        (true, says) => found.ok(CHECK, says),
        (false, says) => found.warning(CHECK, says, fix),
    }
    if rustix::process::geteuid().is_root() {
        let account = crate::users::TASK_ACCOUNT;
        match crate::users::for_tasks() {
            Ok(user) => found.ok(
                CHECK,
                format!("entries without a user run as {account} (uid {})", user.uid),
            ),
            Err(_) => found.ok(
                CHECK,
                format!("every entry must name its user: this host has no account {account}"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proc_of_another_namespace_is_told() {
        assert_eq!(foreign(Path::new("17"), 17), None);
        let says = foreign(Path::new("4711"), 17).unwrap_or_default();
        assert!(says.contains("is 4711 there and 17 here"), "{says}");
    }

    #[test]
    fn the_newest_mount_of_proc_counts() {
        let open = "22 1 0:21 / /proc rw,relatime - proc proc rw\n";
        let hidden_one = "99 1 0:50 / /proc rw,relatime - proc proc rw,hidepid=invisible\n";
        assert_eq!(hidden(open), None);
        assert_eq!(
            hidden(&format!("{open}{hidden_one}")),
            Some("hidepid=invisible")
        );
        assert_eq!(hidden(&format!("{hidden_one}{open}")), None);
        assert_eq!(
            hidden("1 1 0:1 / /proc rw - proc proc rw,hidepid=0\n"),
            None
        );
        assert_eq!(hidden(""), None);
    }
}
