//! `outpost`: what people use. A client of the orchestrator's API, and `dev` and `demo`, which run everything on one
//! machine.
//!
//! The same executable is the orchestrator and the agent of `dev` and `demo`: it starts itself again under the hidden
//! sub-commands `orchestrator-main` and `agent-main`, whose arguments are those of the real programs.

mod args;
mod client;
mod context;
mod demo;
mod dev;
mod exit;
mod failure;
mod local;
mod output;
mod suggest;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::FromArgMatches as _;

use crate::args::{Cli, Command, LocalCommand};
use crate::failure::Failure;
use crate::output::Out;

/// The hidden sub-command that is the orchestrator.
pub(crate) const ORCHESTRATOR_MAIN: &str = "orchestrator-main";
/// The hidden sub-command that is the agent.
pub(crate) const AGENT_MAIN: &str = "agent-main";

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next();
    match args.next() {
        Some(role) if role == ORCHESTRATOR_MAIN => outpost_orchestrator::main_from(
            std::iter::once(OsString::from("outpost-orchestrator")).chain(args),
        ),
        Some(role) if role == AGENT_MAIN => {
            outpost_agent::main_from(vec![OsString::from(AGENT_MAIN)], args.collect())
        }
        first => people(program.into_iter().chain(first).chain(args)),
    }
}

fn people(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let parsed = args::command().try_get_matches_from(&args);
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            let error = args::hinted(error, &args);
            // Help and version go to stdout with status 0, everything else to stderr with status 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let out = Out::new(cli.output);
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Internal(format!("no runtime: {error}")))
        .and_then(|runtime| runtime.block_on(dispatch(cli, out)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            out.failure(&failure);
            ExitCode::from(failure.status())
        }
    }
}

async fn dispatch(cli: Cli, out: Out) -> Result<(), Failure> {
    match cli.command {
        Command::Client(command) => client::run(&cli.connection, command, out).await,
        Command::Context(command) => context::run(&cli.connection, command, out),
        Command::Local(LocalCommand::Dev(args)) => dev::run(&args, out).await,
        Command::Local(LocalCommand::Demo(args)) => demo::run(&args, out).await,
        Command::Local(command) => local::run(command, out),
    }
}
