//! What the orchestrator commands, and whether the site lets it.

use outpost_driver::Micros;
use outpost_proto::ids::{AttemptId, CommandSeq, Conn, EventSeq};
use outpost_proto::limits::HELD_ATTEMPTS;
use outpost_proto::message::{
    Assign, AttemptState, Directive, Event as Told, OnDisconnect, UpMessage,
};
use outpost_proto::outcome::{Outcome, Refusal};

use crate::event::{Alarm, Speech, Terms};
use crate::frames::Breach;
use crate::outbox::told;
use crate::record::{AttemptRecord, Memory, Write};
use crate::session::Phase;
use crate::state::{Input, ended};
use crate::{Agent, Out};

/// A refusal for the wire and its full reason for the site's log.
pub(crate) type Refused = (Refusal, String);

/// What is said of an attempt that waited when the agent was told to drain.
pub(crate) fn draining() -> Refused {
    (Refusal::Draining, "the agent is draining".to_owned())
}

/// What is said of an attempt that nothing but observing keeps from its start.
fn observing() -> Refused {
    let why = "observe mode: it would have been taken, and nothing begins".to_owned();
    (Refusal::Observe, why)
}

impl Agent {
    /// Takes a command's number: they grow, and no stream begins behind the last one obeyed.
    fn take_number(&mut self, conn: Conn, number: CommandSeq, out: &mut Out) -> Result<(), Breach> {
        let obeyed = self.counters.command_seq;
        let held = self.counters.hold.is_some();
        let session = self.connector.on(conn).ok_or(Breach::OUT_OF_ORDER)?;
        if session.phase < Phase::Reconciling || session.command.is_some_and(|last| number <= last)
        {
            return Err(Breach::OUT_OF_ORDER);
        }
        let first = session.command.is_none();
        session.command = Some(number);
        session.ack_due = true;
        if first && !held && number <= obeyed {
            self.went_back(self.counters.recovery.unwrap_or_default(), out);
        } else if !held {
            self.counters.command_seq = number;
            self.counters_changed = true;
        }
        Ok(())
    }

    pub(crate) fn assign(
        &mut self,
        now: Micros,
        conn: Conn,
        assign: &Assign,
        out: &mut Out,
    ) -> Result<(), Breach> {
        if self
            .connector
            .ready()
            .is_none_or(|session| session.conn != conn)
        {
            return Err(Breach::OUT_OF_ORDER);
        }
        self.take_number(conn, assign.command_seq, out)?;
        if let Some(held) = self.attempts.get(assign.attempt) {
            return self.assigned_again(
                held.record.state,
                same(&held.record, assign),
                assign.attempt,
            );
        }
        if let Some(memory) = self.memories.get(assign.attempt).copied() {
            return self.assigned_after_its_end(memory, assign, out);
        }
        if self.attempts.len() >= HELD_ATTEMPTS {
            return Err(Breach::TooMany);
        }
        let admitted = self
            .admit(now, assign)
            .and_then(|terms| self.not_only_observed(now, assign, terms));
        let (state, on_disconnect) = match admitted {
            Ok(terms) => {
                self.attempts.index.entries.set_terms(&assign.entry, terms);
                (AttemptState::Assigned, terms.on_disconnect)
            }
            Err((refusal, why)) => {
                self.refusals = self.refusals.saturating_add(1);
                out.speech.push(Speech::Refused {
                    attempt: assign.attempt,
                    refusal,
                    assign: Box::new(assign.clone()),
                    why,
                });
                (
                    AttemptState::Finished(ended(Outcome::Refused(refusal), false)),
                    OnDisconnect::Continue,
                )
            }
        };
        let mut assign = assign.clone();
        if is_refused(state) {
            // Nobody needs them any more, and nothing says how many refusals are held.
            assign.parameters = Vec::new();
        }
        let record = AttemptRecord {
            assign,
            incarnation: self.settings.incarnation,
            on_disconnect,
            state,
            event_seq: EventSeq(0),
            cancel_requested: false,
        };
        self.attempts.take(record, now);
        Ok(())
    }

    /// Commands may come twice: the answer is where it stands.
    fn assigned_again(
        &mut self,
        state: AttemptState,
        same: bool,
        attempt: AttemptId,
    ) -> Result<(), Breach> {
        if !same {
            return Err(Breach::Alarm(Alarm::AttemptReused));
        }
        // That an attempt is held at all is said by the acknowledgement of the command.
        if state != AttemptState::Assigned {
            self.attempts.say(attempt);
        }
        Ok(())
    }

