//! What each command does, once it is parsed.

pub(crate) mod approve;
mod budget;
pub(crate) mod catalogue;
mod check;
mod control;
pub(crate) mod leaktest;
mod ledger;
mod logs;
pub(crate) mod purge;
mod reference;
mod refusals;
pub(crate) mod secrets;
pub(crate) mod site_key;
mod status;
mod wire;
mod words;

use std::ffi::OsStr;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use outpost_agent_keeper::exec::SelfExec;

use crate::audit::Audit;
use crate::output;
use crate::runner::{self, Options};
use crate::sandbox::Required;
use crate::state_dir::{StateDir, below_home};

pub(crate) use budget::show as budget;
pub(crate) use check::{Setup, check};
pub(crate) use control::{drain, reload, told};
pub(crate) use ledger::ledger;
pub(crate) use logs::logs;
pub(crate) use reference::reference;
pub(crate) use refusals::{observed, refusals};
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

/// The given state directory, or the usual one.
pub(crate) fn state_dir(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    given.or_else(StateDir::default_path).context(
        "no state directory is given and neither XDG_STATE_HOME nor HOME is set; give one with --state",
    )
}

/// The given catalogue, or the usual one.
pub(crate) fn catalogue_dir(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    given.or_else(default_catalogue).context(
        "no catalogue is given and neither XDG_CONFIG_HOME nor HOME is set; give one with --catalogue",
    )
}

fn default_catalogue() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/etc/outpost/catalogue.d"));
    }
    let base = below_home("XDG_CONFIG_HOME", ".config")?;
    Some(base.join("outpost/catalogue.d"))
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

/// How `enrol` was told to enrol.
pub(crate) struct Enrolment {
    pub(crate) proxy: Option<String>,
    /// Although there is an identity.
    pub(crate) force: bool,
    pub(crate) audit: Option<Audit>,
    pub(crate) sandbox: Required,
}

pub(crate) fn enrol(
    state: &Path,
    token_file: &OsStr,
    how: Enrolment,
    exec: SelfExec,
) -> anyhow::Result<ExitCode> {
    let token =
        outpost_certs::token::read_token(token_file).map_err(|error| anyhow::anyhow!("{error}"))?;
    let state = StateDir::create(state)?;
    let lock = state.lock()?;
    state.migrate(&lock)?;
    crate::enrol::finish(&state).context("completing an enrolment that was interrupted")?;
    if let Some(identity) = state.identity()?
        && !how.force
    {
        bail!(
            "{} is enrolled already, as agent `{}` of tenant `{}` at {}: use another --state directory, or --force to give that identity up",
            state.path().display(),
            identity.agent,
            identity.tenant,
            identity.orchestrator,
        );
    }
    let identity = block_on(crate::enrol::enrol(&state, &token, how, exec))?;
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
