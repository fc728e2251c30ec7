//! The command line of the orchestrator, and what each ending means to a shell.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use outpost_proto::name::TenantName;
use outpost_proto::units::duration_ms;

use crate::api::{self, Rate};
use crate::auth::Role;
use crate::config::file::{FILE, FileError, complete};
use crate::config::{self, reference};
use crate::identity::args::CertificateArgs;
use crate::logs::{self, LogFormat};
use crate::output::{self, Output};
use crate::{admin, serve};

const EXAMPLES: &str = "\
Examples:
  outpost-orchestrator init --name outpost.example.org
  outpost-orchestrator serve --agents 0.0.0.0:7443 --public-agents outpost.example.org:7443
  outpost-orchestrator tenant create bank-a
  outpost-orchestrator token create --tenant bank-a --role operator --ttl 30d --label ci

Exit status:
  0   done; for serve: stopped as asked
  1   failed: the message says why
  2   wrong use, or the state of things forbids it: port taken, directory in use, exists already, missing, or made by
      a newer version
  70  the disk can no longer be trusted (a failed sync, a damaged database)";

const SERVE_EXAMPLES: &str = "\
Examples:
  outpost-orchestrator serve
      Agents on 127.0.0.1:7443, the API on 127.0.0.1:7080, both on loopback: for one machine.
  outpost-orchestrator serve --agents 0.0.0.0:7443 --public-agents outpost.example.org:7443
      Agents come from elsewhere; join tokens tell them the public name.
  outpost-orchestrator serve --api 0.0.0.0:7080 --api-cert chain.pem --api-key key.pem
      The API over TLS with a certificate of your own; it is read again when it changes.
  outpost-orchestrator serve --config /etc/outpost/orchestrator.toml
      Everything from a file; `outpost-orchestrator config reference` lists what can stand in it.

Ports: 7443 agents (mutual TLS), 7080 API and /metrics (plain HTTP on loopback, TLS elsewhere).
Signals: SIGTERM and SIGINT stop in order within 10 seconds; SIGHUP reads certificates again.";

const BACKUP_EXAMPLES: &str = "\
The file holds one consistent state, is checked, on the disk and readable by its owner alone when the command ends. It \
does not hold the certificate authority: keep a copy of the directory `ca` too.

Examples:
  outpost-orchestrator backup /backup/outpost-2026-03-01.db";

const RESTORE_EXAMPLES: &str = "\
A restored database lacks what happened after its backup. Therefore it begins another recovery epoch: every agent that \
the backup knew tells what it holds and how its tasks of the last 30 days ended, and no tenant gets new work before all \
of its agents have, or a person says `outpost recovery continue`. Instants of schedules between backup and restore make \
no runs. Agents that enrolled after the backup are unknown and enrol anew.

A database that was copied back by other means is noticed by the agents that saw more: they hold back all work. A \
backup of that database and its restore with --force makes it the true one.

Examples:
  outpost-orchestrator restore /backup/outpost-2026-03-01.db
  outpost-orchestrator restore /backup/outpost-2026-03-01.db --force";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "outpost-orchestrator",
    version,
    about = "Accepts agents that dialled out, schedules their own tasks and serves the API",
    after_help = EXAMPLES
)]
struct Cli {
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value = "table")]
    output: Output,
    /// How log lines on stderr look.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "text",
        env = "OUTPOST_LOG_FORMAT"
    )]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or directives such as `info,sqlx=debug`.
    #[arg(long, global = true, default_value = "info", env = "OUTPOST_LOG")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a database, a certificate authority, the tenant `default` and an administrator's token.
    Init(InitArgs),
    /// Accept agents and serve the API until told to stop.
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<ServeArgs>),
    /// Isolated customers.
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Tokens for the API.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Write the database to a new file, whether a server runs or not.
    #[command(after_help = BACKUP_EXAMPLES)]
    Backup(BackupArgs),
    /// Make a backup the database again; no server may run.
    #[command(after_help = RESTORE_EXAMPLES)]
    Restore(RestoreArgs),
    /// What can be configured.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the API's description, OpenAPI 3.1; a server need not run.
    Openapi,
    /// Print completions for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// What can be configured.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ConfigCommand {
    /// Every key with default, unit, bounds and description, as Markdown.
    Reference,
}

