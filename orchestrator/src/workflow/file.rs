//! The file as a whole. Goes on after a problem, so that one answer names them all.

use outpost_orchestrator_core::spec::{Affinity, WorkflowSpec};
use outpost_proto::name::WorkflowName;

use super::fields::Fields;
use super::found::Findings;
use super::keys::{self, DESCRIPTION};
use super::node::{Node, Value};
use super::scalar::{name, text};
use super::{params, place, schedule, tasks};

/// A workflow, as far as it could be read; nothing when a part without which it is none is missing.
pub(super) fn workflow(root: &Node, found: &mut Findings) -> Option<WorkflowSpec> {
    if root.value == Value::Null {
        found
            .add(root.referenced, "", "there is no workflow in it")
            .help("write `name: NAME`, and below `tasks:` what it does");
        return None;
    }
    if let Value::Text(text) = &root.value
        && text.contains(':')
    {
        // `name:x` is one text to YAML: a mapping needs the space.
        found
            .add(
                root.referenced,
                "",
                "expected a mapping (`key: value` lines), found text",
            )
            .help("a colon needs a space behind it");
        return None;
    }
    let file = Fields::of(root, "", &keys::FILE, found)?;
    let name = file
        .required("name", found)
        .and_then(|node| name::<WorkflowName>(node, "name", found));
    let description = description(&file, found);
    let params = params::declared(file.get("params", found), found);
    let schedule = schedule::schedule(file.get("schedule", found), &params, found);
    let defaults = tasks::defaults(file.get("defaults", found), found);
    let tasks = file
        .required("tasks", found)
        .map(|node| tasks::all(node, &params, &defaults, found));
    let queue = place::queue(&file, found);
    let selector = place::selector(&file, found);
    let priority = place::priority(&file, found);
    let affinity = place::word(&file, "affinity", found);
    let max_active_runs = place::at_once(&file, "max_active_runs", found);
    let max_active_tasks = place::at_once(&file, "max_active_tasks", found);
    Some(WorkflowSpec {
        description,
        params: params.specs,
        queue: queue.unwrap_or_default(),
        selector,
        priority: priority.unwrap_or_default(),
        max_active_runs,
        max_active_tasks,
        affinity: match affinity {
            Some("none") => Affinity::None,
            Some(_) | None => Affinity::Run,
        },
        schedule,
        ..WorkflowSpec::new(name?, tasks?)
    })
}

fn description(file: &Fields<'_>, found: &mut Findings) -> String {
    let Some(node) = file.get("description", found) else {
        return String::new();
    };
    let given = text(node, "description", found).unwrap_or_default();
    let length = given.chars().count();
    if length > DESCRIPTION {
        let message = format!("it has {length} characters; at most {DESCRIPTION} are kept");
        found.add(node.referenced, "description", message);
    }
    given.to_owned()
}
