//! Fake spawner, keepers and tasks of one host: what really ran is counted here, not by the code under test.
//!
//! The order is that of the real keeper: forked, lease looked at, claim made, executed. A runner that comes back looks in
//! the order of the real one: exit record, living keeper, which it knows by its claim, claim.

use std::collections::VecDeque;

use outpost_agent_core::Found;
use outpost_agent_core::event::{Event, KeeperSaid, NotStarted};
use outpost_proto::ids::{AttemptId, Incarnation};
use outpost_proto::message::Assign;
use outpost_proto::outcome::{KillReason, Outcome, Report, StartFailure};

use crate::invariants::{Checked, broken};
use crate::queue::{At, MS, SECOND};
use crate::shop::{Entry, LINGERS_MS, entry};
use crate::trace::note;
use crate::world::{Happening, World};

/// One keeper, its task and its files.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) assign: Assign,
    pub(crate) entry: Option<&'static Entry>,
    pub(crate) lease_until: u64,
    pub(crate) phase: Phase,
    claim: Option<Claimant>,
    /// The exit record.
    record: Option<KeeperSaid>,
    /// Why the task is being ended.
    cause: Option<Outcome>,
    pub(crate) began: At,
    /// When the runner was last heard to be in touch.
    in_touch: At,
    /// When its newest word arrives.
    pub(crate) last_word: At,
    /// Who waits for its end at the same keeper, in order.
    pub(crate) line: VecDeque<AttemptId>,
    /// Whom its keeper went on with.
    pub(crate) heir: Option<AttemptId>,
    /// It waits, and its runner wants it back.
    pub(crate) asked_back: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Asked for; nothing exists.
    Requested,
    /// Handed over to the keeper of another one; nothing of its own exists.
    Waits,
    /// The keeper has begun it; nothing on disk says so yet.
    Forked,
    /// The task's process exists.
    Running,
    /// Both are gone, and left a record.
    Over,
    /// Both are gone without a record.
    Dead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claimant {
    Keeper,
    Runner,
}

impl Keeper {
    pub(crate) fn new(assign: Assign, lease_until: u64, phase: Phase) -> Self {
        Self {
            entry: entry(&assign.entry),
            assign,
            lease_until,
            phase,
            claim: None,
            record: None,
            cause: None,
            began: 0,
            in_touch: 0,
            last_word: 0,
            line: VecDeque::new(),
            heir: None,
            asked_back: false,
        }
    }

    /// Nothing is left of it, and somebody waits for that at its keeper.
    pub(crate) fn goes_on(&self) -> bool {
        self.phase == Phase::Over && !self.line.is_empty()
    }

    /// What a copy of its files says: what lived when they were copied does not live there.
    pub(crate) fn files(&self) -> Self {
        let phase = match self.phase {
            Phase::Requested | Phase::Waits | Phase::Forked | Phase::Running | Phase::Dead => {
                Phase::Dead
            }
            Phase::Over => Phase::Over,
        };
        Self {
            claim: self.claim,
            record: self.record,
            began: self.began,
            in_touch: self.in_touch,
            last_word: self.last_word,
            ..Self::new(self.assign.clone(), self.lease_until, phase)
        }
    }
}

/// What a keeper does by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Fork,
    Exec,
    /// Begins whoever waits for the end of this one.
    GoOn,
    /// Reads that this one, which waits, is wanted back.
    GiveBack,
    /// The task ends; how it would have ended by itself.
    End(Outcome),
    TimedOut,
    /// Looks whether the runner was in touch.
    DeadMan,
}

impl World {
    /// The runner asks for a start.
    pub(crate) fn start_task(&mut self, site: usize, assign: Assign, lease_until: u64) -> Checked {
        let attempt = assign.attempt;
        self.invariant_a_start_is_asked_for_once(site, attempt)?;
        let keeper = Keeper::new(assign, lease_until, Phase::Requested);
        self.sites[site].keepers.insert(attempt, keeper);
        let at = self.now + self.plan.start_takes(&mut self.dice);
        self.keeper_later(site, attempt, at, Step::Fork);
        Ok(())
    }

