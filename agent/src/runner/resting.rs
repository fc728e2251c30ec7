//! Runs of which nothing is held here any more: after a while their files are encrypted, and opened again before another
//! task of theirs starts. Both take as long as there are bytes, so they happen beside the loop; a start waits for its own
//! run only.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outpost_agent_core::event::{Event, KeeperSaid, NotStarted};
use outpost_agent_keeper::seal::SealSpec;
use outpost_proto::ids::{AttemptId, RunId};
use outpost_proto::message::Assign;
use outpost_proto::outcome::StartFailure;
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_blocking;

use super::retention::what_is_held;
use super::{Happened, outcome};
use crate::seal::book::Book;
use crate::seal::runs::{self, Done, RunError};
use crate::seal::{NoKey, Rest, SiteKeys};
use crate::state_dir::StateDir;

/// Between two looks at what rests, at most and at least.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_millis(200));

/// Encrypts what rests, and opens what does not any more.
#[derive(Debug, Clone)]
pub(super) struct Resting(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    state: StateDir,
    keys: Option<Arc<SiteKeys>>,
    after: Duration,
    /// What is noted of encrypted logs; `None` without a key.
    book: Option<RefCell<Book>>,
    /// Runs with files as they are, and since when nothing of them was held.
    open: RefCell<BTreeMap<RunId, Option<Instant>>>,
    /// Runs of which a task was started in this life of the process: their files are as they are. Of others nobody knows
    /// before they are looked at.
    known: RefCell<BTreeSet<RunId>>,
    /// Runs whose files are on their way from one form to the other.
    busy: RefCell<BTreeSet<RunId>>,
    /// Attempts that wait for that, and are not cancelled.
    waiting: RefCell<BTreeSet<AttemptId>>,
    woken: Notify,
    free: Notify,
}

impl Resting {
    /// `keys`: without any nothing is encrypted; what is is named when it is needed. `after`: how long a run rests first.
    pub(super) fn new(state: &StateDir, keys: Option<Arc<SiteKeys>>, after: Duration) -> Self {
        let book = keys.clone().map(|keys| Book::open(state, keys));
        Self(Rc::new(Inner {
            state: state.clone(),
            book: book.map(RefCell::new),
            keys,
            after,
            open: RefCell::default(),
            known: RefCell::default(),
            busy: RefCell::default(),
            waiting: RefCell::default(),
            woken: Notify::new(),
            free: Notify::new(),
        }))
    }

    /// The keys with which logs are encrypted.
    pub(super) fn keys(&self) -> Option<&Arc<SiteKeys>> {
        self.0.keys.as_ref()
    }

    /// What a keeper needs for an attempt's log; from now on it is noted that it is encrypted.
    pub(super) fn for_attempt(&self, attempt: AttemptId) -> Option<Result<SealSpec, NoKey>> {
        let spec = self.0.keys.as_ref()?.for_attempt(attempt);
        if let Some(book) = &self.0.book {
            book.borrow_mut().begun(attempt);
        }
        Some(spec)
    }

    /// An attempt is over: where its log ends is noted, if that is encrypted.
    pub(super) fn over(&self, attempt: AttemptId) {
        if let Some(book) = &self.0.book {
            book.borrow_mut().over(attempt);
        }
    }

    /// Whether files of a run must be opened, or looked at, before a task of it starts.
    pub(super) fn needs_opening(&self, run: RunId) -> bool {
        let rest = Rest::of(&self.0.state, run);
        // That nothing says that files are encrypted is not believed of what somebody may have changed meanwhile.
        let is_unknown =
            || self.0.keys.is_some() && !self.0.known.borrow().contains(&run) && rest.dir.exists();
        self.is_busy(run) || is_unknown() || runs::is_sealed(&rest)
    }

    /// Whether its files are on their way from one form to the other.
    pub(super) fn is_busy(&self, run: RunId) -> bool {
        self.0.busy.borrow().contains(&run)
    }

    /// A task of this run starts.
    pub(super) fn started(&self, run: RunId) {
        if self.0.keys.is_some() {
            self.0.open.borrow_mut().insert(run, None);
            self.0.known.borrow_mut().insert(run);
            self.0.woken.notify_one();
        }
    }

    /// Opens the files of an attempt's run; then the attempt comes back through the inbox, or why it cannot start.
    pub(super) fn open_for(
        &self,
        assign: Assign,
        lease_until_boot_us: u64,
        inbox: mpsc::Sender<Happened>,
    ) {
        let resting = self.clone();
        resting.0.waiting.borrow_mut().insert(assign.attempt);
        tokio::task::spawn_local(async move {
            let opened = resting.open(assign.run).await;
            let attempt = assign.attempt;
            let is_wanted = resting.0.waiting.borrow_mut().remove(&attempt);
            let said = match opened {
                _ if !is_wanted => Some(KeeperSaid::NotStarted(NotStarted::Cancelled)),
                Ok(()) => None,
                Err(error) => {
                    tracing::error!(%attempt, "cannot be started: {error}");
                    Some(outcome::failed(match error {
                        RunError::Io { .. } => StartFailure::Resources,
                        RunError::Key { .. } | RunError::Damaged { .. } => StartFailure::Other,
                    }))
                }
            };
            let happened = match said {
                Some(said) => Happened::Core(Event::Keeper { attempt, said }),
                None => Happened::Opened {
                    assign: Box::new(assign),
                    lease_until_boot_us,
                },
            };
            // Without a loop there is nobody to start anything.
            let _ = inbox.send(happened).await;
        });
    }

