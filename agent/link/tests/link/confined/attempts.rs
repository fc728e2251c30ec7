//! What a planted attacker tries: each attempt is one system call, named as a person would say it.

use std::ffi::CString;
use std::path::{Path, PathBuf};

/// Whom and what the attacker is up against.
pub(super) struct Part {
    pub(super) site: PathBuf,
    pub(super) keys: PathBuf,
    pub(super) runner: u32,
    pub(super) attempt: String,
}

pub(super) type Call = Box<dyn Fn() -> i64>;

/// What ends the process at the first try.
pub(super) const DEADLY: &[&str] = &[
    "execve",
    "execveat",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "io_uring_setup",
    "open_by_handle_at",
    "mount",
    "bpf",
    "keyctl",
    "unshare",
    "userfaultfd",
    "pidfd_getfd",
];

macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {
        // SAFETY: the pointers are null or to constants; what is refused changes nothing.
        Box::new(move || unsafe { libc::syscall($number $(, $argument)*) }) as Call
    };
}

fn opening(path: &Path, flags: libc::c_int) -> Call {
    let path = CString::new(path.as_os_str().as_encoded_bytes()).unwrap_or_default();
    Box::new(move || {
        // SAFETY: the path is a C string that lives as long as the call.
        unsafe {
            libc::syscall(
                libc::SYS_openat,
                libc::AT_FDCWD,
                path.as_ptr(),
                flags,
                0o600,
            )
        }
    })
}

pub(super) fn attempts(part: &Part) -> Vec<(&'static str, Call)> {
    let mut all = files(part);
    all.extend(network());
    all.extend(processes(part.runner));
    all.extend(deadly(part.runner));
    all
}

fn files(part: &Part) -> Vec<(&'static str, Call)> {
    let (read, write) = (libc::O_RDONLY, libc::O_WRONLY | libc::O_CREAT);
    let runner = |file: &str| PathBuf::from(format!("/proc/{}/{file}", part.runner));
    let mut all: Vec<_> = SITE
        .iter()
        .map(|name| (*name, opening(&part.site.join(name), read)))
        .collect();
    all.extend([
        (
            "read the list of accounts",
            opening("/etc/passwd".as_ref(), read),
        ),
        (
            "list the site",
            opening(&part.site, read | libc::O_DIRECTORY),
        ),
        ("read the runner's memory", opening(&runner("mem"), read)),
        (
            "read the runner's environment",
            opening(&runner("environ"), read),
        ),
        ("read the runner's threads", opening(&runner("maps"), read)),
        ("write in the site", opening(&part.site.join("new"), write)),
        (
            "write in /tmp",
            opening("/tmp/outpost-planted".as_ref(), write),
        ),
        (
            "write in /dev/shm",
            opening("/dev/shm/outpost-planted".as_ref(), write),
        ),
        (
            "leave the key directory",
            opening(&part.keys.join("../ledger"), read),
        ),
    ]);
    let mode: libc::c_uint = 0o777;
    let site = CString::new(part.site.as_os_str().as_encoded_bytes()).unwrap_or_default();
    let chmod: Call = Box::new(move || {
        // SAFETY: the path is a C string that lives as long as the call.
        unsafe { libc::syscall(libc::SYS_fchmodat, libc::AT_FDCWD, site.as_ptr(), mode) }
    });
    all.push(("open the site to everybody", chmod));
    all
}

