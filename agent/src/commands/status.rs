//! `status`, `pause`, `resume`, `drain`, `reload`: what the running agent answers.

use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use crate::cli::Form;
use crate::output;
use crate::runner::{Ask, Status, ask};
use crate::state_dir::StateDir;

pub(crate) fn local(state: &Path, what: Ask, form: Form) -> anyhow::Result<ExitCode> {
    let state = StateDir::open(state)?;
    let status = ask(state.path(), what)?;
    match form {
        Form::Json => output::json(&status),
        Form::Table => words(&status).iter().for_each(output::line),
    }
    Ok(ExitCode::SUCCESS)
}

fn words(status: &Status) -> Vec<String> {
    let view = &status.view;
    let number = |key: &str| view.get(key).and_then(Value::as_u64);
    let seconds_from_now = |at: u64| at.saturating_sub(status.now_boot_us) / 1_000_000;
    let since_s = number("session_since_us")
        .map_or(0, |at| status.now_boot_us.saturating_sub(at) / 1_000_000);
    let session = match view.get("session").and_then(Value::as_str) {
        Some(phase) => format!("{phase} for {since_s} s"),
        None => match number("retry_at_us") {
            Some(at) => format!("not connected, tried again in {} s", seconds_from_now(at)),
            None => "not connected".to_owned(),
        },
    };
    let lease = match number("lease_until_us").map(seconds_from_now) {
        Some(0) | None => "none: nothing is started".to_owned(),
        Some(seconds) => format!("{seconds} s left"),
    };
    let mut lines = vec![
        format!("agent         {} of tenant {}", status.agent, status.tenant),
        format!("orchestrator  {}", status.orchestrator),
        format!("session       {session}"),
        format!("lease         {lease}"),
        format!(
            "certificate   {}",
            certificate(status.certificate_not_after_s)
        ),
    ];
    let flags = view
        .get("flags")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    let flags = flags
        .filter(|(_, on)| **on == Value::Bool(true))
        .map(|(name, _)| name.as_str())
        .collect::<Vec<_>>();
    if !flags.is_empty() {
        lines.push(format!("starts nothing because it is {}", flags.join(", ")));
    }
    let trouble = status
        .trouble
        .clone()
        .or_else(|| view.get("trouble")?.as_str().map(str::to_owned));
    lines.extend(trouble.map(|why| format!("trouble       {why}")));
    let running = attempts(view, "running");
    lines.push(format!(
        "running       {} of {} slots",
        running.len(),
        number("slots").unwrap_or(0)
    ));
    lines.extend(running);
    let queued = attempts(view, "queued");
    lines.push(format!("waiting       {}", queued.len()));
    lines.extend(queued);
    lines.push(format!(
        "outcomes not yet acknowledged  {}",
        number("unacknowledged").unwrap_or(0)
    ));
    lines
}

fn attempts(view: &Value, key: &str) -> Vec<String> {
    let list = view
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let text = |attempt: &Value, key: &str| {
        attempt
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or("?")
            .to_owned()
    };
    let line = |attempt: &Value| {
        format!(
            "  {}  {} ({})",
            text(attempt, "attempt"),
            text(attempt, "task"),
            text(attempt, "entry")
        )
    };
    list.iter().map(line).collect()
}

fn certificate(not_after_s: u64) -> String {
    let now_s = crate::runner::wall_us() / 1_000_000;
    match not_after_s.checked_sub(now_s) {
        None if not_after_s == 0 => "none".to_owned(),
        None => "expired".to_owned(),
        Some(left) => format!("ends in {} h {} min", left / 3600, left % 3600 / 60),
    }
}
