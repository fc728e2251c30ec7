//! The runner's side of spawner and keepers: starts attempts, listens to their keepers, and finds out what became of
//! those whose keeper is silent. A process id alone decides nothing here.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use outpost_agent_core::Found;
use outpost_agent_core::event::{Event, KeeperSaid};
use outpost_agent_keeper::adopt::{
    Claim, KeeperClient, KeeperState, SpawnerClient, end_tree, keeper_state, read_exit_record,
    try_claim,
};
use outpost_agent_keeper::exec::{Leash, SelfExec};
use outpost_agent_keeper::protocol::{FromKeeper, FromSpawner, PacketError, ToKeeper};
use outpost_proto::ids::AttemptId;
use outpost_proto::message::Assign;
use outpost_proto::outcome::StartFailure;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::watch::watch;
use super::{Happened, outcome, workspace};
use crate::catalogue::{Catalogue, Entry};
use crate::state_dir::StateDir;

/// The catalogue in force; replaced as a whole.
pub(super) type Current = Rc<RefCell<std::sync::Arc<Catalogue>>>;

/// Between two tries to reach a keeper that is about to be dead: ending a process takes the kernel milliseconds.
const REACH_AGAIN: Duration = Duration::from_millis(20);

/// Starts attempts and listens to them.
pub(super) struct Tasks {
    state: StateDir,
    exec: SelfExec,
    leash: Option<Leash>,
    catalogue: Current,
    inbox: mpsc::Sender<Happened>,
    spawner: Option<Rc<AsyncFd<SpawnerClient>>>,
    keepers: Keepers,
}

/// Attempts with a keeper that is listened to. A keeper that cannot be reached any more is not in it.
type Keepers = Rc<RefCell<BTreeMap<AttemptId, Rc<AsyncFd<KeeperClient>>>>>;

impl Tasks {
    pub(super) fn new(
        state: StateDir,
        exec: SelfExec,
        leash: Option<Leash>,
        catalogue: Current,
        inbox: mpsc::Sender<Happened>,
    ) -> Self {
        Self {
            state,
            exec,
            leash,
            catalogue,
            inbox,
            spawner: None,
            keepers: Keepers::default(),
        }
    }

    /// Starts an attempt, or answers why nothing of it will ever run. Its journal record is durable already.
    pub(super) fn start(
        &mut self,
        assign: &Assign,
        lease_until_boot_us: u64,
    ) -> Result<(), KeeperSaid> {
        let attempt = assign.attempt;
        let catalogue = self.catalogue.borrow().clone();
        let failed = |failure: StartFailure, why: String| {
            tracing::error!(%attempt, entry = %assign.entry, "cannot be started: {why}");
            outcome::failed(failure)
        };
        // Judged already; a catalogue that was reloaded in between may say otherwise now.
        let plan = catalogue
            .plan(assign)
            .map_err(|(_, why)| failed(StartFailure::Other, why))?;
        let entry = catalogue
            .entry(&assign.entry)
            .ok_or_else(|| failed(StartFailure::Other, "no entry".to_owned()))?;
        let begun = super::store::wall_us();
        let spec = workspace::prepare(&self.state, assign, entry, plan, lease_until_boot_us, begun)
            .map_err(|error| {
                failed(
                    failure_of(&error),
                    format!("its directories cannot be made: {error}"),
                )
            })?;
        let spawner = self
            .spawner()
            .map_err(|why| failed(StartFailure::Resources, why))?;
        let keeper = match spawner.get_ref().start(Box::new(spec)) {
            Ok(keeper) => keeper,
            Err(error) => {
                self.spawner = None;
                return Err(failed(
                    StartFailure::Resources,
                    format!("the spawner is gone: {error}"),
                ));
            }
        };
        self.listen(keeper, assign.clone())
            .map_err(|error| failed(StartFailure::Resources, error.to_string()))
    }

    /// The living spawner; a new one when there is none.
    fn spawner(&mut self) -> Result<Rc<AsyncFd<SpawnerClient>>, String> {
        if let Some(spawner) = &self.spawner
            && !hung_up(spawner)
        {
            return Ok(Rc::clone(spawner));
        }
        let connect =
            || SpawnerClient::connect_or_start(self.state.path(), &self.exec, self.leash.as_ref());
        let client = connect().map_err(|error| error.to_string())?;
        client
            .set_nonblocking(true)
            .map_err(|error| error.to_string())?;
        let fd = watch(client).map_err(|error| error.to_string())?;
        let spawner = Rc::new(fd);
        tokio::task::spawn_local(drain_spawner(Rc::clone(&spawner)));
        self.spawner = Some(Rc::clone(&spawner));
        Ok(spawner)
    }

    fn listen(&self, keeper: KeeperClient, assign: Assign) -> io::Result<()> {
        let listener = self.listener(assign);
        let fd = listener.take(keeper)?;
        tokio::task::spawn_local(listener.run(fd));
        Ok(())
    }

    fn listener(&self, assign: Assign) -> Listener {
        Listener {
            assign,
            state: self.state.clone(),
            catalogue: Rc::clone(&self.catalogue),
            inbox: self.inbox.clone(),
            keepers: Rc::clone(&self.keepers),
        }
    }

