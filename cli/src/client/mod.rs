//! The client: each command asks the API and shows the answer. It never touches a database, an agent or a secret other
//! than its own token.

pub(crate) mod api;
pub(crate) mod config;
pub(crate) mod http;
mod lists;
mod params;
pub(crate) mod sse;
pub(crate) mod tree;
mod watch;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::signal::unix::{SignalKind, signal};

use self::api::{Applied, Invite, RunTree};
use self::config::Connection;
use self::http::{Ask, Client, parse};
use self::tree::Pen;
use crate::args::{AgentsCommand, ApplyArgs, ClientCommand, ConnectionArgs, RunsArgs, TriggerArgs};
use crate::failure::Failure;
use crate::output::{Out, Tone, clean};

pub(crate) use watch::watch;

/// What the server itself refuses to read more of.
const MOST_YAML: u64 = 256 * 1024;

/// Runs one command.
pub(crate) async fn run(
    connection: &ConnectionArgs,
    command: ClientCommand,
    out: Out,
) -> Result<(), Failure> {
    let client = Client::new(Connection::from_args(connection)?)?;
    match command {
        ClientCommand::Apply(args) => apply(&client, &args, out).await,
        ClientCommand::Trigger(args) => trigger(&client, &args, out).await,
        ClientCommand::Workflows => {
            lists::workflows(&client.ask(&Ask::get(&["workflows"])).await?, out)
        }
        ClientCommand::Runs(args) => runs(&client, args, out).await,
        ClientCommand::Run { run } => show_run(client.ask(&Ask::get(&["runs", &run])).await?, out),
        ClientCommand::Cancel { run, wait } => cancel(&client, &run, wait, out).await,
        ClientCommand::Explain { run } => lists::reasons(
            &client.ask(&Ask::get(&["runs", &run, "explain"])).await?,
            out,
        ),
        ClientCommand::Agents { command } => {
            agents(&client, command.unwrap_or(AgentsCommand::List), out).await
        }
        ClientCommand::Logs { attempt } => {
            lists::whereabouts(&client.ask(&Ask::get(&["attempts", &attempt])).await?, out)
        }
    }
}

async fn apply(client: &Client, args: &ApplyArgs, out: Out) -> Result<(), Failure> {
    let mut answers = Vec::new();
    for path in &args.files {
        let yaml = read(path)?;
        let value = client
            .ask(&Ask::apply(yaml, args.allow_unknown_entries))
            .await
            .map_err(|failure| named(failure, path))?;
        let applied: Applied = parse(value.clone())?;
        answers.push(value);
        if !out.is_json() {
            out.line(&format!(
                "{} version {}: {}",
                clean(&applied.name),
                applied.version,
                clean(&applied.result)
            ));
            for warning in &applied.warnings {
                let text = warning
                    .as_str()
                    .map_or_else(|| warning.to_string(), str::to_owned);
                out.note(&format!(
                    "{}: {}",
                    Tone::Warn.paint("warning"),
                    clean(&text)
                ));
            }
        }
    }
    if out.is_json() {
        out.json(&json!({ "items": answers }));
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut yaml = Vec::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin()
            .lock()
            .take(MOST_YAML + 1)
            .read_to_end(&mut yaml)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MOST_YAML + 1).read_to_end(&mut yaml))
    };
    read.map_err(Failure::file(path))?;
    if yaml.len() as u64 > MOST_YAML {
        return Err(Failure::Usage(format!(
            "{} is longer than 256 KiB, the most a workflow may have",
            path.display()
        )));
    }
    Ok(yaml)
}

/// Says in which file the server found what it found.
fn named(mut failure: Failure, path: &Path) -> Failure {
    if let Failure::Problem(problem) = &mut failure {
        problem.file = Some(path.display().to_string());
    }
    failure
}

async fn trigger(client: &Client, args: &TriggerArgs, out: Out) -> Result<(), Failure> {
    let params = if args.params.is_empty() {
        json!({})
    } else {
        let workflow = client
            .ask(&Ask::get(&["workflows", &args.workflow]))
            .await?;
        let declared = workflow
            .get("params")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        params::typed(&args.params, &declared)?
    };
    let answer = start(client, &args.workflow, &params, args.key.as_deref()).await?;
    let run = run_of(&answer)?;
    if args.wait {
        if !out.is_json() {
            out.line(&format!("run {}", clean(&run)));
        }
        return ended(&wait(client, &run, out).await?);
    }
    out.either(&answer, |out| {
        out.line(&format!("run {}", clean(&run)));
        out.line(&Tone::Faint.paint(&format!("see it with: outpost run {}", clean(&run))));
    });
    Ok(())
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
    run.map(str::to_owned)
        .ok_or_else(|| Failure::Internal("the server started a run and did not name it".to_owned()))
}

