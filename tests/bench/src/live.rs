//! What many live tasks cost: memory of each in the orchestrator's process, and what other people's runs feel of them
//! while they are under way. Both halves on the same machine in the same minutes.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use outpost_e2e::{Entry, World};
use serde_json::json;

use crate::figures::{Figures, Goal, quantile};
use crate::measure::short_runs;
use crate::stamps::Stamps;

/// Tasks of one run: as many as the workflow format allows.
const RUN: u32 = 1_000;
/// What is given to memory to settle before it is read.
const SETTLE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(300);

/// `tasks` live tasks at one site, `triggers` runs of one short task at another before and while they are under way.
pub(crate) fn all(tasks: u32, triggers: u32, worlds: &mut Vec<World>) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let world = World::serving(&["--api-rate", "0"]);
    let api = world.api();
    let mut stamps = Stamps::new(&world)?;
    let argv = stamps.argv();
    let stamp = Entry::program("stamp", &argv.each_ref().map(String::as_str));
    // Short enough that ends and starts go on all the time, long enough that the machine is not busy with tasks.
    let nap = Entry::program("nap", &["/bin/sleep", "0.1"]);
    let _few = world.agent("few", &[stamp]);
    let _many = world.agent("many", &[nap]);
    let _ = api.apply("name: stamp\ntasks:\n  t: {entry: stamp}\n").ok();
    let mut yaml = "name: many\ntasks:\n".to_owned();
    for task in 0..RUN {
        writeln!(yaml, "  t{task}: {{entry: nap}}")?;
    }
    let _ = api.apply(&yaml).ok();
    // What the first runs need once is not counted for the live ones.
    let _ = short_runs(&api, &mut stamps, 20)?;

    let idle = short_runs(&api, &mut stamps, triggers)?;
    let pid = world.orchestrator.process().pid;
    let before = resident_kib(pid)?;
    let begun = Instant::now();
    let runs = tasks.div_ceil(RUN);
    for _ in 0..runs {
        let _ = api.trigger("many", &json!({}));
    }
    let live = f64::from(runs * RUN);
    let seconds = begun.elapsed().as_secs_f64();
    figures.add("live tasks", live, "", Goal::None);
    figures.add("  made in", seconds, "s", Goal::None);
    std::thread::sleep(SETTLE);
    let bytes = (resident_kib(pid)? - before) * 1024.0 / live;
    figures.add(
        "  resident memory of each",
        bytes,
        "B",
        Goal::AtMost(1024.0),
    );
    let busy = short_runs(&api, &mut stamps, triggers)?;
    let left = api
        .get("/api/v1/runs?workflow=many&state=running&limit=1")
        .ok();
    ensure!(
        left["items"]
            .as_array()
            .is_some_and(|runs| !runs.is_empty()),
        "the many tasks were over before everything was measured; ask for more of them"
    );
    for (what, idle, busy) in [
        ("API call → answer", &idle.answers, &busy.answers),
        ("API call → first instruction", &idle.starts, &busy.starts),
    ] {
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            figures.beside(
                &format!("{what} beside them, {name}"),
                quantile(busy, share),
                "ms",
                quantile(idle, share),
                if share > 0.9 {
                    Goal::None
                } else {
                    Goal::RatioAtMost(2.0)
                },
            );
        }
    }
    worlds.push(world);
    Ok(figures)
}

/// The process's resident memory once it stands still.
fn resident_kib(pid: i32) -> anyhow::Result<f64> {
    let read = || -> anyhow::Result<f64> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.context("no resident memory is told")?.parse()?)
    };
    let until = Instant::now() + PATIENCE;
    let mut last = read()?;
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = read()?;
        if (now - last).abs() <= last / 100.0 || Instant::now() >= until {
            return Ok(now);
        }
        last = now;
    }
}