    /// Takes over an attempt whose keeper lives.
    pub(super) fn adopt(&self, assign: Assign) {
        let dir = self.state.attempt(assign.attempt);
        let listener = self.listener(assign);
        // Connected at once, so that a cancel finds it; only a keeper that cannot be reached is worth waiting for.
        let connected = KeeperClient::connect(&dir).and_then(|keeper| listener.take(keeper));
        tokio::task::spawn_local(async move {
            match connected {
                Ok(keeper) => listener.run(keeper).await,
                Err(_) => listener.adopt().await,
            }
        });
    }

    pub(super) fn cancel(&self, attempt: AttemptId) {
        self.tell(attempt, ToKeeper::Cancel);
    }

    /// Pushes every dead-man timer.
    pub(super) fn in_touch(&self) {
        let attempts = self.keepers.borrow().keys().copied().collect::<Vec<_>>();
        attempts
            .into_iter()
            .for_each(|attempt| self.tell(attempt, ToKeeper::StillConnected));
    }

    /// The outcome is durable upstream: the keeper may go, and so may the working directory. The log stays.
    pub(super) fn discard(&self, attempt: AttemptId) {
        self.keepers.borrow_mut().remove(&attempt);
        let work = self.state.work(attempt);
        if let Err(error) = std::fs::remove_dir_all(&work)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%attempt, "{} could not be removed: {error}", work.display());
        }
    }

    fn tell(&self, attempt: AttemptId, message: ToKeeper) {
        let keepers = self.keepers.borrow();
        let Some(keeper) = keepers.get(&attempt) else {
            return;
        };
        if let Err(error) = keeper.get_ref().send(message) {
            // Its listener sees the end and finds out what became of it.
            tracing::debug!(%attempt, "its keeper does not listen: {error}");
        }
    }
}

fn failure_of(error: &io::Error) -> StartFailure {
    use io::ErrorKind as K;
    let is = |kinds: &[K]| kinds.contains(&error.kind());
    if is(&[K::StorageFull, K::OutOfMemory, K::QuotaExceeded]) {
        StartFailure::Resources
    } else if is(&[K::PermissionDenied]) {
        StartFailure::Permission
    } else {
        StartFailure::Other
    }
}

fn hung_up(spawner: &AsyncFd<SpawnerClient>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(spawner.get_ref(), PollFlags::RDHUP)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let polled = poll(&mut fds, Some(&now));
    polled.is_err()
        || fds[0]
            .revents()
            .intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
}

/// Reads the spawner's answers. A failed start ends the keeper's connection too, whose listener then finds out; what
/// is said here is for the log.
async fn drain_spawner(spawner: Rc<AsyncFd<SpawnerClient>>) {
    loop {
        match next(&spawner, SpawnerClient::recv).await {
            Ok(Some(FromSpawner::StartFailed {
                attempt,
                failure,
                text,
            })) => {
                tracing::error!(attempt, ?failure, "no keeper: {text}");
            }
            Ok(Some(FromSpawner::Started { .. } | FromSpawner::Status { .. })) => {}
            Ok(None) => return tracing::info!("the spawner ended; the next start makes a new one"),
            Err(error) => return tracing::error!("the spawner cannot be understood: {error}"),
        }
    }
}

