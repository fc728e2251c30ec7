//! Completions for shells.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Cli;

/// The script that a shell reads.
pub(super) fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "outpost", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