    pub(crate) fn keeper_later(&mut self, site: usize, attempt: AttemptId, at: At, step: Step) {
        let life = self.sites[site].incarnation;
        self.queue.put(
            at,
            Happening::Keeper {
                site,
                life,
                attempt,
                step,
            },
        );
    }

    pub(crate) fn keeper_step(
        &mut self,
        site: usize,
        life: Incarnation,
        attempt: AttemptId,
        step: Step,
    ) -> Checked {
        if self.sites[site].incarnation != life {
            return Ok(());
        }
        if let Some(at) = self.asleep_until(site) {
            self.keeper_later(site, attempt, at, step);
            return Ok(());
        }
        let Some(keeper) = self.sites[site].keepers.get_mut(&attempt) else {
            return Ok(());
        };
        match (keeper.phase, step) {
            (Phase::Requested, Step::Fork) => {
                if keeper.claim.is_some() {
                    keeper.phase = Phase::Over;
                    return Ok(());
                }
                keeper.phase = Phase::Forked;
                let at = self.now + self.plan.start_takes(&mut self.dice);
                self.keeper_later(site, attempt, at, Step::Exec);
            }
            (Phase::Forked, Step::Exec) => {
                self.exec(site, attempt)?;
                self.goes_on_soon(site, attempt);
            }
            (Phase::Over, Step::GoOn) => self.go_on(site, attempt),
            (Phase::Waits, Step::GiveBack) => self.give_back(site, attempt),
            (Phase::Running, Step::End(outcome)) => {
                let cause = keeper.cause;
                if cause.is_none() {
                    self.invariant_what_is_cancelled_is_ended(site, attempt)?;
                }
                self.task_ends(site, attempt, cause.unwrap_or(outcome));
                self.goes_on_soon(site, attempt);
            }
            (Phase::Running, Step::TimedOut) => self.end_task(site, attempt, Outcome::TimedOut),
            (Phase::Running, Step::DeadMan) => self.dead_man(site, attempt),
            (
                Phase::Requested
                | Phase::Waits
                | Phase::Forked
                | Phase::Running
                | Phase::Over
                | Phase::Dead,
                Step::Fork
                | Step::Exec
                | Step::GoOn
                | Step::GiveBack
                | Step::End(_)
                | Step::TimedOut
                | Step::DeadMan,
            ) => {}
        }
        Ok(())
    }

    fn exec(&mut self, site: usize, attempt: AttemptId) -> Checked {
        let shown = self.sites[site].clock.shows(self.now);
        let fails = self.dice.percent(2) && !self.plan.directed;
        let Some(keeper) = self.sites[site].keepers.get_mut(&attempt) else {
            return Ok(());
        };
        let stopped = if shown >= keeper.lease_until {
            Some(NotStarted::LeaseOver)
        } else if fails {
            Some(NotStarted::Failed(StartFailure::Resources))
        } else if keeper.cause.is_some() {
            Some(NotStarted::Cancelled)
        } else {
            None
        };
        if let Some(why) = stopped {
            self.trace.count("keeper did not start its task");
            let said = KeeperSaid::NotStarted(why);
            keeper.phase = Phase::Over;
            keeper.record = Some(said);
            self.keeper_says(site, attempt, said);
            return Ok(());
        }
        if keeper.claim.is_some() {
            keeper.phase = Phase::Over;
            self.trace.count("keeper came too late for the claim");
            return Ok(());
        }
        keeper.claim = Some(Claimant::Keeper);
        keeper.phase = Phase::Running;
        keeper.began = self.now;
        keeper.in_touch = self.now;
        let (lease_until, assign, entry) =
            (keeper.lease_until, keeper.assign.clone(), keeper.entry);
        note!(
            self,
            "s{site} runs {attempt} ({} {} of {})",
            assign.entry,
            assign.task,
            assign.run
        );
        self.started(site, &assign, shown, lease_until)?;
        self.keeper_says(site, attempt, KeeperSaid::Running);
        let Some(entry) = entry else {
            return Err(broken(
                "nothing runs that the catalogue does not have",
                attempt,
            ));
        };
        let lingers = entry.lingers > 0 && self.dice.percent(entry.lingers);
        let (shortest, longest) = if lingers { LINGERS_MS } else { entry.runs_ms };
        let drawn = self.dice.span(shortest, longest);
        let host = self.sites[site].host.as_deref();
        let takes = host.and_then(|host| host.takes_ms(entry.name));
        let runs = takes.unwrap_or(drawn) * MS;
        let fails = self.dice.percent(entry.fails);
        let outcome = if fails {
            Outcome::Failed
        } else {
            Outcome::Succeeded
        };
        self.keeper_later(site, attempt, self.now + runs, Step::End(outcome));
        let limit = assign.deadline_ms.unwrap_or(u64::MAX).min(entry.timeout_ms);
        self.keeper_later(site, attempt, self.now + limit * MS, Step::TimedOut);
        if let Some(seconds) = entry.stop_after_s {
            let at = self.now + u64::from(seconds) * SECOND;
            self.keeper_later(site, attempt, at, Step::DeadMan);
        }
        Ok(())
    }

