//! A live task: its processes, its output, its deadlines, and the ladder that ends it.
//!
//! The ladder is TERM to the whole tree, a bounded grace, then KILL again and again until the kernel says that nothing
//! is left. Whatever ends the first process, the rest of its tree is ended too before the task counts as over.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::containment::{Tree, pidns};
use crate::process::ProcessRef;
use crate::protocol::{Cause, Ended, StartSpec};
use crate::sys::{self, Reaped};

use super::start::{self, NoStart};
use super::{Log, Started};

/// Time between two rounds of KILL, in microseconds: a tree that forks faster than it is killed is met again.
const KILL_AGAIN_US: u64 = 20_000;
/// Chunks of output taken before other events are looked at.
const CHUNKS_AT_A_TIME: usize = 16;
/// Chunks taken once the tree is gone: far more than a pipe holds, bounded because a stranger may hold its other end.
const CHUNKS_AT_THE_END: usize = 256;

/// Why and how far a task is being ended.
#[derive(Debug, Clone, Copy)]
struct Ending {
    cause: Cause,
    /// When KILL is due, and due again.
    kill_at_us: u64,
}

/// How a task ended.
pub(super) struct End {
    pub(super) ended: Ended,
    pub(super) cause: Cause,
    pub(super) started_us: u64,
    pub(super) log_bytes: u64,
    pub(super) log_dropped_bytes: u64,
}

/// A task that was forked and is not over.
pub(super) struct Task {
    pid: u32,
    tree: Tree,
    exec_status: Option<File>,
    exec_failure: Vec<u8>,
    output: Option<File>,
    _output_end: OwnedFd,
    log: Log,
    started_us: u64,
    timeout_at_us: Option<u64>,
    stop_after_us: Option<u64>,
    stop_at_us: Option<u64>,
    grace_us: u64,
    first: Option<Ended>,
    ending: Option<Ending>,
    no_children: bool,
}

fn us(ms: u64) -> u64 {
    ms.saturating_mul(1000)
}

impl Task {
    pub(super) fn new(spec: &StartSpec, started: Started, log: Log, started_us: u64) -> Self {
        let stop_after_us = spec.stop_after_ms.map(us);
        Self {
            pid: started.pid,
            tree: started.tree,
            exec_status: started.exec_status,
            exec_failure: Vec::new(),
            output: Some(started.output),
            _output_end: started.output_end,
            log,
            started_us,
            timeout_at_us: spec.timeout_ms.map(|ms| started_us.saturating_add(us(ms))),
            stop_after_us,
            stop_at_us: stop_after_us.map(|after| started_us.saturating_add(after)),
            grace_us: us(spec.grace_ms),
            first: None,
            ending: None,
            no_children: false,
        }
    }