/// Watches until the run is over, and shows it.
async fn wait(client: &Client, run: &str, out: Out) -> Result<RunTree, Failure> {
    let tree = tokio::select! {
        tree = watch(client, run, out) => tree?,
        stopped = interrupted() => {
            stopped?;
            return Err(Failure::Interrupted(format!(
                "stopped watching; the run goes on. See it with `outpost run {run}`, end it with `outpost cancel {run}`"
            )));
        }
    };
    let value = client.ask(&Ask::get(&["runs", run])).await?;
    if out.is_json() || out.is_live() {
        show_run(value, out)?;
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
    let which = if bad.is_empty() {
        String::new()
    } else {
        format!("; failed: {bad}")
    };
    Err(Failure::Unsuccessful(format!(
        "the run {} {}{which}",
        tree.run, tree.state
    )))
}

/// Returns at Ctrl-C, and when told to end.
pub(crate) async fn interrupted() -> Result<(), Failure> {
    let listen =
        |kind| signal(kind).map_err(|error| Failure::Internal(format!("no signals: {error}")));
    let (mut interrupt, mut terminate) = (
        listen(SignalKind::interrupt())?,
        listen(SignalKind::terminate())?,
    );
    let mut hangup = listen(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

async fn runs(client: &Client, args: RunsArgs, out: Out) -> Result<(), Failure> {
    let ask = Ask::get(&["runs"])
        .with("workflow", args.workflow)
        .with("state", args.state);
    lists::runs(
        &client
            .ask(&ask.with("limit", Some(args.limit.to_string())))
            .await?,
        out,
    )
}

fn show_run(value: Value, out: Out) -> Result<(), Failure> {
    let tree: RunTree = parse(value.clone())?;
    out.either(&value, |out| {
        for line in tree::lines(&tree, Pen::new(out, 0, true)) {
            out.line(&line);
        }
    });
    Ok(())
}

async fn cancel(client: &Client, run: &str, waiting: bool, out: Out) -> Result<(), Failure> {
    let answer = client
        .ask(&Ask::post(&["runs", run, "cancel"], &json!({})).again())
        .await?;
    if !waiting {
        let state = answer
            .get("state")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let pending = answer.get("pending").and_then(Value::as_u64).unwrap_or(0);
        out.either(&answer, |out| match pending {
            0 => out.line(&clean(&state)),
            n => out.line(&format!(
                "{}: {n} attempts end at their agents' next contact",
                clean(&state)
            )),
        });
        return Ok(());
    }
    let tree = wait(client, run, out).await?;
    if tree.state == "cancelled" {
        return Ok(());
    }
    Err(Failure::Unsuccessful(format!(
        "the run {run} {} before it could be cancelled",
        tree.state
    )))
}

async fn agents(client: &Client, command: AgentsCommand, out: Out) -> Result<(), Failure> {
    match command {
        AgentsCommand::List => lists::agents(&client.ask(&Ask::get(&["agents"])).await?, out),
        AgentsCommand::Remove { agent } => {
            client.ask(&Ask::delete(&["agents", &agent])).await?;
            out.either(&json!({ "agent": agent, "presence": "removed" }), |out| {
                out.line(&format!("{agent} is removed"))
            });
            Ok(())
        }
        AgentsCommand::Invite {
            agent,
            ttl,
            token_out,
        } => {
            let answer = invite(client, &agent, ttl).await?;
            let invite: Invite = parse(answer.clone())?;
            match &token_out {
                Some(path) => {
                    write_new(path, &invite.token)?;
                    let shown = json!({ "agent": agent, "token_file": path, "expires_at": invite.expires_at });
                    out.either(&shown, |out| {
                        out.line(&format!(
                            "{}: good once, until {}",
                            path.display(),
                            tree::day_and_clock(&invite.expires_at)
                        ));
                    });
                }
                None => out.either(&answer, |out| out.line(&clean(&invite.token))),
            }
            if !out.is_json() {
                out.note(
                    "at the site: outpost-agent enrol --token-file FILE, then outpost-agent run",
                );
            }
            Ok(())
        }
    }
}

/// Asks for a one-time token.
pub(crate) async fn invite(client: &Client, agent: &str, ttl: Duration) -> Result<Value, Failure> {
    let body = json!({ "agent": agent, "ttl_s": ttl.as_secs() });
    client
        .ask(&Ask::post(&["agents", "invites"], &body).again())
        .await
}

/// Writes a secret to a file that did not exist, readable by its owner only.
pub(crate) fn write_new(path: &Path, secret: &str) -> Result<(), Failure> {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let mut file = file.map_err(Failure::file(path))?;
    writeln!(file, "{secret}")
        .and_then(|()| file.sync_all())
        .map_err(Failure::file(path))
}
