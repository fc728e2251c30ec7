//! seccomp: which system calls a process may make.
//!
//! Two programs each. The first ends the process at once at calls that no code of these roles makes and no library tries
//! out: whoever makes one is not this program any more, and must not get a second try. The second allows what the role
//! needs; everything else fails with `EPERM`, because libraries ask for new calls and take no for an answer. Creating a
//! process and every kind of new socket are among what fails so.
//!
//! The kernel remembers the calls that are allowed whatever their arguments, and runs neither program for those (Linux
//! 5.11): only calls whose arguments are looked at cost anything.

use std::collections::BTreeMap;

use rustix::io::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::{Cap, Way};

/// A compiled filter.
pub(super) type Program = BpfProgram;

/// Why system calls are not filtered.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallsError {
    #[error("no system call filter for this kind of processor, or a bad one")]
    Filter(#[from] seccompiler::BackendError),
    #[error("the kernel takes no system call filter")]
    Install(#[from] seccompiler::Error),
    #[error("this test wants no system call filter")]
    Capped,
}

/// Nobody makes these by accident.
const DEADLY: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_open_by_handle_at,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
];

/// Memory, time, readiness, descriptors that are open already, and the end.
const COMMON: &[i64] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_openat,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_sched_yield,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrandom,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_shutdown,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Files of the key directory.
const LINK: &[i64] = &[
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
];

/// One connection, and what the C library's resolver does in a thread of its own.
const DIAL: &[i64] = &[libc::SYS_connect, libc::SYS_setsockopt, libc::SYS_eventfd2];
const RESOLVER: &[i64] = &[
    libc::SYS_bind,
    libc::SYS_uname,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    libc::SYS_readlinkat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    libc::SYS_membarrier,
];

/// Link's programs.
pub(super) fn link() -> Result<Vec<Program>, CallsError> {
    let mut allowed = Allowed::common()?;
    allowed.all(LINK);
    // Only on connections that stand: with an address a send could make one.
    allowed.when(libc::SYS_sendto, &[null(4)?])?;
    allowed.no_new_code()?;
    if cfg!(debug_assertions) {
        allowed.failpoints()?;
    }
    allowed.programs(&[])
}

/// Dial's programs.
pub(super) fn dial(way: Way) -> Result<Vec<Program>, CallsError> {
    let mut allowed = Allowed::common()?;
    allowed.all(DIAL);
    // A send that opens a connection at once would go past the rules about ports.
    let fast = unsigned(libc::MSG_FASTOPEN);
    for (call, flags) in [
        (libc::SYS_sendto, 3),
        (libc::SYS_sendmsg, 2),
        (libc::SYS_sendmmsg, 3),
    ] {
        allowed.when(call, &[masked(flags, fast, 0)?])?;
    }
    allowed.sockets(libc::SOCK_STREAM, libc::IPPROTO_TCP)?;
    if !way.resolves {
        allowed.no_new_code()?;
        return allowed.programs(&[]);
    }
    allowed.all(RESOLVER);
    allowed.sockets(libc::SOCK_DGRAM, libc::IPPROTO_UDP)?;
    // The C library asks which addresses this host has.
    allowed.when(
        libc::SYS_socket,
        &[
            equal(0, unsigned(libc::AF_NETLINK))?,
            equal(2, unsigned(libc::NETLINK_ROUTE))?,
        ],
    )?;
    allowed.when(libc::SYS_ioctl, &[equal(1, libc::FIONREAD)?])?;
    allowed.when(libc::SYS_prctl, &[equal(0, unsigned(libc::PR_SET_NAME))?])?;
    allowed.when(libc::SYS_prlimit64, &[null(2)?])?;
    // A thread, never a process. The newer call hides what it is asked for behind a pointer: it does not exist here, and
    // the C library then uses the older one.
    let thread = unsigned(libc::CLONE_THREAD);
    allowed.when(libc::SYS_clone, &[masked(0, thread, thread)?])?;
    allowed.programs(&[libc::SYS_clone3])
}

