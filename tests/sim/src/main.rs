//! `cargo sim`: plays seeds until one breaks an invariant, makes that one smaller, and says how to play it again.
//! `cargo bugbank`: puts known bugs back, one by one, and sees that each is found.

mod report;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use outpost_sim::{Hasty, Options, Played, Script, bugbank, play, run, shrink};

use report::{Totals, line};

/// Lines shown of a seed that broke an invariant.
const LINES: usize = 30;
/// Every so many seeds one is played twice: the second time must be the same.
const TWICE_EVERY: u64 = 25;
/// How often progress is told, in seeds.
const PROGRESS_EVERY: u64 = 500;
/// In so many seeds every fault has come at every step of the protocol at which it can.
const COVERED_IN: u64 = 2000;

/// Plays both cores against each other under seeded faults.
#[derive(Debug, Parser)]
#[command(name = "outpost-sim", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    /// Which seeds: `A..B` (B not included), or `N` for the first N.
    #[arg(long, default_value = "300", value_parser = seeds)]
    seeds: Range<u64>,
    /// Play this seed only, and print its trace.
    #[arg(long)]
    seed: Option<u64>,
    /// Play what is left of a seed, as a failing one was written down, and print its trace.
    #[arg(long, conflicts_with = "seed")]
    script: Option<PathBuf>,
    /// Print which fault came at which step of the protocol; fails if one that can be hit was not, as 2,000 seeds do
    /// without being asked.
    #[arg(long)]
    coverage: bool,
    /// Write what is left of a failing seed into this directory, to be kept as a regression.
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
    /// Print the whole trace of a seed that breaks an invariant, not only its end.
    #[arg(long)]
    trace: bool,
    /// Simulations at the same time; one per processor if not given.
    #[arg(long)]
    jobs: Option<usize>,
    /// Break something on purpose: the simulation must notice.
    #[arg(long = "break", hide = true)]
    broken: Option<Break>,
}

