//! Who can take what: agents that can take the same tasks are one pool, and each pool knows which of them have room.
//!
//! Tasks that ask the same are one class; classes that the same agents can take share a pool. A change of an agent's
//! room touches its pools, a change of what it announces, serves or is labelled touches the classes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outpost_proto::name::{AgentName, EntryName};

use crate::agent::Agent;
use crate::line::{ClassId, PoolId};
use crate::needs::Needs;

type Members = BTreeSet<AgentName>;

#[derive(Debug)]
struct Class {
    needs: Arc<Needs>,
    pool: PoolId,
}

#[derive(Debug)]
struct Pool {
    members: Arc<Members>,
    /// Members that take work and have room, the most room first.
    roomy: BTreeSet<(Reverse<u16>, AgentName)>,
    classes: usize,
}

/// Classes, pools and room of one tenant.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    classes: BTreeMap<ClassId, Class>,
    class_ids: BTreeMap<Arc<Needs>, ClassId>,
    pools: BTreeMap<PoolId, Pool>,
    pool_ids: BTreeMap<Arc<Members>, PoolId>,
    pools_of: BTreeMap<AgentName, BTreeSet<PoolId>>,
    room: BTreeMap<AgentName, u16>,
    /// Per entry of a known workflow, the agents that announce it.
    offered: BTreeMap<EntryName, Members>,
    last: u32,
}

