//! Which queued task goes to which agent, and when: a total order (priority, run's creation, run, task) that can explain
//! itself.
//!
//! With affinity `run` all tasks of a run go to one agent, chosen with the first of them; with `none` each goes its own
//! way. Of the agents that serve the queue, have the labels and announce the entry, the one with the most room is taken,
//! then by name. Whatever cannot be placed holds up only what waits for the same, and is looked at again when that
//! changes: the cost is in what is placed, not in what waits.

use std::collections::{BTreeMap, BTreeSet};

use outpost_proto::ids::{AttemptId, Conn, RunId};
use outpost_proto::message::{Assign, CatalogueEntry, DownMessage, ParamValue};
use outpost_proto::name::{AgentName, ParamName};

use crate::agent::{Agent, ends_alone_s};
use crate::command::send;
use crate::line::{Gate, Key, LineId, PoolId, Spring, Target};
use crate::record::{AgentMark, AttemptRecord, Phase, Presence, TaskState, Write};
use crate::spec::{Affinity, Argument, TaskSpec};
use crate::tenant::{Ctx, Tenant};

/// Messages of this turn, per agent.
pub(crate) type Sends = BTreeMap<AgentName, (Conn, Vec<DownMessage>)>;

/// What became of the first task of a target.
enum Tried {
    /// It has its agent, or was set aside: the next one may be looked at.
    Gone,
    /// No agent takes work now: nothing behind it can be placed either.
    Full,
}

impl Tenant {
    /// An agent announces, serves or is labelled otherwise than before.
    pub(crate) fn offers_changed(&mut self, name: &AgentName) {
        let Some(agent) = self.agents.get(name) else {
            return;
        };
        for (class, pool) in self.places.pools.changed(name, agent) {
            self.places.lines.retarget(class, &Target::Pool(pool));
        }
        let from = (name.clone(), Key::FIRST);
        let aside = self.places.aside.range(from..);
        let aside = aside.take_while(|(of, _)| of == name);
        let aside: Vec<Key> = aside.map(|(_, key)| *key).collect();
        for key in aside {
            self.places.aside.remove(&(name.clone(), key));
            self.enqueue(key.run, key.task);
        }
        self.shows_anew(name);
        self.wake(name);
    }

    /// Makes the next placement look at this agent.
    pub(crate) fn wake(&mut self, name: &AgentName) {
        self.places.unsent.insert(name.clone());
        let places = &mut self.places;
        places.lines.wake(Target::Agent(name.clone()));
        for pool in places.pools.of_agent(name) {
            places.lines.wake(Target::Pool(pool));
        }
    }

    /// Looks again at how much more an agent can be given.
    pub(crate) fn refresh(&mut self, ctx: &Ctx<'_>, name: &AgentName) {
        let Some(agent) = self.agents.get(name) else {
            return;
        };
        let obstacle = agent.obstacle(ctx.now);
        let room = match obstacle {
            None => agent.room(ctx.settings),
            Some(_) => 0,
        };
        let unsent = !agent.live.unsent.is_empty();
        let before = self.places.pools.set_room(name, room);
        if room > before {
            self.wake(name);
        } else if unsent {
            self.places.unsent.insert(name.clone());
        }
        self.observes(name, obstacle);
    }

    /// Gives out work, then writes what of agents and tenant changed in this turn.
    pub(crate) fn place(&mut self, ctx: &mut Ctx<'_>) {
        for name in std::mem::take(&mut self.places.announced) {
            self.offers_changed(&name);
        }
        let mut sends = Sends::new();
        if !self.is_recovering(ctx) {
            for name in std::mem::take(&mut self.places.unsent) {
                self.send_unsent(ctx, &name, &mut sends);
            }
            self.give_out(ctx, &mut sends);
            self.show(ctx, &mut sends);
        }
        for (conn, messages) in sends.into_values() {
            send(ctx, conn, messages);
        }
        self.write_agents(ctx);
    }

    /// An agent's record, with its catalogue, only if more than its numbers changed. It takes the place of the mark, and
    /// with it goes the fence that stands there: the tenant's record has it then.
    fn write_agents(&mut self, ctx: &mut Ctx<'_>) {
        let changed = std::mem::take(&mut self.places.changed);
        if !changed.is_empty() {
            ctx.write(Write::Tenant(self.record.clone()));
        }
        for name in std::mem::take(&mut self.places.marked) {
            if let Some(agent) = self.agents.get(&name)
                && !changed.contains(&name)
            {
                ctx.write(Write::AgentMark(AgentMark {
                    tenant: self.record.tenant.clone(),
                    agent: name,
                    event_seq: agent.record.event_seq,
                    command_seq: agent.record.command_seq,
                    next_fence: self.record.next_fence,
                }));
            }
        }
        for name in changed {
            if let Some(agent) = self.agents.get(&name) {
                ctx.write(Write::Agent(agent.record.clone()));
            }
        }
    }

