//! Which queued task goes to which agent, and when: a total order (run's creation, run, task) that can explain itself.
//!
//! All tasks of a run go to one agent. It is chosen with the first of them: of the agents that announce every entry of
//! the workflow, the one with the most room, then by name. Only agents and workflows in which something changed since
//! the last look are looked at, and only as many tasks as there is room for.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use outpost_proto::ids::{AttemptId, Conn, RunId, TaskIndex};
use outpost_proto::message::{Assign, DownMessage, ParamValue};
use outpost_proto::name::{AgentName, ParamName, WorkflowName};

use crate::agent::ends_alone_s;
use crate::command::send;
use crate::queue::Key;
use crate::record::{AttemptRecord, Phase, Presence, TaskState, Write};
use crate::spec::{Argument, TaskSpec};
use crate::tenant::{Ctx, Tenant};

/// A queue that may yield a task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Bound(AgentName),
    Unbound(WorkflowName, u32),
}

impl Tenant {
    pub(crate) fn enqueue(&mut self, id: RunId, task: TaskIndex) {
        if let Some(run) = self.runs.get(&id) {
            self.places.add(run.key(task), run);
        }
    }

    /// An agent announces other entries than before.
    pub(crate) fn offers_changed(&mut self, name: &AgentName) {
        let Some(agent) = self.agents.get(name) else {
            return;
        };
        for (entry, agents) in &mut self.places.offered {
            if agent.offer(entry).is_some() {
                agents.insert(name.clone());
            } else {
                agents.remove(name);
            }
        }
        self.wake(name);
    }

    /// Makes the next placement look at this agent.
    pub(crate) fn wake(&mut self, name: &AgentName) {
        self.places.woken.insert(name.clone());
        self.places.look = true;
    }

    /// Looks again at how much more an agent can be given.
    pub(crate) fn refresh(&mut self, ctx: &Ctx<'_>, name: &AgentName) {
        let Some(agent) = self.agents.get(name) else {
            return;
        };
        let room = if agent.obstacle(ctx.now).is_none() {
            agent.room(ctx.settings)
        } else {
            0
        };
        let unsent = !agent.live.unsent.is_empty();
        let before = self.places.set_room(name, room);
        if room > before {
            self.wake(name);
        } else if unsent {
            self.places.woken.insert(name.clone());
        }
    }

    /// Gives out work, then writes what of agents and tenant changed in this turn.
    pub(crate) fn place(&mut self, ctx: &mut Ctx<'_>) {
        let mut sends: BTreeMap<AgentName, (Conn, Vec<DownMessage>)> = BTreeMap::new();
        let fence = self.record.next_fence;
        let woken = std::mem::take(&mut self.places.woken);
        for name in &woken {
            self.send_unsent(ctx, name, &mut sends);
        }
        let mut heads = self.heads(woken);
        while let Some((key, source)) = heads.pop_first() {
            let next = match &source {
                Source::Bound(name) => self.place_bound(ctx, name, key, &mut sends),
                Source::Unbound(workflow, version) => self
                    .bind(ctx, key, &mut heads)
                    .then(|| self.next_unbound(workflow, *version, key))
                    .flatten(),
            };
            if let Some(next) = next {
                heads.insert((next, source));
            }
        }
        for (conn, messages) in sends.into_values() {
            send(ctx, conn, messages);
        }
        if self.record.next_fence != fence {
            ctx.write(Write::Tenant(self.record.clone()));
        }
        for name in std::mem::take(&mut self.places.changed) {
            if let Some(agent) = self.agents.get(&name) {
                ctx.write(Write::Agent(agent.record.clone()));
            }
        }
    }

    fn heads(&mut self, woken: BTreeSet<AgentName>) -> BTreeSet<(Key, Source)> {
        let places = &mut self.places;
        let first = |queue: &BTreeSet<Key>| queue.first().copied();
        let bound = woken.into_iter().filter_map(|name| {
            let key = places.bound.get(&name).and_then(first)?;
            Some((key, Source::Bound(name)))
        });
        let mut heads: BTreeSet<(Key, Source)> = bound.collect();
        if std::mem::take(&mut places.look) {
            let unbound = places
                .unbound
                .iter()
                .filter_map(|((workflow, version), queue)| {
                    Some((first(queue)?, Source::Unbound(workflow.clone(), *version)))
                });
            heads.extend(unbound);
        }
        heads
    }

