//! Attempts that wait at a keeper for its present one to be over, so that the next begins without asking anybody.
//!
//! What waits here has no claim: whoever wants to keep it from beginning has it given back, or makes the claim. It begins
//! only when nothing of the last attempt is left, its end is recorded and told, and no word from the runner is unread;
//! without a runner nothing does, because then nobody could take it back any more.

use std::collections::VecDeque;

use crate::failpoint;
use crate::process;
use crate::protocol::{FromKeeper, StartSpec};

use super::{Keeper, Spare};

/// More than any runner gives.
const MOST: usize = 16;

/// What waits, and what is still to be said of what does not any more.
#[derive(Default)]
pub(super) struct Ahead {
    specs: VecDeque<Box<StartSpec>>,
    given_back: VecDeque<String>,
}

impl Ahead {
    /// Takes one more; `false` when there are too many.
    pub(super) fn take(&mut self, spec: Box<StartSpec>) -> bool {
        let has_room = self.specs.len() < MOST;
        if has_room {
            self.specs.push_back(spec);
        }
        has_room
    }

    /// Lets an attempt go that waits; one that does not is none of this one's business.
    pub(super) fn give_back(&mut self, attempt: &str) {
        let place = self.specs.iter().position(|spec| spec.attempt == attempt);
        if let Some(spec) = place.and_then(|place| self.specs.remove(place)) {
            self.given_back.push_back(spec.attempt);
        }
    }

    /// Nobody is there who could have it back: whoever comes finds no claim, and makes it.
    pub(super) fn clear(&mut self) {
        self.specs.clear();
        self.given_back.clear();
    }

    /// What is to be said next of what was given back.
    pub(super) fn word(&self) -> Option<FromKeeper> {
        let attempt = self.given_back.front()?.clone();
        Some(FromKeeper::GivenBack { attempt })
    }

    /// It was said.
    pub(super) fn said(&mut self) {
        self.given_back.pop_front();
    }
}

impl Keeper<'_> {
    /// Begins what waits, as long as it may.
    pub(super) fn follow(&mut self) {
        loop {
            self.tell();
            if !self.is_free() || self.ahead.specs.is_empty() {
                return;
            }
            failpoint::reach("keeper-following");
            // A word that came meanwhile may have it back, or be the end of whoever could.
            if !self.obey(process::boot_time_us()) {
                // The rest is there already, so that the next round comes at once.
                return;
            }
            if !self.is_free() {
                continue;
            }
            let Some(spec) = self.ahead.specs.pop_front() else {
                continue;
            };
            if process::boot_time_us() >= spec.lease_until_boot_us {
                // Its runner may have a newer lease.
                self.ahead.given_back.push_back(spec.attempt);
            } else {
                self.begin(&spec);
            }
        }
    }

    /// Makes the next attempt's directories ready while nothing waits; what fails is done when it is needed.
    pub(super) fn prepare(&mut self) {
        let may = std::mem::take(&mut self.may_prepare);
        if !may || !self.is_free() || !self.ahead.specs.is_empty() {
            return;
        }
        // Its runner, which has just been told of the end, may be waiting for this processor.
        rustix::thread::sched_yield();
        self.workdir.set_aside(self.means.own);
        if self.spare.is_none() {
            self.spare = Spare::make(&self.attempt.path, self.means.own).ok();
        }
    }

    /// Whether nothing of the last attempt is left to be done.
    fn is_free(&self) -> bool {
        self.task.is_none()
            && self.over_since_us.is_some()
            && self.is_recorded()
            && !self.leash_over
            && self.runner.as_ref().is_some_and(|runner| runner.told)
    }
}
