//! The orchestrator: its real core, its database, and where its speech goes. There may be several processes of it, each
//! for its own tenants: see `replicas`.

use std::collections::BTreeMap;

use outpost_agent_core::event::Down;
use outpost_driver::{Core, Micros, Turn};
use outpost_orchestrator_core::event::{Ask, Call, CloseReason, Event, Speech};
use outpost_orchestrator_core::owner::Hold;
use outpost_orchestrator_core::{Orchestrator, Settings};
use outpost_proto::name::TenantName;
use outpost_proto::wire;

use crate::disk::CenterDisk;
use crate::driver::take_turn;
use crate::invariants::{Checked, broken, holds};
use crate::moments::Message;
use crate::network::{Direction, Packet};
use crate::queue::{At, MS, SECOND};
use crate::renewal::Renewing;
use crate::replicas::{Replica, Scope};
use crate::trace::note;
use crate::world::World;

/// The database host's clock when the simulation begins.
const EPOCH_US: u64 = 1_700_000_000_000_000;

impl World {
    /// What that clock shows: never behind what it showed before, and ahead once another host's took its place.
    pub(crate) fn database_time(&self, at: At) -> Micros {
        self.center.time(at)
    }
}

/// The orchestrator and its database.
#[derive(Debug, Default)]
pub(crate) struct Center {
    pub(crate) settings: Settings,
    pub(crate) disk: CenterDisk,
    /// The hosts it runs on, and what is owned apart from the rest.
    pub(crate) replicas: Vec<Replica>,
    pub(crate) scopes: Vec<Scope>,
    /// What lives of it: a core for each scope, at the replica that took it.
    pub(crate) seats: Vec<Process>,
    pub(crate) processes: u64,
    next_call: u64,
    /// The replica that the next fault is for.
    pub(crate) aimed: Option<usize>,
    /// The next turn's speech is cut short by the end of the process.
    pub(crate) cut_speech: bool,
    /// How far the clock is ahead since the simulation began.
    pub(crate) ahead_us: u64,
}

/// The orchestrator's process, as far as it is about one scope.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) number: u64,
    pub(crate) replica: usize,
    pub(crate) scope: Scope,
    pub(crate) hold: Hold,
    pub(crate) core: Orchestrator,
    pub(crate) inbox: Vec<Event>,
    turn_at: At,
    pub(crate) not_before: At,
    /// It was stopped in a turn that had begun then, with so many events: that one still goes to its commit.
    pub(crate) stopped: Option<(At, usize)>,
    /// Who asked what.
    pub(crate) calls: BTreeMap<Call, u64>,
    pub(crate) renewals: BTreeMap<Call, Renewing>,
    failures: u32,
}

impl Process {
    /// One that has loaded what is durable and heard nothing.
    pub(crate) fn new(
        (number, replica, scope): (u64, usize, Scope),
        hold: Hold,
        core: Orchestrator,
        now: At,
    ) -> Self {
        Self {
            number,
            replica,
            scope,
            hold,
            core,
            inbox: Vec::new(),
            turn_at: now,
            not_before: 0,
            stopped: None,
            calls: BTreeMap::new(),
            renewals: BTreeMap::new(),
            failures: 0,
        }
    }

    /// Whether nothing waits for a later turn.
    pub(crate) fn has_heard_all(&self) -> bool {
        self.inbox.is_empty()
    }

    fn wakes(&self, clock_us: u64) -> Option<At> {
        let inbox = (!self.inbox.is_empty()).then_some(self.turn_at);
        let deadline = self.core.next_deadline();
        let deadline = deadline.map(|at| at.0.saturating_sub(clock_us));
        let first = inbox.into_iter().chain(deadline).min()?;
        Some(first.max(self.not_before))
    }
}

impl Center {
    fn time(&self, at: At) -> Micros {
        Micros(EPOCH_US + self.ahead_us + at)
    }

    /// Who has something to do, and when.
    pub(crate) fn wakes(&self) -> Option<(At, u64)> {
        let clock_us = EPOCH_US + self.ahead_us;
        let wakes = |seat: &Process| Some((seat.wakes(clock_us)?, seat.number));
        self.seats.iter().filter_map(wakes).min()
    }

    pub(crate) fn seat(&self, number: u64) -> Option<&Process> {
        self.seats.iter().find(|seat| seat.number == number)
    }

    pub(crate) fn seat_mut(&mut self, number: u64) -> Option<&mut Process> {
        self.seats.iter_mut().find(|seat| seat.number == number)
    }
}

