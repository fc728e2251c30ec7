//! What a swarm costs, beside what the same connections cost without Outpost behind them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use outpost_e2e::World;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;

use crate::bare::Access;
use crate::crowd::{Task, task_file};
use crate::process::{Process, cpu_s, rss_kib};

/// Longest wait for all to be there.
const PATIENCE: Duration = Duration::from_secs(300);
/// What is given to memory to settle before it is read.
const SETTLE: Duration = Duration::from_secs(3);

/// One figure beside its goal.
#[derive(Debug, Serialize)]
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// What the bare stack took in this run.
    pub(crate) limit: Option<f64>,
    /// Value over limit.
    pub(crate) ratio: Option<f64>,
    pub(crate) target: Option<String>,
    pub(crate) met: Option<bool>,
}

impl Metric {
    fn plain(name: &str, value: f64, unit: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            value,
            unit,
            limit: None,
            ratio: None,
            target: None,
            met: None,
        }
    }

    fn most(name: &str, value: f64, unit: &'static str, most: f64) -> Self {
        Self {
            target: Some(format!("<= {most} {unit}")),
            met: Some(value <= most),
            ..Self::plain(name, value, unit)
        }
    }

    fn ratio(name: &str, value: f64, unit: &'static str, limit: f64, most: f64) -> Self {
        let ratio = value / limit;
        Self {
            limit: Some(limit),
            ratio: Some(ratio),
            target: Some(format!("<= {most} x the bare stack")),
            met: Some(ratio <= most),
            ..Self::plain(name, value, unit)
        }
    }
}

/// Measures `agents` agents in `processes` processes, with their heartbeats for `window`.
pub(crate) fn all(
    agents: usize,
    processes: usize,
    window: Duration,
    note: impl Fn(&str),
) -> anyhow::Result<Vec<Metric>> {
    let mut world = World::new();
    let dir = world.dir().to_owned();
    note("the bare stack");
    let bare = bare(&dir, agents)?;

    note("inviting");
    let secrets = invite(&world, agents)?;
    note("enrolling");
    let mut crowds = crowds(&world, &dir, &secrets, processes)?;
    for crowd in &mut crowds {
        crowd.wait("enrolled", 0, PATIENCE)?;
    }
    // A fresh process: what enrolment left in memory is not a connection's.
    world.orchestrator.kill_and_restart();
    std::thread::sleep(SETTLE);
    let before = rss_kib(pid(&world))?;

    note("connecting");
    let begun = Instant::now();
    crowds.iter_mut().try_for_each(Process::go)?;
    let connected = all_live(&mut crowds, agents, processes, begun)?;
    std::thread::sleep(SETTLE);
    let after = rss_kib(pid(&world))?;

    note("idle");
    let cpu = cpu_s(pid(&world))?;
    std::thread::sleep(window);
    let cpu = (cpu_s(pid(&world))? - cpu) / window.as_secs_f64() * 100.0;

    note("killing the orchestrator and starting it again");
    world.orchestrator.kill();
    for crowd in &mut crowds {
        // The count falls to nothing once every agent has noticed.
        none_live(crowd)?;
    }
    let begun = Instant::now();
    world.orchestrator.start();
    let listening = begun.elapsed().as_secs_f64();
    let back = all_live(&mut crowds, agents, processes, begun)?;
    let stale = not_live(&world, agents)?;

    let per = |kib: f64| kib / count(agents);
    Ok(vec![
        Metric::plain("agents", count(agents), ""),
        Metric::plain("bare stack: all connected", bare.seconds, "s"),
        Metric::plain("bare stack: resident per connection", per(bare.kib), "KiB"),
        Metric::ratio(
            "all connected and reconciled",
            connected,
            "s",
            bare.seconds,
            2.5,
        ),
        Metric::most(
            "orchestrator: resident per idle agent",
            per(after - before),
            "KiB",
            48.0,
        ),
        Metric::most(
            "orchestrator: processor for heartbeats",
            cpu,
            "% of a core",
            15.0,
        ),
        Metric::plain("orchestrator listens after its start", listening, "s"),
        Metric::ratio("all back after kill -9", back, "s", bare.seconds, 2.5),
        Metric::most("agents that are not live afterwards", stale, "", 0.0),
    ])
}

struct Bare {
    seconds: f64,
    kib: f64,
}

