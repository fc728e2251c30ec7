//! The tasks: what each runs, what it is given, what it needs and how it is tried again.

use std::collections::{BTreeMap, BTreeSet};

use outpost_orchestrator_core::spec::{Argument, ParamSpec, Retry, TASKS, TaskSpec};
use outpost_proto::ids::TaskIndex;
use outpost_proto::limits::PARAMETERS;
use outpost_proto::message::ParamValue;
use outpost_proto::name::{EntryName, ParamName, TaskName};

use super::check::{
    Fields, Findings, duration, join, mapping, name, number, parsed_name, shown, text,
};
use super::graph;
use super::node::{Node, Value};
use super::params::literal;

/// Further attempts of one task.
const RETRIES: i64 = 100;
/// First delay, unless the file says otherwise, in milliseconds.
const DELAY_MS: u64 = 1000;
/// Longest delay, unless the file says otherwise, in milliseconds.
const MAX_DELAY_MS: u64 = 3_600_000;
/// What a delay can be set to.
const LONGEST_DELAY: (u64, &str) = (7 * 24 * 3_600_000, "7d");
/// What a timeout can be set to: as in a catalogue.
const LONGEST_TIMEOUT: (u64, &str) = (30 * 24 * 3_600_000, "30d");

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
    let known = ["retries", "retry_delay", "retry_max_delay", "timeout"];
    Fields::of(node, "defaults", &known, found).map_or_else(Defaults::default, |fields| {
        tries(&fields, "defaults", found)
    })
}

fn tries(fields: &Fields<'_>, path: &str, found: &mut Findings) -> Defaults {
    let retries = fields.get("retries", found);
    let retries =
        retries.and_then(|node| number(node, &join(path, "retries"), (0, RETRIES), found));
    let mut time = |key: &str, most: (u64, &str)| {
        let node = fields.get(key, found);
        node.and_then(|node| duration(node, &join(path, key), most, found))
    };
    Defaults {
        retries: retries.and_then(|retries| u16::try_from(retries).ok()),
        delay_ms: time("retry_delay", LONGEST_DELAY),
        max_delay_ms: time("retry_max_delay", LONGEST_DELAY),
        timeout_ms: time("timeout", LONGEST_TIMEOUT),
    }
}

/// The section `tasks`.
pub(super) fn all(
    node: &Node,
    params: &BTreeMap<ParamName, ParamSpec>,
    defaults: &Defaults,
    found: &mut Findings,
) -> Vec<TaskSpec> {
    let Some(entries) = mapping(node, "tasks", found) else {
        return Vec::new();
    };
    if entries.is_empty() || entries.len() > TASKS {
        found.add(
            node.referenced,
            "tasks",
            format!(
                "a workflow has 1 to {TASKS} tasks, this one has {}",
                entries.len()
            ),
        );
        return Vec::new();
    }
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for (place, (key, _)) in entries.iter().enumerate() {
        names.entry(key.value.as_str()).or_insert(place);
    }
    let mut tasks = Vec::with_capacity(entries.len());
    let mut needs = Vec::with_capacity(entries.len());
    for (key, node) in entries {
        let path = join("tasks", &shown(&key.value));
        let name = parsed_name::<TaskName>(&key.value, key.referenced, &path, found);
        let scope = Scope {
            name: &key.value,
            path: &path,
            names: &names,
            params,
            defaults,
        };
        let (task, needed) = scope.task(node, name, found);
        tasks.extend(task);
        needs.push(needed);
    }
    tell_cycles(entries, &needs, found);
    tasks
}

/// One of a task's needs: which task, and the node that names it.
type Need<'a> = (usize, &'a Node);

fn tell_cycles(
    entries: &[(serde_saphyr::Spanned<String>, Node)],
    needs: &[Vec<Need<'_>>],
    found: &mut Findings,
) {
    let graph: Vec<Vec<usize>> = needs
        .iter()
        .map(|needs| needs.iter().map(|(need, _)| *need).collect())
        .collect();
    for (cycle, (task, position)) in graph::cycles(&graph) {
        let names = cycle
            .iter()
            .filter_map(|task| entries.get(*task))
            .map(|(key, _)| shown(&key.value));
        let shown_cycle = names.collect::<Vec<_>>().join(" → ");
        let Some(((key, _), (_, node))) = entries
            .get(task)
            .zip(needs.get(task).and_then(|needs| needs.get(position)))
        else {
            continue;
        };
        let path = format!("tasks.{}.needs", shown(&key.value));
        let what =
            format!("these tasks wait for each other: {shown_cycle}; remove one of the needs");
        found.add(node.referenced, &path, what);
    }
}

/// Where a task stands.
struct Scope<'a> {
    name: &'a str,
    path: &'a str,
    names: &'a BTreeMap<&'a str, usize>,
    params: &'a BTreeMap<ParamName, ParamSpec>,
    defaults: &'a Defaults,
}

