//! `catalogue try`: one attempt of an entry, run exactly as an instruction would be, without an orchestrator and beside
//! whatever agent runs here. The same judgement, plan, directories, environment, account, keeper, limits and log; what
//! is missing is the journal and the ledger, because nothing is said to anybody.

mod scratch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use outpost_agent_core::event::{Catalog as _, KeeperSaid, NotStarted};
use outpost_agent_keeper::adopt::{KeeperClient, SpawnerClient};
use outpost_agent_keeper::exec::SelfExec;
use outpost_agent_keeper::process::boot_time_us;
use outpost_agent_keeper::protocol::{
    Containment, Ended, ExitRecord, FromKeeper, FromSpawner, StartSpec, ToKeeper,
};
use outpost_proto::ids::{AttemptId, CommandSeq, Fence, RunId, TaskIndex};
use outpost_proto::message::{Assign, DownMessage, ParamValue};
use outpost_proto::name::{EntryName, ParamName, TaskName};
use outpost_proto::outcome::{Outcome, Refusal, StartFailure};
use outpost_proto::wire;
use serde::Serialize;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::keepers::next;
use super::walls::{self, Walls};
use super::watch::watch;
use super::{outcome, secrets, workspace};
use crate::catalogue::{Catalogue, Entry};
use crate::log_tail::LogTail;
use scratch::Scratch;

/// The lease of a trial: the keeper looks at it once, right before exec.
const LEASE: Duration = Duration::from_secs(60);
/// Between two looks at the log, and two pushes of the dead-man timer.
const TICK: Duration = Duration::from_millis(50);

/// What is to be tried.
#[derive(Debug)]
pub(crate) struct Trial<'a> {
    /// The agent's own state directory, whether or not there is one.
    pub(crate) state: &'a Path,
    pub(crate) catalogue: &'a Catalogue,
    pub(crate) entry: EntryName,
    pub(crate) params: BTreeMap<ParamName, ParamValue>,
    /// What an instruction would give as its deadline.
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) exec: SelfExec,
    /// The task's name: what `$OUTPOST_TASK` says and its outputs are named after.
    pub(crate) task: TaskName,
    /// What becomes of the directories, and whether there are some of an earlier task of the same run.
    pub(crate) place: Place,
}

/// Where the attempt's directories are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Made for it and taken away afterwards.
    Own,
    /// Made for it and left for a person to look at.
    Kept,
    /// Left by an earlier attempt: this one is of the same run and finds its outputs.
    After(PathBuf),
}

