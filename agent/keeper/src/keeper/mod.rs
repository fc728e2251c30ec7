//! The keeper: one small process that owns one task from the last check before exec to the end's record, and then, if
//! its runner has another attempt for it, that one.
//!
//! Forked by the spawner, never executed by itself. It needs nobody to do its duty: deadline, dead-man timer, log and
//! record work without runner, spawner and network. It never starts anything twice and never starts without having
//! made the claim. It keeps one attempt at a time and begins the next one only when nothing of the last one is left;
//! what it was handed ahead of that waits (`ahead`).

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{Mode, OFlags};

use crate::claim::{self, Claim, Draft};
use crate::containment::{Leaf, Placement, Tree};
use crate::door::Token;
use crate::exec::Leash;
use crate::failpoint;
use crate::packets::Packets;
use crate::process::{self, ProcessRef};
use crate::protocol::{
    Cause, Ended, ExitRecord, FromKeeper, NotStarted, PROTOCOL_VERSION, StartSpec, cut,
};
use crate::record::KeeperRecord;
use crate::seal::SealSpec;
use crate::secrets::{Files, Handed, SecretError};
use crate::spawner::Place as BoardPlace;
use crate::sys::{self, child::Stack};
use crate::wall::Beside;

mod ahead;
mod log;
mod poll;
mod spare;
mod start;
mod task;
mod workdir;

use ahead::Ahead;
use log::Log;
use spare::{Spare, Used};
use start::{NoStart, Started};
use task::Task;
use workdir::Workdir;

/// How long a task must live before it is said to run: the end of a shorter one says it all.
const WORTH_SAYING_US: u64 = 3_000;
/// How long a task must live before its keeper lets go of memory: who had to fetch it back at once would pay for it
/// with a tenth of a millisecond.
const WORTH_LETTING_GO_US: u64 = 50_000;

/// What a keeper gets from the spawner that forks it.
pub(crate) struct Handover<'a> {
    pub(crate) spec: Box<StartSpec>,
    pub(crate) runner: Packets,
    pub(crate) leash: Option<Leash>,
    pub(crate) placement: &'a Placement,
    /// Where the spawner looks up which attempt this keeper holds.
    pub(crate) board: BoardPlace,
    /// What a later runner shows.
    pub(crate) token: &'a Token,
}

/// Makes what a keeper of this build makes itself, for one of an older build that expects it to be there.
pub(crate) fn make_directories(spec: &StartSpec) -> io::Result<()> {
    workdir::make_attempt(&spec.dir)?;
    Workdir::default().make(spec).map(drop)
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
        Some(handover.board.as_raw_fd()),
        handover.leash.as_ref().map(AsRawFd::as_raw_fd),
        crate::secrets::beside(&handover.spec).map(|fd| fd.as_raw_fd()),
    ]
    .into_iter()
    .flatten()
    .collect();
    sys::close_all_but(&keep);
    // Fails only for a process group leader, which a fork is not.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(process::KEEPER);
    // A task's `kill -1` or a shutdown's TERM must not cost the outcome; KILL is what ends a keeper.
    sys::ignore(&sys::IGNORED);
    let _ = handover.runner.set_nonblocking(true);
    let Handover {
        spec,
        runner,
        leash,
        placement,
        board,
        token,
    } = handover;
    match Means::get(placement, board, token) {
        Ok(means) => {
            let mut keeper = Keeper::new(means, runner, leash);
            keeper.begin(&spec);
            // Whatever is secret in it ends here.
            drop(spec);
            keeper.stay();
        }
        Err(failure) => {
            let not_started = FromKeeper::NotStarted {
                why: failure.why,
                text: cut(failure.text),
            };
            let _ = runner.send(&not_started, &[]);
        }
    }
}

/// What a keeper has for all its attempts.
struct Means<'a> {
    placement: &'a Placement,
    board: BoardPlace,
    token: &'a Token,
    own: ProcessRef,
    boot_id: String,
    signals: OwnedFd,
    timer: OwnedFd,
    null: OwnedFd,
    stack: Stack,
}

impl<'a> Means<'a> {
    fn get(placement: &'a Placement, board: BoardPlace, token: &'a Token) -> Result<Self, NoStart> {
        let fail = |what: &'static str| {
            move |error: io::Error| NoStart::from_io(what, &error).not_the_program()
        };
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|errno| fail("the keeper cannot become a subreaper")(errno.into()))?;
        let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        Ok(Self {
            placement,
            board,
            token,
            own: ProcessRef::own()
                .ok_or_else(|| fail("/proc cannot be read")(io::Error::other("no entry")))?,
            boot_id: process::boot_id().map_err(fail("the boot id cannot be read"))?,
            signals: sys::child_signals().map_err(fail("signals cannot be received"))?,
            timer: poll::timer().map_err(fail("no timer can be had"))?,
            null: null.map_err(|errno| fail("/dev/null cannot be opened")(errno.into()))?,
            stack: Stack::new().map_err(fail("no memory for a stack"))?,
        })
    }
}

/// The runner's connection, and whether it has been told the present state.
struct Runner {
    packets: Packets,
    told: bool,
}

