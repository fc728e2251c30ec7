//! `outpost demo`: a real workflow on this machine, from enrolment to report, and the proof of what left the site.
//!
//! Uses the same programs, commands and API as anybody: nothing here reaches into the orchestrator or the agent, except
//! that the ledger is read with the agent's own reader.

mod chaos;
mod checks;
pub(crate) mod example;
mod ledger;
mod search;
mod summary;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use outpost_agent::leaktest::Report;
use outpost_faults::proxy::Proxy;
use serde_json::{Value, json};
use tokio::time::sleep;

use self::chaos::Disturbed;
use self::ledger::Left;
pub(crate) use self::summary::Example;
use self::summary::Whereabouts;
use crate::args::DemoArgs;
use crate::client::api::{Applied, RunTree};
use crate::client::http::{Ask, parse};
use crate::client::tree::took_duration;
use crate::client::{self, interrupted};
use crate::dev::{Place, Server, Supervisor, pair};
use crate::failure::Failure;
use crate::output::{Out, Tone};

/// Tasks at a time: as many as ever wait for nothing.
const SLOTS: u16 = 8;
/// How long the agent's catalogue may take to be known.
const ANNOUNCED: Duration = Duration::from_secs(30);

/// What the demo did.
struct Done {
    server: Server,
    tree: RunTree,
    value: Value,
    disturbed: Option<Disturbed>,
    /// The leak test, of a run that nothing disturbed.
    leaktest: Option<Report>,
    /// What the agent's connections pass through, if anything.
    _proxy: Option<Proxy>,
}

/// Runs it, and ends everything that it started.
pub(crate) async fn run(args: &DemoArgs, out: Out) -> Result<(), Failure> {
    let begun = Instant::now();
    step(
        out,
        "An orchestrator, an agent and a workflow about this machine; everything on loopback.",
    );
    let place = Place::create("demo", args.dir.as_deref())?;
    let mut supervisor = Supervisor::new()?;
    let done = tokio::select! {
        biased;
        stopped = interrupted() => stopped.and(Err(Failure::Interrupted("the demo was stopped".to_owned()))),
        done = all(args, &place, &mut supervisor, out) => done,
    };
    let restarts = supervisor.restarts();
    let done = match done {
        Ok(done) if args.keep => {
            let told = tell(&done, &place, restarts, out);
            keep(&place, &done.server, out).await?;
            let killed = supervisor.end().await;
            return told.and(ended(killed));
        }
        Ok(done) => done,
        Err(failure) => {
            supervisor.end().await;
            // Ours is removed by the fifth demo after this one; until then it says what happened.
            out.note(&format!("what there is of it: {}", place.root().display()));
            return Err(failure);
        }
    };
    let killed = supervisor.end().await;
    let told = tell(&done, &place, restarts, out);
    if !out.is_json() {
        out.line("");
        out.line(&Tone::Faint.paint(&format!(
            "took {}; nothing is left running",
            took_duration(begun.elapsed())
        )));
    }
    told.and(ended(killed))
}

