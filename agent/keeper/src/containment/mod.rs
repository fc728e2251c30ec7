//! Holding a task's processes together, so that all of them can be ended and their end can be known.
//!
//! Three levels in this order: a leaf of a delegated cgroup v2 tree, a pid namespace, a subreaper. Whatever the level,
//! the keeper is a subreaper too: what left the cgroup still comes back to it. Used by spawner and keeper; the runner
//! only asks [`probe`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::process::{self, ProcessRef};
use crate::protocol::{Containment, Want};
use crate::record::KeeperRecord;

mod cgroup;
pub(crate) mod pidns;
mod subreaper;

pub(crate) use cgroup::Leaf;
pub use cgroup::tree as cgroup_tree;
pub(crate) use subreaper::marked;

/// What `Want::Auto` means for a spawner of this state directory, run by the caller's user in the caller's cgroup.
#[must_use]
pub fn probe(state_dir: &Path) -> Containment {
    Placement::find(state_dir).auto()
}

/// What this host offers: found once by the spawner, inherited by its keepers.
#[derive(Debug)]
pub(crate) struct Placement {
    base: Option<cgroup::Base>,
    pid_namespaces: bool,
}

impl Placement {
    /// Looks, and makes the agent's part of the cgroup tree where that is possible.
    pub(crate) fn find(state_dir: &Path) -> Self {
        let root = rustix::process::geteuid().is_root();
        Self {
            base: cgroup::Base::find(state_dir),
            pid_namespaces: root && pidns::works(),
        }
    }

    /// The strongest level that needs no user namespace.
    pub(crate) fn auto(&self) -> Containment {
        if self.base.is_some() {
            Containment::Cgroup
        } else if self.pid_namespaces {
            Containment::PidNamespace
        } else {
            Containment::Subreaper
        }
    }

    /// Moves the caller out of the way: a cgroup that hands controllers down may hold no process itself.
    pub(crate) fn enter(&self) -> io::Result<()> {
        self.base
            .as_ref()
            .map_or(Ok(()), cgroup::Base::enter_keepers)
    }

    /// Removes what `find` and `enter` made; `false` when something is still in it.
    pub(crate) fn leave(&self) -> bool {
        self.base.as_ref().is_none_or(cgroup::Base::leave)
    }

    /// The level a task gets.
    pub(crate) fn choose(&self, want: Want) -> Result<Containment, &'static str> {
        match want {
            Want::Auto => Ok(self.auto()),
            Want::Cgroup if self.base.is_some() => Ok(Containment::Cgroup),
            Want::Cgroup => {
                Err("no delegated cgroup v2 tree here: set Delegate=yes in the agent's unit")
            }
            Want::PidNamespace => Ok(Containment::PidNamespace),
            Want::Subreaper => Ok(Containment::Subreaper),
        }
    }

    /// Makes a keeper's leaf cgroup.
    pub(crate) fn leaf(&self, keeper: ProcessRef) -> io::Result<Leaf> {
        let base = self.base.as_ref().ok_or(io::ErrorKind::NotFound)?;
        base.leaf(keeper)
    }

    /// Takes away the empty leaf of a keeper that has ended.
    pub(crate) fn remove_leaf(&self, keeper: ProcessRef) {
        if let Some(base) = &self.base {
            base.remove_leaf(keeper);
        }
    }
}

/// A live task's processes, as its keeper holds them.
#[derive(Debug)]
pub(crate) enum Tree {
    /// In this leaf.
    Cgroup(Leaf),
    /// Below this init, which does as `control` says.
    PidNamespace { init: ProcessRef, control: OwnedFd },
    /// Below the keeper.
    Subreaper,
}

impl Tree {
    /// Asks every process to end.
    pub(crate) fn terminate(&self) {
        match self {
            Self::Cgroup(leaf) => {
                leaf.signal(Signal::TERM);
                subreaper::terminate();
            }
            Self::PidNamespace { control, .. } => pidns::terminate(control.as_fd()),
            Self::Subreaper => subreaper::terminate(),
        }
    }

    /// Ends every process that can be found. To be repeated until all are gone.
    pub(crate) fn kill(&self) {
        match self {
            Self::Cgroup(leaf) => leaf.kill(),
            Self::PidNamespace { init, .. } => {
                init.signal(Signal::KILL);
            }
            Self::Subreaper => {}
        }
        subreaper::kill_below(&[std::process::id()]);
    }

    /// Whether the kernel still counts processes here, or cannot be asked now. The caller's own children are to be
    /// waited for besides.
    pub(crate) fn is_populated(&self) -> bool {
        match self {
            Self::Cgroup(leaf) => leaf.is_populated().unwrap_or(true),
            Self::PidNamespace { .. } | Self::Subreaper => false,
        }
    }

    /// Becomes ready (exceptional condition) when `is_populated` may have changed.
    pub(crate) fn events(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Cgroup(leaf) => Some(leaf.events()),
            Self::PidNamespace { .. } | Self::Subreaper => None,
        }
    }

    /// Whether the kernel ended a process here because memory ran out.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        match self {
            Self::Cgroup(leaf) => leaf.ran_out_of_memory(),
            Self::PidNamespace { .. } | Self::Subreaper => false,
        }
    }
}

