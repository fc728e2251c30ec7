//! Listening to keepers, and finding out what became of an attempt whose keeper is silent. A process id alone decides
//! nothing here, and nothing is said of an attempt before its tree is surely gone.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use outpost_agent_core::Found;
use outpost_agent_core::event::{Event, KeeperSaid, NotStarted};
use outpost_agent_keeper::adopt::{
    Claim, KeeperClient, KeeperState, RecordError, Trace, end_tree, keeper_state, read_exit_record,
    read_keeper_record, trace, try_claim,
};
use outpost_agent_keeper::protocol::{Containment, ExitRecord, FromKeeper, PacketError, ToKeeper};
use outpost_agent_keeper::record::CLAIM;
use outpost_proto::ids::AttemptId;
use outpost_proto::message::Assign;
use outpost_proto::outcome::{KillReason, Outcome, Refusal, Report};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};

use super::tasks::{Current, Idle, Keepers};
use super::watch::{watch, watch_room};
use super::{Happened, outcome};
use crate::causes::with_causes;
use crate::state_dir::{StateDir, modes};

/// How long a keeper that is about to start its task is waited for before it counts as running.
const ABOUT_TO_START: Duration = Duration::from_secs(1);
/// Between two looks at it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long a keeper whose record is damaged may take to listen, and how often that is looked at.
const ABOUT_TO_LISTEN: Duration = Duration::from_secs(1);
const LISTENS_YET: Duration = Duration::from_millis(100);
/// Waits between tries to reach a silent keeper, or to see what became of an attempt: doubling.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Keepers from this version of the protocol on take another attempt.
const TAKES_ANOTHER: u8 = 2;

/// A keeper that is listened to, and what it was handed over for when its present attempt is over.
#[derive(Debug)]
pub(super) struct Line {
    fd: AsyncFd<KeeperClient>,
    waiting: RefCell<VecDeque<Assign>>,
    /// What there was no room for: said in this order as soon as the keeper reads.
    unsaid: RefCell<VecDeque<ToKeeper>>,
}

pub(super) type Connected = Rc<Line>;

impl Line {
    pub(super) fn new(keeper: KeeperClient) -> io::Result<Connected> {
        keeper.set_nonblocking(true)?;
        Ok(Rc::new(Self {
            fd: watch(keeper)?,
            waiting: RefCell::default(),
            unsaid: RefCell::default(),
        }))
    }

    /// Says something now, or once a keeper that stands still goes on.
    ///
    /// # Errors
    /// When it is gone: whoever listens finds out what became of it.
    pub(super) fn say(self: &Rc<Self>, message: ToKeeper) -> Result<(), PacketError> {
        let mut unsaid = self.unsaid.borrow_mut();
        let catches_up = !unsaid.is_empty();
        if !catches_up {
            match self.keeper().send(message.clone()) {
                Err(PacketError::WouldBlock) => {}
                said => return said,
            }
        }
        // That it is still in touch is said again soon, everything else only once.
        if message != ToKeeper::StillConnected {
            unsaid.push_back(message);
            if !catches_up {
                tokio::task::spawn_local(Rc::clone(self).catch_up());
            }
        }
        Ok(())
    }

    async fn catch_up(self: Rc<Self>) {
        if let Err(error) = self.say_the_rest().await {
            tracing::debug!("a keeper does not listen: {error}");
            self.unsaid.borrow_mut().clear();
        }
    }

