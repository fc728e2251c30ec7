//! What people see: the one place that writes to standard output and standard error.

use std::fmt::Display;

/// One line for people or programs on standard output. A reader that went away ends the process quietly.
pub(crate) fn line(text: impl Display) {
    use std::io::Write as _;
    let mut out = anstream::stdout().lock();
    if writeln!(out, "{text}").is_err() {
        std::process::exit(0);
    }
}

/// Several lines, which end with a line end of their own.
pub(crate) fn text(text: &str) {
    line(text.trim_end_matches('\n'));
}

/// Bytes as they are, for logs.
pub(crate) fn bytes(bytes: &[u8]) -> bool {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).is_ok()
}

/// A value as JSON.
pub(crate) fn json(value: &impl serde::Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => line(text),
        Err(error) => problem(format_args!("it cannot be shown as JSON: {error}")),
    }
}

/// `1 error`, `2 errors`; words in `y` take `ies`.
pub(crate) fn count(number: impl TryInto<u64>, what: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    match what.strip_suffix('y') {
        _ if number == 1 => format!("1 {what}"),
        Some(stem) => format!("{number} {stem}ies"),
        None => format!("{number} {what}s"),
    }
}

/// Something that went wrong, on standard error.
pub(crate) fn problem(text: impl Display) {
    anstream::eprintln!("error: {text}");
}

/// Something worth knowing, on standard error, so that piped output stays clean.
pub(crate) fn note(text: impl Display) {
    anstream::eprintln!("{text}");
}
