//! What people type for the audit: the key log, the capture that is checked, the leak test.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::args::CatalogueArg;
use crate::audit::Audit;
use crate::seal::KeyArgs;

pub(crate) const LEAKTEST_HELP: &str = "\
Canaries are run here and now, as `catalogue try` runs an entry; nothing of such a run is sent to anybody. For canaries
that the orchestrator runs as it runs any task, `leaktest prepare` first, and have its workflow run.

Exit status: 0 the mark is nowhere but in the canaries' own logs; 1 it is where it must not be, or the test could not be
made; 2 wrong usage; 3 void: the mark was not even found where it must be, or not everything was searched.";

/// The audit mode.
#[derive(Debug, Args)]
pub(crate) struct AuditArg {
    /// Audit mode: append the TLS secrets of every connection to this file, so that a packet capture can be checked
    /// with `ledger verify --capture`. Whoever can read the file can read what was said: remove it afterwards.
    #[arg(long, env = "OUTPOST_AGENT_AUDIT_KEYLOG", value_name = "FILE")]
    audit_keylog: Option<PathBuf>,
}

impl AuditArg {
    /// Opens the file, if the mode is on, and says loudly that it is.
    pub(crate) fn open(self) -> anyhow::Result<Option<Audit>> {
        Ok(self.audit_keylog.as_deref().map(Audit::open).transpose()?)
    }
}

/// A capture that the ledger is compared with.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Wire = ledger")]
pub(crate) struct WireArgs {
    /// A packet capture (pcap or pcapng) of the agent's connections: account for every byte that the agent sent.
    #[arg(long, value_name = "FILE", requires = "keylog")]
    pub(crate) capture: Option<PathBuf>,
    /// What `--audit-keylog` of `run` and `enrol` wrote meanwhile.
    #[arg(long, value_name = "FILE", requires = "capture")]
    pub(crate) keylog: Option<PathBuf>,
    /// Another tshark than the one in the path.
    #[arg(long, value_name = "PROGRAM", requires = "capture")]
    pub(crate) tshark: Option<PathBuf>,
    /// The orchestrator as the agent knows it; without it, the one that this state directory is enrolled with.
    #[arg(long, value_name = "HOST:PORT", requires = "capture")]
    pub(crate) orchestrator: Option<String>,
}

/// What a leak test does, and where it looks besides the ledger and the running agent's memory.
#[derive(Debug, Args)]
pub(crate) struct LeaktestArgs {
    /// Run no canaries here; only those that the orchestrator ran since `leaktest prepare` count.
    #[arg(long)]
    pub(crate) no_try: bool,
    /// The account of the canaries that are run here; as root `nobody` without it.
    #[arg(long, value_name = "ACCOUNT")]
    pub(crate) user: Option<String>,
    /// The orchestrator's directory, or a file such as a dump of its database, where it is at hand.
    #[arg(long, value_name = "PATH")]
    pub(crate) orchestrator_db: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) wire: WireArgs,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LeaktestCommand {
    /// Put canaries into the catalogue, and print a workflow that runs them.
    Prepare {
        #[command(flatten)]
        catalogue: CatalogueArg,
        /// The account of the canaries; as root `nobody` without it.
        #[arg(long, value_name = "ACCOUNT")]
        user: Option<String>,
    },
}
