//! What both sides recorded about the same work, and whether it agrees with what is promised.
//!
//! A history is made of four independent accounts: what the tasks themselves appended to a file of their site, what the
//! orchestrator shows through its API, what each agent's ledger says left the site, and what a client was answered.
//! [`check`] is a pure function over them. Whoever runs work under faults gathers a history and has it judged here.

mod check;
pub mod site;
mod summary;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde_json::Value;

pub use check::{Violation, check};
pub use site::{Mark, What};
pub use summary::Summary;

/// Everything that is known once faults have stopped and all is quiet.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Runs whose making was acknowledged to a client.
    pub acknowledged: Vec<String>,
    /// Requests for a run that were never answered: each may have made one.
    pub unanswered: usize,
    /// Every run the orchestrator knows.
    pub runs: Vec<Run>,
    /// What tasks appended, in the order of the file.
    pub site: Vec<Mark>,
    /// Lines of the site's file that are none.
    pub unreadable: Vec<String>,
    /// Ends of attempts that the API showed at any earlier moment: attempt and outcome.
    pub seen: Vec<(String, String)>,
    /// Of each agent.
    pub ledgers: Vec<Ledger>,
    /// Entries that their sites call `retry_safe`.
    pub retry_safe: BTreeSet<String>,
}

/// A run as the orchestrator shows it.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Its id.
    pub run: String,
    /// Its state, such as `running` or `succeeded`.
    pub state: String,
    /// Its tasks.
    pub tasks: Vec<Task>,
}

/// A task of a run.
#[derive(Debug, Clone, Default)]
pub struct Task {
    /// Its name.
    pub task: String,
    /// What the site runs for it.
    pub entry: String,
    /// In the order of their numbers.
    pub attempts: Vec<Attempt>,
}

/// An attempt as the orchestrator shows it.
#[derive(Debug, Clone, Default)]
pub struct Attempt {
    /// Its id.
    pub attempt: String,
    /// Such as `running`, `finished` or `lost`.
    pub state: String,
    /// How it ended.
    pub outcome: Option<String>,
    /// How it ended, said after it had been given up.
    pub late: Option<String>,
    /// Whether anything of it may have run.
    pub may_have_started: Option<bool>,
    /// Whether a person said that nothing of it runs any more.
    pub asserted: bool,
    /// RFC 3339 with microseconds: order of texts is order in time.
    pub assigned_at: String,
    /// The same.
    pub finished_at: Option<String>,
}

/// What an agent's ledger says.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Whose.
    pub agent: String,
    /// Why it does not stand a check of every record and its place in the chain.
    pub broken: Option<String>,
    /// Ends of attempts that were told: attempt and outcome, each time it was told.
    pub told: Vec<(String, String)>,
    /// Ends that the agent still waits to have acknowledged.
    pub unacknowledged: usize,
}

impl Run {
    /// Whether nothing of it will change any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        ["succeeded", "failed", "cancelled"].contains(&self.state.as_str())
    }

    /// From the API's `GET /api/v1/runs/{run}`; `None` when it is something else.
    #[must_use]
    pub fn from_api(tree: &Value) -> Option<Self> {
        let tasks = tree["tasks"].as_array()?.iter().map(Task::from_api);
        Some(Self {
            run: text(&tree["run"])?,
            state: text(&tree["state"])?,
            tasks: tasks.collect::<Option<_>>()?,
        })
    }
}

impl Task {
    fn from_api(task: &Value) -> Option<Self> {
        let attempts = task["attempts"].as_array()?.iter().map(Attempt::from_api);
        Some(Self {
            task: text(&task["task"])?,
            entry: text(&task["entry"])?,
            attempts: attempts.collect::<Option<_>>()?,
        })
    }
}

impl Attempt {
    fn from_api(attempt: &Value) -> Option<Self> {
        Some(Self {
            attempt: text(&attempt["attempt"])?,
            state: text(&attempt["state"])?,
            outcome: text(&attempt["outcome"]),
            late: text(&attempt["late"]),
            may_have_started: attempt["may_have_started"].as_bool(),
            asserted: !attempt["asserted_dead"].is_null(),
            assigned_at: text(&attempt["assigned_at"])?,
            finished_at: text(&attempt["finished_at"]),
        })
    }
}

impl Ledger {
    /// Takes the ends from the words of `outpost-agent ledger explain`: `ATTEMPT is over: OUTCOME after …`, once in an
    /// event, any number of times in an inventory.
    pub fn hear(&mut self, words: &str) {
        let mut rest = words;
        while let Some((before, after)) = rest.split_once(" is over: ") {
            let id = before.rsplit(' ').next().unwrap_or_default();
            if let Some((outcome, _)) = after.split_once(" after ") {
                self.told.push((id.to_owned(), outcome.to_owned()));
            }
            rest = after;
        }
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}
