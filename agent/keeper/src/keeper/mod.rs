//! The keeper: one small process that owns one task from the last check before exec to the exit record.
//!
//! Forked by the spawner, never executed by itself. It needs nobody to do its duty: deadline, dead-man timer, log and
//! exit record work without runner, spawner and network. It never starts anything twice and never starts without
//! having made the claim.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::path::Path;

use crate::containment::Placement;
use crate::exec::Leash;
use crate::packets::Packets;
use crate::process::{self, ProcessRef};
use crate::protocol::{
    Cause, Ended, ExitRecord, FromKeeper, NotStarted, PROTOCOL_VERSION, StartSpec, cut,
};
use crate::record::{self, ExitSlot, KeeperRecord};
use crate::sys;

mod log;
mod poll;
mod start;
mod task;

use log::Log;
use start::{NoStart, Place, Started};
use task::Task;

/// What a keeper gets from the spawner that forks it.
pub(crate) struct Handover<'a> {
    pub(crate) spec: Box<StartSpec>,
    pub(crate) runner: Packets,
    pub(crate) leash: Option<Leash>,
    pub(crate) placement: &'a Placement,
}

/// A keeper's life; called in the forked child.
pub(crate) fn run(handover: Handover<'_>) -> ! {
    // Whatever happens in here, nothing of the spawner may run in this process afterwards.
    let code = match std::panic::catch_unwind(AssertUnwindSafe(|| keep(handover))) {
        Ok(()) => 0,
        Err(_) => 101,
    };
    sys::exit_now(code)
}

fn keep(handover: Handover<'_>) {
    let keep: Vec<i32> = [
        Some(handover.runner.as_raw_fd()),
        handover.leash.as_ref().map(AsRawFd::as_raw_fd),
    ]
    .into_iter()
    .flatten()
    .collect();
    sys::close_all_but(&keep);
    // Fails only for a process group leader, which a fork is not.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"outpost-keeper");
    // A task's `kill -1` or a shutdown's TERM must not cost the outcome; KILL is what ends a keeper.
    sys::ignore(&[
        libc::SIGPIPE,
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGTERM,
        libc::SIGQUIT,
    ]);
    let _ = handover.runner.set_nonblocking(true);
    match Keeper::prepare(&handover) {
        Ok(mut keeper) => {
            keeper.start(handover);
            keeper.stay();
        }
        Err(failure) => {
            let _ = handover.runner.send(
                &FromKeeper::NotStarted {
                    why: failure.why,
                    text: cut(failure.text),
                },
                &[],
            );
        }
    }
}

/// The runner's connection, and whether it has been told the present state.
struct Runner {
    packets: Packets,
    told: bool,
}

/// A keeper with everything it holds.
struct Keeper {
    record: KeeperRecord,
    dir: OwnedFd,
    listener: OwnedFd,
    signals: OwnedFd,
    timer: OwnedFd,
    leash: Option<Leash>,
    leash_over: bool,
    runner: Option<Runner>,
    /// The present state, which is all that a runner is ever told.
    state: FromKeeper,
    task: Option<Task>,
    slot: Option<ExitSlot>,
    /// What belongs into the slot, once it is known.
    exit: Option<ExitRecord>,
    over_since_us: Option<u64>,
    taken: bool,
}

