//! Commands about runs.

use clap::Args;

pub(super) const TRIGGER: &str = "\
Examples:
  outpost trigger host-report
  outpost trigger host-report --param top=25 --wait
  outpost trigger nightly --key release-7       this key again: no second run";

pub(super) const RUNS: &str = "\
Examples:
  outpost runs
  outpost runs --workflow nightly --state failed --limit 5
  outpost runs --all --output json";

pub(super) const RUN: &str = "\
Examples:
  outpost run 4f1d9c02
  outpost run 4f1d9c02 --output json";

pub(super) const WATCH: &str = "\
On a terminal the tree is drawn in place; elsewhere each thing that happens is one line. A connection that is cut is \
opened again, and nothing is missed or told twice. Ctrl-C stops watching; the run goes on.

Exit status: 0 when the run succeeds, 1 when it fails or is cancelled, 6 when watching is interrupted.

Examples:
  outpost watch 4f1d9c02
  outpost watch 4f1d9c02 --output json                waits, then prints the run";

pub(super) const RERUN: &str = "\
In the same run, so that outputs of tasks that succeeded are still there. Without --task: what failed, was cancelled, \
or never ran because of that. With --task: the named tasks and everything that needs them, even if they succeeded.

Examples:
  outpost rerun 4f1d9c02
  outpost rerun 4f1d9c02 --task load --wait";

pub(super) const CANCEL: &str = "\
Examples:
  outpost cancel 4f1d9c02
  outpost cancel 4f1d9c02 --wait";

pub(super) const EXPLAIN: &str = "\
Examples:
  outpost explain 4f1d9c02
  outpost explain 4f1d9c02 upload";

pub(super) const LOGS: &str = "\
Examples:
  outpost logs 4f1d9c02                           all attempts of a run
  outpost logs 4f1d9c02 load
  outpost logs 7c2e91d06b7f4a13a8a3f0d94c55e1b2   one attempt";

/// What is started.
#[derive(Debug, Clone, Args)]
pub(crate) struct TriggerArgs {
    /// The workflow's name.
    pub(crate) workflow: String,
    /// A parameter of the workflow; may be repeated.
    #[arg(long = "param", short, value_name = "NAME=VALUE")]
    pub(crate) params: Vec<String>,
    /// Show the run until it is over; the exit status tells how it ended.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Idempotency key: the same key starts the same run at most once.
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
}

/// Which runs.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunsArgs {
    /// Only of this workflow.
    #[arg(long)]
    pub(crate) workflow: Option<String>,
    /// Only in this state.
    #[arg(long, value_parser = ["running", "cancelling", "succeeded", "failed", "cancelled"])]
    pub(crate) state: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: u32,
    /// All of them, however many.
    #[arg(long, conflicts_with = "limit")]
    pub(crate) all: bool,
}

/// What is run again.
#[derive(Debug, Clone, Args)]
pub(crate) struct RerunArgs {
    /// The run's id, or a unique beginning of it.
    pub(crate) run: String,
    /// This task and everything that needs it; may be repeated.
    #[arg(long = "task", short, value_name = "TASK")]
    pub(crate) tasks: Vec<String>,
    /// Show the run until it is over; the exit status tells how it ended.
    #[arg(long)]
    pub(crate) wait: bool,
}

/// What is cancelled.
#[derive(Debug, Clone, Args)]
pub(crate) struct CancelArgs {
    /// The run's id, or a unique beginning of it.
    pub(crate) run: String,
    /// Wait until the run is over.
    #[arg(long)]
    pub(crate) wait: bool,
}
