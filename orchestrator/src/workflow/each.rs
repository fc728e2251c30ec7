//! `for_each`: one task of the file that stands for several of the workflow, one for each of a list of values.

use std::collections::BTreeSet;
use std::ops::Range;

use outpost_orchestrator_core::spec::{Argument, TASKS, TaskSpec};
use outpost_proto::ids::TaskIndex;
use outpost_proto::message::ParamValue;
use outpost_proto::name::{ParamName, TaskName};

use super::fields::{Fields, mapping};
use super::found::{Findings, join, shown};
use super::keys::VALUES;
use super::node::{Node, Value};
use super::params::literal;
use super::scalar::parsed_name;
use super::tasks::Written;

/// The values of a task's `for_each`.
#[derive(Debug)]
pub(super) struct Each {
    /// What `${each.NAME}` calls them.
    pub(super) name: ParamName,
    values: Vec<ParamValue>,
}

/// A task of the file with what is not yet known of it: how many it is, and which numbers those have that it needs.
#[derive(Debug)]
pub(super) struct Draft {
    /// All else.
    pub(super) spec: TaskSpec,
    /// What it is done for.
    pub(super) each: Option<Each>,
    /// Parameters that are given the value.
    pub(super) given: Vec<ParamName>,
    /// What it needs: places in the file.
    pub(super) needs: Vec<usize>,
}

/// Reads `for_each` of a task of this name.
pub(super) fn each(fields: &Fields<'_>, task: &str, found: &mut Findings) -> Option<Each> {
    let node = fields.get("for_each", found)?;
    let path = fields.path_of("for_each");
    let [(key, values)] = mapping(node, &path, found)? else {
        found
            .add(node.referenced, &path, "expected one name with its values")
            .help("write `for_each: {region: [north, south]}`");
        return None;
    };
    let path = join(&path, &shown(&key.value));
    let name = parsed_name(&key.value, key.referenced, &path, found);
    let values = list(values, task, &path, found);
    Some(Each {
        name: name?,
        values: values?,
    })
}

fn list(node: &Node, task: &str, path: &str, found: &mut Findings) -> Option<Vec<ParamValue>> {
    let Value::List(items) = &node.value else {
        let message = format!("expected a list of values, found {}", node.value.kind());
        found
            .add(node.referenced, path, message)
            .help("write `[north, south]`");
        return None;
    };
    if items.is_empty() || items.len() > VALUES {
        let message = format!("expected 1 to {VALUES} values, found {}", items.len());
        found.add(node.referenced, path, message);
        return None;
    }
    let mut names = BTreeSet::new();
    let mut values = Vec::with_capacity(items.len());
    for (place, item) in items.iter().enumerate() {
        let path = format!("{path}[{place}]");
        let value = literal(item, &path, found)?;
        let name = numbered(task, &value);
        if let Err(error) = name.parse::<TaskName>() {
            let message = format!("`{}` cannot be a task's name: {error}", shown(&name));
            found
                .add(item.referenced, &path, message)
                .help("each value becomes a part of its task's name");
            return None;
        }
        if !names.insert(name) {
            found
                .add(item.referenced, &path, "this value is there twice")
                .help("keep one");
            return None;
        }
        values.push(value);
    }
    Some(values)
}

/// The name of the task that stands for one value.
fn numbered(task: &str, value: &ParamValue) -> String {
    match value {
        ParamValue::Flag(flag) => format!("{task}-{flag}"),
        ParamValue::Integer(number) => format!("{task}-{number}"),
        ParamValue::Text(text) => format!("{task}-{text}"),
    }
}

/// The tasks of the workflow. Who needs a task with a `for_each` needs all that it stands for.
pub(super) fn expand(
    drafts: Vec<Draft>,
    written: &[Written<'_>],
    found: &mut Findings,
) -> Vec<TaskSpec> {
    let mut places: Vec<Range<usize>> = Vec::with_capacity(drafts.len());
    let mut count = 0;
    for draft in &drafts {
        let end = count + draft.each.as_ref().map_or(1, |each| each.values.len());
        places.push(count..end);
        count = end;
    }
    if count > TASKS
        && let Some(first) = written.first()
    {
        let message =
            format!("a workflow has 1 to {TASKS} tasks; with `for_each` this one has {count}");
        found.add(first.at, "tasks", message);
        return Vec::new();
    }
    let mut tasks = Vec::with_capacity(count);
    for draft in drafts {
        let needs = draft.needs.iter().filter_map(|need| places.get(*need));
        let needs: BTreeSet<TaskIndex> = needs
            .cloned()
            .flatten()
            .filter_map(|need| u16::try_from(need).ok())
            .map(TaskIndex)
            .collect();
        let spec = TaskSpec {
            needs: needs.into_iter().collect(),
            ..draft.spec
        };
        match draft.each {
            None => tasks.push(spec),
            Some(each) => tasks.extend(
                each.values
                    .iter()
                    .filter_map(|value| one(&spec, value, &draft.given)),
            ),
        }
    }
    tell_twins(&tasks, written, found);
    tasks
}

fn one(spec: &TaskSpec, value: &ParamValue, given: &[ParamName]) -> Option<TaskSpec> {
    let mut task = spec.clone();
    // Looked at when the values were read.
    task.name = numbered(spec.name.as_str(), value).parse().ok()?;
    let value = |name: &ParamName| (name.clone(), Argument::Value(value.clone()));
    task.with.extend(given.iter().map(value));
    Some(task)
}

/// A name that two tasks would have, though the file has each of theirs once.
fn tell_twins(tasks: &[TaskSpec], written: &[Written<'_>], found: &mut Findings) {
    let mut seen = BTreeSet::new();
    for task in tasks {
        if seen.insert(&task.name) {
            continue;
        }
        let mut theirs = written.iter().filter(|one| one.name == task.name.as_str());
        // A name that is written twice is told of where it is read.
        if let (Some(meant), None) = (theirs.next(), theirs.next()) {
            let message = format!("a `for_each` makes a task `{}` too", task.name);
            found.add(meant.at, &meant.path, message).help("rename one");
        }
    }
}
