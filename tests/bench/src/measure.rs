//! The measurements, in order: what rests, what is slow, what is many.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use outpost_e2e::{Agent, Api, Entry, World, procs};
use serde_json::json;

use crate::caller::Caller;
use crate::figures::{Figures, Goal, quantile};
use crate::machine;
use crate::stamps::Stamps;

/// As many as the machine that figures are compared on has processors.
const SLOTS: u16 = 2;
/// Tasks of one run at most, as the workflow format allows.
const RUN: u32 = 1_000;
/// Tasks in a chain, and how many chains.
const CHAIN: (usize, usize) = (20, 10);
/// Keepers at once, when there are many.
const KEEPERS: usize = 100;
/// The account without rights: its tasks are held together without a cgroup.
const NOBODY: u32 = 65_534;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(900);

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Tasks that do nothing.
    pub(crate) tasks: u32,
    /// Runs timed from the call to the first instruction.
    pub(crate) triggers: u32,
    /// How long rest is watched.
    pub(crate) rest: Duration,
}

/// An orchestrator with an agent of two slots.
struct Bench {
    world: World,
    agent: Agent,
    api: Api,
    stamps: Stamps,
}

impl Bench {
    /// `user`: the account that the agent runs under, if not the caller's.
    fn new(user: Option<u32>) -> anyhow::Result<Self> {
        let world = World::new();
        let stamps = Stamps::new(&world)?;
        let argv = stamps.argv();
        let entries = [
            Entry::program("noop", &["/bin/true"]),
            Entry::program("stamp", &argv.each_ref().map(String::as_str)),
            Entry::program("rest", &["/bin/sleep", "600"]).with("grace = \"1s\""),
        ];
        let api = world.api();
        let token = world.token_file(&api, "site-1");
        let mut agent = world.stranger("site-1", &entries);
        if let Some(user) = user {
            let home = agent.state.parent().context("a state directory's home")?;
            std::os::unix::fs::chown(home, Some(user), Some(user))?;
            std::os::unix::fs::chown(&token, Some(user), Some(user))?;
        }
        agent.user = user;
        agent.slots = SLOTS;
        let _ = agent
            .command(&["enrol", "--token-file", &token.to_string_lossy()])
            .ok();
        agent.start();
        agent.live(&api);
        Ok(Self {
            world,
            agent,
            api,
            stamps,
        })
    }
}

/// Everything once. What is left of it on disk goes into `worlds`.
pub(crate) fn all(plan: &Plan, worlds: &mut Vec<World>) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let spawn = machine::spawn_limit(plan.tasks.min(10_000))?;
    figures.add("posix_spawn + wait, 2 threads", spawn, "1/s", Goal::None);
    let xargs = machine::xargs_limit(plan.tasks.min(10_000))?;
    figures.beside("xargs -P2", xargs, "1/s", spawn, Goal::None);
    let root = std::fs::metadata("/proc/self")?.uid() == 0;
    // Without root there is one containment, the account's own; with it there are two.
    let mut plain = Bench::new(root.then_some(NOBODY))?;
    let name = "no-ops, 2 slots, subreaper";
    many(&mut figures, &plain, plan.tasks, name, spawn, 0.60)?;
    let rate = figures.value(name);
    figures.beside(
        "no-ops beside xargs -P2",
        rate,
        "1/s",
        xargs,
        Goal::Ratio(1.0),
    );
    resting(&mut figures, &plain, plan.rest)?;
    let (api, stamps) = (&plain.api, &mut plain.stamps);
    first_instruction(&mut figures, api, stamps, plan.triggers)?;
    hops(&mut figures, api, stamps)?;
    keepers(&mut figures, &mut plain)?;
    worlds.push(plain.ended());
    if root {
        let own = Bench::new(None)?;
        let name = "no-ops, 2 slots, the host's best containment";
        many(&mut figures, &own, plan.tasks, name, spawn, 0.45)?;
        worlds.push(own.ended());
    }
    Ok(figures)
}

impl Bench {
    /// Ends its processes; its files stay.
    fn ended(mut self) -> World {
        self.agent.kill_runner();
        self.world.orchestrator.kill();
        self.world
    }
}

