//! Who has how many connections to the agents' port: those that have not said who they are, in all and by address; those
//! that have, by agent. Nobody's are all that there is room for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outpost_proto::name::{AgentName, TenantName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits::{CONNECTIONS_PER_AGENT, STRANGERS, STRANGERS_PER_ADDRESS};

/// The counts of one port.
#[derive(Clone)]
pub(super) struct Places {
    room: Arc<Semaphore>,
    by_address: Counts<IpAddr>,
    by_agent: Counts<(TenantName, AgentName)>,
}

/// A connection that has not said whose it is; counted until it is dropped.
pub(super) struct Stranger {
    _counted: Counted<IpAddr>,
    _room: OwnedSemaphorePermit,
}

/// A connection of an agent that is known; counted until it is dropped.
pub(super) type Known = Counted<(TenantName, AgentName)>;

impl Default for Places {
    fn default() -> Self {
        Self {
            room: Arc::new(Semaphore::new(STRANGERS)),
            by_address: Counts::default(),
            by_agent: Counts::default(),
        }
    }
}

impl Places {
    /// Waits for room for one more stranger; `None` when nobody is let in any more.
    pub(super) async fn room(&self) -> Option<OwnedSemaphorePermit> {
        self.room.clone().acquire_owned().await.ok()
    }

    /// Takes the room for a stranger from there; `None` when it has enough.
    pub(super) fn stranger(&self, from: IpAddr, room: OwnedSemaphorePermit) -> Option<Stranger> {
        let counted = self.by_address.enter(from, STRANGERS_PER_ADDRESS)?;
        Some(Stranger {
            _counted: counted,
            _room: room,
        })
    }

    /// One more connection of an agent that has shown its certificate; `None` when it has enough.
    pub(super) fn known(&self, tenant: &TenantName, agent: &AgentName) -> Option<Known> {
        let who = (tenant.clone(), agent.clone());
        self.by_agent.enter(who, CONNECTIONS_PER_AGENT)
    }
}

/// How many connections each has; whoever has none is not in it.
struct Counts<K>(Arc<Mutex<BTreeMap<K, usize>>>);

impl<K> Clone for Counts<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Ord + Clone> Counts<K> {
    fn enter(&self, who: K, most: usize) -> Option<Counted<K>> {
        let mut counts = self.lock();
        let count = counts.entry(who.clone()).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        drop(counts);
        let of = self.clone();
        Some(Counted { who, of })
    }
}

impl<K> Counts<K> {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection of somebody.
pub(super) struct Counted<K: Ord> {
    who: K,
    of: Counts<K>,
}

impl<K: Ord> Drop for Counted<K> {
    fn drop(&mut self) {
        let mut counts = self.of.lock();
        if let Some(count) = counts.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_address_cannot_use_up_the_room() {
        let places = Places::default();
        let (busy, other) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let mut held = Vec::new();
        for _ in 0..STRANGERS_PER_ADDRESS {
            let room = places.room().await.unwrap();
            held.push(places.stranger(busy, room).unwrap());
        }
        let room = places.room().await.unwrap();
        assert!(places.stranger(busy, room).is_none());
        let room = places.room().await.unwrap();
        assert!(places.stranger(other, room).is_some());
        held.pop();
        let room = places.room().await.unwrap();
        assert!(places.stranger(busy, room).is_some());
        drop(held);
        assert!(places.by_address.lock().is_empty());
        assert_eq!(places.room.available_permits(), STRANGERS);
    }

    #[test]
    fn one_agent_has_so_many_connections_and_leaves_the_others_theirs() {
        let places = Places::default();
        let (tenant, other) = ("acme".parse().unwrap(), "other".parse().unwrap());
        let agent = "site-1".parse().unwrap();
        let enter = |tenant| places.known(tenant, &agent);
        let mut held: Vec<Known> = (0..CONNECTIONS_PER_AGENT)
            .map(|_| enter(&tenant).unwrap())
            .collect();
        assert!(enter(&tenant).is_none());
        assert!(enter(&other).is_some(), "of the same name elsewhere");
        held.pop();
        held.push(enter(&tenant).unwrap());
        drop(held);
        assert!(places.by_agent.lock().is_empty());
    }
}
