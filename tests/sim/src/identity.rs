//! Who the agent of a site is: its name, and the keys that it presents as it enrols and renews.

use outpost_orchestrator_core::event::Event as CenterEvent;
use outpost_proto::ids::Conn;
use outpost_proto::name::{AgentName, TenantName};

use crate::queue::At;

/// Who a site's agent is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) tenant: TenantName,
    pub(crate) agent: AgentName,
    pub(crate) spiffe_id: String,
    /// Stands for its key; another one after every new enrolment and every renewal.
    pub(crate) key: u64,
    /// Of a renewal that is not stored yet.
    pub(crate) pending: Option<u64>,
    /// When its certificate was stored, and what the orchestrator's clock showed then.
    pub(crate) since: At,
    pub(crate) dated: u64,
}

impl Identity {
    /// As the orchestrator knows it.
    pub(crate) fn key_hash(&self) -> String {
        self.key_hash_of(self.key)
    }

    pub(crate) fn key_hash_of(&self, key: u64) -> String {
        format!("key-{}-{key:016x}", self.agent)
    }

    pub(crate) fn opened(&self, conn: Conn, key_hash: &str, not_after: u64) -> CenterEvent {
        CenterEvent::Opened {
            conn,
            tenant: self.tenant.clone(),
            agent: self.agent.clone(),
            spiffe_id: self.spiffe_id.clone(),
            key_hash: key_hash.to_owned(),
            not_after,
        }
    }
}
