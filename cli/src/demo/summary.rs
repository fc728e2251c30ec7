//! What is said when the demo's run is over: the run, where its results are, what left the site.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

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

/// What to try while it is left running.
pub(crate) fn to_try(place: &Place, api: &str, example: Example<'_>, out: Out) {
    title("To try", out);
    let exe = std::env::current_exe()
        .map_or_else(|_| "outpost".to_owned(), |exe| exe.display().to_string());
    out.line(&format!("  export OUTPOST_SERVER={api}"));
    out.line(&format!(
        "  export OUTPOST_TOKEN_FILE={}",
        place.token().display()
    ));
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
    let agent = format!(
        "{exe} {} --state {}",
        crate::AGENT_MAIN,
        place.agent().display()
    );
    for command in ["status", "logs", "ledger explain", "ledger verify"] {
        out.line(&format!("  {agent} {command}"));
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
