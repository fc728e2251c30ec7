//! What the API answers, as far as the client shows it. Unknown fields pass: a newer server may say more.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// A page of a list.
#[derive(Debug, Deserialize)]
pub(crate) struct Items<T> {
    /// In the server's order.
    pub(crate) items: Vec<T>,
    /// Cursor of the next page.
    #[serde(default = "none")]
    pub(crate) next: Option<String>,
}

fn none() -> Option<String> {
    None
}

/// What became of an applied workflow.
#[derive(Debug, Deserialize)]
pub(crate) struct Applied {
    /// Its name.
    pub(crate) name: String,
    /// Counted from 1.
    pub(crate) version: u32,
    /// `created`, `updated` or `unchanged`.
    pub(crate) result: String,
    /// What is allowed and yet worth a look.
    #[serde(default)]
    pub(crate) warnings: Vec<Value>,
    /// Whether nothing was changed.
    #[serde(default)]
    pub(crate) dry_run: bool,
}

/// A workflow in a list.
#[derive(Debug, Deserialize)]
pub(crate) struct WorkflowItem {
    pub(crate) name: String,
    pub(crate) version: u32,
    #[serde(default)]
    pub(crate) description: Option<String>,
    pub(crate) tasks: u32,
    pub(crate) applied_at: String,
    #[serde(default)]
    pub(crate) paused: bool,
    pub(crate) next_run_at: Option<String>,
    pub(crate) active_runs: Option<u32>,
    #[serde(default)]
    pub(crate) schedule: Option<Value>,
}

impl WorkflowItem {
    /// Whether it runs by itself: `yes`, `paused`, `no`.
    pub(crate) fn scheduled(&self) -> &'static str {
        match (self.paused, self.schedule.is_some()) {
            (true, _) => "paused",
            (false, true) => "yes",
            (false, false) => "no",
        }
    }
}

/// A run in a list.
#[derive(Debug, Deserialize)]
pub(crate) struct RunItem {
    pub(crate) run: String,
    pub(crate) workflow: String,
    pub(crate) state: String,
    pub(crate) agent: Option<String>,
    pub(crate) created_at: String,
    pub(crate) duration_ms: Option<u64>,
    pub(crate) scheduled_for: Option<String>,
    #[serde(default)]
    pub(crate) reruns: u32,
}

/// A run with its tasks and their attempts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct RunTree {
    pub(crate) run: String,
    pub(crate) workflow: String,
    pub(crate) version: u32,
    pub(crate) state: String,
    pub(crate) agent: Option<String>,
    pub(crate) created_at: String,
    pub(crate) finished_at: Option<String>,
    pub(crate) duration_ms: Option<u64>,
    pub(crate) scheduled_for: Option<String>,
    #[serde(default)]
    pub(crate) reruns: u32,
    /// What it was given.
    #[serde(default)]
    pub(crate) params: serde_json::Map<String, Value>,
    #[serde(default)]
    pub(crate) tasks: Vec<TaskNode>,
}

impl RunTree {
    /// Whether nothing more will happen.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "succeeded" | "failed" | "cancelled")
    }
}

/// A task of a run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct TaskNode {
    pub(crate) task: String,
    #[serde(default)]
    pub(crate) needs: Vec<String>,
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) attempts: Vec<AttemptNode>,
}

/// One try of a task.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct AttemptNode {
    pub(crate) attempt: String,
    pub(crate) agent: Option<String>,
    pub(crate) number: Option<u32>,
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) outcome: Option<Value>,
    #[serde(default)]
    pub(crate) exit_code: Option<i64>,
    pub(crate) assigned_at: Option<String>,
    pub(crate) started_at: Option<String>,
    pub(crate) finished_at: Option<String>,
    pub(crate) duration_ms: Option<u64>,
}

impl AttemptNode {
    /// Whether nothing more is expected of it.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "finished" | "lost")
    }

    /// How it ended, in words: `failed (exit 75)`, `refused: no_lease`, `lost`.
    pub(crate) fn ending(&self) -> String {
        let word = self
            .outcome
            .as_ref()
            .map_or_else(|| self.state.clone(), outcome_words);
        match self.exit_code {
            Some(code) if code != 0 => format!("{word} (exit {code})"),
            Some(_) | None => word,
        }
    }
}

