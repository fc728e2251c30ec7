//! The agent's command line: what people type, and the roles that the agent starts itself in.

pub(crate) mod args;
mod confinement;
pub(crate) mod evidence;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;
use outpost_agent_keeper::exec::SelfExec;
use outpost_agent_keeper::memory;
use outpost_agent_link::sandbox::Asked;
use outpost_agent_link::{DialArgs, LinkArgs, Timeouts, dial_main, link_main};

use crate::commands;
use crate::commands::catalogue::TryArgs;
use crate::dated::Dated;
use crate::output;
use crate::runner::{Ask, Keep, Options, RawLeash};
use crate::sandbox::TooWeak;
use args::{CatalogueCommand, Cli, Command, Role, SecretsCommand, SiteKeyCommand};
pub(crate) use args::{Form, Ledger, LedgerFrom, Reference, RefusalsArgs};
use evidence::LeaktestCommand;

/// The agent's entry. `prefix`: the arguments that lead to this function in the running executable, empty in the
/// agent's own binary; `args`: everything after them.
#[must_use]
pub fn main_from(prefix: Vec<OsString>, args: Vec<OsString>) -> ExitCode {
    // In `dev` and `demo` one program looks after all others, and at what they have open.
    if prefix.is_empty() {
        outpost_agent_keeper::process::close_memory();
    }
    // Whoever starts the agent has no say in who may read what it writes: modes are given, and this takes the rest.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
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
            match error.downcast_ref::<TooWeak>() {
                Some(_) => ExitCode::from(TooWeak::EXIT),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn dispatch(exec: SelfExec, cli: Cli) -> anyhow::Result<ExitCode> {
    let state = || commands::state_dir(cli.state);
    let form = cli.output;
    match cli.command {
        Command::Enrol {
            token_file,
            proxy,
            force,
            sandbox,
            audit,
        } => {
            let audit = audit.open()?;
            let how = commands::Enrolment {
                proxy,
                force,
                audit,
                sandbox: sandbox.sandbox,
            };
            commands::enrol(&state()?, &token_file, how, exec)
        }
        Command::Run {
            catalogue,
            slots,
            proxy,
            observe,
            reporting,
            metrics,
            keep,
            sandbox,
            audit,
            site_keys,
            seal_runs_after,
            leash_fd,
        } => {
            // Asked for and not to be had: then it does not start.
            let site_keys = site_keys.load()?.map(std::sync::Arc::new);
            memory::share_tables();
            commands::run(Options {
                state: state()?,
                catalogue: commands::catalogue_dir(catalogue.catalogue)?,
                slots: slots.unwrap_or_else(commands::default_slots),
                proxy,
                observe,
                reporting: reporting.reporting.into(),
                metrics,
                keep: Keep {
                    logs: keep.keep_logs,
                    logs_bytes: keep.keep_logs_size,
                    runs_bytes: keep.keep_runs_size,
                    ledger: keep.keep_ledger,
                    ledger_bytes: keep.keep_ledger_size,
                    dated: Dated::here(),
                },
                audit: audit.open()?,
                sandbox: sandbox.sandbox,
                site_keys,
                seal_runs_after,
                exec,
                leash: leash_fd.map(RawLeash),
            })
        }
        Command::Check {
            catalogue,
            proxy,
            reporting,
            sandbox,
            audit,
        } => {
            let setup = commands::Setup {
                state: &state()?,
                catalogue: &commands::catalogue_dir(catalogue.catalogue)?,
                proxy,
                reporting: reporting.reporting.into(),
                audit: audit.open()?,
                sandbox: sandbox.sandbox,
                exec,
            };
            commands::check(setup, form)
        }
        Command::Status => commands::status(&state()?, form),
        Command::Pause => commands::told(&state()?, Ask::Pause, form),
        Command::Resume => commands::told(&state()?, Ask::Resume, form),
        Command::Reload => commands::reload(&state()?, form),
        Command::Drain { timeout, no_wait } => {
            commands::drain(&state()?, (!no_wait).then_some(timeout), form)
        }
        Command::Logs {
            attempt,
            follow,
            site_keys,
        } => commands::logs(&state()?, attempt.as_deref(), follow, &site_keys, form),
        Command::Purge { run, yes } => commands::purge::purge(&state()?, &run, yes, form),
        Command::SiteKey(SiteKeyCommand::New { out }) => commands::site_key::new(&out, form),
        Command::SiteKey(SiteKeyCommand::List { site_keys }) => {
            commands::site_key::list(&site_keys, form)
        }
        Command::Refusals { which } => commands::refusals(&state()?, &which, form),
        Command::Observed { which } => commands::observed(&state()?, &which, form),
        // Of the program itself: it needs no state directory.
        Command::Leaktest { looks, what: None } => {
            commands::leaktest::leaktest(&state()?, *looks, exec, form)
        }
        Command::Leaktest {
            what: Some(LeaktestCommand::Prepare { catalogue, user }),
            looks: _,
        } => {
            let catalogue = commands::catalogue_dir(catalogue.catalogue)?;
            commands::leaktest::prepare(&state()?, &catalogue, user)
        }
        Command::Ledger(Ledger::Budget) => {
            commands::budget(form);
            Ok(ExitCode::SUCCESS)
        }
        Command::Ledger(what) => commands::ledger(state, what, form),
        Command::Catalogue(what) => catalogue(state, what, exec, form),
        Command::Approve {
            catalogue,
            entry,
            times,
            within,
            params,
            withdraw,
        } => {
            let wanted = entry.map(|entry| commands::approve::Wanted {
                entry,
                times,
                within,
                params,
                withdraw,
            });
            let dir = commands::catalogue_dir(catalogue.catalogue)?;
            commands::approve::approve(&state()?, &dir, wanted, form)
        }
        Command::Secrets(what) => secrets(what, form),
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
    state: impl FnOnce() -> anyhow::Result<PathBuf>,
    what: CatalogueCommand,
    exec: SelfExec,
    form: Form,
) -> anyhow::Result<ExitCode> {
    let dir = |given: args::CatalogueArg| commands::catalogue_dir(given.catalogue);
    match what {
        CatalogueCommand::List { catalogue } => commands::catalogue::list(&dir(catalogue)?, form),
        CatalogueCommand::Lint { catalogue } => commands::catalogue::lint(&dir(catalogue)?, form),
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
            commands::catalogue::try_entry(&state()?, &dir(catalogue)?, &args, exec, form)
        }
    }
}

fn secrets(what: SecretsCommand, form: Form) -> anyhow::Result<ExitCode> {
    match what {
        SecretsCommand::List { catalogue } => {
            commands::secrets::list(&commands::catalogue_dir(catalogue.catalogue)?, form)
        }
        SecretsCommand::Test { catalogue, names } => {
            commands::secrets::test(&commands::catalogue_dir(catalogue.catalogue)?, &names, form)
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
            keylog_fd,
            account,
            leash_fd,
        } => {
            memory::share_tables();
            link_main(LinkArgs {
                ipc_fd,
                dial_fd,
                key_dir,
                server_name,
                pin,
                keylog_fd,
                leash_fd,
                sandbox: Some(Asked {
                    account,
                    strict: false,
                }),
                timeouts: Timeouts::default(),
                when_quiet: memory::let_go,
            })
        }
        Role::Dial {
            dial_fd,
            conn,
            address,
            proxy,
            account,
            strict,
            leash_fd,
        } => dial_main(DialArgs {
            dial_fd,
            conn,
            address,
            proxy,
            leash_fd,
            sandbox: Some(Asked { account, strict }),
            timeout: DialArgs::TIMEOUT,
        }),
    }
}