/// The next packet of a non-blocking client.
async fn next<C: std::os::fd::AsRawFd, T>(
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

/// Listens to one keeper until its final word.
struct Listener {
    assign: Assign,
    state: StateDir,
    catalogue: Current,
    inbox: mpsc::Sender<Happened>,
    keepers: Keepers,
}

impl Listener {
    async fn run(self, mut keeper: Rc<AsyncFd<KeeperClient>>) {
        let attempt = self.assign.attempt;
        let last = loop {
            match next(&keeper, KeeperClient::recv).await {
                Ok(Some(FromKeeper::Starting)) => {}
                Ok(Some(FromKeeper::Running { .. })) => self.say(KeeperSaid::Running).await,
                Ok(Some(FromKeeper::NotStarted { why, text })) => {
                    tracing::warn!(%attempt, ?why, "not started: {text}");
                    break outcome::not_started(why);
                }
                Ok(Some(FromKeeper::Finished(record))) => {
                    break said(&record, &self.assign, &self.state, &self.catalogue);
                }
                // The keeper is dead, or took another runner for a newer one.
                Ok(None) | Err(_) => match self.reach().await {
                    Ok(next) => keeper = next,
                    Err(said) => break said,
                },
            }
        };
        // The record stays on disk until the outcome is settled: the keeper has nothing left to do.
        if let Err(error) = keeper.get_ref().send(ToKeeper::Taken) {
            tracing::trace!(%attempt, "its keeper is gone already: {error}");
        }
        self.keepers.borrow_mut().remove(&attempt);
        self.say(last).await;
    }

    async fn adopt(self) {
        match self.reach().await {
            Ok(keeper) => self.run(keeper).await,
            Err(said) => self.say(said).await,
        }
    }

    /// A new connection to the keeper, or what became of the attempt.
    ///
    /// A process that is being ended closes its sockets before it counts as dead: for a moment there can be a keeper
    /// that lives and cannot be reached.
    async fn reach(&self) -> Result<Rc<AsyncFd<KeeperClient>>, KeeperSaid> {
        let dir = self.state.attempt(self.assign.attempt);
        loop {
            let said = resolve(&self.state, &self.assign, &self.catalogue).await;
            if said != KeeperSaid::Running {
                return Err(said);
            }
            match KeeperClient::connect(&dir).and_then(|keeper| self.take(keeper)) {
                Ok(keeper) => return Ok(keeper),
                Err(error) => {
                    tracing::debug!(attempt = %self.assign.attempt, "its keeper cannot be reached: {error}");
                }
            }
            tokio::time::sleep(REACH_AGAIN).await;
        }
    }

    /// Makes the connection the one that the attempt's keeper is talked to through.
    fn take(&self, keeper: KeeperClient) -> io::Result<Rc<AsyncFd<KeeperClient>>> {
        keeper.set_nonblocking(true)?;
        let fd = Rc::new(watch(keeper)?);
        self.keepers
            .borrow_mut()
            .insert(self.assign.attempt, Rc::clone(&fd));
        Ok(fd)
    }

    async fn say(&self, said: KeeperSaid) {
        let event = Event::Keeper {
            attempt: self.assign.attempt,
            said,
        };
        self.inbox.send(Happened::Core(event)).await.ok();
    }
}

fn said(
    record: &outpost_agent_keeper::protocol::ExitRecord,
    assign: &Assign,
    state: &StateDir,
    catalogue: &Current,
) -> KeeperSaid {
    let catalogue = catalogue.borrow().clone();
    let entry: Option<&Entry> = catalogue.entry(&assign.entry);
    outcome::said(record, assign, entry, &state.run(assign.run))
}

/// What became of an attempt whose keeper does not speak: `Running` means that the keeper lives.
///
/// Ending what a dead keeper left behind can take a while, so it is done beside the runner's loop.
async fn resolve(state: &StateDir, assign: &Assign, catalogue: &Current) -> KeeperSaid {
    let dir = state.attempt(assign.attempt);
    loop {
        let looked = tokio::task::spawn_blocking({
            let dir = dir.clone();
            move || look(&dir)
        });
        match looked.await {
            Ok(Ok(Looked::Over(record))) => return said(&record, assign, state, catalogue),
            Ok(Ok(Looked::Alive)) => return KeeperSaid::Running,
            Ok(Ok(Looked::NeverStarted)) => return KeeperSaid::Gone { claimed: false },
            Ok(Ok(Looked::Dead)) => return KeeperSaid::Gone { claimed: true },
            Ok(Err(why)) => {
                tracing::error!(attempt = %assign.attempt, "what became of it cannot be seen yet: {why}")
            }
            Err(error) => {
                tracing::error!(attempt = %assign.attempt, "looking for it failed: {error}")
            }
        }
        // Nothing may be said of it before its tree is surely gone; what stands in the way is not ours to change.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

enum Looked {
    Over(outpost_agent_keeper::protocol::ExitRecord),
    Alive,
    NeverStarted,
    Dead,
}

/// Looks at what is on disk and at the processes; ends the tree of a dead keeper before it says so.
fn look(dir: &Path) -> Result<Looked, String> {
    let record = || read_exit_record(dir).map_err(|error| error.to_string());
    if let Some(record) = record()? {
        return Ok(Looked::Over(record));
    }
    if let KeeperState::Alive(_) = keeper_state(dir).map_err(|error| error.to_string())? {
        return Ok(Looked::Alive);
    }
    if try_claim(dir).map_err(|error| error.to_string())? == Claim::Won {
        return Ok(Looked::NeverStarted);
    }
    end_tree(dir).map_err(|error| error.to_string())?;
    // The keeper may have left its record between the two looks.
    Ok(record()?.map_or(Looked::Dead, Looked::Over))
}

/// Removes working directories that a crash kept from being removed: those of attempts that are not held any more.
pub(super) fn sweep(state: &StateDir, held: &[AttemptId]) -> io::Result<()> {
    for entry in std::fs::read_dir(state.path().join("work"))? {
        let entry = entry?;
        let attempt = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<AttemptId>().ok());
        if attempt.is_some_and(|attempt| !held.contains(&attempt)) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// What became of each attempt that the journal says was begun, before the core is made.
pub(super) async fn find(
    state: &StateDir,
    begun: Vec<Assign>,
    catalogue: &Current,
) -> BTreeMap<AttemptId, Found> {
    let mut found = BTreeMap::new();
    for assign in begun {
        let outcome = match resolve(state, &assign, catalogue).await {
            KeeperSaid::Running => Found::Running,
            KeeperSaid::Finished(report) => Found::Finished(report),
            KeeperSaid::NotStarted(_) => Found::NeverStarted,
            KeeperSaid::Gone { claimed: false } => Found::NeverStarted,
            KeeperSaid::Gone { claimed: true } => Found::Gone { claimed: true },
        };
        found.insert(assign.attempt, outcome);
    }
    found
}
