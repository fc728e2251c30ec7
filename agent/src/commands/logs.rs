//! `logs`: an attempt's output, as it lies in its directory; it never leaves the site.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use outpost_agent_keeper::protocol::{About, Cause, Ended, ExitRecord, is_attempt_id};
use outpost_agent_keeper::record::{read_exit_record, read_keeper_record};

use super::words::at;
use crate::cli::Form;
use crate::log_tail::LogTail;
use crate::output;
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
    form: Form,
) -> anyhow::Result<ExitCode> {
    let state = StateDir::open(state)?;
    let Some(given) = attempt else {
        list(known(&state, "")?, form);
        return Ok(ExitCode::SUCCESS);
    };
    match find(&state, given)? {
        Found::Attempt(dir) => show(&dir, follow)?,
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
                    "no attempt and no run here begins with `{prefix}`; `outpost-agent logs` lists the newest attempts"
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

fn show(dir: &Path, follow: bool) -> anyhow::Result<()> {
    let mut log = LogTail::new(dir);
    let mut is_empty = true;
    loop {
        // Looked at before the log: what is written before the end is then surely shown.
        let end = read_exit_record(dir).ok().flatten();
        let mut print = |bytes: &[u8]| {
            is_empty &= bytes.is_empty();
            output::bytes(bytes)
        };
        // A reader that went away wants nothing more.
        let is_read = log.more(&mut print)?;
        if !is_read || !follow || end.is_some() {
            if let Some(end) = end.filter(|_| is_read && is_empty) {
                output::note(silent(&end));
            }
            return Ok(());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Why there is nothing to show of an attempt that is over.
fn silent(end: &ExitRecord) -> String {
    match end.ended {
        Ended::NotStarted(_) if end.text.is_empty() => "it was not started".to_owned(),
        Ended::NotStarted(_) => format!("it was not started: {}", end.text),
        Ended::Exited(_) | Ended::Signalled(_) => "it printed nothing".to_owned(),
    }
}
