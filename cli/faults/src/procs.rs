//! Processes as /proc shows them: which there are, which part of an agent each is, and their end by SIGKILL.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

/// One process. The start time makes it this one and no later one with the same id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Proc {
    /// Its id.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Clock ticks from boot to its start.
    pub start: u64,
    /// Its arguments.
    pub args: Vec<String>,
}

impl Proc {
    /// The process with this id; `None` when there is none or only its zombie.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may contain anything: proc(5).
        let (_, rest) = stat.rsplit_once(')')?;
        let fields = rest.split_whitespace().collect::<Vec<_>>();
        if matches!(*fields.first()?, "Z" | "X") {
            return None;
        }
        let args = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let args = args.split(|byte| *byte == 0).filter(|arg| !arg.is_empty());
        Some(Self {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
            args: args
                .map(|arg| String::from_utf8_lossy(arg).into_owned())
                .collect(),
        })
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).is_some_and(|now| now.start == self.start)
    }

    /// Whether a signal has stopped all of its threads: until then, what they began may go on.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.pid)) else {
            return false;
        };
        let stopped = |thread: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
            state.is_some_and(|state| state.starts_with('T'))
        };
        threads.flatten().all(stopped)
    }

    /// Sends SIGKILL, if it still is this process.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Sends a signal, if it still is this process.
    pub fn signal(&self, signal: Signal) {
        if let (true, Some(pid)) = (self.is_alive(), Pid::from_raw(self.pid)) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Whether it plays this role: `link`, `dial`, `spawner`. Keepers are forks of a spawner and look like one.
    #[must_use]
    pub fn is_role(&self, role: &str) -> bool {
        self.args.windows(2).any(|pair| pair == ["role", role])
    }

    fn mentions(&self, text: &str) -> bool {
        let environ = std::fs::read(format!("/proc/{}/environ", self.pid)).unwrap_or_default();
        let cwd = std::fs::read_link(format!("/proc/{}/cwd", self.pid)).unwrap_or_default();
        self.args.iter().any(|arg| arg.contains(text))
            || String::from_utf8_lossy(&environ).contains(text)
            || cwd.to_string_lossy().contains(text)
    }
}

/// Every process that can be seen now.
#[must_use]
pub fn all() -> Vec<Proc> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Proc::of).collect()
}

/// Processes that name something below `dir` in their arguments or environment, or work there, and all their
/// descendants; the harness itself is not among them.
#[must_use]
pub fn belonging_to(dir: &Path) -> Vec<Proc> {
    let text = dir.to_string_lossy().into_owned();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let everybody = all();
    let roots = everybody
        .iter()
        .filter(|process| process.pid != own && process.mentions(&text))
        .map(|process| process.pid);
    let family = with_descendants(&everybody, roots.collect());
    everybody
        .into_iter()
        .filter(|process| process.pid != own && family.contains(&process.pid))
        .collect()
}

/// All descendants of a process, as of now; without itself.
#[must_use]
pub fn descendants(pid: i32) -> Vec<Proc> {
    let everybody = all();
    let family = with_descendants(&everybody, BTreeSet::from([pid]));
    everybody
        .into_iter()
        .filter(|process| process.pid != pid && family.contains(&process.pid))
        .collect()
}

fn with_descendants(everybody: &[Proc], mut family: BTreeSet<i32>) -> BTreeSet<i32> {
    loop {
        let before = family.len();
        let children = everybody
            .iter()
            .filter(|process| family.contains(&process.parent));
        let children = children.map(|process| process.pid).collect::<Vec<_>>();
        family.extend(children);
        if family.len() == before {
            return family;
        }
    }
}

/// The keeper and the task's first process of an attempt, as the keeper's own record names them.
#[must_use]
pub fn keeper_and_task(attempt_dir: &Path) -> (Option<Proc>, Option<Proc>) {
    let text = std::fs::read_to_string(attempt_dir.join("claim")).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.is_empty());
    let records = lines.map(serde_json::from_str::<serde_json::Value>);
    let records = records
        .flatten()
        .map(|line| line["record"].clone())
        .collect::<Vec<_>>();
    let process = |key: &str| {
        let named = match key {
            "keeper" => records
                .iter()
                .find_map(|record| record["keeper"].get(key))?,
            _ => records.iter().find_map(|record| record.get(key))?,
        };
        let pid = i32::try_from(named.get("pid")?.as_i64()?).ok()?;
        Proc::of(pid).filter(|process| Some(process.start) == named["start_time"].as_u64())
    };
    (process("keeper"), process("task"))
}

/// The directories of all attempts below a state directory; not those that keepers made for attempts to come.
#[must_use]
pub fn attempts(state: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(state.join("attempts"));
    let mut dirs = entries
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_else(|_| Vec::new());
    dirs.retain(|dir| {
        !dir.file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
    });
    dirs.sort();
    dirs
}

/// Inodes of the TCP sockets that listen, and where, in this network namespace.
#[must_use]
pub fn listening_tcp() -> Vec<(u64, String)> {
    let mut found = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields = line.split_whitespace().collect::<Vec<_>>();
            let (Some(local), Some(&"0A"), Some(inode)) =
                (fields.get(1), fields.get(3), fields.get(9))
            else {
                continue;
            };
            found.extend(inode.parse().map(|inode| (inode, (*local).to_owned())));
        }
    }
    found
}

/// Inodes of the sockets that a process holds.
#[must_use]
pub fn sockets(pid: i32) -> Vec<u64> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let links = entries
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let inode = |link: PathBuf| {
        let text = link.to_string_lossy().into_owned();
        text.strip_prefix("socket:[")?
            .strip_suffix(']')?
            .parse()
            .ok()
    };
    links.filter_map(inode).collect()
}

/// Processes that have exactly this in their environment.
#[must_use]
pub fn with_environment(variable: &str) -> Vec<Proc> {
    let has = |process: &Proc| {
        let environ = std::fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        environ
            .split(|byte| *byte == 0)
            .any(|entry| entry == variable.as_bytes())
    };
    all().into_iter().filter(has).collect()
}

/// Inodes of established TCP connections, in this network namespace.
#[must_use]
pub fn established_tcp() -> Vec<u64> {
    let mut found = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields = line.split_whitespace().collect::<Vec<_>>();
            if let (Some(&"01"), Some(inode)) = (fields.get(3), fields.get(9)) {
                found.extend(inode.parse::<u64>());
            }
        }
    }
    found
}