/// Which orchestrator.
#[derive(Debug, Clone, Args)]
pub struct DirArg {
    /// Its directory [default: /var/lib/outpost-orchestrator for root, else $XDG_STATE_HOME/outpost-orchestrator].
    #[arg(long, value_name = "DIR", env = "OUTPOST_ORCHESTRATOR_DIR")]
    pub dir: Option<PathBuf>,
}

/// What `backup` is told.
#[derive(Debug, Clone, Args)]
pub struct BackupArgs {
    /// Which.
    #[command(flatten)]
    pub dir: DirArg,
    /// The new file.
    pub file: PathBuf,
}

/// What `restore` is told.
#[derive(Debug, Clone, Args)]
pub struct RestoreArgs {
    /// Where.
    #[command(flatten)]
    pub dir: DirArg,
    /// The backup; it is not changed.
    pub file: PathBuf,
    /// Move the database that is there aside.
    #[arg(long)]
    pub force: bool,
    /// Begin at least this recovery epoch: above the one that `outpost-agent status` shows, when an earlier restore is
    /// lost too.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub epoch: u32,
}

/// What `init` is told.
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// Where.
    #[command(flatten)]
    pub dir: DirArg,
    /// A host name or address that agents and clients will use; may be repeated. Loopback names are always included.
    #[arg(long = "name", value_name = "HOST")]
    pub names: Vec<String>,
    /// First part of every agent's SPIFFE id.
    #[arg(long, value_name = "DOMAIN", default_value = "outpost.internal")]
    pub trust_domain: String,
}

/// What `serve` is told.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Where.
    #[command(flatten)]
    pub dir: DirArg,
    /// A file with any of the options below [default: orchestrator.toml in the directory, if it is there].
    #[arg(long, value_name = "FILE", env = "OUTPOST_ORCHESTRATOR_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where agents connect; port 0 lets the kernel choose.
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:7443",
        value_parser = address,
        env = "OUTPOST_ORCHESTRATOR_AGENTS"
    )]
    pub agents: SocketAddr,
    /// Where the API is served: plain HTTP on loopback, TLS only elsewhere.
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:7080",
        value_parser = address,
        env = "OUTPOST_ORCHESTRATOR_API"
    )]
    pub api: SocketAddr,
    /// What join tokens tell agents to connect to [default: the first --name of init, or the address, and the port].
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "OUTPOST_ORCHESTRATOR_PUBLIC_AGENTS"
    )]
    pub public_agents: Option<String>,
    /// Requests a second that one token may make in the long run; 0 sets no limit.
    #[arg(
        long,
        value_name = "N",
        default_value_t = Rate::default().per_s,
        value_parser = clap::value_parser!(u32).range(0..=1_000_000),
        env = "OUTPOST_ORCHESTRATOR_API_RATE"
    )]
    pub api_rate: u32,
    /// Requests that one token may make at once after a pause.
    #[arg(
        long,
        value_name = "N",
        default_value_t = Rate::default().burst,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000),
        env = "OUTPOST_ORCHESTRATOR_API_BURST"
    )]
    pub api_burst: u32,
    /// How long events are kept: for so long an event stream can be picked up again.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "7d",
        value_parser = keep,
        env = "OUTPOST_ORCHESTRATOR_KEEP_EVENTS"
    )]
    pub keep_events: Duration,
    /// How long runs that are over are kept with their tasks and attempts; the newest ten of each workflow stay. 0d
    /// keeps all.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "90d",
        value_parser = keep_or_all,
        env = "OUTPOST_ORCHESTRATOR_KEEP_RUNS"
    )]
    pub keep_runs: Duration,
    /// Write `{"agents":"ip:port","api":"http(s)://ip:port"}` to this file once both ports listen.
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,
    /// The same, to this inherited descriptor.
    #[arg(long, value_name = "N")]
    pub ready_fd: Option<u32>,
    /// How long certificates hold, and which the API presents.
    #[command(flatten)]
    pub certificates: CertificateArgs,
    /// End at once when this inherited pipe's other end is closed.
    #[arg(long, value_name = "N", hide = true)]
    pub leash_fd: Option<u32>,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "it is an IP address of this machine and a port, such as 127.0.0.1:7443 or [::1]:7443; 0.0.0.0:7443 is every \
         IPv4 address it has"
            .to_owned()
    })
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn keep(text: &str) -> Result<Duration, String> {
    let time = Duration::from_millis(duration_ms(text).map_err(|error| error.to_string())?);
    if (DAY..=3650 * DAY).contains(&time) {
        return Ok(time);
    }
    Err("it is between 1d and 3650d".to_owned())
}

