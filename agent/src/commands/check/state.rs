//! The state directory: whose it is, whether there is room, whether tasks can pass through, and who runs on it.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::Findings;
use crate::ahead;
use crate::catalogue::Catalogue;
use crate::causes::with_causes;
use crate::commands::words::bytes;
use crate::health::LEAST_BYTES;
use crate::runner::{Ask, ask};
use crate::state_dir::{Identity, StateDir, StateError, modes};

const CHECK: &str = "state";
const SPACE: &str = "space";
/// Below this a log or two can fill the disk.
const LITTLE_BYTES: u64 = 1 << 30;
/// Inodes below which attempts may be unable to have a directory.
const LEAST_FILES: u64 = 1000;

/// Opens it, or says what is wrong with it.
pub(super) fn look(path: &Path, found: &mut Findings) -> Option<StateDir> {
    match StateDir::open(path) {
        Ok(state) => {
            let wrong = modes::look(&state);
            if wrong.is_empty() {
                found.ok(CHECK, state.path().display().to_string());
            }
            for wrong in wrong {
                let fix = "chmod it; a running agent does so by itself, and says so in its log: something of this account \
                           changed it";
                found.warning(CHECK, wrong.says(), fix);
            }
            Some(state)
        }
        Err(error) => {
            found.failure(CHECK, with_causes(&error), fix(&error));
            None
        }
    }
}

/// What to do; empty where the message says it.
fn fix(error: &StateError) -> String {
    match error {
        StateError::Io { path, .. } => format!(
            "let this account read {}, or run as the account the agent runs as (with --state if it is elsewhere)",
            path.display()
        ),
        StateError::Newer { .. }
        | StateError::Unsafe { .. }
        | StateError::Missing { .. }
        | StateError::TooOld { .. }
        | StateError::Migration { .. }
        | StateError::Locked { .. } => String::new(),
        StateError::NotOurs { .. } => {
            "name the agent's own directory with --state; nothing was changed here".to_owned()
        }
    }
}

/// Room on the file system, and whether it can be written at all.
pub(super) fn space(state: &StateDir, found: &mut Findings) {
    let path = state.path();
    let shown = path.display();
    let written = try_write(path);
    if let Ok(false) = written {
        let says = format!("{shown} cannot keep space for what is recorded later");
        let fix = "keep the state on ext4, XFS, Btrfs or another file system with fallocate: on a full disk here the \
            agent stops until there is room";
        found.warning(SPACE, says, fix);
    }
    if let Err(error) = written {
        use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let is = |kind| error.kind() == kind;
        let fix = if is(StorageFull) || is(QuotaExceeded) {
            "make room: nothing can be recorded, so nothing is run"
        } else if is(ReadOnlyFilesystem) {
            "mount it for writing"
        } else {
            "let the agent's account write there"
        };
        return found.failure(SPACE, format!("{shown} cannot be written: {error}"), fix);
    }
    let Ok(stat) = rustix::fs::statvfs(path) else {
        return;
    };
    let free = stat.f_bavail * stat.f_frsize;
    let says = format!("{} free in {shown}", bytes(free));
    if free < LEAST_BYTES {
        let fix = format!(
            "make room: {} is the least that journal, ledger and exit records need",
            bytes(LEAST_BYTES)
        );
        found.failure(SPACE, says, fix);
    } else if stat.f_files > 0 && stat.f_favail < LEAST_FILES {
        let fix = "remove files on that file system: each attempt needs a directory and some files";
        found.failure(
            SPACE,
            format!("{} inodes free in {shown}", stat.f_favail),
            fix,
        );
    } else if free < LITTLE_BYTES {
        let fix = "make room, or keep less: --keep-logs-size, --keep-ledger-size";
        found.warning(SPACE, says, fix);
    } else {
        found.ok(SPACE, says);
    }
}

/// Writes and removes a small file: free space says nothing about quotas, permissions and read-only mounts. Answers
/// whether space can be taken there before it is needed.
fn try_write(dir: &Path) -> std::io::Result<bool> {
    let path = dir.join(format!("check.{}.tmp", std::process::id()));
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| {
            file.write_all(&[0; 4096])?;
            file.sync_all()?;
            ahead::can_take(&file)
        });
    let removed = std::fs::remove_file(&path);
    written.and_then(|can_take| removed.map(|()| can_take))
}

/// Whether tasks of other accounts can get to their own directories below it.
pub(super) fn reachable(state: &StateDir, catalogue: Option<&Catalogue>, found: &mut Findings) {
    let own = rustix::process::geteuid().as_raw();
    let users = catalogue
        .into_iter()
        .flat_map(Catalogue::entries)
        .filter_map(|entry| entry.user.as_ref());
    let Some(user) = users.into_iter().find(|user| user.uid != own) else {
        return;
    };
    for part in state.path().ancestors() {
        let Ok(meta) = part.metadata() else { continue };
        let bit = if meta.uid() == user.uid {
            0o100
        } else if user.groups.contains(&meta.gid()) {
            0o010
        } else {
            0o001
        };
        if meta.mode() & bit == 0 {
            let shown = part.display();
            return found.failure(
                CHECK,
                format!(
                    "{shown} (mode {:o}) does not let tasks of user {} through to their directories below {}",
                    meta.mode() & 0o7777,
                    user.name,
                    state.path().display()
                ),
                format!("chmod o+x {shown}, or keep the state elsewhere with --state"),
            );
        }
    }
}

/// Who runs on it: one agent may, and says how it is.
pub(super) fn lock(state: &StateDir, found: &mut Findings) {
    const CHECK: &str = "running";
    match (state.lock(), ask(state.path(), Ask::Status)) {
        (Ok(_lock), _) => found.ok(CHECK, "no agent is running here"),
        (Err(StateError::Locked { .. }), Ok(status)) => found.ok(
            CHECK,
            format!(
                "this agent is running, pid {}, session {}",
                status.pid,
                status.view_text("session").unwrap_or("none")
            ),
        ),
        (Err(StateError::Locked { .. }), Err(error)) => found.failure(
            CHECK,
            format!(
                "another agent holds {} and does not answer: {error:#}",
                state.path().display()
            ),
            "see its log; if it hangs, end it: its tasks go on, and the next one takes them over",
        ),
        (Err(error), _) => found.failure(CHECK, with_causes(&error), fix(&error)),
    }
}

/// What enrolment settled.
pub(super) fn identity(state: StateDir, found: &mut Findings) -> Option<(StateDir, Identity)> {
    const CHECK: &str = "enrolment";
    match state.identity() {
        Ok(Some(identity)) => {
            let says = format!("agent {} of tenant {}", identity.agent, identity.tenant);
            found.ok(CHECK, says);
            Some((state, identity))
        }
        Ok(None) => {
            let fix =
                "get a join token from the operator, then outpost-agent enrol --token-file FILE";
            found.failure(CHECK, "not enrolled", fix);
            None
        }
        Err(error) => {
            let fix = "enrol again with --force and a new token";
            found.failure(CHECK, with_causes(&error), fix);
            None
        }
    }
}
