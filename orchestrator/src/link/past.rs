//! Which sessions of each agent came before the one that stands, and how far each was received: signed with every receipt, so
//! that a site's evidence shows when an earlier session is missing in it, or is another than it was.
//!
//! Kept since this process began, or since the agent enrolled: what a former holder of its name said is in no ledger of its
//! own. Written when the core accepts a session, whether or not its stream is there to be told; read when a receipt is signed. It decides nothing, and is lost with the process.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outpost_proto::ids::SessionEpoch;
use outpost_proto::limits::RECEIPT_SESSIONS;
use outpost_proto::message::SessionEnd;
use outpost_proto::name::{AgentName, TenantName};

use super::chain::Chain;

/// What one stream received so far, which goes on being added to.
pub(super) type Received = Arc<Mutex<Chain>>;

/// The sessions of all agents that had one in the life of this process. Agents are as many as enrolled.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pasts(Arc<Mutex<HashMap<(TenantName, AgentName), Past>>>);

/// The sessions of one agent.
#[derive(Debug, Clone, Default)]
pub(super) struct Past(Arc<Mutex<Sessions>>);

#[derive(Debug, Default)]
struct Sessions {
    /// The first one.
    since: Option<SessionEpoch>,
    /// The newest ones, ascending; one more than are named before another.
    newest: VecDeque<(SessionEpoch, Received)>,
}

impl Pasts {
    /// Of this agent.
    pub(super) fn of(&self, tenant: &TenantName, agent: &AgentName) -> Past {
        let mut all = lock(&self.0);
        let key = (tenant.clone(), agent.clone());
        all.entry(key).or_default().clone()
    }

    /// Somebody enrolled under this name: what was said under it before, another may have said.
    pub(crate) fn begins_anew(&self, tenant: &TenantName, agent: &AgentName) {
        lock(&self.0).remove(&(tenant.clone(), agent.clone()));
    }
}

impl Past {
    /// This session begins, and will have received so much.
    pub(super) fn begins(&self, epoch: SessionEpoch, received: &Received) {
        let mut sessions = lock(&self.0);
        if sessions
            .newest
            .back()
            .is_some_and(|(newest, _)| *newest >= epoch)
        {
            // Counted anew: what is numbered as before is another.
            *sessions = Sessions::default();
        }
        sessions.since.get_or_insert(epoch);
        sessions.newest.push_back((epoch, received.clone()));
        if sessions.newest.len() > RECEIPT_SESSIONS + 1 {
            sessions.newest.pop_front();
        }
    }

    /// The first session, and how far those before this one were received by now.
    pub(super) fn before(&self, epoch: SessionEpoch) -> (SessionEpoch, Vec<SessionEnd>) {
        let sessions = lock(&self.0);
        let before = sessions.newest.iter().filter(|(other, _)| *other < epoch);
        let mut ends: Vec<_> = before
            .map(|(epoch, received)| {
                let Chain { head, frames } = *lock(received);
                SessionEnd {
                    session_epoch: *epoch,
                    frame_count: frames,
                    head,
                }
            })
            .collect();
        ends.drain(..ends.len().saturating_sub(RECEIPT_SESSIONS));
        (sessions.since.unwrap_or(epoch).min(epoch), ends)
    }
}

/// What is under it is whole at any moment.
pub(super) fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(past: &Past, epoch: u64) -> (u64, Vec<(u64, u64)>) {
        let (since, ends) = past.before(SessionEpoch(epoch));
        let ends = ends
            .iter()
            .map(|end| (end.session_epoch.0, end.frame_count));
        (since.0, ends.collect())
    }

    #[test]
    fn the_newest_sessions_before_one_are_named_with_what_was_received_by_now() {
        let past = Past::default();
        let first = Received::default();
        past.begins(SessionEpoch(5), &first);
        lock(&first).push(b"hello");
        assert_eq!(epochs(&past, 5), (5, vec![]));
        past.begins(SessionEpoch(6), &Received::default());
        assert_eq!(epochs(&past, 6), (5, vec![(5, 1)]));
        lock(&first).push(b"more");
        assert_eq!(epochs(&past, 6), (5, vec![(5, 2)]));
        assert_eq!(
            epochs(&past, 5),
            (5, vec![]),
            "the earlier one stands still"
        );
        for epoch in 7..40 {
            past.begins(SessionEpoch(epoch), &Received::default());
        }
        let (since, ends) = epochs(&past, 39);
        let ends: Vec<_> = ends.into_iter().map(|(epoch, _)| epoch).collect();
        assert_eq!((since, ends), (5, (31..39).collect()));
        assert!(lock(&past.0).newest.len() <= RECEIPT_SESSIONS + 1);
    }

    #[test]
    fn whoever_enrols_begins_anew_and_so_does_a_number_that_went_back() {
        let (tenant, agent) = ("acme".parse().unwrap(), "bank".parse().unwrap());
        let pasts = Pasts::default();
        let stands = pasts.of(&tenant, &agent);
        stands.begins(SessionEpoch(5), &Received::default());
        let again = pasts.of(&tenant, &agent);
        again.begins(SessionEpoch(6), &Received::default());
        assert_eq!(epochs(&again, 6), (5, vec![(5, 0)]));
        again.begins(SessionEpoch(6), &Received::default());
        assert_eq!(epochs(&again, 6), (6, vec![]));
        pasts.begins_anew(&tenant, &agent);
        let anew = pasts.of(&tenant, &agent);
        anew.begins(SessionEpoch(8), &Received::default());
        assert_eq!(epochs(&anew, 8), (8, vec![]));
        let other = pasts.of(&tenant, &"other".parse().unwrap());
        other.begins(SessionEpoch(2), &Received::default());
        assert_eq!(epochs(&other, 2), (2, vec![]));
    }
}