/// The events of the next turn, reruns with what the database holds before it.
fn next_turn(process: &mut Process, disk: &CenterDisk) -> Vec<Event> {
    let many = process.stopped.map_or(usize::MAX, |(_, many)| many);
    let mut events = std::mem::take(&mut process.inbox);
    process.inbox = events.split_off(many.min(events.len()));
    for event in &mut events {
        if let Event::Asked {
            tenant,
            ask: Ask::Rerun { run, stored, .. },
            ..
        } = event
        {
            *stored = disk.mirror.stored_run(tenant, *run).map(Box::new);
        }
    }
    events
}

impl World {
    /// Something for one core of the orchestrator, if it lives.
    pub(crate) fn center_hears(&mut self, number: u64, event: Event) {
        let takes = self.dice.between(50, 3 * MS);
        let now = self.now;
        let Some(process) = self.center.seat_mut(number) else {
            return;
        };
        if process.inbox.is_empty() {
            process.turn_at = now + takes;
        }
        process.inbox.push(event);
    }

    /// A question, with a number of its own, to whichever replica is asked; one that does not own the tenant says so.
    pub(crate) fn center_is_asked(
        &mut self,
        request: u64,
        tenant: &TenantName,
        event: impl FnOnce(Call) -> Event,
    ) {
        self.center.next_call += 1;
        let call = Call(self.center.next_call);
        let replica = self.some_replica();
        if let Some(number) = self.center.seat_at(replica, tenant) {
            if let Some(process) = self.center.seat_mut(number) {
                process.calls.insert(call, request);
            }
            self.center_hears(number, event(call));
        } else if self.center.replicas[replica].is_awake(self.now) {
            self.trace.count("replica that is not the owner asked");
            self.ask_again_later(request);
        }
    }

    /// The same for an agent that wants its next certificate.
    pub(crate) fn center_is_asked_to_renew(
        &mut self,
        number: u64,
        renewing: Renewing,
        event: impl FnOnce(Call) -> Event,
    ) {
        self.center.next_call += 1;
        let call = Call(self.center.next_call);
        if let Some(process) = self.center.seat_mut(number) {
            process.renewals.insert(call, renewing);
            self.center_hears(number, event(call));
        }
    }

    /// One turn of one core of the orchestrator.
    pub(crate) fn center_turn(&mut self, number: u64) -> Checked {
        if !self.may_decide(number) {
            return Ok(());
        }
        let hasty = self.plan.hasty_center;
        let present = self.database_time(self.now);
        let waiting = self.traps.of_speaker(Direction::Down);
        let center = &mut self.center;
        (center.disk.trouble.now, center.disk.trouble.waiting) = (self.now, waiting);
        let Some(process) = center.seats.iter_mut().find(|seat| seat.number == number) else {
            return Ok(());
        };
        let events = next_turn(process, &center.disk);
        let began = process.stopped.take().map(|(at, _)| at);
        let row = center.disk.owners.get(&process.scope);
        let owns = row.is_some_and(|row| row.admits(process.hold.row()));
        let now = began.map_or(present, |at| Micros(EPOCH_US + center.ahead_us + at));
        (process.turn_at, center.disk.now) = (self.now, now);
        center.disk.wrote = false;
        center.disk.committing = Some((process.scope.clone(), process.hold.row()));
        let mut said = Vec::new();
        let speak = |speech| said.push(speech);
        let turned = take_turn(
            (&mut process.core, &mut center.disk),
            now,
            &events,
            speak,
            hasty,
        );
        note!(self, "turn: {} in, {} out", events.len(), said.len());
        // What one that was overtaken hears the owner never does.
        if turned == Ok(Turn::Spoken) && owns {
            self.have_spoken(&events, began.unwrap_or(self.now));
        }
        let cut = !said.is_empty() && turned.is_ok() && std::mem::take(&mut self.center.cut_speech);
        if cut {
            said.truncate(self.dice.below(said.len()));
        }
        if let Some(sprung) = self.center.disk.trouble.sprung.take() {
            self.sprung(None, &sprung);
        }
        // Only what was decided before it stood still comes from who was overtaken.
        holds(
            owns || began.is_some() || said.is_empty(),
            "only the owner of a tenant decides and speaks",
            format!("process {number}"),
        )?;
        for speech in said {
            self.center_speaks(number, speech)?;
        }
        self.check_center(number, now, turned == Ok(Turn::Spoken))?;
        self.turned(number, events, turned.ok(), cut);
        Ok(())
    }

    /// What follows from how a turn ended; `None`: its process cannot go on.
    fn turned(&mut self, number: u64, events: Vec<Event>, turned: Option<Turn>, cut: bool) {
        let replica = self.center.seat(number).map_or(0, |seat| seat.replica);
        let overtaken = std::mem::take(&mut self.center.disk.overtaken);
        match turned {
            Some(Turn::Spoken) if cut => {
                self.trace.count("orchestrator crash in mid-speech");
                self.crash_replica(replica);
            }
            Some(Turn::Spoken) => {
                if let Some(process) = self.center.seat_mut(number) {
                    process.failures = 0;
                }
            }
            Some(Turn::NotCommitted(_)) => {
                self.trace.count("orchestrator commit failed");
                self.again_at_center(number, events);
            }
            None if overtaken => {
                self.trace.count("stale owner's commit refused");
                self.stand_down(number);
            }
            None => {
                self.trace.count("orchestrator crash in commit");
                self.crash_replica(replica);
            }
        }
    }

