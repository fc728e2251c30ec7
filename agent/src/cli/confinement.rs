//! The least that the network processes' sandbox may be, as a command line says it.

use clap::Args;

use crate::sandbox::Required;

/// The least that the network processes' sandbox may be.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct SandboxArg {
    /// `best`: confine the network processes as far as this host lets them; `strict`: all of it, or end before
    /// connecting.
    #[arg(
        long,
        env = "OUTPOST_AGENT_SANDBOX",
        value_enum,
        default_value = "best",
        value_name = "LEVEL",
        hide_possible_values = true
    )]
    pub(crate) sandbox: Required,
}
