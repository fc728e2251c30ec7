//! The orchestrator's loop: takes what streams brought and what was asked, lets the core decide, commits once, speaks.
//!
//! The order is the shared driver crate's; here are the inbox, the clock and where speech goes. There is one of it, and
//! it alone owns core and store. It sleeps until something arrives or the core's next deadline, whichever is first.

pub mod clock;
mod handle;
pub mod sessions;
mod wall;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outpost_driver::{CommitError, Core, Fatal, Store, Turn, turn};
use outpost_failpoint as failpoint;
use outpost_orchestrator_core::Orchestrator;
use outpost_orchestrator_core::event::{Answer, Ask, Call, Denied, Event, Speech};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use handle::{AskError, Handle};
use handle::{News, Question, Reply, Unavailable};
use sessions::{Place, Sessions};

use crate::metrics::{Metrics, Observed};
use crate::store::StoreError;
use crate::store::sqlite::Sqlite;
use clock::Clock;
use wall::Wall;

/// What streams bring that waits for a turn; they wait for room.
const INBOX: usize = 4096;
/// Questions that wait for a turn: more than the API and the agents' port take at once. Those above it are refused.
const QUESTIONS: usize = 1024;
/// Questions of one turn: first in it, and never all of it.
const ASKED: usize = 256;
/// Events of one turn: enough to share a commit among many, few enough that it stays short.
const BURST: usize = 1024;
/// First and longest wait after a failed commit.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Silence after which the database's log is folded although it is not long.
const SILENCE: Duration = Duration::from_millis(200);
/// How often what is of no more use is deleted, a little at a time.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// And as long as there is more of it: a tenth of the time at most goes into deleting.
const PRUNE_ON: Duration = Duration::from_millis(100);

/// What went wrong since the start, for logs and metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Things no honest agent does.
    pub alarms: AtomicU64,
    /// Transactions that failed.
    pub failed_commits: AtomicU64,
    /// Certificates renewed.
    pub renewals: AtomicU64,
    /// Renewals that were refused, or had to be tried again.
    pub renewals_refused: AtomicU64,
    /// Certificates issued in place of ones that had ended.
    pub recoveries: AtomicU64,
    /// Requests for such ones that were refused, or had to be tried again.
    pub recoveries_refused: AtomicU64,
    /// When the server's own certificate ends, in seconds since 1970.
    pub server_certificate_not_after_s: AtomicU64,
}

/// The loop and everything it owns.
#[derive(Debug)]
pub struct Driver {
    core: Orchestrator,
    store: Sqlite,
    clock: Clock,
    inbox: mpsc::Receiver<News>,
    questions: mpsc::Receiver<Question>,
    sessions: Sessions,
    counters: Arc<Counters>,
    metrics: Metrics,
    replies: BTreeMap<Call, Reply>,
    /// What streams brought in a turn that was not committed.
    again: Vec<Event>,
    /// Of the frames that are not handled.
    places: Vec<Place>,
    failures: u32,
    wall: Wall,
    /// Nothing was asked for a while.
    silent: bool,
}