    /// An attempt is to end; answers whether it waits here, and will not start then.
    pub(super) fn cancelled(&self, attempt: AttemptId) -> bool {
        self.0.waiting.borrow_mut().remove(&attempt)
    }

    async fn open(&self, run: RunId) -> Result<(), RunError> {
        self.begin(run).await;
        let (rest, keys) = (Rest::of(&self.0.state, run), self.0.keys.clone());
        let at = rest.dir.clone();
        let opened = spawn_blocking(move || runs::open(keys.as_deref(), &rest)).await;
        self.end(run);
        let done = opened.unwrap_or_else(|error| {
            Err(RunError::Io {
                run: at,
                source: std::io::Error::other(error),
            })
        })?;
        if self.0.keys.is_some() {
            self.0.known.borrow_mut().insert(run);
        }
        if done.files > 0 {
            tracing::info!(%run, files = done.files, bytes = done.bytes, "its files are opened: a task of it starts");
        }
        if done.files > 0 && (done.older || done.unlisted) {
            tracing::warn!(%run, "no list says which of its files there were: {}", why_no_list(done));
        }
        Ok(())
    }

    /// Waits until nobody else does anything to the run's files.
    pub(super) async fn begin(&self, run: RunId) {
        while self.is_busy(run) {
            self.0.free.notified().await;
        }
        self.0.busy.borrow_mut().insert(run);
    }

    fn end(&self, run: RunId) {
        self.0.busy.borrow_mut().remove(&run);
        self.0.free.notify_waiters();
    }

    /// Encrypts what rests, from now on; also what an earlier runner left.
    pub(super) async fn keep(self, inbox: mpsc::Sender<Happened>) {
        let Some(keys) = self.0.keys.clone() else {
            return;
        };
        self.find_open().await;
        loop {
            if self.0.open.borrow().is_empty() {
                self.0.woken.notified().await;
            }
            tokio::time::sleep(self.0.after.clamp(LOOK_AGAIN.1, LOOK_AGAIN.0)).await;
            let Some(held) = what_is_held(&inbox).await else {
                return;
            };
            for run in self.rested(|run| held.holds(run)) {
                self.seal(&keys, run).await;
            }
        }
    }

    async fn find_open(&self) {
        let state = self.0.state.clone();
        let listed = spawn_blocking(move || -> std::io::Result<Vec<RunId>> {
            let mut open = Vec::new();
            for entry in std::fs::read_dir(state.runs())? {
                let name = entry?.file_name();
                let run = name.to_str().and_then(|name| name.parse::<RunId>().ok());
                open.extend(run.filter(|run| !Rest::of(&state, *run).is_whole()));
            }
            Ok(open)
        });
        match listed.await {
            Ok(Ok(listed)) => {
                let mut open = self.0.open.borrow_mut();
                listed.into_iter().for_each(|run| {
                    open.entry(run).or_default();
                });
            }
            Ok(Err(error)) => {
                tracing::warn!("runs cannot be listed, and stay as they are: {error}")
            }
            Err(error) => tracing::warn!("runs cannot be listed, and stay as they are: {error}"),
        }
    }

    /// Takes out what has rested long enough; a start puts a run back.
    fn rested(&self, is_held: impl Fn(RunId) -> bool) -> Vec<RunId> {
        let mut open = self.0.open.borrow_mut();
        let mut rested = Vec::new();
        open.retain(|run, since| {
            if is_held(*run) {
                *since = None;
                return true;
            }
            let has_rested = since.get_or_insert_with(Instant::now).elapsed() >= self.0.after;
            if has_rested {
                rested.push(*run);
            }
            !has_rested
        });
        rested
    }

    async fn seal(&self, keys: &Arc<SiteKeys>, run: RunId) {
        // A task of it may have come meanwhile, or its files are being opened for one.
        if self.is_busy(run) || self.0.open.borrow().contains_key(&run) {
            return;
        }
        self.0.busy.borrow_mut().insert(run);
        self.0.known.borrow_mut().remove(&run);
        let (rest, keys) = (Rest::of(&self.0.state, run), Arc::clone(keys));
        let sealed = spawn_blocking(move || runs::seal(&keys, &rest)).await;
        self.end(run);
        if let Ok(Ok(done)) = &sealed
            && (done.too_many || done.older)
        {
            tracing::warn!(%run, "{}", why_no_list(*done));
        }
        match sealed {
            Ok(Ok(done)) if done.files + done.left > 0 => tracing::debug!(
                %run,
                files = done.files,
                bytes = done.bytes,
                left = done.left,
                "its files are encrypted"
            ),
            Ok(Ok(_)) => {}
            Ok(Err(error)) if is_gone(&error) => {}
            Ok(Err(error)) => {
                tracing::warn!("not encrypted yet, and tried again: {error}");
                self.0.open.borrow_mut().insert(run, None);
            }
            Err(error) => tracing::error!(%run, "its files stay as they are: {error}"),
        }
    }
}

/// Why it is not known, or was not until now, which files a run had.
fn why_no_list(done: Done) -> &'static str {
    if done.too_many {
        "it has more files than are looked at: those beyond stay as they are, and a file that is taken away is not missed"
    } else if done.older {
        "an older build encrypted it, without an authenticated list: a file that was taken away since is not missed"
    } else {
        "encrypting it was interrupted: a file that was taken away since is not missed"
    }
}

/// Retention or a person took the run away.
fn is_gone(error: &RunError) -> bool {
    match error {
        RunError::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        RunError::Key { .. } | RunError::Damaged { .. } => false,
    }
}

#[cfg(test)]
#[path = "resting_tests.rs"]
mod tests;
