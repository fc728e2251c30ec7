//! Replicas of the orchestrator on one database: who owns which tenant, what becomes of one that stands still, and what
//! must hold of their commits.
//!
//! Each tenant is one replica's, by a row with a fence that every commit is conditional on; a replica watches the rows
//! of others on a clock of its own and takes over what nobody keeps. Agents and people reach any replica; one that does
//! not own their tenant turns them away, and they try again. Handing them on to the owner is left out here: it would
//! change who is reached when, and nothing of what is decided. Where there is one orchestrator it owns everything by one
//! row, and takes that when it starts.

use std::collections::BTreeMap;

use outpost_driver::Micros;
use outpost_orchestrator_core::Orchestrator;
use outpost_orchestrator_core::event::Event;
use outpost_orchestrator_core::owner::{BEAT, Hold, Owner, TTL, Watch};
use outpost_orchestrator_core::record::Snapshot;
use outpost_proto::name::TenantName;

use crate::center::{Center, Process};
use crate::queue::{At, BootClock, MINUTE, MS, SECOND};
use crate::trace::note;
use crate::world::{Happening, World};

/// What is owned apart from the rest: one tenant; everything where there is one orchestrator.
pub(crate) type Scope = Option<TenantName>;

/// How far two replicas' wall clocks are apart at most.
const APART_S: u64 = 300;

/// One host of the orchestrator.
#[derive(Debug)]
pub(crate) struct Replica {
    /// What its process drew; none lives without.
    pub(crate) me: Option<u64>,
    /// Its own, which has nothing to do with anybody else's.
    clock: BootClock,
    /// How far its wall clock is ahead of the database host's, in microseconds.
    wall_ahead: i64,
    frozen_until: At,
    /// It stands still for so long in the middle of its next turn.
    stops_for: Option<At>,
    watches: BTreeMap<Scope, Watch>,
}

impl Replica {
    /// Whether a process lives there and is not stopped.
    pub(crate) fn is_awake(&self, now: At) -> bool {
        self.me.is_some() && self.frozen_until <= now
    }

    fn shows(&self, now: At) -> Micros {
        Micros(self.clock.shows(now))
    }
}

/// Whether this scope has the tenant.
fn has(scope: &Scope, tenant: &TenantName) -> bool {
    scope.as_ref().is_none_or(|own| own == tenant)
}

/// What a core for this scope loads.
pub(crate) fn scoped(mut snapshot: Snapshot, scope: &Scope) -> Snapshot {
    let Some(own) = scope else {
        return snapshot;
    };
    snapshot.tenants.retain(|record| record.tenant == *own);
    snapshot.workflows.retain(|record| record.tenant == *own);
    snapshot
        .workflow_states
        .retain(|record| record.tenant == *own);
    snapshot.runs.retain(|record| record.tenant == *own);
    let runs = &snapshot.runs;
    let of_them = |run| runs.binary_search_by_key(&run, |record| record.run).is_ok();
    snapshot.tasks.retain(|record| of_them(record.run));
    snapshot.attempts.retain(|record| record.tenant == *own);
    snapshot.agents.retain(|record| record.tenant == *own);
    snapshot.invites.retain(|record| record.tenant == *own);
    snapshot.keys.retain(|record| record.tenant == *own);
    snapshot
}

impl Center {
    /// The core at this replica that says it owns the tenant, rightly or not.
    pub(crate) fn seat_at(&self, replica: usize, tenant: &TenantName) -> Option<u64> {
        let seats = self.seats.iter();
        let mut own = seats.filter(|seat| seat.replica == replica && has(&seat.scope, tenant));
        own.next().map(|seat| seat.number)
    }

    /// The core that truly owns the tenant.
    pub(crate) fn owner_of(&self, tenant: &TenantName) -> Option<u64> {
        let mut own = self.seats.iter().filter(|seat| has(&seat.scope, tenant));
        own.find(|seat| self.is_owner(seat)).map(|seat| seat.number)
    }

    /// Whether its commits are admitted.
    pub(crate) fn is_owner(&self, seat: &Process) -> bool {
        let row = self.disk.owners.get(&seat.scope);
        row.is_some_and(|row| *row == seat.hold.row())
    }

    /// Whether everything is owned by somebody who lives.
    pub(crate) fn is_whole(&self) -> bool {
        let owned = |scope: &Scope| {
            let mut seats = self.seats.iter();
            seats.any(|seat| seat.scope == *scope && self.is_owner(seat))
        };
        self.scopes.iter().all(owned)
    }
}

impl World {
    /// As many as the plan has, with clocks of their own.
    pub(crate) fn make_replicas(&mut self, tenants: &[TenantName]) {
        let many = self.plan.replicas;
        let mut dice = crate::dice::Dice::new(many.wrapping_add(self.plan.quiet_from));
        for _ in 0..many {
            let drift_ppm = i64::try_from(dice.between(0, 400)).unwrap_or(0) - 200;
            let ahead = i64::try_from(dice.between(0, APART_S * SECOND)).unwrap_or(0);
            self.center.replicas.push(Replica {
                me: None,
                clock: BootClock::new(0, drift_ppm),
                wall_ahead: if many > 1 { ahead } else { 0 },
                frozen_until: 0,
                stops_for: None,
                watches: BTreeMap::new(),
            });
        }
        self.center.scopes = if many > 1 {
            self.calendar.clock_was_set();
            tenants.iter().cloned().map(Some).collect()
        } else {
            vec![None]
        };
    }

