//! Queues and indexes of placement: which tasks wait for which agent, who has room, who announces what.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use outpost_proto::ids::{RunId, TaskIndex};
use outpost_proto::name::{AgentName, EntryName, WorkflowName};

use crate::agent::Agent;
use crate::record::RunRecord;
use crate::run::{Run, Workflow};

/// Place of a queued task in the order.
pub(crate) type Key = (u64, RunId, TaskIndex);

/// Queues and indexes of one tenant.
#[derive(Debug)]
pub(crate) struct Places {
    /// Queued tasks of runs that have their agent.
    pub(crate) bound: BTreeMap<AgentName, BTreeSet<Key>>,
    /// Queued tasks of runs that have none yet.
    pub(crate) unbound: BTreeMap<(WorkflowName, u32), BTreeSet<Key>>,
    /// Agents that take work and have room, the most room first.
    pub(crate) roomy: BTreeSet<(Reverse<u16>, AgentName)>,
    room: BTreeMap<AgentName, u16>,
    /// Per entry of a known workflow, the agents that announce it.
    pub(crate) offered: BTreeMap<EntryName, BTreeSet<AgentName>>,
    /// Agents for which something changed.
    pub(crate) woken: BTreeSet<AgentName>,
    /// Whether a run without an agent may find one now.
    pub(crate) look: bool,
    /// Agents whose record is to be written with this turn, once.
    pub(crate) changed: BTreeSet<AgentName>,
}

impl Places {
    pub(crate) fn new() -> Self {
        Self {
            bound: BTreeMap::new(),
            unbound: BTreeMap::new(),
            roomy: BTreeSet::new(),
            room: BTreeMap::new(),
            offered: BTreeMap::new(),
            woken: BTreeSet::new(),
            look: false,
            changed: BTreeSet::new(),
        }
    }

    pub(crate) fn add(&mut self, key: Key, run: &Run) {
        match &run.record.agent {
            Some(agent) => {
                self.bound.entry(agent.clone()).or_default().insert(key);
                self.woken.insert(agent.clone());
            }
            None => {
                self.unbound
                    .entry(version_of(&run.record))
                    .or_default()
                    .insert(key);
                self.look = true;
            }
        }
    }

    pub(crate) fn remove(&mut self, key: Key, run: &Run) {
        match &run.record.agent {
            Some(agent) => take(&mut self.bound, agent, key),
            None => take(&mut self.unbound, &version_of(&run.record), key),
        }
    }

    /// Takes note of how much more an agent can be given; gives how much it was before.
    pub(crate) fn set_room(&mut self, name: &AgentName, room: u16) -> u16 {
        let before = self.room.insert(name.clone(), room).unwrap_or(0);
        if before > 0 {
            self.roomy.remove(&(Reverse(before), name.clone()));
        }
        if room > 0 {
            self.roomy.insert((Reverse(room), name.clone()));
        }
        before
    }

    /// Takes an entry into the index of what is announced.
    pub(crate) fn know_entry(&mut self, entry: &EntryName, agents: &BTreeMap<AgentName, Agent>) {
        if !self.offered.contains_key(entry) {
            let offering = agents
                .iter()
                .filter(|(_, agent)| agent.offer(entry).is_some());
            self.offered.insert(
                entry.clone(),
                offering.map(|(name, _)| name.clone()).collect(),
            );
        }
    }

    /// The agents that announce this entry of a known workflow.
    pub(crate) fn offering(&self, entry: &EntryName) -> impl Iterator<Item = &AgentName> {
        self.offered.get(entry).into_iter().flatten()
    }

    pub(crate) fn offers(&self, agent: &AgentName, entry: &EntryName) -> bool {
        self.offered
            .get(entry)
            .is_some_and(|agents| agents.contains(agent))
    }

    pub(crate) fn offers_all(&self, agent: &AgentName, workflow: &Workflow) -> bool {
        workflow
            .entries
            .iter()
            .all(|entry| self.offers(agent, entry))
    }

    /// Queued tasks that come before this one for the same agent.
    pub(crate) fn ahead(&self, agent: &AgentName, key: Key) -> usize {
        self.bound
            .get(agent)
            .map_or(0, |queue| queue.range(..key).count())
    }
}

fn take<K: Ord>(queues: &mut BTreeMap<K, BTreeSet<Key>>, at: &K, key: Key) {
    if let Some(queue) = queues.get_mut(at) {
        queue.remove(&key);
        if queue.is_empty() {
            queues.remove(at);
        }
    }
}

fn version_of(run: &RunRecord) -> (WorkflowName, u32) {
    (run.workflow.clone(), run.version)
}
