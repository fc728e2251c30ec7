//! Counts what a connection is used for, so that whoever only holds one open keeps nobody else out for long. Both ports
//! do it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

/// Counts a connection's open calls, so that one without any can be closed.
#[derive(Clone, Default)]
pub(crate) struct Calls(Arc<Count>);

#[derive(Default)]
struct Count {
    open: AtomicUsize,
    /// One waits: the connection's own task.
    changed: Notify,
}

/// One open call; a stream's task holds it too.
pub(crate) struct OpenCall(Calls);

impl Calls {
    pub(crate) fn begin(&self) -> OpenCall {
        self.0.open.fetch_add(1, Ordering::AcqRel);
        self.0.changed.notify_one();
        OpenCall(self.clone())
    }

    /// Ends when none was begun at first, or none was open later, for so long.
    pub(crate) async fn idle(&self, first: Duration, later: Duration) {
        let mut patience = first;
        while timeout(patience, self.wait(true)).await.is_ok() {
            self.wait(false).await;
            patience = later;
        }
    }

    /// Waits until some are open, or none. To be awaited by one at a time.
    async fn wait(&self, some: bool) {
        // A change between the look and the wait leaves a permit.
        while (self.0.open.load(Ordering::Acquire) > 0) != some {
            self.0.changed.notified().await;
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let Count { open, changed } = &*self.0.0;
        open.fetch_sub(1, Ordering::AcqRel);
        changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_with_a_call_is_not_idle() {
        let patience = Duration::from_millis(10);
        let calls = Calls::default();
        let call = calls.begin();
        assert!(
            timeout(patience * 10, calls.idle(patience, patience))
                .await
                .is_err()
        );
        drop(call);
        calls.idle(patience, patience).await;
    }
}
