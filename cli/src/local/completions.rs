//! Completions for shells.

use clap_complete::Shell;

use crate::args;

/// The script that a shell reads.
pub(super) fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "outpost", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
