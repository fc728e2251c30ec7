//! What people type: the arguments of each command, with the help they get.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use outpost_proto::units::{duration_ms, size_bytes};

const AFTER_HELP: &str = "\
Examples:
  outpost-agent enrol --token-file join.token
  outpost-agent check
  outpost-agent run --slots 4
  outpost-agent catalogue try nightly-dump --param day=2026-01-31
  outpost-agent logs -f 3f2a
  outpost-agent ledger explain

Exit status: 0 done; 1 it could not be done; 2 wrong usage.
Files: state in /var/lib/outpost-agent as root, else ~/.local/state/outpost-agent;
       catalogue in /etc/outpost/catalogue.d as root, else ~/.config/outpost/catalogue.d.";

const TRY_HELP: &str = "\
The task's output is shown as it comes; the result follows on standard error. With --output json the result alone is on
standard output. Ctrl-C ends the task as the orchestrator's cancel would; a second one by force.

Exit status: 0 succeeded; 1 it could not be tried; 2 wrong usage; 3 refused; 4 failed; 5 timed out; 6 it could not be
started; 7 killed; 130 cancelled.";

/// Runs this site's own tasks when the orchestrator says so. Dials out, listens to nobody.
#[derive(Debug, Parser)]
#[command(name = "outpost-agent", version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    /// State directory.
    #[arg(long, global = true, env = "OUTPOST_AGENT_STATE", value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// How lists and reports are shown.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "table",
        value_name = "FORM"
    )]
    pub(crate) output: Form,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How lists and reports are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct CatalogueArg {
    /// Directory with the site's catalogue files.
    #[arg(long, env = "OUTPOST_AGENT_CATALOGUE", value_name = "DIR")]
    pub(crate) catalogue: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Get a certificate with a one-time join token.
    Enrol {
        /// File with the token; `-` reads it from standard input.
        #[arg(long, value_name = "FILE")]
        token_file: OsString,
        /// URL of an HTTP CONNECT proxy on the way to the orchestrator.
        #[arg(
            long,
            env = "OUTPOST_PROXY",
            hide_env_values = true,
            value_name = "URL"
        )]
        proxy: Option<String>,
        /// Enrol again although this directory is enrolled; what it holds of the earlier identity is given up.
        #[arg(long)]
        force: bool,
    },
    /// Connect and run what the orchestrator asks for and the catalogue allows, until stopped.
    Run {
        #[command(flatten)]
        catalogue: CatalogueArg,
        /// How many tasks run at once; by default one per processor.
        #[arg(long, env = "OUTPOST_AGENT_SLOTS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4095))]
        slots: Option<u16>,
        /// URL of an HTTP CONNECT proxy on the way to the orchestrator.
        #[arg(
            long,
            env = "OUTPOST_PROXY",
            hide_env_values = true,
            value_name = "URL"
        )]
        proxy: Option<String>,
        /// Connect and record what would be sent and run; run nothing.
        #[arg(long)]
        observe: bool,
        /// Serve Prometheus metrics at this loopback address, such as 127.0.0.1:9464; without it they are not served.
        #[arg(long, env = "OUTPOST_AGENT_METRICS", value_name = "ADDRESS:PORT")]
        metrics: Option<std::net::SocketAddr>,
        #[command(flatten)]
        keep: KeepArgs,
        #[arg(long, hide = true)]
        leash_fd: Option<RawFd>,
    },
    /// Look at everything that must be right before `run` works, and say how to mend what is not.
    Check {
        #[command(flatten)]
        catalogue: CatalogueArg,
        /// URL of an HTTP CONNECT proxy on the way to the orchestrator.
        #[arg(
            long,
            env = "OUTPOST_PROXY",
            hide_env_values = true,
            value_name = "URL"
        )]
        proxy: Option<String>,
    },
    /// Show the running agent in one screen.
    Status,
    /// Show an attempt's output, or list the newest attempts.
    Logs {
        /// The attempt's id, or its first digits; those of a run list its attempts. Without it the newest are listed.
        attempt: Option<String>,
        /// Go on showing what is added, until the attempt is over.
        #[arg(short, long, requires = "attempt")]
        follow: bool,
    },
    /// Look at what left this site.
    #[command(subcommand)]
    Ledger(Ledger),
    /// Look at what may run here.
    #[command(subcommand)]
    Catalogue(CatalogueCommand),
    /// Start nothing until `resume`; the orchestrator cannot override it.
    Pause,
    /// Start work again.
    Resume,
    /// Finish what runs, take nothing new, then end; waits for that.
    #[command(
        after_help = "Exit status: 0 the agent has ended; 3 it has not within the time, and goes on draining."
    )]
    Drain {
        /// How long to wait.
        #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
        timeout: Duration,
        /// Ask for it and wait for nothing.
        #[arg(long, conflicts_with = "timeout")]
        no_wait: bool,
    },
    /// Read the catalogue again.
    Reload,
    /// Print the JSON Schema of catalogue files, for editors.
    Schema,
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print a reference in Markdown, as it is in the documentation.
    #[command(hide = true)]
    Reference {
        /// Which.
        #[arg(value_enum)]
        what: Reference,
    },
    #[command(subcommand, hide = true)]
    Role(Role),
}

