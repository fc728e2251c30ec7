//! The task whose first instruction is timed: adds the time of day in microseconds to a file, in one write. A program of
//! its own that needs nothing, so that what is measured is not its start.

use std::io::Write;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

fn main() -> ExitCode {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    match write(now.as_micros()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn write(now_us: u128) -> std::io::Result<()> {
    let file = std::env::args_os()
        .nth(1)
        .ok_or(std::io::ErrorKind::InvalidInput)?;
    std::fs::File::options()
        .create(true)
        .append(true)
        .open(file)?
        .write_all(format!("{now_us}\n").as_bytes())
}
