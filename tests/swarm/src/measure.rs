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

/// One figure beside what the bare stack took in this run, and its goal.
#[derive(Debug, Serialize)]
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// The bare stack's.
    pub(crate) limit: Option<f64>,
    /// Value over limit.
    pub(crate) ratio: Option<f64>,
    /// At most so much: of the ratio, where `of_ratio`, otherwise of the value.
    pub(crate) target: Option<f64>,
    pub(crate) of_ratio: bool,
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
            of_ratio: false,
            met: None,
        }
    }

    fn beside(self, limit: f64) -> Self {
        Self {
            limit: Some(limit),
            ratio: Some(self.value / limit),
            ..self
        }
    }

    fn at_most(self, most: f64) -> Self {
        Self {
            target: Some(most),
            met: Some(self.value <= most),
            ..self
        }
    }

    fn ratio_at_most(self, most: f64) -> Self {
        Self {
            target: Some(most),
            of_ratio: true,
            met: self.ratio.map(|ratio| ratio <= most),
            ..self
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
    // Invitations come as fast as they are taken.
    let mut world = World::serving(&["--api-rate", "0"]);
    let dir = world.dir().to_owned();
    note("the bare stack");
    let bare = bare(&dir, agents, window)?;

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
    let cpu = busy(pid(&world), window)?;

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
        Metric::plain("all connected and reconciled", connected, "s")
            .beside(bare.seconds)
            .ratio_at_most(2.5),
        Metric::plain("resident memory per idle agent", per(after - before), "KiB")
            .beside(per(bare.kib))
            .at_most(48.0),
        Metric::plain("processor for heartbeats, of a core", cpu, "%")
            .beside(bare.cpu)
            .at_most(15.0),
        Metric::plain("listens after its start", listening, "s"),
        Metric::plain("all back after kill -9", back, "s")
            .beside(bare.seconds)
            .ratio_at_most(2.5),
        Metric::plain("agents not live afterwards", stale, "").at_most(0.0),
    ])
}

struct Bare {
    seconds: f64,
    kib: f64,
    /// For as many messages as agents have heartbeats, in percent of a core.
    cpu: f64,
}

fn bare(dir: &Path, agents: usize, window: Duration) -> anyhow::Result<Bare> {
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
    let kib = rss_kib(server.id())? - before;
    Ok(Bare {
        seconds: at.duration_since(begun).as_secs_f64(),
        kib,
        cpu: busy(server.id(), window)?,
    })
}

/// Percent of a core that a process takes.
fn busy(pid: u32, window: Duration) -> anyhow::Result<f64> {
    let before = cpu_s(pid)?;
    std::thread::sleep(window);
    Ok((cpu_s(pid)? - before) / window.as_secs_f64() * 100.0)
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
