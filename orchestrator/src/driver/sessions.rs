//! The streams that are open now, as the driver reaches them: a bounded queue of messages and a way to end each.
//!
//! The driver never waits here. A queue that is full means a peer that does not read: its stream is ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outpost_orchestrator_core::event::CloseReason;
use outpost_proto::ids::Conn;
use outpost_proto::message::DownMessage;
use tokio::sync::{mpsc, watch};
use tracing::warn;

/// Bursts of messages waiting for one agent: more than the core says in the time a slow peer is given.
const QUEUE: usize = 256;

/// Why a stream ends from this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The core says so.
    Core(CloseReason),
    /// Its queue is full: it does not read.
    Slow,
    /// The orchestrator drains.
    Draining,
}

/// What the task that serves one stream holds.
#[derive(Debug)]
pub struct Outbox {
    /// What is to be sent, in order.
    pub messages: mpsc::Receiver<Vec<DownMessage>>,
    /// `Some` once the stream shall end.
    pub ending: watch::Receiver<Option<Ending>>,
}

#[derive(Debug)]
struct Inlet {
    messages: mpsc::Sender<Vec<DownMessage>>,
    ending: watch::Sender<Option<Ending>>,
}

/// All open streams. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<Conn, Inlet>,
    draining: bool,
}

impl Sessions {
    /// Enters a stream, before the core hears of it.
    pub(crate) fn enter(&self, conn: Conn) -> Outbox {
        let (messages, queue) = mpsc::channel(QUEUE);
        let mut state = self.lock();
        let (ending, ended) = watch::channel(state.draining.then_some(Ending::Draining));
        state.open.insert(conn, Inlet { messages, ending });
        Outbox {
            messages: queue,
            ending: ended,
        }
    }

    /// Takes a stream out, when the task that served it is done.
    pub(crate) fn leave(&self, conn: Conn) {
        self.lock().open.remove(&conn);
    }

    /// Hands messages to the stream's task. A stream that is gone already is no error: its end is on its way.
    pub(crate) fn send(&self, conn: Conn, messages: Vec<DownMessage>) {
        let state = self.lock();
        let Some(inlet) = state.open.get(&conn) else {
            return;
        };
        if let Err(mpsc::error::TrySendError::Full(_)) = inlet.messages.try_send(messages) {
            warn!(
                conn = conn.0,
                "the agent does not read its stream; ending it"
            );
            end(inlet, Ending::Slow);
        }
    }

    /// Ends a stream.
    pub(crate) fn close(&self, conn: Conn, why: CloseReason) {
        if let Some(inlet) = self.lock().open.get(&conn) {
            end(inlet, Ending::Core(why));
        }
    }

    /// Ends all streams that are open, and from now on each at its beginning.
    pub(crate) fn drain(&self) {
        let mut state = self.lock();
        state.draining = true;
        state
            .open
            .values()
            .for_each(|inlet| end(inlet, Ending::Draining));
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().open.len()
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().open.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first reason stays.
fn end(inlet: &Inlet, why: Ending) {
    inlet.ending.send_if_modified(|ending| {
        let first = ending.is_none();
        ending.get_or_insert(why);
        first
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_ends_the_stream_and_no_other() {
        let sessions = Sessions::default();
        let (slow, other) = (sessions.enter(Conn(1)), sessions.enter(Conn(2)));
        for _ in 0..QUEUE {
            sessions.send(Conn(1), Vec::new());
        }
        assert_eq!(*slow.ending.borrow(), None);
        sessions.send(Conn(1), Vec::new());
        assert_eq!(*slow.ending.borrow(), Some(Ending::Slow));
        assert_eq!(*other.ending.borrow(), None);
    }

    #[test]
    fn the_first_reason_to_end_stays() {
        let sessions = Sessions::default();
        let outbox = sessions.enter(Conn(1));
        sessions.close(Conn(1), CloseReason::Removed);
        sessions.drain();
        assert_eq!(
            *outbox.ending.borrow(),
            Some(Ending::Core(CloseReason::Removed))
        );
        assert_eq!(
            *sessions.enter(Conn(2)).ending.borrow(),
            Some(Ending::Draining),
            "a late one"
        );
    }
}
