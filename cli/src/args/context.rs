//! Commands about contexts: named servers with their tokens.

use clap::{Args, Subcommand};

pub(super) const ABOUT: &str = "\
Several orchestrators: name each once, then choose by name.

Contexts are kept in $XDG_CONFIG_HOME/outpost/config.toml (or ~/.config/outpost/config.toml), readable by its owner \
only. A token is either in a file that the context names, or stored in that file itself.

Which server, token and certificate are used, the first that is given:
  1. the option: --server, --token-file, --ca
  2. the context named by --context
  3. the variable: OUTPOST_SERVER, OUTPOST_TOKEN_FILE, OUTPOST_TOKEN, OUTPOST_CA
  4. the context named by OUTPOST_CONTEXT, else the one of `outpost context use`
  5. the default server, http://127.0.0.1:7080

A context's token and certificate are used with that context's own server only. `outpost context show` says what is \
in effect and why.";

pub(super) const EXAMPLES: &str = "\
Examples:
  outpost context add prod --server https://o.example.org --token-file token
  outpost context use prod
  outpost context show
  outpost runs --context test";

const ADD: &str = "\
The first context is chosen at once.

Examples:
  outpost context add prod --server https://o.example.org --token-file token
  outpost context add lab --server https://lab.example.org --token-stdin
  outpost context add prod --server https://new.example.org --replace";

const USE: &str = "\
Examples:
  outpost context use prod";

const LIST: &str = "\
Examples:
  outpost context list
  outpost context list --output json";

const SHOW: &str = "\
Examples:
  outpost context show
  outpost context show --context prod";

const REMOVE: &str = "\
A token file that the context names is left where it is.

Examples:
  outpost context remove test";

/// What becomes of contexts.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ContextCommand {
    /// Name a server: `--server`, a token, and for https perhaps `--ca`.
    #[command(after_help = ADD)]
    Add(ContextAdd),
    /// Choose the context that commands use from now on.
    #[command(after_help = USE)]
    Use {
        /// The context's name.
        name: String,
    },
    /// List contexts; never shows tokens.
    #[command(after_help = LIST)]
    List,
    /// Say which server, token and certificate are in effect, and what says so.
    #[command(after_help = SHOW)]
    Show,
    /// Forget a context.
    #[command(after_help = REMOVE)]
    Remove {
        /// The context's name.
        name: String,
    },
}

/// A new context; server, token file and certificate are the options that every command has.
#[derive(Debug, Clone, Args)]
pub(crate) struct ContextAdd {
    /// How it is called: letters, digits, `-`, `_` and `.`.
    pub(crate) name: String,
    /// Read the token from standard input and store it, readable by you only.
    #[arg(long, conflicts_with = "token_file")]
    pub(crate) token_stdin: bool,
    /// Choose it at once.
    #[arg(long = "use")]
    pub(crate) choose: bool,
    /// Replace a context of this name.
    #[arg(long)]
    pub(crate) replace: bool,
}
