//! The agent's command line: what people type, and the roles that the agent starts itself in.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use outpost_agent_keeper::exec::SelfExec;
use outpost_agent_link::{DialArgs, LinkArgs, Timeouts, dial_main, link_main};

use crate::commands;
use crate::output;
use crate::runner::{Options, RawLeash};
use crate::state_dir::StateDir;

const AFTER_HELP: &str = "\
Examples:
  outpost-agent enrol --token-file join.token
  outpost-agent check
  outpost-agent run --slots 4
  outpost-agent logs -f 3f2a
  outpost-agent ledger explain

Exit status: 0 done; 1 it could not be done; 2 wrong usage.
Files: state in /var/lib/outpost-agent as root, else ~/.local/state/outpost-agent;
       catalogue in /etc/outpost/catalogue.d as root, else ~/.config/outpost/catalogue.d.";

/// Runs this site's own tasks when the orchestrator says so. Dials out, listens to nobody.
#[derive(Debug, Parser)]
#[command(name = "outpost-agent", version, after_help = AFTER_HELP, max_term_width = 100)]
struct Cli {
    /// State directory.
    #[arg(long, global = true, env = "OUTPOST_AGENT_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
    /// How lists and reports are shown.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "table",
        value_name = "FORM"
    )]
    output: Form,
    #[command(subcommand)]
    command: Command,
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
struct CatalogueArg {
    /// Directory with the site's catalogue files.
    #[arg(long, env = "OUTPOST_AGENT_CATALOGUE", value_name = "DIR")]
    catalogue: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
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
        /// The attempt's id, or its first digits; without it the newest attempts are listed.
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
    /// Finish what runs, take nothing new, then end.
    Drain,
    /// Read the catalogue again.
    Reload,
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    #[command(subcommand, hide = true)]
    Role(Role),
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
enum CatalogueCommand {
    /// List the entries, or say what is wrong with the files.
    List {
        #[command(flatten)]
        catalogue: CatalogueArg,
    },
}

#[derive(Debug, Subcommand)]
enum Role {
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

/// The agent's entry. `prefix`: the arguments that lead to this function in the running executable, empty in the
/// agent's own binary; `args`: everything after them.
#[must_use]
pub fn main_from(prefix: Vec<OsString>, args: Vec<OsString>) -> ExitCode {
    // The spawner forks, so it is reached before anything else exists: no runtime, no logging, no parser's memory.
    if let [role, spawner, rest @ ..] = args.as_slice()
        && role == "role"
        && spawner == "spawner"
    {
        return outpost_agent_keeper::spawner::main(rest.iter().cloned());
    }
    let name = OsString::from("outpost-agent");
    let cli = match Cli::try_parse_from(std::iter::once(name).chain(args)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; both are printed by the parser itself, coloured only on a terminal.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    commands::init_log();
    match dispatch(SelfExec::current(prefix), cli) {
        Ok(code) => code,
        Err(error) => {
            output::problem(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(exec: SelfExec, cli: Cli) -> anyhow::Result<ExitCode> {
    let state = cli.state.unwrap_or_else(StateDir::default_path);
    let form = cli.output;
    match cli.command {
        Command::Enrol {
            token_file,
            proxy,
            force,
        } => commands::enrol(&state, &token_file, proxy, force, exec),
        Command::Run {
            catalogue,
            slots,
            proxy,
            observe,
            leash_fd,
        } => commands::run(Options {
            state,
            catalogue: commands::catalogue_dir(catalogue.catalogue),
            slots: slots.unwrap_or_else(commands::default_slots),
            proxy,
            observe,
            exec,
            leash: leash_fd.map(RawLeash),
        }),
        Command::Check { catalogue, proxy } => commands::check(
            &state,
            &commands::catalogue_dir(catalogue.catalogue),
            proxy,
            exec,
            form,
        ),
        Command::Status => commands::local(&state, crate::runner::Ask::Status, form),
        Command::Pause => commands::local(&state, crate::runner::Ask::Pause, form),
        Command::Resume => commands::local(&state, crate::runner::Ask::Resume, form),
        Command::Drain => commands::local(&state, crate::runner::Ask::Drain, form),
        Command::Reload => commands::local(&state, crate::runner::Ask::Reload, form),
        Command::Logs { attempt, follow } => {
            commands::logs(&state, attempt.as_deref(), follow, form)
        }
        Command::Ledger(what) => commands::ledger(&state, what, form),
        Command::Catalogue(CatalogueCommand::List { catalogue }) => {
            commands::catalogue_list(&commands::catalogue_dir(catalogue.catalogue), form)
        }
        Command::Completions { shell } => {
            let mut command = <Cli as clap::CommandFactory>::command();
            clap_complete::generate(shell, &mut command, "outpost-agent", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Role(role) => Ok(play(role)),
    }
}

fn play(role: Role) -> ExitCode {
    match role {
        Role::Link {
            ipc_fd,
            dial_fd,
            key_dir,
            server_name,
            pin,
            leash_fd,
        } => link_main(LinkArgs {
            ipc_fd,
            dial_fd,
            key_dir,
            server_name,
            pin,
            leash_fd,
            timeouts: Timeouts::default(),
        }),
        Role::Dial {
            dial_fd,
            conn,
            address,
            proxy,
            leash_fd,
        } => dial_main(DialArgs {
            dial_fd,
            conn,
            address,
            proxy,
            leash_fd,
            timeout: DialArgs::TIMEOUT,
        }),
    }
}
