//! One run of chaos, from the first agent to the summary.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use outpost_faults::history::Summary;
use serde::Serialize;

use crate::fault::Injector;
use crate::field::{Field, Means};
use crate::gather;
use crate::kind::KINDS;
use crate::work::Stream;

/// Between two looks whether a fault is to begin or to end.
const TICK: Duration = Duration::from_millis(20);
/// How long everything may take to come to its end once faults have stopped.
const QUIET: Duration = Duration::from_secs(660);

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How long faults go on.
    pub faults_for: Duration,
    /// How many agents.
    pub agents: usize,
    /// Which faults hit whom and when.
    pub seed: u64,
    /// Between two runs that are asked for.
    pub run_every: Duration,
    /// The longest pause between two faults.
    pub fault_every_ms: u64,
    /// Kinds of faults whose names contain one of these; all kinds when there is none.
    pub only: Vec<String>,
    /// Whether everything stays on disk afterwards.
    pub keep: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Agents.
    pub agents: usize,
    /// How long faults went on, in seconds.
    pub faults_for_s: u64,
    /// From the end of faults until all was quiet, in milliseconds.
    pub quiet_after_ms: u64,
    /// How many faults there were of which kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What could not be tried here, and what it needs.
    pub untried: Vec<String>,
    /// The history, counted and checked.
    pub summary: Summary,
    /// Where everything is, if it was kept.
    pub kept: Option<String>,
}

/// Does it, and tells each fault in a line.
///
/// # Panics
/// When what is under test cannot be started at all.
pub fn run(plan: &Plan, say: impl Fn(String)) -> Outcome {
    let means = Means::here();
    let mut field = Field::new(plan.agents);
    say(format!(
        "{} agents are live; faults for {:?}, seed {}",
        plan.agents, plan.faults_for, plan.seed
    ));
    let stream = Stream::start(&field.api, plan.seed, plan.run_every);
    let mut injector = Injector::new(plan.seed, means, &plan.only);
    let begun = Instant::now();
    let mut next = begun + injector.pause(plan.fault_every_ms);
    while begun.elapsed() < plan.faults_for {
        injector.mend(&mut field);
        if Instant::now() >= next {
            if let Some(told) = injector.strike(&mut field) {
                say(format!("{:>8.1} s  {told}", begun.elapsed().as_secs_f64()));
            }
            next = Instant::now() + injector.pause(plan.fault_every_ms);
        }
        std::thread::sleep(TICK);
    }
    field.mend();
    let asked = stream.end();
    let stopped = Instant::now();
    say("faults have stopped; waiting for quiet".to_owned());
    let quiet = gather::quiet(&field, QUIET);
    let quiet_after = stopped.elapsed();
    if !quiet {
        say(format!("it is not quiet after {quiet_after:?}"));
    }
    let summary = Summary::of(&gather::history(&field, asked));
    let kept = (plan.keep || !summary.holds()).then(|| {
        field.world.keep();
        field.world.dir().display().to_string()
    });
    Outcome {
        seed: plan.seed,
        agents: plan.agents,
        faults_for_s: plan.faults_for.as_secs(),
        quiet_after_ms: u64::try_from(quiet_after.as_millis()).unwrap_or(u64::MAX),
        faults: injector.counts().clone(),
        untried: untried(means),
        summary,
        kept,
    }
}

fn untried(means: Means) -> Vec<String> {
    let lacking = KINDS
        .iter()
        .filter_map(|(kind, _, name)| Some((name, kind.lacks(means)?)));
    lacking
        .map(|(name, needs)| format!("{name} (needs {needs})"))
        .collect()
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = self
            .faults
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"));
        let total: u64 = self.faults.values().sum();
        writeln!(
            f,
            "faults      {total} in {} s on {} agents (seed {}): {}",
            self.faults_for_s,
            self.agents,
            self.seed,
            faults.collect::<Vec<_>>().join(", ")
        )?;
        if !self.untried.is_empty() {
            writeln!(f, "not tried   {}", self.untried.join(", "))?;
        }
        writeln!(f, "{}", self.summary)?;
        write!(
            f,
            "quiet       {} ms after the last fault",
            self.quiet_after_ms
        )?;
        if let Some(kept) = &self.kept {
            write!(f, "\nkept        {kept}")?;
        }
        Ok(())
    }
}
