//! The tasks: what each runs, what it is given, what it needs and how it is tried again.

use std::collections::BTreeMap;

use outpost_orchestrator_core::spec::{Argument, Retry, TASKS, TaskSpec};
use outpost_proto::limits::PARAMETERS;
use outpost_proto::message::ParamValue;
use outpost_proto::name::{EntryName, ParamName, TaskName};
use serde_saphyr::Location;

use super::each::{self, Draft, Each};
use super::fields::{Fields, named};
use super::foreign;
use super::found::{Findings, join, shown};
use super::graph;
use super::keys::{self, LONGEST_DELAY, LONGEST_TIMEOUT, RETRIES, TASK};
use super::list;
use super::node::{Node, Value};
use super::params::{Declared, literal};
use super::place;
use super::scalar::{duration, name, number, parsed_name, text};

/// First delay, unless the file says otherwise, in milliseconds.
const DELAY_MS: u64 = 1000;
/// Longest delay, unless the file says otherwise, in milliseconds.
const MAX_DELAY_MS: u64 = 3_600_000;
/// Shortest length of time.
const SHORTEST: (u64, &str) = (1, "1ms");

/// What a task takes when it does not say otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Defaults {
    retries: Option<u16>,
    delay_ms: Option<u64>,
    max_delay_ms: Option<u64>,
    timeout_ms: Option<u64>,
}

/// The section `defaults`.
pub(super) fn defaults(node: Option<&Node>, found: &mut Findings) -> Defaults {
    let Some(node) = node else {
        return Defaults::default();
    };
    Fields::of(node, "defaults", &keys::DEFAULTS, found)
        .map_or_else(Defaults::default, |fields| tries(&fields, found))
}

fn tries(fields: &Fields<'_>, found: &mut Findings) -> Defaults {
    let retries = fields.get("retries", found);
    let retries =
        retries.and_then(|node| number(node, &fields.path_of("retries"), (0, RETRIES), found));
    let mut time = |key: &str, most: (u64, &str)| {
        let node = fields.get(key, found);
        node.and_then(|node| duration(node, &fields.path_of(key), (SHORTEST, most), found))
    };
    Defaults {
        retries: retries.and_then(|retries| u16::try_from(retries).ok()),
        delay_ms: time("retry_delay", LONGEST_DELAY),
        max_delay_ms: time("retry_max_delay", LONGEST_DELAY),
        timeout_ms: time("timeout", LONGEST_TIMEOUT),
    }
}

/// A task as it stands in the file.
pub(super) struct Written<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// Where the name stands.
    pub(super) at: Location,
    /// Its keys.
    pub(super) node: &'a Node,
    /// Such as `tasks.load`.
    pub(super) path: String,
}

/// The section `tasks`.
pub(super) fn all(
    node: &Node,
    params: &Declared,
    defaults: &Defaults,
    found: &mut Findings,
) -> Vec<TaskSpec> {
    let Some(written) = list::written(node, found) else {
        return Vec::new();
    };
    if written.is_empty() || written.len() > TASKS {
        let message = format!(
            "a workflow has 1 to {TASKS} tasks, this one has {}",
            written.len()
        );
        found.add(node.referenced, "tasks", message);
        return Vec::new();
    }
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for (place, task) in written.iter().enumerate() {
        names.entry(task.name).or_insert(place);
    }
    let mut drafts = Vec::with_capacity(written.len());
    let mut needs = Vec::with_capacity(written.len());
    for task in &written {
        let name = parsed_name(task.name, task.at, &task.path, found);
        let scope = Scope {
            name: task.name,
            path: &task.path,
            names: &names,
            params,
            defaults,
            is_listed: matches!(node.value, Value::List(_)),
        };
        let (draft, needed) = scope.task(task.node, name, found);
        drafts.extend(draft);
        needs.push(needed);
    }
    tell_cycles(&written, &needs, found);
    if drafts.len() < written.len() {
        // What is wrong with the others is told already.
        return Vec::new();
    }
    each::expand(drafts, &written, found)
}

/// One of a task's needs: which task, and the node that names it.
type Need<'a> = (usize, &'a Node);

