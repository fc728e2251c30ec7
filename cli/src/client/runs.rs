//! Commands about runs: start, list, show, watch, cancel, run again.

use serde_json::{Map, Value, json};

use super::api::{Items, RunTree};
use super::http::{Ask, Client, parse};
use super::tree::Pen;
use super::watch::watch_from;
use super::{interrupted, lists, pages, params, tree, workflows};
use crate::args::{CancelArgs, RerunArgs, RunsArgs, TriggerArgs};
use crate::failure::Failure;
use crate::output::{Out, Tone, clean};
use crate::suggest;

/// Digits of a whole id.
const WHOLE: usize = 32;
/// Fewer digits say too little.
const SHORTEST: usize = 4;
/// So many random digits belong to one run only: the first that begins with them is it.
const CERTAIN: usize = 12;
/// Runs that are looked through for a beginning.
const NEWEST: usize = 10_000;
/// Candidates that are named.
const NAMED: usize = 5;

/// The id that was meant by a whole one or a unique beginning.
///
/// # Errors
/// It is no id, it is nobody's beginning, or several runs'.
pub(super) async fn id(client: &Client, given: &str) -> Result<String, Failure> {
    let text = given.to_ascii_lowercase();
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    if !digits || text.len() > WHOLE || text.len() < SHORTEST {
        return Err(Failure::Usage(format!(
            "`{given}` is no id of a run: one has {WHOLE} digits from 0 to f, of which the first {SHORTEST} or more are \
             enough when they are unique; `outpost runs` lists them"
        )));
    }
    if text.len() == WHOLE {
        return Ok(text);
    }
    let mut found: Vec<(String, String)> = Vec::new();
    let mut cursor: Option<String> = None;
    for _ in 0..NEWEST / 1000 {
        let ask = Ask::get(&["runs"])
            .with("limit", Some("1000".to_owned()))
            .with("cursor", cursor);
        let page: Items<super::api::RunItem> = client.get(&ask).await?;
        let begin = page
            .items
            .into_iter()
            .filter(|run| run.run.starts_with(&text));
        found.extend(begin.map(|run| (run.run, run.workflow)));
        cursor = page.next;
        if cursor.is_none() || (text.len() >= CERTAIN && !found.is_empty()) || found.len() > NAMED {
            break;
        }
    }
    match found.as_slice() {
        [(run, _)] => Ok(run.clone()),
        [] => Err(Failure::NotFound(format!(
            "no run begins with `{given}` among the newest {NEWEST}; `outpost runs` lists them"
        ))),
        several => {
            let names = several.iter().take(NAMED);
            let names: Vec<String> = names.map(|(run, of)| format!("{run} ({of})")).collect();
            let more = if several.len() > NAMED { ", …" } else { "" };
            Err(Failure::Usage(format!(
                "`{given}` is the beginning of several runs: {}{more}; write more digits",
                names.join(", ")
            )))
        }
    }
}

/// `outpost trigger WORKFLOW`
pub(super) async fn trigger(client: &Client, args: &TriggerArgs, out: Out) -> Result<(), Failure> {
    let name = args.workflow.as_str();
    let params = if args.params.is_empty() {
        json!({})
    } else {
        let workflow = workflows::ask(client, name, &Ask::get(&["workflows", name])).await?;
        let declared = workflow
            .get("params")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        params::typed(&args.params, &declared)?
    };
    let answer = match start(client, name, &params, args.key.as_deref()).await {
        Ok(answer) => answer,
        Err(failure) => {
            let help = parameter_help(&failure);
            return Err(workflows::meant(client, name, failure).await.advised(help));
        }
    };
    let run = run_of(&answer)?;
    if args.wait {
        if !out.is_json() {
            out.line(&format!("run {}", clean(&run)));
        }
        return ended(&wait(client, &run, None, out).await?);
    }
    out.either(&answer, |out| {
        out.line(&format!("run {}", clean(&run)));
        out.line(&Tone::Faint.paint(&format!("see it with: outpost watch {}", short(&run))));
    });
    Ok(())
}

/// How the parameter is given that the server found wrong.
fn parameter_help(failure: &Failure) -> Option<String> {
    let Failure::Problem(problem) = failure else {
        return None;
    };
    let name = problem.path.as_deref()?.strip_prefix("params.")?;
    Some(format!("give it as `--param {}=VALUE`", clean(name)))
}

