//! What changed between two versions of a workflow, key by key: for people who are about to apply the second.

use outpost_orchestrator_core::spec::WorkflowSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::canonical::by_name;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// Such as `tasks.report.retries`.
    pub path: String,
    /// What it was; nothing when it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What it becomes; nothing when it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// What changes from `old` to `new`, by path. A task that comes or goes is one change, and so is a parameter. Empty when
/// applying `new` would make no new version but for the order of its tasks, which is a change of `tasks`.
#[must_use]
pub fn diff(old: &WorkflowSpec, new: &WorkflowSpec) -> Vec<Change> {
    let mut changes = Vec::new();
    compare("", &by_name(old), &by_name(new), &mut changes);
    let order = |spec: &WorkflowSpec| -> Vec<Value> {
        let names = spec.tasks.iter().map(|task| task.name.as_str().into());
        names.collect()
    };
    let (before, after) = (order(old), order(new));
    let is_kept = |name: &&Value, others: &[Value]| others.contains(name);
    let kept = |names: &[Value], others: &[Value]| -> Vec<Value> {
        let kept = names.iter().filter(|name| is_kept(name, others));
        kept.cloned().collect()
    };
    if kept(&before, &after) != kept(&after, &before) {
        changes.push(Change {
            path: "tasks".to_owned(),
            before: Some(Value::Array(before)),
            after: Some(Value::Array(after)),
        });
    }
    changes
}

fn compare(path: &str, old: &Value, new: &Value, changes: &mut Vec<Change>) {
    if old == new {
        return;
    }
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        changes.push(Change {
            path: path.to_owned(),
            before: Some(old.clone()),
            after: Some(new.clone()),
        });
        return;
    };
    for (key, old) in before {
        let path = super::found::join(path, key);
        match after.get(key) {
            Some(new) => compare(&path, old, new, changes),
            None => gone(&path, old, changes),
        }
    }
    for (key, new) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
        come(&super::found::join(path, key), new, changes);
    }
}

/// Sections that come or go are told part by part, a task or a parameter as a whole.
fn come(path: &str, new: &Value, changes: &mut Vec<Change>) {
    let mut one = |path: String, value: &Value| {
        changes.push(Change {
            path,
            before: None,
            after: Some(value.clone()),
        });
    };
    match parts(path, new) {
        Some(map) => map
            .iter()
            .for_each(|(key, value)| one(super::found::join(path, key), value)),
        None => one(path.to_owned(), new),
    }
}

fn gone(path: &str, old: &Value, changes: &mut Vec<Change>) {
    let mut one = |path: String, value: &Value| {
        changes.push(Change {
            path,
            before: Some(value.clone()),
            after: None,
        });
    };
    match parts(path, old) {
        Some(map) => map
            .iter()
            .for_each(|(key, value)| one(super::found::join(path, key), value)),
        None => one(path.to_owned(), old),
    }
}

fn parts<'a>(path: &str, value: &'a Value) -> Option<&'a Map<String, Value>> {
    match value {
        Value::Object(map) if matches!(path, "params" | "selector" | "schedule") => Some(map),
        Value::Object(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_) => None,
    }
}
