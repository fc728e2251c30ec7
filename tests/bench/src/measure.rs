//! The measurements, in order: what rests, what is slow, what is many.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use outpost_e2e::{Agent, Api, Entry, World, site};
use serde_json::{Value, json};

use crate::figures::{Figures, quantile};
use crate::machine;

/// As many as the machine that figures are compared on has processors.
const SLOTS: u16 = 2;
/// Tasks of one run at most, as the workflow format allows.
const RUN: u32 = 1_000;
/// Tasks in a chain, and how many chains.
const CHAIN: (usize, usize) = (20, 10);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(900);

/// Everything.
pub(crate) fn all(tasks: u32, triggers: u32) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let limit = machine::spawn_limit(tasks.min(10_000))?;
    figures.add("posix_spawn + wait, 2 threads", limit, "1/s", None);

    let world = World::new();
    let own = world.dir().join("stamp");
    std::fs::copy(std::env::current_exe()?, &own).context("copying the task")?;
    site::mode(&own, 0o755);
    let stamps = world.shared("stamps");
    let argv = [&own.to_string_lossy(), "stamp", &stamps.to_string_lossy()].map(str::to_owned);
    let entries = [
        Entry::program("noop", &["/bin/true"]),
        Entry::program("stamp", &argv.each_ref().map(String::as_str)),
        Entry::program("rest", &["/bin/sleep", "600"]).with("grace = \"1s\""),
    ];
    let mut agent = world.agent("site-1", &entries);
    agent.kill_runner();
    agent.slots = SLOTS;
    agent.start();
    let api = world.api();
    agent.live(&api);

    resting(&mut figures, &agent, &api)?;
    first_instruction(&mut figures, &api, &stamps, triggers)?;
    hops(&mut figures, &api, &stamps)?;
    many(&mut figures, &agent, &api, tasks, limit)?;
    Ok(figures)
}

/// Memory of the agent's processes while nothing happens, and of a keeper whose task sleeps.
fn resting(figures: &mut Figures, agent: &Agent, api: &Api) -> anyhow::Result<()> {
    let _ = api.apply("name: rest\ntasks:\n  t: {entry: rest}\n").ok();
    let run = api.trigger("rest", &json!({}));
    let attempt = api.attempt_in(&run, "t", "running");
    let (keeper, _) = agent.keeper_and_task(&attempt);
    let parts = [
        ("runner", agent.runner().pid),
        ("link", agent.link().pid),
        ("spawner", agent.spawner().pid),
        ("keeper", keeper.pid),
    ];
    for (name, pid) in parts {
        let (resident, proportional) =
            machine::memory(pid).with_context(|| format!("memory of {name}"))?;
        figures.add(&format!("{name}: resident"), resident, "MiB", None);
        figures.add(&format!("{name}: proportional"), proportional, "MiB", None);
    }
    let _ = api
        .post(&format!("/api/v1/runs/{run}/cancel"), &json!({}))
        .ok();
    let _ = api.finished(&run);
    Ok(())
}

/// From the API call to the task's first instruction.
fn first_instruction(
    figures: &mut Figures,
    api: &Api,
    stamps: &Path,
    triggers: u32,
) -> anyhow::Result<()> {
    let _ = api.apply("name: stamp\ntasks:\n  t: {entry: stamp}\n").ok();
    let (mut starts, mut answers) = (Vec::new(), Vec::new());
    for number in 0..triggers as usize {
        let asked = now_us();
        let _ = api.trigger("stamp", &json!({}));
        answers.push((now_us() - asked) / 1000.0);
        let told = stamped(stamps, number + 1)?;
        let started = told.last().copied().unwrap_or(asked);
        starts.push((started - asked) / 1000.0);
    }
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        figures.add(
            &format!("API call → answer, {name}"),
            quantile(&answers, share),
            "ms",
            None,
        );
        figures.add(
            &format!("API call → first instruction, {name}"),
            quantile(&starts, share),
            "ms",
            None,
        );
    }
    Ok(())
}

