//! `catalogue list|lint|try`: what may run here, what is wrong or too wide in it, and how an entry does when it runs.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use outpost_agent_keeper::exec::SelfExec;
use outpost_agent_keeper::protocol::Containment;
use outpost_proto::message::ParamValue;
use outpost_proto::name::{EntryName, ParamName};
use outpost_proto::outcome::Outcome;

use crate::catalogue::{self, Catalogue, Entry, Problem};
use crate::cli::Form;
use crate::output::{self, count};
use crate::runner::trial::{self, Place, Trial, Tried};

/// What `catalogue try` was told.
#[derive(Debug)]
pub(crate) struct TryArgs {
    pub(crate) entry: String,
    pub(crate) params: Vec<String>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) task: String,
    pub(crate) keep: bool,
    pub(crate) after: Option<PathBuf>,
}

pub(crate) fn list(dir: &Path, form: Form) -> anyhow::Result<ExitCode> {
    // Names are listed here, not hashed: the salt does not matter.
    let catalogue = catalogue::load(dir, "")?;
    match form {
        Form::Json => output::json(&catalogue.entries().map(row).collect::<Vec<_>>()),
        Form::Table if catalogue.entries().next().is_none() => output::note(empty(dir)),
        Form::Table => catalogue.entries().for_each(describe),
    }
    Ok(ExitCode::SUCCESS)
}

/// What to do about a directory without entries.
fn empty(dir: &Path) -> String {
    format!(
        "nothing may run here: write what may into a file {}/NAME.toml, each as [entry.NAME]",
        dir.display()
    )
}

fn row(entry: &Entry) -> serde_json::Value {
    let params = entry
        .params
        .iter()
        .map(|(name, param)| (name.to_string(), param.kind.expected()))
        .collect::<BTreeMap<_, _>>();
    serde_json::json!({
        "entry": entry.name,
        "description": entry.description,
        "user": entry.user.as_ref().map(|user| user.name.clone()),
        "timeout_ms": entry.timeout_ms,
        "retry_safe": entry.retry_safe,
        "dangerous": entry.dangerous,
        "needs_approval": entry.needs_approval,
        "windows": entry.windows.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "max_per_hour": entry.max_per_hour,
        "max_parallel": entry.max_parallel,
        "secrets": entry.secrets.iter().map(|grant| grant.secret.to_string()).collect::<Vec<_>>(),
        "params": params,
    })
}

fn describe(entry: &Entry) {
    let safe = if entry.retry_safe { ", retry-safe" } else { "" };
    let user = entry.user.as_ref();
    let user = user.map_or_else(String::new, |user| format!(" as {}", user.name));
    let dangerous = if entry.dangerous { ", dangerous" } else { "" };
    let says = match entry.description.as_str() {
        "" => String::new(),
        says => format!(": {says}"),
    };
    output::line(format_args!("{}{user}{safe}{dangerous}{says}", entry.name));
    for gate in gates(entry) {
        output::line(format_args!("    {gate}"));
    }
    for (name, param) in &entry.params {
        let needed = if param.default.is_some() {
            "optional"
        } else {
            "required"
        };
        output::line(format_args!(
            "    {name} ({needed}): {}",
            param.kind.expected()
        ));
    }
}

/// What a start of it depends on besides its parameters, and what it is handed.
fn gates(entry: &Entry) -> Vec<String> {
    let mut gates = Vec::new();
    if entry.needs_approval {
        gates.push("each start needs an approval here".to_owned());
    }
    if !entry.windows.is_empty() {
        let windows = entry.windows.iter().map(ToString::to_string);
        let windows = windows.collect::<Vec<_>>().join("; ");
        gates.push(format!("starts within {windows} only"));
    }
    if let Some(most) = entry.max_per_hour {
        gates.push(format!(
            "{} in an hour at most",
            count(most as usize, "start")
        ));
    }
    if let Some(most) = entry.max_parallel {
        gates.push(format!("{most} at a time at most"));
    }
    if !entry.secrets.is_empty() {
        let names = entry.secrets.iter().map(|grant| grant.secret.to_string());
        let names = names.collect::<Vec<_>>().join(", ");
        gates.push(format!("is handed the secrets {names}"));
    }
    gates
}

