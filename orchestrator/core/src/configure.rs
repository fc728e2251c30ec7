//! What a person decides about an agent: labels, queues, slots, cordon, drain. And how the agent is told.
//!
//! A cordoned agent is given nothing new. A drained one is cordoned, and gives back what it has not started: to be
//! placed elsewhere at once, without using up a try. The agent forgets both with its connection, so they are said again
//! on each.

use outpost_proto::ids::{AttemptId, RunId};
use outpost_proto::message::{Directive, DownMessage};
use outpost_proto::name::AgentName;
use outpost_proto::outcome::{Outcome, Refusal, Report};

use crate::agent::Agent;
use crate::command::{Reply, send};
use crate::event::{AgentChange, Answer, Denied};
use crate::label::{LABELS, QUEUES};
use crate::record::{AgentRecord, Phase, TaskState};
use crate::tenant::{Ctx, Tenant};

impl Tenant {
    /// Changes what is given of a change, or nothing.
    pub(crate) fn configure_agent(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        change: &AgentChange,
    ) -> Result<Answer, Denied> {
        check(change)?;
        let known = self.agents.get_mut(name);
        let Some(agent) = known.filter(|agent| !agent.record.removed) else {
            return Err(Denied::UnknownAgent(name.clone()));
        };
        let before = agent.record.clone();
        change_record(&mut agent.record, change);
        let record = &agent.record;
        let told_before = (before.cordoned, before.draining);
        let told = (record.cordoned, record.draining);
        let serves_otherwise = (&before.labels, &before.queues) != (&record.labels, &record.queues);
        if *record != before {
            self.places.changed.insert(name.clone());
        }
        if serves_otherwise {
            self.offers_changed(name);
        }
        if told != told_before {
            self.tell_gate(ctx, name, told_before);
        }
        if told.1 && !told_before.1 {
            self.withdraw_unsent(ctx, name);
            self.move_unbegun(ctx, name);
        }
        self.refresh(ctx, name);
        let view = self.agents.get(name).map(Agent::view);
        view.map(Answer::Agent)
            .ok_or_else(|| Denied::UnknownAgent(name.clone()))
    }

    /// Says on a live session what the agent shall do from now on.
    fn tell_gate(&mut self, ctx: &mut Ctx<'_>, name: &AgentName, before: (bool, bool)) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        agent.remember(ctx.turn);
        let Some(conn) = agent.ready().map(|session| session.conn) else {
            return;
        };
        let now = gate(&agent.record);
        let lifts = before.1 && now != Some(Directive::Drain) || now.is_none();
        if lifts && let Some(heartbeat) = &mut agent.live.heartbeat {
            // What it said of itself was this order's doing. If its site drains it too, the next heartbeat says so.
            heartbeat.flags.draining = false;
        }
        let directives = lifts.then_some(Directive::Uncordon).into_iter().chain(now);
        let mut reply = Reply::default();
        for directive in directives {
            self.direct(ctx, name, directive, &mut reply);
        }
        let messages: Vec<DownMessage> = reply.messages;
        send(ctx, conn, messages);
    }

    /// Says again on a new session what the agent forgot with its former one.
    pub(crate) fn tell_gate_again(&mut self, ctx: &Ctx<'_>, name: &AgentName, reply: &mut Reply) {
        let now = self.agents.get(name).and_then(|agent| gate(&agent.record));
        if let Some(directive) = now {
            self.direct(ctx, name, directive, reply);
        }
    }

    /// Whether an agent is to run empty.
    pub(crate) fn is_drained(&self, name: &AgentName) -> bool {
        self.agents
            .get(name)
            .is_some_and(|agent| agent.record.draining)
    }

    /// Takes back what surely never reached an agent that is to run empty.
    fn withdraw_unsent(&mut self, ctx: &mut Ctx<'_>, name: &AgentName) {
        let agent = self.agents.get(name);
        let unsent: Vec<AttemptId> = agent
            .map(|agent| agent.live.unsent.iter().copied().collect())
            .unwrap_or_default();
        for id in unsent {
            self.turn_away(ctx, id);
        }
    }

    /// An attempt that never reached an agent which is to run empty: as if the agent had turned it away.
    pub(crate) fn turn_away(&mut self, ctx: &mut Ctx<'_>, id: AttemptId) {
        let report = Report {
            outcome: Outcome::Refused(Refusal::Draining),
            may_have_started: false,
            duration_ms: 0,
            exit_code: None,
            count: None,
        };
        self.moved(ctx, id, Phase::Finished { report });
    }

    /// Lets runs of which nothing was started choose another agent than one that is to run empty.
    fn move_unbegun(&mut self, ctx: &mut Ctx<'_>, name: &AgentName) {
        let bound = self.runs.values().filter(|run| {
            run.record.agent.as_ref() == Some(name) && !run.is_over() && run.pending.is_empty()
        });
        let bound: Vec<RunId> = bound.map(|run| run.record.run).collect();
        for run in bound {
            self.leave_drained(ctx, run);
        }
    }

    /// A run leaves an agent that is to run empty, if it left no trace there: nothing of it was ever started.
    pub(crate) fn leave_drained(&mut self, ctx: &mut Ctx<'_>, id: RunId) {
        let Some(run) = self.runs.get(&id).filter(|run| run.pending.is_empty()) else {
            return;
        };
        let drained = run
            .record
            .agent
            .as_ref()
            .is_some_and(|agent| self.is_drained(agent));
        let untouched = run.tasks.iter().all(|task| {
            let open = match task.record.state {
                TaskState::Waiting | TaskState::Queued { .. } | TaskState::Backoff { .. } => true,
                TaskState::Active { .. }
                | TaskState::Succeeded
                | TaskState::Failed { .. }
                | TaskState::UpstreamFailed
                | TaskState::Cancelled => false,
            };
            open && task.record.spent == 0
        });
        if drained && untouched {
            self.unbind(ctx, id);
        }
    }
}

fn check(change: &AgentChange) -> Result<(), Denied> {
    if change
        .labels
        .as_ref()
        .is_some_and(|labels| labels.len() > LABELS)
    {
        return Err(Denied::Limit(format!(
            "an agent has at most {LABELS} labels"
        )));
    }
    let queues = change.queues.as_ref().map(|queues| queues.len());
    if queues.is_some_and(|queues| queues == 0 || queues > QUEUES) {
        return Err(Denied::Limit(format!(
            "an agent serves between 1 and {QUEUES} queues"
        )));
    }
    Ok(())
}

/// To drain means to cordon, and to lift a cordon means to end a drain; the end of a drain alone leaves the cordon.
fn change_record(record: &mut AgentRecord, change: &AgentChange) {
    if let Some(labels) = &change.labels {
        record.labels.clone_from(labels);
    }
    if let Some(queues) = &change.queues {
        record.queues.clone_from(queues);
    }
    record.slots_limit = change.slots_limit.unwrap_or(record.slots_limit);
    match change.cordoned {
        Some(false) => (record.cordoned, record.draining) = (false, false),
        Some(true) => record.cordoned = true,
        None => {}
    }
    match change.draining {
        Some(true) => (record.cordoned, record.draining) = (true, true),
        Some(false) => record.draining = false,
        None => {}
    }
}

fn gate(record: &AgentRecord) -> Option<Directive> {
    match (record.draining, record.cordoned) {
        (true, _) => Some(Directive::Drain),
        (false, true) => Some(Directive::Cordon),
        (false, false) => None,
    }
}
