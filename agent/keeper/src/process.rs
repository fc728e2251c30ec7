//! Processes by identity: id, start time and boot, never the id alone.
//!
//! Used by spawner, keeper and runner. Reads `/proc`; signals go through a pidfd and only after the start time matched,
//! so that a reused id never costs a stranger its life.

use std::collections::BTreeSet;
use std::io;

use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

/// One process of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessRef {
    /// Its id.
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks between boot and its start.
    pub start_time: u64,
}

/// What of `/proc/<pid>/stat` matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) process: ProcessRef,
    pub(crate) parent: u32,
    pub(crate) zombie: bool,
}

impl ProcessRef {
    /// The process that has this id now.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        Some(stat(pid)?.process)
    }

    /// The calling process.
    #[must_use]
    pub fn own() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// Whether it still runs: a zombie does not. Only meaningful under the boot it was seen in.
    #[must_use]
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|now| now.process == self && !now.zombie)
    }

    /// Sends a signal to exactly this process; `false` when it is gone or may not be signalled.
    pub fn signal(self, signal: Signal) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return false;
        };
        let opened = rustix::process::pidfd_open(pid, PidfdFlags::empty());
        if stat(self.pid).is_none_or(|now| now.process != self) {
            return false;
        }
        match opened {
            Ok(pidfd) => rustix::process::pidfd_send_signal(pidfd, signal).is_ok(),
            // A kernel without pidfds.
            Err(rustix::io::Errno::NOSYS) => rustix::process::kill_process(pid, signal).is_ok(),
            Err(_) => false,
        }
    }
}

/// Identity of this boot of the kernel.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// Microseconds of `CLOCK_BOOTTIME`: since boot, suspended time included.
#[must_use]
pub fn boot_time_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.cast_unsigned() * 1_000_000 + now.tv_nsec.cast_unsigned() / 1_000
}

/// Looks one process up.
pub(crate) fn stat(pid: u32) -> Option<Stat> {
    parse(pid, &std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(pid: u32, text: &[u8]) -> Option<Stat> {
    // The name in parentheses may contain anything, parentheses too: count from the last one.
    let after_name = text.iter().rposition(|b| *b == b')')? + 1;
    let rest = std::str::from_utf8(text.get(after_name..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let start_time = fields.nth(17)?.parse().ok()?;
    let zombie = matches!(state, "Z" | "X" | "x");
    Some(Stat {
        process: ProcessRef { pid, start_time },
        parent,
        zombie,
    })
}

/// Every process that can be seen now.
pub(crate) fn all() -> Vec<Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    names
        .filter_map(|name| stat(name.to_str()?.parse().ok()?))
        .collect()
}

/// Everything below `roots` (which are not in the result), as of one look at `/proc`.
pub(crate) fn descendants(roots: &[u32]) -> Vec<ProcessRef> {
    let everybody = all();
    let mut known: BTreeSet<u32> = roots.iter().copied().collect();
    let mut found = Vec::new();
    loop {
        let before = found.len();
        for stat in &everybody {
            if known.contains(&stat.parent) && known.insert(stat.process.pid) {
                found.push(stat.process);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Whether `pid` is below `ancestor`.
pub(crate) fn is_below(mut pid: u32, ancestor: u32) -> bool {
    // Far deeper than real trees; a loop cannot be, but ids may be reused while looking.
    for _ in 0..256 {
        let Some(stat) = stat(pid) else {
            return false;
        };
        if stat.parent == ancestor {
            return true;
        }
        if stat.parent <= 1 {
            return false;
        }
        pid = stat.parent;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_full_of_parentheses_does_not_shift_the_fields() {
        let text = b"7 (a) b) S 5) R 3 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 8 9 10";
        let stat = parse(7, text).unwrap();
        assert_eq!(stat.parent, 3);
        assert_eq!(
            stat.process,
            ProcessRef {
                pid: 7,
                start_time: 4711
            }
        );
        assert!(!stat.zombie);
    }

    #[test]
    fn another_start_time_is_another_process() {
        let own = ProcessRef::own().unwrap();
        assert!(own.is_alive());
        let stranger = ProcessRef {
            start_time: own.start_time + 1,
            ..own
        };
        assert!(!stranger.is_alive());
        assert!(
            !stranger.signal(Signal::KILL),
            "a stranger must not be signalled"
        );
    }
}