/// Everything that can be said about the files; fails when the catalogue would not be accepted.
pub(crate) fn lint(dir: &Path, form: Form) -> anyhow::Result<ExitCode> {
    let survey = catalogue::survey(dir, "");
    let entries = survey.catalogue.as_ref().map(|c| c.entries().count());
    let warnings = [survey.broken, survey.remarks].concat();
    match form {
        Form::Json => output::json(&serde_json::json!({
            "dir": survey.dir,
            "accepted": entries.is_some(),
            "entries": entries,
            "errors": survey.problems,
            "warnings": warnings,
        })),
        Form::Table => {
            say("error", &survey.problems);
            say("warning", &warnings);
            let warnings = count(warnings.len(), "warning");
            let dir = survey.dir.display();
            output::line(match entries {
                Some(entries) => {
                    let entries = count(entries, "entry");
                    format!("accepted: {entries} in {dir}, {warnings}")
                }
                None => {
                    let errors = count(survey.problems.len(), "error");
                    format!("not accepted: {errors}, {warnings} in {dir}")
                }
            });
            if entries == Some(0) {
                output::note(empty(&survey.dir));
            }
        }
    }
    Ok(if entries.is_some() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn say(what: &str, problems: &[Problem]) {
    for problem in problems {
        output::line(format_args!("{what}: {problem}"));
    }
}

/// Runs one entry as an instruction would; see [`trial`].
pub(crate) fn try_entry(
    state: &Path,
    dir: &Path,
    args: &TryArgs,
    exec: SelfExec,
    form: Form,
) -> anyhow::Result<ExitCode> {
    let catalogue = catalogue::load(dir, "")?;
    let entry = args.entry.parse::<EntryName>()?;
    let trial = Trial {
        state,
        params: params(&catalogue, &entry, &args.params)?,
        catalogue: &catalogue,
        entry,
        deadline_ms: args
            .deadline
            .map(|deadline| u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX)),
        exec,
        task: args.task.parse()?,
        place: match &args.after {
            Some(dir) => Place::After(dir.clone()),
            None if args.keep => Place::Kept,
            None => Place::Own,
        },
    };
    // With JSON the result alone is on standard output, so that a program can read it.
    let mut show = |bytes: &[u8]| match form {
        Form::Table => output::bytes(bytes),
        Form::Json => std::io::stderr().write_all(bytes).is_ok(),
    };
    let tried = super::block_on(trial::run(trial, &mut show))?;
    match form {
        Form::Json => output::json(&tried),
        Form::Table => words(&tried).iter().for_each(output::note),
    }
    Ok(ExitCode::from(code(tried.is)))
}

fn params(
    catalogue: &Catalogue,
    entry: &EntryName,
    given: &[String],
) -> anyhow::Result<BTreeMap<ParamName, ParamValue>> {
    let known = catalogue.entry(entry);
    let mut params = BTreeMap::new();
    for text in given {
        let (name, value) = text
            .split_once('=')
            .with_context(|| format!("`{text}` is no parameter: write --param NAME=VALUE"))?;
        let name = name.parse::<ParamName>()?;
        let param = known.and_then(|entry| entry.params.get(&name));
        let value = param.map_or_else(
            || ParamValue::Text(value.to_owned()),
            |param| param.typed(value),
        );
        if params.insert(name.clone(), value).is_some() {
            bail!("the parameter `{name}` is given twice");
        }
    }
    Ok(params)
}

/// The result for people; on standard error, below the task's own output.
fn words(tried: &Tried) -> Vec<String> {
    let mut ending = tried.outcome.clone();
    if let Some(code) = tried.exit_code.filter(|code| *code != 0) {
        ending.push_str(&format!(", exit code {code}"));
    }
    if let Some(signal) = tried.signal {
        ending.push_str(&format!(", ended by signal {signal}"));
    }
    let ms = tried.duration_ms;
    if tried.containment.is_some() {
        ending.push_str(&format!(" after {}.{:03} s", ms / 1000, ms % 1000));
    }
    let mut lines = vec![format!("{}: {ending}", tried.entry)];
    lines.extend(tried.why.as_ref().map(|why| format!("why: {why}")));
    if !tried.outputs.is_empty() {
        lines.push("outputs:".to_owned());
        let outputs = tried.outputs.iter();
        lines.extend(outputs.map(|(name, value)| format!("  {name}={value}")));
    }
    if tried.log_dropped_bytes > 0 {
        lines.push(format!(
            "output: {} of {} bytes are beyond log_max and would not be kept",
            tried.log_dropped_bytes, tried.log_bytes
        ));
    }
    if let Some(level) = tried.containment {
        let mut leaves = vec!["outcome".to_owned(), "duration".to_owned()];
        leaves.extend(
            tried
                .reported
                .exit_code
                .map(|code| format!("exit code {code}")),
        );
        leaves.extend(tried.reported.count.map(|count| format!("count {count}")));
        lines.push(format!("processes held by: {}", held_by(level)));
        lines.push(format!("would leave the site: {}", leaves.join(", ")));
    }
    let kept = tried.kept.as_ref();
    lines.extend(kept.map(|dir: &PathBuf| format!("kept: {}", dir.display())));
    lines
}

fn held_by(level: Containment) -> &'static str {
    match level {
        Containment::Cgroup => "cgroup",
        Containment::PidNamespace => "pid namespace",
        Containment::Subreaper => "subreaper",
    }
}

/// The exit status of `catalogue try`; in its help.
fn code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Succeeded => 0,
        Outcome::Failed => 4,
        Outcome::TimedOut => 5,
        Outcome::Cancelled => 130,
        Outcome::Refused(_) => 3,
        Outcome::StartFailed(_) => 6,
        Outcome::Killed(_) | Outcome::Interrupted(_) => 7,
    }
}
