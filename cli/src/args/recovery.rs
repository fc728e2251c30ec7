//! Commands for what endangers the work as a whole, and for attempts of which nothing is heard.

use clap::Subcommand;

pub(super) const RECOVERY: &str = "\
After a restore of the orchestrator's database every agent tells how its tasks of the last 30 days ended before new \
work is given out. `continue` goes on without those that have not: what they alone know may then run again.

Examples:
  outpost recovery
  outpost recovery status
  outpost recovery continue";

pub(super) const ATTEMPTS: &str = "\
Examples:
  outpost attempts assert-dead 7c2e91d06b7f4a13a8a3f0d94c55e1b2 --reason burnt";

const ASSERT_DEAD: &str = "\
An attempt of an entry that is not `retry_safe` is never tried again while it may still run. When its agent is gone for \
good, a person who knows can say so: its task's retries go on. Who said so, when and why is kept. What the agent says \
later is kept beside and changes nothing.

Examples:
  outpost attempts assert-dead 7c2e91d06b7f4a13a8a3f0d94c55e1b2 --reason burnt";

/// What endangers the work as a whole.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum RecoveryCommand {
    /// Say whether a restore, a freeze or a doubtful identity holds work back.
    #[command(after_help = RECOVERY)]
    Status,
    /// Give out work again after a restore, without the agents that have not reported.
    #[command(after_help = RECOVERY)]
    Continue,
}

/// Attempts.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum AttemptsCommand {
    /// Say that an attempt is over of which nothing is heard.
    #[command(after_help = ASSERT_DEAD)]
    AssertDead {
        /// The attempt's whole id, as `outpost run` shows it.
        attempt: String,
        /// How you know.
        #[arg(long)]
        reason: String,
    },
}
