//! What one agent does beside what the machine itself can do, measured in the same run: printed, not judged.
//!
//! Real release binaries with their usual settings, on loopback. `outpost-stamp` is the task whose first instruction is
//! timed, without a loader where that can be built: starting a shell, or a program of shared libraries, would take as
//! long as what is measured.

mod caller;
mod figures;
mod live;
mod machine;
mod measure;
mod stamps;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use outpost_e2e::binaries::Binary;
use outpost_e2e::report;

use crate::figures::Figures;
use crate::measure::Plan;

/// Measures one agent with two slots, and the machine's own limits beside it.
#[derive(Debug, Parser)]
#[command(
    name = "outpost-bench",
    after_help = "Needs the release binaries: cargo build --release --workspace --bins"
)]
struct Args {
    /// How often everything is measured; medians are told. 5, or 1 with `--quick`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: Option<u32>,
    /// Once, with fewer samples: a look, not a figure to compare.
    #[arg(long)]
    quick: bool,
    /// How many tasks that do nothing.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    tasks: Option<u32>,
    /// How many runs are timed from the call to the first instruction.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(10..=10_000))]
    triggers: Option<u32>,
    /// Instead of everything else: so many live tasks, and what others feel of them.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    live: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    for binary in [Binary::Agent, Binary::Orchestrator] {
        if let Err(why) = binary.find() {
            report::note(format_args!("error: {why}"));
            return ExitCode::from(2);
        }
    }
    let machine = machine::describe();
    if !args.json {
        machine.iter().for_each(report::line);
    }
    match measure(&args) {
        Ok(figures) => {
            print(&machine, &figures, args.json);
            ExitCode::SUCCESS
        }
        Err(error) => {
            report::note(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> anyhow::Result<Figures> {
    let (runs, tasks, triggers, rest_s) = if args.quick {
        (1, 2_000, 50, 10)
    } else {
        (5, 10_000, 200, 60)
    };
    let runs = args.runs.unwrap_or(runs);
    let plan = Plan {
        tasks: args.tasks.unwrap_or(tasks),
        triggers: args.triggers.unwrap_or(triggers),
        rest: Duration::from_secs(rest_s),
    };
    // Kept until everything is measured: a file system that has just deleted thousands of files is slow at making new
    // ones for a minute, and the next run would measure that.
    let mut worlds = Vec::new();
    let mut measured = Vec::new();
    for run in 1..=runs {
        report::note(format_args!(
            "run {run} of {runs}, load {}",
            machine::load()
        ));
        measured.push(match args.live {
            Some(tasks) => live::all(tasks, plan.triggers, &mut worlds)?,
            None => measure::all(&plan, &mut worlds)?,
        });
    }
    Ok(Figures::medians(&measured))
}

fn print(machine: &[String], figures: &Figures, json: bool) {
    if json {
        let all = serde_json::json!({
            "machine": machine,
            "load_after": machine::load(),
            "metrics": figures.rows(),
        });
        report::line(all);
    } else {
        figures.lines().iter().for_each(report::line);
        report::line(format_args!("load after  {}", machine::load()));
    }
}
