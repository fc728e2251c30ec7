//! The agent's command line: what people type, and the roles that the agent starts itself in.

pub(crate) mod args;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use outpost_agent_keeper::exec::SelfExec;
use outpost_agent_keeper::memory;
use outpost_agent_link::{DialArgs, LinkArgs, Timeouts, dial_main, link_main};

use crate::commands;
use crate::commands::catalogue::TryArgs;
use crate::output;
use crate::runner::{Ask, Keep, Options, RawLeash};
use crate::state_dir::StateDir;
use args::{CatalogueCommand, Cli, Command, Role};
pub(crate) use args::{Form, Ledger, Reference};

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
            metrics,
            keep,
            leash_fd,
        } => {
            memory::share_tables();
            commands::run(Options {
                state,
                catalogue: commands::catalogue_dir(catalogue.catalogue),
                slots: slots.unwrap_or_else(commands::default_slots),
                proxy,
                observe,
                metrics,
                keep: Keep {
                    logs: keep.keep_logs,
                    logs_bytes: keep.keep_logs_size,
                    ledger: keep.keep_ledger,
                    ledger_bytes: keep.keep_ledger_size,
                },
                exec,
                leash: leash_fd.map(RawLeash),
            })
        }
        Command::Check { catalogue, proxy } => {
            let setup = commands::Setup {
                state: &state,
                catalogue: &commands::catalogue_dir(catalogue.catalogue),
                proxy,
                exec,
            };
            commands::check(setup, form)
        }
        Command::Status => commands::status(&state, form),
        Command::Pause => commands::told(&state, Ask::Pause, form),
        Command::Resume => commands::told(&state, Ask::Resume, form),
        Command::Reload => commands::reload(&state, form),
        Command::Drain { timeout, no_wait } => {
            commands::drain(&state, (!no_wait).then_some(timeout), form)
        }
        Command::Logs { attempt, follow } => {
            commands::logs(&state, attempt.as_deref(), follow, form)
        }
        Command::Ledger(what) => commands::ledger(&state, what, form),
        Command::Catalogue(what) => catalogue(&state, what, exec, form),
        Command::Schema => {
            output::json(&crate::catalogue::schema());
            Ok(ExitCode::SUCCESS)
        }
        Command::Reference { what } => {
            output::text(&commands::reference(what));
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { shell } => {
            let mut command = <Cli as clap::CommandFactory>::command();
            clap_complete::generate(shell, &mut command, "outpost-agent", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Role(role) => Ok(play(role)),
    }
}

fn catalogue(
    state: &std::path::Path,
    what: CatalogueCommand,
    exec: SelfExec,
    form: Form,
) -> anyhow::Result<ExitCode> {
    let dir = |given: args::CatalogueArg| commands::catalogue_dir(given.catalogue);
    match what {
        CatalogueCommand::List { catalogue } => commands::catalogue::list(&dir(catalogue), form),
        CatalogueCommand::Lint { catalogue } => commands::catalogue::lint(&dir(catalogue), form),
        CatalogueCommand::Try {
            catalogue,
            entry,
            params,
            deadline,
            task,
            keep,
            after,
        } => {
            let args = TryArgs {
                entry,
                params,
                deadline,
                task,
                keep,
                after,
            };
            commands::catalogue::try_entry(state, &dir(catalogue), &args, exec, form)
        }
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
        } => {
            memory::share_tables();
            link_main(LinkArgs {
                ipc_fd,
                dial_fd,
                key_dir,
                server_name,
                pin,
                leash_fd,
                timeouts: Timeouts::default(),
                when_quiet: memory::let_go,
            })
        }
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
