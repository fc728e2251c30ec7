//! `purge`: everything that this site keeps of one run goes, and what stays is said.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use outpost_agent_keeper::protocol::is_attempt_id;
use outpost_agent_keeper::record::read_keeper_record;
use outpost_proto::ids::RunId;
use serde_json::json;

use super::logs::runs_of_attempts;
use crate::cli::Form;
use crate::output;
use crate::runner::{Purged, ask_to_purge, attempts_of};
use crate::state_dir::StateDir;

/// How long the agent's removing is waited for.
const REMOVING: Duration = Duration::from_secs(30);
/// Between two looks at it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Hex digits of an id.
const DIGITS: usize = 32;

/// What is kept of a purged run, and why.
const STAYS: [&str; 3] = [
    "the ledger's frames: they are what left the site, and the proof of it; of this run they hold ids, states and numbers",
    "for 30 days after each end, in the journal: its ids and how it ended, so that nothing of it runs twice",
    "what the agent's own log says of it: names and reasons, no output",
];

pub(crate) fn purge(state: &Path, run: &str, yes: bool, form: Form) -> anyhow::Result<ExitCode> {
    let state = StateDir::open(state)?;
    let run = find(&state, run)?;
    let known = attempts_of(&state, run)?.len();
    if !yes && !agreed(run, known)? {
        output::note("nothing was changed");
        return Ok(ExitCode::FAILURE);
    }
    let purged = ask_to_purge(&state, run)?;
    if let Some(why) = &purged.refused {
        bail!("nothing of run {run} was taken away: {why}");
    }
    let left = wait_for(&purged.thrown);
    match form {
        Form::Json => output::json(&json!({
            "run": run.to_string(),
            "attempts": purged.attempts,
            "run_directory": purged.run_directory,
            "refusals": purged.refusals,
            "being_removed": left,
            "failed": purged.stays,
            "stays": STAYS,
        })),
        Form::Table => show(run, &purged, left.len()),
    }
    Ok(if purged.stays.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn show(run: RunId, purged: &Purged, left: usize) {
    let outputs = if purged.run_directory {
        "its outputs and other files"
    } else {
        "no directory of the run, because there was none"
    };
    output::line(format_args!(
        "run {run}: gone are the logs and working directories of {} attempts, and {outputs}",
        purged.attempts.len()
    ));
    if purged.refusals > 0 {
        output::line(format_args!(
            "{} refusals of it are taken out of their list",
            purged.refusals
        ));
    }
    if left > 0 {
        output::line(format_args!(
            "{left} directories are in the trash and still being removed; a restarted agent goes on with it"
        ));
    }
    for failed in &purged.stays {
        output::problem(format_args!("not taken away: {failed}"));
    }
    output::line("what stays:");
    STAYS
        .iter()
        .for_each(|stays| output::line(format_args!("  {stays}")));
}

fn agreed(run: RunId, attempts: usize) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("to take everything of run {run} away without being asked, give --yes");
    }
    let question = format!(
        "Take away the logs, outputs and working directories of run {run} ({attempts} attempts) for good? [y/N] "
    );
    let mut terminal = anstream::stderr();
    write!(terminal, "{question}")?;
    terminal.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What of it is not removed yet when the patience ends.
fn wait_for(thrown: &[PathBuf]) -> Vec<PathBuf> {
    let began = Instant::now();
    loop {
        let left = thrown.iter().filter(|path| path.symlink_metadata().is_ok());
        let left = left.cloned().collect::<Vec<_>>();
        if left.is_empty() || began.elapsed() >= REMOVING {
            return left;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The run whose id begins like this: one with a directory, with attempts that have one, or of which some were refused.
fn find(state: &StateDir, given: &str) -> anyhow::Result<RunId> {
    let is_hex = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    if given.is_empty() || given.len() > DIGITS || !given.bytes().all(is_hex) {
        bail!(
            "`{given}` is no run's id: give its first hex digits, as `outpost-agent logs` shows them"
        );
    }
    let mut runs = runs_of_attempts(state)?;
    for entry in std::fs::read_dir(state.runs())? {
        let name = entry?.file_name();
        runs.extend(
            name.to_str()
                .filter(|name| is_attempt_id(name))
                .map(str::to_owned),
        );
    }
    // One of which nothing was ever started here.
    let refused = crate::refusals::read(state.path())?;
    runs.extend(refused.into_iter().map(|refused| refused.run));
    runs.retain(|run| run.starts_with(given));
    match runs.iter().next() {
        Some(run) if runs.len() == 1 => Ok(run.parse()?),
        Some(_) => bail!("{} runs begin with `{given}`: give more digits", runs.len()),
        None => match run_of_attempt(state, given) {
            Some(run) => bail!("`{given}` begins the id of an attempt of run {run}: name the run"),
            // What is only in the journal, or gone already.
            None if given.len() == DIGITS => Ok(given.parse()?),
            None => bail!(
                "no run here begins with `{given}`; `outpost-agent logs` lists the newest attempts with their runs"
            ),
        },
    }
}

fn run_of_attempt(state: &StateDir, given: &str) -> Option<String> {
    let entries = std::fs::read_dir(state.attempts()).ok()?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    let dir = paths.find(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(given))
    })?;
    let about = read_keeper_record(&dir).ok().flatten()?.about?;
    Some(about.run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_named_by_the_beginning_of_its_id_if_that_names_one_only() {
        let dir = crate::testing::tempdir().unwrap();
        let state = StateDir::create(&dir.path().join("state")).unwrap();
        let runs = [0xaa01_u128 << 112, 0xaa02 << 112].map(RunId);
        for run in runs {
            std::fs::create_dir(state.run(run)).unwrap();
        }
        // Somebody's own, and no run.
        std::fs::create_dir(state.runs().join("bc")).unwrap();
        let found = |given: &str| find(&state, given).map_err(|error| error.to_string());
        assert_eq!(found("aa01"), Ok(runs[0]));
        assert!(found("aa").unwrap_err().contains("2 runs begin with `aa`"));
        for wrong in ["", "AA01", "aa01/..", &"a".repeat(33)] {
            assert!(
                found(wrong).unwrap_err().contains("is no run's id"),
                "{wrong}"
            );
        }
        assert!(found("b").unwrap_err().contains("no run here begins"));
        // One of which nothing is here any more but its name elsewhere.
        assert_eq!(
            found(&"b".repeat(32)),
            Ok(RunId(u128::from_str_radix(&"b".repeat(32), 16).unwrap()))
        );
    }
}
