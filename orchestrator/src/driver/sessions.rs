//! The streams that are open now, as the driver reaches them: a bounded queue of messages and a way to end each.
//!
//! The driver never waits here. A queue that is full means a peer that does not read: its stream is ended. A stream whose
//! task is done is here until the driver has handled its end: it may be welcomed until then.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outpost_orchestrator_core::event::CloseReason;
use outpost_proto::ids::{Conn, SessionEpoch};
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

/// Told the number under which the core accepted a stream: once, before the stream's task has the Welcome, and also when
/// that task is done already. Must not wait.
pub struct Welcomed(Box<dyn Fn(SessionEpoch) + Send + Sync>);

impl Welcomed {
    /// Calls this.
    pub fn new(tell: impl Fn(SessionEpoch) + Send + Sync + 'static) -> Self {
        Self(Box::new(tell))
    }

    pub(crate) fn tell(&self, session_epoch: SessionEpoch) {
        (self.0)(session_epoch);
    }
}

impl fmt::Debug for Welcomed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Welcomed")
    }
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
    welcomed: Welcomed,
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
    /// Nobody takes what is said: the stream's task is done.
    is_left: bool,
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
    fn new(welcomed: Welcomed) -> Self {
        Self {
            state: Mutex::default(),
            spoken: Notify::new(),
            ended: Notify::new(),
            frames: Semaphore::new(FRAMES),
            welcomed,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there was room.
    fn say(&self, messages: Vec<DownMessage>) -> bool {
        for message in &messages {
            if let DownMessage::Welcome(welcome) = message {
                self.welcomed.tell(welcome.session_epoch);
            }
        }
        let mut said = self.lock();
        if said.is_left {
            return true;
        }
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
    pub(crate) fn enter(&self, conn: Conn, welcomed: Welcomed) -> Outbox {
        let lane = Arc::new(Lane::new(welcomed));
        let mut state = self.lock();
        if state.draining {
            lane.end(Ending::Draining);
        }
        state.open.insert(conn, lane.clone());
        Outbox(lane)
    }

    /// The task that served a stream is done: what is said to it from now on is heard by nobody.
    pub(crate) fn leave(&self, conn: Conn) {
        if let Some(lane) = self.lock().open.get(&conn) {
            let mut said = lane.lock();
            said.is_left = true;
            said.bursts = VecDeque::new();
        }
    }

    /// Takes a stream out, once the core has heard that it is gone.
    pub(crate) fn forget(&self, conn: Conn) {
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
    use outpost_proto::ids::{CommandSeq, EventSeq, Nonce, RecoveryEpoch};
    use outpost_proto::message::{Directive, Welcome};

    use super::*;

    impl Outbox {
        fn ending(&self) -> Option<Ending> {
            self.0.lock().ending
        }
    }

    /// Nobody is told.
    fn enter(sessions: &Sessions, conn: u64) -> Outbox {
        sessions.enter(Conn(conn), Welcomed::new(drop))
    }

    fn welcome(epoch: u64) -> Vec<DownMessage> {
        vec![DownMessage::Welcome(Welcome {
            protocol: 1,
            session_epoch: SessionEpoch(epoch),
            recovery: RecoveryEpoch {
                counter: 1,
                database: 2,
            },
            next_nonce: Nonce(3),
            highest_event_seq: EventSeq(0),
            heartbeat_interval_ms: 1,
            lease_ms: 1,
            server_time_us: 1,
        })]
    }

    #[test]
    fn a_welcome_is_told_also_when_the_streams_task_is_done_but_not_once_it_is_forgotten() {
        let (sessions, told) = (Sessions::default(), Arc::new(Mutex::new(Vec::new())));
        let listen = |conn| {
            let told = told.clone();
            sessions.enter(
                Conn(conn),
                Welcomed::new(move |epoch| told.lock().unwrap().push((conn, epoch.0))),
            )
        };
        let (there, left, _forgotten) = (listen(1), listen(2), listen(3));
        sessions.leave(Conn(2));
        sessions.leave(Conn(3));
        sessions.forget(Conn(3));
        for conn in 1..=3 {
            sessions.send(Conn(conn), welcome(conn + 10));
        }
        assert_eq!(*told.lock().unwrap(), [(1, 11), (2, 12)]);
        let waiting = |outbox: &Outbox| outbox.0.lock().bursts.len();
        assert_eq!((waiting(&there), waiting(&left)), (1, 0));
        assert_eq!(sessions.len(), 2);
    }

    #[test]
    fn whatever_is_said_to_a_stream_that_is_left_is_not_kept() {
        let sessions = Sessions::default();
        let outbox = enter(&sessions, 1);
        sessions.send(Conn(1), Vec::new());
        sessions.leave(Conn(1));
        for _ in 0..=QUEUE {
            sessions.send(Conn(1), Vec::new());
        }
        assert_eq!(outbox.0.lock().bursts.len(), 0);
        assert_eq!(outbox.ending(), None, "it is not one that does not read");
    }

    #[test]
    fn a_full_queue_ends_the_stream_and_no_other() {
        let sessions = Sessions::default();
        let (slow, other) = (enter(&sessions, 1), enter(&sessions, 2));
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
        let outbox = enter(&sessions, 1);
        sessions.close(Conn(1), CloseReason::Removed);
        sessions.drain();
        assert_eq!(outbox.ending(), Some(Ending::Core(CloseReason::Removed)));
        let late = enter(&sessions, 2);
        assert_eq!(late.ending(), Some(Ending::Draining));
    }

    #[tokio::test]
    async fn what_is_said_before_and_while_somebody_waits_arrives_in_order() {
        let sessions = Sessions::default();
        let outbox = enter(&sessions, 1);
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