/// How it went.
#[derive(Debug, Serialize)]
pub(crate) struct Tried {
    pub(crate) entry: EntryName,
    /// As an orchestrator would see it.
    pub(crate) outcome: String,
    #[serde(skip)]
    pub(crate) is: Outcome,
    /// Why it was refused or could not be started; stays at the site.
    pub(crate) why: Option<String>,
    /// The first process's exit code.
    pub(crate) exit_code: Option<u8>,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    pub(crate) duration_ms: u64,
    /// What it wrote into `$OUTPOST_OUT`.
    pub(crate) outputs: BTreeMap<String, String>,
    pub(crate) log_bytes: u64,
    /// Bytes of output beyond `log_max`, which are not kept.
    pub(crate) log_dropped_bytes: u64,
    /// How its processes were held together.
    pub(crate) containment: Option<Containment>,
    /// Everything that would leave the site about it, besides the outcome and the duration.
    pub(crate) reported: Reported,
    /// Its directories, if they were to be kept.
    pub(crate) kept: Option<PathBuf>,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Reported {
    pub(crate) exit_code: Option<u8>,
    pub(crate) count: Option<u16>,
}

/// Runs it. `show` gets the output as it comes and answers whether anybody still reads it.
///
/// # Errors
/// When this host cannot do what every attempt needs; a refusal or a failed task is no error.
pub(crate) async fn run(
    trial: Trial<'_>,
    show: &mut dyn FnMut(&[u8]) -> bool,
) -> anyhow::Result<Tried> {
    let catalogue = trial.catalogue;
    let scratch = Scratch::make(trial.state, &trial.place)?;
    let run = scratch.run().map_or_else(|| random().map(RunId), Ok)?;
    let assign = match through_the_door(trial.assign(run)?) {
        Ok(assign) => assign,
        Err(why) => return Ok(refused(&trial.entry, Refusal::BadParameters, why)),
    };
    // As the core asks and as the runner plans: in this order.
    if let Err((refusal, why)) = catalogue.judge(&assign) {
        return Ok(refused(&trial.entry, refusal, why));
    }
    let plan = catalogue
        .plan(&assign)
        .map_err(|(_, why)| anyhow::anyhow!(why))?;
    let entry = catalogue
        .entry(&assign.entry)
        .context("the entry is gone")?;
    if let Err(why) = catalogue.verify(entry, &plan) {
        return Ok(never_started(&trial.entry, StartFailure::Permission, why));
    }
    let lease_until = boot_time_us() + u64::try_from(LEASE.as_micros()).unwrap_or(u64::MAX);
    let begun = super::wall_us();
    let mut spec = workspace::prepare(&scratch.state, &assign, entry, plan, lease_until, begun)
        .context("its directories cannot be made")?;
    let mut walls = Walls::new(&scratch.state);
    walls.close(trial.state);
    walls.put(&mut spec, &scratch.state, run, catalogue);
    let files = match secrets_of(catalogue, entry, &scratch, &mut spec, assign.attempt).await {
        Ok(files) => files,
        Err(why) => return Ok(never_started(&trial.entry, StartFailure::Secret, why)),
    };
    let place = files
        .clone()
        .or_else(|| crate::secrets::Place::existing(trial.state, catalogue.secrets().files_in()));
    secrets::enclose(&mut spec, catalogue, place.as_ref());
    if let Err(why) = walls::open_declared(&mut spec, entry) {
        return Ok(never_started(&trial.entry, StartFailure::Permission, why));
    }
    let attempt_dir = spec.dir.clone();
    let spawner =
        SpawnerClient::connect_or_start(scratch.state.path(), &trial.exec, Some(&scratch.leash))?;
    let keeper = spawner.start(Box::new(spec))?;
    keeper.set_nonblocking(true)?;
    let mut following = Following {
        keeper: watch(keeper)?,
        log: LogTail::new(&attempt_dir),
        cancelled: false,
    };
    let last = following.follow(show).await;
    if let Some(files) = files {
        files.close();
    }
    let last = last?;
    let run = scratch.state.run(assign.run);
    let mut tried = tried(last, &assign, entry, &run, &spawner);
    let is_kept = trial.place != Place::Own;
    tried.kept = is_kept.then(|| scratch.state.path().to_owned());
    Ok(tried)
}

/// Fetches the entry's secrets, as at the start of any attempt; where its files are, if it has some.
async fn secrets_of(
    catalogue: &Catalogue,
    entry: &Entry,
    scratch: &Scratch,
    spec: &mut StartSpec,
    attempt: AttemptId,
) -> Result<Option<crate::secrets::Place>, String> {
    if entry.secrets.is_empty() {
        return Ok(None);
    }
    let place = secrets::place_for(entry, catalogue, scratch.state.path())?;
    let resolver = crate::secrets::Resolver::default();
    let granted = secrets::fetch(&resolver, catalogue, entry, place.as_ref(), attempt).await?;
    spec.secrets = Some(granted);
    Ok(place)
}

impl Trial<'_> {
    fn assign(&self, run: RunId) -> anyhow::Result<Assign> {
        Ok(Assign {
            attempt: AttemptId(random()?),
            run,
            task: TaskIndex(0),
            fence: Fence(1),
            command_seq: CommandSeq(1),
            entry: self.entry.clone(),
            catalogue_version: self.catalogue.version(),
            parameters: self.params.clone().into_iter().collect(),
            deadline_ms: self.deadline_ms,
            task_name: self.task.clone(),
            workflow_name: "try".parse()?,
        })
    }
}

/// What the wire refuses is refused here: an instruction has no other way in.
fn through_the_door(assign: Assign) -> Result<Assign, String> {
    let bytes =
        wire::encode_down(&[DownMessage::Assign(assign)]).map_err(|error| error.to_string())?;
    let messages = wire::decode_down(&bytes).map_err(|error| error.to_string())?;
    match messages.into_iter().next() {
        Some(DownMessage::Assign(assign)) => Ok(assign),
        Some(DownMessage::Welcome(_) | DownMessage::Directive { .. } | DownMessage::Granted(_))
        | None => Err("it cannot be said as an instruction".to_owned()),
    }
}

/// The keeper's last word.
enum Last {
    Finished(ExitRecord),
    NotStarted(outpost_agent_keeper::protocol::NotStarted, String),
    Gone,
}

struct Following {
    keeper: AsyncFd<KeeperClient>,
    log: LogTail,
    cancelled: bool,
}

