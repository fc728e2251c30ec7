//! The command line of `outpost`: every command with its help and its examples. What the commands do is elsewhere.
//!
//! A test runs every example of every help text through the parser, so that none of them grows old.

mod agents;
mod context;
mod files;
mod hints;
mod local;
mod recovery;
mod runs;
mod workflows;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use outpost_proto::units::{NotAUnit, duration_ms};

pub(crate) use agents::{AgentsCommand, DrainArgs, InviteArgs};
pub(crate) use context::{ContextAdd, ContextCommand};
pub(crate) use files::{ApplyArgs, DiffArgs, SchemaKind, ValidateArgs};
pub(crate) use hints::hinted;
pub(crate) use local::{DemoArgs, DevArgs, LocalCommand, ReferenceKind};
pub(crate) use recovery::{AttemptsCommand, RecoveryCommand};
pub(crate) use runs::{CancelArgs, RerunArgs, RunsArgs, TriggerArgs};
pub(crate) use workflows::{DeleteCommand, ScheduleArgs};

/// Options that only commands that ask a server look at.
const SERVER: &str = "Server";

/// Commands that do not.
const OFFLINE: [&str; 11] = [
    "outpost validate",
    "outpost schema",
    "outpost dev",
    "outpost demo",
    "outpost completions",
    "outpost man",
    "outpost exit-codes",
    "outpost reference",
    "outpost context use",
    "outpost context list",
    "outpost context remove",
];

const EXAMPLES: &str = "\
Examples:
  outpost demo                                    see everything work here
  outpost context add prod --server https://o.example.org --token-file token
  outpost validate flows/                         find mistakes, no server
  outpost apply -f flows/
  outpost trigger host-report --param top=25 --wait
  outpost explain 01a204c8d4c2                    why it waits (ids may be cut)";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "outpost",
    version,
    about = "Runs a site's own tasks through agents that dial out, and shows what happens",
    after_help = concat_help(EXAMPLES),
    max_term_width = 100
)]
pub(crate) struct Cli {
    /// Which server.
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    /// How results are printed: `table` for people, `json` for programs (errors too, on stderr).
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "table",
        value_name = "FORM",
        hide_possible_values = true
    )]
    pub(crate) output: Format,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The command line as it is parsed, shown and described.
pub(crate) fn command() -> clap::Command {
    let mut command = Cli::command();
    // Options of every command reach the commands below only when it is built.
    command.build();
    without_server(command, "outpost")
}

/// Commands that ask no server do not show the options that say which. `path` is the command's whole name.
fn without_server(command: clap::Command, path: &str) -> clap::Command {
    let names: Vec<String> = command
        .get_subcommands()
        .map(|it| it.get_name().to_owned())
        .collect();
    let command = names.into_iter().fold(command, |command, below| {
        let path = format!("{path} {below}");
        command.mut_subcommand(&below, |it| without_server(it, &path))
    });
    if !OFFLINE.contains(&path) {
        return command;
    }
    command.mut_args(|arg| {
        let hide = arg.get_help_heading() == Some(SERVER);
        if hide { arg.hide(true) } else { arg }
    })
}

/// Where the API is and who asks. The environment is looked at elsewhere, which knows what wins over what.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ConnectionArgs {
    /// The orchestrator's API: http on loopback, https elsewhere [env: OUTPOST_SERVER] [default:
    /// http://127.0.0.1:7080].
    #[arg(long, global = true, help_heading = SERVER, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// File with the API token [env: OUTPOST_TOKEN_FILE; OUTPOST_TOKEN holds the token itself].
    #[arg(long, global = true, help_heading = SERVER, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Root certificate (PEM) to trust for https, instead of the system's [env: OUTPOST_CA].
    #[arg(long, global = true, help_heading = SERVER, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Context that says all of these; see `outpost context --help` [env: OUTPOST_CONTEXT].
    #[arg(long, global = true, help_heading = SERVER, value_name = "NAME")]
    pub(crate) context: Option<String>,
}