/// From a task's first instruction to that of the task that needs it.
fn hops(figures: &mut Figures, api: &Api, stamps: &Path) -> anyhow::Result<()> {
    let (length, chains) = CHAIN;
    let mut yaml = "name: chain\ntasks:\n  t0: {entry: stamp}\n".to_owned();
    for task in 1..length {
        writeln!(yaml, "  t{task}: {{entry: stamp, needs: [t{}]}}", task - 1)?;
    }
    let _ = api.apply(&yaml).ok();
    let mut hops = Vec::new();
    for _ in 0..chains {
        let before = stamped(stamps, 0)?.len();
        let run = api.trigger("chain", &json!({}));
        let told = stamped(stamps, before + length)?;
        hops.extend(
            told[before..]
                .windows(2)
                .map(|pair| (pair[1] - pair[0]) / 1000.0),
        );
        let _ = api.succeeded(&run);
    }
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        figures.add(
            &format!("chain: task → next task, {name}"),
            quantile(&hops, share),
            "ms",
            None,
        );
    }
    Ok(())
}

/// Tasks that do nothing, as fast as they go.
fn many(
    figures: &mut Figures,
    agent: &Agent,
    api: &Api,
    tasks: u32,
    limit: f64,
) -> anyhow::Result<()> {
    let mut yaml = "name: many\ntasks:\n".to_owned();
    for task in 0..RUN {
        writeln!(yaml, "  t{task}: {{entry: noop}}")?;
    }
    let _ = api.apply(&yaml).ok();
    let ledger = |agent: &Agent| -> anyhow::Result<f64> {
        let verified = agent
            .command(&["ledger", "verify", "--output", "json"])
            .ok();
        let summary: Value = serde_json::from_str(&verified)?;
        summary["frame_bytes"].as_f64().context("the ledger's size")
    };
    let (runs, before) = (tasks / RUN, ledger(agent)?);
    let begun = Instant::now();
    let wanted = (0..runs)
        .map(|_| api.trigger("many", &json!({})))
        .collect::<Vec<_>>();
    loop {
        let list = api.get("/api/v1/runs?workflow=many&limit=200").ok();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let state = |run: &String| {
            items
                .iter()
                .find(|item| item["run"] == run.as_str())
                .map(|item| item["state"].clone())
        };
        let states = wanted.iter().filter_map(state).collect::<Vec<_>>();
        ensure!(
            !states.iter().any(|state| state == "failed"),
            "a run failed"
        );
        if states.iter().filter(|state| *state == "succeeded").count() == wanted.len() {
            break;
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "{tasks} tasks took longer than {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let done = f64::from(runs * RUN);
    let rate = done / begun.elapsed().as_secs_f64();
    figures.add("tasks that do nothing, 2 slots", rate, "1/s", Some(limit));
    figures.add(
        "sent by the agent",
        (ledger(agent)? - before) / done,
        "B/task",
        None,
    );
    let (resident, _) = machine::memory(agent.runner().pid).context("memory of the runner")?;
    figures.add("runner: resident after all tasks", resident, "MiB", None);
    Ok(())
}

fn now_us() -> f64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    now.as_secs_f64() * 1e6
}

/// The task: adds the present time in microseconds to a file, in one write.
pub(crate) fn stamp(file: &Path) -> std::io::Result<()> {
    let line = format!("{:.1}\n", now_us());
    let mut file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(file)?;
    file.write_all(line.as_bytes())
}

/// All times written so far, once there are so many.
fn stamped(file: &Path, count: usize) -> anyhow::Result<Vec<f64>> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let times = text
            .lines()
            .map_while(|line| line.parse().ok())
            .collect::<Vec<f64>>();
        if times.len() >= count && (text.is_empty() || text.ends_with('\n')) {
            return Ok(times);
        }
        ensure!(Instant::now() < until, "a task did not start within 30 s");
        std::thread::sleep(Duration::from_micros(200));
    }
}
