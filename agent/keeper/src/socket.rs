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

/// Listens at `name`, for this account only, non-blocking; an old socket of that name is removed.
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
    peer_may_speak(fd.as_fd()).then(|| Packets::from_fd(fd))
}

/// Whether the process at the other end of a socket is the agent's: of the caller's account or root's, and no part of a
/// task. A task that runs under the agent's own account must steer neither its own keeper nor another part of the
/// agent; who cannot be seen, or is gone, may be one.
#[must_use]
pub fn peer_may_speak(socket: BorrowedFd<'_>) -> bool {
    let Ok(peer) = sys::peer(socket) else {
        return false;
    };
    // Held while looking, so that its id is nobody else's meanwhile. Kernels before 6.5 do not hand it out.
    let process = sys::peer_process(socket);
    let is_a_task = crate::process::is_of_a_task(peer.pid, std::process::id());
    let is_there = process.is_none_or(|process| !has_ended(&process));
    may_speak(peer.uid) && matches!(is_a_task, Ok(false)) && is_there
}

fn has_ended(process: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    poll(&mut fds, Some(&now)) != Ok(0)
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

/// Whether anybody listens at `name` in `dir`; never waits, also for one that is stopped.
pub(crate) fn is_served(dir: &Path, name: &str) -> io::Result<bool> {
    use rustix::io::Errno;
    let dir = open_dir(dir)?;
    let fd = seqpacket(SocketFlags::NONBLOCK)?;
    match rustix::net::connect(&fd, &address(dir.as_fd(), name)?) {
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
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
    fn who_has_ended_is_known_and_may_not_be_who_has_its_number_now() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let flags = rustix::process::PidfdFlags::empty();
        let ended = rustix::process::pidfd_open(pid, flags).unwrap();
        child.wait().unwrap();
        assert!(has_ended(&ended));
        let own = rustix::process::pidfd_open(rustix::process::getpid(), flags).unwrap();
        assert!(!has_ended(&own));
    }

    #[test]
    fn a_path_longer_than_an_address_works() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        let opened = open_dir(&deep).unwrap();
        let listener = listen(opened.as_fd(), "s.sock", 1).unwrap();
        let mode = std::fs::metadata(deep.join("s.sock")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&mode.permissions());
        assert_eq!(mode & 0o077, 0, "its account only");
        let client = connect(&deep, "s.sock").unwrap();
        assert!(accept(listener.as_fd()).is_some());
        assert!(is_served(&deep, "s.sock").unwrap() && !is_served(&deep, "t.sock").unwrap());
        drop(client);
        // A dead socket in the way is replaced. A process that another test forks holds it until it executes something.
        drop(listener);
        while is_served(&deep, "s.sock").unwrap() {
            std::thread::yield_now();
        }
        listen(opened.as_fd(), "s.sock", 1).unwrap();
    }
}