/// Starts a run; the answer names it.
pub(crate) async fn start(
    client: &Client,
    workflow: &str,
    params: &Value,
    key: Option<&str>,
) -> Result<Value, Failure> {
    let body = Value::Object(Map::from_iter([("params".to_owned(), params.clone())]));
    client
        .ask(&Ask::post(&["workflows", workflow, "runs"], &body).keyed(key))
        .await
}

/// The id in an answer to [`start`].
pub(crate) fn run_of(answer: &Value) -> Result<String, Failure> {
    let run = answer.get("run").and_then(Value::as_str);
    run.map(str::to_owned).ok_or_else(|| {
        Failure::Incompatible("the server started a run and did not name it".to_owned())
    })
}

/// A beginning that is surely unique.
fn short(run: &str) -> String {
    clean(run).chars().take(CERTAIN).collect()
}

/// `outpost watch RUN`
pub(super) async fn watch_to_end(client: &Client, given: &str, out: Out) -> Result<(), Failure> {
    let run = id(client, given).await?;
    ended(&wait(client, &run, None, out).await?)
}

/// Watches until the run is over, and shows it.
async fn wait(
    client: &Client,
    run: &str,
    known: Option<&RunTree>,
    out: Out,
) -> Result<RunTree, Failure> {
    let tree = tokio::select! {
        tree = watch_from(client, run, known, out) => tree?,
        stopped = interrupted() => {
            stopped?;
            return Err(Failure::Interrupted(format!(
                "stopped watching; the run goes on. See it with `outpost watch {run}`, end it with `outpost cancel {run}`"
            )));
        }
    };
    let value = client.ask(&Ask::get(&["runs", run])).await?;
    if out.is_json() || out.is_live() {
        show_tree(value, out)?;
    }
    Ok(tree)
}

/// Success, or a failure that says how it ended.
fn ended(tree: &RunTree) -> Result<(), Failure> {
    if tree.state == "succeeded" {
        return Ok(());
    }
    let bad = tree
        .tasks
        .iter()
        .filter(|task| task.state == "failed")
        .map(|task| task.task.as_str());
    let bad = bad.collect::<Vec<_>>().join(", ");
    if bad.is_empty() {
        return Err(Failure::Unsuccessful(format!(
            "the run {} {}",
            tree.run, tree.state
        )));
    }
    Err(Failure::Ended {
        message: format!("the run {} {}; failed: {bad}", tree.run, tree.state),
        help: where_to_look(tree),
    })
}

/// Where it stands why the first task that failed did so.
fn where_to_look(tree: &RunTree) -> String {
    let mut failed = tree.tasks.iter().filter(|task| task.state == "failed");
    let last = failed.find_map(|task| Some((task, task.attempts.last()?)));
    let run = short(&tree.run);
    let Some((task, attempt)) = last else {
        return format!("`outpost explain {run}` says why");
    };
    let site = attempt.agent.as_ref().or(tree.agent.as_ref());
    let site = site.map_or_else(|| "its site".to_owned(), |agent| clean(agent));
    // What was refused never ran, so it has no log; what could not be started has one if it came so far.
    let look = if attempt.ending().starts_with("refused") {
        format!("the reason, at {site}: outpost-agent status")
    } else if attempt.ending().starts_with("start_failed") {
        let id = short(&attempt.attempt);
        format!("the reason, at {site}: outpost-agent logs {id}, or outpost-agent status")
    } else {
        let task = clean(&task.task);
        let id = short(&attempt.attempt);
        format!("the log of `{task}`, at {site}: outpost-agent logs {id}")
    };
    format!("{look}; once it is mended: outpost rerun {run}")
}

/// `outpost runs`
pub(super) async fn list(client: &Client, args: &RunsArgs, out: Out) -> Result<(), Failure> {
    let ask = Ask::get(&["runs"])
        .with("workflow", args.workflow.clone())
        .with("state", args.state.clone());
    let most = (!args.all).then_some(args.limit as usize);
    let value = pages::all(client, &ask, most, "reading runs", out).await?;
    let is_empty = value
        .get("items")
        .and_then(Value::as_array)
        .is_some_and(Vec::is_empty);
    if let Some(name) = args.workflow.as_deref().filter(|_| is_empty) {
        // Of a workflow that is gone there may be runs; one that never was is a mistake.
        workflows::ask(client, name, &Ask::get(&["workflows", name])).await?;
    }
    lists::runs(&value, args.workflow.is_some() || args.state.is_some(), out)
}