/// From nothing to the end of the run.
async fn all(
    args: &DemoArgs,
    place: &Place,
    supervisor: &mut Supervisor,
    out: Out,
) -> Result<Done, Failure> {
    let user = rustix::process::geteuid().is_root().then_some("nobody");
    let proxy = if args.chaos {
        example::install_counted(&place.catalogue(), user, &chaos::marks(place.root()))?;
        let proxy = Proxy::listen(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Some(proxy.map_err(|error| Failure::Internal(format!("no proxy: {error}")))?)
    } else {
        example::install(&place.catalogue(), user)?;
        checks::prepare(place, user)?;
        None
    };
    good(out, &format!("directory     {}", place.root().display()));

    let door = proxy.as_ref().map(Proxy::address);
    let server = pair::orchestrator_behind(door, place, supervisor).await?;
    if let Some(proxy) = &proxy {
        proxy.forward_to(server.ready.agents);
    }
    good(
        out,
        &format!(
            "orchestrator  {}, agents at {}",
            server.ready.api, server.ready.agents
        ),
    );
    pair::agent(place, supervisor, &server, &place.catalogue(), SLOTS).await?;
    good(
        out,
        &format!(
            "agent         {} enrolled with a one-time token and dialled out",
            pair::AGENT
        ),
    );

    let applied = apply(&server).await?;
    good(
        out,
        &format!(
            "workflow      {} version {} {}",
            applied.name, applied.version, applied.result
        ),
    );
    if let Some(proxy) = proxy {
        let disturbed = chaos::run(place, &server, &proxy, args.top, out).await?;
        return Ok(Done {
            server,
            tree: disturbed.tree.clone(),
            value: disturbed.value.clone(),
            disturbed: Some(disturbed),
            leaktest: None,
            _proxy: Some(proxy),
        });
    }
    let key = format!("demo-{}", std::process::id());
    let params = json!({ "top": args.top });
    let answer = client::start(&server.client, example::NAME, &params, Some(&key)).await?;
    let run = client::run_of(&answer)?;
    good(
        out,
        &format!("run           {run}, with top = {}", args.top),
    );
    let tree = client::watch(&server.client, &run, out).await?;
    let value = server.client.ask(&Ask::get(&["runs", &run])).await?;
    let leaktest = Some(checks::run(place, &server).await?);
    Ok(Done {
        server,
        tree,
        value,
        disturbed: None,
        leaktest,
        _proxy: None,
    })
}

/// The agent may be in touch a moment before its catalogue is known.
async fn apply(server: &Server) -> Result<Applied, Failure> {
    let until = Instant::now() + ANNOUNCED;
    loop {
        let ask = Ask::apply(example::WORKFLOW.as_bytes().to_vec());
        match server.client.ask(&ask).await {
            Err(Failure::Problem(problem))
                if problem.code == "unknown_entry" && Instant::now() < until =>
            {
                sleep(Duration::from_millis(50)).await;
            }
            other => return parse(other?),
        }
    }
}

/// The summary. What is said in it decides how the demo ends.
fn tell(done: &Done, place: &Place, restarts: u32, out: Out) -> Result<(), Failure> {
    let at = Whereabouts::of(place, &done.tree.run);
    let succeeded = done.tree.state == "succeeded";
    let examined = if succeeded {
        Some(ledger::examine(&at.ledger, &at.run_dir))
    } else {
        None
    };
    if out.is_json() {
        let left = examined.as_ref().and_then(|left| left.as_ref().ok());
        let mut told = summary::json(&done.value, &at, left, restarts);
        if let Some(disturbed) = &done.disturbed {
            told["chaos"] = disturbed.json();
        }
        if let Some(leaktest) = &done.leaktest {
            told["leaktest"] = json!(leaktest);
        }
        out.json(&told);
    } else {
        summary::run(&done.tree, &at, out);
        if let Some(Ok(left)) = &examined {
            summary::left(left, &at, out);
            summary::checked(left, done.leaktest.as_ref(), out);
        }
        if let Some(disturbed) = &done.disturbed {
            disturbed.tell(out);
        }
        if restarts > 0 {
            out.line("");
            out.line(&format!(
                "{restarts} times one of the daemons was gone and was started again"
            ));
        }
    }
    done.disturbed.as_ref().map_or(Ok(()), Disturbed::verdict)?;
    done.leaktest.as_ref().map_or(Ok(()), checks::verdict)?;
    verdict(&done.tree, examined)
}

fn verdict(tree: &RunTree, examined: Option<Result<Left, Failure>>) -> Result<(), Failure> {
    let Some(left) = examined else {
        return Err(Failure::Unsuccessful(format!("the run {}", tree.state)));
    };
    match left?.search.found.len() {
        0 => Ok(()),
        n => Err(Failure::Unsuccessful(format!(
            "{n} strings of the report left the site"
        ))),
    }
}

fn ended(killed: usize) -> Result<(), Failure> {
    match killed {
        0 => Ok(()),
        n => Err(Failure::Unsuccessful(format!(
            "{n} processes did not end by themselves and were killed"
        ))),
    }
}

/// Leaves everything running until somebody says otherwise.
async fn keep(place: &Place, server: &Server, out: Out) -> Result<(), Failure> {
    if !out.is_json() {
        out.line("");
        let api = &server.ready.api;
        summary::to_try(place, api, &place.catalogue(), Example::Applied, out);
        out.line("");
        out.line("Ctrl-C ends it.");
    }
    interrupted().await
}

/// Says what `dev` offers to try.
pub(crate) fn to_try(place: &Place, api: &str, catalogue: &Path, example: Example<'_>, out: Out) {
    summary::to_try(place, api, catalogue, example, out);
}

/// One line of progress.
pub(crate) fn step(out: Out, text: &str) {
    if !out.is_json() {
        out.line(text);
    }
}

/// One line about something that stands now.
pub(crate) fn good(out: Out, text: &str) {
    step(
        out,
        &format!(
            "{} {text}",
            Tone::Good.paint(if out.is_unicode() { "✔" } else { "+" })
        ),
    );
}