impl Scope<'_> {
    fn task<'n>(
        &self,
        node: &'n Node,
        name_of: Option<TaskName>,
        found: &mut Findings,
    ) -> (Option<TaskSpec>, Vec<Need<'n>>) {
        let known = [
            "entry",
            "with",
            "needs",
            "retries",
            "retry_delay",
            "retry_max_delay",
            "timeout",
        ];
        let Some(fields) = Fields::of(node, self.path, &known, found) else {
            return (None, Vec::new());
        };
        let entry = fields.required("entry", found);
        let entry =
            entry.and_then(|node| name::<EntryName>(node, &join(self.path, "entry"), found));
        let with = fields
            .get("with", found)
            .map(|node| self.with(node, found))
            .unwrap_or_default();
        let needs = fields
            .get("needs", found)
            .map(|node| self.needs(node, found))
            .unwrap_or_default();
        let own = tries(&fields, self.path, found);
        let retry = self.retry(&own, node, found);
        let indices: BTreeSet<TaskIndex> = needs
            .iter()
            .filter_map(|(need, _)| u16::try_from(*need).ok())
            .map(TaskIndex)
            .collect();
        let spec = name_of.zip(entry).map(|(name, entry)| TaskSpec {
            needs: indices.into_iter().collect(),
            with,
            retry,
            timeout_ms: own.timeout_ms.or(self.defaults.timeout_ms),
            ..TaskSpec::new(name, entry)
        });
        (spec, needs)
    }

    fn retry(&self, own: &Defaults, node: &Node, found: &mut Findings) -> Retry {
        let delay_ms = own.delay_ms.or(self.defaults.delay_ms).unwrap_or(DELAY_MS);
        let max = own.max_delay_ms.or(self.defaults.max_delay_ms);
        let max_delay_ms = max.unwrap_or(MAX_DELAY_MS.max(delay_ms));
        if delay_ms > max_delay_ms {
            let what =
                "its retry_delay is longer than its retry_max_delay; raise one or lower the other";
            found.add(node.referenced, self.path, what);
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
            let what = format!(
                "expected a list of task names, such as `[fetch]`, found {}",
                node.value.kind()
            );
            found.add(node.referenced, &path, what);
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
                found.add(
                    item.referenced,
                    &path,
                    format!(
                        "there is no task `{}`{}",
                        shown(given),
                        found.hint(given, others)
                    ),
                );
                continue;
            };
            if given == self.name {
                found.add(
                    item.referenced,
                    &path,
                    "a task cannot need itself; remove it",
                );
            } else if needs.iter().any(|(known, _)| known == need) {
                found.add(
                    item.referenced,
                    &path,
                    format!("`{}` is there twice; keep one", shown(given)),
                );
            } else {
                needs.push((*need, item));
            }
        }
        needs
    }

    fn with(&self, node: &Node, found: &mut Findings) -> BTreeMap<ParamName, Argument> {
        let path = join(self.path, "with");
        let entries = mapping(node, &path, found).unwrap_or_default();
        if entries.len() > PARAMETERS {
            let what = format!(
                "{} values are given; an entry takes at most {PARAMETERS}",
                entries.len()
            );
            found.add(node.referenced, &path, what);
        }
        let mut with = BTreeMap::new();
        for (key, node) in entries {
            let path = join(&path, &shown(&key.value));
            let name = parsed_name(&key.value, key.referenced, &path, found);
            if let (Some(argument), Some(name)) = (self.argument(node, &path, found), name) {
                with.insert(name, argument);
            }
        }
        with
    }

    fn argument(&self, node: &Node, path: &str, found: &mut Findings) -> Option<Argument> {
        let value = literal(node, path, found)?;
        let ParamValue::Text(text) = &value else {
            return Some(Argument::Value(value));
        };
        if !text.contains("${") {
            return Some(Argument::Value(value));
        }
        let wanted = text
            .strip_prefix("${params.")
            .and_then(|rest| rest.strip_suffix('}'));
        let Some(wanted) = wanted.filter(|name| !name.contains(['$', '{', '}'])) else {
            let what = format!(
                "`{}` is neither a value nor exactly `${{params.NAME}}`: nothing is put together from parts here; let the \
                 catalogue entry take two parameters instead",
                shown(text)
            );
            found.add(node.referenced, path, what);
            return None;
        };
        match self.params.keys().find(|name| name.as_str() == wanted) {
            Some(name) => Some(Argument::Param(name.clone())),
            None => {
                let known = self.params.keys().map(ParamName::as_str);
                let hint = if self.params.is_empty() {
                    "; declare it under `params`".to_owned()
                } else {
                    found.hint(wanted, known)
                };
                found.add(
                    node.referenced,
                    path,
                    format!("the workflow has no parameter `{}`{hint}", shown(wanted)),
                );
                None
            }
        }
    }
}
