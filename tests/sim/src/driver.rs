//! How a turn is made: through the shared driver's `turn`, or, to prove that the simulator notices, in the wrong order.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use outpost_driver::{CommitError, Core, Effects, Fatal, Micros, Store, Turn, turn};

/// Runs a future that never waits.
fn run<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// One turn; `hasty` speaks before it commits.
pub(crate) fn take_turn<C, S>(
    (core, store): (&mut C, &mut S),
    now: Micros,
    events: &[C::Event],
    speak: impl FnMut(C::Speech),
    hasty: bool,
) -> Result<Turn, Fatal>
where
    C: Core,
    C::Speech: Clone,
    S: Store<C>,
{
    let turned = if hasty {
        run(hasty_turn((core, store), now, events, speak))
    } else {
        run(turn(core, store, now, events, speak))
    };
    turned.unwrap_or_else(|| Err(Fatal("a store in memory waited".to_owned())))
}

/// The order of `outpost_driver::turn` with its two last steps exchanged.
async fn hasty_turn<C, S>(
    (core, store): (&mut C, &mut S),
    now: Micros,
    events: &[C::Event],
    mut speak: impl FnMut(C::Speech),
) -> Result<Turn, Fatal>
where
    C: Core,
    C::Speech: Clone,
    S: Store<C>,
{
    let mut effects = Effects::new();
    for event in events {
        core.handle(now, event, &mut effects);
    }
    core.settle(now, &mut effects);
    effects.speech.iter().cloned().for_each(&mut speak);
    match store.commit(&effects).await {
        Ok(()) => Ok(Turn::Spoken),
        Err(CommitError::Fatal(why)) => Err(Fatal(why)),
        Err(CommitError::Failed(why)) => {
            let snapshot = store
                .load()
                .await
                .map_err(|error| Fatal(error.to_string()))?;
            core.reload(now, snapshot);
            Ok(Turn::NotCommitted(why))
        }
    }
}
