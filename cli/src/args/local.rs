//! Commands that need no server.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::files::{self, SchemaKind, ValidateArgs};

const DEV: &str = "\
Examples:
  outpost dev
  outpost dev --dir ~/outpost-dev --slots 4
  outpost dev --dir ~/outpost-dev --reset --yes   begins from nothing again";

const DEMO: &str = "\
Examples:
  outpost demo
  outpost demo --top 5 --keep
  outpost demo --chaos";

const COMPLETIONS: &str = "\
Examples:
  outpost completions bash > ~/.local/share/bash-completion/completions/outpost
  outpost completions zsh > ~/.zfunc/_outpost
  outpost completions fish > ~/.config/fish/completions/outpost.fish";

const MAN: &str = "\
Examples:
  outpost man ~/.local/share/man/man1";

const EXIT_CODES: &str = "\
Examples:
  outpost exit-codes
  outpost help exit-codes";

const REFERENCE: &str = "\
Examples:
  outpost reference workflow > workflow.md
  outpost reference cli > cli.md
  outpost reference exit-codes > exit-codes.md";

/// Commands that need no server.
#[derive(Debug, Subcommand)]
pub(crate) enum LocalCommand {
    /// Find everything that is wrong with workflow files, without a server; status 2 when anything is.
    #[command(after_help = files::VALIDATE)]
    Validate(ValidateArgs),
    /// Print the JSON Schema of workflow or catalogue files, for editors.
    #[command(after_help = files::SCHEMA)]
    Schema {
        /// Of which files.
        #[arg(value_enum)]
        kind: SchemaKind,
    },
    /// Run an orchestrator and an agent on this machine until Ctrl-C, with a throw-away authority.
    #[command(after_help = DEV)]
    Dev(DevArgs),
    /// See everything work: a real workflow about this machine, and what left the site while it ran.
    #[command(after_help = DEMO)]
    Demo(DemoArgs),
    /// Print completions for a shell.
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Write manual pages, one per command, into a directory.
    #[command(after_help = MAN)]
    Man {
        /// The directory; it is made if it is not there.
        dir: PathBuf,
    },
    /// Say what each exit status means.
    #[command(after_help = EXIT_CODES, long_about = crate::exit::table())]
    ExitCodes,
    /// Print a reference as Markdown, as it is in the documentation.
    #[command(hide = true, after_help = REFERENCE)]
    Reference {
        /// Of what.
        #[arg(value_enum)]
        kind: ReferenceKind,
    },
}

/// What is referred to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReferenceKind {
    /// Every key of a workflow file.
    Workflow,
    /// Every command with its options and examples.
    Cli,
    /// What each exit status means.
    ExitCodes,
}

/// How to develop.
#[derive(Debug, Clone, Args)]
pub(crate) struct DevArgs {
    /// Where everything is kept: a new directory, outside the reach of others [default: a throw-away one].
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The catalogue the agent offers [default: the demo's, copied into the directory].
    #[arg(long, value_name = "DIR")]
    pub(crate) catalogue: Option<PathBuf>,
    /// Tasks at a time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) slots: u16,
    /// First delete what an earlier `dev` made: in --dir, or without it in all its throw-away directories.
    #[arg(long)]
    pub(crate) reset: bool,
    /// Do not ask before deleting.
    #[arg(long, short, requires = "reset")]
    pub(crate) yes: bool,
}

/// How to demonstrate.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// Where everything is kept: a new directory [default: one under /tmp or /var/tmp; the newest five are kept].
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// How many of the largest packages, files and directories the report lists.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) top: u16,
    /// Leave orchestrator and agent running afterwards, until Ctrl-C.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Kill, stop and cut off its processes while it runs, and check afterwards what both sides recorded.
    #[arg(long)]
    pub(crate) chaos: bool,
}
