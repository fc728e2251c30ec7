//! The few system calls that no safe interface offers: fork, signal dispositions, descriptors wholesale.
//!
//! Called by spawner and keeper, which are single-threaded by construction: that is what makes a plain fork safe here.
#![expect(unsafe_code, reason = "process code: fork, clone, signals")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::protocol::Ended;

pub(crate) mod child;
pub mod memory;

/// What keepers ignore: a terminal's and a shutdown's signals, and writes to closed sockets. A task gets them back.
pub(crate) const IGNORED: [libc::c_int; 5] = [
    libc::SIGPIPE,
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGQUIT,
];

/// Which side of a fork this is.
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The old one; holds the new one's id.
    Parent(u32),
}

/// What waiting found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaped {
    /// There are children, none of them has ended.
    Nothing,
    /// There are no children at all.
    NoChildren,
    /// This child has ended; `status` as the kernel encodes it.
    Child { pid: u32, status: i32 },
}

fn forked(result: libc::c_long) -> io::Result<Fork> {
    match result {
        0 => Ok(Fork::Child),
        pid if pid > 0 => Ok(Fork::Parent(u32::try_from(pid).unwrap_or(0))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Forks. The caller must be single-threaded, and the child must leave through `exit_now`.
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: a single-threaded process may fork and go on as it likes.
    forked(libc::c_long::from(unsafe { libc::fork() }))
}

/// Forks into new namespaces (`CLONE_NEW…` flags). Same contract as `fork`.
pub(crate) fn fork_into(flags: libc::c_int) -> io::Result<Fork> {
    let flags = libc::c_long::from(flags | libc::SIGCHLD);
    // SAFETY: with a null stack and no sharing flags this is fork; the caller is single-threaded.
    forked(unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) })
}

/// Moves this process into new namespaces.
pub(crate) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::unshare(flags) })
}

/// Makes all mounts private and mounts a `/proc` of this pid namespace.
pub(crate) fn mount_own_proc() -> io::Result<()> {
    let (root, proc) = (c"/".as_ptr(), c"/proc".as_ptr());
    let null = std::ptr::null();
    // SAFETY: all pointers are null or to static strings.
    check(unsafe {
        libc::mount(
            null,
            root,
            null,
            libc::MS_REC | libc::MS_PRIVATE,
            std::ptr::null(),
        )
    })?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: as above.
    check(unsafe {
        libc::mount(
            c"proc".as_ptr(),
            proc,
            c"proc".as_ptr(),
            flags,
            std::ptr::null(),
        )
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Ends this process without running destructors: what a forked child inherited is not its to clean up.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns, touches no memory.
    unsafe { libc::_exit(code) }
}

/// Waits for any child without blocking.
pub(crate) fn reap() -> Reaped {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
        0 => Reaped::Nothing,
        pid if pid > 0 => Reaped::Child {
            pid: u32::try_from(pid).unwrap_or(0),
            status,
        },
        _ => Reaped::NoChildren,
    }
}

/// Waits for a child that has ended or is about to.
pub(crate) fn wait_for(pid: u32) {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    unsafe { libc::waitpid(pid.cast_signed(), &raw mut status, 0) };
}

/// Decodes a wait status.
pub(crate) fn ended(status: i32) -> Ended {
    if libc::WIFSIGNALED(status) {
        Ended::Signalled(libc::WTERMSIG(status))
    } else {
        Ended::Exited(u8::try_from(libc::WEXITSTATUS(status) & 0xff).unwrap_or(u8::MAX))
    }
}

/// Blocks SIGCHLD and returns a non-blocking descriptor that is readable when one is pending.
pub(crate) fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: an all-zero set is a valid argument of sigemptyset, and all pointers are to locals.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        check(libc::sigprocmask(
            libc::SIG_BLOCK,
            &raw const set,
            std::ptr::null_mut(),
        ))?;
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(OwnedFd::from_raw_fd(fd))
        }
    }
}

/// Ignores what would end a process that is to stay: a terminal's or a shutdown's signals, writes to closed sockets.
pub(crate) fn ignore(signals: &[libc::c_int]) {
    for signal in signals {
        // SAFETY: SIG_IGN is a valid disposition.
        unsafe { libc::signal(*signal, libc::SIG_IGN) };
    }
}

/// Gives every signal its default disposition, whatever was inherited: what the spawner and so its keepers begin with.
pub(crate) fn default_signals() {
    for signal in 1..=64 {
        set_default(signal);
    }
}

/// What a task starts with: the default for what keepers ignore (a handler ends with exec), and nothing blocked.
pub(crate) fn reset_signals() {
    for signal in IGNORED {
        set_default(signal);
    }
    // SAFETY: an all-zero set is a valid argument of sigemptyset, and all pointers are to locals.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

fn set_default(signal: libc::c_int) {
    // The kernel's own structure, all zero: the default disposition, no flags. The C library's call would leave out
    // the signals that it keeps for itself, and those may be inherited as ignored too.
    let default = [0_u64; 8];
    // SAFETY: the buffer is larger than the kernel's structure; numbers that may not be set are refused.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            libc::c_long::from(signal),
            default.as_ptr(),
            std::ptr::null_mut::<u64>(),
            8_usize,
        )
    };
}

