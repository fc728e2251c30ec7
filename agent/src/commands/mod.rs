//! What each command does, once it is parsed.

pub(crate) mod catalogue;
mod check;
mod control;
mod ledger;
mod logs;
mod reference;
mod status;
mod words;

use std::ffi::OsStr;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use outpost_agent_keeper::exec::SelfExec;

use crate::output;
use crate::runner::{self, Options};
use crate::state_dir::StateDir;

pub(crate) use check::{Setup, check};
pub(crate) use control::{drain, reload, told};
pub(crate) use ledger::ledger;
pub(crate) use logs::logs;
pub(crate) use reference::reference;
pub(crate) use status::status;

/// Logs go to standard error, coloured only on a terminal; `OUTPOST_LOG` filters them.
pub(crate) fn init_log() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("OUTPOST_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal);
    // A second initialisation, in tests, keeps the first.
    let _ = log.with_target(false).try_init();
}

/// Where the catalogue is unless somebody says otherwise.
pub(crate) fn catalogue_dir(given: Option<PathBuf>) -> PathBuf {
    if let Some(dir) = given {
        return dir;
    }
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/etc/outpost/catalogue.d");
    }
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".config");
    base.unwrap_or_else(home).join("outpost/catalogue.d")
}

/// One slot per processor.
pub(crate) fn default_slots() -> u16 {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u16::try_from(processors.min(4095)).unwrap_or(1)
}

pub(crate) fn run(options: Options) -> anyhow::Result<ExitCode> {
    block_on(runner::run(options))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn enrol(
    state: &Path,
    token_file: &OsStr,
    proxy: Option<String>,
    force: bool,
    exec: SelfExec,
) -> anyhow::Result<ExitCode> {
    let token = outpost_certs::token::read_token(token_file).context("reading the join token")?;
    let state = StateDir::create(state)?;
    let lock = state.lock()?;
    state.migrate(&lock)?;
    if let Some(identity) = state.identity()?
        && !force
    {
        bail!(
            "{} is enrolled already, as agent `{}` of tenant `{}` at {}: use another --state directory, or --force to give that identity up",
            state.path().display(),
            identity.agent,
            identity.tenant,
            identity.orchestrator,
        );
    }
    let identity = block_on(crate::enrol::enrol(&state, &token, proxy, exec))?;
    output::line(format_args!(
        "enrolled as agent {} of tenant {} at {}\nnext: outpost-agent check, then outpost-agent run",
        identity.agent, identity.tenant, identity.orchestrator
    ));
    Ok(ExitCode::SUCCESS)
}

/// The runner is one thread: everything it waits for is a descriptor or a timer.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let local = tokio::task::LocalSet::new();
    let result = local.block_on(&runtime, future);
    runtime.shutdown_background();
    result
}