impl Pools {
    /// Takes an entry into the index of what is announced.
    pub(crate) fn know_entry(&mut self, entry: &EntryName, agents: &BTreeMap<AgentName, Agent>) {
        if !self.offered.contains_key(entry) {
            let offering = agents
                .iter()
                .filter(|(_, agent)| agent.offer(entry).is_some());
            let offering = offering.map(|(name, _)| name.clone()).collect();
            self.offered.insert(entry.clone(), offering);
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

    pub(crate) fn offers_all(&self, agent: &AgentName, needs: &Needs) -> bool {
        needs.entries.iter().all(|entry| self.offers(agent, entry))
    }

    /// Whether an agent could take what asks this, if it had room.
    pub(crate) fn suits(&self, agent: &Agent, needs: &Needs) -> bool {
        !agent.record.removed
            && needs.served_by(agent)
            && needs.labelled(agent)
            && self.offers_all(&agent.record.agent, needs)
    }

    /// The class of what asks this.
    pub(crate) fn class(
        &mut self,
        needs: &Arc<Needs>,
        agents: &BTreeMap<AgentName, Agent>,
    ) -> ClassId {
        if let Some(id) = self.class_ids.get(needs) {
            return *id;
        }
        for entry in &needs.entries {
            self.know_entry(entry, agents);
        }
        let members = agents.iter().filter(|(_, agent)| self.suits(agent, needs));
        let members = members.map(|(name, _)| name.clone()).collect();
        let pool = self.join(members);
        let id = ClassId(self.number());
        self.class_ids.insert(Arc::clone(needs), id);
        let needs = Arc::clone(needs);
        self.classes.insert(id, Class { needs, pool });
        id
    }

    pub(crate) fn pool(&self, class: ClassId) -> Option<PoolId> {
        self.classes.get(&class).map(|class| class.pool)
    }

    /// Lets go of classes that no workflow asks any more. Those still in use are found again by what they ask.
    pub(crate) fn sweep(&mut self, in_use: impl Fn(ClassId) -> bool) {
        // One in the class, one in the index, and none in a workflow.
        let unused = self
            .classes
            .iter()
            .filter(|(id, class)| Arc::strong_count(&class.needs) == 2 && !in_use(**id));
        let unused: Vec<ClassId> = unused.map(|(id, _)| *id).collect();
        for id in unused {
            if let Some(class) = self.classes.remove(&id) {
                self.class_ids.remove(&class.needs);
                self.leave(class.pool);
            }
        }
    }

    /// How many classes and pools were made so far.
    #[cfg(test)]
    pub(crate) fn made(&self) -> u32 {
        self.last
    }

    fn number(&mut self) -> u32 {
        self.last = self.last.wrapping_add(1);
        self.last
    }

    /// One more class goes to these agents.
    fn join(&mut self, members: Members) -> PoolId {
        if let Some(id) = self.pool_ids.get(&members).copied() {
            if let Some(pool) = self.pools.get_mut(&id) {
                pool.classes += 1;
            }
            return id;
        }
        let id = PoolId(self.number());
        let roomy = members.iter().filter_map(|name| {
            let room = self.room.get(name).copied().filter(|room| *room > 0)?;
            Some((Reverse(room), name.clone()))
        });
        let roomy = roomy.collect();
        for name in &members {
            self.pools_of.entry(name.clone()).or_default().insert(id);
        }
        let members = Arc::new(members);
        self.pool_ids.insert(Arc::clone(&members), id);
        let classes = 1;
        self.pools.insert(
            id,
            Pool {
                members,
                roomy,
                classes,
            },
        );
        id
    }

    fn leave(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        pool.classes -= 1;
        if pool.classes > 0 {
            return;
        }
        let Some(pool) = self.pools.remove(&id) else {
            return;
        };
        self.pool_ids.remove(&pool.members);
        for name in pool.members.iter() {
            if let Some(pools) = self.pools_of.get_mut(name) {
                pools.remove(&id);
                if pools.is_empty() {
                    self.pools_of.remove(name);
                }
            }
        }
    }

    /// An agent announces, serves or is labelled otherwise than before. Gives the classes that have another pool now.
    pub(crate) fn changed(&mut self, name: &AgentName, agent: &Agent) -> Vec<(ClassId, PoolId)> {
        for (entry, agents) in &mut self.offered {
            if agent.record.removed || agent.offer(entry).is_none() {
                agents.remove(name);
            } else {
                agents.insert(name.clone());
            }
        }
        let moving = self.classes.iter().filter_map(|(id, class)| {
            let pool = self.pools.get(&class.pool)?;
            let suits = self.suits(agent, &class.needs);
            (pool.members.contains(name) != suits).then_some((*id, class.pool, suits))
        });
        let moving: Vec<(ClassId, PoolId, bool)> = moving.collect();
        let mut moved: BTreeMap<(PoolId, bool), PoolId> = BTreeMap::new();
        let mut result = Vec::new();
        for (id, from, suits) in moving {
            let to = match moved.get(&(from, suits)).copied() {
                Some(to) => {
                    if let Some(pool) = self.pools.get_mut(&to) {
                        pool.classes += 1;
                    }
                    to
                }
                None => {
                    let Some(pool) = self.pools.get(&from) else {
                        continue;
                    };
                    let mut members = Members::clone(&pool.members);
                    if suits {
                        members.insert(name.clone());
                    } else {
                        members.remove(name);
                    }
                    let to = self.join(members);
                    moved.insert((from, suits), to);
                    to
                }
            };
            if let Some(class) = self.classes.get_mut(&id) {
                class.pool = to;
            }
            self.leave(from);
            result.push((id, to));
        }
        result
    }

    /// Takes note of how much more an agent can be given; gives how much it was before.
    pub(crate) fn set_room(&mut self, name: &AgentName, room: u16) -> u16 {
        let before = match self.room.get_mut(name) {
            Some(known) => std::mem::replace(known, room),
            None => self.room.insert(name.clone(), room).unwrap_or(0),
        };
        if before == room {
            return before;
        }
        for id in self.pools_of.get(name).into_iter().flatten() {
            let Some(pool) = self.pools.get_mut(id) else {
                continue;
            };
            if before > 0 {
                pool.roomy.remove(&(Reverse(before), name.clone()));
            }
            if room > 0 {
                pool.roomy.insert((Reverse(room), name.clone()));
            }
        }
        before
    }

    /// The pools that an agent is in.
    pub(crate) fn of_agent(&self, name: &AgentName) -> impl Iterator<Item = PoolId> {
        self.pools_of.get(name).into_iter().flatten().copied()
    }

    /// The member with the most room, then by name.
    pub(crate) fn roomiest(&self, pool: PoolId) -> Option<&AgentName> {
        let (_, name) = self.pools.get(&pool)?.roomy.first()?;
        Some(name)
    }
}