    fn dead_man(&mut self, site: usize, attempt: AttemptId) {
        let Some(keeper) = self.sites[site].keepers.get(&attempt) else {
            return;
        };
        let seconds = keeper
            .entry
            .and_then(|entry| entry.stop_after_s)
            .unwrap_or(0);
        let due = keeper.in_touch + u64::from(seconds) * SECOND;
        if due > self.now {
            self.keeper_later(site, attempt, due, Step::DeadMan);
        } else {
            self.trace.count("dead-man timer fired");
            self.end_task(site, attempt, Outcome::Killed(KillReason::Lease));
        }
    }

    /// TERM; the tree is gone within the grace.
    fn end_task(&mut self, site: usize, attempt: AttemptId, cause: Outcome) {
        let obeys = self.dice.percent(70);
        let Some(keeper) = self.sites[site].keepers.get_mut(&attempt) else {
            return;
        };
        if keeper.cause.is_some() {
            return;
        }
        keeper.cause = Some(cause);
        if keeper.phase != Phase::Running {
            return;
        }
        let grace = keeper.entry.map_or(0, |entry| u64::from(entry.grace_s)) * SECOND;
        let obeys = match keeper.entry.filter(|_| self.plan.directed) {
            Some(entry) => entry.name != "stubborn",
            None => obeys,
        };
        let takes = if obeys {
            self.dice.span(MS, SECOND).min(grace)
        } else {
            grace
        };
        self.keeper_later(site, attempt, self.now + takes, Step::End(cause));
    }

    fn task_ends(&mut self, site: usize, attempt: AttemptId, outcome: Outcome) {
        let now = self.now;
        let Some(keeper) = self.sites[site].keepers.get_mut(&attempt) else {
            return;
        };
        let report = Report {
            outcome,
            may_have_started: true,
            duration_ms: (now - keeper.began) / MS,
            exit_code: None,
            count: None,
        };
        keeper.phase = Phase::Over;
        keeper.record = Some(KeeperSaid::Finished(report));
        note!(self, "s{site} {attempt} ends: {outcome}");
        self.truth.ends(attempt, outcome);
        self.truth.last_end = now;
        self.keeper_says(site, attempt, KeeperSaid::Finished(report));
    }

    /// A keeper's word is on its way to the runner that lives now.
    pub(crate) fn keeper_says(&mut self, site: usize, attempt: AttemptId, said: KeeperSaid) {
        let longest = if self.plan.directed { 100 } else { 2 * MS };
        let takes = self.dice.between(100, longest);
        let Some(process) = self.sites[site]
            .process
            .as_ref()
            .map(|process| process.number)
        else {
            return;
        };
        let mut at = self.now + takes;
        if let Some(keeper) = self.sites[site].keepers.get_mut(&attempt) {
            at = at.max(keeper.last_word);
            keeper.last_word = at;
        }
        let event = Event::Keeper { attempt, said };
        self.queue.put(
            at,
            Happening::Heard {
                site,
                process,
                event,
            },
        );
    }

