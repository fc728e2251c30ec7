//! The order in which both ends act: take a burst of events, decide each, commit everything in one transaction, and
//! only then speak.
//!
//! Agent, orchestrator and simulator call the same [`turn`]. A core decides and does nothing else: time comes in as an
//! argument, effects go out as data. Nothing here sleeps, polls or knows what is committed or said.

use std::fmt;
use std::future::Future;

/// Microseconds on the clock a core lives by: since boot at the agent, since 1970 (never going back) at the
/// orchestrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Micros(pub u64);

impl Micros {
    /// This instant plus `ms` milliseconds.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1000)))
    }

    /// This instant plus a duration.
    #[must_use]
    pub fn plus(self, duration: std::time::Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)),
        )
    }

    /// Microseconds from `earlier` to this instant; 0 when it is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What one burst of events decided: what must become durable, and what may be said once it is.
#[derive(Debug)]
#[must_use = "effects that are not committed and spoken are lost decisions"]
pub struct Effects<W, S> {
    /// In the order they were decided; one transaction.
    pub writes: Vec<W>,
    /// In the order they were decided; spoken only after the transaction is durable.
    pub speech: Vec<S>,
}

impl<W, S> Effects<W, S> {
    /// Nothing decided yet.
    pub fn new() -> Self {
        Self {
            writes: Vec::new(),
            speech: Vec::new(),
        }
    }
}

impl<W, S> Default for Effects<W, S> {
    fn default() -> Self {
        Self::new()
    }
}

/// A pure state machine: what is decided.
pub trait Core {
    /// Everything that can happen to it.
    type Event;
    /// Everything it can ask to be made durable.
    type Write;
    /// Everything it can say or ask to be done, after its writes are durable.
    type Speech;
    /// What a store gives back: enough to rebuild the durable part.
    type Snapshot;

    /// Decides one event. It may be shown the same event again after a failed commit.
    fn handle(
        &mut self,
        now: Micros,
        event: &Self::Event,
        out: &mut Effects<Self::Write, Self::Speech>,
    );

    /// Called once after each burst, and when the deadline passes: timers, placement, everything not caused by one
    /// event.
    fn settle(&mut self, now: Micros, out: &mut Effects<Self::Write, Self::Speech>);

    /// When `settle` wants to be called next if nothing happens before.
    fn next_deadline(&self) -> Option<Micros>;

    /// Replaces the durable part by what the store holds, keeping live connections. Called after a commit that failed
    /// or may have failed.
    fn reload(&mut self, now: Micros, snapshot: Self::Snapshot);
}

/// Where a core's writes become durable.
pub trait Store<C: Core> {
    /// Makes all of it durable, or none of it. Speech comes along so that a store can record what is about to be said.
    fn commit(
        &mut self,
        effects: &Effects<C::Write, C::Speech>,
    ) -> impl Future<Output = Result<(), CommitError>>;

    /// What is durable now.
    fn load(&mut self) -> impl Future<Output = Result<C::Snapshot, LoadError>>;
}

/// A commit that did not surely happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// It failed, or nobody can say whether it happened: speak nothing, load, go on.
    #[error("the transaction failed or may have failed: {0}")]
    Failed(String),
    /// What the kernel holds can no longer be trusted (a failed fsync): the process must end.
    #[error("the disk can no longer be trusted: {0}")]
    Fatal(String),
}

/// The durable state could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the durable state could not be read: {0}")]
pub struct LoadError(pub String);

/// The process must end; a restart begins from the last good state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fatal(pub String);

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Fatal {}

/// How a turn ended.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Turn {
    /// Everything decided is durable and was spoken.
    Spoken,
    /// Nothing was spoken; the core was rebuilt from the store. Callers must be told to try again, and what a peer
    /// sent may be handled again.
    NotCommitted(String),
}

/// One turn: decide every event of the burst, commit once, then speak.
///
/// # Errors
/// [`Fatal`] after a commit that must not be survived, or when the store cannot be loaded after a failed commit.
pub async fn turn<C, S>(
    core: &mut C,
    store: &mut S,
    now: Micros,
    events: &[C::Event],
    mut speak: impl FnMut(C::Speech),
) -> Result<Turn, Fatal>
where
    C: Core,
    S: Store<C>,
{
    let mut effects = Effects::new();
    for event in events {
        core.handle(now, event, &mut effects);
    }
    core.settle(now, &mut effects);

    let committed = if effects.writes.is_empty() && effects.speech.is_empty() {
        Ok(())
    } else {
        store.commit(&effects).await
    };
    match committed {
        Ok(()) => {
            effects.speech.into_iter().for_each(&mut speak);
            Ok(Turn::Spoken)
        }
        // In the error's own words: the cause alone does not say what to look at.
        Err(fatal @ CommitError::Fatal(_)) => Err(Fatal(fatal.to_string())),
        Err(CommitError::Failed(why)) => {
            let snapshot = store
                .load()
                .await
                .map_err(|error| Fatal(format!("{why}; then {error}")))?;
            core.reload(now, snapshot);
            Ok(Turn::NotCommitted(why))
        }
    }
}

#[cfg(test)]
mod tests;
