//! Ending everything below a process by looking at `/proc`: the level that needs no privilege at all.
//!
//! A fork bomb can outrun a killer that goes one by one, so everything found is stopped first, until a look finds
//! nothing new, and only then killed. Callers repeat until waiting says that there is no child left.

use std::collections::BTreeSet;
use std::io::Read;

use rustix::process::Signal;

use crate::process::{self, ProcessRef};

/// How many looks for new processes one call takes; the caller repeats anyway.
const LOOKS: usize = 32;

/// TERM to everything below the caller.
pub(super) fn terminate() {
    for process in process::descendants(&[std::process::id()]) {
        process.signal(Signal::TERM);
    }
}

/// Stops, then kills everything below `roots`, not the roots themselves.
pub(super) fn kill_below(roots: &[u32]) {
    let mut stopped = BTreeSet::new();
    for _ in 0..LOOKS {
        let found = process::descendants(roots);
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
pub(super) fn marked(attempt: &str) -> Vec<ProcessRef> {
    let marker = format!("OUTPOST_ATTEMPT={attempt}");
    let own = std::process::id();
    let others = process::all()
        .into_iter()
        .filter(|stat| !stat.zombie && stat.process.pid != own);
    others
        .map(|stat| stat.process)
        .filter(|process| has_marker(process.pid, marker.as_bytes()))
        .collect()
}

fn has_marker(pid: u32, marker: &[u8]) -> bool {
    let mut environment = Vec::new();
    let Ok(file) = std::fs::File::open(format!("/proc/{pid}/environ")) else {
        return false;
    };
    // The most that the kernel takes for one exec is far below this.
    if file.take(8 << 20).read_to_end(&mut environment).is_err() {
        return false;
    }
    environment
        .split(|byte| *byte == 0)
        .any(|entry| entry == marker)
}
