//! The delegated cgroup v2 tree: `<own cgroup>/outpost-<hash of the state directory>/{keepers,tasks/<keeper>}`.
//!
//! Spawner and keepers live in `keepers`, each task alone in its keeper's leaf, and nothing in the nodes between,
//! because a node that hands controllers down may hold no process. A leaf in which nothing is left serves its keeper's
//! next task: making one is among the dearest steps of a start. Needs `cgroup.kill` (Linux 5.14).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::process::ProcessRef;

/// The agent's part of the tree.
#[derive(Debug)]
pub(super) struct Base {
    dir: PathBuf,
}

impl Base {
    /// Makes the part for this state directory; `None` when the caller's cgroup is not delegated to it.
    pub(super) fn find(state_dir: &Path) -> Option<Self> {
        let own = own_cgroup()?;
        let state = fs::canonicalize(state_dir).unwrap_or_else(|_| state_dir.to_owned());
        // Two directories with one hash would share the nodes, which harms neither: leaves are named by attempt.
        let name = format!(
            "outpost-{:08x}",
            crc32fast::hash(state.as_os_str().as_bytes())
        );
        let base = Self {
            dir: own.join(name),
        };
        let made = base.make().and_then(|()| base.try_out());
        if made.is_err() {
            base.remove_nodes();
        }
        made.ok().map(|()| base)
    }

    fn make(&self) -> io::Result<()> {
        for dir in [self.dir.clone(), self.keepers(), self.tasks()] {
            make_dir(&dir)?;
        }
        Ok(())
    }

    /// Whether a leaf can be made, written to and killed.
    fn try_out(&self) -> io::Result<()> {
        let leaf = self.leaf_of(&format!("probe-{}", std::process::id()))?;
        let usable = OpenOptions::new()
            .write(true)
            .open(leaf.path.join("cgroup.kill"))
            .map(drop);
        leaf.remove();
        OpenOptions::new()
            .write(true)
            .open(self.keepers().join("cgroup.procs"))?;
        usable
    }

    fn keepers(&self) -> PathBuf {
        self.dir.join("keepers")
    }

    fn tasks(&self) -> PathBuf {
        self.dir.join("tasks")
    }

    pub(super) fn enter_keepers(&self) -> io::Result<()> {
        fs::write(self.keepers().join("cgroup.procs"), "0")
    }

    /// Goes back to where the caller came from and removes the nodes, if they are empty.
    pub(super) fn leave(&self) -> bool {
        if let Some(parent) = self.dir.parent() {
            let _ = fs::write(parent.join("cgroup.procs"), "0");
        }
        self.remove_nodes();
        !self.dir.exists()
    }

    fn remove_nodes(&self) {
        for dir in [self.keepers(), self.tasks(), self.dir.clone()] {
            let _ = fs::remove_dir(dir);
        }
    }

    /// The leaf of a keeper: no two of one boot have the same name.
    pub(super) fn leaf(&self, keeper: ProcessRef) -> io::Result<Leaf> {
        self.leaf_of(&name_of(keeper))
    }

    fn leaf_of(&self, name: &str) -> io::Result<Leaf> {
        let path = self.tasks().join(name);
        make_dir(&path)?;
        Leaf::open(&path)
    }

    /// Takes away what an ended keeper left, if nothing is in it.
    pub(super) fn remove_leaf(&self, keeper: ProcessRef) {
        let _ = fs::remove_dir(self.tasks().join(name_of(keeper)));
    }
}

fn name_of(keeper: ProcessRef) -> String {
    format!("{}-{}", keeper.pid, keeper.start_time)
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Where the caller's cgroup v2 node is mounted.
fn own_cgroup() -> Option<PathBuf> {
    let (mount, root) = mount_point(&fs::read_to_string("/proc/self/mountinfo").ok()?)?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    if path.split('/').any(|part| part == "..") {
        return None;
    }
    let below = Path::new(path).strip_prefix(root).ok()?;
    let dir = mount.join(below);
    dir.join("cgroup.procs").exists().then_some(dir)
}

/// Where the cgroup v2 tree is mounted that tasks can be put into, if it is.
#[must_use]
pub fn tree() -> Option<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mount_point(&mountinfo).map(|(mount, _)| mount)
}

/// The first cgroup2 mount: where it is, and which node of the tree is mounted there.
fn mount_point(mountinfo: &str) -> Option<(PathBuf, PathBuf)> {
    mountinfo.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        if kind.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = fields.split(' ').skip(3);
        let root = fields.next()?;
        Some((PathBuf::from(fields.next()?), PathBuf::from(root)))
    })
}

