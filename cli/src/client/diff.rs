//! `outpost diff`: what applying files would change, key by key. Comments and layout change nothing.

use outpost_orchestrator::workflow::{self, Change};
use serde::Deserialize;
use serde_json::{Value, json};

use super::files::{self, Valid};
use super::http::{Ask, Client};
use crate::args::DiffArgs;
use crate::failure::Failure;
use crate::output::{Out, Steps, Tone, clean};

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
    version: Option<u32>,
    changes: Vec<Change>,
}

impl<'a> Compared<'a> {
    fn of(file: &'a Valid, applied: Option<Applied>) -> Result<Self, Failure> {
        let mut changes = Vec::new();
        if let Some(applied) = &applied {
            let spec = workflow::parse(&applied.source).map_err(|error| {
                Failure::Incompatible(format!(
                    "version {} of {} at the server is not understood here ({})",
                    applied.version,
                    file.spec.name,
                    error.to_string().lines().next().unwrap_or_default()
                ))
            })?;
            changes = workflow::diff(&spec, &file.spec);
        }
        let version = applied.map(|applied| applied.version);
        Ok(Self {
            file,
            version,
            changes,
        })
    }

    fn state(&self) -> &'static str {
        match (self.version, self.changes.is_empty()) {
            (None, _) => "new",
            (Some(_), true) => "same",
            (Some(_), false) => "different",
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
        all.push(Compared::of(file, applied)?);
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
    json!({
        "file": it.file.name(), "name": it.file.spec.name.to_string(), "state": it.state(),
        "version": it.version, "changes": it.changes,
    })
}

fn show(it: &Compared<'_>, out: Out) {
    let (file, name) = (clean(&it.file.name()), it.file.spec.name.to_string());
    let Some(version) = it.version else {
        out.line(&Tone::Strong.paint(&format!("{name}: {file} is new")));
        return;
    };
    if it.changes.is_empty() {
        out.line(&format!("{name}: {file} is the same as version {version}"));
        return;
    }
    let title = format!("{name}: {file} differs from version {version}");
    out.line(&Tone::Strong.paint(&title));
    for change in &it.changes {
        let path = clean(&change.path);
        let line = match (&change.before, &change.after) {
            (None, Some(after)) => Tone::Good.paint(&format!("  + {path}: {}", short(after))),
            (Some(before), None) => Tone::Bad.paint(&format!("  - {path}: {}", short(before))),
            (before, after) => {
                let word = |value: &Option<Value>| value.as_ref().map(short).unwrap_or_default();
                Tone::Warn.paint(&format!("  ~ {path}: {} -> {}", word(before), word(after)))
            }
        };
        out.line(&line);
    }
}

/// A value as people write it.
fn short(value: &Value) -> String {
    match value {
        Value::String(text) => clean(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            clean(&value.to_string())
        }
    }
}