    fn is_alone(&self) -> bool {
        self.center.replicas.len() == 1
    }

    /// Whichever is reached.
    pub(crate) fn some_replica(&mut self) -> usize {
        if self.is_alone() {
            return 0;
        }
        let many = self.center.replicas.len();
        self.dice.below(many)
    }

    /// The one that a fault is for.
    pub(crate) fn aimed_replica(&mut self) -> usize {
        match self.center.aimed.take() {
            Some(replica) => replica,
            None => self.some_replica(),
        }
    }

    // --- processes

    pub(crate) fn start_replica(&mut self, replica: usize) {
        if self.center.replicas[replica].me.is_some() {
            return;
        }
        // Never drawn before, and no chance spent where nobody else draws.
        let me = self.center.processes + 1 + (u64::try_from(replica).unwrap_or(0) << 32);
        self.center.processes += 1;
        self.center.replicas[replica].me = Some(me);
        self.center.cut_speech = false;
        self.center.disk.trouble.pressing = None;
        note!(self, "the orchestrator starts");
        if self.is_alone() {
            let row = Owner::next(self.center.disk.owners.get(&None).copied(), me);
            return self.take_over(replica, None, row);
        }
        self.center.replicas[replica].watches.clear();
        let at = self.now + self.dice.between(MS, 3 * SECOND);
        self.queue
            .put(at, Happening::OwnersLookedAt { replica, me });
    }

    /// kill -9 of one replica's process, with everything it owns.
    pub(crate) fn crash_replica(&mut self, replica: usize) {
        let host = &mut self.center.replicas[replica];
        (host.frozen_until, host.stops_for) = (0, None);
        if host.me.take().is_none() {
            return;
        }
        note!(self, "the orchestrator crashes");
        let silent = self.dice.percent(30);
        let gone = |seat: &Process| seat.replica == replica;
        let numbers: Vec<u64> = self
            .center
            .seats
            .iter()
            .filter(|seat| gone(seat))
            .map(|seat| seat.number)
            .collect();
        self.all_closed(&numbers, silent);
        self.center.seats.retain(|seat| !gone(seat));
        let down = self.dice.span(100 * MS, self.plan.longest_outage);
        self.queue
            .put(self.now + down, Happening::StartReplica { replica });
    }

    /// All of them, but what stands still.
    pub(crate) fn crash_replicas(&mut self) {
        for replica in 0..self.center.replicas.len() {
            if self.is_alone() || self.center.replicas[replica].is_awake(self.now) {
                self.crash_replica(replica);
            }
        }
    }

    /// SIGSTOP, and CONT later: between two turns.
    pub(crate) fn freeze_replica(&mut self, replica: usize) {
        let until = self.now + self.outage();
        self.stands_still(replica, until);
    }

    /// The same in the middle of the next turn: that one is decided, and goes on to its commit later.
    pub(crate) fn freeze_in_turn(&mut self, replica: usize) {
        let left = self.plan.quiet_from.saturating_sub(self.now).max(SECOND);
        let lasts = self.dice.span(SECOND, 4 * MINUTE).min(left);
        self.center.replicas[replica].stops_for = Some(lasts);
    }

    /// A restore begins once no owner can be sure any more: one that went on before would have been noticed.
    pub(crate) fn owners_cannot_be_sure_any_more(&mut self) {
        let wait = At::try_from(TTL.as_micros()).unwrap_or(At::MAX);
        for replica in 0..self.center.replicas.len() {
            let until = self.center.replicas[replica].frozen_until;
            if until > self.now {
                self.stands_still(replica, until.max(self.now + wait));
            }
        }
    }

    fn stands_still(&mut self, replica: usize, until: At) {
        self.center.replicas[replica].frozen_until = until;
        let seats = self.center.seats.iter_mut();
        for seat in seats.filter(|seat| seat.replica == replica) {
            seat.not_before = seat.not_before.max(until);
        }
    }

    // --- rows

    /// A replica changes the rows it owns, and looks at the others.
    pub(crate) fn owners_looked_at(&mut self, replica: usize, me: u64) {
        let host = &self.center.replicas[replica];
        if host.me != Some(me) {
            return;
        }
        let frozen = host.frozen_until;
        let beat = At::try_from(BEAT.as_micros()).unwrap_or(At::MAX);
        let next = self.dice.between(beat * 9 / 10, beat * 11 / 10);
        // Who goes on after a stop goes on where it was, before it looks again.
        let at = frozen.max(self.now) + next;
        self.queue
            .put(at, Happening::OwnersLookedAt { replica, me });
        let full = self.now < self.center.disk.trouble.full_until;
        if frozen > self.now || full {
            return;
        }
        let mut taken = false;
        for scope in self.center.scopes.clone() {
            let mut seats = self.center.seats.iter();
            let own = seats.find(|seat| seat.replica == replica && seat.scope == scope);
            if let Some(number) = own.map(|seat| seat.number) {
                self.keep(number);
            } else {
                taken |= self.watch(replica, me, scope, taken);
            }
        }
    }

