//! `outpost diff`: what applying files would change, line by line.

use outpost_orchestrator::workflow;
use serde::Deserialize;
use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};

use super::files::{self, Valid};
use super::http::{Ask, Client};
use crate::args::DiffArgs;
use crate::failure::Failure;
use crate::output::{Out, Steps, Tone, clean};

/// Lines around a change that are shown with it.
const CONTEXT: usize = 3;

/// A workflow as the server has it.
#[derive(Debug, Deserialize)]
struct Applied {
    version: u32,
    source: String,
}

/// How a file and the server's version are to each other.
struct Compared<'a> {
    file: &'a Valid,
    /// `None`: the server has no such workflow.
    applied: Option<Applied>,
}

impl Compared<'_> {
    fn state(&self) -> &'static str {
        match &self.applied {
            None => "new",
            Some(applied) if applied.source == self.file.text => "same",
            // Comments and layout make no new version.
            Some(applied) => match workflow::parse(&applied.source) {
                Ok(spec) if spec == self.file.spec => "same",
                Ok(_) | Err(_) => "different",
            },
        }
    }
}

/// Runs the command.
pub(super) async fn diff(client: &Client, args: &DiffArgs, out: Out) -> Result<(), Failure> {
    let files = files::all_valid(files::read_all(&args.paths)?, out)?;
    let mut steps = Steps::new(out, "comparing", Some(files.len()));
    let mut all = Vec::new();
    for (at, file) in files.iter().enumerate() {
        steps.at(at, &file.name());
        let name = file.spec.name.to_string();
        let applied = match client.get(&Ask::get(&["workflows", &name])).await {
            Ok(applied) => Some(applied),
            Err(failure) if failure.is_not_found() => None,
            Err(failure) => return Err(failure),
        };
        all.push(Compared { file, applied });
    }
    drop(steps);
    if out.is_json() {
        let items: Vec<Value> = all.iter().map(item).collect();
        out.json(&json!({ "items": items }));
    } else {
        for it in &all {
            show(it, out);
        }
    }
    if all.iter().all(|it| it.state() == "same") {
        Ok(())
    } else {
        Err(Failure::Different)
    }
}

fn item(it: &Compared<'_>) -> Value {
    let before = it.applied.as_ref().map_or("", |applied| &applied.source);
    let diff = TextDiff::from_lines(before, &it.file.text);
    let changes: Vec<Value> = diff.iter_all_changes().filter_map(|change| {
        let word = match change.tag() {
            ChangeTag::Equal => return None,
            ChangeTag::Delete => "removed",
            ChangeTag::Insert => "added",
        };
        let line = change.old_index().or(change.new_index()).map(|index| index + 1);
        Some(json!({ "change": word, "line": line, "text": change.value().trim_end_matches(['\n', '\r']) }))
    }).collect();
    json!({
        "file": it.file.name(), "name": it.file.spec.name.to_string(), "state": it.state(),
        "version": it.applied.as_ref().map(|applied| applied.version), "changes": changes,
    })
}

fn show(it: &Compared<'_>, out: Out) {
    let (file, name) = (clean(&it.file.name()), it.file.spec.name.to_string());
    let title = match &it.applied {
        None => format!(
            "{name}: new; {file} has {} lines",
            it.file.text.lines().count()
        ),
        Some(applied) if it.state() == "same" => {
            let apart = if applied.source == it.file.text {
                ""
            } else {
                ", apart from comments and layout"
            };
            out.line(&format!(
                "{name}: {file} is version {}{apart}",
                applied.version
            ));
            return;
        }
        Some(applied) => format!("{name}: {file} differs from version {}", applied.version),
    };
    out.line(&Tone::Strong.paint(&title));
    let Some(applied) = &it.applied else {
        return;
    };
    out.line(&Tone::Bad.paint(&format!("--- version {} at the server", applied.version)));
    out.line(&Tone::Good.paint(&format!("+++ {file}")));
    let diff = TextDiff::from_lines(&applied.source, &it.file.text);
    for hunk in diff.unified_diff().context_radius(CONTEXT).iter_hunks() {
        out.line(&Tone::Busy.paint(&hunk.header().to_string()));
        for change in hunk.iter_changes() {
            let text = clean(change.value().trim_end_matches(['\n', '\r']));
            match change.tag() {
                ChangeTag::Equal => out.line(&format!(" {text}")),
                ChangeTag::Delete => out.line(&Tone::Bad.paint(&format!("-{text}"))),
                ChangeTag::Insert => out.line(&Tone::Good.paint(&format!("+{text}"))),
            }
        }
    }
}
