//! `logs`: an attempt's output, as it lies in its directory; it never leaves the site.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use outpost_agent_keeper::protocol::{About, is_attempt_id};
use outpost_agent_keeper::record::{read_exit_record, read_keeper_record};

use crate::cli::Form;
use crate::log_tail::LogTail;
use crate::output;
use crate::state_dir::StateDir;

/// Attempts listed at most.
const LISTED: usize = 50;
/// Between two looks at a log that is followed: files of a mode that no notification needs.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

pub(crate) fn logs(
    state: &Path,
    attempt: Option<&str>,
    follow: bool,
    form: Form,
) -> anyhow::Result<ExitCode> {
    let state = StateDir::open(state)?;
    let Some(attempt) = attempt else {
        return list(&state, form);
    };
    let dir = find(&state, attempt)?;
    show(&dir, follow)?;
    Ok(ExitCode::SUCCESS)
}

/// The newest attempts, newest last.
fn list(state: &StateDir, form: Form) -> anyhow::Result<ExitCode> {
    let mut attempts = Vec::new();
    for (id, dir) in all(state)? {
        let about = about(&dir);
        attempts.extend(about.map(|about| (about.begun_us, id, about)));
    }
    attempts.sort_by_key(|(begun, ..)| *begun);
    let newest = &attempts[attempts.len().saturating_sub(LISTED)..];
    match form {
        Form::Json => {
            let rows = newest
                .iter()
                .map(|(_, id, about)| serde_json::json!({ "attempt": id, "about": about }));
            output::json(&rows.collect::<Vec<_>>());
        }
        Form::Table if newest.is_empty() => output::note("no attempt has run here yet"),
        Form::Table => newest.iter().for_each(|(_, id, about)| {
            output::line(format_args!(
                "{id}  {}/{}  ({})",
                about.workflow, about.task, about.entry
            ));
        }),
    }
    Ok(ExitCode::SUCCESS)
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

fn find(state: &StateDir, prefix: &str) -> anyhow::Result<PathBuf> {
    if prefix.is_empty()
        || !prefix
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    {
        bail!(
            "`{prefix}` is no attempt id: give its first hex digits; `outpost-agent logs` lists the newest attempts"
        );
    }
    let matching = all(state)?
        .into_iter()
        .filter(|(id, _)| id.starts_with(prefix))
        .collect::<Vec<_>>();
    match matching.as_slice() {
        [(_, dir)] => Ok(dir.clone()),
        [] => bail!(
            "no attempt here begins with `{prefix}`; `outpost-agent logs` lists the newest attempts"
        ),
        several => bail!(
            "{} attempts begin with `{prefix}`: give more digits",
            several.len()
        ),
    }
}

fn show(dir: &Path, follow: bool) -> anyhow::Result<()> {
    let mut log = LogTail::new(dir);
    loop {
        // Looked at before the log: what is written before the end is then surely shown.
        let over = matches!(read_exit_record(dir), Ok(Some(_)));
        // A reader that went away wants nothing more.
        if !log.more(&mut |bytes| output::bytes(bytes))? || !follow || over {
            return Ok(());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
