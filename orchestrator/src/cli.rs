//! The command line of the orchestrator, and what each ending means to a shell.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use outpost_proto::name::TenantName;
use outpost_proto::units::duration_ms;

use crate::auth::Role;
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
    #[arg(long, global = true, value_enum, default_value = "text")]
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
    Serve(ServeArgs),
    /// Isolated customers.
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Tokens for the API.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print completions for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// Which orchestrator.
#[derive(Debug, Clone, Args)]
pub struct DirArg {
    /// Its directory [default: /var/lib/outpost-orchestrator for root, else $XDG_STATE_HOME/outpost-orchestrator].
    #[arg(long, value_name = "DIR", env = "OUTPOST_ORCHESTRATOR_DIR")]
    pub dir: Option<PathBuf>,
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
    /// Where agents connect; port 0 lets the kernel choose.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7443")]
    pub agents: SocketAddr,
    /// Where the API is served: plain HTTP on loopback, TLS only elsewhere.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7080")]
    pub api: SocketAddr,
    /// What join tokens tell agents to connect to [default: the first --name of init, or the address, and the port].
    #[arg(long, value_name = "HOST:PORT")]
    pub public_agents: Option<String>,
    /// Write `{"agents":"ip:port","api":"http(s)://ip:port"}` to this file once both ports listen.
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,
    /// The same, to this inherited descriptor.
    #[arg(long, value_name = "N")]
    pub ready_fd: Option<u32>,
    /// End at once when this inherited pipe's other end is closed.
    #[arg(long, value_name = "N", hide = true)]
    pub leash_fd: Option<u32>,
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

/// Parses and runs.
pub(crate) fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout with status 0, everything else to stderr with status 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
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
        Command::Serve(args) => runtime.block_on(serve::run(args)),
        Command::Tenant(command) => runtime.block_on(admin::tenant::run(command, output)),
        Command::Token(command) => runtime.block_on(admin::token::run(command, output)),
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
}
