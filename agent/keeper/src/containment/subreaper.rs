//! Ending everything below a process by looking at `/proc`: the level that needs no privilege at all.
//!
//! A fork bomb can outrun a killer that goes one by one, so everything found is stopped first, until a look finds
//! nothing new, and only then killed. Callers repeat until waiting says that there is no child left.

use std::collections::BTreeSet;
use std::io::{self, Read};

use rustix::process::Signal;

use crate::process::{self, ProcessRef};

/// How many looks for new processes one call takes; the caller repeats anyway.
const LOOKS: usize = 32;

/// TERM to everything below the caller. Who cannot be seen gets none, and KILL after the grace as everybody.
pub(super) fn terminate() {
    for process in process::descendants(&[std::process::id()]).unwrap_or_default() {
        process.signal(Signal::TERM);
    }
}

/// Stops, then kills everything below `roots`, not the roots themselves, as far as it can be seen.
pub(super) fn kill_below(roots: &[u32]) {
    let mut stopped = BTreeSet::new();
    for _ in 0..LOOKS {
        let found = process::descendants(roots).unwrap_or_default();
        let new: Vec<ProcessRef> = found
            .into_iter()
            .filter(|process| !stopped.contains(process))
            .collect();
        if new.is_empty() {
            break;
        }
        for process in new {
            process.signal(Signal::STOP);
            stopped.insert(process);
        }
    }
    for process in stopped {
        process.signal(Signal::KILL);
    }
}

/// Every process whose environment at exec named this attempt.
///
/// # Errors
/// When the look failed: some may be missing.
pub(crate) fn marked(attempt: &str) -> io::Result<Vec<ProcessRef>> {
    let marker = format!("OUTPOST_ATTEMPT={attempt}");
    let own = std::process::id();
    let mut found = Vec::new();
    for stat in process::all()? {
        let pid = stat.process.pid;
        if !stat.zombie && pid != own && has_marker(pid, marker.as_bytes())? {
            found.push(stat.process);
        }
    }
    Ok(found)
}

fn has_marker(pid: u32, marker: &[u8]) -> io::Result<bool> {
    match environment(pid) {
        Ok(environment) => Ok(environment
            .split(|byte| *byte == 0)
            .any(|entry| entry == marker)),
        // What this account may not look into it cannot have started, unless the task changed its user itself.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        Err(error) if process::says_gone(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn environment(pid: u32) -> io::Result<Vec<u8>> {
    let mut environment = Vec::new();
    let file = std::fs::File::open(format!("/proc/{pid}/environ"))?;
    // The most that the kernel takes for one exec is far below this.
    file.take(8 << 20).read_to_end(&mut environment)?;
    Ok(environment)
}
