//! Wakes whoever watches a tenant when something new about it is committed.
//!
//! Carries only the newest number; watchers read the notices themselves from the database, so a slow watcher costs
//! nothing here and misses nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use outpost_proto::name::TenantName;
use tokio::sync::watch;

/// The newest committed notice of each tenant. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Hub {
    tenants: Arc<Mutex<BTreeMap<TenantName, watch::Sender<u64>>>>,
}

impl Hub {
    /// Changes whenever a notice of this tenant is committed. The value is the number of the newest one that was
    /// committed since somebody first watched, 0 before.
    #[must_use]
    pub fn watch(&self, tenant: &TenantName) -> watch::Receiver<u64> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        tenants
            .entry(tenant.clone())
            .or_insert_with(|| watch::channel(0).0)
            .subscribe()
    }

    /// Tells the tenant's watchers, after the commit.
    pub(crate) fn publish(&self, tenant: &TenantName, seq: u64) {
        let tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = tenants.get(tenant) {
            sender.send_replace(seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tenants_own_watchers_wake() {
        let hub = Hub::default();
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let (seen_a, seen_b) = (hub.watch(&a), hub.watch(&b));
        hub.publish(&a, 7);
        assert!(seen_a.has_changed().unwrap());
        assert_eq!(*seen_a.borrow(), 7);
        assert!(!seen_b.has_changed().unwrap());
    }
}
