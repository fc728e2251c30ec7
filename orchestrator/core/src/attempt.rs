//! What becomes of attempts: observations are applied, commands queued for an agent.
//!
//! Observations move state, commands only request. An agent's word about its own attempts is taken; about another's it
//! ends the stream.

use outpost_proto::ids::{AttemptId, CommandSeq};
use outpost_proto::message::{Directive, DownMessage};
use outpost_proto::name::AgentName;
use outpost_proto::outcome::{Outcome, Report};

use crate::command::send;
use crate::event::Alarm;
use crate::record::{AttemptRecord, Phase, TaskState, Write};
use crate::state::{Observed, Step, step};
use crate::tenant::{Ctx, Tenant};

/// What an observation was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// An attempt whose end is, or was until now, not known.
    Known,
    /// Not known, or over and let go of.
    Unknown,
    /// It never reached its agent.
    Unsent,
}

impl Tenant {
    /// Applies one observation of an agent's attempt.
    pub(crate) fn observe(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        id: AttemptId,
        observed: Observed,
    ) -> Result<Seen, Alarm> {
        let Some(attempt) = self.attempts.get(&id) else {
            return Ok(Seen::Unknown);
        };
        if attempt.agent != *name {
            return Err(Alarm::ForeignAttempt);
        }
        match step(attempt.phase, observed).map_err(|_| Alarm::ImpossibleEvent)? {
            Step::Same => Ok(Seen::Known),
            Step::Unsent => Ok(Seen::Unsent),
            Step::To(phase) => {
                self.moved(ctx, id, phase);
                Ok(Seen::Known)
            }
            Step::Late(report) => {
                self.late(ctx, id, report);
                Ok(Seen::Known)
            }
        }
    }

    /// That an attempt is held is said by the acknowledgement of its command. Nothing durable follows from it.
    pub(crate) fn acknowledged(&mut self, name: &AgentName, command: CommandSeq) {
        let agent = self.agents.get_mut(name);
        if let Some(session) = agent.and_then(|agent| agent.live.session.as_mut()) {
            let next = CommandSeq(command.0.saturating_add(1));
            session.unconfirmed = session.unconfirmed.split_off(&next);
        }
    }

    /// An attempt that never reached its agent ends as cancelled: it can never start.
    pub(crate) fn withdraw(&mut self, ctx: &mut Ctx<'_>, id: AttemptId) {
        let report = Report {
            outcome: Outcome::Cancelled,
            may_have_started: false,
            duration_ms: 0,
            exit_code: None,
            count: None,
        };
        self.moved(ctx, id, Phase::Finished { report });
    }

    pub(crate) fn moved(&mut self, ctx: &mut Ctx<'_>, id: AttemptId, phase: Phase) {
        let Some(attempt) = self.attempts.get_mut(&id) else {
            return;
        };
        attempt.phase = phase;
        let over = match phase {
            Phase::Running => {
                attempt.started_at = Some(ctx.now.0);
                false
            }
            Phase::Finished { .. } => {
                attempt.finished_at = Some(ctx.now.0);
                true
            }
            Phase::Lost { .. } => true,
            Phase::Assigned | Phase::Accepted | Phase::Starting => false,
        };
        let attempt = attempt.clone();
        if let Some(agent) = self.agents.get_mut(&attempt.agent) {
            agent.live.unsent.remove(&id);
            if over {
                agent.held.remove(&id);
            }
            if let Phase::Finished { report } = phase {
                agent.live.pace.took(report.duration_ms);
            }
        }
        ctx.write(Write::Attempt(attempt.clone()));
        Self::notice_attempt(ctx, &attempt);
        if over {
            self.refresh(ctx, &attempt.agent);
        }
        match phase {
            Phase::Finished { report } => {
                self.let_go(&attempt);
                self.task_ended(ctx, &attempt, report);
                self.evict(attempt.run);
            }
            Phase::Lost { .. } => self.task_lost(ctx, &attempt),
            Phase::Assigned | Phase::Accepted | Phase::Starting | Phase::Running => {}
        }
    }

    /// The end of an attempt that had been given up. It is kept beside; a task that still waits for it goes on.
    fn late(&mut self, ctx: &mut Ctx<'_>, id: AttemptId, report: Report) {
        let Some(attempt) = self.attempts.get_mut(&id) else {
            return;
        };
        attempt.late = Some(report);
        attempt.finished_at = Some(ctx.now.0);
        let attempt = attempt.clone();
        ctx.write(Write::Attempt(attempt.clone()));
        Self::notice_attempt(ctx, &attempt);
        self.let_go(&attempt);
        if self.makes_another_needless(ctx, &attempt, report) {
            let (run, task) = (attempt.run, attempt.task);
            self.set_task(ctx, run, task, TaskState::Active { attempt: id });
        }
        self.task_ended(ctx, &attempt, report);
        self.evict(attempt.run);
    }

    fn let_go(&mut self, attempt: &AttemptRecord) {
        self.attempts.remove(&attempt.attempt);
        if let Some(run) = self.runs.get_mut(&attempt.run) {
            run.pending.remove(&attempt.attempt);
        }
    }

    /// Asks for the end of an attempt: now, or when its agent is back.
    pub(crate) fn request_cancel(&mut self, ctx: &mut Ctx<'_>, id: AttemptId) {
        let Some(attempt) = self
            .attempts
            .get_mut(&id)
            .filter(|attempt| !attempt.cancel_requested)
        else {
            return;
        };
        attempt.cancel_requested = true;
        let attempt = attempt.clone();
        ctx.write(Write::Attempt(attempt.clone()));
        let Some(agent) = self.agents.get(&attempt.agent) else {
            return;
        };
        if agent.live.unsent.contains(&id) {
            self.withdraw(ctx, id);
            return;
        }
        self.tell_to_end(ctx, &attempt.agent, id);
    }

    /// Tells an agent to end an attempt, if it can be told now.
    pub(crate) fn tell_to_end(&mut self, ctx: &mut Ctx<'_>, name: &AgentName, id: AttemptId) {
        let session = self.agents.get(name).and_then(|agent| agent.ready());
        let Some(conn) = session.map(|session| session.conn) else {
            return;
        };
        let command_seq = self.number(ctx, name);
        let directive = Directive::Cancel(id);
        send(
            ctx,
            conn,
            vec![DownMessage::Directive {
                command_seq,
                directive,
            }],
        );
    }
}
