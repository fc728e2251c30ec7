//! The streams that are open now, as the driver reaches them: a bounded queue of messages and a way to end each.
//!
//! The driver never waits here. A queue that is full means a peer that does not read: its stream is ended.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outpost_orchestrator_core::event::CloseReason;
use outpost_proto::ids::Conn;
use outpost_proto::message::DownMessage;
use tokio::sync::{Notify, Semaphore};
use tracing::warn;

/// Bursts of messages waiting for one agent: more than the core says in the time a slow peer is given.
const QUEUE: usize = 256;

/// Frames of one stream that the driver has not handled: those that come while a turn is committed, even from an agent
/// that says each thing by itself, and few of what waits for the driver in all.
pub(super) const FRAMES: usize = 64;

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

/// What the task that serves one stream holds. One waits for messages, one for the end.
#[derive(Debug)]
pub struct Outbox(Arc<Lane>);

/// A queue and an end. Nearly all streams are idle nearly always: an empty one takes no room for what it could hold.
#[derive(Debug)]
struct Lane {
    state: Mutex<Said>,
    spoken: Notify,
    ended: Notify,
    /// Places for frames on their way to the driver.
    frames: Semaphore,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            spoken: Notify::new(),
            ended: Notify::new(),
            frames: Semaphore::new(FRAMES),
        }
    }
}

/// One frame's place on the way to the driver, until it is handled and this is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Lane>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.frames.add_permits(1);
    }
}

#[derive(Debug, Default)]
struct Said {
    bursts: VecDeque<Vec<DownMessage>>,
    /// The first reason.
    ending: Option<Ending>,
}

impl Outbox {
    /// What is to be sent next, in order. May be dropped while it waits: nothing is lost.
    pub async fn next(&self) -> Vec<DownMessage> {
        loop {
            let next = {
                let mut said = self.0.lock();
                let next = said.bursts.pop_front();
                if said.bursts.is_empty() {
                    said.bursts = VecDeque::new();
                }
                next
            };
            match next {
                Some(burst) => return burst,
                // What is said in between leaves a permit.
                None => self.0.spoken.notified().await,
            }
        }
    }

    /// Waits for a place for one more frame of this stream.
    pub(super) async fn place(&self) -> Option<Place> {
        let place = self.0.frames.acquire().await.ok()?;
        // Given back when it is dropped.
        place.forget();
        Some(Place(Arc::clone(&self.0)))
    }

    /// Why the stream shall end, once it shall.
    pub async fn ended(&self) -> Ending {
        loop {
            let ending = self.0.lock().ending;
            match ending {
                Some(why) => return why,
                None => self.0.ended.notified().await,
            }
        }
    }
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, Said> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there was room.
    fn say(&self, messages: Vec<DownMessage>) -> bool {
        let mut said = self.lock();
        let room = said.bursts.len() < QUEUE;
        if room {
            said.bursts.push_back(messages);
            self.spoken.notify_one();
        }
        room
    }

    /// The first reason stays.
    fn end(&self, why: Ending) {
        self.lock().ending.get_or_insert(why);
        self.ended.notify_one();
    }
}

/// All open streams. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<Conn, Arc<Lane>>,
    draining: bool,
}

impl Sessions {
    /// Enters a stream, before the core hears of it.
    pub(crate) fn enter(&self, conn: Conn) -> Outbox {
        let lane = Arc::<Lane>::default();
        let mut state = self.lock();
        if state.draining {
            lane.end(Ending::Draining);
        }
        state.open.insert(conn, lane.clone());
        Outbox(lane)
    }

    /// Takes a stream out, when the task that served it is done.
    pub(crate) fn leave(&self, conn: Conn) {
        self.lock().open.remove(&conn);
    }

    /// Hands messages to the stream's task. A stream that is gone already is no error: its end is on its way.
    pub(crate) fn send(&self, conn: Conn, messages: Vec<DownMessage>) {
        let state = self.lock();
        let Some(lane) = state.open.get(&conn) else {
            return;
        };
        if !lane.say(messages) {
            warn!(
                conn = conn.0,
                "the agent does not read its stream; ending it"
            );
            lane.end(Ending::Slow);
        }
    }

    /// Ends a stream.
    pub(crate) fn close(&self, conn: Conn, why: CloseReason) {
        if let Some(lane) = self.lock().open.get(&conn) {
            lane.end(Ending::Core(why));
        }
    }

    /// Ends all streams that are open, and from now on each at its beginning.
    pub(crate) fn drain(&self) {
        let mut state = self.lock();
        state.draining = true;
        state
            .open
            .values()
            .for_each(|lane| lane.end(Ending::Draining));
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

#[cfg(test)]
mod tests {
    use outpost_proto::ids::CommandSeq;
    use outpost_proto::message::Directive;

    use super::*;

    impl Outbox {
        fn ending(&self) -> Option<Ending> {
            self.0.lock().ending
        }
    }

    #[test]
    fn a_full_queue_ends_the_stream_and_no_other() {
        let sessions = Sessions::default();
        let (slow, other) = (sessions.enter(Conn(1)), sessions.enter(Conn(2)));
        for _ in 0..QUEUE {
            sessions.send(Conn(1), Vec::new());
        }
        assert_eq!(slow.ending(), None);
        sessions.send(Conn(1), Vec::new());
        assert_eq!(slow.ending(), Some(Ending::Slow));
        assert_eq!(other.ending(), None);
    }

    #[test]
    fn the_first_reason_to_end_stays() {
        let sessions = Sessions::default();
        let outbox = sessions.enter(Conn(1));
        sessions.close(Conn(1), CloseReason::Removed);
        sessions.drain();
        assert_eq!(outbox.ending(), Some(Ending::Core(CloseReason::Removed)));
        let late = sessions.enter(Conn(2));
        assert_eq!(late.ending(), Some(Ending::Draining));
    }

    #[tokio::test]
    async fn what_is_said_before_and_while_somebody_waits_arrives_in_order() {
        let sessions = Sessions::default();
        let outbox = sessions.enter(Conn(1));
        let ack = |number| {
            vec![DownMessage::Directive {
                command_seq: CommandSeq(number),
                directive: Directive::Reconciled,
            }]
        };
        sessions.send(Conn(1), ack(1));
        sessions.send(Conn(1), ack(2));
        let later = sessions.clone();
        let say = async {
            tokio::task::yield_now().await;
            later.send(Conn(1), ack(3));
            later.close(Conn(1), CloseReason::Removed);
        };
        let hear = async {
            [
                outbox.next().await,
                outbox.next().await,
                outbox.next().await,
            ]
        };
        let (heard, ending, ()) = tokio::join!(hear, outbox.ended(), say);
        assert_eq!(heard, [ack(1), ack(2), ack(3)]);
        assert_eq!(ending, Ending::Core(CloseReason::Removed));
    }
}
