//! Unix sockets at a directory and a name, whatever the length of the path, and who is at the other end.
//!
//! Used by spawner and keeper to listen and by the runner's side to connect.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::packets::Packets;
use crate::sys;

/// Opens a directory for use as the place of further files.
pub(crate) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY,
        Mode::empty(),
    )?)
}

/// A socket address holds 108 bytes; the way through the open directory is always short enough.
fn address(dir: BorrowedFd<'_>, name: &str) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(format!(
        "/proc/self/fd/{}/{name}",
        dir.as_raw_fd()
    ))?)
}

fn seqpacket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// Listens at `name`, mode 0600, non-blocking; an old socket of that name is removed.
pub(crate) fn listen(dir: BorrowedFd<'_>, name: &str, backlog: i32) -> io::Result<OwnedFd> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let listener = seqpacket(SocketFlags::NONBLOCK)?;
    // The mask is the process's: callers are single-threaded.
    let old = rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let bound = address(dir, name).and_then(|address| Ok(rustix::net::bind(&listener, &address)?));
    rustix::process::umask(old);
    bound?;
    rustix::net::listen(&listener, backlog)?;
    Ok(listener)
}

/// Accepts one connection of a peer that may speak: the same user or root, and nothing below this process.
///
/// `None`: nobody was waiting, or who was has been turned away.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> Option<Packets> {
    let fd =
        rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()?;
    let peer = sys::peer(fd.as_fd()).ok()?;
    // A task that runs as the agent's own user must not steer its keeper; who cannot be seen, or is gone, may be one.
    let from_elsewhere = matches!(
        crate::process::is_below(peer.pid, std::process::id()),
        Ok(false)
    );
    (may_speak(peer.uid) && from_elsewhere).then(|| Packets::from_fd(fd))
}

fn may_speak(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Connects to the socket `name` in `dir`; refuses one that belongs to somebody else.
pub(crate) fn connect(dir: &Path, name: &str) -> io::Result<Packets> {
    let dir = open_dir(dir)?;
    let fd = seqpacket(SocketFlags::empty())?;
    rustix::net::connect(&fd, &address(dir.as_fd(), name)?)?;
    let peer = sys::peer(fd.as_fd())?;
    if !may_speak(peer.uid) {
        let text = format!(
            "`{name}` is served by user {}, not by the agent's own",
            peer.uid
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(Packets::from_fd(fd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_own_user_may_speak() {
        let own = rustix::process::geteuid().as_raw();
        assert!(may_speak(0) && may_speak(own));
        assert!(!may_speak(own + 1));
    }

    #[test]
    fn a_path_longer_than_an_address_works() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        let opened = open_dir(&deep).unwrap();
        let listener = listen(opened.as_fd(), "s.sock", 1).unwrap();
        let client = connect(&deep, "s.sock").unwrap();
        assert!(accept(listener.as_fd()).is_some());
        drop(client);
        // A dead socket in the way is replaced.
        drop(listener);
        listen(opened.as_fd(), "s.sock", 1).unwrap();
    }
}