    /// Its outcome was durable upstream once. Said again, so that whoever lost it has it.
    fn assigned_after_its_end(
        &mut self,
        memory: Memory,
        assign: &Assign,
        out: &mut Out,
    ) -> Result<(), Breach> {
        if (memory.run, memory.task, memory.fence) != (assign.run, assign.task, assign.fence) {
            return Err(Breach::Alarm(Alarm::AttemptReused));
        }
        out.speech.push(Speech::Alarm(Alarm::AttemptReused));
        let event = Told {
            event_seq: self.next_number(),
            attempt: memory.attempt,
            state: told(
                AttemptState::Finished(memory.report),
                self.settings.reporting,
            ),
        };
        if let Some(session) = self.connector.session.as_mut() {
            session.pending.push(UpMessage::Event(event));
        }
        Ok(())
    }

    /// Whether the site lets it in, in the order in which people would ask.
    fn admit(&mut self, now: Micros, assign: &Assign) -> Result<Terms, Refused> {
        if self.counters.hold.is_some() {
            return refuse(
                Refusal::Hold,
                "the orchestrator's database is older than one seen before",
            );
        }
        if self.site.paused {
            return refuse(
                Refusal::Paused,
                "the site has paused this agent; `outpost-agent resume` ends that",
            );
        }
        if self.flags().draining {
            return refuse(Refusal::Draining, "the agent is draining or cordoned");
        }
        if self.gates.no_room {
            return refuse(Refusal::Disk, "the disk has too little room; make some");
        }
        let terms = self.judge(assign)?;
        let slots = usize::from(self.settings.slots);
        let free = slots.saturating_sub(self.attempts.index.slots_taken());
        if self.attempts.index.waiting >= self.settings.backlog.saturating_add(free) {
            let why = format!(
                "{} attempts wait already; `backlog` sets how many may",
                self.attempts.index.waiting
            );
            return Err((Refusal::Full, why));
        }
        if !self.attempts.has_room_for(assign) {
            return refuse(
                Refusal::Full,
                "the parameters of what is held are too large together",
            );
        }
        if !self
            .attempts
            .index
            .entries
            .within_rate(&assign.entry, terms, now)
        {
            return refuse(Refusal::Rate, "the entry's `max_per_hour` is used up");
        }
        Ok(terms)
    }

    /// Whether it may really begin: an agent that only observes has asked everything and begins nothing.
    fn not_only_observed(
        &mut self,
        now: Micros,
        assign: &Assign,
        terms: Terms,
    ) -> Result<Terms, Refused> {
        if !self.settings.observe {
            return Ok(terms);
        }
        // It would have begun, and have counted in its hour.
        let entries = &mut self.attempts.index.entries;
        entries.set_terms(&assign.entry, terms);
        entries.would_begin(&assign.entry, now);
        Err(observing())
    }

    /// What the catalogue says of an attempt that waits, and whether anything may begin at all.
    pub(crate) fn judge_again(&self, assign: &Assign) -> Result<Terms, Refused> {
        let terms = self.judge(assign)?;
        if self.settings.observe {
            return Err(observing());
        }
        Ok(terms)
    }

    /// What the catalogue says of it.
    fn judge(&self, assign: &Assign) -> Result<Terms, Refused> {
        let Some(announced) = self.rules.as_ref() else {
            return refuse(Refusal::UnknownEntry, "no catalogue was read yet");
        };
        let version = announced.catalogue.version;
        if assign.catalogue_version != version {
            let why = format!(
                "chosen under catalogue {}, this is catalogue {version}",
                assign.catalogue_version
            );
            return Err((Refusal::CatalogueVersion, why));
        }
        announced.rules.judge(assign)
    }

