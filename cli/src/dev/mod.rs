//! `outpost dev`: an orchestrator and an agent on this machine, with an authority of their own, until Ctrl-C.

pub(crate) mod pair;
mod place;
mod reset;
mod supervisor;

use serde_json::json;

use crate::args::DevArgs;
use crate::client::interrupted;
use crate::demo::{self, Example, example, good, step};
use crate::failure::Failure;
use crate::output::Out;

pub(crate) use self::pair::Server;
pub(crate) use self::place::Place;
pub(crate) use self::supervisor::Supervisor;

/// Runs until told to stop.
pub(crate) async fn run(args: &DevArgs, out: Out) -> Result<(), Failure> {
    if args.reset {
        reset::reset(args.dir.as_deref(), args.yes, out)?;
    }
    let place = Place::create("dev", args.dir.as_deref())?;
    let mut supervisor = Supervisor::new()?;
    let result = tokio::select! {
        biased;
        // What was asked for is a stop: there is nothing wrong with it.
        stopped = interrupted() => stopped,
        up = up(args, &place, &mut supervisor, out) => match up {
            Ok(()) => interrupted().await,
            Err(failure) => Err(failure),
        },
    };
    step(out, "stopping");
    let killed = supervisor.end().await;
    if killed > 0 {
        out.note(&format!(
            "{killed} processes did not end by themselves and were killed"
        ));
    }
    step(
        out,
        &format!(
            "nothing is left running; what was kept is in {}",
            place.root().display()
        ),
    );
    result
}

async fn up(
    args: &DevArgs,
    place: &Place,
    supervisor: &mut Supervisor,
    out: Out,
) -> Result<(), Failure> {
    let catalogue = match &args.catalogue {
        Some(dir) => dir.canonicalize().map_err(Failure::file(dir))?,
        None => {
            let user = rustix::process::geteuid().is_root().then_some("nobody");
            example::install(&place.catalogue(), user)?;
            place.catalogue()
        }
    };
    good(out, &format!("directory     {}", place.root().display()));
    let server = pair::orchestrator(place, supervisor).await?;
    good(
        out,
        &format!(
            "orchestrator  {}, agents at {}",
            server.ready.api, server.ready.agents
        ),
    );
    pair::agent(place, supervisor, &server, &catalogue, args.slots).await?;
    good(
        out,
        &format!(
            "agent         {} runs what {} allows",
            pair::AGENT,
            catalogue.display()
        ),
    );
    let workflow = place.root().join("host-report.yaml");
    let example = if args.catalogue.is_none() {
        std::fs::write(&workflow, example::WORKFLOW).map_err(Failure::file(&workflow))?;
        let text = format!("workflow      {} (to be applied)", workflow.display());
        good(out, &text);
        Example::InFile(&workflow)
    } else {
        Example::None
    };
    if out.is_json() {
        out.json(&json!({
            "dir": place.root(), "server": server.ready.api, "agents": server.ready.agents.to_string(),
            "token_file": place.token(), "ca": place.orchestrator().join("ca/root.crt"), "agent": pair::AGENT,
            "catalogue": catalogue,
        }));
        return Ok(());
    }
    step(out, "");
    demo::to_try(place, &server.ready.api, &catalogue, example, out);
    step(out, "");
    step(out, "Ctrl-C ends it.");
    Ok(())
}
