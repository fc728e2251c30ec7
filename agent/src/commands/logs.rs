//! `logs`: an attempt's output, as it lies in its directory; it never leaves the site.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use outpost_agent_keeper::adopt::{KeeperState, keeper_state};
use outpost_agent_keeper::protocol::{About, Cause, Ended, ExitRecord, is_attempt_id};
use outpost_agent_keeper::record::{CLAIM, read_exit_record, read_keeper_record};
use outpost_proto::ids::AttemptId;
use outpost_proto::outcome::{KillReason, Outcome};

use super::words::at;
use crate::cli::Form;
use crate::log_tail::LogTail;
use crate::output;
use crate::seal::book::{self, End, Word};
use crate::seal::{KeyArgs, SiteKeys};
use crate::state_dir::StateDir;

/// Attempts listed at most.
const LISTED: usize = 50;
/// Digits of a run's id in a list: enough to ask for it.
const RUN_DIGITS: usize = 12;
/// Between two looks at a log that is followed: files of a mode that no notification needs.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

pub(crate) fn logs(
    state: &Path,
    attempt: Option<&str>,
    follow: bool,
    keys: &KeyArgs,
    form: Form,
) -> anyhow::Result<ExitCode> {
    let state = StateDir::open(state)?;
    let Some(given) = attempt else {
        list(known(&state, "")?, form);
        return Ok(ExitCode::SUCCESS);
    };
    match find(&state, given)? {
        Found::Attempt(dir) => show(&state, &dir, follow, keys.load()?.map(Arc::new))?,
        Found::Run(_) if follow => {
            bail!(
                "`{given}` begins the id of a run: name one of its attempts, which `outpost-agent logs {given}` lists"
            )
        }
        Found::Run(attempts) => list(attempts, form),
    }
    Ok(ExitCode::SUCCESS)
}

/// An attempt of which more is known than its id.
struct Known {
    id: String,
    dir: PathBuf,
    about: About,
}

/// The attempts of runs that begin like this, the newest last.
fn known(state: &StateDir, run: &str) -> anyhow::Result<Vec<Known>> {
    let mut attempts = Vec::new();
    for (id, dir) in all(state)? {
        let about = about(&dir).filter(|about| about.run.starts_with(run));
        attempts.extend(about.map(|about| Known { id, dir, about }));
    }
    attempts.sort_by_key(|attempt| attempt.about.begun_us);
    Ok(attempts)
}

/// The runs that attempts here belong to.
pub(super) fn runs_of_attempts(state: &StateDir) -> anyhow::Result<BTreeSet<String>> {
    let runs = known(state, "")?.into_iter();
    Ok(runs.map(|attempt| attempt.about.run).collect())
}

/// The newest of them, with when each began and how it ended.
fn list(attempts: Vec<Known>, form: Form) {
    let newest = &attempts[attempts.len().saturating_sub(LISTED)..];
    match form {
        Form::Json => {
            let rows = newest.iter().map(|Known { id, dir, about }| {
                serde_json::json!({ "attempt": id, "about": about, "end": end(dir) })
            });
            output::json(&rows.collect::<Vec<_>>());
        }
        Form::Table if newest.is_empty() => output::note("no attempt has run here yet"),
        Form::Table => newest.iter().for_each(|Known { id, dir, about }| {
            let run: String = about.run.chars().take(RUN_DIGITS).collect();
            output::line(format_args!(
                "{id}  {}  {:11}  {}/{}  run {run}",
                at(about.begun_us),
                end(dir),
                about.workflow,
                about.task,
            ));
        }),
    }
}

