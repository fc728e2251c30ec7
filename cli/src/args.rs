//! The command line of `outpost`, and what each ending means to a shell.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use outpost_proto::units::{NotAUnit, duration_ms};

use crate::output::Out;

const EXAMPLES: &str = "\
Examples:
  outpost demo                                      see everything work on this machine
  outpost apply host-report.yaml
  outpost trigger host-report --param top=25 --wait
  outpost explain 4f1d…                             why does it wait?

Exit status:
  0   done; with --wait: the run succeeded
  1   the run, or what was waited for, did not succeed
  2   wrong use, or input that was refused
  3   the server could not be reached, or could not answer
  4   denied: no token, a wrong one, or a role that may not
  5   not found, or in conflict with what is there
  6   interrupted
  70  an error of ours";

/// Options that only commands that ask a server look at.
const SERVER: &str = "Server";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "outpost",
    version,
    about = "Runs a site's own tasks through agents that dial out, and shows what happens",
    after_help = EXAMPLES,
    max_term_width = 100
)]
pub(crate) struct Cli {
    /// Which server.
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    /// How results are printed.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "table",
        value_name = "FORM"
    )]
    pub(crate) output: Format,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the API is and who asks.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConnectionArgs {
    /// The orchestrator's API: http on loopback, https elsewhere.
    #[arg(
        long,
        global = true,
        help_heading = SERVER,
        env = "OUTPOST_SERVER",
        default_value = "http://127.0.0.1:7080",
        value_name = "URL"
    )]
    pub(crate) server: String,
    /// File with the API token; without it, the variable OUTPOST_TOKEN holds the token itself.
    #[arg(long, global = true, env = "OUTPOST_TOKEN_FILE", help_heading = SERVER, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Root certificate (PEM) to trust for https, instead of the system's.
    #[arg(long, global = true, env = "OUTPOST_CA", help_heading = SERVER, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

/// How results look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people; columns separated by tabs when piped.
    Table,
    /// For programs: as the API answers.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Commands that ask the server.
    #[command(flatten)]
    Client(ClientCommand),
    /// Run an orchestrator and an agent on this machine until Ctrl-C, with a throw-away authority.
    Dev(DevArgs),
    /// See everything work: a real workflow about this machine, and what left the site while it ran.
    Demo(DemoArgs),
    /// Print completions for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// Commands that ask the server.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Create or change workflows.
    Apply(ApplyArgs),
    /// Start a run of a workflow.
    Trigger(TriggerArgs),
    /// List workflows.
    Workflows,
    /// List runs, newest first.
    Runs(RunsArgs),
    /// Show a run: its tasks, their attempts, how long they took.
    Run {
        /// The run's id.
        run: String,
    },
    /// Cancel a run; what its agents have started is ended at their next contact.
    Cancel {
        /// The run's id.
        run: String,
        /// Wait until the run is over.
        #[arg(long)]
        wait: bool,
    },
    /// Say why each task of a run is where it is.
    Explain {
        /// The run's id.
        run: String,
    },
    /// List agents, invite and remove them.
    Agents {
        /// What to do; without it: list.
        #[command(subcommand)]
        command: Option<AgentsCommand>,
    },
    /// Say where an attempt's log is and how to read it there; logs do not leave the site.
    Logs {
        /// The attempt's id.
        attempt: String,
    },
}

/// What is applied.
#[derive(Debug, Clone, Args)]
pub(crate) struct ApplyArgs {
    /// Workflows in YAML; `-` reads from standard input.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Accept catalogue entries that no agent has announced yet.
    #[arg(long)]
    pub(crate) allow_unknown_entries: bool,
}

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
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
}

/// What becomes of agents.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum AgentsCommand {
    /// List agents and how they are.
    List,
    /// Make a one-time token with which a new agent enrols.
    Invite {
        /// The agent's name.
        agent: String,
        /// How long the token holds.
        #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
        ttl: Duration,
        /// Write the token to this new file, readable by its owner only, instead of printing it.
        #[arg(long, value_name = "FILE")]
        token_out: Option<PathBuf>,
    },
    /// Remove an agent: its session ends at once and its certificate is no longer accepted.
    Remove {
        /// The agent's name.
        agent: String,
    },
}

/// How to develop.
#[derive(Debug, Clone, Args)]
pub(crate) struct DevArgs {
    /// Where everything is kept: a new directory, outside the reach of others [default: a throw-away one].
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The catalogue the agent offers [default: the demo's, copied into the directory].
    #[arg(long, value_name = "DIR")]
    pub(crate) catalogue: Option<PathBuf>,
    /// Tasks at a time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) slots: u16,
}

/// How to demonstrate.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// Where everything is kept: a new directory [default: one under /tmp or /var/tmp; the newest five are kept].
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// How many of the largest packages, files and directories the report lists.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) top: u16,
    /// Leave orchestrator and agent running afterwards, until Ctrl-C.
    #[arg(long)]
    pub(crate) keep: bool,
}

fn duration(text: &str) -> Result<Duration, NotAUnit> {
    duration_ms(text).map(Duration::from_millis)
}

/// Prints a shell's completions.
pub(crate) fn completions(shell: clap_complete::Shell, out: Out) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "outpost", &mut script);
    out.line(String::from_utf8_lossy(&script).trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
