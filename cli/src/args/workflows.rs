//! Commands about workflows that the server knows.

use clap::{Args, Subcommand};

pub(super) const LIST: &str = "\
Examples:
  outpost workflows
  outpost workflows --output json";

pub(super) const DELETE: &str = "\
Examples:
  outpost delete workflow nightly";

const DELETE_WORKFLOW: &str = "\
Its runs stay readable, and applying the name again goes on with the next version number. While a run of it goes on it \
is not deleted. Asks first on a terminal; elsewhere --yes is needed.

Examples:
  outpost delete workflow nightly
  outpost delete workflow nightly --yes";

pub(super) const PAUSE: &str = "\
Runs that go on are not touched. Instants that pass while it is paused are not made up for.

Examples:
  outpost pause nightly";

pub(super) const RESUME: &str = "\
Examples:
  outpost resume nightly";

pub(super) const SCHEDULE: &str = "\
Examples:
  outpost schedule nightly
  outpost schedule nightly --count 30 --output json";

/// What is deleted.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum DeleteCommand {
    /// Delete a workflow; its runs stay readable.
    #[command(after_help = DELETE_WORKFLOW)]
    Workflow {
        /// The workflow's name.
        workflow: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
}

/// Whose instants, and how many.
#[derive(Debug, Clone, Args)]
pub(crate) struct ScheduleArgs {
    /// The workflow's name.
    pub(crate) workflow: String,
    /// How many.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) count: u32,
}
