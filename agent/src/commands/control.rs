//! `pause`, `resume`, `reload`, `drain`: what the site tells its running agent.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::status::show;
use super::words::age;
use crate::cli::Form;
use crate::output;
use crate::runner::{Ask, Status, ask};
use crate::state_dir::StateDir;

/// Between two looks at a drain.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Between two lines about it, while nothing changes.
const SAY_AGAIN: Duration = Duration::from_secs(10);
/// From the end of the runner's socket to the end of its process.
const ENDING: Duration = Duration::from_secs(2);
/// The exit status when the time is over and the agent is not.
const NOT_DRAINED: u8 = 3;

/// Tells the agent something and shows how it is then.
pub(crate) fn told(state: &Path, what: Ask, form: Form) -> anyhow::Result<ExitCode> {
    let state = StateDir::open(state)?;
    let status = ask(state.path(), what)?;
    show(&status, form);
    Ok(ExitCode::SUCCESS)
}

/// Lets the agent read its catalogue again, and says what came of that.
pub(crate) fn reload(state: &Path, form: Form) -> anyhow::Result<ExitCode> {
    let state = StateDir::open(state)?;
    let before = ask(state.path(), Ask::Status)?.catalogue;
    let status = ask(state.path(), Ask::Reload)?;
    if form == Form::Json {
        show(&status, form);
    }
    if let Some(why) = &status.numbers.catalogue_refused {
        output::problem(format_args!("{why}\nthe catalogue in force stays"));
        return Ok(ExitCode::FAILURE);
    }
    let now = &status.catalogue;
    if form == Form::Table {
        let entries = output::count(now.entries, "entry");
        output::line(if now.version == before.version {
            format!("accepted: {entries}, as before")
        } else {
            format!("accepted: {entries}; there were {} before", before.entries)
        });
    }
    Ok(ExitCode::SUCCESS)
}

/// Lets the agent finish what runs and end. `wait`: until it has, for so long at most.
pub(crate) fn drain(state: &Path, wait: Option<Duration>, form: Form) -> anyhow::Result<ExitCode> {
    let state = StateDir::open(state)?;
    let began = Instant::now();
    let mut status = ask(state.path(), Ask::Status)?;
    match ask(state.path(), Ask::Drain) {
        Ok(now) => status = now,
        // One that has nothing to finish may be gone before it has answered.
        Err(_) if has_ended(&state) => return Ok(over(&status, began, true, form)),
        Err(error) => return Err(error),
    }
    let Some(wait) = wait else {
        show(&status, form);
        return Ok(ExitCode::SUCCESS);
    };
    let mut said: Option<(String, Instant)> = None;
    loop {
        let left = remaining(&status);
        let again = said
            .as_ref()
            .is_none_or(|(last, at)| *last != left || at.elapsed() > SAY_AGAIN);
        if again {
            output::note(format_args!("draining: {left}"));
            said = Some((left, Instant::now()));
        }
        if began.elapsed() >= wait {
            return Ok(over(&status, began, false, form));
        }
        std::thread::sleep(LOOK_AGAIN.min(wait));
        match ask(state.path(), Ask::Status) {
            Ok(now) => status = now,
            Err(_) if has_ended(&state) => return Ok(over(&status, began, true, form)),
            Err(error) => tracing::debug!("the agent does not answer: {error:#}"),
        }
    }
}

/// Whether whoever does not answer is no agent any more: its lock is free, at the latest some moments after its socket
/// went.
fn has_ended(state: &StateDir) -> bool {
    let began = Instant::now();
    loop {
        if state.lock().is_ok() {
            return true;
        }
        if began.elapsed() >= ENDING {
            return false;
        }
        std::thread::sleep(LOOK_AGAIN / 10);
    }
}

/// What the agent still waits for.
fn remaining(status: &Status) -> String {
    let running = status.attempts("running").len() + status.attempts("queued").len();
    let unacknowledged = status.view_number("unacknowledged").unwrap_or(0);
    match (running, unacknowledged) {
        (0, 0) => "nothing runs; the agent ends".to_owned(),
        (0, ends) => format!("nothing runs; {ends} ends are not acknowledged yet"),
        (running, ends) => format!("{running} attempts run, {ends} ends are not acknowledged yet"),
    }
}

fn over(status: &Status, began: Instant, drained: bool, form: Form) -> ExitCode {
    let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    match form {
        Form::Json => output::json(&serde_json::json!({
            "drained": drained,
            "waited_ms": took / 1000,
            "running": if drained { &[] } else { status.attempts("running") },
        })),
        Form::Table if drained => output::line(format_args!("drained after {}", age(took))),
        Form::Table => {
            output::line(format_args!(
                "not drained after {}: {}; it goes on draining (`outpost-agent status` shows what runs)",
                age(took),
                remaining(status)
            ));
        }
    }
    if drained {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_DRAINED)
    }
}
