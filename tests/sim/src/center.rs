//! The orchestrator: its real core, its database, and where its speech goes.

use std::collections::BTreeMap;

use outpost_agent_core::event::Down;
use outpost_driver::{Core, Micros, Turn};
use outpost_orchestrator_core::event::{Ask, Call, CloseReason, Event, Speech};
use outpost_orchestrator_core::{Orchestrator, Settings};
use outpost_proto::wire;

use crate::disk::CenterDisk;
use crate::driver::take_turn;
use crate::invariants::{Checked, broken};
use crate::moments::Message;
use crate::network::{Direction, Packet};
use crate::queue::{At, MS, SECOND};
use crate::renewal::Renewing;
use crate::trace::note;
use crate::world::{Happening, World};

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
    pub(crate) process: Option<Process>,
    processes: u64,
    next_call: u64,
    /// The next turn's speech is cut short by the end of the process.
    pub(crate) cut_speech: bool,
    /// How far the clock is ahead since the simulation began.
    pub(crate) ahead_us: u64,
}

/// The orchestrator's process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) number: u64,
    pub(crate) core: Orchestrator,
    inbox: Vec<Event>,
    turn_at: At,
    pub(crate) not_before: At,
    /// Who asked what.
    pub(crate) calls: BTreeMap<Call, u64>,
    pub(crate) renewals: BTreeMap<Call, Renewing>,
    failures: u32,
}

impl Process {
    /// Whether nothing waits for a later turn.
    pub(crate) fn has_heard_all(&self) -> bool {
        self.inbox.is_empty()
    }
}

impl Center {
    fn time(&self, at: At) -> Micros {
        Micros(EPOCH_US + self.ahead_us + at)
    }

    /// When the process has something to do.
    pub(crate) fn wakes(&self) -> Option<At> {
        let process = self.process.as_ref()?;
        let inbox = (!process.inbox.is_empty()).then_some(process.turn_at);
        let deadline = process
            .core
            .next_deadline()
            .map(|at| at.0.saturating_sub(EPOCH_US + self.ahead_us));
        Some(
            inbox
                .into_iter()
                .chain(deadline)
                .min()?
                .max(process.not_before),
        )
    }
}

/// The events of the next turn, reruns with what the database holds before it.
fn next_turn(process: &mut Process, disk: &CenterDisk) -> Vec<Event> {
    let mut events = std::mem::take(&mut process.inbox);
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
    pub(crate) fn start_center(&mut self) {
        if self.center.process.is_some() {
            return;
        }
        let now = self.database_time(self.now);
        let snapshot = self.center.disk.mirror.snapshot(now);
        let core = Orchestrator::new(self.center.settings, self.dice.seed(), now, snapshot);
        self.center.processes += 1;
        self.center.cut_speech = false;
        self.center.disk.trouble.pressing = None;
        self.center.process = Some(Process {
            number: self.center.processes,
            core,
            inbox: Vec::new(),
            turn_at: self.now,
            not_before: 0,
            calls: BTreeMap::new(),
            renewals: BTreeMap::new(),
            failures: 0,
        });
        note!(self, "the orchestrator starts");
        self.center_learns_the_wall();
    }

    pub(crate) fn crash_center(&mut self) {
        if self.center.process.take().is_none() {
            return;
        }
        note!(self, "the orchestrator crashes");
        let silent = self.dice.percent(30);
        self.all_closed(silent);
        let down = self.dice.span(100 * MS, self.plan.longest_outage);
        self.queue.put(self.now + down, Happening::StartCenter);
    }

    /// Something for the orchestrator's core, if it lives.
    pub(crate) fn center_hears(&mut self, event: Event) {
        let takes = self.dice.between(50, 3 * MS);
        let Some(process) = self.center.process.as_mut() else {
            return;
        };
        if process.inbox.is_empty() {
            process.turn_at = self.now + takes;
        }
        process.inbox.push(event);
    }

    /// A question, with a number of its own.
    pub(crate) fn center_is_asked(&mut self, request: u64, event: impl FnOnce(Call) -> Event) {
        self.center.next_call += 1;
        let call = Call(self.center.next_call);
        if let Some(process) = self.center.process.as_mut() {
            process.calls.insert(call, request);
            self.center_hears(event(call));
        }
    }

    /// The same for an agent that wants its next certificate.
    pub(crate) fn center_is_asked_to_renew(
        &mut self,
        renewing: Renewing,
        event: impl FnOnce(Call) -> Event,
    ) {
        self.center.next_call += 1;
        let call = Call(self.center.next_call);
        if let Some(process) = self.center.process.as_mut() {
            process.renewals.insert(call, renewing);
            self.center_hears(event(call));
        }
    }

    /// One turn of the orchestrator.
    pub(crate) fn center_turn(&mut self) -> Checked {
        let hasty = self.plan.hasty_center;
        let now = self.database_time(self.now);
        let waiting = self.traps.of_speaker(Direction::Down);
        let center = &mut self.center;
        (center.disk.trouble.now, center.disk.trouble.waiting) = (self.now, waiting);
        let Some(process) = center.process.as_mut() else {
            return Ok(());
        };
        let events = next_turn(process, &center.disk);
        center.disk.now = now;
        center.disk.wrote = false;
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
        let cut = !said.is_empty() && turned.is_ok() && std::mem::take(&mut self.center.cut_speech);
        if cut {
            said.truncate(self.dice.below(said.len()));
        }
        if let Some(sprung) = self.center.disk.trouble.sprung.take() {
            self.sprung(None, &sprung);
        }
        for speech in said {
            self.center_speaks(speech)?;
        }
        self.check_center(turned == Ok(Turn::Spoken))?;
        match turned {
            Ok(Turn::Spoken) if cut => {
                self.trace.count("orchestrator crash in mid-speech");
                self.crash_center();
            }
            Ok(Turn::Spoken) => {
                if let Some(process) = self.center.process.as_mut() {
                    process.failures = 0;
                }
            }
            Ok(Turn::NotCommitted(_)) => {
                self.trace.count("orchestrator commit failed");
                self.again_at_center(events);
            }
            Err(_) => {
                self.trace.count("orchestrator crash in commit");
                self.crash_center();
            }
        }
        Ok(())
    }

    /// What came over streams is shown again after a pause; whoever asked is told to ask again.
    fn again_at_center(&mut self, events: Vec<Event>) {
        let now = self.now;
        let Some(process) = self.center.process.as_mut() else {
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

    fn center_speaks(&mut self, speech: Speech) -> Checked {
        match speech {
            Speech::Send { conn, messages } => {
                self.invariant_nothing_crosses_tenants(conn, &messages)?;
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
                self.nothing_counts_as_heard(conn);
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
                let Some(process) = self.center.process.as_mut() else {
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
                if self.is_cheat(&tenant, &agent) {
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
    pub(crate) fn peek(
        &mut self,
        tenant: &outpost_proto::name::TenantName,
        ask: Ask,
    ) -> Option<Speech> {
        let now = self.database_time(self.now);
        let process = self.center.process.as_mut()?;
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