/// How an attempt ended, as its keeper saw it.
fn end(dir: &Path) -> String {
    let record = match read_exit_record(dir) {
        Ok(Some(record)) => record,
        Ok(None) => return "not over".to_owned(),
        Err(_) => return "unknown".to_owned(),
    };
    match (record.cause, record.ended) {
        (Cause::TimedOut, _) => "timed out".to_owned(),
        (Cause::Cancelled, _) => "cancelled".to_owned(),
        (Cause::DeadMan, _) => "cut off".to_owned(),
        (Cause::Oom, _) => "no memory".to_owned(),
        (Cause::Leash, _) => "stopped".to_owned(),
        (Cause::Own, Ended::Exited(code)) => format!("exit {code}"),
        (Cause::Own, Ended::Signalled(signal)) => format!("signal {signal}"),
        (Cause::Own, Ended::NotStarted(_)) => "not started".to_owned(),
    }
}

/// What an attempt is: its keeper has it in its record. An older build's runner wrote it beside that.
fn about(dir: &Path) -> Option<About> {
    let recorded = read_keeper_record(dir).ok().flatten();
    recorded.and_then(|record| record.about).or_else(|| {
        let bytes = std::fs::read(dir.join("about.json")).ok()?;
        serde_json::from_slice(&bytes).ok()
    })
}

fn all(state: &StateDir) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let attempts = state.attempts();
    for entry in
        std::fs::read_dir(&attempts).with_context(|| format!("reading {}", attempts.display()))?
    {
        let entry = entry?;
        if let Some(id) = entry.file_name().to_str().filter(|id| is_attempt_id(id)) {
            found.push((id.to_owned(), entry.path()));
        }
    }
    Ok(found)
}

/// What the beginning of an id belongs to.
enum Found {
    Attempt(PathBuf),
    Run(Vec<Known>),
}

fn find(state: &StateDir, prefix: &str) -> anyhow::Result<Found> {
    if prefix.is_empty()
        || !prefix
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    {
        bail!(
            "`{prefix}` is no id of an attempt or of a run: give its first hex digits; `outpost-agent logs` lists the newest"
        );
    }
    let matching = all(state)?
        .into_iter()
        .filter(|(id, _)| id.starts_with(prefix))
        .collect::<Vec<_>>();
    match matching.as_slice() {
        [(_, dir)] => Ok(Found::Attempt(dir.clone())),
        [] => {
            let run = known(state, prefix)?;
            if run.is_empty() {
                bail!(
                    "no attempt and no run here begins with `{prefix}`; `outpost-agent logs` lists the newest attempts, \
                     `outpost-agent refusals` says what was refused and why, and why one could not begin is in the agent's own log"
                );
            }
            Ok(Found::Run(run))
        }
        several => bail!(
            "{} attempts begin with `{prefix}`: give more digits",
            several.len()
        ),
    }
}

