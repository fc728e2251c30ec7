//! What the filter answers to each call, by a machine that reads programs as the kernel does.

use super::*;

fn wall(unix_sockets: bool, ipc: bool) -> Wall {
    Wall {
        closed: Vec::new(),
        read_only: Vec::new(),
        open: Vec::new(),
        kept: Vec::new(),
        unix_sockets,
        ipc,
    }
}

/// The kernel's view of a call.
struct Call {
    processor: u32,
    number: u32,
    arguments: [u64; 6],
}

impl Call {
    fn word(&self, at: u32) -> u32 {
        match at {
            NUMBER => self.number,
            ON => self.processor,
            _ => {
                let at = at - ARGUMENTS;
                let argument = self.arguments[usize::try_from(at / 8).unwrap()];
                u32::try_from((argument >> (at % 8 * 8)) & 0xffff_ffff).unwrap()
            }
        }
    }

    fn answer(&self, Filter(steps): &Filter) -> u32 {
        let (mut next, mut held) = (0, 0);
        loop {
            let step = &steps[next];
            next += 1;
            let code = u32::from(step.code);
            let is = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
            if code == BPF_LD | BPF_W | BPF_ABS {
                held = self.word(step.k);
            } else if code == BPF_ALU | BPF_AND | BPF_K {
                held &= step.k;
            } else if code == BPF_JMP | BPF_JEQ | BPF_K {
                next += is(held == step.k);
            } else if code == BPF_JMP | BPF_JGE | BPF_K {
                next += is(held >= step.k);
            } else {
                assert_eq!(code, BPF_RET | BPF_K);
                return step.k;
            }
        }
    }
}

/// What becomes of a call of this processor's own.
fn answer(wall: &Wall, call: libc::c_long, arguments: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let call = Call {
        processor: PROCESSOR.unwrap(),
        number: number(call),
        arguments: all,
    };
    call.answer(&Filter::new(wall).expect("this kernel filters calls"))
}

const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;
/// Done, says the filter, and nothing is.
const PRETENDED: u32 = libc::SECCOMP_RET_ERRNO;
const HIGH: u64 = 0x7fff_0000_0000;

#[test]
fn programs_are_short_and_end_with_an_answer() {
    for unix_sockets in [false, true] {
        for ipc in [false, true] {
            let Some(Filter(steps)) = Filter::new(&wall(unix_sockets, ipc)) else {
                panic!("this kernel filters no calls");
            };
            assert!(steps.len() < 130, "{}", steps.len());
            assert_eq!(
                steps.last().map(|step| u32::from(step.code)),
                Some(BPF_RET | BPF_K)
            );
        }
    }
    assert!(are_filtered());
}

#[test]
fn k14_calls_of_another_processor_end_it_and_a_second_set_of_numbers_is_none() {
    let filter = Filter::new(&wall(true, true)).unwrap();
    let mut call = Call {
        processor: PROCESSOR.unwrap(),
        number: number(libc::SYS_getpid),
        arguments: [0; 6],
    };
    assert_eq!(call.answer(&filter), ALLOWED);
    if let Some(first) = SECOND_SET {
        call.number += first;
        assert_eq!(call.answer(&filter), fails(libc::ENOSYS));
    }
    call.processor ^= 1;
    assert_eq!(call.answer(&filter), libc::SECCOMP_RET_KILL_PROCESS);
}

#[test]
fn k14_sockets_with_a_name_are_refused_by_kind_and_whatever_their_flags() {
    let closed = wall(false, true);
    let unix = u64::from(libc::AF_UNIX.unsigned_abs());
    let flags = u64::from((libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK).unsigned_abs());
    let no = fails(libc::EAFNOSUPPORT);
    for (kind, pair) in [
        (libc::SOCK_STREAM, ALLOWED),
        (libc::SOCK_SEQPACKET, ALLOWED),
        (libc::SOCK_DGRAM, no),
        (libc::SOCK_RAW, no),
    ] {
        let kind = u64::from(kind.unsigned_abs());
        for kind in [kind, kind | flags] {
            assert_eq!(answer(&closed, libc::SYS_socket, &[unix, kind]), no);
            // The kernel looks at the lower half only.
            assert_eq!(answer(&closed, libc::SYS_socket, &[unix | HIGH, kind]), no);
            let inet = u64::from(libc::AF_INET.unsigned_abs());
            assert_eq!(answer(&closed, libc::SYS_socket, &[inet, kind]), ALLOWED);
            assert_eq!(answer(&closed, libc::SYS_socketpair, &[unix, kind]), pair);
            for call in [libc::SYS_socket, libc::SYS_socketpair] {
                assert_eq!(answer(&wall(true, true), call, &[unix, kind]), ALLOWED);
            }
        }
    }
    assert_eq!(
        answer(&closed, libc::SYS_io_uring_setup, &[]),
        fails(libc::ENOSYS)
    );
    assert_eq!(
        answer(&wall(true, true), libc::SYS_io_uring_setup, &[]),
        ALLOWED
    );
}

#[test]
fn k13_every_call_that_sets_something_of_another_process_is_refused_and_ones_own_is_not() {
    let no = fails(libc::EPERM);
    let own = |call, arguments: &[u64]| answer(&wall(true, true), call, arguments);
    let limit = |pid, new| own(libc::SYS_prlimit64, &[pid, 7, new, HIGH]);
    // An address may have either half empty.
    for new in [HIGH | 0x1000, HIGH, 0x1000] {
        assert_eq!(limit(0, new), ALLOWED);
        assert_eq!(limit(77, new), no);
    }
    assert_eq!(limit(77, 0), ALLOWED, "looked at only");
    for (call, refused) in [
        (libc::SYS_sched_setscheduler, no),
        (libc::SYS_sched_setparam, no),
        (libc::SYS_sched_setattr, no),
        (libc::SYS_sched_setaffinity, PRETENDED),
    ] {
        assert_eq!(own(call, &[0, 1, HIGH]), ALLOWED);
        assert_eq!(own(call, &[77, 1, HIGH]), refused);
        assert_eq!(own(call, &[HIGH, 1, HIGH]), ALLOWED);
    }
    for (call, account) in [(libc::SYS_setpriority, 2), (libc::SYS_ioprio_set, 3)] {
        for who in 0..4 {
            let allowed = if who == account { no } else { ALLOWED };
            assert_eq!(own(call, &[who, 0, 10]), allowed);
            assert_eq!(own(call, &[who, 77, 10]), no);
        }
    }
}
