//! What placement keeps between two turns: the lines of queued tasks, who can take them, what is active.

use std::collections::{BTreeMap, BTreeSet};

use outpost_proto::ids::{RunId, TaskIndex};
use outpost_proto::name::{AgentName, EntryName};

use crate::agent::Agent;
use crate::counts::Counts;
use crate::line::{Key, Kind, Lines, Source, Target};
use crate::pool::Pools;
use crate::record::TaskState;
use crate::run::Run;
use crate::tenant::Tenant;

/// Queues and indexes of one tenant.
#[derive(Debug, Default)]
pub(crate) struct Places {
    pub(crate) lines: Lines,
    pub(crate) pools: Pools,
    pub(crate) counts: Counts,
    /// Queued tasks whose run's agent does not announce their entry any more.
    pub(crate) aside: BTreeSet<(AgentName, Key)>,
    /// Agents for which something may have to be sent again.
    pub(crate) unsent: BTreeSet<AgentName>,
    /// Agents that announce otherwise than before, or under another identity: who can take what is looked at once, at the
    /// turn's end, however often they say so in it.
    pub(crate) announced: BTreeSet<AgentName>,
    /// Agents whose record is to be written with this turn, once.
    pub(crate) changed: BTreeSet<AgentName>,
    /// Agents of which at least the numbers are.
    pub(crate) marked: BTreeSet<AgentName>,
    /// What is to be shown to agents that only observe.
    pub(crate) observers: BTreeMap<AgentName, BTreeSet<Key>>,
    /// How often a first task was looked at, for tests and figures of what placement costs.
    pub(crate) looked: u64,
    /// Whether placement walks over everything, to be compared with.
    #[cfg(test)]
    pub(crate) naive: bool,
}

impl Places {
    /// Takes an entry into the index of what is announced.
    pub(crate) fn know_entry(&mut self, entry: &EntryName, agents: &BTreeMap<AgentName, Agent>) {
        self.pools.know_entry(entry, agents);
    }

    /// The agents that announce this entry of a known workflow.
    pub(crate) fn offering(&self, entry: &EntryName) -> impl Iterator<Item = &AgentName> {
        self.pools.offering(entry)
    }
}

impl Tenant {
    /// Puts a queued task in its line.
    pub(crate) fn enqueue(&mut self, id: RunId, task: TaskIndex) {
        let Some(run) = self.runs.get(&id) else {
            return;
        };
        let Some(spec) = run.workflow.task(task) else {
            return;
        };
        let key = run.key(task);
        let (source, target) = match &run.record.agent {
            Some(agent) => (Source::Bound(agent.clone()), Target::Agent(agent.clone())),
            None => {
                let Some(needs) = run.workflow.needs(task) else {
                    return;
                };
                let class = self.places.pools.class(needs, &self.agents);
                let Some(pool) = self.places.pools.pool(class) else {
                    return;
                };
                (Source::Class(class), Target::Pool(pool))
            }
        };
        let limits = self.current(&run.record.workflow);
        let limited = limits.is_some_and(|current| current.limits.contains_key(&spec.name));
        let kind = Kind {
            source,
            workflow: run.record.workflow.clone(),
            limited: limited.then(|| spec.name.clone()),
            fresh: !run.begun,
        };
        if !self.places.observers.is_empty() {
            self.shows(&target, key);
        }
        let line = self.places.lines.add(kind, target, key);
        if let Some(run) = self.runs.get_mut(&id)
            && let Some(known) = run.tasks.get_mut(usize::from(task.0))
        {
            known.line = Some(line);
        }
    }

    /// Takes a task out of its line.
    pub(crate) fn dequeue(&mut self, id: RunId, task: TaskIndex) {
        let Some(run) = self.runs.get_mut(&id) else {
            return;
        };
        let key = run.key(task);
        let known = run.tasks.get_mut(usize::from(task.0));
        match (known.and_then(|known| known.line.take()), &run.record.agent) {
            (Some(line), _) => self.places.lines.remove(line, key),
            (None, Some(agent)) => {
                self.places.aside.remove(&(agent.clone(), key));
            }
            (None, None) => {}
        }
    }

    /// Puts all queued tasks of a run in line anew, after a change of what they have in common.
    pub(crate) fn line_up(&mut self, id: RunId, change: impl FnOnce(&mut Run)) {
        let Some(run) = self.runs.get(&id) else {
            return;
        };
        let queued = run
            .tasks
            .iter()
            .filter(|task| matches!(task.record.state, TaskState::Queued { .. }));
        let queued: Vec<TaskIndex> = queued.map(|task| task.record.task).collect();
        for task in &queued {
            self.dequeue(id, *task);
        }
        if let Some(run) = self.runs.get_mut(&id) {
            change(run);
        }
        for task in queued {
            self.enqueue(id, task);
        }
    }
}