/// `"failed"` → `failed`; `{"killed":"oom"}` → `killed: oom`.
pub(crate) fn outcome_words(outcome: &Value) -> String {
    match outcome {
        Value::String(word) => word.clone(),
        Value::Object(fields) => {
            let words = fields
                .iter()
                .map(|(name, value)| format!("{name}: {}", outcome_words(value)));
            words.collect::<Vec<_>>().join(", ")
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => outcome.to_string(),
    }
}

/// Why a task is where it is.
#[derive(Debug, Deserialize)]
pub(crate) struct Reason {
    pub(crate) task: String,
    pub(crate) state: String,
    pub(crate) code: String,
    pub(crate) reason: String,
}

/// An agent in a list.
#[derive(Debug, Deserialize)]
pub(crate) struct AgentItem {
    pub(crate) agent: String,
    pub(crate) presence: String,
    /// Whether it has a session; older servers do not say.
    pub(crate) connected: Option<bool>,
    pub(crate) last_heard: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) slots: Option<u32>,
    pub(crate) slots_free: Option<u32>,
    pub(crate) running: Option<u32>,
    #[serde(default)]
    pub(crate) flags: Vec<String>,
    /// `normal` or `strict`; older servers do not say.
    pub(crate) reporting: Option<String>,
    pub(crate) cpu_percent: Option<u32>,
    pub(crate) memory_percent: Option<u32>,
    pub(crate) disk_percent: Option<u32>,
    pub(crate) certificate_days_left: Option<i64>,
    pub(crate) certificate_not_after: Option<String>,
    /// Assigned and not over.
    #[serde(default)]
    pub(crate) attempts: u32,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) queues: Vec<String>,
    pub(crate) slots_limit: Option<u32>,
    #[serde(default)]
    pub(crate) cordoned: bool,
    #[serde(default)]
    pub(crate) draining: bool,
    /// Two while its identity has two holders.
    #[serde(default)]
    pub(crate) holders: Vec<Holder>,
    #[serde(default)]
    pub(crate) held_back: bool,
}

/// One of two holders of an agent's identity.
#[derive(Debug, Deserialize)]
pub(crate) struct Holder {
    /// `this` or `that`.
    pub(crate) which: String,
    pub(crate) incarnation: String,
    pub(crate) connected: bool,
    pub(crate) last_heard: Option<String>,
    pub(crate) running: Option<u32>,
    pub(crate) uptime_s: Option<u64>,
    pub(crate) attempts: Option<u32>,
}

/// What endangers the work as a whole.
#[derive(Debug, Deserialize)]
pub(crate) struct RecoveryItem {
    pub(crate) epoch: u32,
    pub(crate) restored_at: Option<String>,
    pub(crate) recovering: bool,
    pub(crate) awaited: Vec<String>,
    pub(crate) frozen_since: Option<String>,
    pub(crate) quarantined: Vec<String>,
    pub(crate) held_back: Vec<String>,
}

/// A token with which an agent enrols.
#[derive(Deserialize)]
pub(crate) struct Invite {
    pub(crate) token: String,
    pub(crate) expires_at: String,
}

/// Where an attempt runs or ran.
#[derive(Debug, Deserialize)]
pub(crate) struct Attempt {
    pub(crate) attempt: String,
    pub(crate) run: String,
    pub(crate) workflow: String,
    pub(crate) task: String,
    pub(crate) agent: String,
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) outcome: Option<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_words() {
        let attempt = |json: &str| serde_json::from_str::<AttemptNode>(json).unwrap().ending();
        assert_eq!(
            attempt(r#"{"attempt":"a","state":"finished","outcome":"failed","exit_code":75}"#),
            "failed (exit 75)"
        );
        assert_eq!(
            attempt(r#"{"attempt":"a","state":"finished","outcome":{"killed":"oom"}}"#),
            "killed: oom"
        );
        assert_eq!(
            attempt(r#"{"attempt":"a","state":"finished","outcome":"succeeded","exit_code":0}"#),
            "succeeded"
        );
        assert_eq!(attempt(r#"{"attempt":"a","state":"lost"}"#), "lost");
    }
}