/// Memory, processor time and bytes of an agent to which nothing happens.
fn resting(figures: &mut Figures, bench: &Bench, rest: Duration) -> anyhow::Result<()> {
    let agent = &bench.agent;
    // Keepers that wait for another attempt are let go.
    std::thread::sleep(Duration::from_secs(25).min(rest));
    let parts = [
        ("runner", agent.runner().pid),
        ("link", agent.link().pid),
        ("spawner", agent.spawner().pid),
    ];
    let mut sum = 0.0;
    for (name, pid) in parts {
        let kib = machine::memory(pid).with_context(|| format!("memory of {name}"))?;
        sum += kib;
        figures.add(&format!("idle {name}: PSS"), kib, "KiB", Goal::None);
    }
    figures.add("idle agent: PSS", sum / 1024.0, "MiB", Goal::AtMost(12.0));
    let cpu = || {
        parts
            .iter()
            .map(|(_, pid)| machine::cpu(*pid))
            .sum::<Duration>()
    };
    let port = bench.world.orchestrator.agents_port().port();
    let (before, sent) = (cpu(), machine::wire(port));
    let begun = Instant::now();
    std::thread::sleep(rest);
    let seconds = begun.elapsed().as_secs_f64();
    let used = (cpu() - before).as_secs_f64() / seconds * 100.0;
    figures.add("idle agent: processor", used, "% of one", Goal::AtMost(0.1));
    if let (Some(before), Some(after)) = (sent, machine::wire(port)) {
        let bytes = (after - before) / seconds * 60.0;
        figures.add(
            "idle agent: both ways",
            bytes,
            "B/min",
            Goal::AtMost(1500.0),
        );
    }
    Ok(())
}

/// Memory of one keeper, and of each of a hundred, whose tasks sleep.
fn keepers(figures: &mut Figures, bench: &mut Bench) -> anyhow::Result<()> {
    let mut yaml = "name: rest\ntasks:\n".to_owned();
    for task in 0..KEEPERS {
        writeln!(yaml, "  t{task}: {{entry: rest}}")?;
    }
    let _ = bench
        .api
        .apply("name: lone\ntasks:\n  t: {entry: rest}\n")
        .ok();
    let _ = bench.api.apply(&yaml).ok();
    bench.agent.kill_runner();
    bench.agent.slots = u16::try_from(KEEPERS)?;
    bench.agent.start();
    bench.agent.live(&bench.api);
    for (workflow, count) in [("lone", 1), ("rest", KEEPERS)] {
        let run = bench.api.trigger(workflow, &json!({}));
        let spawner = bench.agent.spawner().pid;
        let until = Instant::now() + PATIENCE;
        // The keepers are those with a task: an idle one is about to end.
        let found = loop {
            let everybody = procs::all();
            let keepers = everybody
                .iter()
                .filter(|process| process.parent == spawner)
                .filter(|keeper| everybody.iter().any(|other| other.parent == keeper.pid))
                .map(|keeper| keeper.pid)
                .collect::<Vec<_>>();
            if keepers.len() == count {
                break keepers;
            }
            ensure!(
                Instant::now() < until,
                "{} of {count} keepers",
                keepers.len()
            );
            std::thread::sleep(Duration::from_millis(50));
        };
        let sizes = at_rest(&found)?;
        let name = format!("keeper: PSS, one of {count}");
        figures.add(&name, quantile(&sizes, 0.5), "KiB", Goal::AtMost(300.0));
        let path = format!("/api/v1/runs/{run}/cancel");
        let _ = bench.api.post(&path, &json!({})).ok();
        let _ = bench.api.finished(&run);
    }
    Ok(())
}

/// The memory of each of these processes once all of it stands still, in KiB: a keeper lets go of what it needed to start
/// its task when the task has gone on for a while.
fn at_rest(pids: &[i32]) -> anyhow::Result<Vec<f64>> {
    let until = Instant::now() + PATIENCE;
    let mut same = 0;
    let mut last = Vec::new();
    while same < 4 {
        ensure!(
            Instant::now() < until,
            "the keepers' memory goes on changing"
        );
        std::thread::sleep(Duration::from_millis(500));
        let sizes = pids.iter().map(|pid| machine::memory(*pid));
        let sizes = sizes.collect::<anyhow::Result<Vec<_>>>()?;
        same = if sizes == last { same + 1 } else { 0 };
        last = sizes;
    }
    Ok(last)
}

/// From the API call to the task's first instruction.
fn first_instruction(
    figures: &mut Figures,
    api: &Api,
    stamps: &mut Stamps,
    triggers: u32,
) -> anyhow::Result<()> {
    let _ = api.apply("name: stamp\ntasks:\n  t: {entry: stamp}\n").ok();
    let Times { starts, answers } = short_runs(api, stamps, triggers)?;
    for (name, share, goal) in [("p50", 0.5, 2.0), ("p99", 0.99, 5.0)] {
        let (answer, start) = (quantile(&answers, share), quantile(&starts, share));
        let text = format!("API call → answer, {name}");
        figures.add(&text, answer, "ms", Goal::None);
        let text = format!("API call → first instruction, {name}");
        figures.add(&text, start, "ms", Goal::AtMost(goal));
    }
    Ok(())
}

