//! The keeper's one loop: wait for whatever comes next, take note of it, act, speak.
//!
//! Order within a round, by rank: the leash; what has ended; output; commands; timers. Ends come before commands so that
//! a task which was already over is never reported as cancelled.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::door::Shown;
use crate::packets::PacketError;
use crate::process;
use crate::protocol::{Cause, FromKeeper, ToKeeper};
use crate::record;
use crate::secrets;

use super::{Keeper, Runner};

/// How long a recorded end is held for a connected runner that does not react, in microseconds.
const LINGER_US: u64 = 60_000_000;
/// Time between two tries to write the end, or to listen, in microseconds.
const AGAIN_US: u64 = 1_000_000;
/// Commands taken from one connection before other events are looked at.
const COMMANDS_AT_A_TIME: usize = 16;

/// A timer in boot time: suspended time counts, and it fires right after resume.
pub(super) fn timer() -> io::Result<OwnedFd> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    Ok(rustix::time::timerfd_create(
        TimerfdClockId::Boottime,
        flags,
    )?)
}

/// What is ready, as the last wait found it.
#[derive(Debug, Default, Clone, Copy)]
struct Ready {
    signals: bool,
    timer: bool,
    leash: bool,
    listener: bool,
    guest: bool,
    runner: bool,
    task: bool,
}

