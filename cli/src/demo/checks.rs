//! The closing section: the leak test that any site can make, made here. Canaries are in the catalogue, the orchestrator
//! has them run as it has any task run, and the mark that they left everywhere is looked for where it must not be.

use std::time::{Duration, Instant};

use outpost_agent::leaktest::{self, Options, Report, Verdict, canary};
use outpost_agent::state_dir::StateDir;
use outpost_agent_keeper::exec::SelfExec;
use serde_json::json;
use tokio::time::sleep;

use crate::AGENT_MAIN;
use crate::client;
use crate::client::api::RunTree;
use crate::client::http::Ask;
use crate::dev::{Place, Server};
use crate::failure::Failure;

/// How long the canaries may take: the slowest is ended after two seconds.
const OVER: Duration = Duration::from_secs(60);

/// Puts the canaries into the catalogue, before the agent reads it.
pub(super) fn prepare(place: &Place, user: Option<&str>) -> Result<(), Failure> {
    let state = StateDir::create(&place.agent()).map_err(internal)?;
    leaktest::prepare(&state, &place.catalogue(), user).map_err(internal)?;
    Ok(())
}

/// Has the canaries run, then looks for what they left: while everything still runs.
pub(super) async fn run(place: &Place, server: &Server) -> Result<Report, Failure> {
    let apply = Ask::apply(canary::workflow().into_bytes());
    server.client.ask(&apply).await?;
    let key = format!("leaktest-{}", std::process::id());
    let name = canary::WORKFLOW_NAME;
    let started = client::start(&server.client, name, &json!({}), Some(&key)).await?;
    over(server, &client::run_of(&started)?).await?;
    let (state, orchestrator) = (place.agent(), place.orchestrator());
    let options = Options {
        state: &state,
        tries: false,
        user: None,
        orchestrator: Some(&orchestrator),
        site_keys: None,
        exec: SelfExec::current(vec![AGENT_MAIN.into()]),
    };
    leaktest::run(&options, None).await.map_err(internal)
}

/// Waits until every canary has ended, each in its own way.
async fn over(server: &Server, run: &str) -> Result<(), Failure> {
    let until = Instant::now() + OVER;
    loop {
        let tree: RunTree = server.client.get(&Ask::get(&["runs", run])).await?;
        if tree.is_over() {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(Failure::Unsuccessful(format!(
                "the canaries of the leak test did not end within {} s",
                OVER.as_secs()
            )));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// What the leak test makes of the demo.
pub(super) fn verdict(report: &Report) -> Result<(), Failure> {
    match report.verdict {
        Verdict::NothingFound => Ok(()),
        Verdict::Found => Err(Failure::Unsuccessful(
            "what a canary left behind is where it must not be".to_owned(),
        )),
        Verdict::Void => Err(Failure::Unsuccessful(format!(
            "the leak test is void: no canary's log has the mark as {}",
            report.unseen.join(", ")
        ))),
    }
}

fn internal(error: impl std::fmt::Display) -> Failure {
    Failure::Unsuccessful(format!("the leak test could not be made: {error:#}"))
}