    async fn say_the_rest(&self) -> Result<(), PacketError> {
        let io = |errno: rustix::io::Errno| PacketError::Io(errno.into());
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0).map_err(io)?;
        let fd = watch_room(fd).map_err(PacketError::Io)?;
        loop {
            let mut ready = fd.writable().await.map_err(PacketError::Io)?;
            let next = self.unsaid.borrow().front().cloned();
            let Some(next) = next else { return Ok(()) };
            match self.keeper().send(next) {
                Ok(()) => drop(self.unsaid.borrow_mut().pop_front()),
                Err(PacketError::WouldBlock) => ready.clear_ready(),
                Err(gone) => return Err(gone),
            }
        }
    }

    pub(super) fn keeper(&self) -> &KeeperClient {
        self.fd.get_ref()
    }

    /// Whether this attempt waits here, as far as this side knows.
    pub(super) fn waits(&self, attempt: AttemptId) -> bool {
        let waiting = self.waiting.borrow();
        waiting.iter().any(|assign| assign.attempt == attempt)
    }

    /// It has this one now, for later.
    pub(super) fn has(&self, assign: Assign) {
        self.waiting.borrow_mut().push_back(assign);
    }

    /// The attempt that it goes on with.
    fn goes_on(&self) -> Option<Assign> {
        self.waiting.borrow_mut().pop_front()
    }

    /// Whether it had this one, which it has no more.
    fn gave_back(&self, attempt: &str) -> Option<AttemptId> {
        let mut waiting = self.waiting.borrow_mut();
        let is_it = |assign: &Assign| assign.attempt.to_string() == attempt;
        let place = waiting.iter().position(is_it)?;
        waiting.remove(place).map(|assign| assign.attempt)
    }
}

/// Listens to a keeper: to the final word of one attempt, and of those that waited there behind it. Looks for the keeper
/// itself when there is no connection.
pub(super) struct Listener {
    pub(super) assign: Assign,
    pub(super) state: StateDir,
    pub(super) catalogue: Current,
    pub(super) inbox: mpsc::Sender<Happened>,
    pub(super) keepers: Keepers,
    /// Where a keeper goes that has nothing left to do.
    pub(super) idle: Idle,
}

/// What came of listening.
enum Heard {
    /// The final word of the attempt at hand.
    Last(KeeperSaid),
    /// The same, of a keeper that ends now.
    Farewell(KeeperSaid),
    /// Somebody else made the claim of the attempt at hand: files and processes say who, and what became of it.
    Lost,
    /// Nothing can be heard any more.
    Silence,
}