    /// Merges what was woken by the order of its first tasks, until nothing of it can be placed.
    fn give_out(&mut self, ctx: &mut Ctx<'_>, sends: &mut Sends) {
        #[cfg(test)]
        if self.places.naive {
            return self.give_out_naively(ctx, sends);
        }
        let mut heads: BTreeSet<(Key, Spring)> = BTreeSet::new();
        loop {
            if self.places.lines.is_awake() {
                heads.extend(self.places.lines.woken());
            }
            let Some((key, spring)) = heads.pop_first() else {
                return;
            };
            self.places.looked = self.places.looked.wrapping_add(1);
            // What it offers may have changed since it was noted.
            let Some((first, line)) = self.places.lines.first(&spring) else {
                continue;
            };
            if first != key {
                heads.insert((first, spring));
                continue;
            }
            let goes_on = match &spring {
                Spring::Gate(gate) if self.is_closed(gate) => false,
                Spring::Gate(_) => {
                    self.places.lines.unpark(line);
                    true
                }
                Spring::Target(target) => match self.gate_of(line) {
                    Some(gate) => {
                        self.places.lines.park(line, gate);
                        true
                    }
                    None => matches!(self.place_one(ctx, target, key, sends), Tried::Gone),
                },
            };
            if goes_on && let Some((next, _)) = self.places.lines.first(&spring) {
                heads.insert((next, spring));
            }
        }
    }

    fn gate_of(&self, line: LineId) -> Option<Gate> {
        self.limit_reached(self.places.lines.kind(line)?)
    }

    fn place_one(
        &mut self,
        ctx: &mut Ctx<'_>,
        target: &Target,
        key: Key,
        sends: &mut Sends,
    ) -> Tried {
        let name = match target {
            Target::Agent(name) => self.takes_work(ctx, name).then(|| name.clone()),
            Target::Pool(pool) => self.roomiest(ctx, *pool),
        };
        let Some(name) = name else {
            return Tried::Full;
        };
        let Some(run) = self.runs.get(&key.run) else {
            return Tried::Full;
        };
        let Some(agent) = self.agents.get(&name) else {
            return Tried::Full;
        };
        let spec = run.workflow.task(key.task);
        match spec.and_then(|spec| agent.offer(&spec.entry)).copied() {
            Some(offer) => self.give(ctx, &name, key, offer, sends),
            None => {
                self.dequeue(key.run, key.task);
                self.places.aside.insert((name, key));
            }
        }
        Tried::Gone
    }

    /// Gives a task to an agent that takes it.
    pub(crate) fn give(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        key: Key,
        offer: CatalogueEntry,
        sends: &mut Sends,
    ) {
        let session = self.agents.get(name).and_then(Agent::ready);
        let Some(conn) = session.map(|session| session.conn) else {
            return;
        };
        self.begin_run(ctx, key.run, name);
        if let Some(assign) = self.assign(ctx, name, key, offer) {
            let (_, messages) = sends.entry(name.clone()).or_insert((conn, Vec::new()));
            messages.push(DownMessage::Assign(assign));
        }
    }

    fn takes_work(&self, ctx: &Ctx<'_>, name: &AgentName) -> bool {
        self.agents
            .get(name)
            .is_some_and(|agent| agent.obstacle(ctx.now).is_none() && agent.room(ctx.settings) > 0)
    }

    /// The member of a pool with the most room. A lease may have ended since room was noted.
    fn roomiest(&mut self, ctx: &Ctx<'_>, pool: PoolId) -> Option<AgentName> {
        loop {
            let name = self.places.pools.roomiest(pool)?.clone();
            if self.takes_work(ctx, &name) {
                return Some(name);
            }
            self.places.pools.set_room(&name, 0);
        }
    }

    /// With its first task a run begins, and with affinity `run` it has its agent from now on.
    pub(crate) fn begin_run(&mut self, ctx: &mut Ctx<'_>, id: RunId, name: &AgentName) {
        let Some(run) = self.runs.get(&id) else {
            return;
        };
        let stays = run.workflow.record.spec.affinity == Affinity::Run;
        let binds = stays && run.record.agent.is_none();
        if run.begun && !binds {
            return;
        }
        self.count_run(id, true);
        self.line_up(id, |run| {
            run.record.started_at.get_or_insert(ctx.now.0);
            if binds {
                run.record.agent = Some(name.clone());
            }
        });
        if let Some(run) = self.runs.get(&id) {
            ctx.write(Write::Run(run.record.clone()));
        }
    }

    /// Takes a run from its agent: it chooses anew, and its queued tasks with it.
    pub(crate) fn unbind(&mut self, ctx: &mut Ctx<'_>, id: RunId) {
        self.line_up(id, |run| run.record.agent = None);
        if let Some(run) = self.runs.get(&id) {
            ctx.write(Write::Run(run.record.clone()));
        }
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
            self.unbind(ctx, id);
        }
    }

    fn assign(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        key: Key,
        offer: CatalogueEntry,
    ) -> Option<Assign> {
        let (id, task) = (key.run, key.task);
        let run = self.runs.get_mut(&id)?;
        let agent = self.agents.get_mut(name)?;
        let attempt = AttemptRecord {
            tenant: self.record.tenant.clone(),
            attempt: ctx.chance.attempt(ctx.now),
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
            recovered: false,
            asserted: None,
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
    fn send_unsent(&mut self, ctx: &mut Ctx<'_>, name: &AgentName, sends: &mut Sends) {
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
