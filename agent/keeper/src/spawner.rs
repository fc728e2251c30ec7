//! The spawner: forks one keeper per task, and ends what a dead keeper leaves behind.
//!
//! One per state directory (a lock), started by the runner, surviving it in its own session. Single-threaded and without
//! an async runtime, which is what makes forking cheap and safe. It never executes a task itself, and keepers need
//! nothing from it once they live. It is a subreaper: the orphans of a keeper that was killed come to it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::time::Timespec;

use crate::containment::{self, Placement, Remains};
use crate::door::{Shown, Token};
use crate::exec::Leash;
use crate::failpoint;
use crate::keeper;
use crate::packets::{PacketError, Packets};
use crate::process::{self, ProcessRef};
use crate::protocol::{FromSpawner, MAX_KEEPERS, NotStarted, StartSpec, ToSpawner, cut};
use crate::record;
use crate::secrets;
use crate::sys::{self, Fork, Reaped};

mod board;
mod launch;

use board::Board;
pub(crate) use board::Place;
use launch::Options;
pub use launch::main;

/// The spawner's socket in the state directory.
pub(crate) const SOCKET: &str = "spawner.sock";
/// Connections held at a time: one runner, one to follow it, and people looking.
const MAX_CONNECTIONS: usize = 16;
/// Time between two rounds against what a dead keeper left.
const KILL_AGAIN: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};
/// How often, and how far apart, the end of a leash tries to remove the cgroups.
const LEAVE_TRIES: u32 = 50;
const LEAVE_AGAIN: Duration = Duration::from_millis(10);
/// How long the end of a leash waits for the keepers' own.
const LEASH_WAIT_US: u64 = 1_000_000;

/// A keeper that was forked and not reaped, and its first attempt.
struct Held {
    keeper: ProcessRef,
    attempt: String,
    dir: PathBuf,
    place: u32,
}

/// A keeper that ended, and the attempt that it held last.
struct Gone {
    keeper: ProcessRef,
    dir: PathBuf,
}

/// Somebody who has connected.
struct Connection {
    packets: Packets,
    /// Whether it has shown the token.
    is_known: bool,
}

/// The spawner with everything it holds.
struct Spawner {
    listener: OwnedFd,
    signals: OwnedFd,
    leash: Option<Leash>,
    leash_over_since_us: Option<u64>,
    placement: Placement,
    board: Board,
    /// What who connects shows first.
    token: Token,
    connections: Vec<Connection>,
    keepers: BTreeMap<u32, Held>,
    remains: Vec<Remains>,
    /// Keepers that ended without a record, when it could not be seen what they left.
    unseen: Vec<Gone>,
    orphans: bool,
    idle_us: u64,
    idle_since_us: u64,
    /// Whether there is nothing to do, and memory was let go of.
    rests: bool,
}

impl Gone {
    /// Whether this is the keeper: the start time of one that could not be seen when it was forked is 0.
    fn is(&self, keeper: ProcessRef) -> bool {
        self.keeper == keeper || (self.keeper.start_time == 0 && self.keeper.pid == keeper.pid)
    }
}

/// What an answer needs to know beside the request.
enum Answer {
    Keep,
    Close,
}

impl Spawner {
    fn new(listener: OwnedFd, token: Token, options: Options) -> io::Result<Self> {
        // Before the signal descriptor: the search forks and waits by itself.
        let placement = Placement::find(&options.state);
        if let Err(error) = placement.enter() {
            say(&format!("the spawner cannot enter its cgroup: {error}"));
        }
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(Self {
            listener,
            token,
            signals: sys::child_signals()?,
            leash: options.leash,
            leash_over_since_us: None,
            placement,
            board: Board::new()?,
            connections: Vec::new(),
            keepers: BTreeMap::new(),
            remains: Vec::new(),
            unseen: Vec::new(),
            orphans: false,
            idle_us: options.idle_us,
            idle_since_us: process::boot_time_us(),
            rests: false,
        })
    }

    fn serve(&mut self) {
        while !self.may_leave() {
            self.rest();
            self.wait();
            self.watch_leash();
            self.reap();
            self.clear_up();
            self.accept();
            self.answer();
        }
        self.leave();
    }

    /// Lets go of memory once there is nothing to do.
    fn rest(&mut self) {
        let rests = self.keepers.is_empty();
        if rests && !self.rests {
            sys::memory::let_go();
        }
        self.rests = rests;
    }

