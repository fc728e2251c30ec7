//! The runner's side of the spawner: starts attempts, takes over those of an earlier runner, and passes commands on to
//! their keepers. What keepers say is heard in `keepers`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use outpost_agent_core::Found;
use outpost_agent_core::event::KeeperSaid;
use outpost_agent_keeper::adopt::{KeeperClient, SpawnerClient};
use outpost_agent_keeper::exec::{Leash, SelfExec};
use outpost_agent_keeper::failpoint;
use outpost_agent_keeper::process::boot_time_us;
use outpost_agent_keeper::protocol::{FromSpawner, StartSpec, ToKeeper};
use outpost_agent_keeper::secrets::Secrets;
use outpost_proto::ids::{AttemptId, RunId};
use outpost_proto::message::Assign;
use outpost_proto::outcome::StartFailure;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::keepers::{Connected, Line, Listener, next};
use super::observe::Observed;
use super::resting::Resting;
use super::retention::Trash;
use super::secrets::{Granted, Granting};
use super::walls::{self, Walls};
use super::watch::watch;
use super::workspace::Runs;
use super::{Happened, gate, outcome};
use crate::catalogue::{Catalogue, Entry};
use crate::metrics::Shared;
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
    resting: Resting,
    granting: Granting,
    walls: Walls,
    numbers: Shared,
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
        resting: Resting,
    ) -> Self {
        let mut walls = Walls::new(&state);
        // A key of the same account that tasks of this account could read would be none.
        let keys = resting.keys().into_iter().flat_map(|keys| keys.files());
        keys.for_each(|path| walls.close(path));
        Self {
            numbers: Shared::default(),
            granting: Granting::new(inbox.clone()),
            walls,
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
            resting,
            busy: false,
        }
    }

    /// Where it is told what could not be started.
    pub(super) fn tell_in(&mut self, numbers: Shared) {
        self.numbers = numbers;
    }

    /// Keeps tasks of the agent's own account out of this too.
    pub(super) fn close(&mut self, path: &std::path::Path) {
        self.walls.close(path);
    }

    /// Where everything is.
    pub(super) fn state(&self) -> &StateDir {
        &self.state
    }

    /// Whether the files of a run are on their way from one form to the other.
    pub(super) fn is_changing(&self, run: RunId) -> bool {
        self.resting.is_busy(run)
    }

    /// Something was thrown into the trash.
    pub(super) fn thrown(&self) {
        self.trash.thrown();
    }

    /// Starts an attempt, or hands it to the keeper of the one `behind` which it waits; answers why nothing of it will
    /// ever run, or that it does not wait there. Its journal record is written already.
    pub(super) fn start(
        &mut self,
        assign: &Assign,
        lease_until_boot_us: u64,
        behind: Option<AttemptId>,
    ) -> Result<(), KeeperSaid> {
        self.busy = true;
        if self.resting.needs_opening(assign.run) {
            if behind.is_some() {
                return Err(KeeperSaid::GivenBack);
            }
            let inbox = self.inbox.clone();
            self.resting
                .open_for(assign.clone(), lease_until_boot_us, inbox);
            return Ok(());
        }
        self.resting.started(assign.run);
        let line = behind.map(|first| self.line_behind(first)).transpose()?;
        let catalogue = self.catalogue.borrow().clone();
        let has_secrets = |entry: &Entry| !entry.secrets.is_empty();
        if catalogue.entry(&assign.entry).is_some_and(has_secrets) {
            // Fetched when it starts: who knows for how long it would wait there with them.
            if line.is_some() {
                return Err(KeeperSaid::GivenBack);
            }
            let state = self.state.path();
            let asked = self
                .granting
                .ask(state, assign, lease_until_boot_us, catalogue);
            let numbers = &self.numbers;
            return asked.map_err(|why| failed(numbers, assign, StartFailure::Secret, &why));
        }
        self.launch(assign, lease_until_boot_us, line, &catalogue, None)
    }

    /// Looks for the secrets of an instruction that was only observed; see [`Granting::look`].
    pub(super) fn look(
        &self,
        observed: Box<Observed>,
        catalogue: &Catalogue,
    ) -> Result<(), Box<Observed>> {
        self.granting.look(observed, catalogue)
    }

    /// Whether something is to be fetched or opened before this attempt's program can be started.
    pub(super) fn makes_ready(&self, assign: &Assign) -> bool {
        let catalogue = self.catalogue.borrow();
        let entry = catalogue.entry(&assign.entry);
        entry.is_some_and(|entry| !entry.secrets.is_empty())
            || self.resting.needs_opening(assign.run)
    }

    /// Whether an attempt whose secrets were fetched is still wanted. One that was cancelled meanwhile is told of
    /// already.
    pub(super) fn awaits(&mut self, attempt: AttemptId) -> bool {
        self.granting.arrived(attempt)
    }

    /// Goes on with an attempt whose secrets were fetched; as [`Self::start`] otherwise.
    pub(super) fn granted(&mut self, granted: Granted) -> Result<(), KeeperSaid> {
        let assign = &granted.assign;
        let secrets = granted.secrets;
        let numbers = &self.numbers;
        let secrets = secrets.map_err(|why| failed(numbers, assign, StartFailure::Secret, &why))?;
        let lease = granted.lease_until_boot_us;
        self.launch(assign, lease, None, &granted.catalogue, Some(secrets))
    }

    /// Goes on with an attempt whose run's files were opened; as [`Self::start`] otherwise.
    pub(super) fn opened(
        &mut self,
        assign: &Assign,
        lease_until_boot_us: u64,
    ) -> Result<(), KeeperSaid> {
        // Closed to other accounts while it rested.
        self.runs.forget(assign.run);
        self.start(assign, lease_until_boot_us, None)
    }

    fn launch(
        &mut self,
        assign: &Assign,
        lease_until_boot_us: u64,
        line: Option<Connected>,
        catalogue: &Catalogue,
        secrets: Option<Secrets>,
    ) -> Result<(), KeeperSaid> {
        let attempt = assign.attempt;
        let numbers = Rc::clone(&self.numbers);
        let failed = |failure: StartFailure, why: String| failed(&numbers, assign, failure, &why);
        // Judged already; a catalogue that was reloaded in between may say otherwise now.
        let plan = catalogue
            .plan(assign)
            .map_err(|(_, why)| failed(StartFailure::Other, why))?;
        let entry = catalogue
            .entry(&assign.entry)
            .ok_or_else(|| failed(StartFailure::Other, "no entry".to_owned()))?;
        catalogue
            .verify(entry, &plan)
            .map_err(|why| failed(StartFailure::Permission, why))?;
        let begun = super::store::wall_us();
        let until = gate::until(entry, lease_until_boot_us, boot_time_us());
        let mut spec = self
            .runs
            .prepare(&self.state, assign, entry, plan, until, begun)
            .map_err(|error| {
                failed(
                    failure_of(&error),
                    format!("its directories cannot be made: {error}"),
                )
            })?;
        if let Some(seal) = self.resting.for_attempt(attempt) {
            spec.seal = Some(seal.map_err(|e| failed(StartFailure::Resources, e.to_string()))?);
        }
        spec.secrets = secrets;
        self.walls
            .put(&mut spec, &self.state, assign.run, catalogue);
        self.granting.enclose(&mut spec, catalogue);
        walls::open_declared(&mut spec, entry)
            .map_err(|why| failed(StartFailure::Permission, why))?;
        failpoint::reach("runner-prepared");
        if let Some(line) = line {
            if spec.seal.is_some() && !line.keeper().seals() {
                return Err(KeeperSaid::GivenBack);
            }
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
            Some(keeper) => Ok(keeper),
            None => self
                .ask(spec)
                .map(Line::new)
                .map_err(|why| failed(StartFailure::Resources, why))?,
        };
        failpoint::reach("runner-asked");
        self.asked(keeper, assign);
        Ok(())
    }

    /// A keeper has it, or will. One that cannot be listened to may start it all the same: files and processes say then
    /// whether it does, unless the claim can still be made in its place.
    fn asked(&self, keeper: io::Result<Connected>, assign: &Assign) {
        match keeper {
            Ok(keeper) => self.listen(keeper, assign.clone()),
            Err(error) => {
                tracing::error!(attempt = %assign.attempt, "its keeper cannot be listened to: {error}");
                self.adopt(assign.clone());
            }
        }
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
        let may = |line: &Connected| {
            let keeper = line.keeper();
            (spec.secrets.is_none() || keeper.hands_secrets())
                && (spec.seal.is_none() || keeper.seals())
        };
        std::iter::from_fn(|| self.idle.take())
            .find(|line| may(line) && line.keeper().next(spec).is_ok())
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
        if spec.secrets.is_some() && !hands_secrets(&spawner) {
            return Err(
                "the spawner is of an older agent that hands over no secrets: it ends by itself once its tasks have"
                    .to_owned(),
            );
        }
        // Waits for the spawner's first word, as for secrets.
        if spec.seal.is_some() && !(hands_secrets(&spawner) && spawner.get_ref().seals()) {
            return Err(
                "the spawner is of an older agent that does not encrypt logs: it ends by itself some minutes after its tasks have"
                    .to_owned(),
            );
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
    pub(super) fn cancel(&mut self, attempt: AttemptId) {
        if self.granting.cancel(attempt) || self.resting.cancelled(attempt) {
            return;
        }
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

    /// A keeper's word was heard: after a last one nothing of the attempt's secrets stays, and where its
    /// log ends is noted.
    pub(super) fn said(&self, attempt: AttemptId, said: KeeperSaid) {
        match said {
            KeeperSaid::Running | KeeperSaid::GivenBack => {}
            KeeperSaid::NotStarted(_) | KeeperSaid::Finished(_) | KeeperSaid::Gone { .. } => {
                self.granting.over(attempt);
                self.resting.over(attempt);
            }
        }
    }

    /// Takes away what earlier attempts left of their secrets. `found`: what became of those that were begun.
    pub(super) fn sweep(&mut self, found: &BTreeMap<AttemptId, Found>) {
        let running = found.iter().filter(|(_, found)| **found == Found::Running);
        let running = running.map(|(attempt, _)| attempt.to_string()).collect();
        let catalogue = self.catalogue.borrow().clone();
        self.granting.sweep(self.state.path(), &catalogue, &running);
    }

    /// Another catalogue is in force.
    pub(super) fn reloaded(&mut self) {
        let catalogue = self.catalogue.borrow().clone();
        self.granting.reloaded(self.state.path(), &catalogue);
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

    /// When something can be made ready for what is to come.
    pub(super) fn may_prepare(&self) -> Option<Instant> {
        self.runs.may_prepare()
    }

    /// Makes it ready.
    pub(super) fn prepare(&mut self) {
        self.runs.prepare_next(&self.state);
    }

    /// Whether no keeper has anything to do.
    pub(super) fn runs_nothing(&self) -> bool {
        self.keepers.borrow().is_empty()
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

/// There is no keeper yet, and so no log: the reason is in the agent's own, and in `status`.
fn failed(numbers: &Shared, assign: &Assign, failure: StartFailure, why: &str) -> KeeperSaid {
    tracing::error!(attempt = %assign.attempt, entry = %assign.entry, "cannot be started: {why}");
    let what = format!("entry `{}` cannot be started: {why}", assign.entry);
    numbers.borrow_mut().trouble(super::store::wall_us(), &what);
    outcome::failed(failure)
}

/// Whether the spawner is of a version that does; one that has not said so yet is waited for.
fn hands_secrets(spawner: &AsyncFd<SpawnerClient>) -> bool {
    let client = spawner.get_ref();
    if !client.hands_secrets() && is_ready(spawner, rustix::event::PollFlags::IN, ROOM) {
        while let Ok(Some(answer)) = client.recv() {
            answered(answer);
        }
    }
    client.hands_secrets()
}

fn tell(attempt: AttemptId, line: &Connected, message: ToKeeper) {
    if let Err(error) = line.say(message) {
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

#[cfg(test)]
#[path = "tasks_tests.rs"]
mod tests;
