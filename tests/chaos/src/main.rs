//! `cargo chaos`: disturbs a field of agents for as long as it is told, and judges what is left.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use outpost_chaos::kind::KINDS;
use outpost_chaos::plan::{Outcome, Plan, run};
use outpost_e2e::binaries::Binary;
use outpost_e2e::report;

const AFTER_HELP: &str = "\
Needs the binaries beside its own: cargo build --release --workspace --bins
As root, with nft and a C compiler, everything is tried; what is not is told in the summary.
Exit status: 0 every promise was kept; 1 one was not; 2 wrong usage, or a binary is missing or stale.";

/// Kills, stops and cuts real agents and a real orchestrator while they work, then checks the history of both sides.
#[derive(Debug, Parser)]
#[command(name = "chaos", after_help = AFTER_HELP)]
struct Args {
    /// How long faults go on; what is left is then waited for.
    #[arg(long, default_value_t = 5.0, value_name = "N", value_parser = minutes)]
    minutes: f64,
    /// How many agents.
    #[arg(long, default_value_t = 50, value_name = "M", value_parser = clap::value_parser!(u16).range(1..=500))]
    agents: u16,
    /// Which faults hit whom and when.
    #[arg(long, default_value_t = 1, value_name = "S")]
    seed: u64,
    /// Runs asked for each second.
    #[arg(long, default_value_t = 2.0, value_name = "N", value_parser = rate)]
    rate: f64,
    /// The longest pause between two faults, in milliseconds; the shortest is a fifth of it.
    #[arg(long, default_value_t = 3000, value_name = "MS", value_parser = clap::value_parser!(u64).range(50..=600_000))]
    every_ms: u64,
    /// Only kinds of faults whose names, as in the summary, contain these words; several times for several.
    #[arg(long, value_name = "WORDS", value_parser = kind)]
    only: Vec<String>,
    /// One JSON value on standard output in place of the summary; faults are told on standard error.
    #[arg(long)]
    json: bool,
    /// Print every place at which a test build can be killed between two steps, and do nothing else.
    #[arg(long)]
    failpoints: bool,
    /// Leave the directory with all logs, databases and ledgers where it is.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.failpoints {
        for point in &outpost_failpoint::ALL {
            report::line(format_args!("{:<24} {}", point.name, point.between));
        }
        return ExitCode::SUCCESS;
    }
    for binary in [Binary::Agent, Binary::Orchestrator] {
        if let Err(why) = binary.find() {
            report::note(format_args!("error: {why}"));
            return ExitCode::from(2);
        }
    }
    if let Some(code) = outpost_chaos::network::again_in_own() {
        return code;
    }
    let plan = Plan {
        faults_for: Duration::from_secs_f64(args.minutes * 60.0),
        agents: usize::from(args.agents),
        seed: args.seed,
        run_every: Duration::from_secs_f64(1.0 / args.rate),
        fault_every_ms: args.every_ms,
        only: args.only,
        keep: args.keep,
    };
    let say = |line: String| match args.json {
        true => report::note(line),
        false => report::line(line),
    };
    let outcome = run(&plan, say);
    tell(&outcome, args.json);
    if outcome.summary.holds() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn tell(outcome: &Outcome, json: bool) {
    match serde_json::to_string_pretty(outcome) {
        Ok(text) if json => report::line(text),
        Ok(_) | Err(_) => report::line(outcome),
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    positive(text, 24.0 * 60.0)
}

fn rate(text: &str) -> Result<f64, String> {
    positive(text, 1000.0)
}

fn kind(text: &str) -> Result<String, String> {
    let known = KINDS.iter().any(|(_, _, name)| name.contains(text));
    known.then(|| text.to_owned()).ok_or_else(|| {
        let names = KINDS.map(|(_, _, name)| name);
        format!("no kind is called so; there are: {}", names.join(", "))
    })
}

fn positive(text: &str, most: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text} is no number"))?;
    if number > 0.0 && number <= most {
        Ok(number)
    } else {
        Err(format!("{text} is not above 0 and up to {most}"))
    }
}