/// What a dead keeper left behind, as its record tells it.
#[derive(Debug)]
pub(crate) struct Remains {
    attempt: String,
    cgroup: Option<PathBuf>,
    first: Option<ProcessRef>,
}

impl Remains {
    /// From the record of a keeper of this boot.
    pub(crate) fn of(record: &KeeperRecord) -> Self {
        Self {
            attempt: record.attempt.clone(),
            cgroup: record.cgroup.clone(),
            // A keeper that could not see when its task began said 0: of which process it spoke is not known.
            first: record.task.filter(|first| first.start_time != 0),
        }
    }

    fn leaf(&self) -> io::Result<Option<Leaf>> {
        self.cgroup.as_deref().map_or(Ok(None), cgroup::Leaf::find)
    }

    /// Ends every process that can be found. `marked`: also those that carry the attempt's environment variable, for
    /// when the caller is not an ancestor of the orphans.
    pub(crate) fn kill(&self, marked: bool) {
        if let Ok(Some(leaf)) = self.leaf() {
            leaf.kill();
        }
        let mut roots: Vec<ProcessRef> = self
            .first
            .into_iter()
            .filter(|first| first.is_alive())
            .collect();
        if marked {
            roots.extend(subreaper::marked_so_far(&self.attempt));
        }
        let pids: Vec<u32> = roots.iter().map(|root| root.pid).collect();
        if !pids.is_empty() {
            subreaper::kill_below(&pids);
        }
        for root in roots {
            root.signal(Signal::KILL);
        }
    }

    /// Whether nothing is left that can be found; then the cgroup is removed.
    ///
    /// # Errors
    /// When that cannot be seen now. Nothing is known then, and it is to be looked at again.
    pub(crate) fn are_gone(&self, marked: bool) -> io::Result<bool> {
        if let Some(first) = self.first
            && !first.is_gone()?
        {
            return Ok(false);
        }
        let leaf = self.leaf()?;
        if let Some(leaf) = &leaf
            && leaf.is_populated()?
        {
            return Ok(false);
        }
        if marked && !subreaper::marked(&self.attempt)?.is_empty() {
            return Ok(false);
        }
        if let Some(leaf) = leaf {
            leaf.remove();
        }
        Ok(true)
    }
}

/// Ends every child of the caller that is not in `spared`, and all below it; whether there were, or may be, any.
pub(crate) fn kill_orphans(spared: impl Fn(u32) -> bool) -> bool {
    let own = std::process::id();
    let Ok(everybody) = process::all() else {
        return true;
    };
    let orphans = everybody
        .into_iter()
        .filter(|stat| stat.parent == own && !stat.zombie);
    let orphans: Vec<ProcessRef> = orphans
        .map(|stat| stat.process)
        .filter(|orphan| !spared(orphan.pid))
        .collect();
    if orphans.is_empty() {
        return false;
    }
    let pids: Vec<u32> = orphans.iter().map(|orphan| orphan.pid).collect();
    subreaper::kill_below(&pids);
    for orphan in orphans {
        orphan.signal(Signal::KILL);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remains(cgroup: Option<PathBuf>, task: Option<ProcessRef>) -> Remains {
        Remains::of(&KeeperRecord {
            version: 2,
            binary: String::new(),
            attempt: "f".repeat(32),
            boot_id: String::new(),
            keeper: ProcessRef {
                pid: 1,
                start_time: 1,
            },
            containment: Some(Containment::Cgroup),
            cgroup,
            task,
            about: None,
            sealed: false,
            sealed_with: None,
        })
    }

    #[test]
    fn a_cgroup_that_cannot_be_opened_is_not_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leaf");
        assert!(remains(Some(path.clone()), None).are_gone(false).unwrap());
        // A loop of links stands for whatever keeps anybody from opening it.
        std::os::unix::fs::symlink(&path, &path).unwrap();
        let remains = remains(Some(path), None);
        remains.kill(false);
        assert!(remains.are_gone(false).is_err());
    }

    #[test]
    fn a_cgroup_that_does_not_say_that_it_is_empty_is_not_gone() {
        let dir = tempfile::tempdir().unwrap();
        let events = dir.path().join("cgroup.events");
        let is_gone = |text: &str| {
            std::fs::write(&events, text).unwrap();
            remains(Some(dir.path().to_owned()), None).are_gone(false)
        };
        assert!(!is_gone("populated 1\nfrozen 0\n").unwrap());
        assert!(!is_gone("").unwrap());
        assert!(is_gone("populated 0\nfrozen 0\n").unwrap());
    }

    #[test]
    fn the_first_process_counts_as_long_as_it_is_there() {
        let own = ProcessRef::own().unwrap();
        assert!(!remains(None, Some(own)).are_gone(false).unwrap());
        let unknown = ProcessRef {
            start_time: 0,
            ..own
        };
        assert_eq!(remains(None, Some(unknown)).first, None);
    }
}