/// What can be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reference {
    /// Catalogue files.
    Catalogue,
    /// Options, environment variables, files and limits.
    Config,
    /// Commands.
    Cli,
}

/// What stays on disk of what is over.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Retention")]
pub(crate) struct KeepArgs {
    /// How long logs and directories of attempts and runs that are over stay; at most 30d.
    #[arg(long, env = "OUTPOST_AGENT_KEEP_LOGS", value_name = "TIME", default_value = "14d", value_parser = keep_logs)]
    pub(crate) keep_logs: Duration,
    /// How many bytes of logs stay; beyond it the oldest go.
    #[arg(long, env = "OUTPOST_AGENT_KEEP_LOGS_SIZE", value_name = "SIZE", default_value = "10GiB", value_parser = size)]
    pub(crate) keep_logs_size: u64,
    /// How long segments of the ledger stay; those of the present session do in any case.
    #[arg(long, env = "OUTPOST_AGENT_KEEP_LEDGER", value_name = "TIME", default_value = "90d", value_parser = duration)]
    pub(crate) keep_ledger: Duration,
    /// How many bytes of the ledger stay; beyond it the oldest segments go.
    #[arg(long, env = "OUTPOST_AGENT_KEEP_LEDGER_SIZE", value_name = "SIZE", default_value = "1GiB", value_parser = ledger_size)]
    pub(crate) keep_ledger_size: u64,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Ledger {
    /// List the records.
    Show,
    /// Say each record in words.
    Explain,
    /// Check every record and its place in the chain.
    Verify,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CatalogueCommand {
    /// List the entries, or say what is wrong with the files.
    List {
        #[command(flatten)]
        catalogue: CatalogueArg,
    },
    /// Say everything that is wrong, will not work on this host, or is wider than it need be.
    #[command(after_help = "Exit status: 0 the catalogue would be accepted; 1 it would not.")]
    Lint {
        #[command(flatten)]
        catalogue: CatalogueArg,
    },
    /// Run an entry here and now, exactly as an instruction would; needs no orchestrator and disturbs no agent.
    #[command(after_help = TRY_HELP)]
    Try {
        #[command(flatten)]
        catalogue: CatalogueArg,
        /// The entry's name.
        entry: String,
        /// A parameter; can be given several times.
        #[arg(short, long = "param", value_name = "NAME=VALUE")]
        params: Vec<String>,
        /// The deadline that an instruction would carry; the shorter of it and the entry's timeout counts.
        #[arg(long, value_name = "TIME", value_parser = duration)]
        deadline: Option<Duration>,
        /// The task's name in its run.
        #[arg(long, value_name = "NAME", default_value = "try")]
        task: String,
        /// Leave the directories of the attempt, for a look or for the next task of the same run.
        #[arg(long)]
        keep: bool,
        /// Run as a further task of the run that an earlier `--keep` left in this directory.
        #[arg(long, value_name = "DIR")]
        after: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    Link {
        #[arg(long)]
        ipc_fd: RawFd,
        #[arg(long)]
        dial_fd: RawFd,
        #[arg(long)]
        key_dir: PathBuf,
        #[arg(long)]
        server_name: String,
        #[arg(long, value_parser = pin)]
        pin: Option<[u8; 32]>,
        #[arg(long)]
        leash_fd: Option<RawFd>,
    },
    Dial {
        #[arg(long)]
        dial_fd: RawFd,
        #[arg(long)]
        conn: u64,
        #[arg(long)]
        address: String,
        #[arg(long, env = "OUTPOST_PROXY", hide_env_values = true)]
        proxy: Option<String>,
        #[arg(long)]
        leash_fd: Option<RawFd>,
    },
}

fn pin(text: &str) -> Result<[u8; 32], String> {
    let wrong = || "a pin is 64 hex digits".to_owned();
    if text.len() != 64 || !text.is_ascii() {
        return Err(wrong());
    }
    let mut pin = [0; 32];
    for (at, byte) in pin.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
    }
    Ok(pin)
}

/// Outcomes are remembered so long: an attempt whose directory went must not be assigned again unnoticed.
const KEEP_LOGS_MOST: Duration = Duration::from_secs(30 * 24 * 3600);

fn duration(text: &str) -> Result<Duration, String> {
    let ms = duration_ms(text).map_err(|error| error.to_string())?;
    Ok(Duration::from_millis(ms))
}

fn keep_logs(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|keep| {
        if keep <= KEEP_LOGS_MOST {
            Ok(keep)
        } else {
            Err("it can be 30d at most".to_owned())
        }
    })
}

fn size(text: &str) -> Result<u64, String> {
    size_bytes(text).map_err(|error| error.to_string())
}

fn ledger_size(text: &str) -> Result<u64, String> {
    let least = 2 * crate::ledger::SEGMENT_BYTES;
    match size(text)? {
        size if size >= least => Ok(size),
        _ => Err(format!("it can be {}MiB at least", least >> 20)),
    }
}
