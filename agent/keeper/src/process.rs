//! Processes by identity: id, start time and boot, never the id alone.
//!
//! Used by spawner, keeper and runner. Reads `/proc`; signals go through a pidfd and only after the start time matched,
//! so that a reused id never costs a stranger its life.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::io;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

/// What keepers call themselves; the forks that become tasks are called so until they execute their program.
pub(crate) const KEEPER: &CStr = c"outpost-keeper";
/// What spawners call themselves.
pub(crate) const SPAWNER: &CStr = c"outpost-spawner";
/// Where the kernel shows its processes.
const PROC: &str = "/proc";

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
    /// Whether it calls itself a keeper or a spawner.
    keeps: bool,
}

impl ProcessRef {
    /// The process that has this id now, if there is one and it can be seen.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        Some(stat(pid).ok()??.process)
    }

    /// The calling process.
    #[must_use]
    pub fn own() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// Whether it has ended: a zombie has. Only meaningful under the boot it was seen in.
    ///
    /// # Errors
    /// When that cannot be seen now, for want of descriptors for example: then it is to be looked at again.
    pub fn is_gone(self) -> io::Result<bool> {
        Ok(stat(self.pid)?.is_none_or(|now| now.process != self || now.zombie))
    }

    /// Whether it still runs; one that cannot be seen is not taken for gone.
    #[must_use]
    pub fn is_alive(self) -> bool {
        !self.is_gone().unwrap_or(false)
    }

    /// Sends a signal to exactly this process; `false` when it is gone or may not be signalled.
    pub fn signal(self, signal: Signal) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return false;
        };
        let opened = rustix::process::pidfd_open(pid, PidfdFlags::empty());
        if Self::of(self.pid) != Some(self) {
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

/// Closes the calling process to its own account: its memory, its environment and what it has open can be looked at by
/// root only, and it leaves no core. Forks inherit it; a program that is executed begins without it.
pub fn close_memory() {
    // Refused by no kernel; a process that could not be closed is as it was.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
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

/// Looks one process up; `None` only when there surely is none.
fn stat(pid: u32) -> io::Result<Option<Stat>> {
    let found = stat_in(Path::new(PROC), pid)?;
    if found.is_none() && is_there(pid) {
        // Hidden by how `/proc` is mounted, or that is not mounted; or the id was just given to a new process.
        let text = format!("process {pid} is there and {PROC} does not show it");
        return Err(io::Error::other(text));
    }
    Ok(found)
}

/// Whether the kernel knows a process of this id, whoever's.
fn is_there(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let asked = pid.map(rustix::process::test_kill_process);
    asked.is_some_and(|asked| asked != Err(rustix::io::Errno::SRCH))
}

fn stat_in(proc: &Path, pid: u32) -> io::Result<Option<Stat>> {
    match std::fs::read(proc.join(pid.to_string()).join("stat")) {
        Ok(text) => {
            let no_such_line =
                || io::Error::other(format!("the state of process {pid} does not parse"));
            parse(pid, &text).map(Some).ok_or_else(no_such_line)
        }
        Err(error) if says_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the kernel answers of a process that has ended. Everything else says nothing about it.
pub(crate) fn says_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn parse(pid: u32, text: &[u8]) -> Option<Stat> {
    // The name in parentheses may contain anything, parentheses too: count from the last one.
    let after_name = text.iter().rposition(|b| *b == b')')? + 1;
    let rest = std::str::from_utf8(text.get(after_name..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let threads: u32 = fields.nth(15)?.parse().ok()?;
    let start_time = fields.nth(1)?.parse().ok()?;
    // Its first thread may have ended, and others go on.
    let zombie = matches!(state, "Z" | "X" | "x") && threads <= 1;
    let name = text.get(..after_name - 1)?;
    let name = name.splitn(2, |b| *b == b'(').nth(1)?;
    Some(Stat {
        process: ProcessRef { pid, start_time },
        parent,
        zombie,
        keeps: name == KEEPER.to_bytes() || name == SPAWNER.to_bytes(),
    })
}

/// Where a process has its environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Environment {
    /// From this address on, of the program that it executes now.
    Of {
        /// Another one for nearly every program.
        begins: u64,
        /// As the program was given it.
        bytes: u64,
    },
    /// It begins another program: the kernel has let go of the old one and has not written the new one's yet.
    NotYet,
    /// It has none: a thread of the kernel, or one that ends. Or nobody can tell: it is gone, or what only looks like Linux
    /// does not say.
    Never,
}

/// Looks up where a process has its environment; for whoever may read that.
///
/// # Errors
/// When that cannot be seen.
pub(crate) fn environment(pid: u32) -> io::Result<Environment> {
    let line = |pid: u32| std::fs::read(Path::new(PROC).join(pid.to_string()).join("stat"));
    let read = match line(pid) {
        Err(error) if says_gone(&error) => return Ok(Environment::Never),
        read => read?,
    };
    let found = environment_in(&read)
        .ok_or_else(|| io::Error::other(format!("the state of process {pid} does not parse")))?;
    let is_told = |line: &[u8]| matches!(environment_in(line), Some(Environment::Of { .. }));
    if found == Environment::NotYet && !is_told(&line(std::process::id())?) {
        return Ok(Environment::Never);
    }
    Ok(found)
}

fn environment_in(line: &[u8]) -> Option<Environment> {
    /// The kernel's `PF_KTHREAD` and `PF_EXITING`.
    const HAS_NONE: u64 = 0x0020_0000 | 0x4;
    let after_name = line.iter().rposition(|b| *b == b')')? + 1;
    let rest = std::str::from_utf8(line.get(after_name..)?).ok()?;
    // From the third one on: the 9th, the 27th, the 50th and the 51st.
    let mut fields = rest.split_ascii_whitespace();
    let flags: u64 = fields.nth(6)?.parse().ok()?;
    let code_ends: u64 = fields.nth(17)?.parse().ok()?;
    let begins: u64 = fields.nth(22)?.parse().ok()?;
    let ends: u64 = fields.next()?.parse().ok()?;
    if flags & HAS_NONE != 0 {
        return Some(Environment::Never);
    }
    // Where its code is the kernel writes last, and shows first.
    Some(match code_ends {
        0 => Environment::NotYet,
        _ => Environment::Of {
            begins,
            bytes: ends.saturating_sub(begins),
        },
    })
}

/// Every process that there is now, but for those that the host hides from this account.
///
/// # Errors
/// When the look failed: some may be missing.
pub(crate) fn all() -> io::Result<Vec<Stat>> {
    all_in(Path::new(PROC))
}

fn all_in(proc: &Path) -> io::Result<Vec<Stat>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(proc)? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        match stat_in(proc, pid) {
            Ok(stat) => found.extend(stat),
            // Somebody else's, on a host that hides those: this account could not end it either.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Everything below `roots` (which are not in the result), as of one look at `/proc`.
///
/// # Errors
/// As [`all`].
pub(crate) fn descendants(roots: &[u32]) -> io::Result<Vec<ProcessRef>> {
    let everybody = all()?;
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
            return Ok(found);
        }
    }
}

/// Whether `pid` is part of a task, of whichever keeper: below `own`, the caller, or below a keeper or a spawner. What a
/// process above calls itself no task can change, and a task's orphans come to its keeper, or then to the spawner. 0 is a
/// process of another pid namespace, which none below is.
///
/// # Errors
/// When that cannot be seen, or the process is gone and nobody can tell any more.
pub(crate) fn is_of_a_task(mut pid: u32, own: u32) -> io::Result<bool> {
    // Far deeper than real trees; a loop cannot be, but ids may be reused while looking.
    for _ in 0..256 {
        if pid <= 1 {
            return Ok(false);
        }
        let stat = stat(pid)?.ok_or(io::ErrorKind::NotFound)?;
        if stat.keeps || stat.parent == own {
            return Ok(true);
        }
        pid = stat.parent;
    }
    Ok(false)
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
    fn a_process_has_not_ended_before_its_last_thread() {
        let ended = |state: char, threads: u32| {
            let line =
                format!("7 (a) {state} 3 7 7 0 -1 0 1 0 0 0 0 0 0 0 20 0 {threads} 0 4711 8");
            parse(7, line.as_bytes()).unwrap().zombie
        };
        assert!(ended('Z', 1) && ended('Z', 0) && ended('X', 0));
        assert!(!ended('Z', 2) && !ended('S', 1));
    }

    #[test]
    fn what_never_has_an_environment_is_told_from_what_has_none_yet() {
        let of = |flags: u64, code_ends: u64, (begins, ends): (u64, u64)| {
            let (to_code, to_environment) = ("0 ".repeat(17), "0 ".repeat(22));
            let line = format!(
                "7 (a) b) R 1 7 7 0 -1 {flags} {to_code}{code_ends} {to_environment}{begins} {ends} 0"
            );
            environment_in(line.as_bytes()).unwrap()
        };
        let found = Environment::Of {
            begins: 5,
            bytes: 4,
        };
        assert_eq!(of(0x40_0000, 3, (5, 9)), found);
        let of_none = Environment::Of {
            begins: 5,
            bytes: 0,
        };
        assert_eq!(of(0x40_0000, 3, (5, 5)), of_none);
        // First there is nothing, then its place, then its length.
        for written in [(0, 0), (5, 5), (5, 9)] {
            assert_eq!(of(0x40_0000, 0, written), Environment::NotYet);
        }
        let a_thread_of_the_kernel = of(0x20_8040, 0, (0, 0));
        assert_eq!(a_thread_of_the_kernel, Environment::Never);
        let one_that_ends = of(0x40_0004, 0, (0, 0));
        assert_eq!(one_that_ends, Environment::Never);
        assert_eq!(environment_in(b"7 (a) R 1 7"), None);
        let environ = std::fs::read("/proc/self/environ").unwrap();
        let Environment::Of { bytes, .. } = environment(std::process::id()).unwrap() else {
            panic!("this process has one");
        };
        assert_eq!(bytes, environ.len() as u64);
    }

    #[test]
    fn only_no_such_process_means_gone() {
        let proc = tempfile::tempdir().unwrap();
        let entry = |pid: &str| {
            let dir = proc.path().join(pid);
            std::fs::create_dir(&dir).unwrap();
            dir.join("stat")
        };
        assert!(stat_in(proc.path(), 6).unwrap().is_none());
        std::fs::write(
            entry("7"),
            "7 (a) S 3 7 7 0 -1 0 1 0 0 0 0 0 0 0 20 0 1 0 4711 8",
        )
        .unwrap();
        assert_eq!(all_in(proc.path()).unwrap().len(), 1);
        // A loop of links stands for whatever keeps anybody from looking, root too.
        let unseen = entry("8");
        std::os::unix::fs::symlink(&unseen, &unseen).unwrap();
        assert!(stat_in(proc.path(), 8).is_err());
        assert!(
            all_in(proc.path()).is_err(),
            "one that is missing may be the one"
        );
        assert!(all_in(&unseen).is_err());
        assert!(says_gone(&io::Error::from_raw_os_error(libc::ESRCH)));
        for errno in [
            libc::EMFILE,
            libc::ENFILE,
            libc::EACCES,
            libc::ENOMEM,
            libc::EIO,
        ] {
            assert!(!says_gone(&io::Error::from_raw_os_error(errno)), "{errno}");
        }
    }

    #[test]
    fn who_is_gone_is_not_known_to_be_elsewhere() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(is_of_a_task(pid, std::process::id()).is_err());
        assert!(!is_of_a_task(0, std::process::id()).unwrap());
        assert!(!is_of_a_task(std::process::id(), std::process::id()).unwrap());
    }

    #[test]
    fn k14_what_is_below_the_caller_or_below_who_keeps_is_of_a_task() {
        let is_of_a_task = |pid: u32, own| is_of_a_task(pid, own).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let own = std::process::id();
        let said = [(child.id(), own), (child.id(), own + 1), (own, own)];
        let said = said.map(|(pid, own)| is_of_a_task(pid, own));
        child.kill().unwrap();
        child.wait().unwrap();
        // To anybody else it is a child of somebody who keeps nothing.
        assert_eq!(said, [true, false, false]);
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
