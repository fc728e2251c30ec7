//! What becomes of attempts: observations are applied, inventories reconciled, commands queued for an agent.
//!
//! Observations move state, commands only request. An agent's word about its own attempts is taken; about another's it
//! ends the stream.

use std::collections::BTreeSet;

use outpost_proto::ids::{AttemptId, CommandSeq};
use outpost_proto::message::{AttemptState, Directive, DownMessage, InventoryItem};
use outpost_proto::name::AgentName;
use outpost_proto::outcome::{Outcome, Report};

use crate::command::{Reply, send};
use crate::event::Alarm;
use crate::record::{AttemptRecord, Phase, Write};
use crate::state::{Observed, Step, step};
use crate::tenant::{Ctx, Tenant, is_active};

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
        self.task_ended(ctx, &attempt, report);
        self.evict(attempt.run);
    }

    fn let_go(&mut self, attempt: &AttemptRecord) {
        self.attempts.remove(&attempt.attempt);
        if let Some(run) = self.runs.get_mut(&attempt.run) {
            run.pending.remove(&attempt.attempt);
        }
    }

    /// One agent's complete inventory against what is believed of it: one transaction, then the directives.
    pub(crate) fn reconcile(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        items: &[InventoryItem],
        reply: &mut Reply,
    ) -> Result<(), Alarm> {
        let mut in_order: Vec<&InventoryItem> = items.iter().collect();
        in_order.sort_by_key(|item| item.event_seq);
        for item in in_order {
            self.matches(item)?;
            self.listed_item(ctx, name, item)?;
            self.applied(name, item.event_seq);
        }
        for item in items {
            let directive = self.directive(ctx, name, item);
            self.direct(ctx, name, directive, reply);
        }
        self.miss(ctx, name, items)?;
        self.reported(ctx, name);
        self.agents
            .get_mut(name)
            .map(|agent| std::mem::take(&mut agent.record.standing.forked));
        self.tell_to_rekey(ctx, name, reply);
        self.tell_gate_again(ctx, name, reply);
        self.direct(ctx, name, Directive::Reconciled, reply);
        Ok(())
    }

    /// One item of an inventory. What the kept one of two equal holders has not started, the other one may have: it is
    /// given up. What a restored database does not know is taken in.
    fn listed_item(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        item: &InventoryItem,
    ) -> Result<(), Alarm> {
        let standing = self.agents.get(name).map(|agent| &agent.record.standing);
        let forked = standing.is_some_and(|standing| standing.forked);
        let known = self.attempts.get(&item.attempt).is_some_and(is_active);
        let observed = if forked && known && item.state == AttemptState::Assigned {
            Observed::AbsentElsewhere
        } else {
            Observed::Said(item.state)
        };
        let seen = self.observe(ctx, name, item.attempt, observed)?;
        if seen == Seen::Unknown && self.awaited.contains(name) {
            self.adopt_attempt(ctx, name, item)?;
        }
        Ok(())
    }

    /// An attempt's run, task and fence were chosen here and are only echoed.
    pub(crate) fn matches(&self, item: &InventoryItem) -> Result<(), Alarm> {
        let Some(known) = self.attempts.get(&item.attempt) else {
            return Ok(());
        };
        let echoed = known.run == item.run && known.task == item.task && known.fence == item.fence;
        if echoed {
            Ok(())
        } else {
            Err(Alarm::ImpossibleEvent)
        }
    }

    fn directive(&self, ctx: &Ctx<'_>, name: &AgentName, item: &InventoryItem) -> Directive {
        let id = item.attempt;
        let finished = match item.state {
            AttemptState::Finished(_) => true,
            AttemptState::Assigned | AttemptState::Starting | AttemptState::Running => false,
        };
        match self.attempts.get(&id) {
            // Its outcome is durable with this transaction: nothing more is to be said about it.
            _ if finished => Directive::Forget(id),
            None if self.may_go_on(ctx, name, id) => Directive::Keep(id),
            None => Directive::Forget(id),
            Some(attempt) if is_active(attempt) && !attempt.cancel_requested => Directive::Keep(id),
            // Asked to end, or given up: nobody waits for it any more.
            Some(_) => Directive::Cancel(id),
        }
    }

    /// What the agent should hold and does not list. Absence never means delete: it means never arrived, or lost.
    fn miss(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        items: &[InventoryItem],
    ) -> Result<(), Alarm> {
        let Some(agent) = self.agents.get(name) else {
            return Ok(());
        };
        let incarnation = agent.record.incarnation;
        let forked = agent.record.standing.forked;
        let listed: BTreeSet<AttemptId> = items.iter().map(|item| item.attempt).collect();
        let missing: Vec<AttemptId> = agent.held.difference(&listed).copied().collect();
        for id in missing {
            let Some(attempt) = self.attempts.get(&id) else {
                continue;
            };
            let here = attempt.incarnation == incarnation
                && !forked
                && !self.may_be_forgotten(ctx, attempt);
            let cancelled = attempt.cancel_requested;
            let observed = if here {
                Observed::Absent
            } else {
                Observed::AbsentElsewhere
            };
            match self.observe(ctx, name, id, observed)? {
                Seen::Unsent if cancelled => self.withdraw(ctx, id),
                Seen::Unsent if self.is_drained(name) => self.turn_away(ctx, id),
                Seen::Unsent => {
                    if let Some(agent) = self.agents.get_mut(name) {
                        agent.live.unsent.insert(id);
                    }
                }
                Seen::Known | Seen::Unknown => {}
            }
        }
        Ok(())
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