impl Keeper {
    /// Takes everything a keeper needs before it may speak for the attempt. Leaves no task and no claim behind.
    fn prepare(handover: &Handover<'_>) -> Result<Self, NoStart> {
        let fail = |what: &'static str| {
            move |error: std::io::Error| NoStart::from_io(what, &error).not_the_program()
        };
        let lost = || NoStart {
            why: NotStarted::ClaimLost,
            text: "the attempt was claimed before".to_owned(),
        };
        let spec = &handover.spec;
        let dir =
            record::open(&spec.dir).map_err(fail("the attempt's directory cannot be opened"))?;
        if record::is_claimed(dir.as_fd()) {
            return Err(lost());
        }
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|errno| fail("the keeper cannot become a subreaper")(errno.into()))?;
        let signals = sys::child_signals().map_err(fail("signals cannot be received"))?;
        let timer = poll::timer().map_err(fail("no timer can be had"))?;
        let record = KeeperRecord {
            version: PROTOCOL_VERSION,
            binary: env!("CARGO_PKG_VERSION").to_owned(),
            attempt: spec.attempt.clone(),
            boot_id: process::boot_id().map_err(fail("the boot id cannot be read"))?,
            keeper: ProcessRef::own()
                .ok_or_else(|| fail("/proc cannot be read")(std::io::Error::other("no entry")))?,
            containment: None,
            cgroup: None,
            task: None,
        };
        // Before the socket and the other files: they belong to the first keeper there ever was.
        if !record::register_keeper(dir.as_fd(), &record)
            .map_err(fail("the keeper's record cannot be written"))?
        {
            return Err(lost());
        }
        let listener = crate::socket::listen(dir.as_fd(), record::SOCKET, 4)
            .map_err(fail("the keeper's socket cannot be made"))?;
        let slot =
            ExitSlot::reserve(dir.as_fd()).map_err(fail("no disk space for the exit record"))?;
        Ok(Self {
            record,
            dir,
            listener,
            signals,
            timer,
            leash: None,
            leash_over: false,
            runner: None,
            state: FromKeeper::Starting,
            task: None,
            slot: Some(slot),
            exit: None,
            over_since_us: None,
            taken: false,
        })
    }

    /// Starts the task, or comes to know why not. The spec, with whatever is secret in it, ends here.
    fn start(&mut self, handover: Handover<'_>) {
        let Handover {
            spec,
            runner,
            leash,
            placement,
        } = handover;
        self.leash = leash;
        self.runner = Some(Runner {
            packets: runner,
            told: false,
        });
        self.tell();
        if let Err(failure) = self.try_start(&spec, placement) {
            self.never_started(failure);
        }
    }

    fn try_start(&mut self, spec: &StartSpec, placement: &Placement) -> Result<(), NoStart> {
        let place = Place::make(spec, placement)?;
        self.record.containment = Some(place.containment);
        self.record.cgroup = place.leaf.as_ref().map(|leaf| leaf.path().to_owned());
        let log = self.make_log(spec)?;
        let fail = |what: &'static str| {
            move |error: std::io::Error| NoStart::from_io(what, &error).not_the_program()
        };
        // Before the claim: whoever finds the keeper dead must find the task's cgroup too.
        record::update_keeper(self.dir.as_fd(), &self.record)
            .map_err(fail("the keeper's record cannot be written"))?;
        if process::boot_time_us() >= spec.lease_until_boot_us {
            return Err(NoStart {
                why: NotStarted::LeaseOver,
                text: "the lease was over".to_owned(),
            });
        }
        if !record::claim(self.dir.as_fd(), "keeper").map_err(fail("the claim cannot be made"))? {
            let text = "the attempt was claimed by somebody else".to_owned();
            return Err(NoStart {
                why: NotStarted::ClaimLost,
                text,
            });
        }
        let started_us = process::boot_time_us();
        let started = start::start(spec, place)?;
        self.record.task = Some(started.child);
        // Without this line the task is still found by its cgroup, its marker and its parent.
        let _ = record::update_keeper(self.dir.as_fd(), &self.record);
        self.task = Some(Task::new(spec, started, log, started_us));
        Ok(())
    }

    fn make_log(&self, spec: &StartSpec) -> Result<Log, NoStart> {
        let fail = |error: std::io::Error| {
            NoStart::from_io("the log cannot be made", &error).not_the_program()
        };
        let dir = self.dir.try_clone().map_err(fail)?;
        Log::create(dir, spec.log_max_bytes, spec.log_files).map_err(fail)
    }

    /// The attempt is over without ever having run.
    fn never_started(&mut self, failure: NoStart) {
        if let Some(path) = self.record.cgroup.take() {
            remove_leaf(&path);
        }
        let text = cut(failure.text);
        // Who won the claim speaks for the attempt; a record here would contradict it.
        if failure.why == NotStarted::ClaimLost {
            if let Some(slot) = self.slot.take() {
                slot.discard(self.dir.as_fd());
            }
        } else {
            self.exit = Some(self.exit_record(Ended::NotStarted(failure.why), &text));
        }
        self.be_over(FromKeeper::NotStarted {
            why: failure.why,
            text,
        });
    }

    /// The task is over and its tree is gone.
    fn finished(&mut self, task: Task) {
        let now = process::boot_time_us();
        match task.finish() {
            Err(failure) => self.never_started(failure),
            Ok(end) => {
                let exit = ExitRecord {
                    cause: end.cause,
                    started_boot_us: end.started_us,
                    duration_ms: now.saturating_sub(end.started_us) / 1000,
                    log_bytes: end.log_bytes,
                    log_dropped_bytes: end.log_dropped_bytes,
                    ..self.exit_record(end.ended, "")
                };
                self.exit = Some(exit.clone());
                self.be_over(FromKeeper::Finished(exit));
            }
        }
    }

    fn exit_record(&self, ended: Ended, text: &str) -> ExitRecord {
        ExitRecord {
            version: PROTOCOL_VERSION,
            attempt: self.record.attempt.clone(),
            boot_id: self.record.boot_id.clone(),
            ended,
            cause: Cause::Own,
            started_boot_us: 0,
            duration_ms: 0,
            log_bytes: 0,
            log_dropped_bytes: 0,
            containment: self.record.containment,
            text: text.to_owned(),
        }
    }

    /// Persist, then speak.
    fn be_over(&mut self, state: FromKeeper) {
        self.over_since_us = Some(process::boot_time_us());
        self.write_exit();
        self.change(state);
    }

    /// Writes the record if it is due; what fails is tried again later, the space is there.
    fn write_exit(&mut self) {
        if let (Some(slot), Some(exit)) = (&mut self.slot, &self.exit)
            && !slot.is_written()
        {
            let _ = slot.write(self.dir.as_fd(), exit);
        }
    }

    /// Whether everything there is to write is written.
    fn is_recorded(&self) -> bool {
        self.exit.is_none() || self.slot.as_ref().is_some_and(ExitSlot::is_written)
    }
}

fn remove_leaf(path: &Path) {
    if let Ok(leaf) = crate::containment::Leaf::open(path) {
        crate::containment::Tree::Cgroup(leaf).remove();
    }
}

/// Reads from a non-blocking pipe until it is empty or at its end (`true`).
fn read_to_end(pipe: &mut File, into: &mut Vec<u8>) -> bool {
    use std::io::Read;
    match pipe.read_to_end(into) {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}