/// One task's cgroup.
#[derive(Debug)]
pub(crate) struct Leaf {
    path: PathBuf,
    dir: OwnedFd,
    events: File,
    /// Absent without the memory controller.
    memory: Option<File>,
}

impl Leaf {
    /// An existing one.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let memory = match File::open(path.join("memory.events")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            opened => Some(opened?),
        };
        Ok(Self {
            path: path.to_owned(),
            dir: crate::socket::open_dir(path)?,
            events: File::open(path.join("cgroup.events"))?,
            memory,
        })
    }

    /// One that may have been removed: `None` only when it surely was.
    pub(super) fn find(path: &Path) -> io::Result<Option<Self>> {
        match Self::open(path) {
            Ok(leaf) => Ok(Some(leaf)),
            Err(error) if says_removed(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// For a child that is born in it.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Where a process writes `0` to enter: opened by the keeper, used by the task's child, which may be less able.
    pub(crate) fn door(&self) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .open(self.path.join("cgroup.procs"))
    }

    /// The same leaf for another task, if this one left no trace in it; otherwise it is removed.
    pub(crate) fn for_another(self) -> Option<Self> {
        let no_children = rustix::fs::fstat(&self.dir).is_ok_and(|stat| stat.st_nlink == 2);
        let is_empty = matches!(self.is_populated(), Ok(false));
        if no_children && is_empty && !self.ran_out_of_memory() {
            return Some(self);
        }
        self.remove();
        None
    }

    pub(super) fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    pub(super) fn kill(&self) {
        // Gone means ended already.
        let _ = OpenOptions::new()
            .write(true)
            .open(self.path.join("cgroup.kill"))
            .and_then(|mut file| file.write_all(b"1"));
    }

    /// To every process in the leaf and in cgroups that the task made below it.
    pub(super) fn signal(&self, signal: Signal) {
        signal_in(&self.path, signal, 0);
    }

    /// Whether a process is in it or in cgroups below it. Reading also re-arms the readiness of `events`.
    ///
    /// # Errors
    /// When it cannot be read now.
    pub(super) fn is_populated(&self) -> io::Result<bool> {
        let mut buffer = [0; 256];
        match read_once(&self.events, &mut buffer) {
            Ok(text) => Ok(!text.lines().any(|line| line == "populated 0")),
            // One that was removed has no process.
            Err(error) if says_removed(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn ran_out_of_memory(&self) -> bool {
        let mut buffer = [0; 1024];
        let events = self
            .memory
            .as_ref()
            .and_then(|file| read_once(file, &mut buffer).ok())
            .unwrap_or_default();
        let kills = events
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "));
        kills.is_some_and(|count| count.trim() != "0")
    }

    pub(crate) fn remove(self) {
        remove_with_children(&self.path, 0);
    }
}

/// The kernel's files of counters are shorter than any buffer here and are read whole.
fn read_once<'a>(file: &File, buffer: &'a mut [u8]) -> io::Result<&'a str> {
    let len = file.read_at(buffer, 0)?;
    std::str::from_utf8(buffer.get(..len).unwrap_or_default()).map_err(io::Error::other)
}

/// What the kernel answers of a cgroup that was removed, by its path and by what was opened before.
fn says_removed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// Deeper than any task needs; bounds the walk through what a task made.
const MAX_DEPTH: u32 = 32;

fn children(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    let dirs = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.path()).collect()
}

fn signal_in(path: &Path, signal: Signal, depth: u32) {
    let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    for process in procs
        .lines()
        .filter_map(|pid| ProcessRef::of(pid.parse().ok()?))
    {
        process.signal(signal);
    }
    if depth < MAX_DEPTH {
        for child in children(path) {
            signal_in(&child, signal, depth + 1);
        }
    }
}

fn remove_with_children(path: &Path, depth: u32) {
    if depth < MAX_DEPTH {
        for child in children(path) {
            remove_with_children(&child, depth + 1);
        }
    }
    let _ = fs::remove_dir(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v2_mount_is_found_beside_v1() {
        let text = "\
30 25 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
32 30 0:28 /docker/ab /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
";
        let expected = (
            PathBuf::from("/sys/fs/cgroup/unified"),
            PathBuf::from("/docker/ab"),
        );
        assert_eq!(mount_point(text), Some(expected));
        assert_eq!(
            mount_point("30 25 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro"),
            None
        );
    }
}