fn show(
    state: &StateDir,
    dir: &Path,
    follow: bool,
    keys: Option<Arc<SiteKeys>>,
) -> anyhow::Result<()> {
    let mut log = LogTail::with_keys(dir, keys);
    let mut is_empty = true;
    loop {
        // Looked at before the log: what is written before the end is then surely shown.
        let end = read_exit_record(dir).ok().flatten();
        let lives = matches!(keeper_state(dir), Ok(KeeperState::Alive(_)));
        if end.is_some() {
            log.is_over();
        }
        let mut print = |bytes: &[u8]| {
            is_empty &= bytes.is_empty();
            output::bytes(bytes)
        };
        // A reader that went away wants nothing more.
        let is_read = log.more(&mut print)?;
        if !is_read || !follow || end.is_some() {
            if is_read {
                for verdict in log.verdict(end.as_ref(), lives)? {
                    output::note(verdict);
                }
                if end.is_none() && !lives && log.is_sealed() {
                    check_end(state, dir)?;
                }
                if !lives || end.is_some() {
                    check_book(state, dir, &log)?;
                }
            }
            if let Some(end) = end.filter(|_| is_read && is_empty) {
                output::note(silent(&end));
            }
            return Ok(());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// What the agent noted when the attempt began and when it was over, against what lies there now.
fn check_book(state: &StateDir, dir: &Path, log: &LogTail) -> anyhow::Result<()> {
    let (Some(keys), Some(attempt)) = (log.keys(), attempt_of(dir)) else {
        return Ok(());
    };
    let is_recorded = || matches!(read_exit_record(dir), Ok(Some(_)));
    match book::word(state, keys, attempt)? {
        Word::Over(noted) => {
            let found = book::end_of(dir)?;
            if !noted.becomes(&found) || noted.file.is_some() && !log.is_sealed() {
                bail!(
                    "{}: the agent noted {}, and now there is {}: it was changed after the attempt was over, or the disk lost a part of it",
                    dir.display(),
                    noted_as(&noted, true),
                    noted_as(&found, log.is_sealed() || found.file.is_none()),
                );
            }
        }
        Word::Begun if !log.is_sealed() && !book::end_of(dir)?.is_empty() => bail!(
            "{}: the agent noted that this log is encrypted, and now there is one that is not: it was exchanged",
            dir.display()
        ),
        Word::None if log.is_sealed() && !is_recorded() => output::note(
            "the agent's own notes (`book`) have no word of this attempt: whether its log was cut together with its record cannot be said",
        ),
        Word::Begun | Word::None => {}
    }
    Ok(())
}

fn noted_as(end: &End, is_sealed: bool) -> String {
    let form = if is_sealed {
        "encrypted"
    } else {
        "not encrypted"
    };
    let record = if end.recorded {
        "its attempt's end on record"
    } else {
        "no end of its attempt on record"
    };
    match end.file {
        Some(file) => format!(
            "a log, {form}, that ends at byte {} of log.{file}, with {record}",
            end.bytes
        ),
        None => format!("no log, with {record}"),
    }
}

fn attempt_of(dir: &Path) -> Option<AttemptId> {
    dir.file_name()?.to_str()?.parse().ok()
}

/// A keeper that ended by itself put the end on record before it told anybody: an end that was told and is not on
/// record was taken away, and with it what tells whether the log is whole.
fn check_end(state: &StateDir, dir: &Path) -> anyhow::Result<()> {
    let Some(attempt) = attempt_of(dir) else {
        return Ok(());
    };
    // Whoever runs may be writing to it; what cannot be read says nothing.
    let Ok(snapshot) = crate::journal::peek(state.path()) else {
        return Ok(());
    };
    let held = snapshot.attempts.into_iter().find_map(|record| {
        let is_it = record.assign.attempt == attempt;
        record.memory(0).filter(|_| is_it)
    });
    let known = snapshot
        .memories
        .into_iter()
        .find(|memory| memory.attempt == attempt);
    let outcome = held.or(known).map(|memory| memory.report.outcome);
    let was_recorded = outcome.is_some_and(|outcome| match outcome {
        Outcome::Succeeded | Outcome::Failed | Outcome::TimedOut => true,
        Outcome::Killed(why) => matches!(why, KillReason::Oom | KillReason::Lease),
        Outcome::Cancelled
        | Outcome::StartFailed(_)
        | Outcome::Interrupted(_)
        | Outcome::Refused(_) => false,
    });
    // It may have come to be recorded meanwhile.
    if was_recorded && read_exit_record(dir).ok().flatten().is_none() {
        bail!(
            "{}: the end of the attempt is not on record, although the journal has it: it was changed after it was written, or the disk lost a part of it; how much of the log is missing cannot be said",
            dir.join(CLAIM).display()
        );
    }
    Ok(())
}

/// Why there is nothing to show of an attempt that is over.
fn silent(end: &ExitRecord) -> String {
    match end.ended {
        Ended::NotStarted(_) if end.text.is_empty() => "it was not started".to_owned(),
        Ended::NotStarted(_) => format!("it was not started: {}", end.text),
        Ended::Exited(_) | Ended::Signalled(_) => "it printed nothing".to_owned(),
    }
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
