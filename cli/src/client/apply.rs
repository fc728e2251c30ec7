//! `outpost apply`: every file is checked here, then by the server, and only then applied.

use serde_json::{Value, json};

use super::api::Applied;
use super::files::{self, Valid};
use super::http::{Ask, Client, parse};
use crate::args::ApplyArgs;
use crate::exit;
use crate::failure::Failure;
use crate::output::{Column, Out, Steps, Table, Tone, clean};

/// What became of one file.
struct Fate<'a> {
    file: &'a Valid,
    answer: Result<Applied, Failure>,
}

/// Runs the command.
pub(super) async fn apply(client: &Client, args: &ApplyArgs, out: Out) -> Result<(), Failure> {
    let paths: Vec<_> = args.paths.iter().chain(&args.files).cloned().collect();
    let files = files::all_valid(files::read_all(&paths)?, out)?;
    if let [file] = files.as_slice() {
        let applied = one(client, file, args, args.dry_run).await?;
        return told(
            vec![Fate {
                file,
                answer: Ok(applied),
            }],
            args.dry_run,
            out,
        );
    }
    // The server knows what no file says: which entries there are. Nothing is applied until it agrees to everything.
    let asked = each(client, &files, args, true, "checking", out).await?;
    if args.dry_run || asked.iter().any(|fate| fate.answer.is_err()) {
        let refused = !args.dry_run;
        if refused {
            out.note("nothing was applied: not all files are accepted");
        }
        return told(asked, true, out);
    }
    let fates = each(client, &files, args, false, "applying", out).await?;
    told(fates, false, out)
}

async fn each<'a>(
    client: &Client,
    files: &'a [Valid],
    args: &ApplyArgs,
    dry_run: bool,
    what: &'static str,
    out: Out,
) -> Result<Vec<Fate<'a>>, Failure> {
    let mut steps = Steps::new(out, what, Some(files.len()));
    let mut fates = Vec::new();
    for (at, file) in files.iter().enumerate() {
        steps.at(at, &file.name());
        let answer = one(client, file, args, dry_run).await;
        // What is wrong with one file is its own matter; a server that is away, or a token that may not, is not.
        match answer {
            Err(failure)
                if failure.status() != exit::USAGE && failure.status() != exit::CONFLICT =>
            {
                return Err(failure);
            }
            answer => fates.push(Fate { file, answer }),
        }
    }
    Ok(fates)
}

async fn one(
    client: &Client,
    file: &Valid,
    args: &ApplyArgs,
    dry_run: bool,
) -> Result<Applied, Failure> {
    let ask = Ask::apply(file.text.clone().into_bytes())
        .with("dry_run", dry_run.then(|| "true".to_owned()))
        .with(
            "allow_unknown_entries",
            args.allow_unknown_entries.then(|| "true".to_owned()),
        );
    let value = client
        .ask(&ask)
        .await
        .map_err(|failure| named(failure, file))?;
    let applied: Applied = parse(value)?;
    if applied.dry_run != dry_run {
        return Err(Failure::Incompatible(format!(
            "{} does not know dry runs and may have applied {}",
            client.server(),
            file.name()
        )));
    }
    Ok(applied)
}

/// Says in which file the server found what it found.
fn named(mut failure: Failure, file: &Valid) -> Failure {
    if let Failure::Problem(problem) = &mut failure {
        problem.file = Some(file.name());
        if problem.code == "unknown_entry" {
            problem.help = Some(
                "a site announces what its catalogue has, after a change once `outpost-agent reload` was run there; \
                 --allow-unknown-entries accepts the workflow before that"
                    .to_owned(),
            );
        }
    }
    failure
}

/// Shows what became of the files; fails with the first failure's status.
fn told(fates: Vec<Fate<'_>>, dry_run: bool, out: Out) -> Result<(), Failure> {
    let items: Vec<Value> = fates.iter().map(item).collect();
    let failed = fates.iter().filter(|fate| fate.answer.is_err()).count();
    let count = fates.len();
    if out.is_json() {
        out.json(&json!({ "dry_run": dry_run, "items": items }));
    } else if count == 1 && failed == 0 {
        line(&fates, dry_run, out);
    } else {
        table(&fates, dry_run, out);
    }
    let mut status = None;
    for fate in fates {
        match fate.answer {
            Ok(applied) => {
                for warning in applied.warnings {
                    warn(&warning, &fate.file.name(), out);
                }
            }
            Err(failure) => {
                status.get_or_insert(failure.status());
                if !out.is_json() {
                    out.failure(&failure);
                }
            }
        }
    }
    match status {
        None => Ok(()),
        Some(status) => Err(Failure::Told {
            summary: format!("{failed} of {count} files are not accepted"),
            status,
        }),
    }
}

fn item(fate: &Fate<'_>) -> Value {
    let file = fate.file.name();
    match &fate.answer {
        Ok(applied) => json!({
            "file": file, "name": applied.name, "version": applied.version, "result": applied.result,
            "warnings": applied.warnings, "error": null,
        }),
        Err(failure) => json!({
            "file": file, "name": fate.file.spec.name.to_string(), "version": null, "result": "failed",
            "warnings": [], "error": failure.json()["error"],
        }),
    }
}

fn line(fates: &[Fate<'_>], dry_run: bool, out: Out) {
    for applied in fates.iter().filter_map(|fate| fate.answer.as_ref().ok()) {
        out.line(&format!(
            "{} version {}: {}",
            clean(&applied.name),
            applied.version,
            result(applied, dry_run)
        ));
    }
}

fn result(applied: &Applied, dry_run: bool) -> String {
    match (dry_run, applied.result.as_str()) {
        (true, "created" | "updated") => format!("would be {}", applied.result),
        (true | false, _) => clean(&applied.result),
    }
}

fn table(fates: &[Fate<'_>], dry_run: bool, out: Out) {
    let columns = [
        Column::new("FILE", 1),
        Column::new("WORKFLOW", 0),
        Column::new("VERSION", 2).right(),
        Column::new("RESULT", 0),
    ];
    let mut table = Table::new(&columns, "no files");
    for fate in fates {
        let (version, result) = match &fate.answer {
            Ok(applied) => (applied.version.to_string(), result(applied, dry_run)),
            Err(_) => (String::new(), "failed".to_owned()),
        };
        let workflow = fate.file.spec.name.to_string();
        table.row(vec![fate.file.name(), workflow, version, result]);
    }
    out.table(&table);
}

fn warn(warning: &Value, file: &str, out: Out) {
    if out.is_json() {
        return;
    }
    let text = warning
        .as_str()
        .map_or_else(|| warning.to_string(), str::to_owned);
    out.note(&format!(
        "{}: {}: {}",
        Tone::Warn.paint("warning"),
        clean(file),
        clean(&text)
    ));
}
