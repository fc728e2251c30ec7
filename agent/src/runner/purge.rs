//! Everything that this site keeps of one run goes, because a person wants it to: logs, outputs, working directories, what
//! was refused of it. The running agent does it, since only it knows what it is about to start; without one it is done
//! under its lock.
//!
//! Whatever goes is renamed into the trash first: from then on nobody finds it under its name, whenever this is
//! interrupted. Ledger and journal stay: they say that something ran and how it ended, not what it said.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use outpost_agent_core::Agent;
use outpost_agent_core::record::{AttemptRecord, Snapshot};
use outpost_agent_keeper::adopt::{KeeperState, keeper_state, read_keeper_record};
use outpost_proto::ids::{AttemptId, RunId};
use outpost_proto::message::AttemptState;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use super::Happened;
use super::local::exchange;
use super::retention;
use super::tasks::Tasks;
use crate::refusals::{self, Refusals};
use crate::seal::Rest;
use crate::state_dir::StateDir;

/// The question on the local socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Question {
    /// The run's id.
    purge: String,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Purged {
    /// Why nothing was done; `None` when it was.
    pub(crate) refused: Option<String>,
    /// The attempts whose logs and directories are gone.
    pub(crate) attempts: Vec<String>,
    /// Whether there was a directory of the run.
    pub(crate) run_directory: bool,
    /// Where everything is until it is removed, in the trash.
    pub(crate) thrown: Vec<PathBuf>,
    /// What could not be taken away, and why.
    pub(crate) stays: Vec<String>,
    /// How many refusals were taken out of their list.
    #[serde(default)]
    pub(crate) refusals: usize,
}

impl Purged {
    /// What came of taking its refusals out of their list.
    fn forget(&mut self, forgotten: io::Result<usize>) {
        match forgotten {
            Ok(count) => self.refusals = count,
            Err(error) => self.stays.push(format!("the list of refusals: {error}")),
        }
    }
}

/// A question that waits for the loop.
pub(crate) struct Wanted {
    run: RunId,
    attempts: Vec<AttemptId>,
    reply: oneshot::Sender<Purged>,
}

impl Wanted {
    /// Does it, or says why not.
    pub(super) fn answer(self, core: &Agent, tasks: &Tasks, refusals: &mut Refusals) {
        let held = core.durable().attempts;
        let why = objection(self.run, &held).or_else(|| {
            tasks.is_changing(self.run).then(|| {
                "its files are being encrypted or opened: try again in a moment".to_owned()
            })
        });
        let purged = match why {
            Some(why) => refused(why),
            None => {
                let mut attempts = self.attempts;
                attempts.extend(of_run(self.run, &held).map(|record| record.assign.attempt));
                attempts.sort_unstable();
                attempts.dedup();
                let mut purged = throw(tasks.state(), self.run, &attempts);
                purged.forget(refusals.forget(&self.run.to_string()));
                tasks.thrown();
                purged
            }
        };
        tracing::info!(run = %self.run, attempts = purged.attempts.len(), refused = purged.refused, "purge");
        // Whoever asked and went away needs no answer.
        drop(self.reply.send(purged));
    }
}

fn refused(why: String) -> Purged {
    Purged {
        refused: Some(why),
        ..Purged::default()
    }
}

fn of_run(run: RunId, held: &[AttemptRecord]) -> impl Iterator<Item = &AttemptRecord> {
    held.iter().filter(move |record| record.assign.run == run)
}

/// Why nothing of a run can go now.
fn objection(run: RunId, held: &[AttemptRecord]) -> Option<String> {
    let going = of_run(run, held).filter(|record| match record.state {
        AttemptState::Finished(_) => false,
        AttemptState::Assigned | AttemptState::Starting | AttemptState::Running => true,
    });
    let going = going.count();
    (going > 0).then(|| {
        format!(
            "{going} attempts of it run or wait here: have the run cancelled at the orchestrator, or wait for their ends"
        )
    })
}

/// Renames everything of the run into the trash.
fn throw(state: &StateDir, run: RunId, attempts: &[AttemptId]) -> Purged {
    let mut purged = Purged::default();
    let take = |path: PathBuf, purged: &mut Purged| match retention::try_throw(state, &path) {
        Ok(to) => {
            purged.thrown.push(to);
            true
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            purged.stays.push(format!("{}: {error}", path.display()));
            false
        }
    };
    for attempt in attempts {
        take(state.work(*attempt), &mut purged);
        if take(state.attempt(*attempt), &mut purged) {
            purged.attempts.push(attempt.to_string());
        }
    }
    purged.run_directory = take(state.run(run), &mut purged);
    let rest = Rest::of(state, run);
    take(rest.beside(), &mut purged);
    take(rest.list, &mut purged);
    purged
}

