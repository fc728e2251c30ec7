//! What becomes of attempts: begun when they may be, moved by what their keepers say, turned away when the site's rules
//! changed.

use outpost_driver::Micros;
use outpost_proto::ids::{AttemptId, EventSeq};
use outpost_proto::limits::HELD_ATTEMPTS;
use outpost_proto::message::AttemptState;
use outpost_proto::outcome::Refusal;

use crate::commands::{Refused, draining};
use crate::event::{KeeperSaid, NotStarted, Rules, Speech};
use crate::session::Phase;
use crate::state::{Input, Step, step};
use crate::{Agent, Announced, Out, Trouble};

/// No more is started while this many outcomes are unacknowledged: half of what may be held, so that what is already
/// assigned still fits.
const UNACKNOWLEDGED: usize = HELD_ATTEMPTS / 2;

/// What is said of an attempt for which the disk has no room.
fn no_room() -> Refused {
    let why = "the disk has too little room; make some".to_owned();
    (Refusal::Disk, why)
}

/// What follows when an attempt comes back of which upstream was told already that it begins: it can wait here no more,
/// which would be to go back, and nothing of it ever ran.
fn given_back_late(cancelled: bool) -> KeeperSaid {
    if cancelled {
        KeeperSaid::NotStarted(NotStarted::Cancelled)
    } else {
        KeeperSaid::Gone { claimed: false }
    }
}

impl Agent {
    pub(crate) fn keeper(
        &mut self,
        now: Micros,
        attempt: AttemptId,
        said: KeeperSaid,
        out: &mut Out,
    ) {
        let Some(held) = self.attempts.get(attempt) else {
            return;
        };
        let (cancelled, told) = (
            held.record.cancel_requested,
            held.record.event_seq != EventSeq(0),
        );
        // A cancel that came before the keeper was there is said again to the keeper that is.
        if said == KeeperSaid::Running && cancelled {
            self.due.cancels.push(attempt);
        }
        if said == KeeperSaid::GivenBack && !cancelled {
            self.attempts.index.lines.shut(attempt);
        }
        let said = if said == KeeperSaid::GivenBack && told {
            given_back_late(cancelled)
        } else {
            said
        };
        if matches!(said, KeeperSaid::NotStarted(NotStarted::Refused(_))) {
            self.refusals = self.refusals.saturating_add(1);
        }
        self.feed(now, attempt, Input::Keeper(said), out);
        if said == KeeperSaid::GivenBack {
            self.back_in_line(now, attempt, out);
        }
    }

    /// An attempt that waited at a keeper waits here again, for what has changed meanwhile too.
    fn back_in_line(&mut self, now: Micros, attempt: AttemptId, out: &mut Out) {
        let held = self.attempts.get(attempt);
        let Some(held) = held.filter(|held| held.record.state == AttemptState::Assigned) else {
            return;
        };
        if held.record.cancel_requested {
            return self.feed(now, attempt, Input::Cancel, out);
        }
        let judged = if self.gates.draining.is_some() || self.gates.told_to_drain {
            Err(draining())
        } else if self.gates.no_room {
            Err(no_room())
        } else {
            self.judge_again(&held.record.assign)
        };
        let entry = held.record.assign.entry.clone();
        match judged {
            Ok(terms) => self.attempts.index.entries.set_terms(&entry, terms),
            Err((refusal, why)) => self.turn_away(now, attempt, refusal, why, out),
        }
    }

    /// Puts one input through the table and does what follows.
    pub(crate) fn feed(&mut self, now: Micros, attempt: AttemptId, input: Input, out: &mut Out) {
        let Some(held) = self.attempts.get(attempt) else {
            return;
        };
        let forgotten = held.forgotten;
        match step(held.record.state, input) {
            Step::Stay => {}
            Step::Unexpected => self.trouble = Some(Trouble::Unexpected(attempt)),
            Step::EndTree => self.due.cancels.push(attempt),
            Step::To(next) => {
                self.attempts.set(attempt, next, now);
                if forgotten && matches!(next, AttemptState::Finished(_)) {
                    self.settle_attempt(now, attempt, out);
                }
            }
        }
    }