    /// With a leash nothing stays behind: an earlier spawner's keepers are ending at this moment too.
    fn leave(&self) {
        let tries = if self.leash_over_since_us.is_some() {
            LEAVE_TRIES
        } else {
            1
        };
        for _ in 0..tries {
            if self.placement.leave() {
                return;
            }
            std::thread::sleep(LEAVE_AGAIN);
        }
    }

    fn may_leave(&mut self) -> bool {
        let now = process::boot_time_us();
        if let Some(since) = self.leash_over_since_us {
            return self.keepers.is_empty() || now.saturating_sub(since) >= LEASH_WAIT_US;
        }
        let is_busy = !self.keepers.is_empty() || !self.connections.is_empty();
        if is_busy || self.is_clearing() {
            self.idle_since_us = now;
        }
        now.saturating_sub(self.idle_since_us) >= self.idle_us
    }

    /// Whether something may be left of dead keepers.
    fn is_clearing(&self) -> bool {
        self.orphans || !self.remains.is_empty() || !self.unseen.is_empty()
    }

    fn wait(&self) {
        let read = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds = vec![read(self.signals.as_fd()), read(self.listener.as_fd())];
        fds.extend(self.leash.as_ref().map(|leash| read(leash.as_fd())));
        fds.extend(
            self.connections
                .iter()
                .map(|connection| read(connection.packets.as_fd())),
        );
        let timeout = if self.is_clearing() || self.leash_over_since_us.is_some() {
            KILL_AGAIN
        } else {
            // A tenth more or less of idleness is no matter.
            let us = i64::try_from(self.idle_us / 10 + 1000).unwrap_or(i64::MAX);
            Timespec {
                tv_sec: us / 1_000_000,
                tv_nsec: us % 1_000_000 * 1000,
            }
        };
        // An error leaves nothing noted; the next round looks at everything again.
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
        let mut pending = [0; 1024];
        let _ = rustix::io::read(&self.signals, &mut pending);
    }

    fn watch_leash(&mut self) {
        if self.leash.as_ref().is_some_and(Leash::is_over) {
            self.leash = None;
            self.leash_over_since_us = Some(process::boot_time_us());
        }
    }

    fn reap(&mut self) {
        while let Reaped::Child { pid, status } = sys::reap() {
            // Others are orphans of a dead keeper.
            if let Some(held) = self.keepers.remove(&pid) {
                self.keeper_ended(&held, status);
            }
        }
    }

    /// A keeper that ended without a record may have left a tree behind.
    fn keeper_ended(&mut self, held: &Held, status: i32) {
        self.placement.remove_leaf(held.keeper);
        let attempt = self.board.leave(held.place);
        let attempt = attempt.as_ref().unwrap_or(&held.attempt);
        let dir = held.dir.with_file_name(attempt);
        if matches!(record::read_exit_record(&dir), Ok(Some(_))) {
            return;
        }
        self.orphans = true;
        if status != 0 {
            say(&format!(
                "the keeper of {attempt} ended ({:?}) without a record",
                sys::ended(status)
            ));
        }
        self.unseen.push(Gone {
            keeper: held.keeper,
            dir,
        });
    }

    /// Finds out what keepers left; what cannot be seen now is looked at again.
    fn look_at_unseen(&mut self) {
        let remains = &mut self.remains;
        self.unseen
            .retain(|gone| match record::read_keeper_record(&gone.dir) {
                Ok(Some(found)) => {
                    // A keeper that found another one before it leaves that one's record and task alone.
                    if gone.is(found.keeper) {
                        remains.push(Remains::of(&found));
                    }
                    false
                }
                // What is left without a word comes here as orphans.
                Ok(None) | Err(record::RecordError::Damaged { .. }) => false,
                Err(record::RecordError::Io { .. }) => true,
            });
    }

    /// Ends what dead keepers left, until nothing is left of it.
    fn clear_up(&mut self) {
        if self.orphans {
            let keepers = &self.keepers;
            self.orphans = containment::kill_orphans(|pid| keepers.contains_key(&pid));
        }
        self.look_at_unseen();
        self.remains.retain(|remains| {
            remains.kill(false);
            !matches!(remains.are_gone(false), Ok(true))
        });
    }

    fn accept(&mut self) {
        let Some(packets) = crate::socket::accept(self.listener.as_fd()) else {
            return;
        };
        if self.connections.len() >= MAX_CONNECTIONS {
            // Who came first and has not shown the token makes room.
            let strangers = |held: &Connection| !held.is_known;
            let Some(first) = self.connections.iter().position(strangers) else {
                return;
            };
            self.connections.remove(first);
        }
        self.connections.push(Connection {
            packets,
            is_known: false,
        });
    }

