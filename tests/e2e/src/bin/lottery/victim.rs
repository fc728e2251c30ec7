//! Which of the demo's processes are alive, by what they are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use outpost_e2e::procs::{self, Proc};

/// What a process of the demo's tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Kind {
    /// `serve`.
    Orchestrator,
    /// `run`.
    Runner,
    /// Holds the one connection.
    Link,
    /// Lives while a connection is made.
    Dial,
    /// Forks keepers.
    Spawner,
    /// Owns one task.
    Keeper,
    /// Any process of a task.
    Task,
    /// A command that makes things ready: `init`, `enrol`.
    Command,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Orchestrator => "orchestrator",
            Self::Runner => "runner",
            Self::Link => "link",
            Self::Dial => "dial",
            Self::Spawner => "spawner",
            Self::Keeper => "keeper",
            Self::Task => "task",
            Self::Command => "command",
        }
    }
}

/// The processes of the demo in `dir`, but the demo itself.
pub(crate) fn alive(dir: &Path, demo: u32) -> BTreeMap<Kind, Vec<Proc>> {
    let demo = i32::try_from(demo).unwrap_or(0);
    let everybody = procs::belonging_to(dir);
    let keepers = procs::attempts(&dir.join("agent"))
        .iter()
        .filter_map(|attempt| procs::keeper_and_task(attempt).0)
        .map(|keeper| keeper.pid)
        .collect::<BTreeSet<_>>();
    let spawners = everybody
        .iter()
        .filter(|process| process.is_role("spawner"))
        .map(|process| process.pid)
        .collect::<BTreeSet<_>>();
    let mut found: BTreeMap<Kind, Vec<Proc>> = BTreeMap::new();
    for process in everybody.into_iter().filter(|process| process.pid != demo) {
        // A keeper is a fork of its spawner, and looks like it.
        let forked = keepers.contains(&process.pid) || spawners.contains(&process.parent);
        found
            .entry(kind(&process, forked))
            .or_default()
            .push(process);
    }
    found
}

/// A dial of the demo in `dir`, by a look that is short enough to meet one: its arguments do not name the directory, its
/// parent's do.
pub(crate) fn dial(dir: &Path) -> Option<Proc> {
    let text = dir.to_string_lossy();
    let everybody = procs::all();
    let ours = |pid: i32| {
        let mut parents = everybody.iter().filter(|process| process.pid == pid);
        parents.any(|parent| parent.args.iter().any(|arg| arg.contains(&*text)))
    };
    let mut dials = everybody.iter().filter(|process| process.is_role("dial"));
    dials.find(|dial| ours(dial.parent)).cloned()
}

fn kind(process: &Proc, forked: bool) -> Kind {
    let says =
        |first: &str, second: &str| process.args.windows(2).any(|pair| pair == [first, second]);
    if process.is_role("spawner") {
        if forked { Kind::Keeper } else { Kind::Spawner }
    } else if process.is_role("link") {
        Kind::Link
    } else if process.is_role("dial") {
        Kind::Dial
    } else if says("agent-main", "run") {
        Kind::Runner
    } else if says("orchestrator-main", "serve") {
        Kind::Orchestrator
    } else if process
        .args
        .iter()
        .any(|arg| arg == "agent-main" || arg == "orchestrator-main")
    {
        Kind::Command
    } else {
        Kind::Task
    }
}
