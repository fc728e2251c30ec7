//! The directories that a keeper makes: the attempt's own, and the task's working directory where the site names none.
//!
//! A working directory that a task left empty becomes that of the next task of the same account under a new name: making
//! and deleting thousands of directories a minute is what file systems are slowest at. Until there is a next task it lies
//! under a name of the keeper's, so that nobody takes it for what is left of the last one.

use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use crate::process::ProcessRef;
use crate::protocol::StartSpec;
use crate::record::SPARE;

/// Makes an attempt's directory, or opens the one that is there; whether it was made now.
pub(super) fn make_attempt(dir: &Path) -> io::Result<(OwnedFd, bool)> {
    let is_new = make(dir)?;
    Ok((crate::socket::open_dir(dir)?, is_new))
}

fn make(dir: &Path) -> io::Result<bool> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// The account of a task, if it is another than the agent's own.
type Owner = Option<(u32, u32)>;

/// The working directory of the present task, and what is known of the last one's.
#[derive(Debug, Default)]
pub(super) struct Workdir {
    /// The directory that holds them, looked at and open.
    root: Option<Root>,
    /// Where it is, and whose.
    last: Option<(PathBuf, Owner)>,
    /// Whether that was left empty, and is as a new one.
    is_ready: bool,
}

impl Workdir {
    /// Makes the working directory that a spec asks for, and opens it: who enters it so enters what was made here,
    /// whatever its name means by then. `None` where the site names one. Never follows a link.
    pub(super) fn make(&mut self, spec: &StartSpec) -> io::Result<Option<OwnedFd>> {
        if !spec.make_cwd {
            return Ok(None);
        }
        self.look();
        let root = Root::of(&mut self.root, &spec.cwd)?;
        let name = name_of(&spec.cwd)?;
        let owner = spec.user.as_ref().map(|user| (user.uid, user.gid));
        let last = self.last.replace((spec.cwd.clone(), owner));
        let is_ready = std::mem::take(&mut self.is_ready);
        if let Some((last, of)) = last
            && is_ready
            && of == owner
            && rustix::fs::renameat(CWD, &last, &root.dir, name).is_ok()
        {
            return root.open(name).map(Some);
        }
        match rustix::fs::mkdirat(&root.dir, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let opened = root.open(name)?;
        if let Some(user) = &spec.user {
            rustix::fs::fchown(
                &opened,
                Some(Uid::from_raw(user.uid)),
                Some(Gid::from_raw(user.gid)),
            )?;
        }
        rustix::fs::fchmod(&opened, Mode::RWXU)?;
        Ok(Some(opened))
    }

    /// Looks whether the last task's can be used again. Its tree is gone.
    fn look(&mut self) {
        if !self.is_ready {
            let last = self.last.as_ref();
            self.is_ready = last.is_some_and(|(last, _)| make_ready(last));
        }
    }

    /// Keeps the last task's for the next one, if that can use it.
    pub(super) fn set_aside(&mut self, keeper: ProcessRef) {
        self.look();
        if let Some((last, _)) = &mut self.last
            && self.is_ready
        {
            let aside = spare_beside(last, keeper);
            if rustix::fs::rename(&*last, &aside).is_ok() {
                *last = aside;
            }
        }
    }

    /// Takes away what was set aside. Whatever else there is is the runner's to take away.
    pub(super) fn remove(&mut self) {
        if let Some((last, _)) = self.last.take()
            && self.is_ready
        {
            let _ = std::fs::remove_dir(last);
        }
    }
}

/// A directory of the agent's own, in which nobody else can exchange anything.
#[derive(Debug)]
struct Root {
    path: PathBuf,
    dir: OwnedFd,
}

impl Root {
    /// The directory that holds `cwd`: the one of the last time, if it is the same.
    fn of<'a>(last: &'a mut Option<Self>, cwd: &Path) -> io::Result<&'a Self> {
        let path = cwd.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let kept = last.take().filter(|last| last.path == path);
        let root = kept.map_or_else(|| Self::open_at(path), Ok)?;
        Ok(last.insert(root))
    }

    fn open_at(path: &Path) -> io::Result<Self> {
        let dir = open(path)?;
        let stat = rustix::fs::fstat(&dir)?;
        let is_own = stat.st_uid == rustix::process::geteuid().as_raw();
        if !is_own || Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH) {
            let text = format!(
                "`{}` is not the agent's own directory, or others can write to it",
                path.display()
            );
            return Err(io::Error::other(text));
        }
        let path = path.to_owned();
        Ok(Self { path, dir })
    }

    /// Opens a directory in it, which no name, link or mount leads out of it.
    fn open(&self, name: &OsStr) -> io::Result<OwnedFd> {
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        match rustix::fs::openat2(&self.dir, name, DIRECTORY, Mode::empty(), within) {
            // A kernel before 5.6, or a container's profile that does not know the call: one name, no link.
            Err(Errno::NOSYS | Errno::PERM) => Ok(rustix::fs::openat(
                &self.dir,
                name,
                DIRECTORY,
                Mode::empty(),
            )?),
            opened => Ok(opened?),
        }
    }
}