fn keep_or_all(text: &str) -> Result<Duration, String> {
    if duration_ms(text).is_ok_and(|time| time == 0) {
        return Ok(Duration::ZERO);
    }
    keep(text)
}

/// Administration of tenants.
#[derive(Debug, Clone, Subcommand)]
pub enum TenantCommand {
    /// Make a tenant.
    Create {
        /// Where.
        #[command(flatten)]
        dir: DirArg,
        /// Its name.
        tenant: TenantName,
    },
    /// All tenants.
    List {
        /// Where.
        #[command(flatten)]
        dir: DirArg,
    },
}

/// Administration of tokens.
#[derive(Debug, Clone, Subcommand)]
pub enum TokenCommand {
    /// Make a token; it is shown once, on stdout.
    Create(TokenCreateArgs),
    /// Tokens, without their secrets.
    List {
        /// Where.
        #[command(flatten)]
        dir: DirArg,
        /// Only of this tenant.
        #[arg(long)]
        tenant: Option<TenantName>,
    },
    /// End a token at once.
    Revoke {
        /// Where.
        #[command(flatten)]
        dir: DirArg,
        /// Its public id: 12 hex digits.
        id: String,
        /// Even if it is the last administrator's of its tenant.
        #[arg(long)]
        force: bool,
    },
}

/// What a new token is for.
#[derive(Debug, Clone, Args)]
pub struct TokenCreateArgs {
    /// Where.
    #[command(flatten)]
    pub dir: DirArg,
    /// For this tenant.
    #[arg(long)]
    pub tenant: TenantName,
    /// What it allows; each role includes those before it.
    #[arg(long, value_enum)]
    pub role: Role,
    /// How long it holds, such as 12h or 30d; at most 365d.
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = duration_ms)]
    pub ttl: u64,
    /// What it is for, shown in lists.
    #[arg(long, default_value = "")]
    pub label: String,
}

/// Why a command ended without doing what it was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What the shell is told.
    pub(crate) status: u8,
    /// What the person is told.
    pub(crate) message: String,
}

impl Failure {
    /// Something went wrong.
    pub(crate) fn failed(error: impl std::fmt::Display) -> Self {
        Self {
            status: 1,
            message: error.to_string(),
        }
    }

    /// It was asked for wrongly, or things are not so that it could be done.
    pub(crate) fn refused(error: impl std::fmt::Display) -> Self {
        Self {
            status: 2,
            message: error.to_string(),
        }
    }

    /// A restart begins from the last good state, on a disk somebody looked at.
    pub(crate) fn fatal(error: impl std::fmt::Display) -> Self {
        Self {
            status: 70,
            message: error.to_string(),
        }
    }
}

/// Why a command line is none.
enum Refused {
    Usage(clap::Error),
    File(FileError),
}

/// The command line, completed by the configuration file when it is for a server.
fn parse(args: Vec<OsString>) -> Result<Cli, Refused> {
    let read = |args: &[OsString]| {
        let matches = Cli::command().try_get_matches_from(args)?;
        Cli::from_arg_matches(&matches).map(|cli| (cli, matches))
    };
    let (cli, matches) = read(&args).map_err(Refused::Usage)?;
    let (Command::Serve(serve), Some(of_serve)) =
        (&cli.command, matches.subcommand_matches("serve"))
    else {
        return Ok(cli);
    };
    let usual = config::directory(serve.dir.dir.clone())
        .ok()
        .map(|dir| dir.join(FILE));
    let completed = complete(
        args.clone(),
        of_serve,
        &serve_command(),
        serve.config.as_deref(),
        usual.as_deref(),
    );
    let completed = completed.map_err(Refused::File)?;
    if completed.len() == args.len() {
        return Ok(cli);
    }
    read(&completed).map(|(cli, _)| cli).map_err(Refused::Usage)
}