fn tell_cycles(written: &[Written<'_>], needs: &[Vec<Need<'_>>], found: &mut Findings) {
    let graph: Vec<Vec<usize>> = needs
        .iter()
        .map(|needs| needs.iter().map(|(need, _)| *need).collect())
        .collect();
    for (cycle, (task, position)) in graph::cycles(&graph) {
        let names = cycle
            .iter()
            .filter_map(|task| written.get(*task))
            .map(|task| shown(task.name));
        let cycle = names.collect::<Vec<_>>().join(" → ");
        let closing = needs.get(task).and_then(|needs| needs.get(position));
        let Some((task, (_, node))) = written.get(task).zip(closing) else {
            continue;
        };
        found
            .add(
                node.referenced,
                &join(&task.path, "needs"),
                format!("these tasks wait for each other: {cycle}"),
            )
            .help("remove one of the needs");
    }
}

/// Where a task stands.
struct Scope<'a> {
    name: &'a str,
    path: &'a str,
    names: &'a BTreeMap<&'a str, usize>,
    params: &'a Declared,
    defaults: &'a Defaults,
    /// Tasks are a list, each with its own name.
    is_listed: bool,
}

impl Scope<'_> {
    fn task<'n>(
        &self,
        node: &'n Node,
        name_of: Option<TaskName>,
        found: &mut Findings,
    ) -> (Option<Draft>, Vec<Need<'n>>) {
        let own_name = self.is_listed.then_some(keys::TASK_NAME.name);
        let known = own_name.into_iter().chain(TASK.names());
        let Some(fields) = Fields::with(node, self.path, known, found) else {
            return (None, Vec::new());
        };
        let entry = fields.required("entry", found);
        let entry =
            entry.and_then(|node| name::<EntryName>(node, &join(self.path, "entry"), found));
        let each = each::each(&fields, self.name, found);
        let (with, given) = fields
            .get("with", found)
            .map(|node| self.with(node, each.as_ref(), found))
            .unwrap_or_default();
        let needs = fields
            .get("needs", found)
            .map(|node| self.needs(node, found))
            .unwrap_or_default();
        let own = tries(&fields, found);
        let retry = self.retry(&own, node, found);
        let queue = place::queue(&fields, found);
        let selector = place::selector(&fields, found);
        let priority = place::priority(&fields, found);
        let max_active = place::at_once(&fields, "max_active", found);
        let draft = name_of.zip(entry).map(|(name, entry)| Draft {
            spec: TaskSpec {
                with,
                retry,
                timeout_ms: own.timeout_ms.or(self.defaults.timeout_ms),
                queue,
                selector,
                priority,
                max_active,
                ..TaskSpec::new(name, entry)
            },
            each,
            given,
            needs: needs.iter().map(|(need, _)| *need).collect(),
        });
        (draft, needs)
    }

    fn retry(&self, own: &Defaults, node: &Node, found: &mut Findings) -> Retry {
        let delay_ms = own.delay_ms.or(self.defaults.delay_ms).unwrap_or(DELAY_MS);
        let max = own.max_delay_ms.or(self.defaults.max_delay_ms);
        let max_delay_ms = max.unwrap_or(MAX_DELAY_MS.max(delay_ms));
        if delay_ms > max_delay_ms {
            found
                .add(
                    node.referenced,
                    self.path,
                    "its retry_delay is longer than its retry_max_delay",
                )
                .help("raise one or lower the other");
        }
        Retry {
            retries: own.retries.or(self.defaults.retries).unwrap_or(0),
            delay_ms,
            max_delay_ms,
        }
    }

    fn needs<'n>(&self, node: &'n Node, found: &mut Findings) -> Vec<Need<'n>> {
        let path = join(self.path, "needs");
        let Value::List(items) = &node.value else {
            let told = found.add(
                node.referenced,
                &path,
                format!("expected a list of task names, found {}", node.value.kind()),
            );
            match &node.value {
                Value::Text(text) => told.help(as_list(text)),
                Value::Null
                | Value::Flag(_)
                | Value::Integer(_)
                | Value::OtherNumber
                | Value::List(_)
                | Value::Map(_) => told.help("write it as `[fetch]`"),
            }
            return Vec::new();
        };
        let mut needs: Vec<Need<'n>> = Vec::with_capacity(items.len());
        for (place, item) in items.iter().enumerate() {
            let path = format!("{path}[{place}]");
            let Some(given) = text(item, &path, found) else {
                continue;
            };
            let Some(need) = self.names.get(given) else {
                let others = self.names.keys().copied().filter(|name| *name != self.name);
                let message = format!("there is no task `{}`", shown(given));
                found.add_word(item.referenced, &path, message, given, others);
                continue;
            };
            if given == self.name {
                found
                    .add(item.referenced, &path, "a task cannot need itself")
                    .help("remove it");
            } else if needs.iter().any(|(known, _)| known == need) {
                let message = format!("`{}` is there twice", shown(given));
                found.add(item.referenced, &path, message).help("keep one");
            } else {
                needs.push((*need, item));
            }
        }
        needs
    }

    /// Values and parameters of the run by name, and the names that are given the value of `for_each`.
    fn with(
        &self,
        node: &Node,
        each: Option<&Each>,
        found: &mut Findings,
    ) -> (BTreeMap<ParamName, Argument>, Vec<ParamName>) {
        let path = join(self.path, "with");
        let mut with = BTreeMap::new();
        let mut given = Vec::new();
        for (key, node) in named(node, &path, (PARAMETERS, "values"), found) {
            let path = join(&path, &shown(&key.value));
            let name = parsed_name(&key.value, key.referenced, &path, found);
            match (self.argument(node, each, &path, found), name) {
                (Some(Given::Is(argument)), Some(name)) => {
                    with.insert(name, argument);
                }
                (Some(Given::Each), Some(name)) => given.push(name),
                (None, _) | (_, None) => {}
            }
        }
        (with, given)
    }

    fn argument(
        &self,
        node: &Node,
        each: Option<&Each>,
        path: &str,
        found: &mut Findings,
    ) -> Option<Given> {
        let value = literal(node, path, found)?;
        let ParamValue::Text(text) = &value else {
            return Some(Given::Is(Argument::Value(value)));
        };
        if let Some(help) = foreign::template(text) {
            let message = format!("`{}` would be given as it stands", shown(text));
            found.add(node.referenced, path, message).help(help);
            return None;
        }
        if !text.contains("${") {
            return Some(Given::Is(Argument::Value(value)));
        }
        let inner = text
            .strip_prefix("${")
            .and_then(|rest| rest.strip_suffix('}'))
            .filter(|inner| !inner.contains(['$', '{', '}']));
        if let Some(wanted) = inner.and_then(|inner| inner.strip_prefix("params.")) {
            return self
                .parameter(node, wanted, path, found)
                .map(|name| Given::Is(Argument::Param(name)));
        }
        if let Some(wanted) = inner.and_then(|inner| inner.strip_prefix("each.")) {
            return of_each(node, wanted, each, path, found);
        }
        let message = format!(
            "`{}` is neither a value nor exactly `${{params.NAME}}` or `${{each.NAME}}`",
            shown(text)
        );
        found.add(node.referenced, path, message).help(
            "nothing is put together from parts here; let the catalogue entry take two parameters instead",
        );
        None
    }

    fn parameter(
        &self,
        node: &Node,
        wanted: &str,
        path: &str,
        found: &mut Findings,
    ) -> Option<ParamName> {
        if let Some(name) = self
            .params
            .specs
            .keys()
            .find(|name| name.as_str() == wanted)
        {
            return Some(name.clone());
        }
        if self.params.is_unclear(wanted) {
            return None;
        }
        let message = format!("the workflow has no parameter `{}`", shown(wanted));
        if self.params.specs.is_empty() {
            found
                .add(node.referenced, path, message)
                .help("declare it under `params`");
        } else {
            let known = self.params.names();
            found.add_word(node.referenced, path, message, wanted, known);
        }
        None
    }
}

/// What stands behind a parameter of an entry.
enum Given {
    Is(Argument),
    /// The value of `for_each`.
    Each,
}

fn of_each(
    node: &Node,
    wanted: &str,
    each: Option<&Each>,
    path: &str,
    found: &mut Findings,
) -> Option<Given> {
    match each {
        Some(each) if each.name.as_str() == wanted => return Some(Given::Each),
        Some(each) => {
            let message = format!("`for_each` of this task has no `{}`", shown(wanted));
            let known = std::iter::once(each.name.as_str());
            found.add_word(node.referenced, path, message, wanted, known);
        }
        None => {
            let help = format!("add `for_each: {{{}: [...]}}`", shown(wanted));
            found
                .add(node.referenced, path, "this task has no `for_each`")
                .help(help);
        }
    }
    None
}

/// A text that was meant as a list, as one.
fn as_list(text: &str) -> String {
    let names: Vec<String> = text
        .split([',', ' '])
        .filter(|name| !name.is_empty())
        .map(shown)
        .collect();
    format!("write `[{}]`", names.join(", "))
}
