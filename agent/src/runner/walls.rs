//! What is closed to tasks where they run under the agent's own account, and what is kept as it is: an agent that is not
//! root can run them under no other. As root every task has an account of its own, which is the wall there, and nothing
//! is added.
//!
//! Asked by `tasks` and by `catalogue try`, for each attempt; the keeper makes rules of it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use outpost_agent_keeper::calls_are_filtered;
use outpost_agent_keeper::containment::cgroup_tree;
use outpost_agent_keeper::protocol::{StartSpec, Wall};
use outpost_agent_keeper::wall::Separation;
use outpost_proto::ids::RunId;

use crate::catalogue::{Catalogue, Entry};
use crate::state_dir::StateDir;
use crate::users;

/// What says where files of this account are that something executes or obeys later.
const PLACES: &[&str] = &[
    "HOME",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
];

/// What keeps tasks apart from the agent and from each other here, in words. `calls`: whether system calls are filtered.
pub(crate) fn words(agent_is_root: bool, separation: Separation, calls: bool) -> (bool, String) {
    let besides = if calls {
        ", and by a filter of system calls: named sockets, limits, priorities, kernel objects"
    } else {
        "; named sockets of the account's services are in reach, and other processes' limits, because this kernel filters no system calls"
    };
    match separation {
        _ if agent_is_root => (true, "by account: each task runs as its entry's user; two of one account are not kept apart".to_owned()),
        Separation::Whole(version) => (
            calls,
            format!("by Landlock {version}: files, memory and signals{besides}; tasks and agent share an account"),
        ),
        Separation::NoSignals(version) => (
            false,
            format!("in part, by Landlock {version}: files and memory{besides}; a task can end the agent's processes"),
        ),
        Separation::Missing => (
            false,
            "not at all: tasks and agent share an account, and this kernel has no Landlock in force".to_owned(),
        ),
    }
}

/// As [`words`], of this process on this host.
pub(crate) fn here() -> (bool, String) {
    let is_root = rustix::process::geteuid().is_root();
    words(is_root, Separation::probe(), calls_are_filtered())
}

/// The walls of one agent's tasks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Walls {
    closed: Vec<PathBuf>,
    kept: Vec<PathBuf>,
}

impl Walls {
    /// Around the state directory: keys, journal, ledger, logs and what belongs to other attempts. And what the account
    /// executes or obeys outside of any task stays as it is: its home, its runtime directory, the agent's own program if
    /// it could be replaced; and its cgroups.
    pub(crate) fn new(state: &StateDir) -> Self {
        let mut walls = Self::default();
        walls.close(state.path());
        if !rustix::process::geteuid().is_root() {
            walls.kept = kept();
        }
        walls
    }

    /// Closes a directory or a file besides. One that is not there needs no wall.
    pub(crate) fn close(&mut self, path: &Path) {
        let real = path.canonicalize().ok();
        self.closed
            .extend(real.filter(|real| !self.closed.contains(real)));
    }

    /// Puts the wall into an attempt's spec.
    pub(crate) fn put(
        &self,
        spec: &mut StartSpec,
        state: &StateDir,
        run: RunId,
        catalogue: &Catalogue,
    ) {
        if rustix::process::geteuid().is_root() {
            return;
        }
        let own = spec.make_cwd.then(|| spec.cwd.clone());
        let open = own.into_iter().chain([state.run(run)]);
        spec.wall = Some(self.wall(open.collect(), catalogue));
    }

    fn wall(&self, open: Vec<PathBuf>, catalogue: &Catalogue) -> Wall {
        // What is written there the agent executes, outside of any wall.
        let sources = catalogue.secrets().file().canonicalize().ok();
        let read_only = std::iter::once(catalogue.dir().to_owned()).chain(sources);
        Wall {
            closed: self.closed.clone(),
            read_only: read_only.collect(),
            open,
            kept: self.kept.clone(),
            unix_sockets: false,
            ipc: false,
        }
    }
}

/// Opens what an entry declares, once all that is closed is known.
///
/// # Errors
/// A sentence when it declares what is not there, or what the agent itself is made of.
pub(super) fn open_declared(spec: &mut StartSpec, entry: &Entry) -> Result<(), String> {
    let Some(wall) = &mut spec.wall else {
        return Ok(());
    };
    wall.unix_sockets = entry.unix_sockets;
    wall.ipc = entry.ipc;
    for path in &entry.writes {
        let real = path.canonicalize();
        let real = real.map_err(|why| format!("`writes` names {}: {why}", path.display()))?;
        if let Some(own) = agents_own(wall, &real) {
            return Err(format!(
                "`writes` names {}, and {} is closed to tasks: name what the task needs and no more",
                path.display(),
                own.display()
            ));
        }
        wall.open.push(real);
    }
    // Declared too, if it is a place for this and not the home itself.
    let workdir = entry
        .workdir
        .as_ref()
        .and_then(|dir| dir.canonicalize().ok());
    let workdir = workdir.filter(|dir| {
        let is_within = |kept: &PathBuf| dir.starts_with(kept) && dir != kept;
        let holds = |kept: &PathBuf| kept.starts_with(dir);
        wall.kept.iter().any(is_within)
            && !wall.kept.iter().any(holds)
            && agents_own(wall, dir).is_none()
    });
    wall.open.extend(workdir);
    Ok(())
}

/// What the agent is made of that this place is in, or that is in it.
fn agents_own<'a>(wall: &'a Wall, place: &Path) -> Option<&'a Path> {
    let mut own = wall.closed.iter().chain(&wall.read_only);
    own.find(|own| own.starts_with(place) || place.starts_with(own))
        .map(PathBuf::as_path)
}

/// What tasks of this account can read and not change.
fn kept() -> Vec<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let said = PLACES
        .iter()
        .filter_map(std::env::var_os)
        .map(PathBuf::from);
    let runtime = PathBuf::from(format!("/run/user/{uid}"));
    let places = said.chain(users::home_of(uid)).chain([runtime]);
    let mut kept = Vec::new();
    for place in places.chain(cgroup_tree()) {
        let real = place.canonicalize();
        let real = real
            .ok()
            .filter(|real| is_place(real) && !kept.contains(real));
        kept.extend(real);
    }
    kept.extend(program());
    kept
}

/// A directory that everybody uses is nobody's home, whatever is said.
fn is_place(real: &Path) -> bool {
    const STICKY: u32 = 0o1000;
    real.parent().is_some()
        && real
            .metadata()
            .is_ok_and(|meta| meta.is_dir() && meta.mode() & STICKY == 0)
}

/// The agent's program, if this account could put another one in its place. What lies beside it is not kept.
fn program() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?.canonicalize().ok()?;
    let dir = program.parent().filter(|dir| is_place(dir))?;
    let own = rustix::process::geteuid().as_raw();
    let is_own = |path: &Path| path.metadata().is_ok_and(|meta| meta.uid() == own);
    let writes = rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok();
    (is_own(&program) || is_own(dir) || writes).then_some(program)
}

#[cfg(test)]
#[path = "walls_tests.rs"]
mod tests;