    pub(crate) fn cancel_task(&mut self, site: usize, attempt: AttemptId) {
        if self.ask_back(site, attempt) {
            self.trace.count("attempt held ahead cancelled");
            return;
        }
        self.end_task(site, attempt, Outcome::Cancelled);
    }

    pub(crate) fn in_touch(&mut self, site: usize) {
        let now = self.now;
        for keeper in self.sites[site].keepers.values_mut() {
            keeper.in_touch = now;
        }
    }

    pub(crate) fn discard(&mut self, site: usize, attempt: AttemptId) -> Checked {
        let keepers = &mut self.sites[site].keepers;
        if keepers.get(&attempt).is_some_and(Keeper::goes_on) {
            // Its files go; its keeper is still to begin the next one.
            return Ok(());
        }
        let keeper = keepers.remove(&attempt);
        let alive = |keeper: Keeper| match keeper.phase {
            Phase::Waits | Phase::Running => true,
            // Once a runner has made the claim, its keeper does nothing more.
            Phase::Forked => keeper.claim.is_none(),
            Phase::Requested | Phase::Over | Phase::Dead => false,
        };
        if keeper.is_some_and(alive) {
            return Err(broken("the files of what may still run are kept", attempt));
        }
        Ok(())
    }

    /// kill -9 of a keeper: its whole tree goes with it.
    pub(crate) fn kill_keeper(&mut self, site: usize, attempt: AttemptId) {
        let Some(keeper) = self.sites[site].keepers.get_mut(&attempt) else {
            return;
        };
        if !matches!(keeper.phase, Phase::Forked | Phase::Running) {
            return;
        }
        note!(self, "s{site} the keeper of {attempt} is killed");
        keeper.phase = Phase::Dead;
        self.truth
            .ends(attempt, Outcome::Killed(KillReason::Keeper));
        if self.sites[site].process.is_some() {
            self.says_what_is_found(site, attempt);
        }
        self.line_is_lost(site, attempt);
    }

    /// Of an attempt whose keeper fell silent.
    pub(crate) fn says_what_is_found(&mut self, site: usize, attempt: AttemptId) {
        let said = match self.look(site, attempt) {
            Found::Running => KeeperSaid::Running,
            Found::Finished(report) => KeeperSaid::Finished(report),
            Found::NeverStarted => KeeperSaid::Gone { claimed: false },
            Found::Gone { claimed } => KeeperSaid::Gone { claimed },
        };
        self.keeper_says(site, attempt, said);
    }

    /// What a runner finds of an attempt that its journal says was begun.
    pub(crate) fn look(&mut self, site: usize, attempt: AttemptId) -> Found {
        let Some(keeper) = self.sites[site].keepers.get_mut(&attempt) else {
            // The start was never asked for, and the claim keeps it so.
            return Found::NeverStarted;
        };
        match keeper.record {
            Some(KeeperSaid::Finished(report)) => return Found::Finished(report),
            Some(
                KeeperSaid::NotStarted(_)
                | KeeperSaid::GivenBack
                | KeeperSaid::Running
                | KeeperSaid::Gone { .. },
            ) => {
                return Found::NeverStarted;
            }
            None => {}
        }
        if keeper.phase == Phase::Running {
            return Found::Running;
        }
        match keeper.claim {
            Some(Claimant::Keeper) => Found::Gone { claimed: true },
            Some(Claimant::Runner) => Found::NeverStarted,
            None => {
                keeper.claim = Some(Claimant::Runner);
                Found::NeverStarted
            }
        }
    }

    /// A runner that found a living keeper connects to it, and is told its state.
    pub(crate) fn adopt(&mut self, site: usize, attempt: AttemptId) {
        let running = |keeper: &Keeper| keeper.phase == Phase::Running;
        if self.sites[site].keepers.get(&attempt).is_some_and(running) {
            self.trace.count("running task adopted");
            self.keeper_says(site, attempt, KeeperSaid::Running);
        }
    }
}