/// The definition of `serve`, the global options included.
pub(crate) fn serve_command() -> clap::Command {
    let mut all = Cli::command();
    all.build();
    let serve = all.find_subcommand("serve").cloned();
    serve.unwrap_or(all)
}

/// Parses and runs.
pub(crate) fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match parse(args) {
        Ok(cli) => cli,
        Err(Refused::Usage(error)) => {
            // Help and version go to stdout with status 0, everything else to stderr with status 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
        Err(Refused::File(error)) => {
            output::note(&format!("error: {error}"));
            return ExitCode::from(2);
        }
    };
    logs::begin(cli.log_format, &cli.log);
    match dispatch(cli.command, cli.output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::note(&format!("error: {}", failure.message));
            ExitCode::from(failure.status)
        }
    }
}

fn dispatch(command: Command, output: Output) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("no threads for the runtime: {error}")))?;
    match command {
        Command::Init(args) => runtime.block_on(admin::init::run(args, output)),
        Command::Serve(args) => runtime.block_on(serve::run(*args)),
        Command::Backup(args) => admin::backup::backup(args, output),
        Command::Restore(args) => runtime.block_on(admin::backup::restore(args, output)),
        Command::Tenant(command) => runtime.block_on(admin::tenant::run(command, output)),
        Command::Token(command) => runtime.block_on(admin::token::run(command, output)),
        Command::Config(ConfigCommand::Reference) => {
            output::line(reference::markdown(&serve_command()).trim_end());
            Ok(())
        }
        Command::Openapi => {
            output::line(api::openapi());
            Ok(())
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "outpost-orchestrator",
                &mut script,
            );
            output::line(String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// What a server would be told with this configuration file and these arguments.
    fn told(file: &str, args: &[&str]) -> Result<ServeArgs, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.toml");
        std::fs::write(&path, file).unwrap();
        let mut line: Vec<OsString> = ["outpost-orchestrator", "serve", "--config"]
            .map(Into::into)
            .into();
        line.push(path.into());
        line.extend(args.iter().map(Into::into));
        match parse(line) {
            Ok(Cli {
                command: Command::Serve(serve),
                ..
            }) => Ok(*serve),
            Ok(other) => panic!("{other:?}"),
            Err(Refused::Usage(error)) => Err(error.to_string()),
            Err(Refused::File(error)) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_the_file_over_defaults() {
        let file = "api_rate = 7\napi_burst = 8\nagents = \"127.0.0.1:0\"\nlog_format = \"json\"\n";
        let serve = told(file, &["--api-burst", "9"]).unwrap();
        assert_eq!((serve.api_rate, serve.api_burst), (7, 9));
        assert_eq!(serve.agents.port(), 0);
        assert_eq!(serve.api.port(), 7080);
        assert_eq!(serve.keep_runs, 90 * DAY);
    }

    #[test]
    fn what_is_wrong_in_the_file_is_explained() {
        let why = told("api_rat = 7", &[]).unwrap_err();
        assert!(
            why.contains("no key `api_rat`") && why.contains("api_rate,"),
            "{why}"
        );
        let why = told("api_rate = [7]", &[]).unwrap_err();
        assert!(why.contains("a whole number"), "{why}");
        let why = told("api_rate = -1", &[]).unwrap_err();
        assert!(why.contains("--api-rate"), "{why}");
        let why = told("api_rate", &[]).unwrap_err();
        assert!(why.contains("some.toml"), "{why}");
        let why = told("agents = \"localhost:7443\"", &[]).unwrap_err();
        assert!(
            why.contains("--agents") && why.contains("such as 127.0.0.1:7443"),
            "{why}"
        );
        // What belongs to one start is nothing to configure.
        assert!(told("ready_file = \"x\"", &[]).is_err());
        let line = ["x", "serve", "--config", "/nowhere/at.all"].map(Into::into);
        assert!(matches!(
            parse(line.into()),
            Err(Refused::File(FileError::Io { .. }))
        ));
    }
}