impl Listener {
    /// `keeper`: the connection, if there is one already; it is then known to whoever sends commands.
    pub(super) async fn run(mut self, mut keeper: Option<Connected>) {
        let mut wait = Duration::ZERO;
        loop {
            let heard = match &keeper {
                Some(line) => self.hear(line, &mut wait).await,
                None => Heard::Silence,
            };
            let attempt = self.assign.attempt;
            self.keepers.borrow_mut().remove(&attempt);
            match (heard, keeper.take()) {
                (Heard::Last(last), Some(line)) => {
                    let next = line.goes_on();
                    if next.is_none() {
                        self.idle.put(Rc::clone(&line));
                    }
                    self.say(last).await;
                    let Some(next) = next else { return };
                    (self.assign, keeper) = (next, Some(line));
                    continue;
                }
                (Heard::Lost, Some(line)) if line.keeper().takes_ahead() => {
                    self.look_for(self.assign.clone());
                    let Some(next) = line.goes_on() else {
                        return self.idle.put(line);
                    };
                    (self.assign, keeper) = (next, Some(line));
                    continue;
                }
                (Heard::Farewell(last) | Heard::Last(last), _) => return self.say(last).await,
                // Whatever waited there is looked for as well: without its claim nobody can begin it any more.
                (Heard::Lost | Heard::Silence, Some(line)) => {
                    while let Some(waited) = line.goes_on() {
                        self.keepers.borrow_mut().remove(&waited.attempt);
                        self.look_for(waited);
                    }
                }
                (Heard::Lost | Heard::Silence, None) => {}
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
            match self.look().await {
                Became::Over(last) => return self.say(last).await,
                Became::Alive => keeper = self.reach().await,
                Became::Unknown => {}
            }
        }
    }

    /// Finds out what became of another attempt, beside this one.
    fn look_for(&self, assign: Assign) {
        let other = Self {
            assign,
            state: self.state.clone(),
            catalogue: Rc::clone(&self.catalogue),
            inbox: self.inbox.clone(),
            keepers: Rc::clone(&self.keepers),
            idle: self.idle.clone(),
        };
        tokio::task::spawn_local(other.run(None));
    }

    /// What the keeper says of the attempt at hand, and of those that wait there, until its final word.
    async fn hear(&self, line: &Connected, wait: &mut Duration) -> Heard {
        let attempt = self.assign.attempt;
        let last = loop {
            match next(&line.fd, KeeperClient::recv).await {
                Ok(Some(FromKeeper::Starting)) => {}
                Ok(Some(FromKeeper::Running { .. })) => self.say(KeeperSaid::Running).await,
                // Its predecessor's end came first, so that it is the one at hand here.
                Ok(Some(FromKeeper::GivenBack { attempt: back }))
                    if back == attempt.to_string() =>
                {
                    return Heard::Last(KeeperSaid::GivenBack);
                }
                Ok(Some(FromKeeper::GivenBack { attempt })) => {
                    if let Some(attempt) = line.gave_back(&attempt) {
                        self.keepers.borrow_mut().remove(&attempt);
                        self.say_of(attempt, KeeperSaid::GivenBack).await;
                    }
                }
                Ok(Some(FromKeeper::NotStarted { why, text })) => {
                    tracing::warn!(%attempt, ?why, "not started: {text}");
                    let Some(last) = outcome::not_started(why) else {
                        return Heard::Lost;
                    };
                    if line.keeper().takes_ahead() {
                        return Heard::Last(last);
                    }
                    break last;
                }
                Ok(Some(FromKeeper::Finished(record))) if record.attempt != attempt.to_string() => {
                    tracing::error!(%attempt, "its keeper tells the end of {}", record.attempt);
                    return Heard::Silence;
                }
                Ok(Some(FromKeeper::Finished(record))) => {
                    // The record stays on disk until the outcome is settled: the keeper has nothing left to do.
                    if record.version >= TAKES_ANOTHER {
                        return Heard::Last(self.said(&record));
                    }
                    break self.said(&record);
                }
                Ok(None) => return Heard::Silence,
                Err(error) => {
                    tracing::warn!(%attempt, "its keeper cannot be understood: {error}");
                    return Heard::Silence;
                }
            }
            // It speaks: the next silence is a first one.
            *wait = Duration::ZERO;
        };
        if let Err(error) = line.keeper().send(ToKeeper::Taken) {
            tracing::trace!(%attempt, "its keeper is gone already: {error}");
        }
        Heard::Farewell(last)
    }

    async fn look(&self) -> Became {
        let attempt = self.assign.attempt;
        let dir = self.state.attempt(attempt);
        match spawn_blocking(move || look(&dir)).await {
            Ok(Ok(looked)) => became(looked, |record| self.said(record)),
            Ok(Err(why)) => {
                tracing::error!(%attempt, "what became of it cannot be seen yet: {why}");
                Became::Unknown
            }
            Err(error) => {
                tracing::error!(%attempt, "looking for it failed: {error}");
                Became::Unknown
            }
        }
    }

    /// Connects to the living keeper; beside the loop, because one that is stopped lets its callers wait.
    async fn reach(&self) -> Option<Connected> {
        let attempt = self.assign.attempt;
        let dir = self.state.attempt(attempt);
        let connected = spawn_blocking(move || KeeperClient::connect(&dir));
        let connected = connected.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        match connected.and_then(Line::new) {
            Ok(keeper) => {
                let mut keepers = self.keepers.borrow_mut();
                keepers.insert(attempt, Rc::clone(&keeper));
                Some(keeper)
            }
            Err(error) => {
                // One that is being killed closes its sockets before it counts as dead.
                tracing::debug!(%attempt, "its keeper lives and cannot be reached: {error}");
                None
            }
        }
    }

    fn said(&self, record: &ExitRecord) -> KeeperSaid {
        let catalogue = self.catalogue.borrow().clone();
        let entry = catalogue.entry(&self.assign.entry);
        let run = self.state.run(self.assign.run);
        outcome::said(record, &self.assign, entry, &run)
    }

    async fn say(&self, said: KeeperSaid) {
        self.say_of(self.assign.attempt, said).await;
    }

    async fn say_of(&self, attempt: AttemptId, said: KeeperSaid) {
        let event = Event::Keeper { attempt, said };
        self.inbox.send(Happened::Core(event)).await.ok();
    }
}

/// The next packet of a non-blocking client.
pub(super) async fn next<C: std::os::fd::AsRawFd, T>(
    fd: &AsyncFd<C>,
    recv: impl Fn(&C) -> Result<Option<T>, PacketError>,
) -> Result<Option<T>, PacketError> {
    loop {
        let mut ready = fd.readable().await.map_err(PacketError::Io)?;
        match recv(fd.get_ref()) {
            Err(PacketError::WouldBlock) => ready.clear_ready(),
            other => return other,
        }
    }
}

/// What is known of an attempt whose keeper does not speak.
#[derive(Debug, PartialEq, Eq)]
enum Became {
    /// It is over; this is how.
    Over(KeeperSaid),
    /// Its keeper lives.
    Alive,
    /// It cannot be seen yet.
    Unknown,
}

/// What files and processes say.
#[derive(Debug, PartialEq, Eq)]
enum Looked {
    Over(ExitRecord),
    Alive,
    NeverStarted,
    /// Its keeper is dead, and its tree was ended. `surely`: by the kernel as a whole, so that nothing of it can be left.
    Dead {
        surely: bool,
    },
}

fn became(looked: Looked, said: impl FnOnce(&ExitRecord) -> KeeperSaid) -> Became {
    match looked {
        Looked::Over(record) => Became::Over(said(&record)),
        Looked::Alive => Became::Alive,
        Looked::NeverStarted => Became::Over(KeeperSaid::Gone { claimed: false }),
        Looked::Dead { surely: false } => Became::Over(KeeperSaid::Gone { claimed: true }),
        Looked::Dead { surely: true } => Became::Over(KeeperSaid::Finished(Report {
            outcome: Outcome::Killed(KillReason::Keeper),
            may_have_started: true,
            duration_ms: 0,
            exit_code: None,
            count: None,
        })),
    }
}

/// Looks at files and processes; ends the tree of a dead keeper before it says so. Blocks for some seconds at most.
fn look(dir: &Path) -> Result<Looked, String> {
    modes::reopen(dir);
    if let Some(record) = exit_record(dir)? {
        return Ok(Looked::Over(record));
    }
    match keeper_state(dir) {
        Ok(KeeperState::Alive(_)) => return alive(dir),
        Ok(KeeperState::Never | KeeperState::Dead(_) | KeeperState::EarlierBoot(_)) => {}
        Err(error @ RecordError::Damaged { .. }) => return unnamed(dir, &error),
        Err(error @ RecordError::Io { .. }) => return Err(with_causes(&error)),
    }
    if claim(dir).map_err(|error| format!("the claim in {}: {error}", dir.display()))? {
        return Ok(Looked::NeverStarted);
    }
    end_tree(dir).map_err(|error| with_causes(&error))?;
    // The keeper may have left its record between the two looks.
    Ok(exit_record(dir)?.map_or_else(|| dead(dir), Looked::Over))
}

/// Who keeps it cannot be read: it is over once neither a keeper nor anything that was started is there for a while.
fn unnamed(dir: &Path, damaged: &RecordError) -> Result<Looked, String> {
    let give_up = std::time::Instant::now() + ABOUT_TO_LISTEN;
    loop {
        match trace(dir).map_err(|error| with_causes(&error))? {
            Trace::Keeper => return Ok(Looked::Alive),
            Trace::Processes => {
                return Err(format!("{damaged}, and its processes are there"));
            }
            Trace::None if std::time::Instant::now() < give_up => {
                std::thread::sleep(LISTENS_YET);
            }
            Trace::None => break,
        }
    }
    tracing::error!("{damaged}: nothing is left of what it kept");
    // Whoever has no claim yet gets none.
    claim(dir).map_err(|error| format!("the claim in {}: {error}", dir.display()))?;
    Ok(Looked::Dead { surely: false })
}

fn dead(dir: &Path) -> Looked {
    let record = read_keeper_record(dir).ok().flatten();
    let containment = record.and_then(|record| record.containment);
    Looked::Dead {
        surely: matches!(
            containment,
            Some(Containment::Cgroup | Containment::PidNamespace)
        ),
    }
}

/// A keeper that lives and has no task yet is about to have one, or to say why not: within moments.
fn alive(dir: &Path) -> Result<Looked, String> {
    let give_up = std::time::Instant::now() + ABOUT_TO_START;
    loop {
        match keeper_state(dir).map_err(|error| with_causes(&error))? {
            KeeperState::Alive(record)
                if record.task.is_none() && std::time::Instant::now() < give_up =>
            {
                std::thread::sleep(LOOK_AGAIN);
            }
            KeeperState::Alive(_) => return Ok(Looked::Alive),
            // Over meanwhile: its files are looked at from the beginning.
            KeeperState::Never | KeeperState::Dead(_) | KeeperState::EarlierBoot(_) => {
                return look(dir);
            }
        }
    }
}

/// How the attempt ended. A damaged record says nothing: what became of the attempt is then judged without it.
fn exit_record(dir: &Path) -> Result<Option<ExitRecord>, String> {
    match read_exit_record(dir) {
        Ok(record) => Ok(record),
        Err(error @ RecordError::Damaged { .. }) => {
            tracing::error!("{error}: how the attempt ended is not known");
            Ok(None)
        }
        Err(error @ RecordError::Io { .. }) => Err(with_causes(&error)),
    }
}

/// Whether the claim is a runner's: then nothing ever ran, and no keeper will ever start it.
fn claim(dir: &Path) -> io::Result<bool> {
    let claimed = match try_claim(dir) {
        // A crash came before the directory was made, so nobody was asked for a keeper.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::DirBuilder::new().mode(0o700).create(dir)?;
            try_claim(dir)?
        }
        claimed => claimed?,
    };
    Ok(match claimed {
        Claim::Won => true,
        // An earlier runner won it and died before it could say so.
        Claim::Lost => std::fs::read(dir.join(CLAIM))? == b"runner",
    })
}