fn name_of(path: &Path) -> io::Result<&OsStr> {
    path.file_name()
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// The name of what a keeper has for an attempt to come, beside that of an attempt. It has the keeper's start time in
/// it, because another pid namespace may have the same ids.
pub(super) fn spare_beside(path: &Path, keeper: ProcessRef) -> PathBuf {
    path.with_file_name(format!("{SPARE}{}.{}", keeper.pid, keeper.start_time))
}

const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::RDONLY)
    .union(OFlags::CLOEXEC);

fn open(dir: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(dir, DIRECTORY, Mode::empty())?)
}

/// Makes an empty directory as a new one is; `false` when it is not empty, or not there any more.
fn make_ready(dir: &Path) -> bool {
    open(dir).is_ok_and(|opened| {
        is_empty(opened.as_fd()) && rustix::fs::fchmod(&opened, Mode::RWXU).is_ok()
    })
}

fn is_empty(dir: BorrowedFd<'_>) -> bool {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 512];
    let mut entries = rustix::fs::RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let is_name = entry.map(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."));
        if !matches!(is_name, Ok(false)) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    /// Whatever mask this account makes its directories with.
    fn own_dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
        dir
    }

    fn left(dir: &Path) -> (Workdir, PathBuf) {
        let last = dir.join("last");
        make(&last).unwrap();
        let workdir = Workdir {
            last: Some((last.clone(), None)),
            ..Workdir::default()
        };
        (workdir, last)
    }

    #[test]
    fn what_is_set_aside_is_no_tasks_and_goes_with_its_keeper() {
        let dir = tempfile::tempdir().unwrap();
        let own = ProcessRef::own().unwrap();
        let (mut workdir, last) = left(dir.path());
        workdir.set_aside(own);
        let aside = spare_beside(&last, own);
        assert!(aside.is_dir() && !last.exists());
        workdir.remove();
        assert!(!aside.exists());
        // What a task left something in stays where it is.
        let (mut workdir, last) = left(dir.path());
        std::fs::write(last.join("left"), "").unwrap();
        workdir.set_aside(own);
        workdir.remove();
        assert!(last.join("left").exists() && !aside.exists());
    }

    #[test]
    fn k11_only_a_directory_of_the_agents_own_is_gone_into_and_nothing_leads_out_of_it() {
        let dir = own_dir();
        let path = |name: &str| dir.path().join(name);
        make(&path("a")).unwrap();
        std::os::unix::fs::symlink(path("a"), path("link")).unwrap();
        let root = Root::open_at(dir.path()).unwrap();
        assert!(root.open(OsStr::new("a")).is_ok());
        make(&path("a/inner")).unwrap();
        std::os::unix::fs::symlink("a", path("beside")).unwrap();
        for name in ["link", "..", "a/../..", "never", "beside", "beside/inner"] {
            assert!(root.open(OsStr::new(name)).is_err(), "{name}");
        }
        // Nor what somebody has mounted there.
        let above = Root {
            path: PathBuf::from("/"),
            dir: open(Path::new("/")).unwrap(),
        };
        assert!(above.open(OsStr::new("proc")).is_err());
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(path("a"), Some(61_713), None).unwrap();
            assert!(Root::open_at(&path("a")).is_err(), "somebody else's");
        }
        for mode in [0o720, 0o702, 0o777] {
            std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(mode)).unwrap();
            assert!(Root::open_at(dir.path()).is_err(), "{mode:o}");
        }
    }

    #[test]
    fn k16_a_directory_of_one_account_is_not_used_again_for_another() {
        let dir = own_dir();
        let (mut workdir, last) = left(dir.path());
        let own = rustix::process::geteuid().as_raw();
        let group = rustix::process::getegid().as_raw();
        let spec = serde_json::json!({
            "attempt": "0".repeat(32), "dir": "/", "argv": ["/bin/true"], "env": [],
            "cwd": dir.path().join("next"), "make_cwd": true,
            "user": { "uid": own, "gid": group, "groups": [] },
            "grace_ms": 1, "lease_until_boot_us": 1, "log_max_bytes": 1, "log_files": 1, "umask": 0
        });
        let mut spec: StartSpec = serde_json::from_value(spec).unwrap();
        // The last one's was of the agent's own account, unnamed.
        workdir.make(&spec).unwrap().unwrap();
        assert!(last.is_dir() && dir.path().join("next").is_dir());
        // Of the same account it is.
        let next = spec.cwd.clone();
        spec.cwd = dir.path().join("third");
        workdir.make(&spec).unwrap().unwrap();
        assert!(!next.exists() && spec.cwd.is_dir());
    }

    #[test]
    fn only_an_empty_directory_is_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        make(&path("a")).unwrap();
        std::fs::set_permissions(path("a"), PermissionsExt::from_mode(0o500)).unwrap();
        assert!(make_ready(&path("a")));
        assert_eq!(path("a").metadata().unwrap().mode() & 0o777, 0o700);
        std::os::unix::fs::symlink(path("a"), path("link")).unwrap();
        assert!(!make_ready(&path("link")) && !make_ready(&path("never")));
        std::fs::write(path("a").join("left"), "").unwrap();
        assert!(!make_ready(&path("a")));
    }
}