/// A keeper with everything it holds.
struct Keeper<'a> {
    means: Means<'a>,
    leash: Option<Leash>,
    leash_over: bool,
    runner: Option<Runner>,
    /// Where a later runner connects; there from the moment at which the first one is gone.
    listener: Option<OwnedFd>,
    /// Who has come there last and has not shown yet that it is one.
    guest: Option<Packets>,
    /// The present state, which is all that a runner is ever told.
    state: FromKeeper,
    /// Until when a task that has just been started is not worth being told of.
    quiet_until_us: Option<u64>,
    /// When a task that still lives then is one that is mostly waited for.
    let_go_at_us: Option<u64>,
    attempt: Attempt,
    task: Option<Task>,
    /// What its runner has handed over for when the present attempt is over.
    ahead: Ahead,
    /// An empty cgroup of the keeper's own, for its next task.
    leaf: Option<Leaf>,
    workdir: Workdir,
    /// What the wall around the last task was made of.
    beside: Beside,
    /// A directory for the next attempt, if there was time to make one.
    spare: Option<Spare>,
    /// Once per attempt: what failed would fail again.
    may_prepare: bool,
    over_since_us: Option<u64>,
    taken: bool,
    /// When the timer fires; perhaps before anything is due.
    armed_us: Option<u64>,
}

/// What is on disk of the attempt at hand.
#[derive(Default)]
struct Attempt {
    id: String,
    path: PathBuf,
    dir: Option<Rc<OwnedFd>>,
    claim: Option<Claim>,
    containment: Option<crate::protocol::Containment>,
    /// What belongs into the claim's last line, once it is known.
    exit: Option<ExitRecord>,
    /// Its secrets that are files.
    secrets: Files,
}

impl<'a> Keeper<'a> {
    fn new(means: Means<'a>, runner: Packets, leash: Option<Leash>) -> Self {
        Self {
            means,
            leash,
            leash_over: false,
            runner: Some(Runner {
                packets: runner,
                told: true,
            }),
            listener: None,
            guest: None,
            state: FromKeeper::Starting,
            quiet_until_us: None,
            let_go_at_us: None,
            attempt: Attempt::default(),
            task: None,
            ahead: Ahead::default(),
            leaf: None,
            workdir: Workdir::default(),
            beside: Beside::default(),
            spare: None,
            may_prepare: false,
            over_since_us: None,
            taken: false,
            armed_us: None,
        }
    }

    /// Starts an attempt's task, or comes to know why not. Nothing of an earlier attempt is left at this moment.
    fn begin(&mut self, spec: &StartSpec) {
        self.state = FromKeeper::Starting;
        self.over_since_us = None;
        self.listener = None;
        self.guest = None;
        self.attempt = Attempt {
            id: spec.attempt.clone(),
            path: spec.dir.clone(),
            ..Attempt::default()
        };
        // First of all: if this keeper dies, whatever it has made by then is looked for under this attempt.
        self.means.board.hold(&spec.attempt);
        failpoint::reach("keeper-begun");
        if let Err(failure) = self.try_begin(spec) {
            self.never_started(failure);
        }
    }

