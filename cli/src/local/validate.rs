//! `outpost validate`: everything that is wrong with workflow files, without a server.

use serde_json::{Value, json};

use crate::args::ValidateArgs;
use crate::client::files::{self, Source};
use crate::failure::Failure;
use crate::output::{Out, Tone, clean};

/// Runs the command.
pub(super) fn validate(args: &ValidateArgs, out: Out) -> Result<(), Failure> {
    let sources = files::read_all(&args.paths)?;
    if out.is_json() {
        let items: Vec<Value> = sources.iter().map(item).collect();
        out.json(&json!({ "valid": sources.iter().all(|it| it.read.is_ok()), "items": items }));
    } else {
        for (source, spec) in sources
            .iter()
            .filter_map(|it| Some((it, it.read.as_ref().ok()?)))
        {
            let tasks = match spec.tasks.len() {
                1 => "1 task".to_owned(),
                n => format!("{n} tasks"),
            };
            let good = Tone::Good.paint("valid");
            out.line(&format!(
                "{}: {good}: {}, {tasks}",
                clean(&source.name()),
                spec.name
            ));
        }
    }
    files::all_valid(sources, out).map(drop)
}

fn item(source: &Source) -> Value {
    let name = source.read.as_ref().ok().map(|spec| spec.name.to_string());
    let problems = source.read.as_ref().err().cloned().unwrap_or_default();
    json!({ "file": source.name(), "valid": source.read.is_ok(), "name": name, "problems": problems })
}