    pub(crate) fn catalogue(&mut self, now: Micros, rules: &Rules, out: &mut Out) {
        self.rules = Some(Announced {
            rules: rules.clone(),
            catalogue: rules.announced(),
        });
        if let Some(session) = self.connector.session.as_mut() {
            session.announce = session.phase >= Phase::Reconciling;
        }
        // What waits at keepers is looked at when it is back.
        self.attempts.index.lines.want_all();
        // What waits was chosen under an earlier catalogue: the site's newest word counts.
        for attempt in self.attempts.requeue() {
            let Some(held) = self.attempts.get(attempt) else {
                continue;
            };
            match self.judge_again(&held.record.assign) {
                Ok(terms) => {
                    let entry = held.record.assign.entry.clone();
                    self.attempts.index.entries.set_terms(&entry, terms);
                }
                Err((refusal, why)) => self.turn_away(now, attempt, refusal, why, out),
            }
        }
    }

    /// Refuses everything that waits: someone else may run it.
    pub(crate) fn turn_all_away(&mut self, now: Micros, why: Refused, out: &mut Out) {
        let (refusal, why) = why;
        self.attempts.index.lines.want_all();
        for attempt in self
            .attempts
            .ids(|held| held.record.state == AttemptState::Assigned)
        {
            self.turn_away(now, attempt, refusal, why.clone(), out);
        }
    }

    /// What runs goes on: its end is recorded in space that was taken before. What waits may run elsewhere.
    pub(crate) fn room(&mut self, now: Micros, room: bool, out: &mut Out) {
        self.gates.no_room = !room;
        if !room {
            self.turn_all_away(now, no_room(), out);
        }
    }

    /// Refuses an attempt that was taken before.
    pub(crate) fn turn_away(
        &mut self,
        now: Micros,
        attempt: AttemptId,
        refusal: Refusal,
        why: String,
        out: &mut Out,
    ) {
        let Some(held) = self.attempts.get(attempt) else {
            return;
        };
        let assign = Box::new(held.record.assign.clone());
        out.speech.push(Speech::Refused {
            attempt,
            refusal,
            assign,
            why,
        });
        self.refusals = self.refusals.saturating_add(1);
        self.feed(now, attempt, Input::Refuse(refusal), out);
    }

    /// Begins what may begin: only on a ready session, only under its live lease.
    pub(crate) fn start(&mut self, now: Micros, out: &mut Out) {
        let lease = self
            .connector
            .ready()
            .and_then(|session| session.lease.to_start(now));
        if let Some(lease_until) = lease.filter(|_| !self.is_closed()) {
            self.begin_all(now, lease_until, out);
        } else {
            self.attempts.index.lines.want_all();
        }
        let back = self.attempts.index.lines.ask();
        out.speech
            .extend(back.into_iter().map(|attempt| Speech::TakeBack { attempt }));
    }

    /// Whether the site, or what is known of the orchestrator, lets nothing begin.
    fn is_closed(&self) -> bool {
        self.site.paused
            || self.settings.observe
            || self.counters.hold.is_some()
            || self.gates.stopping.is_some()
            || self.gates.no_room
            || self.gates.draining.is_some()
    }

    /// First whoever gets a slot at once; then whoever may wait at a keeper for one.
    fn begin_all(&mut self, now: Micros, lease_until: Micros, out: &mut Out) {
        self.attempts.index.lines.close_long(now);
        let slots = usize::from(self.settings.slots);
        while self.attempts.index.slots_taken() < slots
            && self.attempts.over() < UNACKNOWLEDGED
            && let Some(attempt) = self.attempts.next_in_line()
        {
            self.begin(now, attempt, None, lease_until, out);
        }
        let free = slots.saturating_sub(self.attempts.index.slots_taken());
        if free > 0 {
            self.attempts.index.lines.want(free);
            return;
        }
        while let Some(behind) = self
            .attempts
            .index
            .lines
            .shortest(usize::from(self.settings.ahead))
            && self.attempts.over() < UNACKNOWLEDGED
            && let Some(attempt) = self.attempts.next_in_line()
            && self.attempts.may_follow(attempt)
        {
            self.begin(now, attempt, Some(behind), lease_until, out);
        }
    }

    fn begin(
        &mut self,
        now: Micros,
        attempt: AttemptId,
        behind: Option<AttemptId>,
        lease_until: Micros,
        out: &mut Out,
    ) {
        self.feed(now, attempt, Input::Begin, out);
        match behind {
            Some(first) => self.attempts.index.lines.join(first, attempt),
            None => self.attempts.lead(attempt, now),
        }
        let Some(held) = self.attempts.get(attempt) else {
            return;
        };
        let assign = Box::new(held.record.assign.clone());
        out.speech.push(Speech::Start {
            assign,
            lease_until,
            behind,
        });
        self.turn.starts.push(attempt);
        self.due.starts.push(attempt);
    }
}
