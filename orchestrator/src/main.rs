//! The `outpost-orchestrator` executable: nothing but the library's entry.

use std::process::ExitCode;

fn main() -> ExitCode {
    outpost_orchestrator::main_from(std::env::args_os())
}
