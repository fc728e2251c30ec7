//! Workflow files: YAML text becomes a validated [`WorkflowSpec`], or a list of everything that is wrong with it.
//!
//! Called by the REST interface when a workflow is applied, and by the command line before it sends one. Reads no file
//! and asks no agent: whether a site announces an entry is the core's question. The text is hostile until proven
//! otherwise, so size, depth and number of nodes are bounded and neither anchors nor aliases are accepted.
//!
//! [`parse`] reads, [`canonical`] writes what was read in one form, [`diff`] compares two, [`schema`] is for
//! editors, [`reference()`] for the documentation.

mod canonical;
mod diff;
mod each;
mod fields;
mod file;
mod foreign;
mod found;
mod graph;
mod indent;
mod keys;
mod list;
mod mistakes;
mod node;
mod params;
mod place;
mod reference;
mod scalar;
mod schedule;
mod schema;
mod suggest;
mod tasks;

use std::fmt;

use outpost_orchestrator_core::spec::WorkflowSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use canonical::canonical;
pub use diff::{Change, diff};
pub use reference::reference;
pub use schema::schema;

/// Bytes of one workflow file.
pub const BYTES: usize = 256 * 1024;
/// Problems told of one file: who has more fixes these first.
pub(crate) const PROBLEMS: usize = 50;

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Counted from 1; 0 when it is about the file as a whole.
    pub line: u64,
    /// Counted from 1; 0 when it is about the file as a whole.
    pub column: u64,
    /// Such as `tasks.report.needs[1]`; empty when it is about the file as a whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it, where that can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// Everything found wrong with one file, in the order of the file. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct WorkflowError {
    /// At least one, at most 50.
    pub problems: Vec<Problem>,
}

/// Reads a workflow.
///
/// # Errors
/// Everything that is wrong with it, not only the first thing.
pub fn parse(text: &str) -> Result<WorkflowSpec, WorkflowError> {
    if text.len() > BYTES {
        return Err(WorkflowError {
            problems: vec![Problem {
                line: 0,
                column: 0,
                path: String::new(),
                message: format!(
                    "the file has {} bytes; a workflow has at most {BYTES}",
                    text.len()
                ),
                help: Some("split it into several workflows".to_owned()),
            }],
        });
    }
    let root = node::read(text).map_err(|problem| WorkflowError {
        problems: vec![problem],
    })?;
    let mut found = found::Findings::default();
    let spec = file::workflow(&root, &mut found);
    match (spec, found.into_problems()) {
        (Some(spec), problems) if problems.is_empty() => Ok(spec),
        (_, problems) => Err(WorkflowError { problems }),
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}, column {}: ", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.sentence())
    }
}

impl Problem {
    /// What is wrong and what to do, without the place.
    #[must_use]
    pub fn sentence(&self) -> String {
        match &self.help {
            Some(help) => format!("{}; {help}", self.message),
            None => self.message.clone(),
        }
    }
}

impl fmt::Display for WorkflowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, problem) in self.problems.iter().enumerate() {
            if place > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
