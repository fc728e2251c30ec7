//! What one agent does beside what the machine itself can do, measured in the same run: printed, not judged.
//!
//! Real release binaries with their usual settings, on loopback. The benchmark's own executable is the task whose first
//! instruction is timed: a shell would take longer to start than what is measured.

mod figures;
mod machine;
mod measure;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use outpost_e2e::binaries::Binary;
use outpost_e2e::report;

use crate::figures::Figures;

/// Measures one agent with two slots, and the machine's own limits beside it.
#[derive(Debug, Parser)]
#[command(
    name = "outpost-bench",
    after_help = "Needs the release binaries: cargo build --release --workspace --bins"
)]
struct Args {
    /// How many tasks that do nothing.
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    tasks: u32,
    /// How many runs are timed from the call to the first instruction.
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(10..=10_000))]
    triggers: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Write the time of day into a file and end.
    #[command(hide = true)]
    Stamp { file: PathBuf },
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Role::Stamp { file }) = args.role {
        return match measure::stamp(&file) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
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
    match measure::all(args.tasks, args.triggers) {
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

fn print(machine: &[String], figures: &Figures, json: bool) {
    if json {
        let all = serde_json::json!({ "machine": machine, "figures": figures.rows() });
        report::line(all);
    } else {
        figures.lines().iter().for_each(report::line);
    }
}