impl Following {
    /// Shows the output until the whole tree is gone. The first request to end is the task's, the second this
    /// process's.
    async fn follow(&mut self, show: &mut dyn FnMut(&[u8]) -> bool) -> anyhow::Result<Last> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut tick = tokio::time::interval(TICK);
        let last = loop {
            tokio::select! {
                biased;
                // A person who wants it to end waits for nothing else.
                () = asked(&mut interrupt, &mut terminate) => self.cancel()?,
                // Then the keeper: its last word ends this.
                said = next(&self.keeper, KeeperClient::recv) => match said? {
                    Some(
                        FromKeeper::Starting
                        | FromKeeper::GivenBack { .. }
                        | FromKeeper::Running { .. },
                    ) => {}
                    Some(FromKeeper::Finished(record)) => break Last::Finished(record),
                    Some(FromKeeper::NotStarted { why, text }) => break Last::NotStarted(why, text),
                    None => break Last::Gone,
                },
                // Last the output: it waits on disk.
                _ = tick.tick() => {
                    self.tell(ToKeeper::StillConnected);
                    if !self.log.more(show)? && !self.cancelled {
                        self.cancel()?;
                    }
                }
            }
        };
        self.log.more(show)?;
        self.tell(ToKeeper::Taken);
        Ok(last)
    }

    fn cancel(&mut self) -> anyhow::Result<()> {
        if self.cancelled {
            bail!("ended by force; the task and everything below it are gone");
        }
        self.cancelled = true;
        self.tell(ToKeeper::Cancel);
        Ok(())
    }

    fn tell(&self, message: ToKeeper) {
        // One that is gone has said its last word, or its connection's end says it.
        if let Err(error) = self.keeper.get_ref().send(message) {
            tracing::trace!("the keeper does not listen: {error}");
        }
    }
}

async fn asked(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

fn tried(last: Last, assign: &Assign, entry: &Entry, run: &Path, spawner: &SpawnerClient) -> Tried {
    let mut tried = empty(&assign.entry);
    match last {
        Last::Finished(record) => {
            tried.said(&outcome::said(&record, assign, Some(entry), run));
            tried.duration_ms = record.duration_ms;
            tried.log_bytes = record.log_bytes;
            tried.log_dropped_bytes = record.log_dropped_bytes;
            tried.containment = record.containment;
            match record.ended {
                Ended::Exited(code) => tried.exit_code = Some(code),
                Ended::Signalled(signal) => tried.signal = Some(signal),
                Ended::NotStarted(_) => tried.why = Some(record.text),
            }
            tried.outputs = outcome::outputs(&workspace::outputs(run, assign));
        }
        Last::NotStarted(why, text) => {
            let said = outcome::not_started(why).unwrap_or(KeeperSaid::Gone { claimed: true });
            tried.said(&said);
            tried.why = Some(text);
        }
        Last::Gone => {
            tried.said(&KeeperSaid::Gone { claimed: true });
            tried.why = Some(no_keeper(spawner));
        }
    }
    tried
}

/// Why there never was a keeper, or that there is none any more.
fn no_keeper(spawner: &SpawnerClient) -> String {
    let answers = || {
        spawner
            .set_nonblocking(true)
            .and_then(|()| spawner.recv().map_err(std::io::Error::other))
    };
    while let Ok(Some(answer)) = answers() {
        if let FromSpawner::StartFailed { text, .. } = answer {
            return text;
        }
    }
    "its keeper ended without a word; the task's tree was ended".to_owned()
}

impl Tried {
    fn said(&mut self, said: &KeeperSaid) {
        let outcome = match said {
            KeeperSaid::Finished(report) => {
                self.reported.exit_code = report.exit_code;
                self.reported.count = report.count;
                report.outcome
            }
            KeeperSaid::NotStarted(NotStarted::Failed(failure)) => Outcome::StartFailed(*failure),
            KeeperSaid::NotStarted(NotStarted::LeaseOver) => Outcome::Refused(Refusal::NoLease),
            KeeperSaid::NotStarted(NotStarted::Cancelled) => Outcome::Cancelled,
            KeeperSaid::NotStarted(NotStarted::Refused(refusal)) => Outcome::Refused(*refusal),
            KeeperSaid::Gone { .. } | KeeperSaid::Running | KeeperSaid::GivenBack => {
                Outcome::Killed(outpost_proto::outcome::KillReason::Keeper)
            }
        };
        self.is = outcome;
        self.outcome = outcome.to_string();
    }
}

fn refused(entry: &EntryName, refusal: Refusal, why: String) -> Tried {
    let mut tried = empty(entry);
    tried.is = Outcome::Refused(refusal);
    tried.outcome = tried.is.to_string();
    tried.why = Some(why);
    tried
}

fn never_started(entry: &EntryName, failure: StartFailure, why: String) -> Tried {
    let mut tried = empty(entry);
    tried.is = Outcome::StartFailed(failure);
    tried.outcome = tried.is.to_string();
    tried.why = Some(why);
    tried
}

fn empty(entry: &EntryName) -> Tried {
    Tried {
        entry: entry.clone(),
        outcome: String::new(),
        is: Outcome::Cancelled,
        why: None,
        exit_code: None,
        signal: None,
        duration_ms: 0,
        outputs: BTreeMap::new(),
        log_bytes: 0,
        log_dropped_bytes: 0,
        containment: None,
        reported: Reported::default(),
        kept: None,
    }
}

fn random() -> anyhow::Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(u128::from_be_bytes(bytes))
}
