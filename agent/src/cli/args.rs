//! What people type: the arguments of each command, with the help they get.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use outpost_agent_link::sandbox::Account;
use outpost_proto::units::{duration_ms, size_bytes};

use super::confinement::SandboxArg;
use super::evidence::{AuditArg, LEAKTEST_HELP, LeaktestArgs, LeaktestCommand, WireArgs};
use crate::seal::KeyArgs;

const AFTER_HELP: &str = "\
Examples:
  outpost-agent enrol --token-file join.token
  outpost-agent check
  outpost-agent run --slots 4
  outpost-agent catalogue try nightly-dump --param day=2026-01-31
  outpost-agent logs -f 3f2a
  outpost-agent ledger explain

Exit status: 0 done; 1 it could not be done; 2 wrong usage; 4 (enrol, run) the sandbox is weaker than
--sandbox strict asks for. `drain` and `catalogue try` have more, which their help tells.
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

/// How much is said upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reporting {
    /// Outcomes with durations in milliseconds and what entries opted in to, at once.
    Normal,
    /// Outcomes only, durations and the host's numbers in steps, every ten seconds at most.
    Strict,
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ReportingArg {
    /// How much is said of attempts and host; `outpost-agent ledger budget` says how many bits that is.
    #[arg(
        long,
        env = "OUTPOST_AGENT_REPORTING",
        value_enum,
        default_value = "normal",
        value_name = "HOW"
    )]
    pub(crate) reporting: Reporting,
}

