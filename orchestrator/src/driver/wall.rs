//! Tells the core where the wall clock is. Everything is decided on the driver's clock, which never jumps; schedules
//! alone are kept on the wall clock, which people set and which a host's sleep moves.
//!
//! The kernel says when that happens, so nothing looks at the clock again and again.

use std::io;
use std::os::fd::OwnedFd;

use outpost_orchestrator_core::event::Event;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tracing::{info, warn};

use super::clock::Clock;

/// Differences up to this are no jump, in microseconds: the two clocks are read one after the other.
const SAME_US: u64 = 50_000;
/// Differences from this on are told to people.
const TELL_US: u64 = 2_000_000;

/// What the core was told, and what says that it has changed.
#[derive(Debug)]
pub(super) struct Wall {
    told: i64,
    set: Option<AsyncFd<OwnedFd>>,
}

impl Wall {
    /// The core believes at first that both clocks are one.
    pub(super) fn new() -> Self {
        #[expect(
            deprecated,
            reason = "an owned descriptor stays open and its own; the newer function is unsafe"
        )]
        let watch = AsyncFd::new;
        let set = watched().and_then(watch).inspect_err(
            |error| warn!(%error, "a wall clock that is set is noticed late: with the next event"),
        );
        Self {
            told: 0,
            set: set.ok(),
        }
    }

    /// What the core does not know yet, if anything.
    pub(super) fn news(&mut self, clock: Clock) -> Option<Event> {
        let ahead = clock.wall_is_ahead();
        let moved = ahead.abs_diff(self.told);
        if moved <= SAME_US {
            return None;
        }
        if moved >= TELL_US {
            info!(
                by_ms = ahead.saturating_sub(self.told) / 1000,
                "the wall clock jumped; schedules follow it"
            );
        }
        self.told = ahead;
        Some(Event::Wall { ahead })
    }

    /// Returns when the wall clock was set.
    pub(super) async fn set(&self) {
        let Some(set) = &self.set else {
            return std::future::pending().await;
        };
        match set.readable().await {
            Ok(mut ready) => {
                // Reading tells that it was cancelled; then it must be armed again.
                let _ = rustix::io::read(set, &mut [0; 8]);
                ready.clear_ready();
                if let Err(error) = arm(set.get_ref()) {
                    warn!(%error, "the wall clock's next jump will be noticed late");
                }
            }
            Err(_) => std::future::pending().await,
        }
    }
}

/// A timer that never fires, but is cancelled whenever the wall clock is set.
fn watched() -> io::Result<OwnedFd> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
    arm(&timer)?;
    Ok(timer)
}

fn arm(timer: &OwnedFd) -> io::Result<()> {
    let never = Itimerspec {
        it_interval: Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: Timespec {
            tv_sec: i64::MAX,
            tv_nsec: 0,
        },
    };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    timerfd_settime(timer, flags, &never)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::clock::wall;

    #[tokio::test]
    async fn the_core_is_told_of_a_jump_once() {
        let mut told = Wall::new();
        assert!(
            told.set.is_some(),
            "this kernel tells when the clock is set"
        );
        assert_eq!(told.news(Clock::starting_at_least_at(0)), None);
        let ahead_of_the_wall = Clock::starting_at_least_at(wall() + 3_600_000_000);
        let Some(Event::Wall { ahead }) = told.news(ahead_of_the_wall) else {
            panic!("a clock that is an hour ahead of the wall's is no news")
        };
        assert!(
            (-3_600_000_000..=-3_599_000_000).contains(&ahead),
            "{ahead}"
        );
        assert_eq!(told.news(ahead_of_the_wall), None);
    }
}
