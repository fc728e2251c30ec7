//! Commands about workflow files: `validate`, `apply`, `diff`, `schema`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

pub(super) const VALIDATE: &str = "\
Needs no server: whether an agent offers an entry is the server's question, asked by `apply`, also with --dry-run. \
A directory means every *.yaml and *.yml below it; one file holds one workflow.

Examples:
  outpost validate nightly.yaml
  outpost validate flows/ more/report.yaml
  outpost validate - < nightly.yaml
  outpost validate flows/ --output json";

pub(super) const APPLY: &str = "\
A directory means every *.yaml and *.yml below it; hidden ones are passed over. One file holds one workflow: a file \
with several YAML documents is refused. All files are checked, here and by the server, before any is applied; \
workflows whose files are gone are left as they are (`outpost delete workflow` deletes one).

Examples:
  outpost apply nightly.yaml
  outpost apply -f flows/ --dry-run
  outpost apply -f flows/ -f extra.yml
  outpost apply - < nightly.yaml
  outpost apply report.yaml --allow-unknown-entries";

pub(super) const DIFF: &str = "\
Exit status, as of diff(1): 0 the same, 1 different or new, more for errors.

Examples:
  outpost diff nightly.yaml
  outpost diff flows/ --output json";

pub(super) const SCHEMA: &str = "\
Editors complete and check files by it. For those that speak to yaml-language-server, a first line in the file does:
  # yaml-language-server: $schema=workflow.schema.json

Examples:
  outpost schema workflow > workflow.schema.json
  outpost schema catalogue > catalogue.schema.json";

/// What is checked.
#[derive(Debug, Clone, Args)]
pub(crate) struct ValidateArgs {
    /// Workflows in YAML, or directories of them; `-` reads from standard input.
    #[arg(required = true, value_name = "FILE|DIR")]
    pub(crate) paths: Vec<PathBuf>,
}

/// What is applied.
#[derive(Debug, Clone, Args)]
pub(crate) struct ApplyArgs {
    /// Workflows in YAML, or directories of them; `-` reads from standard input.
    #[arg(required_unless_present = "files", value_name = "FILE|DIR")]
    pub(crate) paths: Vec<PathBuf>,
    /// The same; may be repeated.
    #[arg(long = "file", short, value_name = "FILE|DIR")]
    pub(crate) files: Vec<PathBuf>,
    /// Say what would change, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Accept catalogue entries that no agent has announced yet.
    #[arg(long)]
    pub(crate) allow_unknown_entries: bool,
}

/// What is compared.
#[derive(Debug, Clone, Args)]
pub(crate) struct DiffArgs {
    /// Workflows in YAML, or directories of them; `-` reads from standard input.
    #[arg(required = true, value_name = "FILE|DIR")]
    pub(crate) paths: Vec<PathBuf>,
}

/// Which files a schema is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaKind {
    /// Workflow files (YAML).
    Workflow,
    /// An agent's catalogue files (TOML).
    Catalogue,
}
