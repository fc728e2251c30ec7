//! The init of a task's own pid namespace: a child of the keeper and the parent of the task's first process.
//!
//! It reaps, says how the first process ended, and passes TERM on. When it ends, for whatever reason, the kernel ends
//! everything in the namespace; it ends with its keeper (PDEATHSIG, and the end of its control socket).

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::DumpableBehavior;

use crate::sys::{self, Fork, Reaped};

const TERMINATE: &[u8] = b"t";

/// Both ends of the socket between keeper and init, non-blocking.
pub(crate) fn control_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// Whether this process may make pid namespaces.
pub(super) fn works() -> bool {
    match sys::fork_into(libc::CLONE_NEWPID) {
        Ok(Fork::Child) => sys::exit_now(0),
        Ok(Fork::Parent(pid)) => {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed());
            pid.is_some_and(|pid| {
                rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).is_ok()
            })
        }
        Err(_) => false,
    }
}

/// Asks init to pass TERM on.
pub(super) fn terminate(control: BorrowedFd<'_>) {
    let _ = rustix::net::send(control, TERMINATE, rustix::net::SendFlags::NOSIGNAL);
}

/// The wait status of the task's first process, once init has said it.
pub(crate) fn first_status(control: BorrowedFd<'_>) -> Option<i32> {
    let mut status = [0; 4];
    match rustix::net::recv(control, &mut status[..], rustix::net::RecvFlags::DONTWAIT) {
        Ok((4, _)) => Some(i32::from_ne_bytes(status)),
        Ok(_) | Err(_) => None,
    }
}

/// Forks init; in the child, `Fork::Child` is returned inside the new namespaces.
pub(crate) fn fork_init() -> io::Result<Fork> {
    let root = rustix::process::geteuid().is_root();
    sys::fork_into(if root {
        libc::CLONE_NEWPID
    } else {
        libc::CLONE_NEWPID | libc::CLONE_NEWUSER
    })
}

/// First thing in init: dies with its keeper, keeps its user and group, sees its own `/proc` where that can be had.
///
/// `ids` are the user and group before the fork; in a new user namespace the kernel no longer tells them.
pub(crate) fn settle(ids: Option<(u32, u32)>) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if let Some((uid, gid)) = ids {
        // A process whose memory is closed to its account owns none of its files in `/proc`.
        let before = rustix::process::dumpable_behavior()?;
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
        rustix::process::set_dumpable_behavior(before)?;
    }
    // Where mounts are forbidden (a container's profile) the task sees the outer /proc, and is contained all the same.
    if sys::unshare(libc::CLONE_NEWNS).is_ok() {
        let _ = sys::mount_own_proc();
    }
    Ok(())
}

/// Runs init until nothing is left below it. `first` is the task's first process in this namespace.
pub(crate) fn run_init(control: &OwnedFd, first: u32) -> ! {
    sys::close_all_but(&[control.as_raw_fd()]);
    let Ok(signals) = sys::child_signals() else {
        sys::exit_now(1);
    };
    loop {
        if !reap_all(control.as_fd(), first) {
            sys::exit_now(0);
        }
        let mut fds = [
            PollFd::new(&signals, PollFlags::IN),
            PollFd::new(control, PollFlags::IN),
        ];
        let _ = rustix::event::poll(&mut fds, None);
        let mut pending = [0; 1024];
        let _ = rustix::io::read(&signals, &mut pending);
        let mut word = [0; 8];
        match rustix::net::recv(control, &mut word[..], rustix::net::RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok((len, _)) if len > 0 => sys::signal_everybody(libc::SIGTERM),
            // The keeper is gone.
            Ok(_) | Err(_) => sys::exit_now(1),
        }
    }
}

/// `false` when no child is left.
fn reap_all(control: BorrowedFd<'_>, first: u32) -> bool {
    loop {
        match sys::reap() {
            Reaped::Nothing => return true,
            Reaped::NoChildren => return false,
            Reaped::Child { pid, status } if pid == first => {
                let _ = rustix::net::send(
                    control,
                    &status.to_ne_bytes(),
                    rustix::net::SendFlags::NOSIGNAL,
                );
            }
            Reaped::Child { .. } => {}
        }
    }
}
