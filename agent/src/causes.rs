//! An error with everything that led to it, on one line: for logs, for `check`, and for a person.

use std::error::Error;

/// The error and its causes, each behind the one that it caused.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