    /// What to wait for: exec status, output, init's word (all for reading) and cgroup events (exceptional).
    pub(super) fn exec_status(&self) -> Option<BorrowedFd<'_>> {
        self.exec_status.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn output(&self) -> Option<BorrowedFd<'_>> {
        self.output.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn init(&self) -> Option<BorrowedFd<'_>> {
        match &self.tree {
            // Once it has spoken, only its end matters, and that comes as a signal.
            Tree::PidNamespace { control, .. } => self.first.is_none().then(|| control.as_fd()),
            Tree::Cgroup(_) | Tree::Subreaper => None,
        }
    }

    /// Only once the cgroup's state is all that is waited for: unread, it would be ready for ever.
    pub(super) fn events(&self) -> Option<BorrowedFd<'_>> {
        if self.no_children {
            self.tree.events()
        } else {
            None
        }
    }

    /// When `tick` is due.
    pub(super) fn next_deadline_us(&self) -> Option<u64> {
        match self.ending {
            Some(ending) => Some(ending.kill_at_us),
            None => [self.timeout_at_us, self.stop_at_us]
                .into_iter()
                .flatten()
                .min(),
        }
    }

    /// Takes note of whether the program was executed.
    pub(super) fn look_at_exec(&mut self) {
        if let Some(pipe) = &mut self.exec_status
            && read_to_end(pipe, &mut self.exec_failure)
        {
            self.exec_status = None;
        }
    }

    /// Whether it is known that the program was executed.
    pub(super) fn has_executed(&self) -> bool {
        self.exec_status.is_none() && self.exec_failure.is_empty()
    }

    /// The task's first process, or the init of its pid namespace.
    pub(super) fn process(&self) -> ProcessRef {
        // It was not waited for, or its end would be known: its entry exists.
        ProcessRef::of(self.pid).unwrap_or(ProcessRef {
            pid: self.pid,
            start_time: 0,
        })
    }

    /// Whether its first process has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.first.is_some()
    }

    /// Takes note of every child that has ended.
    pub(super) fn reap(&mut self, now_us: u64) {
        self.hear_init();
        loop {
            match sys::reap() {
                Reaped::Nothing => break,
                Reaped::NoChildren => {
                    self.no_children = true;
                    break;
                }
                Reaped::Child { pid, status } if pid == self.pid => {
                    // Init's last word may have come after the look above.
                    self.hear_init();
                    self.first.get_or_insert(sys::ended(status));
                }
                Reaped::Child { .. } => {}
            }
        }
        if self.first.is_some() && self.ending.is_none() {
            self.end(Cause::Own, now_us);
        }
    }

    fn hear_init(&mut self) {
        if let Some(control) = self.init() {
            self.first = pidns::first_status(control).map(sys::ended);
        }
    }

    /// Reads a bounded amount of output.
    pub(super) fn read_output(&mut self) {
        self.read_chunks(CHUNKS_AT_A_TIME);
    }

    fn read_chunks(&mut self, chunks: usize) {
        for _ in 0..chunks {
            let Some(pipe) = &mut self.output else {
                return;
            };
            match self.log.read_from(pipe) {
                Ok(0) => self.output = None,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.output = None,
            }
        }
    }

    /// The runner has heard from upstream: the dead-man timer begins anew.
    pub(super) fn still_connected(&mut self, now_us: u64) {
        self.stop_at_us = self.stop_after_us.map(|after| now_us.saturating_add(after));
    }

    /// Begins to end the task; the first cause stays.
    pub(super) fn end(&mut self, cause: Cause, now_us: u64) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some(Ending {
            cause,
            kill_at_us: now_us.saturating_add(self.grace_us),
        });
        if !self.is_gone() {
            self.tree.terminate();
        }
    }

    /// Ends the task without grace.
    pub(super) fn end_at_once(&mut self, cause: Cause, now_us: u64) {
        let cause = self.ending.map_or(cause, |ending| ending.cause);
        self.ending = Some(Ending {
            cause,
            kill_at_us: now_us,
        });
        self.tick(now_us);
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now_us: u64) {
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now_us);
        if self.ending.is_none() && due(self.timeout_at_us) {
            self.end(Cause::TimedOut, now_us);
        }
        if self.ending.is_none() && due(self.stop_at_us) {
            self.end(Cause::DeadMan, now_us);
        }
        if let Some(ending) = &mut self.ending
            && ending.kill_at_us <= now_us
        {
            ending.kill_at_us = now_us + KILL_AGAIN_US;
            self.tree.kill();
        }
    }

    /// Whether the whole tree is gone: no child is left (orphans come to the keeper) and the cgroup is empty.
    pub(super) fn is_gone(&self) -> bool {
        self.no_children && !self.tree.is_populated()
    }

    /// Takes the last output and says how it ended, and what held it together; the tree must be gone.
    pub(super) fn finish(mut self) -> (Result<End, NoStart>, Tree) {
        self.look_at_exec();
        self.read_chunks(CHUNKS_AT_THE_END);
        self.log.close();
        let end = if self.exec_failure.is_empty() {
            Ok(self.end_of())
        } else {
            Err(start::failure_from(&self.exec_failure))
        };
        (end, self.tree)
    }

    fn end_of(&self) -> End {
        let ran_out_of_memory = self.tree.ran_out_of_memory();
        let ended = self.first.unwrap_or(Ended::Signalled(libc::SIGKILL));
        let own_end = self.ending.map_or(Cause::Own, |ending| ending.cause);
        let killed = ended == Ended::Signalled(libc::SIGKILL);
        let cause = if own_end == Cause::Own && killed && ran_out_of_memory {
            Cause::Oom
        } else {
            own_end
        };
        let (log_bytes, log_dropped_bytes) = self.log.counts();
        End {
            ended,
            cause,
            started_us: self.started_us,
            log_bytes,
            log_dropped_bytes,
        }
    }
}

/// Reads from a non-blocking pipe until it is empty or at its end (`true`).
fn read_to_end(pipe: &mut File, into: &mut Vec<u8>) -> bool {
    use std::io::Read;
    match pipe.read_to_end(into) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}