fn network() -> Vec<(&'static str, Call)> {
    let null = || std::ptr::null::<u8>();
    let mut all: Vec<(&'static str, Call)> = Vec::new();
    for (name, family) in [
        ("socket inet", libc::AF_INET),
        ("socket inet6", libc::AF_INET6),
        ("socket unix", libc::AF_UNIX),
        ("socket netlink", libc::AF_NETLINK),
        ("socket packet", libc::AF_PACKET),
        ("socket vsock", libc::AF_VSOCK),
        ("socket alg", libc::AF_ALG),
    ] {
        for_kinds(&mut all, name, family);
    }
    all.extend([
        (
            "socketpair",
            call!(
                libc::SYS_socketpair,
                libc::AF_UNIX,
                libc::SOCK_STREAM,
                0,
                null()
            ),
        ),
        (
            "connect on a descriptor",
            call!(libc::SYS_connect, 3, null(), 16),
        ),
        ("bind on a descriptor", call!(libc::SYS_bind, 3, null(), 16)),
        ("listen on a descriptor", call!(libc::SYS_listen, 3, 8)),
        (
            "accept on a descriptor",
            call!(libc::SYS_accept4, 3, null(), null(), 0),
        ),
        (
            "send with an address",
            call!(
                libc::SYS_sendto,
                3,
                c"x".as_ptr(),
                1,
                libc::MSG_FASTOPEN,
                c"0123456789abcdef".as_ptr(),
                16
            ),
        ),
        ("send a descriptor", call!(libc::SYS_sendmsg, 3, null(), 0)),
        ("send many", call!(libc::SYS_sendmmsg, 3, null(), 0, 0)),
        (
            "set a socket's option",
            call!(libc::SYS_setsockopt, 3, 1, 2, null(), 0),
        ),
    ]);
    all
}

fn for_kinds(all: &mut Vec<(&'static str, Call)>, name: &'static str, family: libc::c_int) {
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW] {
        all.push((name, call!(libc::SYS_socket, family, kind, 0)));
    }
}

fn processes(runner: u32) -> Vec<(&'static str, Call)> {
    let null = || std::ptr::null::<u8>();
    let memory = libc::PROT_READ | libc::PROT_EXEC;
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    vec![
        (
            "end the runner",
            call!(libc::SYS_kill, runner, libc::SIGKILL),
        ),
        ("end everybody", call!(libc::SYS_kill, -1, libc::SIGKILL)),
        (
            "end a thread of the runner",
            call!(libc::SYS_tgkill, runner, runner, libc::SIGKILL),
        ),
        (
            "queue a signal",
            call!(libc::SYS_rt_sigqueueinfo, runner, libc::SIGUSR1, null()),
        ),
        ("hold the runner", call!(libc::SYS_pidfd_open, runner, 0)),
        ("fork", call!(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0)),
        ("fork anew", call!(libc::SYS_clone3, null(), 0)),
        (
            "memory that is code",
            call!(libc::SYS_mmap, null(), 4096, memory, private, -1, 0),
        ),
        (
            "a file that is memory",
            call!(libc::SYS_memfd_create, c"x".as_ptr(), 0),
        ),
        ("be root", call!(libc::SYS_setuid, 0)),
        ("have groups", call!(libc::SYS_setgroups, 0, null())),
        (
            "be traced",
            call!(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 1, 0, 0, 0),
        ),
        ("watch files", call!(libc::SYS_inotify_init1, 0)),
        (
            "set the limits",
            call!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, null(), null()),
        ),
    ]
}

fn deadly(runner: u32) -> Vec<(&'static str, Call)> {
    let null = || std::ptr::null::<u8>();
    vec![
        (
            "execve",
            call!(libc::SYS_execve, c"/bin/true".as_ptr(), null(), null()),
        ),
        (
            "execveat",
            call!(
                libc::SYS_execveat,
                -1,
                c"/bin/true".as_ptr(),
                null(),
                null(),
                0
            ),
        ),
        (
            "ptrace",
            call!(libc::SYS_ptrace, libc::PTRACE_ATTACH, runner, 0, 0),
        ),
        (
            "process_vm_readv",
            call!(libc::SYS_process_vm_readv, runner, null(), 0, null(), 0, 0),
        ),
        (
            "process_vm_writev",
            call!(libc::SYS_process_vm_writev, runner, null(), 0, null(), 0, 0),
        ),
        ("io_uring_setup", call!(libc::SYS_io_uring_setup, 1, null())),
        (
            "open_by_handle_at",
            call!(libc::SYS_open_by_handle_at, 3, null(), 0),
        ),
        (
            "mount",
            call!(libc::SYS_mount, null(), null(), null(), 0, null()),
        ),
        ("bpf", call!(libc::SYS_bpf, 0, null(), 0)),
        ("keyctl", call!(libc::SYS_keyctl, 0, 0, 0, 0, 0)),
        ("unshare", call!(libc::SYS_unshare, libc::CLONE_NEWUSER)),
        ("userfaultfd", call!(libc::SYS_userfaultfd, 0)),
        ("pidfd_getfd", call!(libc::SYS_pidfd_getfd, 3, 0, 0)),
    ]
}

/// What a site has that is nobody's business.
pub(super) const SITE: &[&str] = &["logs", "secrets", "ledger", "catalogue", "journal"];
