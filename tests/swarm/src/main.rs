//! Thousands of simulated agents against a real orchestrator over real mutual TLS: memory for each, processor time for
//! their heartbeats, and how soon all are back after the orchestrator was killed. Printed, not judged.
//!
//! Each agent is the real core on a connection of its own; its journal and ledger are in memory, and it has no
//! processes. Agents live in processes of their own, apart from the orchestrator's.

mod bare;
mod crowd;
mod measure;
mod member;
mod process;
mod stream;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use outpost_e2e::binaries::Binary;
use outpost_e2e::report;

use crate::measure::Metric;

/// Measures an orchestrator with many idle agents.
#[derive(Debug, Parser)]
#[command(
    name = "outpost-swarm",
    after_help = "Needs the release binaries: cargo build --release --workspace --bins"
)]
struct Args {
    /// How many agents.
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    agents: u32,
    /// In how many processes.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    processes: u32,
    /// For how many seconds their heartbeats are watched.
    #[arg(long, default_value_t = 30, value_name = "S", value_parser = clap::value_parser!(u64).range(5..=3600))]
    window: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Many agents in this process.
    #[command(hide = true)]
    Crowd { task: PathBuf },
    /// A server with nothing behind its streams.
    #[command(hide = true)]
    BareServer { ready: PathBuf },
    /// Many plain connections to it.
    #[command(hide = true)]
    BareCrowd { access: PathBuf, count: usize },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.role {
        Some(Role::Crowd { task }) => block_on(1, crowd::run(task)),
        Some(Role::BareCrowd { access, count }) => block_on(1, crowd::run_bare(access, *count)),
        Some(Role::BareServer { ready }) => block_on(2, bare::serve(ready)),
        None => measure(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::note(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn block_on(threads: usize, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?
        .block_on(work)
}

fn measure(args: &Args) -> anyhow::Result<()> {
    if let Err(why) = Binary::Orchestrator.find() {
        anyhow::bail!("{why}");
    }
    let (agents, processes) = (
        usize::try_from(args.agents)?,
        usize::try_from(args.processes)?,
    );
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let window = Duration::from_secs(args.window);
    let metrics = measure::all(agents, processes, window, |what| {
        report::note(format_args!("{what} ..."));
    })?;
    if args.json {
        report::line(serde_json::json!({ "load": load.trim(), "metrics": metrics }));
    } else {
        report::line(format_args!("load before: {}", load.trim()));
        lines(&metrics).iter().for_each(report::line);
    }
    Ok(())
}

fn lines(metrics: &[Metric]) -> Vec<String> {
    let cell = |number: Option<f64>| number.map_or("-".to_owned(), |n| format!("{n:.2}"));
    let head = format!(
        "{:<36} {:>10} {:<4} {:>10} {:>6} {:>11}  met",
        "metric", "this run", "unit", "bare stack", "ratio", "target"
    );
    let line = |metric: &Metric| {
        let target = metric.target.map_or("-".to_owned(), |target| {
            let of = if metric.of_ratio { "x" } else { "" };
            format!("<= {target}{of}")
        });
        format!(
            "{:<36} {:>10.2} {:<4} {:>10} {:>6} {target:>11}  {}",
            metric.name,
            metric.value,
            metric.unit,
            cell(metric.limit),
            cell(metric.ratio),
            metric.met.map_or("-", |met| if met { "yes" } else { "no" }),
        )
    };
    std::iter::once(head)
        .chain(metrics.iter().map(line))
        .collect()
}