    pub(crate) fn directive(
        &mut self,
        now: Micros,
        conn: Conn,
        number: CommandSeq,
        directive: &Directive,
        out: &mut Out,
    ) -> Result<(), Breach> {
        // Evidence for the ledger, said beside the commands and not one of them: it changes nothing here.
        if matches!(directive, Directive::Receipt(_)) {
            return Ok(());
        }
        self.take_number(conn, number, out)?;
        match directive {
            Directive::Cancel(attempt) => self.cancel(now, *attempt, out),
            Directive::Forget(attempt) => self.forget(now, *attempt, out),
            Directive::Drain => {
                self.gates.told_to_drain = true;
                self.turn_all_away(now, draining(), out);
            }
            Directive::Cordon => self.gates.cordoned = true,
            Directive::Uncordon => {
                self.gates.cordoned = false;
                self.gates.told_to_drain = false;
            }
            // To go on is what an attempt does anyway.
            Directive::Keep(_) | Directive::Receipt(_) => {}
            Directive::RenewNow => self.renew_now(now),
            Directive::Reconciled => return self.reconciled(now, conn),
        }
        Ok(())
    }

    fn reconciled(&mut self, now: Micros, conn: Conn) -> Result<(), Breach> {
        let Some(session) = self
            .connector
            .on(conn)
            .filter(|session| session.phase == Phase::Reconciling)
        else {
            return Err(Breach::OUT_OF_ORDER);
        };
        session.enter(Phase::Ready, now);
        if std::mem::take(&mut self.counters.owes_memories) {
            self.counters_changed = true;
        }
        self.connector.succeeded();
        self.recovery.over();
        self.trouble = None;
        Ok(())
    }

    fn cancel(&mut self, now: Micros, attempt: AttemptId, out: &mut Out) {
        let Some(held) = self.attempts.get(attempt) else {
            return;
        };
        if matches!(held.record.state, AttemptState::Finished(_)) {
            // It crossed the outcome on the way.
            return self.attempts.say(attempt);
        }
        self.attempts.request_cancel(attempt);
        self.feed(now, attempt, Input::Cancel, out);
    }

    /// Upstream has no more use for it. What runs is ended first: nothing runs that nobody answers for.
    fn forget(&mut self, now: Micros, attempt: AttemptId, out: &mut Out) {
        let Some(held) = self.attempts.get(attempt) else {
            return;
        };
        if self.counters.hold.is_some() {
            // An older database knows less: what it has no use for, its successor may want.
            return;
        }
        match held.record.state {
            AttemptState::Assigned => {
                self.feed(now, attempt, Input::Cancel, out);
                self.settle_attempt(now, attempt, out);
            }
            AttemptState::Starting | AttemptState::Running => {
                self.attempts.forget(attempt);
                self.attempts.request_cancel(attempt);
                self.feed(now, attempt, Input::Cancel, out);
            }
            AttemptState::Finished(_) => self.settle_attempt(now, attempt, out),
        }
    }

    /// Keeps the memory of an attempt that is over and lets everything else of it go.
    pub(crate) fn settle_attempt(&mut self, now: Micros, attempt: AttemptId, out: &mut Out) {
        // A clock that was ahead once must not make the newest look the oldest.
        let settled_at_s = self.clocks.latest_s(now).max(self.memories.newest_s());
        let held = self.attempts.get(attempt);
        let Some(memory) = held.and_then(|held| held.record.memory(settled_at_s)) else {
            return;
        };
        self.attempts.remove(attempt, now);
        self.memories.insert(memory);
        self.turn.discards.push(attempt);
        out.writes.push(Write::Settled(memory));
        out.speech.push(Speech::Discard { attempt });
    }
}

fn refuse<T>(refusal: Refusal, why: &str) -> Result<T, Refused> {
    Err((refusal, why.into()))
}

fn is_refused(state: AttemptState) -> bool {
    matches!(state, AttemptState::Finished(report) if matches!(report.outcome, Outcome::Refused(_)))
}

/// Whether this attempt was assigned so. A command that is sent again has a new number, and of what was refused the
/// parameters are not kept.
fn same(held: &AttemptRecord, two: &Assign) -> bool {
    let Assign {
        attempt,
        run,
        task,
        fence,
        command_seq: _,
        entry,
        catalogue_version,
        parameters,
        deadline_ms,
        task_name,
        workflow_name,
    } = &held.assign;
    (attempt, run, task, fence) == (&two.attempt, &two.run, &two.task, &two.fence)
        && (entry, catalogue_version) == (&two.entry, &two.catalogue_version)
        && (is_refused(held.state) || *parameters == two.parameters)
        && (deadline_ms, task_name, workflow_name)
            == (&two.deadline_ms, &two.task_name, &two.workflow_name)
}