/// The attempts of a run that have a directory here, as their keepers recorded it.
///
/// # Errors
/// When the attempts cannot be listed.
pub(crate) fn attempts_of(state: &StateDir, run: RunId) -> io::Result<Vec<AttemptId>> {
    let run = run.to_string();
    let mut attempts = Vec::new();
    for entry in std::fs::read_dir(state.attempts())? {
        let entry = entry?;
        let Some(attempt) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let record = read_keeper_record(&entry.path()).ok().flatten();
        if record
            .and_then(|record| record.about)
            .is_some_and(|about| about.run == run)
        {
            attempts.push(attempt);
        }
    }
    Ok(attempts)
}

/// Answers a question of the local socket.
pub(super) async fn serve(
    question: &Question,
    state: StateDir,
    inbox: &mpsc::Sender<Happened>,
) -> Option<Purged> {
    let run: RunId = question.purge.parse().ok()?;
    let attempts = match spawn_blocking(move || attempts_of(&state, run))
        .await
        .ok()?
    {
        Ok(attempts) => attempts,
        Err(error) => return Some(refused(format!("its attempts cannot be listed: {error}"))),
    };
    let (reply, replied) = oneshot::channel();
    let wanted = Wanted {
        run,
        attempts,
        reply,
    };
    inbox.send(Happened::Purge(wanted)).await.ok()?;
    replied.await.ok()
}

/// Purges a run: through the running agent, or in its place when there is none. Everything is under its name no more when
/// this returns; what the running agent removes of it may take a moment longer.
///
/// # Errors
/// When neither is possible.
pub(crate) fn ask(state: &StateDir, run: RunId) -> anyhow::Result<Purged> {
    match state.lock() {
        Ok(lock) => {
            state.migrate(&lock)?;
            at_rest(state, run)
        }
        Err(crate::state_dir::StateError::Locked { .. }) => through_the_agent(state.path(), run),
        Err(error) => Err(error.into()),
    }
}

fn through_the_agent(state: &Path, run: RunId) -> anyhow::Result<Purged> {
    let question = Question {
        purge: run.to_string(),
    };
    let answer = exchange(state, &question)?;
    if answer.is_empty() {
        bail!("the running agent does not know `purge`: it is of an older version, restart it");
    }
    serde_json::from_str(&answer).context("the agent's answer cannot be read")
}

/// Nobody else starts anything now, but keepers and tasks may have outlived their runner.
fn at_rest(state: &StateDir, run: RunId) -> anyhow::Result<Purged> {
    let Snapshot { attempts: held, .. } = crate::journal::peek(state.path())?;
    let mut attempts = attempts_of(state, run)?;
    attempts.extend(of_run(run, &held).map(|record| record.assign.attempt));
    attempts.sort_unstable();
    attempts.dedup();
    let lives = |attempt: &AttemptId| {
        let looked = keeper_state(&state.attempt(*attempt));
        !matches!(
            looked,
            Ok(KeeperState::Never | KeeperState::Dead(_) | KeeperState::EarlierBoot(_))
        )
    };
    if let Some(why) = objection(run, &held) {
        return Ok(refused(format!(
            "{why}; the agent that knows them is not running"
        )));
    }
    // A keeper that waits for another attempt still names its last one, and needs nothing of it.
    let over = |attempt: &AttemptId| {
        let end = outpost_agent_keeper::adopt::read_exit_record(&state.attempt(*attempt));
        matches!(end, Ok(Some(_)))
    };
    if let Some(attempt) = attempts
        .iter()
        .find(|attempt| lives(attempt) && !over(attempt))
    {
        return Ok(refused(format!(
            "the keeper of attempt {attempt} lives, or cannot be seen: start the agent, and wait for the attempt's end"
        )));
    }
    let mut purged = throw(state, run, &attempts);
    purged.forget(refusals::forget(state.path(), &run.to_string()));
    for path in std::mem::take(&mut purged.thrown) {
        match retention::remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                purged.stays.push(format!("{}: {error}", path.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(purged)
}

#[cfg(test)]
#[path = "purge_tests.rs"]
mod tests;