    fn next_unbound(&self, workflow: &WorkflowName, version: u32, after: Key) -> Option<Key> {
        let queue = self.places.unbound.get(&(workflow.clone(), version))?;
        queue
            .range((Bound::Excluded(after), Bound::Unbounded))
            .next()
            .copied()
    }

    /// Chooses the agent of a run; without one that takes work no later run of the same workflow finds one either.
    fn bind(&mut self, ctx: &mut Ctx<'_>, key: Key, heads: &mut BTreeSet<(Key, Source)>) -> bool {
        let Some(run) = self
            .runs
            .get(&key.1)
            .filter(|run| run.record.agent.is_none())
        else {
            return true;
        };
        let mut roomy = self.places.roomy.iter().map(|(_, name)| name);
        let takes = |name: &&AgentName| {
            self.places.offers_all(name, &run.workflow)
                && self
                    .agents
                    .get(*name)
                    .is_some_and(|agent| agent.obstacle(ctx.now).is_none())
        };
        let Some(name) = roomy.find(takes).cloned() else {
            return false;
        };
        self.rebind(ctx, key.1, Some(name.clone()));
        heads.insert((key, Source::Bound(name)));
        true
    }

    /// Gives a run another agent, or none, and its queued tasks along.
    pub(crate) fn rebind(&mut self, ctx: &mut Ctx<'_>, id: RunId, agent: Option<AgentName>) {
        let Some(run) = self.runs.get_mut(&id) else {
            return;
        };
        let queued = run
            .tasks
            .iter()
            .filter(|task| matches!(task.record.state, TaskState::Queued { .. }));
        let keys: Vec<Key> = queued.map(|task| run.key(task.record.task)).collect();
        for key in &keys {
            self.places.remove(*key, run);
        }
        run.record.agent = agent;
        for key in &keys {
            self.places.add(*key, run);
        }
        ctx.write(Write::Run(run.record.clone()));
    }

    /// Lets a run choose anew, once its agent is out of touch and holds nothing of it any more.
    pub(crate) fn release(&mut self, ctx: &mut Ctx<'_>, id: RunId) {
        let Some(run) = self.runs.get(&id) else {
            return;
        };
        let Some(agent) = run
            .record
            .agent
            .as_ref()
            .and_then(|name| self.agents.get(name))
        else {
            return;
        };
        let in_touch = agent.live.session.is_some() && agent.presence == Presence::Live;
        if !in_touch && run.pending.is_disjoint(&agent.held) {
            self.rebind(ctx, id, None);
        }
    }

    /// Places one task of a run that has its agent; gives the next one to look at.
    fn place_bound(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        key: Key,
        sends: &mut BTreeMap<AgentName, (Conn, Vec<DownMessage>)>,
    ) -> Option<Key> {
        let agent = self.agents.get(name)?;
        if agent.obstacle(ctx.now).is_some() || agent.room(ctx.settings) == 0 {
            return None;
        }
        let conn = agent.ready()?.conn;
        let queue = self.places.bound.get(name)?;
        let next = queue
            .range((Bound::Excluded(key), Bound::Unbounded))
            .next()
            .copied();
        if queue.contains(&key)
            && let Some(assign) = self.assign(ctx, name, key)
        {
            sends
                .entry(name.clone())
                .or_insert((conn, Vec::new()))
                .1
                .push(DownMessage::Assign(assign));
        }
        next
    }