    fn try_begin(&mut self, spec: &StartSpec) -> Result<(), NoStart> {
        let fail = |what: &'static str| {
            move |error: io::Error| NoStart::from_io(what, &error).not_the_program()
        };
        let (dir, blank) = self
            .make_attempt(&spec.dir)
            .map_err(fail("the attempt's directory cannot be made"))?
            .ok_or_else(NoStart::claim_lost)?;
        let cwd = self
            .workdir
            .make(spec)
            .map_err(fail("the working directory cannot be made"))?;
        let (leaf, own) = (&mut self.leaf, self.means.own);
        let place = start::Place::make(spec, self.means.placement, leaf, own, cwd)?;
        self.attempt.containment = Some(place.containment);
        let record = KeeperRecord {
            version: PROTOCOL_VERSION,
            binary: env!("CARGO_PKG_VERSION").to_owned(),
            attempt: spec.attempt.clone(),
            boot_id: self.means.boot_id.clone(),
            keeper: self.means.own,
            containment: Some(place.containment),
            cgroup: place.leaf.as_ref().map(|leaf| leaf.path().to_owned()),
            task: None,
            about: spec.about.clone(),
            sealed: spec.seal.is_some(),
            sealed_with: spec.seal.as_ref().map(SealSpec::sealed_with),
        };
        let seal = spec.seal.as_ref();
        let witness = seal.and_then(|seal| seal.witness(&spec.attempt));
        let draft = match blank {
            Some(blank) => blank.fill(dir.as_fd(), record, witness),
            None => Draft::write(dir.as_fd(), record, witness),
        };
        let draft = draft.map_err(fail("the keeper's record cannot be written"))?;
        failpoint::reach("keeper-drafted");
        if process::boot_time_us() >= spec.lease_until_boot_us {
            draft.discard(dir.as_fd());
            return Err(NoStart {
                why: NotStarted::LeaseOver,
                text: "the lease was over".to_owned(),
            });
        }
        failpoint::reach("keeper-leased");
        let made = draft
            .make(dir.as_fd())
            .map_err(fail("the claim cannot be made"))?;
        self.attempt.claim = Some(made.ok_or_else(NoStart::claim_lost)?);
        failpoint::reach("keeper-claimed");
        let dir = self.attempt.dir.insert(Rc::new(dir));
        let log = Log::of(Rc::clone(dir), spec);
        let started_us = process::boot_time_us();
        let handed =
            Handed::make(spec, &mut self.attempt.secrets).map_err(|error| no_secrets(&error))?;
        let started = start::start(spec, place, &self.means, &handed, &mut self.beside)?;
        drop(handed);
        failpoint::reach("keeper-started");
        self.quiet_until_us = Some(started_us.saturating_add(WORTH_SAYING_US));
        self.let_go_at_us = Some(started_us.saturating_add(WORTH_LETTING_GO_US));
        self.task = Some(Task::new(spec, started, log, started_us));
        Ok(())
    }

    /// The attempt's directory, and a blank draft in it where that was made before; `None` when somebody made the claim.
    fn make_attempt(&mut self, dir: &Path) -> io::Result<Option<(OwnedFd, Option<Draft>)>> {
        match self.spare.take().map(|spare| spare.become_one(dir)) {
            Some(Used::Here(dir, blank)) => return Ok(Some((dir, Some(blank)))),
            Some(Used::NotNeeded(spare)) => self.spare = Some(spare),
            Some(Used::Not) | None => {}
        }
        let (dir, is_new) = workdir::make_attempt(dir)?;
        Ok((is_new || !claim::is_made(dir.as_fd())).then_some((dir, None)))
    }

    /// The attempt is over without ever having run.
    fn never_started(&mut self, failure: NoStart) {
        let text = cut(failure.text);
        // Who won the claim speaks for the attempt; a record here would contradict it.
        if failure.why != NotStarted::ClaimLost {
            self.attempt.exit = Some(self.exit_record(Ended::NotStarted(failure.why), &text));
        }
        self.be_over(FromKeeper::NotStarted {
            why: failure.why,
            text,
        });
    }

    /// The task is over and its tree is gone.
    fn finished(&mut self, task: Task) {
        let now = process::boot_time_us();
        let (end, tree) = task.finish();
        if let Tree::Cgroup(leaf) = tree {
            self.leaf = leaf.for_another();
        }
        match end {
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
                self.attempt.exit = Some(exit.clone());
                self.be_over(FromKeeper::Finished(exit));
            }
        }
    }

    fn exit_record(&self, ended: Ended, text: &str) -> ExitRecord {
        ExitRecord {
            version: PROTOCOL_VERSION,
            attempt: self.attempt.id.clone(),
            boot_id: self.means.boot_id.clone(),
            ended,
            cause: Cause::Own,
            started_boot_us: 0,
            duration_ms: 0,
            log_bytes: 0,
            log_dropped_bytes: 0,
            containment: self.attempt.containment,
            text: text.to_owned(),
        }
    }

    /// Persist, then speak.
    fn be_over(&mut self, state: FromKeeper) {
        // Nobody is left who may read them.
        self.attempt.secrets = Files::default();
        self.over_since_us = Some(process::boot_time_us());
        self.may_prepare = true;
        self.quiet_until_us = None;
        self.let_go_at_us = None;
        failpoint::reach("keeper-ended");
        self.write_exit();
        failpoint::reach("keeper-recorded");
        self.change(state);
    }

    /// Writes the end if it is due; what fails is tried again later, the space is there. An attempt that was never
    /// claimed leaves nothing: whoever looks makes the claim and knows that nothing ran.
    fn write_exit(&mut self) {
        if let (Some(claim), Some(exit)) = (&mut self.attempt.claim, &self.attempt.exit)
            && !claim.is_over()
        {
            let _ = claim.exit(exit);
        }
    }

    /// Whether everything there is to write is written.
    fn is_recorded(&self) -> bool {
        let claim = self.attempt.claim.as_ref();
        self.attempt.exit.is_none() || claim.is_none_or(Claim::is_over)
    }

    /// A task that has lived for a while is named on disk and told of.
    fn tell_of_task(&mut self) {
        let Some(task) = &mut self.task else {
            return;
        };
        let process = task.process();
        if let Some(claim) = &mut self.attempt.claim {
            // Without this line the task is still found by its cgroup, its marker and its parent.
            let _ = claim.task(process);
        }
        self.change(FromKeeper::Running {
            pid: process.pid,
            start_time: process.start_time,
        });
    }
}

fn no_secrets(error: &SecretError) -> NoStart {
    match error {
        SecretError::HandOver { source, .. } => {
            NoStart::from_io(&error.to_string(), source).not_the_program()
        }
        SecretError::Missing => NoStart {
            why: NotStarted::Other,
            text: error.to_string(),
        },
    }
}

impl Drop for Keeper<'_> {
    fn drop(&mut self) {
        if let Some(leaf) = self.leaf.take() {
            leaf.remove();
        }
        if let Some(spare) = self.spare.take() {
            spare.remove();
        }
        self.workdir.remove();
    }
}
