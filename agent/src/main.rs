//! The agent's own binary. Everything is in the library, so that `outpost dev` and `outpost demo` run the same code.

use std::process::ExitCode;

fn main() -> ExitCode {
    outpost_agent::main_from(Vec::new(), std::env::args_os().skip(1).collect())
}