impl Keeper<'_> {
    /// Stays until the end is recorded and told, and its runner has nothing more to do for it.
    pub(super) fn stay(&mut self) {
        while !self.may_leave() {
            self.arm();
            let ready = self.wait();
            let now = process::boot_time_us();
            if ready.leash {
                self.watch_leash(now);
            }
            self.watch_task(ready, now);
            if ready.listener || ready.guest {
                // Who is there already goes first: what it shows may have come meanwhile.
                self.welcome();
            }
            if ready.listener {
                self.accept();
                self.welcome();
            }
            if ready.runner {
                // What is left is there in the next round, which comes at once.
                let _ = self.obey(now);
            }
            self.act(now);
            self.follow();
            self.prepare();
            self.open_door();
        }
    }

    fn may_leave(&self) -> bool {
        let Some(over_since) = self.over_since_us else {
            return false;
        };
        if self.leash_over || self.taken {
            return true;
        }
        let waited = process::boot_time_us().saturating_sub(over_since) >= LINGER_US;
        self.is_recorded() && (self.runner.is_none() || waited)
    }

    fn arm(&mut self) {
        let at = match (&self.task, self.over_since_us) {
            (Some(task), _) => task.next_deadline_us(),
            (None, Some(since)) if self.is_recorded() => Some(since.saturating_add(LINGER_US)),
            (None, _) => Some(process::boot_time_us().saturating_add(AGAIN_US)),
        };
        let door = self
            .wants_door()
            .then(|| process::boot_time_us() + AGAIN_US);
        let at = [at, self.quiet_until_us, self.let_go_at_us, door];
        let at = at.into_iter().flatten().min();
        // A timer that fires too early costs one look; setting it for each of many short tasks costs more.
        let fires_before = |armed: u64| at.is_none_or(|at| armed <= at.max(1));
        if self.armed_us.is_some_and(fires_before) {
            return;
        }
        let Some(at) = at else { return };
        // All zero disarms, so that a deadline in the past is one microsecond after boot.
        let at = at.max(1);
        self.armed_us = Some(at);
        let value = Timespec {
            tv_sec: i64::try_from(at / 1_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(at % 1_000_000 * 1000).unwrap_or(0),
        };
        let interval = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = Itimerspec {
            it_interval: interval,
            it_value: value,
        };
        let timer = &self.means.timer;
        let _ = rustix::time::timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &value);
    }

    fn wait(&mut self) -> Ready {
        let read = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds = Vec::with_capacity(10);
        fds.push(read(self.means.signals.as_fd()));
        fds.push(read(self.means.timer.as_fd()));
        let (leash, listener) = (fds.len(), fds.len() + usize::from(self.leash.is_some()));
        fds.extend(self.leash.as_ref().map(|leash| read(leash.as_fd())));
        fds.extend(
            self.listener
                .as_ref()
                .map(|listener| read(listener.as_fd())),
        );
        let guest = fds.len();
        fds.extend(self.guest.as_ref().map(|guest| read(guest.as_fd())));
        let runner = fds.len();
        if let Some(runner) = &self.runner {
            let flags = if runner.told && self.ahead.word().is_none() {
                PollFlags::IN
            } else {
                PollFlags::IN | PollFlags::OUT
            };
            fds.push(PollFd::from_borrowed_fd(runner.packets.as_fd(), flags));
        }
        let tasks = fds.len();
        if let Some(task) = &self.task {
            fds.extend(
                [task.exec_status(), task.output(), task.init()]
                    .into_iter()
                    .flatten()
                    .map(read),
            );
            fds.extend(
                task.events()
                    .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::PRI)),
            );
        }
        // An error leaves nothing noted; the next round looks again.
        let _ = rustix::event::poll(&mut fds, None);
        let any = |places: std::ops::Range<usize>| {
            let mut fds = fds.get(places).unwrap_or_default().iter();
            fds.any(|fd| !fd.revents().is_empty())
        };
        let ready = Ready {
            signals: any(0..1),
            timer: any(1..2),
            leash: any(leash..listener),
            listener: any(listener..guest),
            guest: any(guest..runner),
            runner: any(runner..tasks),
            task: any(tasks..fds.len()),
        };
        drop(fds);
        if ready.signals {
            drain(self.means.signals.as_fd());
        }
        if ready.timer {
            drain(self.means.timer.as_fd());
            self.armed_us = None;
        }
        ready
    }

    fn watch_leash(&mut self, now_us: u64) {
        if self.leash.as_ref().is_some_and(crate::exec::Leash::is_over) {
            self.leash = None;
            self.leash_over = true;
            if let Some(task) = &mut self.task {
                task.end_at_once(Cause::Leash, now_us);
            }
        }
    }

    fn watch_task(&mut self, ready: Ready, now_us: u64) {
        let Some(task) = &mut self.task else {
            return;
        };
        if ready.task {
            task.look_at_exec();
            task.read_output();
        }
        if ready.signals || ready.task {
            task.reap(now_us);
        }
        if self.quiet_until_us.is_some_and(|until| until <= now_us) {
            self.quiet_until_us = None;
        }
        let untold = self.quiet_until_us.is_none() && self.state == FromKeeper::Starting;
        if untold && task.has_executed() && !task.has_ended() {
            self.tell_of_task();
        }
        if self.let_go_at_us.is_some_and(|at| at <= now_us) {
            self.let_go_at_us = None;
            self.beside = crate::wall::Beside::default();
            crate::sys::memory::let_go();
        }
    }

    fn accept(&mut self) {
        let listener = self.listener.as_ref().map(AsFd::as_fd);
        if let Some(packets) = listener.and_then(crate::socket::accept) {
            self.guest = Some(packets);
        }
    }

    /// A later runner has come, if it shows that it is one: the newest wins.
    fn welcome(&mut self) {
        let Some(guest) = self.guest.take() else {
            return;
        };
        match self.means.token.look(&guest) {
            Shown::Token => {
                self.ahead.clear();
                self.runner = Some(Runner {
                    packets: guest,
                    told: false,
                });
            }
            Shown::Nothing => self.guest = Some(guest),
            Shown::Other => {}
        }
    }

    /// Takes what the runner says. Gives whether that was all of it.
    pub(super) fn obey(&mut self, now_us: u64) -> bool {
        for _ in 0..COMMANDS_AT_A_TIME {
            let Some(runner) = &mut self.runner else {
                return true;
            };
            match runner.packets.recv::<ToKeeper>() {
                Ok(Some((ToKeeper::Query, _))) => runner.told = false,
                Ok(Some((ToKeeper::Taken, _))) => self.taken = self.over_since_us.is_some(),
                Ok(Some((ToKeeper::Next(mut spec), fds))) => {
                    secrets::join(&mut spec, fds.into_iter().next());
                    if !self.ahead.take(spec) {
                        self.hang_up();
                    }
                }
                Ok(Some((ToKeeper::GiveBack { attempt }, _))) => self.ahead.give_back(&attempt),
                Ok(Some((ToKeeper::End { attempt }, _))) => {
                    if attempt == self.attempt.id {
                        self.cancel(now_us);
                    } else {
                        self.ahead.give_back(&attempt);
                    }
                }
                Ok(Some((ToKeeper::StillConnected, _))) => {
                    if let Some(task) = &mut self.task {
                        task.still_connected(now_us);
                    }
                }
                Ok(Some((ToKeeper::Cancel, _))) => self.cancel(now_us),
                Err(PacketError::WouldBlock) => return true,
                // Gone, or talking nonsense: the task does not care.
                Ok(None)
                | Err(
                    PacketError::Io(_)
                    | PacketError::TooLong(_)
                    | PacketError::Version(_)
                    | PacketError::Parse(_),
                ) => self.hang_up(),
            }
        }
        false
    }

    fn cancel(&mut self, now_us: u64) {
        if let Some(task) = &mut self.task {
            task.end(Cause::Cancelled, now_us);
        }
    }

    /// The runner is gone, or says what is not understood.
    fn hang_up(&mut self) {
        self.runner = None;
        self.ahead.clear();
    }

    fn act(&mut self, now_us: u64) {
        if let Some(task) = &mut self.task {
            task.tick(now_us);
        }
        if let Some(task) = self.task.take_if(|task| task.is_gone()) {
            self.finished(task);
        }
        self.write_exit();
    }

    pub(super) fn change(&mut self, state: FromKeeper) {
        self.state = state;
        if let Some(runner) = &mut self.runner {
            runner.told = false;
        }
        self.tell();
    }

    /// Whether somebody might want to connect who could not.
    fn wants_door(&self) -> bool {
        self.runner.is_none() && self.listener.is_none() && self.over_since_us.is_none()
    }

    /// Listens for a later runner once the first one is gone; what fails is tried again.
    fn open_door(&mut self) {
        if let (true, Some(dir)) = (self.wants_door(), &self.attempt.dir) {
            self.listener = crate::socket::listen(dir.as_fd(), record::SOCKET, 4).ok();
        }
    }

    /// Tells what was not told yet; a runner that does not read is told later.
    pub(super) fn tell(&mut self) {
        while let Some(runner) = &mut self.runner {
            let given_back = self.ahead.word();
            let word = match &given_back {
                Some(word) => word,
                None if !runner.told => &self.state,
                None => return,
            };
            match runner.packets.send(word, &[]) {
                Ok(()) if given_back.is_some() => self.ahead.said(),
                Ok(()) => runner.told = true,
                Err(PacketError::WouldBlock) => return,
                Err(
                    PacketError::Io(_)
                    | PacketError::TooLong(_)
                    | PacketError::Version(_)
                    | PacketError::Parse(_),
                ) => self.hang_up(),
            }
        }
    }
}

/// Empties a signal or timer descriptor, so that it is not ready any more.
fn drain(fd: BorrowedFd<'_>) {
    let mut buffer = [0; 1024];
    let _ = rustix::io::read(fd, &mut buffer);
}