/// Becomes another user for good: groups, then gid, then uid.
pub(crate) fn become_user(user: &crate::protocol::UserIds) -> io::Result<()> {
    // SAFETY: the pointer and the length describe a live slice; single-threaded, so that one call is for the process.
    unsafe {
        check(libc::setgroups(user.groups.len(), user.groups.as_ptr()))?;
        check(libc::setresgid(user.gid, user.gid, user.gid))?;
        check(libc::setresuid(user.uid, user.uid, user.uid))
    }
}

/// The version of Landlock that this kernel has in force; 0: none.
pub(crate) fn landlock_version() -> u32 {
    const VERSION: libc::c_uint = 1;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the call takes no rules and only answers.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    u32::try_from(version).unwrap_or(0)
}

/// Puts Landlock rules in force for this process and all that it starts. Asks for no memory of this process.
pub(crate) fn restrict_self(rules: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is involved.
    let result =
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0_u32) };
    check(libc::c_int::try_from(result).unwrap_or(-1))
}

/// Whether this kernel filters system calls, and can end a process by it.
pub(crate) fn knows_filters() -> bool {
    let action = libc::SECCOMP_RET_KILL_PROCESS;
    // SAFETY: the call reads one number and changes nothing.
    let known = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0_u32,
            &raw const action,
        )
    };
    known == 0
}

/// Puts a filter of system calls in force for this process and all that it starts. Asks for no memory of this process.
pub(crate) fn filter_calls(steps: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: libc::c_ushort::try_from(steps.len()).unwrap_or(0),
        filter: steps.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads the steps during the call and writes nowhere.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0_u32,
            &raw const program,
        )
    };
    check(libc::c_int::try_from(result).unwrap_or(-1))
}

/// Executes a program; returns only with the error. Both lists must end with a null pointer.
pub(crate) fn execve(
    program: &std::ffi::CStr,
    argv: &[*const libc::c_char],
    envp: &[*const libc::c_char],
) -> io::Error {
    debug_assert!(
        argv.last().is_some_and(|p| p.is_null()) && envp.last().is_some_and(|p| p.is_null())
    );
    // SAFETY: by the contract above the lists are null-terminated and point to live C strings.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// Puts `fd` under the number of a standard stream; that one is inherited by exec.
pub(crate) fn put(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: both are numbers; the standard streams are owned by nobody in particular.
    if unsafe { libc::dup2(fd.as_raw_fd(), number) } < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Closes every descriptor from 3 on but `keep`. What owned them must never be dropped in this process.
pub(crate) fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep
        .iter()
        .filter_map(|fd| u32::try_from(*fd).ok())
        .collect();
    keep.sort_unstable();
    let mut from = 3;
    for next in keep {
        if next > from {
            close_range(from, next - 1);
        }
        from = from.max(next + 1);
    }
    close_range(from, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: by the contract of `close_all_but` nobody uses these descriptors any more.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0 {
        return;
    }
    // A kernel before 5.9.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(1024);
    for fd in first..=last.min(u32::try_from(limit).unwrap_or(u32::MAX)) {
        // SAFETY: as above.
        unsafe { libc::close(fd.cast_signed()) };
    }
}

/// Marks everything from 3 on close-on-exec: a net below the rule that everything is so from the start.
pub(crate) fn cloexec_all() {
    // SAFETY: changes a flag only.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3_u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
}

/// Sends a signal to every process of this pid namespace but its init, which is the caller.
pub(crate) fn signal_everybody(signal: libc::c_int) {
    // SAFETY: no memory is involved; the caller is the init of a task's own pid namespace.
    unsafe { libc::kill(-1, signal) };
}

/// Who is at the other end of a unix socket.
pub(crate) struct Peer {
    /// 0 when it is in a pid namespace that this process cannot see.
    pub(crate) pid: u32,
    pub(crate) uid: u32,
}

/// The peer as it was when the connection was made.
pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let mut found = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut len = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or(0);
    // SAFETY: pointer and length describe a local of the type that this option fills.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut len,
        )
    })?;
    Ok(Peer {
        pid: u32::try_from(found.pid).unwrap_or(0),
        uid: found.uid,
    })
}

/// The process at the other end itself: readable when it has ended. `None` where the kernel does not say.
pub(crate) fn peer_process(socket: BorrowedFd<'_>) -> Option<OwnedFd> {
    const SO_PEERPIDFD: libc::c_int = 77;
    let mut found: RawFd = -1;
    let mut len = libc::socklen_t::try_from(size_of::<RawFd>()).ok()?;
    // SAFETY: pointer and length describe a local of the type that this option fills.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut found).cast(),
            &raw mut len,
        )
    };
    // SAFETY: the kernel has just made it for this call.
    (result == 0 && found >= 0).then(|| unsafe { OwnedFd::from_raw_fd(found) })
}