    fn answer(&mut self) {
        let mut connections = std::mem::take(&mut self.connections);
        connections.retain_mut(|connection| matches!(self.answer_one(connection), Answer::Keep));
        self.connections = connections;
    }

    /// Answers one request of one connection, so that each has its turn.
    fn answer_one(&mut self, connection: &mut Connection) -> Answer {
        if !connection.is_known {
            match self.token.look(&connection.packets) {
                Shown::Token => connection.is_known = true,
                Shown::Nothing => return Answer::Keep,
                Shown::Other => {
                    say("a connection is closed: it does not show the token");
                    return Answer::Close;
                }
            }
        }
        let reply = match connection.packets.recv::<ToSpawner>() {
            Err(PacketError::WouldBlock) => return Answer::Keep,
            Ok(None) => return Answer::Close,
            Ok(Some((ToSpawner::Status, _))) => self.status(),
            Ok(Some((ToSpawner::Start(spec), fds))) => self.start(spec, fds),
            Err(error) => {
                say(&format!("a connection is closed: {error}"));
                return Answer::Close;
            }
        };
        match connection.packets.send(&reply, &[]) {
            Ok(()) => Answer::Keep,
            // Who does not read answers does not get any: keepers speak for themselves.
            Err(_) => Answer::Close,
        }
    }

    fn status(&self) -> FromSpawner {
        FromSpawner::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            keepers: u32::try_from(self.keepers.len()).unwrap_or(u32::MAX),
            containment: self.placement.auto(),
        }
    }

    fn start(&mut self, spec: Box<StartSpec>, fds: Vec<OwnedFd>) -> FromSpawner {
        let (attempt, dir) = (spec.attempt.clone(), spec.dir.clone());
        failpoint::reach("spawner-asked");
        match self.fork_keeper(spec, fds) {
            Ok((keeper, place)) => {
                failpoint::reach("spawner-forked");
                let held = Held {
                    keeper,
                    attempt: attempt.clone(),
                    dir,
                    place,
                };
                self.keepers.insert(keeper.pid, held);
                FromSpawner::Started {
                    attempt,
                    pid: keeper.pid,
                    start_time: keeper.start_time,
                }
            }
            Err((failure, text)) => {
                say(&format!("no keeper for an attempt: {text}"));
                FromSpawner::StartFailed {
                    attempt: cut(attempt),
                    failure,
                    text: cut(text),
                }
            }
        }
    }

    fn fork_keeper(
        &mut self,
        mut spec: Box<StartSpec>,
        fds: Vec<OwnedFd>,
    ) -> Result<(ProcessRef, u32), (NotStarted, String)> {
        let other = |text: &str| (NotStarted::Other, text.to_owned());
        spec.check().map_err(|error| other(&error.to_string()))?;
        let mut fds = fds.into_iter();
        let runner = fds
            .next()
            .ok_or_else(|| other("the start came without the runner's socket"))?;
        secrets::join(&mut spec, fds.next());
        if self.leash_over_since_us.is_some() {
            return Err(other("the spawner is ending"));
        }
        let place = self.board.take().ok_or_else(|| {
            (
                NotStarted::Resources,
                format!("{MAX_KEEPERS} keepers live already"),
            )
        })?;
        let forked = self.fork_at(place, spec, runner).map_err(|error| {
            (
                NotStarted::Resources,
                format!("no keeper can be forked: {error}"),
            )
        });
        if forked.is_err() {
            self.board.leave(place);
        }
        Ok((forked?, place))
    }

    fn fork_at(&self, place: u32, spec: Box<StartSpec>, runner: OwnedFd) -> io::Result<ProcessRef> {
        let leash = self.leash.as_ref().map(Leash::try_clone).transpose()?;
        let board = self.board.place(place)?;
        match sys::fork()? {
            Fork::Child => keeper::run(keeper::Handover {
                spec,
                runner: Packets::from_fd(runner),
                leash,
                placement: &self.placement,
                board,
                token: &self.token,
            }),
            // Not reaped yet, so that its entry exists even if it has ended.
            Fork::Parent(pid) => {
                Ok(ProcessRef::of(pid).unwrap_or(ProcessRef { pid, start_time: 0 }))
            }
        }
    }
}

/// One line into the spawner's own log.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "spawner: {line}");
}