/// Puts the programs in force for every thread.
pub(super) fn install(programs: &[Program], cap: Cap) -> Result<(), CallsError> {
    if !cap.filtered {
        return Err(CallsError::Capped);
    }
    for program in programs {
        seccompiler::apply_filter_all_threads(program)?;
    }
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls that are allowed, some of them with certain arguments only.
struct Allowed(Rules);

impl Allowed {
    fn common() -> Result<Self, CallsError> {
        let mut allowed = Self(Rules::new());
        allowed.all(COMMON);
        let own = u64::from(std::process::id());
        // How a panic that cannot unwind ends the process.
        allowed.when(libc::SYS_tgkill, &[equal(0, own)?])?;
        for command in [
            libc::F_GETFD,
            libc::F_SETFD,
            libc::F_GETFL,
            libc::F_SETFL,
            libc::F_DUPFD_CLOEXEC,
        ] {
            allowed.when(libc::SYS_fcntl, &[equal(1, unsigned(command))?])?;
        }
        allowed.when(libc::SYS_ioctl, &[equal(1, libc::FIONBIO)?])?;
        Ok(allowed)
    }

    fn all(&mut self, calls: &[i64]) {
        self.0.extend(calls.iter().map(|call| (*call, Vec::new())));
    }

    /// One more way in which the call may be made.
    fn when(&mut self, call: i64, conditions: &[SeccompCondition]) -> Result<(), CallsError> {
        let rule = SeccompRule::new(conditions.to_vec())?;
        self.0.entry(call).or_default().push(rule);
        Ok(())
    }

    /// Memory is never code that was not in a file at the start.
    fn no_new_code(&mut self) -> Result<(), CallsError> {
        let exec = unsigned(libc::PROT_EXEC);
        self.when(libc::SYS_mmap, &[masked(2, exec, 0)?])?;
        self.when(libc::SYS_mprotect, &[masked(2, exec, 0)?])
    }

    /// Sockets of this kind, over IPv4 and IPv6.
    fn sockets(&mut self, kind: libc::c_int, protocol: libc::c_int) -> Result<(), CallsError> {
        // Non-blocking and close-on-exec are flags in the same argument.
        let kinds = 0xf;
        for family in [libc::AF_INET, libc::AF_INET6] {
            for protocol in [0, protocol] {
                self.when(
                    libc::SYS_socket,
                    &[
                        equal(0, unsigned(family))?,
                        masked(1, kinds, unsigned(kind))?,
                        equal(2, unsigned(protocol))?,
                    ],
                )?;
            }
        }
        Ok(())
    }

    /// Where a test holds or ends this process.
    fn failpoints(&mut self) -> Result<(), CallsError> {
        let own = u64::from(std::process::id());
        self.when(libc::SYS_kill, &[equal(0, own)?])?;
        #[cfg(target_arch = "x86_64")]
        self.all(&[libc::SYS_rename]);
        Ok(())
    }

    /// `absent`: calls that this process is told do not exist.
    fn programs(self, absent: &[i64]) -> Result<Vec<Program>, CallsError> {
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        let listed = |calls: &[i64]| calls.iter().map(|call| (*call, Vec::new())).collect();
        let errno = |errno: Errno| SeccompAction::Errno(errno.raw_os_error().unsigned_abs());
        let filter = |rules: Rules, others: SeccompAction, these: SeccompAction| {
            let filter = SeccompFilter::new(rules, others, these, arch)?;
            Ok::<Program, CallsError>(filter.try_into()?)
        };
        let mut programs = vec![filter(
            listed(DEADLY),
            SeccompAction::Allow,
            SeccompAction::KillProcess,
        )?];
        let mut allowed = self.0;
        if !absent.is_empty() {
            let no_such_call = errno(Errno::NOSYS);
            programs.push(filter(listed(absent), SeccompAction::Allow, no_such_call)?);
            // Where two programs say no the newer one's reason counts: that one says yes here.
            allowed.extend(listed(absent));
        }
        let no = errno(Errno::PERM);
        programs.push(filter(allowed, no, SeccompAction::Allow)?);
        Ok(programs)
    }
}

fn unsigned(number: libc::c_int) -> u64 {
    u64::from(number.unsigned_abs())
}

/// Numbers, whose upper half the kernel does not look at either.
fn equal(argument: u8, value: u64) -> Result<SeccompCondition, CallsError> {
    let (width, op) = (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq);
    Ok(SeccompCondition::new(argument, width, op, value)?)
}

/// No pointer at all.
fn null(argument: u8) -> Result<SeccompCondition, CallsError> {
    let (width, op) = (SeccompCmpArgLen::Qword, SeccompCmpOp::Eq);
    Ok(SeccompCondition::new(argument, width, op, 0)?)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, CallsError> {
    let (width, op) = (SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask));
    Ok(SeccompCondition::new(argument, width, op, value)?)
}
