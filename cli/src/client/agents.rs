//! Commands about agents: invite, remove, show, and what they get to do.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::api::{AgentItem, Invite, Items, RecoveryItem};
use super::http::{Ask, Client, parse};
use super::sse::{Following, Signal};
use super::{interrupted, lists, recovery, tree};
use crate::args::{AgentsCommand, DrainArgs, InviteArgs};
use crate::failure::Failure;
use crate::output::{Out, Steps, clean};
use crate::suggest;

/// An agent says at least every ten seconds how it is; its own events are told at once.
const LOOK: Duration = Duration::from_secs(2);

/// Runs one of the commands.
pub(super) async fn run(client: &Client, command: AgentsCommand, out: Out) -> Result<(), Failure> {
    match command {
        AgentsCommand::List => {
            let agents = client.ask(&Ask::get(&["agents"])).await?;
            warn(client, &agents, out).await;
            lists::agents(&agents, out)
        }
        AgentsCommand::Resolve { agent, keep } => {
            let keep = json!({ "keep": keep });
            let value = ask(
                client,
                &agent,
                &Ask::post(&["agents", &agent, "resolve"], &keep),
            )
            .await?;
            out.either(&value, |out| {
                out.line(&format!(
                    "{} has one holder again; the other one is turned away and is to be enrolled under a name of its own",
                    clean(&agent)
                ));
            });
            Ok(())
        }
        AgentsCommand::Unfreeze => recovery::unfreeze(client, out).await,
        AgentsCommand::Show { agent } => lists::agent(
            &ask(client, &agent, &Ask::get(&["agents", &agent])).await?,
            out,
        ),
        AgentsCommand::Remove { agent, yes } => remove(client, &agent, yes, out).await,
        AgentsCommand::Invite(args) => show_invite(client, &args, out).await,
        AgentsCommand::Label { agent, labels } => label(client, &agent, &labels, out).await,
        AgentsCommand::Queues { agent, queues } => {
            let list = queues.join(", ");
            let change = json!({ "queues": queues });
            configure(client, &agent, &change, out, |_| format!("serves {list}")).await
        }
        AgentsCommand::Slots { agent, slots } => {
            let change = json!({ "slots": slots.0 });
            let words = slots.0.map_or_else(
                || "gets as many tasks as it has slots".to_owned(),
                |slots| match slots {
                    1 => "gets at most 1 task at once".to_owned(),
                    _ => format!("gets at most {slots} tasks at once"),
                },
            );
            configure(client, &agent, &change, out, |_| words).await
        }
        AgentsCommand::Cordon { agent } => {
            let change = json!({ "cordoned": true });
            let words =
                |view: &AgentItem| format!("is cordoned: it gets nothing new; {}", has(view));
            configure(client, &agent, &change, out, words).await
        }
        AgentsCommand::Uncordon { agent } => {
            let change = json!({ "cordoned": false, "draining": false });
            let words = |_: &AgentItem| "gets work again".to_owned();
            configure(client, &agent, &change, out, words).await
        }
        AgentsCommand::Drain(args) => drain(client, &args, out).await,
    }
}

/// Asks about one agent; one that is not there is told with one that is meant.
async fn ask(client: &Client, agent: &str, ask: &Ask<'_>) -> Result<Value, Failure> {
    let failure = match client.ask(ask).await {
        Ok(value) => return Ok(value),
        Err(failure) if failure.is_not_found() => failure,
        Err(failure) => return Err(failure),
    };
    let Ok(known) = client.get::<Items<AgentItem>>(&Ask::get(&["agents"])).await else {
        return Err(failure);
    };
    let there = known.items.iter().filter(|item| item.presence != "removed");
    let names = there.map(|item| item.agent.as_str());
    let help = suggest::sentence(agent, names).unwrap_or_else(|| {
        let help = if known.items.is_empty() {
            "there are no agents yet; `outpost agents invite NAME` makes a token for one"
        } else {
            "`outpost agents` lists those that are there"
        };
        help.to_owned()
    });
    Err(failure.advised(Some(help)))
}

/// `outpost agents remove NAME`
async fn remove(client: &Client, agent: &str, yes: bool, out: Out) -> Result<(), Failure> {
    if !yes {
        // Whoever mistyped the name learns it before being asked.
        let known = ask(client, agent, &Ask::get(&["agents", agent])).await?;
        let known = parse::<AgentItem>(known)?;
        let held = match known.attempts {
            0 => String::new(),
            1 => " It holds 1 attempt, which is given up.".to_owned(),
            more => format!(" It holds {more} attempts, which are given up."),
        };
        let server = client.server();
        out.confirm(
            &format!("Remove the agent `{agent}` at {server}?{held}"),
            "--yes",
        )?;
    }
    ask(client, agent, &Ask::delete(&["agents", agent])).await?;
    out.either(&json!({ "agent": agent, "presence": "removed" }), |out| {
        out.line(&format!("{} is removed", clean(agent)));
    });
    Ok(())
}

/// Says above the list what endangers the work as a whole, if some agent is not as it should be.
async fn warn(client: &Client, agents: &Value, out: Out) {
    let Ok(agents) = parse::<Items<AgentItem>>(agents.clone()) else {
        return;
    };
    let odd =
        |item: &AgentItem| item.presence != "live" || item.held_back || !item.holders.is_empty();
    if out.is_json() || !agents.items.iter().any(odd) {
        return;
    }
    // An older server does not know, and has nothing to warn of.
    if let Ok(item) = client.get::<RecoveryItem>(&Ask::get(&["recovery"])).await {
        for line in recovery::warnings(&item) {
            out.note(&clean(&line));
        }
    }
}