impl From<Reporting> for outpost_proto::message::Reporting {
    fn from(reporting: Reporting) -> Self {
        match reporting {
            Reporting::Normal => Self::Normal,
            Reporting::Strict => Self::Strict,
        }
    }
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
        #[command(flatten)]
        sandbox: SandboxArg,
        #[command(flatten)]
        audit: AuditArg,
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
        /// Connect, judge every instruction in full, record what would have run, and run nothing: `outpost-agent observed`
        /// lists it. What an earlier process began goes on to its end.
        #[arg(long, env = "OUTPOST_AGENT_OBSERVE")]
        observe: bool,
        #[command(flatten)]
        reporting: ReportingArg,
        /// Serve Prometheus metrics at this loopback address, such as 127.0.0.1:9464; without it they are not served.
        #[arg(long, env = "OUTPOST_AGENT_METRICS", value_name = "ADDRESS:PORT")]
        metrics: Option<std::net::SocketAddr>,
        #[command(flatten)]
        keep: KeepArgs,
        #[command(flatten)]
        site_keys: KeyArgs,
        /// How long after the end of its last task here the files of a run are encrypted.
        #[arg(long, env = "OUTPOST_AGENT_SEAL_RUNS_AFTER", value_name = "TIME", default_value = "1m", value_parser = duration, help_heading = "Encryption at rest")]
        seal_runs_after: Duration,
        #[command(flatten)]
        sandbox: SandboxArg,
        #[command(flatten)]
        audit: AuditArg,
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
        #[command(flatten)]
        reporting: ReportingArg,
        #[command(flatten)]
        sandbox: SandboxArg,
        #[command(flatten)]
        audit: AuditArg,
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
        #[command(flatten)]
        site_keys: KeyArgs,
    },
    /// Take everything away that this site keeps of a run: logs, outputs, working directories.
    #[command(
        after_help = "Refused while attempts of the run go on. What stays, and why, is said: what left the site, and that it ran."
    )]
    Purge {
        /// The run's id, or its first digits.
        run: String,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Make or name the key with which logs and outputs are encrypted on this host's disk.
    #[command(subcommand)]
    SiteKey(SiteKeyCommand),
    /// List what this site refused, each with its reason, which stays here; the newest last.
    Refusals {
        #[command(flatten)]
        which: RefusalsArgs,
    },
    /// List what `run --observe` would have run.
    Observed {
        #[command(flatten)]
        which: RefusalsArgs,
    },
    /// Look at what left this site.
    #[command(subcommand)]
    Ledger(Ledger),
    /// Have canary tasks leave a marked string everywhere, then look for it in all that leaves the site.
    #[command(after_help = LEAKTEST_HELP, args_conflicts_with_subcommands = true)]
    Leaktest {
        #[command(flatten)]
        looks: Box<LeaktestArgs>,
        #[command(subcommand)]
        what: Option<LeaktestCommand>,
    },
    /// Look at what may run here.
    #[command(subcommand)]
    Catalogue(CatalogueCommand),
    /// Look at where this site's secrets come from; a value is never shown.
    #[command(subcommand)]
    Secrets(SecretsCommand),
    /// Approve starts of an entry that needs it; without an entry, list what is approved.
    Approve {
        #[command(flatten)]
        catalogue: CatalogueArg,
        /// The entry's name.
        entry: Option<String>,
        /// How many starts.
        #[arg(long, value_name = "N", default_value_t = 1, requires = "entry", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        times: u32,
        /// For how long it holds; at most 30d.
        #[arg(long, value_name = "TIME", default_value = "1h", requires = "entry", value_parser = keep_logs)]
        within: Duration,
        /// Only with this value of a parameter; can be given several times.
        #[arg(short, long = "param", value_name = "NAME=VALUE", requires = "entry")]
        params: Vec<String>,
        /// Take back everything that is approved of the entry.
        #[arg(long, requires = "entry", conflicts_with_all = ["times", "within", "params"])]
        withdraw: bool,
    },
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

#[derive(Debug, Clone, Args)]
pub(crate) struct RefusalsArgs {
    /// Of this catalogue entry only.
    #[arg(long, value_name = "ENTRY")]
    pub(crate) entry: Option<String>,
    /// How many at most, the newest.
    #[arg(short = 'n', long, value_name = "N", default_value = "50")]
    pub(crate) last: usize,
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
    /// How many bits leave.
    Budget,
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
    /// How many bytes of runs' files, outputs among them, stay; beyond it the oldest runs go, and never one with a task here.
    #[arg(long, env = "OUTPOST_AGENT_KEEP_RUNS_SIZE", value_name = "SIZE", default_value = "50GiB", value_parser = size)]
    pub(crate) keep_runs_size: u64,
    /// How long segments of the ledger stay; those of the present session do in any case.
    #[arg(long, env = "OUTPOST_AGENT_KEEP_LEDGER", value_name = "TIME", default_value = "90d", value_parser = duration)]
    pub(crate) keep_ledger: Duration,
    /// How many bytes of the ledger stay; beyond it the oldest segments go.
    #[arg(long, env = "OUTPOST_AGENT_KEEP_LEDGER_SIZE", value_name = "SIZE", default_value = "1GiB", value_parser = ledger_size)]
    pub(crate) keep_ledger_size: u64,
}

const VERIFY_HELP: &str = "\
Says what is proven, and by whom: each record and its place by the chain; the first frames of a session, and that
there were no others, by the orchestrator's signature over what it received.

Exit status: 0 everything is as it was written and as it was signed for; 1 it could not be checked; 3 something was changed,
cut, reordered, taken out or put in: what is said to be wrong begins with its kind; 4 the records are as they were written,
and a receipt does not hold or is for frames that are not here; 5 nothing is known to be wrong, and not all of it is shown:
frames were taken away before any receipt, nobody knows who signed one, or sessions are missing that were counted.

Wire = ledger: run and enrol the agent with --audit-keylog KEYS, capture meanwhile as root, then verify:
  dumpcap -i any -f 'host ORCHESTRATOR and tcp port PORT' -w CAPTURE
  outpost-agent ledger verify --capture CAPTURE --keylog KEYS
It is decrypted by tshark, which must be installed; no proxy may stand between. Exit status then: 0 every byte that the agent
sent is accounted for; 1 not so, or it could not be checked; 5 nothing unaccounted was found, but the capture lacks a part.";

/// Whose ledger is looked at.
#[derive(Debug, Clone, Args)]
pub(crate) struct LedgerFrom {
    /// A directory that `ledger export` made, or a copy of a ledger, in place of this agent's own.
    #[arg(long, value_name = "DIR")]
    pub(crate) from: Option<PathBuf>,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Ledger {
    /// List the records.
    Show {
        #[command(flatten)]
        from: LedgerFrom,
    },
    /// Say each record in words.
    Explain {
        #[command(flatten)]
        from: LedgerFrom,
    },
    /// Check every record, its place in the chain, and what the orchestrator signed for.
    #[command(after_help = VERIFY_HELP)]
    Verify {
        #[command(flatten)]
        from: LedgerFrom,
        /// A root under which the orchestrator's signatures count, and no other does: its SHA-256, or a file with it (PEM or
        /// DER). Ask the orchestrator's people for it: an export brings roots of its own along. May be repeated.
        #[arg(long = "root", value_name = "SHA256|FILE", conflicts_with = "capture")]
        roots: Vec<String>,
        #[command(flatten)]
        wire: Box<WireArgs>,
    },
    /// Copy everything that is needed to check the ledger elsewhere: `ledger verify --from DIR` does, offline.
    #[command(after_help = "Exit status: as of `ledger verify`, which the copy goes through.")]
    Export {
        /// A directory that does not exist yet.
        #[arg(value_name = "DIR")]
        to: PathBuf,
    },
    /// Say how many bits each message can carry, and how many of them a task can choose.
    Budget,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SiteKeyCommand {
    /// Make a key, in a file that only this account reads. Never overwrites one.
    New {
        /// The file.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Name the keys that are given, as `status` and encrypted files name them.
    List {
        #[command(flatten)]
        site_keys: KeyArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CatalogueCommand {
    /// List the entries, or say what is wrong with the files.
    List {
        #[command(flatten)]
        catalogue: CatalogueArg,
    },
    /// Say everything that is wrong, will not work on this host, or is wider than it need be.
    #[command(
        after_help = "Of a file that is no TOML, or has a value of the wrong type, the first such mistake is told and nothing else.\n\n\
                      Exit status: 0 the catalogue would be accepted; 1 it would not."
    )]
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
pub(crate) enum SecretsCommand {
    /// List the secrets: where each comes from, and which entries are granted it.
    List {
        #[command(flatten)]
        catalogue: CatalogueArg,
    },
    /// Fetch secrets as the start of an attempt would, and say whether that works; of their values nothing is said.
    #[command(
        after_help = "It has the environment of whoever calls it: sources `env` and `credential` are the agent's own only in its unit.\n\n\
                      Exit status: 0 all can be had; 1 one cannot."
    )]
    Test {
        #[command(flatten)]
        catalogue: CatalogueArg,
        /// Which; all of them if none is named.
        names: Vec<String>,
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
        keylog_fd: Option<RawFd>,
        #[arg(long, value_parser = account)]
        account: Option<Account>,
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
        #[arg(long, value_parser = account)]
        account: Option<Account>,
        #[arg(long)]
        strict: bool,
        #[arg(long)]
        leash_fd: Option<RawFd>,
    },
}

/// `USER:GROUP`, as numbers; never root's.
fn account(text: &str) -> Result<Account, String> {
    let numbers = text.split_once(':');
    let numbers = numbers.and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
    match numbers {
        Some((uid, gid)) if uid != 0 && gid != 0 => Ok(Account { uid, gid }),
        Some(_) | None => Err("an account is USER:GROUP, in numbers, and not root's".to_owned()),
    }
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
