//! What is said when the demo's run is over: the run, where its results are, what left the site.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use outpost_agent::leaktest::Report;

use super::ledger::Left;
use crate::client::api::RunTree;
use crate::client::tree::{self, Pen};
use crate::dev::Place;
use crate::output::{Out, Tone};

/// Where a person finds what.
#[derive(Debug, Clone)]
pub(crate) struct Whereabouts {
    /// Of the run at the site.
    pub(crate) run_dir: PathBuf,
    /// One directory per attempt.
    pub(crate) attempts: PathBuf,
    /// The ledger.
    pub(crate) ledger: PathBuf,
}

impl Whereabouts {
    /// Of a run.
    pub(crate) fn of(place: &Place, run: &str) -> Self {
        let agent = place.agent();
        Self {
            run_dir: agent.join("runs").join(run),
            attempts: agent.join("attempts"),
            ledger: agent.join("ledger"),
        }
    }
}

/// The run as a tree, and where its results are.
pub(crate) fn run(tree: &RunTree, at: &Whereabouts, out: Out) {
    out.line("");
    for line in tree::lines(tree, Pen::new(out, 0, true)) {
        out.line(&line);
    }
    out.line("");
    title("Kept at the site", out);
    if tree.state == "succeeded" {
        pair(
            "report",
            &at.run_dir.join("report.html").display().to_string(),
            out,
        );
        pair(
            "",
            &at.run_dir.join("report.json").display().to_string(),
            out,
        );
    }
    pair(
        "logs",
        &format!("{}/ATTEMPT/log.*", at.attempts.display()),
        out,
    );
}

/// The ledger in words.
pub(crate) fn left(left: &Left, at: &Whereabouts, out: Out) {
    out.line("");
    title("Left the site", out);
    let frames = format!(
        "{}, {} bytes, over {}",
        count(left.frames, "frame"),
        left.frame_bytes,
        count(left.sessions, "session")
    );
    pair("sent", &frames, out);
    for (kind, number) in &left.messages {
        pair(
            "",
            &format!("{number:>4} {kind:10}{}", example(left, kind)),
            out,
        );
    }
    let identity = format!(
        "{}, {} bytes",
        count(left.identity_requests, "certificate request"),
        left.identity_bytes
    );
    pair("", &identity, out);
    pair(
        "ledger",
        &format!(
            "{} (verified, head {}…)",
            at.ledger.display(),
            left.head.get(..16).unwrap_or_default()
        ),
        out,
    );
    let search = &left.search;
    if search.found.is_empty() {
        let words = format!(
            "none of the report's {} strings of 6 or more bytes is in it, raw, hex or base64",
            search.strings
        );
        pair("search", &Tone::Good.paint(&words), out);
    } else {
        let words = format!(
            "{} of the report's {} strings are in it",
            search.found.len(),
            search.strings
        );
        pair("search", &Tone::Bad.paint(&words), out);
        for text in search.found.iter().take(5) {
            pair("", &crate::output::clean(text), out);
        }
    }
}

/// What was checked at last, and with which command anybody at the site can do the same.
pub(crate) fn checked(left: &Left, leaktest: Option<&Report>, out: Out) {
    out.line("");
    title("Checked, as anybody at the site can", out);
    let words = format!(
        "outpost-agent ledger verify: {} in place, {} signed by the orchestrator",
        count(left.records, "record"),
        count(left.receipts, "receipt")
    );
    check(Some(true), &words, out);
    let Some(report) = leaktest else {
        return;
    };
    let logs = report.canaries.iter().map(|canary| &canary.log);
    let words = format!(
        "outpost-agent leaktest: {} left a mark wherever a task can, {} times in their own logs, in {} forms",
        count(report.canaries.len(), "canary task"),
        logs.map(|log| log.hits).sum::<usize>(),
        report.forms.len()
    );
    check(Some(report.unseen.is_empty()), &words, out);
    for place in &report.places {
        let name = &place.place;
        match &place.looked {
            Some(looked) if looked.hits == 0 => {
                let words = format!("not in the {name}, {} bytes", looked.bytes);
                check(Some(true), &words, out);
            }
            Some(looked) => {
                let words = format!("{} in the {name}", count(looked.hits, "time"));
                check(Some(false), &words, out);
            }
            None => {
                let why = place.not_looked.as_deref().unwrap_or_default();
                check(None, &format!("{name} not looked at: {why}"), out);
            }
        }
    }
}