async fn change(client: &Client, agent: &str, change: &Value) -> Result<Value, Failure> {
    ask(client, agent, &Ask::patch(&["agents", agent], change)).await
}

async fn configure(
    client: &Client,
    agent: &str,
    what: &Value,
    out: Out,
    words: impl FnOnce(&AgentItem) -> String,
) -> Result<(), Failure> {
    let value = change(client, agent, what).await?;
    let view: AgentItem = parse(value.clone())?;
    out.either(&value, |out| {
        out.line(&format!("{} {}", clean(&view.agent), clean(&words(&view))));
    });
    Ok(())
}

fn has(view: &AgentItem) -> String {
    match view.attempts {
        0 => "it has nothing".to_owned(),
        1 => "it still has 1 attempt".to_owned(),
        n => format!("it still has {n} attempts"),
    }
}

/// The server takes all labels at once: what is not named stays as it was.
async fn label(client: &Client, agent: &str, labels: &[String], out: Out) -> Result<(), Failure> {
    let view: AgentItem = parse(ask(client, agent, &Ask::get(&["agents", agent])).await?)?;
    let mut all: Map<String, Value> = view
        .labels
        .into_iter()
        .map(|(key, value)| (key, Value::String(value)))
        .collect();
    for text in labels {
        match (text.split_once('='), text.strip_suffix('-')) {
            (Some((key, value)), _) if !key.is_empty() => {
                all.insert(key.to_owned(), Value::String(value.to_owned()));
            }
            (None, Some(key)) if !key.is_empty() => {
                if all.remove(key).is_none() {
                    return Err(Failure::Usage(format!("{agent} has no label `{key}`")));
                }
            }
            (Some(_) | None, _) => {
                return Err(Failure::Usage(format!(
                    "{text}: write KEY=VALUE to set a label, KEY- to take one away"
                )));
            }
        }
    }
    let words = |view: &AgentItem| match lists::labels(&view.labels).as_str() {
        "" => "has no labels".to_owned(),
        labels => format!("has the labels {labels}"),
    };
    configure(client, agent, &json!({ "labels": all }), out, words).await
}

async fn drain(client: &Client, args: &DrainArgs, out: Out) -> Result<(), Failure> {
    let agent = args.agent.as_str();
    let value = change(client, agent, &json!({ "draining": true })).await?;
    let view: AgentItem = parse(value.clone())?;
    if !args.wait {
        out.either(&value, |out| {
            out.line(&format!("{} drains; {}", clean(agent), has(&view)));
        });
        return Ok(());
    }
    let until = Instant::now() + args.timeout;
    let emptied = tokio::select! {
        emptied = timeout_at(until, empty(client, agent, out)) => emptied,
        stopped = interrupted() => {
            stopped?;
            return Err(Failure::Interrupted(format!(
                "stopped waiting; {agent} goes on draining until `outpost agents uncordon {agent}`"
            )));
        }
    };
    let Ok(emptied) = emptied else {
        let view: AgentItem = client.get(&Ask::get(&["agents", agent])).await?;
        return Err(Failure::Unsuccessful(format!(
            "{agent} is not empty after {}: {} (it is {}); it goes on draining until `outpost agents uncordon {agent}`",
            tree::took_duration(args.timeout),
            has(&view),
            view.presence
        )));
    };
    out.either(&emptied?, |out| {
        out.line(&format!("{} is drained: nothing runs there", clean(agent)));
    });
    Ok(())
}

/// Returns the agent once nothing is there any more. Says what is left whenever that changes.
async fn empty(client: &Client, agent: &str, out: Out) -> Result<Value, Failure> {
    let client = &client.clone().quiet();
    let mut events = Following::of(client, None);
    let mut steps = Steps::new(out, "draining", None);
    let mut told = None;
    loop {
        let value = client.ask(&Ask::get(&["agents", agent])).await?;
        let view: AgentItem = parse(value.clone())?;
        if view.attempts == 0 {
            return Ok(value);
        }
        steps.at(0, &has(&view));
        if told.replace(view.attempts) != Some(view.attempts)
            && !out.is_json()
            && !out.is_attended()
        {
            out.line(&format!("{} drains; {}", clean(agent), has(&view)));
        }
        let next = Instant::now() + LOOK;
        tokio::select! {
            signal = events.next() => match signal? {
                Signal::Opened | Signal::Event | Signal::End => {}
                Signal::Broken(_) => sleep_until(next).await,
            },
            () = sleep_until(next) => {}
        }
    }
}

async fn show_invite(client: &Client, args: &InviteArgs, out: Out) -> Result<(), Failure> {
    let answer = invite(client, &args.agent, args.ttl).await?;
    let invite: Invite = parse(answer.clone())?;
    match &args.token_out {
        Some(path) => {
            write_new(path, &invite.token)?;
            let shown =
                json!({ "agent": args.agent, "token_file": path, "expires_at": invite.expires_at });
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
        out.note("at the site: outpost-agent enrol --token-file FILE, then outpost-agent run");
    }
    Ok(())
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
