//! `cargo sim`: plays seeds until one breaks an invariant, and says how to play that one again.

mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use outpost_sim::{Hasty, Options, bugbank, run};

use report::{Totals, line};

/// Lines shown of a seed that broke an invariant.
const LINES: usize = 30;
/// Every so many seeds one is played twice: the second time must be the same.
const TWICE_EVERY: u64 = 25;
/// How often progress is told, in seeds.
const PROGRESS_EVERY: u64 = 100;

/// Plays both cores against each other under seeded faults.
#[derive(Debug, Parser)]
#[command(name = "outpost-sim")]
struct Arguments {
    /// How many seeds to play.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Play this seed only, and print its trace.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the whole trace of a seed that breaks an invariant, not only its end.
    #[arg(long)]
    trace: bool,
    /// Break something on purpose: the simulation must notice.
    #[arg(long = "break", hide = true)]
    broken: Option<Break>,
    /// Try the patches in `tests/sim/bugs`: each must be found.
    #[arg(long)]
    bugbank: bool,
    /// Where the bug bank builds; kept, so that the next time is faster. A temporary directory if not given.
    #[arg(long, requires = "bugbank")]
    scratch: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Break {
    /// The agents.
    SpeakBeforeCommit,
    /// The orchestrator.
    SpeakBeforeCommitOrchestrator,
}

impl Arguments {
    fn hasty(&self) -> Hasty {
        match self.broken {
            None => Hasty::Nobody,
            Some(Break::SpeakBeforeCommit) => Hasty::Agents,
            Some(Break::SpeakBeforeCommitOrchestrator) => Hasty::Orchestrator,
        }
    }

    fn replay(&self, seed: u64) -> String {
        let broken = match self.broken {
            None => "",
            Some(Break::SpeakBeforeCommit) => " --break speak-before-commit",
            Some(Break::SpeakBeforeCommitOrchestrator) => {
                " --break speak-before-commit-orchestrator"
            }
        };
        format!("cargo sim --seed {seed}{broken}")
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.bugbank {
        return try_bugs(&arguments);
    }
    Ok(match arguments.seed {
        Some(seed) => replay(&arguments, seed),
        None => play(&arguments),
    })
}

/// Plays one seed with its whole trace.
fn replay(arguments: &Arguments, seed: u64) -> ExitCode {
    let played = run(
        seed,
        Options {
            keep_lines: usize::MAX,
            hasty: arguments.hasty(),
        },
    );
    if played.broken.is_some() {
        report::broken(seed, 1, &played, &arguments.replay(seed));
        return ExitCode::FAILURE;
    }
    played.lines.iter().for_each(line);
    line(format!(
        "seed {seed}: every invariant held; trace {:016x}",
        played.hash
    ));
    ExitCode::SUCCESS
}

fn play(arguments: &Arguments) -> ExitCode {
    let began = Instant::now();
    let mut totals = Totals::default();
    let plain = Options {
        keep_lines: 0,
        hasty: arguments.hasty(),
    };
    for (nth, seed) in (1..).zip(arguments.from..arguments.from.saturating_add(arguments.seeds)) {
        let played = run(seed, plain);
        if played.broken.is_some() {
            let keep_lines = if arguments.trace { usize::MAX } else { LINES };
            let again = run(
                seed,
                Options {
                    keep_lines,
                    ..plain
                },
            );
            report::broken(seed, nth, &again, &arguments.replay(seed));
            return ExitCode::FAILURE;
        }
        if nth % TWICE_EVERY == 0 && run(seed, plain).hash != played.hash {
            line(format!(
                "broken: the same seed gives the same trace\nseed {seed}"
            ));
            return ExitCode::FAILURE;
        }
        totals.add(&played);
        if nth % PROGRESS_EVERY == 0 {
            line(format!(
                "{nth} seeds, {:.1} s",
                began.elapsed().as_secs_f64()
            ));
        }
    }
    report::totals(&totals, began.elapsed());
    ExitCode::SUCCESS
}

fn try_bugs(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let seeds = arguments.seeds;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()?;
    let temporary = tempfile::tempdir()?;
    let scratch = arguments.scratch.as_deref().unwrap_or(temporary.path());
    let bugs = bugbank(&workspace, scratch, seeds)?;
    let mut missed = false;
    for bug in &bugs {
        match &bug.found {
            Some(said) => {
                let last = said
                    .lines()
                    .filter(|text| text.starts_with("broken: ") || text.starts_with("seed "));
                line(format!("{}: found", bug.name));
                last.for_each(|text| line(format!("  {text}")));
            }
            None => {
                missed = true;
                line(format!("{}: NOT FOUND in {seeds} seeds", bug.name));
            }
        }
    }
    Ok(if missed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
