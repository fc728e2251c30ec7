//! The lottery: the demo again and again, each time with SIGKILL for one of its processes, drawn with its moment.
//!
//! Every run must succeed, with no attempt started twice, no hang, and nothing left. Each run has a seed of its own, so
//! that `--runs 1 --seed N` draws the same again; what is alive at a moment still is the machine's affair.

mod chance;
mod one;
mod starts;
mod victim;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use outpost_e2e::binaries::Binary;
use outpost_e2e::report;

use crate::chance::Chance;
use crate::one::{Kill, NOBODY, One, Verdict};
use crate::victim::Kind;

/// Runs that may be over too soon before one counts as it is.
const AGAIN: u32 = 3;

const AFTER_HELP: &str = "\
Needs the release binaries: cargo build --release --workspace --bins
Exit status: 0 every run succeeded; 1 one did not; 2 wrong usage, or a binary is missing or stale.";

/// Runs the demo many times, each time with kill -9 of one of its processes at a random moment.
#[derive(Debug, Parser)]
#[command(name = "lottery", after_help = AFTER_HELP)]
struct Args {
    /// How many runs.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    runs: u64,
    /// The first run's seed; each further run has the next number.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Always kill one of these, when there is one.
    #[arg(long, value_enum, value_name = "KIND")]
    victim: Option<Kind>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outpost = match Binary::Cli.find() {
        Ok(outpost) => outpost,
        Err(why) => {
            report::note(format_args!("error: {why}"));
            return ExitCode::from(2);
        }
    };
    let undisturbed = One::run(outpost, None);
    report::line(format_args!("undisturbed: {undisturbed}"));
    if undisturbed.verdict != Verdict::Ok {
        undisturbed.show();
        return ExitCode::FAILURE;
    }
    let mut table: BTreeMap<(String, Verdict), u64> = BTreeMap::new();
    for number in 0..args.runs {
        let seed = args.seed.wrapping_add(number);
        let one = disturbed(outpost, draw(seed, undisturbed.took, args.victim));
        report::line(format_args!("{:>4}  seed {seed:<6} {one}", number + 1));
        *table.entry((one.victim(), one.verdict)).or_default() += 1;
        if one.verdict != Verdict::Ok {
            one.show();
        }
    }
    summary(&table, args.runs)
}

/// A run in which somebody was killed. One that was over before the moment that was drawn, because it was faster than
/// the first, is run again with half of it.
fn disturbed(outpost: &Path, mut kill: Kill) -> One {
    for _ in 0..AGAIN {
        let one = One::run(outpost, Some(kill));
        if one.verdict != Verdict::Ok || one.victim() != NOBODY {
            return one;
        }
        kill.at /= 2;
    }
    One::run(outpost, Some(kill))
}

/// What happens in the run with this seed. An aimed victim is waited for from the moment on; dial lives so briefly that
/// it would never be met otherwise.
fn draw(seed: u64, span: Duration, aim: Option<Kind>) -> Kill {
    let mut chance = Chance::new(seed);
    let within = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1);
    let at = Duration::from_micros(chance.below(within));
    let pick = chance.next();
    match aim {
        Some(Kind::Dial) => Kill {
            at: Duration::ZERO,
            aim,
            pick,
        },
        Some(_) => Kill { at, aim, pick },
        None if chance.below(8) == 0 => Kill {
            at: Duration::ZERO,
            aim: Some(Kind::Dial),
            pick,
        },
        None => Kill {
            at,
            aim: None,
            pick,
        },
    }
}

fn summary(table: &BTreeMap<(String, Verdict), u64>, runs: u64) -> ExitCode {
    report::line(format_args!("\n{:<14} {:<24} runs", "victim", "result"));
    for ((victim, verdict), count) in table {
        report::line(format_args!(
            "{victim:<14} {:<24} {count}",
            verdict.to_string()
        ));
    }
    let good: u64 = table
        .iter()
        .filter(|((_, verdict), _)| *verdict == Verdict::Ok)
        .map(|(_, count)| count)
        .sum();
    report::line(format_args!("{good} of {runs} runs succeeded"));
    if good == runs {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