/// How results look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people; columns separated by tabs when piped.
    Table,
    /// For programs: as the API answers; errors as JSON on stderr.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Commands that ask the server.
    #[command(flatten)]
    Client(ClientCommand),
    /// Commands that need no server.
    #[command(flatten)]
    Local(LocalCommand),
    /// Several orchestrators: name each once, then choose by name.
    #[command(subcommand, after_help = context::EXAMPLES, long_about = context::ABOUT)]
    Context(ContextCommand),
}

/// Commands that ask the server.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Create or change workflows; all files are checked before any is applied.
    #[command(after_help = files::APPLY)]
    Apply(ApplyArgs),
    /// Show what applying files would change; status 1 when they differ.
    #[command(after_help = files::DIFF)]
    Diff(DiffArgs),
    /// Delete a workflow.
    #[command(subcommand, after_help = workflows::DELETE)]
    Delete(DeleteCommand),
    /// List workflows, with their next scheduled runs.
    #[command(after_help = workflows::LIST)]
    Workflows,
    /// Stop a workflow's scheduled runs; runs by hand still start.
    #[command(after_help = workflows::PAUSE)]
    Pause {
        /// The workflow's name.
        workflow: String,
    },
    /// Let a paused workflow's scheduled runs start again, from now on.
    #[command(after_help = workflows::RESUME)]
    Resume {
        /// The workflow's name.
        workflow: String,
    },
    /// Show when a workflow's next scheduled runs are due, in its time zone and in yours.
    #[command(after_help = workflows::SCHEDULE)]
    Schedule(ScheduleArgs),
    /// Start a run of a workflow.
    #[command(after_help = runs::TRIGGER)]
    Trigger(TriggerArgs),
    /// List runs, newest first.
    #[command(after_help = runs::RUNS)]
    Runs(RunsArgs),
    /// Show a run: its tasks, their attempts, how long they took.
    #[command(after_help = runs::RUN)]
    Run {
        /// The run's id, or a unique beginning of it.
        run: String,
    },
    /// Show a run until it is over; the exit status tells how it ended.
    #[command(after_help = runs::WATCH)]
    Watch {
        /// The run's id, or a unique beginning of it.
        run: String,
    },
    /// Run what failed once more, within the same run.
    #[command(after_help = runs::RERUN)]
    Rerun(RerunArgs),
    /// Cancel a run; what its agents have started is ended at their next contact.
    #[command(after_help = runs::CANCEL)]
    Cancel(CancelArgs),
    /// Say why each task of a run is where it is.
    #[command(after_help = runs::EXPLAIN)]
    Explain {
        /// The run's id, or a unique beginning of it.
        run: String,
        /// Only this task of it.
        task: Option<String>,
    },
    /// List agents, invite and remove them, say what they get to do.
    #[command(after_help = agents::EXAMPLES)]
    Agents {
        /// What to do; without it: list.
        #[command(subcommand)]
        command: Option<AgentsCommand>,
    },
    /// Say that an attempt is over of which nothing is heard.
    #[command(subcommand, after_help = recovery::ATTEMPTS)]
    Attempts(AttemptsCommand),
    /// See what holds work back after a restore or a mass outage, and go on.
    #[command(after_help = recovery::RECOVERY)]
    Recovery {
        /// What to do; without it: status.
        #[command(subcommand)]
        command: Option<RecoveryCommand>,
    },
    /// Say where an attempt's log is and how to read it there; logs do not leave the site.
    #[command(after_help = runs::LOGS)]
    Logs {
        /// A run's id or a beginning of it, for all its attempts; or the whole id of one attempt.
        #[arg(value_name = "RUN|ATTEMPT")]
        id: String,
        /// Only this task of the run.
        task: Option<String>,
    },
}

fn duration(text: &str) -> Result<Duration, NotAUnit> {
    duration_ms(text).map(Duration::from_millis)
}

/// Examples, and then what the exit statuses mean.
fn concat_help(examples: &str) -> String {
    format!("{examples}\n\n{}", crate::exit::table())
}

#[cfg(test)]
mod tests;
