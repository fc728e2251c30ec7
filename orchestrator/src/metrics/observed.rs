//! A store that is watched: what it commits is counted and timed.

use std::time::Instant;

use outpost_driver::{CommitError, Effects, LoadError, Store};
use outpost_orchestrator_core::Orchestrator;
use outpost_orchestrator_core::event::Speech;
use outpost_orchestrator_core::record::{Snapshot, Write};

use super::Metrics;

/// A store for one turn.
#[derive(Debug)]
pub(crate) struct Observed<'a, S> {
    /// What is watched.
    pub(crate) store: &'a mut S,
    /// Where it is counted.
    pub(crate) metrics: &'a Metrics,
    /// Events of this turn.
    pub(crate) events: usize,
}

impl<S: Store<Orchestrator>> Store<Orchestrator> for Observed<'_, S> {
    async fn commit(&mut self, effects: &Effects<Write, Speech>) -> Result<(), CommitError> {
        let began = Instant::now();
        let result = self.store.commit(effects).await;
        match &result {
            Ok(()) if effects.writes.is_empty() => {}
            Ok(()) => self
                .metrics
                .committed(&effects.writes, self.events, began.elapsed()),
            Err(_) => self.metrics.not_committed(),
        }
        result
    }

    async fn load(&mut self) -> Result<Snapshot, LoadError> {
        let snapshot = self.store.load().await?;
        self.metrics.loaded(&snapshot);
        Ok(snapshot)
    }
}
