//! `status`: the agent in one screen, from the running agent or, when there is none, from what the state directory
//! knows.

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Value, json};

use super::words::{age, at, bytes, left};
use crate::cli::Form;
use crate::output::{self, count};
use crate::runner::{Ask, Status, ask, wall_us};
use crate::state_dir::StateDir;

/// Lines of attempts in a screen; the JSON has them all.
const ATTEMPTS: usize = 10;
/// Columns of a screen.
const COLUMNS: usize = 80;
/// Lines that one of the details may take.
const LINES: usize = 3;
/// Columns of a label.
const INDENT: usize = 14;

pub(crate) fn status(state: &Path, form: Form) -> anyhow::Result<ExitCode> {
    let state = StateDir::open(state)?;
    match ask(state.path(), Ask::Status) {
        Ok(status) => {
            show(&status, form);
            Ok(ExitCode::SUCCESS)
        }
        // Whoever holds the lock is a runner, and one that does not answer is told with the reason.
        Err(error) if state.lock().is_err() => Err(error),
        Err(_) => {
            at_rest(&state, form)?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The answer as JSON; `running` tells it from a directory without a runner.
#[derive(Serialize)]
struct Shown<'a> {
    running: bool,
    #[serde(flatten)]
    status: &'a Status,
}

/// What a running agent answered.
pub(super) fn show(status: &Status, form: Form) {
    match form {
        Form::Json => output::json(&Shown {
            running: true,
            status,
        }),
        Form::Table => words(status, wall_us()).iter().for_each(output::line),
    }
}

/// What there is to say without a runner.
fn at_rest(state: &StateDir, form: Form) -> anyhow::Result<()> {
    let identity = state.identity()?;
    let snapshot = crate::journal::peek(state.path())?;
    let attempts = snapshot.attempts.len();
    let ledger = crate::ledger::size(&state.ledger())?;
    match form {
        Form::Json => output::json(&json!({
            "running": false,
            "state": state.path(),
            "identity": identity,
            "held_attempts": attempts,
            "paused": snapshot.site.paused,
            "ledger_bytes": ledger,
        })),
        Form::Table => {
            output::line("agent         not running: start it with `outpost-agent run`");
            output::line(format_args!("state         {}", state.path().display()));
            match &identity {
                Some(identity) => {
                    output::line(format_args!(
                        "enrolled      as {} of tenant {}\norchestrator  {}",
                        identity.agent, identity.tenant, identity.orchestrator
                    ));
                }
                None => output::line("enrolled      no: outpost-agent enrol --token-file FILE"),
            }
            if snapshot.site.paused {
                output::line("paused        yes: nothing will start until `outpost-agent resume`");
            }
            output::line(format_args!(
                "attempts      {attempts} whose end the orchestrator does not know yet"
            ));
            output::line(format_args!("ledger        {}", bytes(ledger)));
        }
    }
    Ok(())
}

fn words(status: &Status, now_us: u64) -> Vec<String> {
    let mut lines = vec![format!(
        "agent         {} of tenant {}, version {}, pid {}",
        status.agent, status.tenant, status.version, status.pid
    )];
    lines.extend(connection(status, now_us));
    if let Some(path) = &status.audit_keylog {
        lines.push(format!(
            "AUDIT MODE    TLS secrets are written to {}; remove it when the audit is over",
            path.display()
        ));
    }
    lines.push(format!("certificate   {}", certificate(status, now_us)));
    lines.push(format!("sandbox       {}", status.sandbox.words()));
    if !status.sandbox.missing.is_empty() {
        lines.push(format!("to mend       {}", status.sandbox.fixes()));
    }
    lines.extend(network(status));
    if !status.separation.is_empty() {
        lines.push(format!("separation    {}", status.separation));
    }
    lines.extend(catalogue(status, now_us));
    lines.extend(stopped(status));
    lines.extend(strict(status));
    lines.extend(work(status));
    lines.extend(past(status, now_us));
    lines.iter().flat_map(|line| fit(line)).collect()
}

/// Which processes speak to the network, for whoever wants to look at them.
fn network(status: &Status) -> Option<String> {
    let link = status.network.link.map(|pid| format!("link is pid {pid}"));
    let dial = status.network.dial.iter();
    let dial = dial.map(|pid| format!("dial is pid {pid}"));
    let all = link.into_iter().chain(dial).collect::<Vec<_>>();
    (!all.is_empty()).then(|| format!("network       {}", all.join(", ")))
}

fn connection(status: &Status, now_us: u64) -> Vec<String> {
    let elapsed = |at: u64| age(status.now_boot_us.saturating_sub(at));
    let since = elapsed(status.view_number("session_since_us").unwrap_or(0));
    let session = match status.view_text("session") {
        Some("ready") => format!("connected for {since}"),
        Some(phase) => format!("{phase} for {since}"),
        None => {
            let retry = status.view_number("retry_at_us").unwrap_or(0);
            let wait = age(retry.saturating_sub(status.now_boot_us));
            format!("not connected for {since}; tried again in {wait}")
        }
    };
    let lease = status.view_number("lease_until_us").unwrap_or(0);
    let lease = match lease.saturating_sub(status.now_boot_us) / 1_000_000 {
        0 => "none: nothing is started".to_owned(),
        seconds => format!("{seconds} s left"),
    };
    let mut lines = vec![
        format!("orchestrator  {}", status.orchestrator),
        format!("session       {session}"),
        format!("lease         {lease}"),
    ];
    let present = status.trouble.as_deref().or(status.view_text("trouble"));
    if let Some(why) = present {
        lines.push(format!("trouble       {why}"));
    } else if let Some(last) = &status.numbers.last_trouble {
        let ago = age(now_us.saturating_sub(last.at_us));
        lines.push(format!("last trouble  {ago} ago: {}", last.what));
    }
    lines
}

fn certificate(status: &Status, now_us: u64) -> String {
    let (not_after_s, now_s) = (status.certificate_not_after_s, now_us / 1_000_000);
    match not_after_s.checked_sub(now_s) {
        None if not_after_s == 0 => "none".to_owned(),
        None => {
            let ago = left(now_s - not_after_s);
            let then = match status.view_text("session") {
                Some("ready") => "the orchestrator takes it: this host's clock is ahead",
                Some(_) | None => "another one is asked for as soon as the orchestrator is there",
            };
            format!("ended {ago} ago; {then}")
        }
        Some(seconds) => format!("ends in {}", left(seconds)),
    }
}

fn catalogue(status: &Status, now_us: u64) -> Vec<String> {
    let read = now_us.saturating_sub(status.numbers.catalogue_read_us);
    let mut lines = vec![format!(
        "catalogue     {}, version {}, read {} ago",
        count(status.catalogue.entries, "entry"),
        status.catalogue.version,
        age(read)
    )];
    if status.numbers.catalogue_refused.is_some() {
        lines.push("              the newest reload was refused: catalogue lint".to_owned());
    }
    lines
}

fn stopped(status: &Status) -> Vec<String> {
    let flags = status.view.get("flags").and_then(Value::as_object);
    let on = flags.into_iter().flatten();
    let on = on.filter(|(_, on)| **on == Value::Bool(true));
    let on = on.map(|(name, _)| name.as_str()).collect::<Vec<_>>();
    let mut lines = Vec::new();
    if !on.is_empty() {
        lines.push(format!("starts none   because: {}", on.join(", ")));
    }
    if on.contains(&"observe") {
        lines.push("observes      what would have run: outpost-agent observed".to_owned());
    }
    lines
}

/// Said only where it is not as usual.
fn strict(status: &Status) -> Option<String> {
    (status.view_text("reporting")? == "strict")
        .then(|| "reporting     strict: outcomes, and steps, every ten seconds at most".to_owned())
}

fn work(status: &Status) -> Vec<String> {
    let running = status.attempts("running");
    let queued = status.attempts("queued");
    let mut lines = vec![format!(
        "running       {} of {} slots, {} waiting, {} ends not acknowledged yet",
        running.len(),
        status.view_number("slots").unwrap_or(0),
        queued.len(),
        status.view_number("unacknowledged").unwrap_or(0)
    )];
    let all = running.iter().chain(queued);
    let shown = all.clone().take(ATTEMPTS);
    lines.extend(shown.map(|attempt| one(attempt, status.now_boot_us)));
    let more = all.count().saturating_sub(ATTEMPTS);
    if more > 0 {
        lines.push(format!("  and {more} more: --output json"));
    }
    lines
}

fn one(attempt: &Value, now_boot_us: u64) -> String {
    let text = |key: &str| attempt.get(key).and_then(Value::as_str).unwrap_or("?");
    let began = attempt.get("began_us").and_then(Value::as_u64);
    let state = match (text("state"), began) {
        ("assigned", _) => "waiting".to_owned(),
        (_, Some(began)) => age(now_boot_us.saturating_sub(began)),
        (_, None) => "since before".to_owned(),
    };
    format!(
        "  {}  {state:>12}  {}/{} ({})",
        text("attempt"),
        text("workflow"),
        text("task"),
        text("entry")
    )
}

fn past(status: &Status, now_us: u64) -> Vec<String> {
    let numbers = &status.numbers;
    let outcomes = numbers.outcomes.iter();
    let outcomes = outcomes
        .map(|(name, count)| format!("{count} {name}"))
        .collect::<Vec<_>>();
    let mut lines = Vec::new();
    if !outcomes.is_empty() {
        lines.push(format!("ended         {}", outcomes.join(", ")));
    }
    for refusal in numbers.refusals.iter().rev().take(3) {
        let ago = age(now_us.saturating_sub(refusal.at_us));
        lines.push(format!("refused       {ago} ago: {}", refusal.why));
    }
    let disk = status.disk;
    lines.push(format!(
        "ledger        {} of {}, journal {}",
        bytes(disk.ledger_bytes),
        bytes(disk.ledger_limit_bytes),
        bytes(disk.journal_bytes)
    ));
    if numbers.ledger_early > 0 {
        lines.push(format!(
            "ledger        {} segments went before their time: something makes this agent say much",
            numbers.ledger_early
        ));
    }
    lines.push(format!(
        "logs          {} of {}, of {} attempts (counted hourly)",
        bytes(numbers.logs_bytes),
        bytes(disk.logs_limit_bytes),
        numbers.logs_attempts
    ));
    lines.push(match status.site_keys.as_slice() {
        [] => "at rest       logs and outputs are not encrypted".to_owned(),
        [key] => format!("at rest       logs: encrypted with key id {key}"),
        [key, others @ ..] => format!(
            "at rest       logs: encrypted with key id {key}; {} more for reading",
            others.len()
        ),
    });
    lines.push(format!("up            since {}", at(numbers.started_us)));
    lines
}

/// A line in as many as fit, three at most; an attempt in one. The JSON has everything whole.
fn fit(line: &str) -> Vec<String> {
    if line.starts_with(' ') {
        return vec![cut(line)];
    }
    let (mut lines, mut rest) = (Vec::new(), line.to_owned());
    while rest.chars().count() > COLUMNS && lines.len() < LINES - 1 {
        let chars = rest.char_indices().take(COLUMNS + 1);
        let space = chars.filter(|(_, c)| *c == ' ').last();
        let at = space.map_or(0, |(at, _)| at);
        // One long word, whose line cannot be broken behind its label.
        if at < INDENT {
            break;
        }
        let next = format!("{:INDENT$}{}", "", rest[at..].trim_start());
        rest.truncate(at);
        lines.push(std::mem::replace(&mut rest, next));
    }
    lines.push(cut(&rest));
    lines
}

fn cut(line: &str) -> String {
    if line.chars().count() <= COLUMNS {
        return line.to_owned();
    }
    let mut short = line.chars().take(COLUMNS - 1).collect::<String>();
    short.push('…');
    short
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