    fn assign(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        (_, id, task): Key,
    ) -> Option<Assign> {
        let run = self.runs.get_mut(&id)?;
        let spec = run.workflow.task(task)?;
        let agent = self.agents.get_mut(name)?;
        let offer = *agent.offer(&spec.entry)?;
        let attempt = AttemptRecord {
            tenant: self.record.tenant.clone(),
            attempt: ctx.chance.attempt(),
            run: id,
            task,
            agent: name.clone(),
            fence: self.record.next_fence,
            incarnation: agent.record.incarnation,
            retry_safe: offer.retry_safe,
            ends_alone_s: ends_alone_s(&offer),
            phase: Phase::Assigned,
            cancel_requested: false,
            assigned_at: ctx.now.0,
            started_at: None,
            finished_at: None,
            late: None,
        };
        self.record.next_fence.0 += 1;
        agent.held.insert(attempt.attempt);
        run.pending.insert(attempt.attempt);
        if let Some(known) = run.tasks.get_mut(usize::from(task.0)) {
            known.record.attempts = known.record.attempts.saturating_add(1);
        }
        let active = TaskState::Active {
            attempt: attempt.attempt,
        };
        ctx.write(Write::Attempt(attempt.clone()));
        Self::notice_attempt(ctx, &attempt);
        self.attempts.insert(attempt.attempt, attempt.clone());
        self.set_task(ctx, id, task, active);
        self.refresh(ctx, name);
        self.command(ctx, &attempt)
    }

    /// Sends again what surely never arrived, under a new command number and today's catalogue.
    fn send_unsent(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        sends: &mut BTreeMap<AgentName, (Conn, Vec<DownMessage>)>,
    ) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        if agent.live.unsent.is_empty() || agent.obstacle(ctx.now).is_some() {
            return;
        }
        let Some(conn) = agent.ready().map(|session| session.conn) else {
            return;
        };
        for id in std::mem::take(&mut agent.live.unsent) {
            self.renew(ctx, name, id);
            let Some(attempt) = self.attempts.get(&id).cloned() else {
                continue;
            };
            if let Some(assign) = self.command(ctx, &attempt) {
                sends
                    .entry(name.clone())
                    .or_insert((conn, Vec::new()))
                    .1
                    .push(DownMessage::Assign(assign));
            }
        }
    }

    /// Judges an attempt that was never sent by the catalogue under which it will be.
    fn renew(&mut self, ctx: &mut Ctx<'_>, name: &AgentName, id: AttemptId) {
        let Some(attempt) = self.attempts.get_mut(&id) else {
            return;
        };
        let spec = self
            .runs
            .get(&attempt.run)
            .and_then(|run| run.workflow.task(attempt.task));
        let Some(agent) = self.agents.get(name) else {
            return;
        };
        let Some(offer) = spec.and_then(|spec| agent.offer(&spec.entry)) else {
            return;
        };
        let judged = (offer.retry_safe, ends_alone_s(offer));
        if judged != (attempt.retry_safe, attempt.ends_alone_s) {
            (attempt.retry_safe, attempt.ends_alone_s) = judged;
            ctx.write(Write::Attempt(attempt.clone()));
        }
    }

    fn command(&mut self, ctx: &Ctx<'_>, attempt: &AttemptRecord) -> Option<Assign> {
        let command_seq = self.number(ctx, &attempt.agent);
        let agent = self.agents.get_mut(&attempt.agent)?;
        if let Some(session) = &mut agent.live.session {
            session.unconfirmed.insert(command_seq, attempt.attempt);
        }
        let run = self.runs.get(&attempt.run)?;
        let spec = run.workflow.task(attempt.task)?;
        let catalogue = self.agents.get(&attempt.agent)?.record.catalogue.as_ref()?;
        Some(Assign {
            attempt: attempt.attempt,
            run: attempt.run,
            task: attempt.task,
            fence: attempt.fence,
            command_seq,
            entry: spec.entry.clone(),
            catalogue_version: catalogue.version,
            parameters: resolve(spec, &run.record.params),
            deadline_ms: spec.timeout_ms,
            task_name: spec.name.clone(),
            workflow_name: run.record.workflow.clone(),
        })
    }
}

/// What a task's entry is given in a run of these parameters, in order of name.
pub(crate) fn resolve(
    spec: &TaskSpec,
    params: &BTreeMap<ParamName, ParamValue>,
) -> Vec<(ParamName, ParamValue)> {
    let value = |argument: &Argument| match argument {
        Argument::Value(value) => Some(value.clone()),
        Argument::Param(name) => params.get(name).cloned(),
    };
    spec.with
        .iter()
        .filter_map(|(name, argument)| Some((name.clone(), value(argument)?)))
        .collect()
}