fn check(is_good: Option<bool>, words: &str, out: Out) {
    let (sign, tone) = match (is_good, out.is_unicode()) {
        (Some(true), true) => ("✔", Tone::Good),
        (Some(true), false) => ("+", Tone::Good),
        (Some(false), _) => ("!", Tone::Bad),
        (None, _) => ("-", Tone::Faint),
    };
    out.line(&format!("  {} {words}", tone.paint(sign)));
}

/// Everything, for programs.
pub(crate) fn json(tree: &Value, at: &Whereabouts, left: Option<&Left>, restarts: u32) -> Value {
    json!({
        "run": tree,
        "report": { "html": at.run_dir.join("report.html"), "json": at.run_dir.join("report.json") },
        "attempts": at.attempts,
        "ledger": { "directory": at.ledger, "verified": left.is_some(), "sent": left },
        "restarts": restarts,
    })
}

/// What to try in another terminal while it is left running: first what makes all commands find it.
pub(crate) fn to_try(place: &Place, api: &str, catalogue: &Path, example: Example<'_>, out: Out) {
    title("To try in another terminal", out);
    let exe = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("outpost"));
    let agent_program = exe.with_file_name("outpost-agent");
    let agent = if agent_program.is_file() {
        by_name(&agent_program)
    } else {
        format!("{} {}", exe.display(), crate::AGENT_MAIN)
    };
    let exe = by_name(&exe);
    out.line(&format!("  export OUTPOST_SERVER={api}"));
    for (name, path) in [
        ("OUTPOST_TOKEN_FILE", place.token().as_path()),
        ("OUTPOST_AGENT_STATE", &place.agent()),
        ("OUTPOST_AGENT_CATALOGUE", catalogue),
    ] {
        out.line(&format!("  export {name}={}", path.display()));
    }
    let name = super::example::NAME;
    let trigger = format!("trigger {name} --param top=25 --wait");
    let example = match example {
        Example::None => vec![],
        Example::InFile(path) => vec![format!("apply {}", path.display()), trigger],
        Example::Applied => vec![trigger],
    };
    let lists = ["agents", "workflows", "runs"].map(str::to_owned);
    for command in example.into_iter().chain(lists) {
        out.line(&format!("  {exe} {command}"));
    }
    for command in ["status", "logs", "ledger explain", "ledger verify"] {
        out.line(&format!("  {agent} {command}"));
    }
}

/// A program as it is typed: by its name alone where that finds this very file.
fn by_name(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default();
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let first = std::env::split_paths(&dirs)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    let real = |path: &Path| path.canonicalize().ok();
    let finds = first.is_some_and(|first| real(&first).is_some() && real(&first) == real(program));
    if finds {
        name.display().to_string()
    } else {
        program.display().to_string()
    }
}

/// Where the example's workflow is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Example<'a> {
    /// The catalogue is another one.
    None,
    /// In a file that was not applied.
    InFile(&'a Path),
    /// At the orchestrator.
    Applied,
}

fn title(text: &str, out: Out) {
    out.line(&Tone::Strong.paint(text));
}

fn pair(name: &str, value: &str, out: Out) {
    out.line(&format!("  {name:7} {value}"));
}

fn count(number: impl TryInto<u64>, noun: &str) -> String {
    match number.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}

/// The last sentence of this kind, cut to a line.
fn example(left: &Left, kind: &str) -> String {
    const MOST: usize = 72;
    let Some(words) = left.examples.get(kind) else {
        return String::new();
    };
    let cut = words.chars().take(MOST).collect::<String>();
    let more = if words.chars().count() > MOST {
        "…"
    } else {
        ""
    };
    Tone::Faint.paint(&format!("  {cut}{more}"))
}
