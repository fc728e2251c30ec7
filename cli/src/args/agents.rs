//! Commands about agents.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::duration;

pub(super) const EXAMPLES: &str = "\
Examples:
  outpost agents
  outpost agents invite site-1 --token-out site-1.join
  outpost agents label site-1 zone=eu disk=fast
  outpost agents drain site-1 --wait --timeout 10m";

const LIST: &str = "\
Examples:
  outpost agents list
  outpost agents list --output json";

const SHOW: &str = "\
Examples:
  outpost agents show site-1";

const INVITE: &str = "\
Examples:
  outpost agents invite site-1 --token-out site-1.join
  outpost agents invite site-1 --ttl 1h";

const REMOVE: &str = "\
What it holds may still run there and is given up: a task is tried elsewhere if its entry is retry_safe, and waits for \
a person otherwise. Asks first on a terminal; elsewhere --yes is needed.

Examples:
  outpost agents remove site-1
  outpost agents remove site-1 --yes";

const LABEL: &str = "\
Tasks choose agents by labels (`selector` in a workflow). KEY=VALUE sets one, KEY- takes one away; the others stay.

Examples:
  outpost agents label site-1 zone=eu disk=fast
  outpost agents label site-1 disk-";

const QUEUES: &str = "\
An agent takes tasks of the queues that it serves; a new agent serves `default`. The list replaces the one before.

Examples:
  outpost agents queues site-1 default big";

const SLOTS: &str = "\
The agent itself says how many tasks it runs at once; here fewer can be asked of it.

Examples:
  outpost agents slots site-1 4
  outpost agents slots site-1 none                    as many as the agent has";

const CORDON: &str = "\
Examples:
  outpost agents cordon site-1";

const UNCORDON: &str = "\
Examples:
  outpost agents uncordon site-1";

const DRAIN: &str = "\
The agent gets nothing new, and what it has not started yet is taken back; what runs goes on to its end. With --wait \
the command ends when nothing runs there any more, or at the timeout with status 1: the drain itself goes on then, and \
`outpost agents uncordon` ends it.

Examples:
  outpost agents drain site-1
  outpost agents drain site-1 --wait --timeout 10m";

const RESOLVE: &str = "\
Two machines answer under one agent's identity when a machine or its disk was copied, or put back to an earlier \
snapshot. Both keep their sessions and neither gets work until one is kept: `outpost agents show` tells them apart. The \
kept one gets a new key; the other one is turned away for good.

At the site of the one that is not kept: stop outpost-agent, move its state directory away, and enrol it under a name \
of its own (`outpost agents invite`). Before a machine is copied, its agent's state directory is to be empty.

Examples:
  outpost agents show site-1
  outpost agents resolve site-1 --keep this";

const UNFREEZE: &str = "\
When more than 55 in a hundred agents go within two minutes, nothing silent is given up until nine in ten of them are \
back, or this command says that they will not be.

Examples:
  outpost agents unfreeze";

/// What becomes of agents.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum AgentsCommand {
    /// List agents and how they are.
    #[command(after_help = LIST)]
    List,
    /// Show all that is known of one agent.
    #[command(after_help = SHOW)]
    Show {
        /// The agent's name.
        agent: String,
    },
    /// Make a one-time token with which a new agent enrols.
    #[command(after_help = INVITE)]
    Invite(InviteArgs),
    /// Remove an agent: its session ends at once and its certificate is no longer accepted.
    #[command(after_help = REMOVE)]
    Remove {
        /// The agent's name.
        agent: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Set or take away an agent's labels, by which tasks choose agents.
    #[command(after_help = LABEL)]
    Label {
        /// The agent's name.
        agent: String,
        /// What changes.
        #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
        labels: Vec<String>,
    },
    /// Say which queues an agent serves.
    #[command(after_help = QUEUES)]
    Queues {
        /// The agent's name.
        agent: String,
        /// All queues that it serves from now on.
        #[arg(required = true, value_name = "QUEUE")]
        queues: Vec<String>,
    },
    /// Ask fewer tasks at once of an agent than it has slots.
    #[command(after_help = SLOTS)]
    Slots {
        /// The agent's name.
        agent: String,
        /// At most so many; `none` for as many as the agent has.
        #[arg(value_name = "N|none", value_parser = slots)]
        slots: SlotsLimit,
    },
    /// Give an agent nothing new; what it has goes on.
    #[command(after_help = CORDON)]
    Cordon {
        /// The agent's name.
        agent: String,
    },
    /// Give a cordoned or draining agent work again.
    #[command(after_help = UNCORDON)]
    Uncordon {
        /// The agent's name.
        agent: String,
    },
    /// Empty an agent: nothing new, and what has not started is taken back.
    #[command(after_help = DRAIN)]
    Drain(DrainArgs),
    /// Decide which of two holders of an agent's identity stays.
    #[command(after_help = RESOLVE)]
    Resolve {
        /// The agent's name.
        agent: String,
        /// `this`: the one that was known; `that`: the one that appeared.
        #[arg(long, value_name = "this|that", value_parser = ["this", "that"])]
        keep: String,
    },
    /// Give up silent attempts again, although most agents went at once.
    #[command(after_help = UNFREEZE)]
    Unfreeze,
}

/// Whom to invite.
#[derive(Debug, Clone, Args)]
pub(crate) struct InviteArgs {
    /// The agent's name.
    pub(crate) agent: String,
    /// How long the token holds.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub(crate) ttl: Duration,
    /// Write the token to this new file, readable by its owner only, instead of printing it.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_out: Option<PathBuf>,
}

/// What is emptied.
#[derive(Debug, Clone, Args)]
pub(crate) struct DrainArgs {
    /// The agent's name.
    pub(crate) agent: String,
    /// Wait until nothing runs there.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Wait no longer than this.
    #[arg(long, value_name = "DURATION", default_value = "10m", requires = "wait", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// How many tasks at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotsLimit(pub(crate) Option<u16>);

fn slots(text: &str) -> Result<SlotsLimit, String> {
    match (text, text.parse::<u16>()) {
        ("none", _) => Ok(SlotsLimit(None)),
        (_, Ok(slots)) if slots <= 1024 => Ok(SlotsLimit(Some(slots))),
        (_, Ok(_) | Err(_)) => Err("it is a number from 0 to 1024, or `none`".to_owned()),
    }
}