    /// What came over streams is shown again after a pause; whoever asked is told to ask again.
    fn again_at_center(&mut self, number: u64, events: Vec<Event>) {
        let now = self.now;
        let Some(process) = self.center.seat_mut(number) else {
            return;
        };
        process.failures += 1;
        let pause = ((50 * MS) << process.failures.min(10)).min(2 * SECOND);
        (process.turn_at, process.not_before) = (now, now + pause);
        let newer = std::mem::take(&mut process.inbox);
        let (mut denied, mut not_renewed) = (Vec::new(), Vec::new());
        for event in events {
            match event {
                Event::Opened { .. } | Event::Frame { .. } | Event::Closed { .. } => {
                    process.inbox.push(event);
                }
                Event::Asked { call, .. } | Event::Enrol { call, .. } => {
                    denied.extend(process.calls.remove(&call));
                }
                Event::Wall { .. } => {}
                Event::Renew { call, .. } | Event::Recover { call, .. } => {
                    not_renewed.extend(process.renewal(call));
                }
            }
        }
        process.inbox.extend(newer);
        for request in denied {
            self.ask_again_later(request);
        }
        for renewing in not_renewed {
            self.renewal_answered(&renewing, None);
        }
    }

    fn center_speaks(&mut self, number: u64, speech: Speech) -> Checked {
        if let Some(minutes) = &mut self.minutes {
            minutes.center_said(self.now, &speech);
        }
        match speech {
            Speech::Send { conn, messages } => {
                self.invariant_nothing_crosses_tenants(conn, &messages)?;
                let now = self.center.disk.now;
                self.invariant_none_of_two_gets_work(conn, &messages, now)?;
                let frames = wire::encode_down_frames(&messages).map_err(|error| {
                    broken("an honest orchestrator's frame can be encoded", error)
                })?;
                let is = |message: Message| messages.iter().any(|sent| message.is_down(sent));
                let lost = self.traps_when_sent(conn.0, is);
                if lost || self.is_acknowledgement_lost(conn, &messages) {
                    return Ok(());
                }
                for frame in frames {
                    self.carry(conn.0, Direction::Down, Packet::Frame(frame.into()));
                }
            }
            Speech::Close { conn, why } => {
                self.trace.count("stream ended by the orchestrator");
                note!(self, "link {conn} is closed: {why:?}");
                self.invariant_an_agent_that_renews_is_never_locked_out(conn, why)?;
                self.invariant_a_key_left_behind_is_a_second_holders(conn, why)?;
                self.nothing_counts_as_heard(conn, why);
                self.turned_away(conn, why);
                let down = match why {
                    CloseReason::Replaced => Down::Ended,
                    CloseReason::Removed | CloseReason::OtherKey | CloseReason::Cloned => {
                        Down::Refused
                    }
                    CloseReason::Version | CloseReason::Protocol => Down::Protocol,
                };
                self.close(conn, down);
            }
            Speech::Answer { call, answer } => {
                let Some(process) = self.center.seat_mut(number) else {
                    return Ok(());
                };
                if let Some(renewing) = process.renewal(call) {
                    self.renewal_answered(&renewing, Some(answer));
                } else if let Some(request) = process.calls.remove(&call) {
                    self.answered(request, answer)?;
                }
            }
            Speech::Alarm {
                tenant,
                agent,
                what,
            } => {
                let name = (tenant.clone(), agent.clone());
                if self.is_about_copies(&name, what) {
                    self.trace.count("two holders found out");
                    return Ok(());
                }
                if self.minutes.is_some() || self.is_cheat(&tenant, &agent) {
                    self.trace.count("cheat found out");
                    return Ok(());
                }
                let what = format!("{tenant}/{agent}: {what:?}");
                return Err(broken("an honest agent raises no alarm", what));
            }
        }
        Ok(())
    }

    /// What the orchestrator would answer now; nothing follows from the question.
    pub(crate) fn peek(&mut self, tenant: &TenantName, ask: Ask) -> Option<Speech> {
        let now = self.database_time(self.now);
        let owner = self.center.owner_of(tenant)?;
        let process = self.center.seat_mut(owner)?;
        let event = Event::Asked {
            call: Call(0),
            tenant: tenant.clone(),
            ask,
        };
        let mut out = outpost_driver::Effects::new();
        process.core.handle(now, &event, &mut out);
        out.speech.pop()
    }
}
