//! Opening what tasks can change: no link that a task has put on the way is followed, at the end of a path or before.
//!
//! Paths are those of the state directory, which is opened by its real name: a link on one of them is somebody's doing.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, unlinkat};
use rustix::io::Errno;
use rustix::path::Arg;

/// Opens an existing file or directory.
///
/// # Errors
/// What the file system says; `ELOOP` of a link.
pub(super) fn open(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let no_links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(CWD, path, flags, Mode::empty(), no_links) {
        // A kernel before 5.6, or a container's profile that does not know the call: the last link is seen.
        Err(Errno::NOSYS | Errno::PERM) => open_seeing_the_last(path, flags),
        opened => Ok(opened?),
    }
}

fn open_seeing_the_last(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Opens a directory.
///
/// # Errors
/// As [`open`]; `ENOTDIR` of anything else.
pub(super) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// How often a directory is looked at again that something is still being made in.
const AGAIN: usize = 16;

/// Removes a directory and all below it, however deep that is: what lies in a directory is brought up beside the first
/// one before that goes, so that few descriptors and no stack are needed. The first one goes last: as long as it is there,
/// something of it is. No link is followed, and what a task took away from itself is given back.
///
/// # Errors
/// What the file system says.
pub(super) fn raze(path: &Path) -> io::Result<()> {
    let (Some(above), Some(base)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let above = open_dir(above)?;
    let mut raised = Raised {
        base: base.to_owned(),
        count: 0,
        left: Vec::new(),
    };
    let mut again = AGAIN;
    loop {
        let emptied = empty(&above, base, &mut raised);
        while let Some(name) = raised.left.pop() {
            let gone = empty(&above, &name, &mut raised);
            match gone.and_then(|()| unlinkat(&above, &name, AtFlags::REMOVEDIR)) {
                Err(Errno::NOTEMPTY | Errno::EXIST) if again > 0 => {
                    again -= 1;
                    raised.left.push(name);
                }
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        match emptied.and_then(|()| unlinkat(&above, base, AtFlags::REMOVEDIR)) {
            Err(Errno::NOTEMPTY | Errno::EXIST) if again > 0 => again -= 1,
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Directories that were brought up and are still to be removed.
struct Raised {
    base: OsString,
    count: u64,
    left: Vec<OsString>,
}

impl Raised {
    fn name(&mut self) -> OsString {
        self.count += 1;
        let mut name = self.base.clone();
        name.push(format!("~{}.{}", std::process::id(), self.count));
        name
    }
}

/// Leaves nothing in a directory. One that is gone, or was exchanged for something else meanwhile that goes here, is told by
/// `NOENT`.
fn empty(above: &OwnedFd, name: &OsStr, raised: &mut Raised) -> Result<(), Errno> {
    let dir = match enter(above, name) {
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return unlinkat(above, name, AtFlags::empty()).and(Err(Errno::NOENT));
        }
        entered => entered?,
    };
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let inner = entry.file_name();
        if matches!(inner.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(&dir, inner, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
        match unlinkat(&dir, inner, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ACCESS) => {}
            Err(errno) => return Err(errno),
        }
        // A directory that moves is written to: an ordinary account must be allowed to.
        drop(enter(&dir, inner));
        let up = raised.name();
        rustix::fs::renameat(&dir, inner, above, &up)?;
        raised.left.push(up);
    }
    Ok(())
}

/// Opens a directory, also one that a task took its permissions from.
fn enter(at: &OwnedFd, name: impl Arg) -> Result<OwnedFd, Errno> {
    use std::os::fd::AsRawFd;
    // One without permissions can only be named.
    let named = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let named = rustix::fs::openat(at, name, named, Mode::empty())?;
    let itself = format!("/proc/self/fd/{}", named.as_raw_fd());
    // Of somebody else it fails, and need not be.
    let _ = rustix::fs::chmod(&itself, Mode::RWXU);
    rustix::fs::open(&itself, DIRECTORY, Mode::empty())
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn k11_a_link_anywhere_on_the_way_is_refused() {
        let dir = crate::testing::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("real/out")).unwrap();
        std::fs::write(root.join("real/out/file"), "").unwrap();
        symlink("real", root.join("link")).unwrap();
        symlink("file", root.join("real/out/link")).unwrap();
        for good in ["real/out/file", "real/../real/out/file"] {
            assert!(open(&root.join(good), OFlags::RDONLY).is_ok(), "{good}");
        }
        for bad in ["link/out/file", "real/out/link", "link"] {
            let error = open(&root.join(bad), OFlags::RDONLY).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ELOOP), "{bad}");
        }
        assert!(open_dir(&root.join("real/out/file")).is_err());
        // Where the kernel cannot do that the last one is seen.
        let last = |path: &str| open_seeing_the_last(&root.join(path), OFlags::RDONLY);
        assert!(last("real/out/file").is_ok());
        assert!(last("real/out/link").is_err() && last("link").is_err());
    }

    #[test]
    fn k11_a_link_in_a_directorys_place_is_neither_entered_nor_changed() {
        let dir = crate::testing::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let real = root.join("real");
        std::fs::create_dir(&real).unwrap();
        std::fs::set_permissions(&real, Permissions::from_mode(0o555)).unwrap();
        symlink("real", root.join("link")).unwrap();
        let at = open_dir(&root).unwrap();
        let errno = enter(&at, "link").unwrap_err();
        assert!(matches!(errno, Errno::NOTDIR | Errno::LOOP), "{errno}");
        assert_eq!(real.metadata().unwrap().mode() & 0o777, 0o555);
        assert!(enter(&at, "real").is_ok());
        assert_eq!(real.metadata().unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn k11_a_tree_of_any_depth_goes_and_nothing_stays_beside_it() {
        let dir = crate::testing::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap().join("a");
        std::fs::create_dir(&root).unwrap();
        let mut at = open_dir(&root).unwrap();
        for _ in 0..20_000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&at, "e", Mode::empty()).unwrap();
            at = rustix::fs::openat(&at, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        drop(at);
        raze(&root).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn as_long_as_anything_of_a_directory_is_there_it_is_there_itself() {
        let dir = crate::testing::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/d")).unwrap();
        std::fs::write(root.join("a/d/f"), "").unwrap();
        let mut raised = Raised {
            base: "a".into(),
            count: 0,
            left: Vec::new(),
        };
        empty(&open_dir(&root).unwrap(), "a".as_ref(), &mut raised).unwrap();
        assert_eq!(std::fs::read_dir(root.join("a")).unwrap().count(), 0);
        assert!(root.join(&raised.left[0]).join("f").exists());
        raze(&root.join("a")).unwrap();
        assert!(!root.join("a").exists());
    }

    /// Directories and links to elsewhere take each other's places while the agent clears up: what it changes and
    /// removes stays below the directory that it was given.
    #[test]
    fn k11_clearing_up_never_leaves_the_directory_while_everything_in_it_is_exchanged() {
        let outside = crate::testing::tempdir().unwrap();
        let precious = outside.path().join("d/precious");
        std::fs::create_dir_all(precious.parent().unwrap()).unwrap();
        std::fs::write(&precious, "x").unwrap();
        let guarded = [outside.path().to_owned(), outside.path().join("d")];
        for path in &guarded {
            std::fs::set_permissions(path, Permissions::from_mode(0o750)).unwrap();
        }
        let dir = crate::testing::tempdir().unwrap();
        let work = dir.path().canonicalize().unwrap().join("work");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let (at, aside) = (work.join("a"), work.join("aside"));
                    let _ = std::fs::create_dir_all(at.join("d"));
                    let _ = std::fs::write(at.join("d/f"), "");
                    let _ = std::fs::rename(&at, &aside);
                    let _ = symlink(outside.path(), &at);
                    let _ = std::fs::remove_file(&at);
                    let _ = std::fs::remove_dir_all(&aside);
                }
            });
            let until = std::time::Instant::now() + std::time::Duration::from_millis(600);
            while std::time::Instant::now() < until {
                let _ = super::super::retention::remove(&work);
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "x");
        for path in &guarded {
            assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o750, "{path:?}");
        }
    }
}