/// From a task's first instruction to that of the task that needs it.
fn hops(figures: &mut Figures, api: &Api, stamps: &mut Stamps) -> anyhow::Result<()> {
    let (length, chains) = CHAIN;
    let mut yaml = "name: chain\ntasks:\n  t0: {entry: stamp}\n".to_owned();
    for task in 1..length {
        writeln!(yaml, "  t{task}: {{entry: stamp, needs: [t{}]}}", task - 1)?;
    }
    let _ = api.apply(&yaml).ok();
    let mut hops = Vec::new();
    for _ in 0..chains {
        let run = api.trigger("chain", &json!({}));
        let told = stamps.next(length)?;
        hops.extend(told.windows(2).map(|pair| (pair[1] - pair[0]) / 1000.0));
        let _ = api.succeeded(&run);
    }
    figures.add(
        "chain hop, p50",
        quantile(&hops, 0.5),
        "ms",
        Goal::AtMost(2.0),
    );
    figures.add("chain hop, p99", quantile(&hops, 0.99), "ms", Goal::None);
    Ok(())
}

/// Tasks that do nothing, as fast as they go, and what each of them costs the orchestrator and the wire.
fn many(
    figures: &mut Figures,
    bench: &Bench,
    tasks: u32,
    name: &str,
    limit: f64,
    goal: f64,
) -> anyhow::Result<()> {
    let (agent, api) = (&bench.agent, &bench.api);
    let mut yaml = "name: many\ntasks:\n".to_owned();
    for task in 0..RUN {
        writeln!(yaml, "  t{task}: {{entry: noop}}")?;
    }
    let _ = api.apply(&yaml).ok();
    let runs = tasks / RUN;
    let done = f64::from(runs * RUN);
    let port = bench.world.orchestrator.agents_port().port();
    let parts = [
        ("orchestrator", bench.world.orchestrator.process().pid),
        ("runner", agent.runner().pid),
        ("link", agent.link().pid),
    ];
    let before = parts.map(|(_, pid)| machine::cpu(pid));
    let sent = machine::wire(port);
    let begun = Instant::now();
    let wanted = (0..runs)
        .map(|_| api.trigger("many", &json!({})))
        .collect::<Vec<_>>();
    until_over(api, &wanted, begun)?;
    let rate = done / begun.elapsed().as_secs_f64();
    figures.beside(name, rate, "1/s", limit, Goal::Ratio(goal));
    for ((part, pid), before) in parts.into_iter().zip(before) {
        let us = (machine::cpu(pid) - before).as_secs_f64() * 1e6 / done;
        let goal = if part == "orchestrator" {
            Goal::AtMost(150.0)
        } else {
            Goal::None
        };
        figures.add(&format!("  {part}: processor, {name}"), us, "us/task", goal);
    }
    if let (Some(before), Some(after)) = (sent, machine::wire(port)) {
        let bytes = (after - before) / done;
        let text = format!("  both ways, {name}");
        figures.add(&text, bytes, "B/task", Goal::AtMost(600.0));
    }
    Ok(())
}

fn until_over(api: &Api, wanted: &[String], begun: Instant) -> anyhow::Result<()> {
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
            return Ok(());
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "the tasks took longer than {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The time of day in microseconds.
pub(crate) fn now_us() -> f64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    now.as_secs_f64() * 1e6
}

/// What runs of one short task took, in milliseconds from the call.
pub(crate) struct Times {
    pub(crate) answers: Vec<f64>,
    pub(crate) starts: Vec<f64>,
}

/// So many runs of the workflow `stamp`, each when the one before is over.
pub(crate) fn short_runs(api: &Api, stamps: &mut Stamps, count: u32) -> anyhow::Result<Times> {
    let mut caller = Caller::new(api, "stamp")?;
    let (mut answers, mut starts) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let asked = now_us();
        let run = caller.trigger()?;
        answers.push((now_us() - asked) / 1000.0);
        let started = stamps.next(1)?.first().copied().unwrap_or(asked);
        starts.push((started - asked) / 1000.0);
        let _ = api.succeeded(&run);
    }
    Ok(Times { answers, starts })
}
