//! The two ways tasks are written: a mapping from name to task, and a list of tasks that say their names. And what
//! people write who mean one of them.

use serde_saphyr::Location;

use super::fields::{Entry, mapping};
use super::found::{Findings, join, shown};
use super::keys::{TASK, TASK_NAME};
use super::node::{Node, Value};
use super::scalar::text;
use super::tasks::Written;

/// The tasks in the order of the file; nothing when there are none to be read.
pub(super) fn written<'a>(node: &'a Node, found: &mut Findings) -> Option<Vec<Written<'a>>> {
    match &node.value {
        Value::List(items) => {
            let tasks = listed(items, found);
            // Without a single name that could be read, what is wrong was told already.
            (!tasks.is_empty() || items.is_empty()).then_some(tasks)
        }
        Value::Map(entries) => {
            if let Some(stray) = entries.iter().find(|entry| is_stray(entry)) {
                misplaced(stray, entries, found);
                return None;
            }
            let entries = mapping(node, "tasks", found)?;
            Some(entries.iter().map(by_name).collect())
        }
        Value::Null | Value::Flag(_) | Value::Integer(_) | Value::OtherNumber | Value::Text(_) => {
            let message = format!("expected tasks, found {}", node.value.kind());
            found
                .add(node.referenced, "tasks", message)
                .help("write `NAME: {entry: ENTRY}` on a line of its own for each, indented below `tasks:`");
            None
        }
    }
}

fn by_name((name, node): &Entry) -> Written<'_> {
    Written {
        name: &name.value,
        at: name.referenced,
        node,
        path: join("tasks", &shown(&name.value)),
    }
}

/// A key of a task where a task's name should be: what stands behind it is no mapping.
fn is_stray((key, node): &Entry) -> bool {
    let known = key.value == TASK_NAME.name || TASK.names().any(|name| name == key.value);
    known
        && match &node.value {
            Value::Flag(_)
            | Value::Integer(_)
            | Value::OtherNumber
            | Value::Text(_)
            | Value::List(_) => true,
            Value::Null | Value::Map(_) => false,
        }
}

fn misplaced((key, _): &Entry, entries: &[Entry], found: &mut Findings) {
    let word = &key.value;
    let at = key.referenced;
    let empty =
        |(name, node): &&Entry| node.value == Value::Null && name.referenced.line() < at.line();
    let path = join("tasks", word);
    match entries.iter().rfind(empty) {
        Some((task, _)) => {
            let task = shown(&task.value);
            found
                .add(at, &path, format!("`{word}` stands beside the task `{task}`, not below it"))
                .help("indent it by two more spaces");
        }
        None => found
            .add(at, &path, format!("`{word}` stands where a task's name is expected"))
            .help("begin each task with `- ` and give it a `name`, or write `NAME:` above its keys and indent them below it"),
    }
}

fn listed<'a>(items: &'a [Node], found: &mut Findings) -> Vec<Written<'a>> {
    let mut tasks: Vec<Written<'a>> = Vec::with_capacity(items.len());
    let mut seen: std::collections::BTreeMap<&str, u64> = std::collections::BTreeMap::new();
    for (place, item) in items.iter().enumerate() {
        let path = format!("tasks[{place}]");
        let Some((name, at)) = own_name(item, &path, found) else {
            continue;
        };
        if let Some(first) = seen.insert(name, at.line()) {
            let message = format!(
                "there are two tasks `{}`, the first on line {first}",
                shown(name)
            );
            found
                .add(at, &join(&path, "name"), message)
                .help("rename one");
            continue;
        }
        tasks.push(Written {
            name,
            at,
            node: item,
            path: join("tasks", &shown(name)),
        });
    }
    tasks
}

/// The name that a listed task gives itself.
fn own_name<'a>(item: &'a Node, path: &str, found: &mut Findings) -> Option<(&'a str, Location)> {
    let entries = mapping(item, path, found)?;
    let Some((_, node)) = entries.iter().find(|(key, _)| key.value == TASK_NAME.name) else {
        let told = found.add(item.referenced, path, "`name` is missing");
        if let [(key, node)] = entries
            && matches!(node.value, Value::Map(_))
        {
            let key = shown(&key.value);
            told.help(format!("write `- name: {key}` and its keys below, without `{key}:`; or leave out the dashes"));
        } else {
            told.help("each task of a list needs one, such as `- name: load`");
        }
        return None;
    };
    Some((
        text(node, &join(path, TASK_NAME.name), found)?,
        node.referenced,
    ))
}