/// What became of each attempt that the journal says was begun, before the core is made: all are looked at side by
/// side, each for some seconds at most. One that cannot be judged yet counts as running; its listener goes on looking.
pub(super) async fn find(
    state: &StateDir,
    begun: &[Assign],
    catalogue: &Current,
) -> BTreeMap<AttemptId, Found> {
    let mut looks = JoinSet::new();
    for assign in begun {
        let (attempt, dir) = (assign.attempt, state.attempt(assign.attempt));
        looks.spawn_blocking(move || (attempt, look(&dir)));
    }
    let mut looked = BTreeMap::new();
    while let Some(done) = looks.join_next().await {
        match done {
            Ok((attempt, Ok(found))) => drop(looked.insert(attempt, found)),
            Ok((attempt, Err(why))) => {
                tracing::error!(%attempt, "what became of it cannot be seen yet: {why}");
            }
            Err(error) => tracing::error!("looking for an attempt failed: {error}"),
        }
    }
    let catalogue = catalogue.borrow().clone();
    let found = |assign: &Assign| {
        let Some(looked) = looked.remove(&assign.attempt) else {
            return (assign.attempt, Found::Running);
        };
        let entry = catalogue.entry(&assign.entry);
        let run = state.run(assign.run);
        let became = became(looked, |record| outcome::said(record, assign, entry, &run));
        (assign.attempt, found_as(became))
    };
    begun.iter().map(found).collect()
}

fn found_as(became: Became) -> Found {
    let over = |outcome| {
        Found::Finished(Report {
            outcome,
            may_have_started: false,
            duration_ms: 0,
            exit_code: None,
            count: None,
        })
    };
    match became {
        Became::Alive
        | Became::Unknown
        | Became::Over(KeeperSaid::Running | KeeperSaid::GivenBack) => Found::Running,
        Became::Over(KeeperSaid::Finished(report)) => Found::Finished(report),
        Became::Over(KeeperSaid::Gone { claimed }) => Found::Gone { claimed },
        Became::Over(KeeperSaid::NotStarted(why)) => match why {
            NotStarted::Failed(failure) => over(Outcome::StartFailed(failure)),
            NotStarted::Cancelled => over(Outcome::Cancelled),
            NotStarted::LeaseOver => over(Outcome::Refused(Refusal::NoLease)),
            NotStarted::Refused(refusal) => over(Outcome::Refused(refusal)),
        },
    }
}

#[cfg(test)]
#[path = "keepers_tests.rs"]
mod tests;
