//! Which system calls are closed to a task that runs under the agent's own account: what Landlock has no rules about and
//! reaches others of that account all the same.
//!
//! Named sockets, behind which `systemd --user`, a bus or a container engine would start something outside of the wall;
//! memory, semaphores, queues and keys that the kernel keeps for the account and not for a process; and resource limits,
//! priorities and processors of other processes. The keeper makes the program, the task's own process puts it in force
//! between fork and exec, and whatever the task starts inherits it. A refused call fails in the way that programs know
//! from systemd's `RestrictAddressFamilies=` and from kernels without `io_uring` or System V; nothing but a program for
//! another kind of processor, whose calls have other numbers, is ended.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
    sock_filter,
};

use crate::protocol::Wall;
use crate::sys;

/// This processor's number in the kernel's view of a call; none: its calls are not filtered.
#[cfg(target_arch = "x86_64")]
const PROCESSOR: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
const PROCESSOR: Option<u32> = Some(0xc000_00b7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const PROCESSOR: Option<u32> = None;

/// From here on x86-64 has the same calls once more, with pointers of 32 bits.
#[cfg(target_arch = "x86_64")]
const SECOND_SET: Option<u32> = Some(0x4000_0000);
#[cfg(not(target_arch = "x86_64"))]
const SECOND_SET: Option<u32> = None;

/// Where the kernel's `seccomp_data` has the call's number, the processor and the arguments, 8 bytes each.
const NUMBER: u32 = 0;
const ON: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The kind of a socket without its flags.
const KIND: u32 = 0xf;

/// A program for the kernel.
#[derive(Debug)]
pub(crate) struct Filter(Vec<sock_filter>);

/// Whether tasks can be kept from named sockets and from other processes' limits here.
#[must_use]
pub fn are_filtered() -> bool {
    PROCESSOR.is_some() && sys::knows_filters()
}

impl Filter {
    /// Of the wall, what the task may reach counts here. `None` where calls cannot be filtered.
    pub(crate) fn new(wall: &Wall) -> Option<Self> {
        let processor = PROCESSOR.filter(|_| sys::knows_filters())?;
        let mut filter = Self(Vec::new());
        filter.load(ON);
        filter.unless(BPF_JEQ, processor, libc::SECCOMP_RET_KILL_PROCESS);
        filter.load(NUMBER);
        if let Some(first) = SECOND_SET {
            filter.when(BPF_JGE, first, fails(libc::ENOSYS));
        }
        if !wall.unix_sockets {
            filter.no_named_sockets();
        }
        if !wall.ipc {
            filter.nothing_of_the_account();
        }
        filter.others_stay_as_they_are();
        filter.answer(libc::SECCOMP_RET_ALLOW);
        Some(filter)
    }

    /// Puts it in force for this process and all that it starts. Asks for no memory of this process.
    pub(crate) fn enter(&self) -> std::io::Result<()> {
        sys::filter_calls(&self.0)
    }

    fn no_named_sockets(&mut self) {
        let family = libc::AF_UNIX.unsigned_abs();
        self.call(libc::SYS_socket, |socket| {
            socket.argument(0);
            socket.when(BPF_JEQ, family, fails(libc::EAFNOSUPPORT));
        });
        // Two ends that know each other, and nobody else: datagrams could still be sent to any name.
        self.call(libc::SYS_socketpair, |pair| {
            pair.argument(1);
            pair.step(BPF_ALU | BPF_AND | BPF_K, KIND);
            for kind in [libc::SOCK_STREAM, libc::SOCK_SEQPACKET] {
                pair.when(BPF_JEQ, kind.unsigned_abs(), libc::SECCOMP_RET_ALLOW);
            }
            pair.answer(fails(libc::EAFNOSUPPORT));
        });
        // Makes sockets, and connects them, without any call that is seen here.
        self.call(libc::SYS_io_uring_setup, |ring| {
            ring.answer(fails(libc::ENOSYS));
        });
    }

    /// Whoever knows the number or the name of such an object has it, and it outlives the task.
    fn nothing_of_the_account(&mut self) {
        for call in [
            libc::SYS_shmget,
            libc::SYS_shmat,
            libc::SYS_shmctl,
            libc::SYS_semget,
            libc::SYS_semop,
            libc::SYS_semtimedop,
            libc::SYS_semctl,
            libc::SYS_msgget,
            libc::SYS_msgsnd,
            libc::SYS_msgrcv,
            libc::SYS_msgctl,
            libc::SYS_mq_open,
            libc::SYS_mq_unlink,
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_keyctl,
        ] {
            self.when(BPF_JEQ, number(call), fails(libc::ENOSYS));
        }
    }

    fn others_stay_as_they_are(&mut self) {
        let no = fails(libc::EPERM);
        // Of itself, or looked at only.
        self.call(libc::SYS_prlimit64, |limit| {
            limit.argument(0);
            limit.when(BPF_JEQ, 0, libc::SECCOMP_RET_ALLOW);
            limit.argument(2);
            limit.unless(BPF_JEQ, 0, no);
            limit.upper_half(2);
            limit.unless(BPF_JEQ, 0, no);
        });
        for call in [
            libc::SYS_sched_setscheduler,
            libc::SYS_sched_setparam,
            libc::SYS_sched_setattr,
        ] {
            self.call(call, |policy| {
                policy.argument(0);
                policy.unless(BPF_JEQ, 0, no);
            });
        }
        // Done for the calling thread only, and for others said to be done: the C library asks for its own threads by their
        // numbers, which nobody can tell from those of other processes, and starts none that it cannot place.
        self.call(libc::SYS_sched_setaffinity, |place| {
            place.argument(0);
            place.unless(BPF_JEQ, 0, libc::SECCOMP_RET_ERRNO);
        });
        // One's own thread or group of processes: 0. All of an account: never.
        for (call, account) in [
            (libc::SYS_setpriority, PRIO_USER),
            (libc::SYS_ioprio_set, IOPRIO_WHO_USER),
        ] {
            self.call(call, |priority| {
                priority.argument(0);
                priority.when(BPF_JEQ, account, no);
                priority.argument(1);
                priority.unless(BPF_JEQ, 0, no);
            });
        }
    }

    /// What follows is about one call, and allows what it does not refuse. The call's number is in hand before and after.
    fn call(&mut self, call: libc::c_long, about: impl FnOnce(&mut Self)) {
        let mut block = Self(Vec::new());
        about(&mut block);
        block.answer(libc::SECCOMP_RET_ALLOW);
        let past = u8::try_from(block.0.len()).unwrap_or(u8::MAX);
        self.jump(BPF_JEQ, number(call), 0, past);
        self.0.append(&mut block.0);
    }

    fn step(&mut self, code: u32, k: u32) {
        self.0.push(sock_filter {
            code: u16::try_from(code).unwrap_or(u16::MAX),
            jt: 0,
            jf: 0,
            k,
        });
    }

    /// How many steps are left out, if it is so and if it is not.
    fn jump(&mut self, compare: u32, with: u32, jt: u8, jf: u8) {
        self.step(BPF_JMP | compare | BPF_K, with);
        if let Some(step) = self.0.last_mut() {
            (step.jt, step.jf) = (jt, jf);
        }
    }

    fn load(&mut self, at: u32) {
        self.step(BPF_LD | BPF_W | BPF_ABS, at);
    }

    /// The lower half of an argument, which is all that the kernel looks at in numbers.
    fn argument(&mut self, number: u32) {
        self.load(ARGUMENTS + 8 * number);
    }

    fn upper_half(&mut self, number: u32) {
        self.load(ARGUMENTS + 8 * number + 4);
    }

    fn when(&mut self, compare: u32, with: u32, answer: u32) {
        self.jump(compare, with, 0, 1);
        self.answer(answer);
    }

    fn unless(&mut self, compare: u32, with: u32, answer: u32) {
        self.jump(compare, with, 1, 0);
        self.answer(answer);
    }

    fn answer(&mut self, answer: u32) {
        self.step(BPF_RET | BPF_K, answer);
    }
}

/// The kernel's own numbers for "all processes of an account".
const PRIO_USER: u32 = 2;
const IOPRIO_WHO_USER: u32 = 3;

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

fn fails(errno: libc::c_int) -> u32 {
    libc::SECCOMP_RET_ERRNO | (errno.unsigned_abs() & libc::SECCOMP_RET_DATA)
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