    /// Changes the row of a seat once more; whoever cannot lets go of everything.
    fn keep(&mut self, number: u64) -> bool {
        let now = self.now;
        let Some(seat) = self
            .center
            .seats
            .iter_mut()
            .find(|seat| seat.number == number)
        else {
            return false;
        };
        let shown = self.center.replicas[seat.replica].shows(now);
        let found = self.center.disk.owners.get(&seat.scope).copied();
        let scope = seat.scope.clone();
        match seat.hold.beat(shown, found) {
            Some(row) => {
                self.center.disk.owners.insert(scope, row);
                true
            }
            None => {
                self.trace
                    .count("replica stopped serving what another one took");
                self.stand_down(number);
                false
            }
        }
    }

    /// Whether it took what it looked at. Of what nobody ever owned it takes one at a time, so that others have some.
    fn watch(&mut self, replica: usize, me: u64, scope: Scope, taken: bool) -> bool {
        let found = self.center.disk.owners.get(&scope).copied();
        if found.is_none() && taken {
            return false;
        }
        let host = &mut self.center.replicas[replica];
        let shown = host.shows(self.now);
        let watch = host.watches.entry(scope.clone()).or_default();
        let Some(row) = watch.look(shown, found, me) else {
            return false;
        };
        if found.is_some() {
            self.trace.count("tenant taken over by another replica");
        }
        self.take_over(replica, scope, row);
        true
    }

    fn take_over(&mut self, replica: usize, scope: Scope, row: Owner) {
        let host = &mut self.center.replicas[replica];
        host.watches.remove(&scope);
        let hold = Hold::taken(row, host.shows(self.now));
        self.center.disk.owners.insert(scope.clone(), row);
        let now = self.database_time(self.now);
        let snapshot = scoped(self.center.disk.mirror.snapshot(now), &scope);
        let core = Orchestrator::new(self.center.settings, self.dice.seed(), now, snapshot);
        self.center.processes += 1;
        let number = self.center.processes;
        note!(
            self,
            "replica {replica} owns {scope:?}, fence {}",
            row.fence
        );
        let seat = Process::new((number, replica, scope), hold, core, self.now);
        self.center.seats.push(seat);
        self.learns_the_wall(number);
    }

    /// It serves this no longer: its streams end, and whoever asked is told to ask again.
    pub(crate) fn stand_down(&mut self, number: u64) {
        let found = self
            .center
            .seats
            .iter()
            .position(|seat| seat.number == number);
        let Some(found) = found else {
            return;
        };
        self.all_closed(&[number], false);
        let seat = self.center.seats.remove(found);
        for request in seat.calls.into_values() {
            self.ask_again_later(request);
        }
        for renewing in seat.renewals.into_values() {
            self.renewal_answered(&renewing, None);
        }
    }

    /// Whether a core may decide now: it is sure of its row, or looks at it first. What was decided before it was
    /// stopped goes to its commit all the same.
    pub(crate) fn may_decide(&mut self, number: u64) -> bool {
        let now = self.now;
        let alone = self.is_alone();
        let Some(seat) = self
            .center
            .seats
            .iter_mut()
            .find(|seat| seat.number == number)
        else {
            return false;
        };
        let host = &mut self.center.replicas[seat.replica];
        if !seat.inbox.is_empty()
            && seat.stopped.is_none()
            && let Some(lasts) = host.stops_for.take()
        {
            seat.stopped = Some((now, seat.inbox.len()));
            let replica = seat.replica;
            self.stands_still(replica, now + lasts);
            return false;
        }
        let shown = host.shows(now);
        if alone || seat.stopped.is_some() || seat.hold.is_sure(shown) {
            return true;
        }
        if now < self.center.disk.trouble.full_until {
            seat.not_before = now + SECOND;
            return false;
        }
        self.keep(number)
    }

    // --- the wall clock

    /// As the driver does with its first turn, and when the clock was set.
    pub(crate) fn learns_the_wall(&mut self, number: u64) {
        let Some(seat) = self.center.seat(number) else {
            return;
        };
        let ahead = self.calendar.ahead + self.center.replicas[seat.replica].wall_ahead;
        if self.calendar.was_set() {
            self.center_hears(number, Event::Wall { ahead });
        }
    }

    /// The wall clocks of all were set.
    pub(crate) fn center_learns_the_wall(&mut self) {
        let numbers: Vec<u64> = self.center.seats.iter().map(|seat| seat.number).collect();
        for number in numbers {
            self.learns_the_wall(number);
        }
    }
}
