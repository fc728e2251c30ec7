//! What was found wrong with one file, in the order of the file, with a bound on how much of it is told.

use serde_saphyr::Location;

use super::suggest::hint;
use super::{PROBLEMS, Problem};

/// Words that a wrong one is compared with.
const CANDIDATES: usize = 100;

/// What was found wrong so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: Vec<Problem>,
}

/// A problem just told, to which a help can be added; nothing when enough was told already.
pub(super) struct Told<'a>(Option<&'a mut Problem>);

impl Told<'_> {
    /// What to do about it.
    pub(super) fn help(self, help: impl Into<String>) {
        if let Some(problem) = self.0 {
            problem.help = Some(help.into());
        }
    }
}

impl Findings {
    /// Tells a problem.
    pub(super) fn add(&mut self, at: Location, path: &str, message: impl Into<String>) -> Told<'_> {
        if self.is_full() {
            return Told(None);
        }
        self.problems.push(Problem {
            line: at.line(),
            column: at.column(),
            path: path.to_owned(),
            message: message.into(),
            help: None,
        });
        Told(self.problems.last_mut())
    }

    /// Tells a problem with a word, and the nearest of the words that would have been right.
    pub(super) fn add_word<'a>(
        &mut self,
        at: Location,
        path: &str,
        message: impl Into<String>,
        given: &str,
        known: impl Iterator<Item = &'a str> + Clone,
    ) {
        // Comparing words is dear, and nobody reads the hint of a problem that is not told.
        if self.is_full() {
            return;
        }
        let told = self.add(at, path, message);
        if let Some(hint) = hint(given, known.take(CANDIDATES)) {
            told.help(hint);
        }
    }

    fn is_full(&self) -> bool {
        self.problems.len() >= 2 * PROBLEMS
    }

    /// In the order of the file.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.problems
            .sort_by_key(|problem| (problem.line, problem.column));
        self.problems.truncate(PROBLEMS);
        self.problems
    }
}

/// What was given, fit for a message: without control characters, cut to 120 characters.
pub(super) fn shown(text: &str) -> String {
    text.chars()
        .take(120)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A key below a path.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}
