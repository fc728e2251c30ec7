//! Brings up an orchestrator and an agent with the real programs and their real commands: `init`, `serve`, `enrol`,
//! `run`. Any of these may be killed at any moment; what is not done yet is then done again.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::place::Place;
use super::supervisor::{Program, Supervisor};
use crate::client;
use crate::client::api::{AgentItem, Invite, Items};
use crate::client::config::Connection;
use crate::client::http::{Ask, Client, parse};
use crate::client::sse::{Following, Signal};
use crate::failure::Failure;
use crate::{AGENT_MAIN, ORCHESTRATOR_MAIN};

/// The one agent's name.
pub(crate) const AGENT: &str = "site-1";
/// How long each step may take; a step that was disturbed is tried again within it.
const STEP: Duration = Duration::from_secs(30);
/// How long a server that is being started again is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Lines of a log that are shown when its program does not come up.
const TAIL: usize = 12;

/// Where the orchestrator listens, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Ready {
    /// For agents.
    pub(crate) agents: SocketAddr,
    /// Of the API.
    pub(crate) api: String,
}

/// An orchestrator that answers.
pub(crate) struct Server {
    /// May do everything in the one tenant; patient.
    pub(crate) client: Client,
    /// Where it listens.
    pub(crate) ready: Ready,
}

/// Makes an orchestrator and keeps it running.
pub(crate) async fn orchestrator(
    place: &Place,
    supervisor: &mut Supervisor,
) -> Result<Server, Failure> {
    orchestrator_behind(None, place, supervisor).await
}

/// The same, where agents are told to connect to another address, which leads there.
pub(crate) async fn orchestrator_behind(
    door: Option<SocketAddr>,
    place: &Place,
    supervisor: &mut Supervisor,
) -> Result<Server, Failure> {
    let dir = place.orchestrator();
    let until = Instant::now() + STEP;
    let init = program(
        "orchestrator",
        ORCHESTRATOR_MAIN,
        place,
        words(["init", "--dir"], &dir),
    );
    while !supervisor.run(&init).await?.success() {
        if Instant::now() > until {
            return Err(did_not("make its directory", &init.log));
        }
        // A half-made one is no start: the next try begins from nothing.
        let _ = std::fs::remove_dir_all(&dir);
        sleep(Duration::from_millis(50)).await;
    }
    supervisor.keep(serve(place, door))?;
    let Some(ready) = wait_for(until, || Ready::read(&place.ready())).await else {
        return Err(did_not("begin to listen", &place.log("orchestrator")));
    };
    let token = std::fs::read_to_string(place.token()).map_err(Failure::file(place.token()))?;
    let server = ready
        .api
        .parse()
        .map_err(|_| Failure::Internal(format!("{} is no URL", ready.api)))?;
    let connection = Connection {
        server,
        token: token.trim().to_owned(),
        ca: None,
    };
    let client = Client::new(connection)?.patient(PATIENCE);
    Ok(Server { client, ready })
}

/// Enrols the agent and keeps it running; returns when the orchestrator says that it is in touch.
pub(crate) async fn agent(
    place: &Place,
    supervisor: &mut Supervisor,
    server: &Server,
    catalogue: &Path,
    slots: u16,
) -> Result<(), Failure> {
    enrol(place, supervisor, &server.client).await?;
    let mut args = words(["run", "--state"], &place.agent());
    args.extend([
        "--catalogue".into(),
        catalogue.into(),
        "--slots".into(),
        slots.to_string().into(),
    ]);
    let run = program("agent", AGENT_MAIN, place, args);
    let log = run.log.clone();
    supervisor.keep(run)?;
    match timeout(STEP, in_touch(&server.client)).await {
        Ok(result) => result,
        Err(_) => Err(did_not("get in touch", &log)),
    }
}

/// The token is good once, and for the key that used it first: after a disturbance the same one is used again, and a
/// new one is asked for when that does not help.
async fn enrol(place: &Place, supervisor: &Supervisor, client: &Client) -> Result<(), Failure> {
    let until = Instant::now() + STEP;
    let file = place.root().join("join.token");
    let mut args = words(["enrol", "--token-file"], &file);
    args.extend(["--state".into(), place.agent().into()]);
    let enrol = program("agent", AGENT_MAIN, place, args);
    for round in 0.. {
        if round % 4 == 0 {
            let invite: Invite =
                parse(client::invite(client, AGENT, Duration::from_secs(600)).await?)?;
            let _ = std::fs::remove_file(&file);
            client::write_new(&file, &invite.token)?;
        }
        let done = supervisor.run(&enrol).await?.success() || is_enrolled(&place.agent());
        if done {
            let _ = std::fs::remove_file(&file);
            break;
        }
        if Instant::now() > until {
            return Err(did_not("enrol", &enrol.log));
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Whether an enrolment that was killed had in truth been done.
fn is_enrolled(state: &Path) -> bool {
    let state = outpost_agent::state_dir::StateDir::open(state);
    state.is_ok_and(|state| state.identity().is_ok_and(|identity| identity.is_some()))
}

async fn in_touch(client: &Client) -> Result<(), Failure> {
    let mut events = Following::of(client, None);
    loop {
        match events.next().await? {
            Signal::Opened | Signal::Event => {
                let agents: Items<AgentItem> = client.get(&Ask::get(&["agents"])).await?;
                if agents
                    .items
                    .iter()
                    .any(|agent| agent.agent == AGENT && agent.presence == "live")
                {
                    return Ok(());
                }
            }
            Signal::End | Signal::Broken(_) => {}
        }
    }
}

/// The kernel chooses the ports at the first start; later ones use the same, or nobody would find it again.
fn serve(place: &Place, door: Option<SocketAddr>) -> Program {
    let (dir, file, log) = (
        place.orchestrator(),
        place.ready(),
        place.log("orchestrator"),
    );
    let args = move || {
        let ready = Ready::read(&file);
        let agents = ready.as_ref().map_or_else(
            || "127.0.0.1:0".to_owned(),
            |ready| ready.agents.to_string(),
        );
        let api = ready
            .as_ref()
            .and_then(|ready| ready.api.strip_prefix("http://"))
            .unwrap_or("127.0.0.1:0");
        let mut args = words(["serve", "--dir"], &dir);
        args.extend(["--agents".into(), agents.into(), "--api".into(), api.into()]);
        args.extend(["--ready-file".into(), file.clone().into()]);
        if let Some(door) = door {
            args.extend(["--public-agents".into(), door.to_string().into()]);
        }
        args
    };
    Program {
        name: "orchestrator",
        main: ORCHESTRATOR_MAIN,
        args: Box::new(args),
        log,
    }
}

impl Ready {
    fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }
}

fn program(name: &'static str, main: &'static str, place: &Place, args: Vec<OsString>) -> Program {
    Program {
        name,
        main,
        args: Box::new(move || args.clone()),
        log: place.log(name),
    }
}

fn words(words: [&str; 2], path: &Path) -> Vec<OsString> {
    let words = words.map(OsString::from);
    words.into_iter().chain([path.into()]).collect()
}

async fn wait_for<T>(until: Instant, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > until {
            return None;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// What did not happen in time, with the end of the log that says why.
fn did_not(what: &str, log: &PathBuf) -> Failure {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n  ");
    let program = log.file_stem().unwrap_or_default().to_string_lossy();
    Failure::Unsuccessful(format!(
        "the {program} did not {what} within {} s; {} ends with:\n  {tail}",
        STEP.as_secs(),
        log.display()
    ))
}
