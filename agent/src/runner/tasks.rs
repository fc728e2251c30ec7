//! The runner's side of the spawner: starts attempts, takes over those of an earlier runner, and passes commands on to
//! their keepers. What keepers say is heard in `keepers`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use outpost_agent_core::event::KeeperSaid;
use outpost_agent_keeper::adopt::{KeeperClient, SpawnerClient};
use outpost_agent_keeper::exec::{Leash, SelfExec};
use outpost_agent_keeper::failpoint;
use outpost_agent_keeper::protocol::{FromSpawner, StartSpec, ToKeeper};
use outpost_proto::ids::AttemptId;
use outpost_proto::message::Assign;
use outpost_proto::outcome::StartFailure;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::keepers::{Connected, Line, Listener, next};
use super::retention::Trash;
use super::watch::watch;
use super::workspace::Runs;
use super::{Happened, outcome};
use crate::catalogue::Catalogue;
use crate::state_dir::StateDir;

/// How long a spawner may take to make room for a start: it forks one keeper after the other, some milliseconds each.
const ROOM: Duration = Duration::from_secs(2);

/// Keepers that wait for another attempt at most, and how long each waits. Far shorter than a keeper itself waits for a
/// runner that does nothing.
const IDLE: usize = 32;
const IDLE_FOR: Duration = Duration::from_secs(10);

/// The catalogue in force; replaced as a whole.
pub(super) type Current = Rc<RefCell<std::sync::Arc<Catalogue>>>;

/// Starts attempts and listens to them.
pub(super) struct Tasks {
    state: StateDir,
    exec: SelfExec,
    leash: Option<Leash>,
    catalogue: Current,
    inbox: mpsc::Sender<Happened>,
    spawner: Option<Rc<AsyncFd<SpawnerClient>>>,
    keepers: Keepers,
    idle: Idle,
    runs: Runs,
    trash: Trash,
    /// Whether something was begun since this was asked last.
    busy: bool,
}

/// Keepers whose tasks are over, for the next attempts: the newest is the warmest. Who is let go ends itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Idle(Rc<RefCell<Vec<(Connected, Instant)>>>);

impl Idle {
    pub(super) fn put(&self, keeper: Connected) {
        let mut idle = self.0.borrow_mut();
        if idle.len() < IDLE {
            idle.push((keeper, Instant::now()));
        }
    }

    fn take(&self) -> Option<Connected> {
        self.0.borrow_mut().pop().map(|(keeper, _)| keeper)
    }

    fn let_go(&self) {
        self.0
            .borrow_mut()
            .retain(|(_, since)| since.elapsed() < IDLE_FOR);
    }
}

/// Attempts with a keeper that is listened to. A keeper that cannot be reached any more is not in it.
pub(super) type Keepers = Rc<RefCell<BTreeMap<AttemptId, Connected>>>;

impl Tasks {
    pub(super) fn new(
        state: StateDir,
        exec: SelfExec,
        leash: Option<Leash>,
        catalogue: Current,
        inbox: mpsc::Sender<Happened>,
        trash: Trash,
    ) -> Self {
        Self {
            state,
            exec,
            leash,
            catalogue,
            inbox,
            spawner: None,
            keepers: Keepers::default(),
            idle: Idle::default(),
            runs: Runs::default(),
            trash,
            busy: false,
        }
    }

    /// Starts an attempt, or hands it to the keeper of the one `behind` which it waits; answers why nothing of it will
    /// ever run, or that it does not wait there. Its journal record is written already.
    pub(super) fn start(
        &mut self,
        assign: &Assign,
        lease_until_boot_us: u64,
        behind: Option<AttemptId>,
    ) -> Result<(), KeeperSaid> {
        let attempt = assign.attempt;
        self.busy = true;
        let line = behind.map(|first| self.line_behind(first)).transpose()?;
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
        let spec = self
            .runs
            .prepare(&self.state, assign, entry, plan, lease_until_boot_us, begun)
            .map_err(|error| {
                failed(
                    failure_of(&error),
                    format!("its directories cannot be made: {error}"),
                )
            })?;
        failpoint::reach("runner-prepared");
        if let Some(line) = line {
            line.keeper().next(&spec).map_err(|error| {
                tracing::debug!(%attempt, "a keeper does not take it: {error}");
                KeeperSaid::GivenBack
            })?;
            failpoint::reach("runner-handed-over");
            line.has(assign.clone());
            self.keepers.borrow_mut().insert(attempt, line);
            return Ok(());
        }
        let keeper = match self.give(&spec) {
            Some(keeper) => keeper,
            None => self
                .ask(spec)
                .and_then(|keeper| Line::new(keeper).map_err(|error| error.to_string()))
                .map_err(|why| failed(StartFailure::Resources, why))?,
        };
        failpoint::reach("runner-asked");
        self.listen(keeper, assign.clone());
        Ok(())
    }

    /// The keeper of an attempt that is not over, if others may wait there.
    fn line_behind(&self, first: AttemptId) -> Result<Connected, KeeperSaid> {
        let keepers = self.keepers.borrow();
        let line = keepers.get(&first);
        line.filter(|line| line.keeper().takes_ahead())
            .cloned()
            .ok_or(KeeperSaid::GivenBack)
    }

    /// Gives the attempt to a keeper that waits for one. One that is gone took nothing.
    fn give(&self, spec: &StartSpec) -> Option<Connected> {
        std::iter::from_fn(|| self.idle.take()).find(|line| line.keeper().next(spec).is_ok())
    }