#[derive(Debug, Subcommand)]
enum Other {
    /// Try the patches in `tests/sim/bugs`: each must be found. Writes the table beside them.
    Bugbank {
        /// Seeds that each bug is looked for in.
        #[arg(long, default_value_t = 2000)]
        seeds: u64,
        /// Only the patches whose name contains this; the table keeps what it says of the others.
        #[arg(long)]
        only: Option<String>,
        /// Where it builds; kept, so that the next time is faster.
        #[arg(long, default_value = "target/bugbank")]
        scratch: PathBuf,
        /// Write what is left of each seed that finds a bug to the regressions.
        #[arg(long)]
        keep: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Break {
    /// The agents.
    SpeakBeforeCommit,
    /// The orchestrator.
    SpeakBeforeCommitOrchestrator,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| {
        let parsed = text.parse::<u64>();
        parsed.map_err(|_| format!("`{text}` is not a number; use `20000` or `5000..6000`"))
    };
    match text.split_once("..") {
        Some((from, until)) => Ok(number(from)?..number(until)?),
        None => Ok(1..number(text)?.saturating_add(1)),
    }
}

impl Arguments {
    fn options(&self, keep_lines: usize) -> Options {
        let hasty = match self.broken {
            None => Hasty::Nobody,
            Some(Break::SpeakBeforeCommit) => Hasty::Agents,
            Some(Break::SpeakBeforeCommitOrchestrator) => Hasty::Orchestrator,
        };
        Options { keep_lines, hasty }
    }

    fn replay(&self, what: &str) -> String {
        let broken = match self.broken {
            None => "",
            Some(Break::SpeakBeforeCommit) => " --break speak-before-commit",
            Some(Break::SpeakBeforeCommitOrchestrator) => {
                " --break speak-before-commit-orchestrator"
            }
        };
        format!("cargo sim {what}{broken}")
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(other) = &arguments.other {
        return try_bugs(other);
    }
    if let Some(path) = &arguments.script {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let script = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let again = arguments.replay(&format!("--script {}", path.display()));
        return Ok(replay(&arguments, &script, &again));
    }
    if let Some(seed) = arguments.seed {
        let again = arguments.replay(&format!("--seed {seed}"));
        return Ok(replay(&arguments, &Script::of(seed), &again));
    }
    play_all(&arguments)
}

/// Plays one seed, or what is left of it, with its whole trace.
fn replay(arguments: &Arguments, script: &Script, again: &str) -> ExitCode {
    let played = play(script, arguments.options(usize::MAX));
    if played.broken.is_some() {
        report::broken(script.seed, &played, again);
        return ExitCode::FAILURE;
    }
    played.lines.iter().for_each(line);
    line(format!(
        "seed {}: every invariant held; trace {:016x}",
        script.seed, played.hash
    ));
    ExitCode::SUCCESS
}

/// One seed's end: how it was played, or that it was not the same the second time.
fn one(arguments: &Arguments, seed: u64) -> (u64, Played, bool) {
    let plain = arguments.options(0);
    let played = run(seed, plain);
    let twice = seed.is_multiple_of(TWICE_EVERY) && played.broken.is_none();
    let same = !twice || run(seed, plain).hash == played.hash;
    (seed, played, same)
}

/// Plays all seeds on all processors; the first that fails ends it.
fn play_all(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = arguments.jobs.unwrap_or(processors).max(1);
    let next = AtomicU64::new(arguments.seeds.start);
    let end = arguments.seeds.end;
    let mut totals = Totals::default();
    let mut failed: Option<(u64, bool)> = None;
    std::thread::scope(|scope| {
        let (sender, played) = mpsc::sync_channel(jobs * 4);
        for _ in 0..jobs {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    // Nobody listens any more once a seed has failed.
                    if seed >= end || sender.send(one(arguments, seed)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (seed, played, same) in played {
            if played.broken.is_some() || !same {
                // The least one that fails is told of, whichever was faster.
                next.store(end, Ordering::Relaxed);
                let first = failed.is_none_or(|(least, _)| seed < least);
                failed = if first { Some((seed, same)) } else { failed };
                continue;
            }
            totals.add(&played);
            if totals.seeds.is_multiple_of(PROGRESS_EVERY) {
                let took = began.elapsed().as_secs_f64();
                line(format!("{} seeds, {took:.1} s", totals.seeds));
            }
        }
    });
    if let Some((seed, same)) = failed {
        return tell_failure(arguments, seed, same);
    }
    report::totals(&totals, began.elapsed());
    if arguments.coverage {
        line(totals.coverage.table());
    }
    line(totals.coverage.summary());
    let missing = totals.coverage.missing();
    let asked_for = arguments.coverage || totals.seeds >= COVERED_IN;
    for cell in missing.iter().filter(|_| asked_for) {
        line(format!("never hit: {cell}"));
    }
    Ok(if missing.is_empty() || !asked_for {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What broke, made smaller.
fn tell_failure(arguments: &Arguments, seed: u64, same: bool) -> anyhow::Result<ExitCode> {
    if !same {
        line(format!(
            "broken: the same seed gives the same trace\nseed {seed}"
        ));
        return Ok(ExitCode::FAILURE);
    }
    let keep_lines = if arguments.trace { usize::MAX } else { LINES };
    let options = arguments.options(keep_lines);
    let again = arguments.replay(&format!("--seed {seed}"));
    report::broken(seed, &run(seed, options), &again);
    let Some(script) = shrink(&Script::of(seed), arguments.options(0)) else {
        return Ok(ExitCode::FAILURE);
    };
    let faults = script.faults.as_ref().map_or(0, Vec::len);
    let text = script.text()?;
    line(format!("with {faults} faults it breaks as well:\n{text}"));
    if let Some(directory) = &arguments.keep {
        let path = directory.join(format!("seed-{seed}.json"));
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        line(format!("written to {}", path.display()));
    }
    Ok(ExitCode::FAILURE)
}

fn try_bugs(other: &Other) -> anyhow::Result<ExitCode> {
    let Other::Bugbank {
        seeds,
        only,
        scratch,
        keep,
    } = other;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()?;
    let scratch = std::path::absolute(scratch)?;
    let bank = bugbank::Bank {
        workspace: &workspace,
        scratch: &scratch,
        seeds: *seeds,
        keep: *keep,
    };
    let bugs = bank.try_all(only.as_deref(), |bug| line(bug.told(*seeds)))?;
    let missed = bugs.iter().any(|bug| bug.found.is_none());
    let path = workspace.join("tests/sim/bugs/README.md");
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let others = bugbank::other_rows(&before, &workspace, &bugs);
    std::fs::write(&path, bugbank::table(&bugs, *seeds, others))?;
    line(format!(
        "{} bugs, written to {}",
        bugs.len(),
        path.display()
    ));
    Ok(if missed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
