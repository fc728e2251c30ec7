//! A child that shares its parent's memory until it executes a program: what `posix_spawn` does, with code of our own
//! in between and, where wanted, born inside a cgroup.
//!
//! Called by the keeper. No page table is copied and no process is moved between cgroups, which are the two expensive
//! parts of starting a process. The parent stands still meanwhile.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// Enough for the calls between clone and exec, which neither recurse nor hold large buffers.
const STACK_BYTES: usize = 64 * 1024;

/// The kernel's `clone_args`, as far as it is used here.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The stack of a keeper's children, one after the other. Its pages are there only once they were touched.
#[derive(Debug)]
pub(crate) struct Stack(NonNull<c_void>);

impl Stack {
    /// # Errors
    /// When no memory is left.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice touches nothing that is there.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), STACK_BYTES, access, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(at)
            .map(Self)
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; no child is on it, because `run` waits for each.
        unsafe { libc::munmap(self.0.as_ptr(), STACK_BYTES) };
    }
}

/// Whether this machine's children can be made this way at all; otherwise the caller forks.
pub(crate) const KNOWN: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

/// Runs `child(argument)` in a new process that shares this one's memory, and returns when that process has executed a
/// program or ended: its id.
///
/// `child` must not return, allocate, lock or unwind. What it writes through `argument` is seen here.
///
/// # Errors
/// When the kernel refuses; `ENOSYS` where it does not know how.
pub(crate) fn run<T>(
    stack: &Stack,
    cgroup: Option<BorrowedFd<'_>>,
    child: extern "C" fn(*mut T) -> !,
    argument: *mut T,
) -> io::Result<u32> {
    let own = libc::CLONE_VM | libc::CLONE_VFORK;
    let mut args = CloneArgs {
        flags: u64::from(own.unsigned_abs()),
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        stack: stack.0.as_ptr() as u64,
        stack_size: STACK_BYTES as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).unwrap_or(u64::MAX);
    }
    // SAFETY: the stack is large enough and nobody else's, `child` takes this argument and never returns, and the
    // parent stands still until the child has a memory of its own.
    let result = unsafe { clone3(&raw const args, child as usize, argument as usize) };
    match u32::try_from(result) {
        Ok(pid) => Ok(pid),
        Err(_) => Err(io::Error::from_raw_os_error(
            i32::try_from(-result).unwrap_or(libc::ENOSYS),
        )),
    }
}

/// The system call itself: the child begins on its own stack with a call of `child(argument)`.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(args: *const CloneArgs, child: usize, argument: usize) -> isize {
    let result: isize;
    // SAFETY: the caller's contract. The parent comes out with the registers it went in with; the child never comes out.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") args,
            in("rsi") size_of::<CloneArgs>(),
            in("r12") child,
            in("r13") argument,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// The same for 64-bit ARM.
#[cfg(target_arch = "aarch64")]
unsafe fn clone3(args: *const CloneArgs, child: usize, argument: usize) -> isize {
    let result: isize;
    // SAFETY: as above.
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x10",
            "blr x9",
            "brk 1",
            "2:",
            inlateout("x0") args as isize => result,
            in("x1") size_of::<CloneArgs>(),
            in("x8") libc::SYS_clone3 as usize,
            in("x9") child,
            in("x10") argument,
        );
    }
    result
}

/// Elsewhere there is no such call; the caller forks.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn clone3(_args: *const CloneArgs, _child: usize, _argument: usize) -> isize {
    -(libc::ENOSYS as isize)
}

#[cfg(test)]
mod tests {
    use super::*;

    extern "C" fn count(argument: *mut u32) -> ! {
        // SAFETY: the caller gives a pointer to a live number, and the parent stands still.
        unsafe { *argument += 1 };
        crate::sys::exit_now(7)
    }

    #[test]
    fn what_the_child_writes_is_seen_and_its_end_is_its_own() {
        let stack = Stack::new().unwrap();
        let mut number = 41;
        let pid = run(&stack, None, count, &raw mut number).unwrap();
        assert_eq!(number, 42);
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        let status =
            rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
        assert_eq!(status.unwrap().1.exit_status(), Some(7));
    }
}