    /// Asks the spawner for a keeper.
    fn ask(&mut self, spec: StartSpec) -> Result<KeeperClient, String> {
        let spawner = self.spawner()?;
        // In a burst of starts nobody else reads its answers, and it takes no more when they are not read.
        while let Ok(Some(answer)) = spawner.get_ref().recv() {
            answered(answer);
        }
        if !is_ready(&spawner, rustix::event::PollFlags::OUT, ROOM) {
            self.spawner = None;
            return Err(format!("the spawner took nothing for {} s", ROOM.as_secs()));
        }
        spawner.get_ref().start(Box::new(spec)).map_err(|error| {
            self.spawner = None;
            format!("the spawner is gone: {error}")
        })
    }

    /// The living spawner; a new one when there is none.
    fn spawner(&mut self) -> Result<Rc<AsyncFd<SpawnerClient>>, String> {
        if let Some(spawner) = &self.spawner
            && !is_ready(spawner, rustix::event::PollFlags::RDHUP, Duration::ZERO)
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

    fn listen(&self, keeper: Connected, assign: Assign) {
        self.keepers
            .borrow_mut()
            .insert(assign.attempt, Rc::clone(&keeper));
        tokio::task::spawn_local(self.listener(assign).run(Some(keeper)));
    }

    /// Takes over an attempt that an earlier runner began. What the core wants its keeper to hear is said once the
    /// keeper has spoken.
    pub(super) fn adopt(&self, assign: Assign) {
        tokio::task::spawn_local(self.listener(assign).run(None));
    }

    fn listener(&self, assign: Assign) -> Listener {
        Listener {
            assign,
            state: self.state.clone(),
            catalogue: Rc::clone(&self.catalogue),
            inbox: self.inbox.clone(),
            keepers: Rc::clone(&self.keepers),
            idle: self.idle.clone(),
        }
    }

    /// Ends an attempt, or has it given back if it has not begun: by name, because its keeper may have gone on.
    pub(super) fn cancel(&self, attempt: AttemptId) {
        let ahead = self
            .keepers
            .borrow()
            .get(&attempt)
            .map(|line| line.keeper().takes_ahead());
        let message = match ahead {
            Some(true) => ToKeeper::End {
                attempt: attempt.to_string(),
            },
            Some(false) | None => ToKeeper::Cancel,
        };
        self.tell(attempt, message);
    }

    /// Has an attempt given back that waits at a keeper.
    pub(super) fn take_back(&self, attempt: AttemptId) {
        let name = attempt.to_string();
        self.tell(attempt, ToKeeper::GiveBack { attempt: name });
    }

    /// Lets keepers go that have waited long enough for another attempt, in touch or not.
    pub(super) fn let_go(&self) {
        self.idle.let_go();
    }

    /// Whether nothing runs, and nothing was begun since this was asked last.
    pub(super) fn rests(&mut self) -> bool {
        !std::mem::take(&mut self.busy) && self.keepers.borrow().is_empty()
    }

    /// Pushes every dead-man timer.
    pub(super) fn in_touch(&self) {
        self.let_go();
        let keepers = self.keepers.borrow();
        let attempts = keepers
            .iter()
            .filter(|(attempt, line)| !line.waits(**attempt));
        attempts.for_each(|(attempt, line)| tell(*attempt, line, ToKeeper::StillConnected));
    }

    /// The outcome is durable upstream: the keeper may go, and so may the working directory. The log stays.
    pub(super) fn discard(&self, attempt: AttemptId) {
        self.keepers.borrow_mut().remove(&attempt);
        self.trash.throw(&self.state.work(attempt));
    }

    fn tell(&self, attempt: AttemptId, message: ToKeeper) {
        if let Some(line) = self.keepers.borrow().get(&attempt) {
            tell(attempt, line, message);
        }
    }
}

fn tell(attempt: AttemptId, line: &Connected, message: ToKeeper) {
    if let Err(error) = line.keeper().send(message) {
        // Its listener sees the end and finds out what became of it.
        tracing::debug!(%attempt, "its keeper does not listen: {error}");
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

/// Whether the spawner's socket shows one of `flags`, its end or an error within `patience`.
fn is_ready(
    spawner: &AsyncFd<SpawnerClient>,
    flags: rustix::event::PollFlags,
    patience: Duration,
) -> bool {
    use rustix::event::{PollFd, Timespec, poll};
    let mut fds = [PollFd::new(spawner.get_ref(), flags)];
    let patience = Timespec::try_from(patience).unwrap_or(Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    });
    poll(&mut fds, Some(&patience)).is_ok_and(|ready| ready > 0)
}

/// Reads the spawner's answers. A failed start ends the keeper's connection too, whose listener then finds out; what
/// is said here is for the log.
async fn drain_spawner(spawner: Rc<AsyncFd<SpawnerClient>>) {
    loop {
        match next(&spawner, SpawnerClient::recv).await {
            Ok(Some(answer)) => answered(answer),
            Ok(None) => return tracing::info!("the spawner ended; the next start makes a new one"),
            Err(error) => return tracing::error!("the spawner cannot be understood: {error}"),
        }
    }
}

fn answered(answer: FromSpawner) {
    match answer {
        FromSpawner::StartFailed {
            attempt,
            failure,
            text,
        } => tracing::error!(attempt, ?failure, "no keeper: {text}"),
        FromSpawner::Started { .. } | FromSpawner::Status { .. } => {}
    }
}
