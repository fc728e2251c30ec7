//! What people see of the harness: the one place that writes to the standard streams.

use std::fmt::Display;
use std::path::Path;

/// Lines of each log shown when a test fails.
const TAIL: usize = 60;

/// One line of a result, on standard output.
pub fn line(text: impl Display) {
    anstream::println!("{text}");
}

/// Something worth knowing, on standard error.
pub fn note(text: impl Display) {
    anstream::eprintln!("{text}");
}

/// The end of a log, on standard error.
pub fn tail(log: &Path) {
    let Ok(text) = std::fs::read(log) else {
        return;
    };
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().collect::<Vec<_>>();
    note(format_args!("--- the end of {}", log.display()));
    for line in &lines[lines.len().saturating_sub(TAIL)..] {
        note(line);
    }
}