/// `outpost run RUN`
pub(super) async fn show(client: &Client, given: &str, out: Out) -> Result<(), Failure> {
    let run = id(client, given).await?;
    show_tree(client.ask(&Ask::get(&["runs", &run])).await?, out)
}

fn show_tree(value: Value, out: Out) -> Result<(), Failure> {
    let tree: RunTree = parse(value.clone())?;
    out.either(&value, |out| {
        for line in tree::lines(&tree, Pen::new(out, 0, true)) {
            out.line(&line);
        }
    });
    Ok(())
}

/// `outpost cancel RUN`
pub(super) async fn cancel(client: &Client, args: &CancelArgs, out: Out) -> Result<(), Failure> {
    let run = id(client, &args.run).await?;
    let answer = client
        .ask(&Ask::post(&["runs", &run, "cancel"], &json!({})).again())
        .await?;
    if !args.wait {
        let state = answer
            .get("state")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let pending = answer.get("pending").and_then(Value::as_u64).unwrap_or(0);
        out.either(&answer, |out| match pending {
            0 => out.line(&clean(&format!("run {run}: {state}"))),
            1 => out.line(&clean(&format!(
                "run {run}: {state}; 1 attempt ends at its agent's next contact"
            ))),
            n => out.line(&clean(&format!(
                "run {run}: {state}; {n} attempts end at their agents' next contact"
            ))),
        });
        return Ok(());
    }
    let tree = wait(client, &run, None, out).await?;
    if tree.state == "cancelled" {
        return Ok(());
    }
    Err(Failure::Unsuccessful(format!(
        "the run {run} {} before it could be cancelled",
        tree.state
    )))
}

/// `outpost rerun RUN`
pub(super) async fn rerun(client: &Client, args: &RerunArgs, out: Out) -> Result<(), Failure> {
    let run = id(client, &args.run).await?;
    let before: RunTree = client.get(&Ask::get(&["runs", &run])).await?;
    let body = if args.tasks.is_empty() {
        json!({})
    } else {
        json!({ "tasks": args.tasks })
    };
    let answer = match client
        .ask(&Ask::post(&["runs", &run, "rerun"], &body))
        .await
    {
        Ok(answer) => answer,
        Err(failure) => return Err(meant(&before, &args.tasks, failure)),
    };
    let tasks: Vec<&str> = answer
        .get("tasks")
        .and_then(Value::as_array)
        .map(|tasks| tasks.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let line = format!("run {}: again {}", clean(&run), clean(&tasks.join(", ")));
    if args.wait {
        if !out.is_json() {
            out.line(&line);
        }
        return ended(&wait(client, &run, Some(&before), out).await?);
    }
    out.either(&answer, |out| {
        out.line(&line);
        out.line(&Tone::Faint.paint(&format!("see it with: outpost watch {}", short(&run))));
    });
    Ok(())
}

/// A task that the run does not have is told with one that is meant.
fn meant(tree: &RunTree, tasks: &[String], failure: Failure) -> Failure {
    let names = tree.tasks.iter().map(|task| task.task.as_str());
    let wrong = tasks
        .iter()
        .find(|task| !names.clone().any(|name| name == *task));
    let help = wrong.and_then(|task| suggest::sentence(task, names));
    failure.advised(help)
}

/// `outpost explain RUN [TASK]`
pub(super) async fn explain(
    client: &Client,
    given: &str,
    task: Option<&str>,
    out: Out,
) -> Result<(), Failure> {
    let run = id(client, given).await?;
    let mut value = client.ask(&Ask::get(&["runs", &run, "explain"])).await?;
    if let Some(task) = task
        && let Some(items) = value.get_mut("items").and_then(Value::as_array_mut)
    {
        let named = |item: &Value| item.get("task").and_then(Value::as_str).map(str::to_owned);
        let names: Vec<String> = items.iter().filter_map(named).collect();
        items.retain(|item| named(item).as_deref() == Some(task));
        if items.is_empty() {
            let unknown = Failure::NotFound(format!("the run has no task `{task}`"));
            let names = names.iter().map(String::as_str);
            return Err(unknown.advised(suggest::sentence(task, names)));
        }
    }
    lists::reasons(&value, out)
}