fn bare(dir: &Path, agents: usize) -> anyhow::Result<Bare> {
    let ready = dir.join("bare.json");
    let path = ready.display().to_string();
    let server = Process::start(&["bare-server".to_owned(), path.clone()])?;
    let until = Instant::now() + PATIENCE;
    while !ready.exists() {
        anyhow::ensure!(Instant::now() < until, "the bare server does not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
    let _: Access = serde_json::from_slice(&std::fs::read(&ready)?)?;
    let mut crowd = Process::start(&["bare-crowd".to_owned(), path, agents.to_string()])?;
    crowd.wait("enrolled", 0, PATIENCE)?;
    let before = rss_kib(server.id())?;
    let begun = Instant::now();
    crowd.go()?;
    let at = crowd.wait("live", agents, PATIENCE)?;
    std::thread::sleep(SETTLE);
    Ok(Bare {
        seconds: at.duration_since(begun).as_secs_f64(),
        kib: rss_kib(server.id())? - before,
    })
}

/// One invitation for each agent, through the API.
fn invite(world: &World, agents: usize) -> anyhow::Result<Vec<[u8; 32]>> {
    let api = world.api();
    let token = std::fs::read_to_string(world.orchestrator.dir().join("admin.token"))?;
    let client = reqwest::blocking::Client::new();
    let url = format!("{}/api/v1/agents/invites", api.base());
    (0..agents)
        .map(|number| {
            let body = serde_json::json!({ "agent": format!("swarm-{number}"), "ttl_s": 600 });
            loop {
                let request = client.post(&url).bearer_auth(token.trim()).json(&body);
                let reply = request.send()?;
                if reply.status() == reqwest::StatusCode::TOO_MANY_REQUESTS {
                    std::thread::sleep(Duration::from_millis(50));
                    continue;
                }
                let reply: serde_json::Value = reply.error_for_status()?.json()?;
                let token = reply["token"].as_str().context("an invitation")?;
                let token = token.parse::<outpost_certs::token::JoinToken>()?;
                return Ok(*token.secret());
            }
        })
        .collect()
}

fn crowds(
    world: &World,
    dir: &Path,
    secrets: &[[u8; 32]],
    processes: usize,
) -> anyhow::Result<Vec<Process>> {
    let root = world.orchestrator.dir().join("ca").join("root.crt");
    let root = CertificateDer::from_pem_file(&root)
        .with_context(|| format!("reading {}", root.display()))?;
    let each = secrets.len().div_ceil(processes);
    secrets
        .chunks(each)
        .enumerate()
        .map(|(number, secrets)| {
            let task = Task {
                address: world.orchestrator.agents_port(),
                root: root.to_vec(),
                secrets: secrets.to_vec(),
                first: u64::try_from(number * each)?,
            };
            let file = task_file(dir, number);
            std::fs::write(&file, serde_json::to_vec(&task)?)?;
            Process::start(&["crowd".to_owned(), file.display().to_string()])
        })
        .collect()
}

/// Seconds from `begun` until every agent has a reconciled session.
fn all_live(
    crowds: &mut [Process],
    agents: usize,
    processes: usize,
    begun: Instant,
) -> anyhow::Result<f64> {
    let each = agents.div_ceil(processes);
    let mut left = agents;
    let mut last = begun;
    for crowd in crowds {
        let size = each.min(left);
        left -= size;
        last = last.max(crowd.wait("live", size, PATIENCE)?);
    }
    Ok(last.duration_since(begun).as_secs_f64())
}

fn none_live(crowd: &mut Process) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        anyhow::ensure!(Instant::now() < until, "agents do not notice the end");
        crowd.wait("live", 0, PATIENCE)?;
        if crowd.number == 0 {
            return Ok(());
        }
    }
}

/// How many agents the orchestrator does not call live.
fn not_live(world: &World, agents: usize) -> anyhow::Result<f64> {
    let api = world.api();
    let mut live = 0;
    let mut path = "/api/v1/agents?limit=500".to_owned();
    loop {
        let page = api.get(&path).ok();
        let items = page["items"].as_array().context("a list of agents")?;
        live += items
            .iter()
            .filter(|agent| agent["presence"] == "live")
            .count();
        match page["next"].as_str() {
            Some(next) => path = format!("/api/v1/agents?limit=500&cursor={next}"),
            None => return Ok(count(agents.saturating_sub(live))),
        }
    }
}

fn pid(world: &World) -> u32 {
    u32::try_from(world.orchestrator.process().pid).unwrap_or(0)
}

#[expect(clippy::cast_precision_loss, reason = "a number of agents")]
fn count(number: usize) -> f64 {
    number as f64
}