impl Driver {
    /// Builds the core from what the store holds.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn new(
        mut store: Sqlite,
        start: impl FnOnce(outpost_driver::Micros, <Orchestrator as Core>::Snapshot) -> Orchestrator,
    ) -> Result<(Self, Handle), outpost_driver::LoadError> {
        let clock = store.clock();
        let snapshot = store.load().await?;
        let metrics = Metrics::default();
        metrics.loaded(&snapshot);
        let core = start(clock.now(), snapshot);
        let (sender, inbox) = mpsc::channel(INBOX);
        let (asker, questions) = mpsc::channel(QUESTIONS);
        let (sessions, counters) = (Sessions::default(), Arc::new(Counters::default()));
        let handle = Handle {
            inbox: sender,
            questions: asker,
            sessions: sessions.clone(),
            hub: store.hub(),
            clock,
            counters: counters.clone(),
            metrics: metrics.clone(),
            numbers: Arc::new(AtomicU64::new(1)),
        };
        let (replies, again) = (BTreeMap::new(), Vec::new());
        let driver = Self {
            core,
            store,
            clock,
            inbox,
            questions,
            sessions,
            counters,
            metrics,
            replies,
            again,
            places: Vec::new(),
            failures: 0,
            wall: Wall::new(),
            silent: false,
        };
        Ok((driver, handle))
    }

    /// Runs until `stop`, finishes the turn at hand and closes the store.
    ///
    /// # Errors
    /// [`Fatal`] when the disk can no longer be trusted: the process must end.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Fatal> {
        let (mut news, mut asked) = (Vec::with_capacity(BURST), Vec::with_capacity(ASKED));
        let mut prune_at = Instant::now() + PRUNE_EVERY;
        while self.next(&mut news, &mut asked, &stop).await {
            self.turn(&mut news, &mut asked).await?;
            self.fold()?;
            if Instant::now() >= prune_at && self.failures == 0 {
                prune_at = Instant::now() + self.prune()?;
            }
        }
        self.inbox.close();
        self.questions.close();
        self.store
            .close()
            .map_err(|error| Fatal(format!("the store could not be closed: {error}")))
    }

    /// Waits for the next turn's cause; `false` when there is to be none.
    async fn next(
        &mut self,
        news: &mut Vec<News>,
        asked: &mut Vec<Question>,
        stop: &CancellationToken,
    ) -> bool {
        if self.failures > 0 {
            // Events wait in the inbox meanwhile; streams are slowed down by its bound.
            let wait = RETRY
                .0
                .saturating_mul(1 << self.failures.min(10))
                .min(RETRY.1);
            tokio::select! {
                biased;
                () = stop.cancelled() => return false,
                () = sleep(wait) => {}
            }
            self.gather(news, asked);
            return true;
        }
        let clock = self.clock;
        let deadline = self
            .core
            .next_deadline()
            .map(|at| Instant::now() + clock.until(at));
        let silence = self.store.wants_to_fold();
        let silence = silence.then(|| Instant::now() + SILENCE);
        self.silent = false;
        let is_on = tokio::select! {
            biased;
            // First, so that a busy inbox cannot hold up a stop; nothing of it was promised yet.
            () = stop.cancelled() => false,
            // A queue that is never empty cannot hold up deadlines: every turn settles them; nor the other queue: every
            // turn takes of both.
            received = self.questions.recv_many(asked, ASKED) => received > 0,
            received = self.inbox.recv_many(news, BURST) => received > 0,
            () = at(deadline) => true,
            () = self.wall.set() => true,
            () = at(silence) => {
                self.silent = true;
                true
            }
        };
        self.gather(news, asked);
        is_on
    }

    /// What else is there already, as far as one turn takes it.
    fn gather(&mut self, news: &mut Vec<News>, asked: &mut Vec<Question>) {
        while asked.len() < ASKED
            && let Ok(question) = self.questions.try_recv()
        {
            asked.push(question);
        }
        while news.len() + asked.len() < BURST
            && self.again.len() < INBOX
            && let Ok(one) = self.inbox.try_recv()
        {
            news.push(one);
        }
    }

    async fn turn(&mut self, news: &mut Vec<News>, asked: &mut Vec<Question>) -> Result<(), Fatal> {
        let mut events = std::mem::take(&mut self.again);
        events.extend(self.wall.news(self.clock));
        // Before the questions: what a stream brought before one was asked is known to the answer.
        for News { event, place } in news.drain(..) {
            events.push(event);
            self.places.extend(place);
        }
        let calls = self.take(asked, &mut events);
        let (sessions, counters) = (&self.sessions, &*self.counters);
        let metrics = &self.metrics;
        let mut answers = Vec::new();
        let speak = |speech| {
            speak(sessions, &mut answers, counters, metrics, speech);
            failpoint::reach("orchestrator-speaking");
        };
        let mut store = Observed {
            store: &mut self.store,
            metrics,
            events: events.len(),
        };
        match turn(&mut self.core, &mut store, self.clock.now(), &events, speak).await? {
            Turn::Spoken => {
                self.answer(answers);
                self.places.clear();
                self.forget(&events);
                failpoint::reach("orchestrator-spoken");
                self.failures = 0;
            }
            Turn::NotCommitted(why) => self.not_committed(events, &calls, &why),
        }
        // Whoever gave up waiting needs no answer.
        self.replies.retain(|_, reply| !reply.is_closed());
        Ok(())
    }

    /// The streams whose end the core has heard of: nothing is said to them any more.
    fn forget(&self, events: &[Event]) {
        for event in events {
            if let Event::Closed { conn } = event {
                self.sessions.forget(*conn);
            }
        }
    }

    /// Adds the questions that can be decided to the turn's events.
    fn take(&mut self, asked: &mut Vec<Question>, events: &mut Vec<Event>) -> Vec<Call> {
        let mut calls = Vec::with_capacity(asked.len());
        for question in asked.drain(..) {
            let Question {
                mut event,
                call,
                reply,
            } = question;
            match self.read(&mut event) {
                Ok(()) => {
                    events.push(event);
                    calls.push(call);
                    self.replies.insert(call, reply);
                }
                Err(error) => {
                    warn!(%error, "a question cannot be answered: what it is about cannot be read");
                    // Whoever asked may be gone.
                    let _ = reply.send(Err(Unavailable));
                }
            }
        }
        calls
    }

    /// After all else was said: work that an agent begins earlier is worth more than an answer, and whoever is answered
    /// wakes up and takes the processor.
    fn answer(&mut self, answers: Vec<(Call, Result<Answer, Denied>)>) {
        for (call, answer) in answers {
            if let Some(reply) = self.replies.remove(&call) {
                // Whoever asked may be gone.
                let _ = reply.send(Ok(answer));
            }
        }
    }

    /// Reads what a question needs besides what the core holds: as it is before this turn.
    fn read(&mut self, event: &mut Event) -> Result<(), StoreError> {
        if let Event::Asked {
            tenant,
            ask: Ask::Rerun { run, stored, .. },
            ..
        } = event
        {
            *stored = self.store.load_run(tenant, *run)?.map(Box::new);
        }
        Ok(())
    }

    fn not_committed(&mut self, events: Vec<Event>, calls: &[Call], why: &str) {
        self.failures = self.failures.saturating_add(1);
        self.counters.failed_commits.fetch_add(1, Ordering::Relaxed);
        error!(
            why,
            failures = self.failures,
            "nothing of this turn was stored; trying again"
        );
        for call in calls {
            if let Some(reply) = self.replies.remove(call) {
                // Whoever asked may be gone.
                let _ = reply.send(Err(Unavailable));
            }
        }
        let from_link = |event: &Event| match event {
            Event::Opened { .. } | Event::Frame { .. } | Event::Closed { .. } => true,
            Event::Asked { .. }
            | Event::Enrol { .. }
            | Event::Wall { .. }
            | Event::Renew { .. }
            | Event::Recover { .. } => false,
        };
        self.again = events.into_iter().filter(from_link).collect();
    }

    /// After everything was said: nobody waits for this.
    fn fold(&mut self) -> Result<(), Fatal> {
        match self.store.fold(self.silent) {
            Ok(()) => Ok(()),
            Err(CommitError::Failed(why)) => {
                warn!(
                    why,
                    "the database's log could not be folded into the file; trying again later"
                );
                Ok(())
            }
            Err(fatal @ CommitError::Fatal(_)) => Err(Fatal(fatal.to_string())),
        }
    }

    /// Deletes a little; answers how long to wait before the next time.
    fn prune(&mut self) -> Result<Duration, Fatal> {
        match self.store.prune() {
            Ok(true) => Ok(PRUNE_ON),
            Ok(false) => Ok(PRUNE_EVERY),
            Err(CommitError::Failed(why)) => {
                warn!(
                    why,
                    "old runs, notices, keys and invitations could not be deleted; trying again later"
                );
                Ok(PRUNE_EVERY)
            }
            Err(fatal @ CommitError::Fatal(_)) => Err(Fatal(fatal.to_string())),
        }
    }
}

/// Where each thing said goes; answers are kept for later. Never waits.
fn speak(
    sessions: &Sessions,
    answers: &mut Vec<(Call, Result<Answer, Denied>)>,
    counters: &Counters,
    metrics: &Metrics,
    speech: Speech,
) {
    match speech {
        Speech::Send { conn, messages } => sessions.send(conn, messages),
        Speech::Close { conn, why } => sessions.close(conn, why),
        Speech::Answer { call, answer } => answers.push((call, answer)),
        Speech::Alarm {
            tenant,
            agent,
            what,
        } => {
            counters.alarms.fetch_add(1, Ordering::Relaxed);
            metrics.alarm(&tenant, what);
            warn!(%tenant, %agent, alarm = ?what, "an agent did what no honest agent does");
        }
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Says in the log that the loop ended, and how.
pub(crate) fn log_end(result: &Result<(), Fatal>) {
    match result {
        Ok(()) => info!("everything decided is stored; the store is closed"),
        Err(fatal) => error!(%fatal, "the orchestrator must end"),
    }
}
