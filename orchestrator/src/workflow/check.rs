//! The file as a whole, and the small steps that every part of it is read by. Goes on after a problem, so that one
//! answer names them all.

use std::str::FromStr;

use outpost_orchestrator_core::spec::WorkflowSpec;
use outpost_proto::name::{NotAName, WorkflowName};
use outpost_proto::units;
use serde_saphyr::Location;

use super::node::{Node, Value};
use super::suggest::hint;
use super::{PROBLEMS, Problem, params, tasks};

/// Words that a wrong one is compared with.
const CANDIDATES: usize = 100;
/// Characters of a description.
const DESCRIPTION: usize = 1000;

/// What was found wrong so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: Vec<Problem>,
}

impl Findings {
    pub(super) fn add(&mut self, at: Location, path: &str, what: impl Into<String>) {
        if self.is_full() {
            return;
        }
        let (line, column) = (at.line(), at.column());
        self.problems.push(Problem {
            line,
            column,
            path: path.to_owned(),
            what: what.into(),
        });
    }

    /// Half a sentence that names the nearest of the words that would have been right.
    pub(super) fn hint<'a>(
        &self,
        given: &str,
        known: impl Iterator<Item = &'a str> + Clone,
    ) -> String {
        // Comparing words is dear, and nobody reads the hint of a problem that is not told.
        if self.is_full() {
            String::new()
        } else {
            hint(given, known.take(CANDIDATES))
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

/// A workflow, as far as it could be read; nothing when a part without which it is none is missing.
pub(super) fn workflow(root: &Node, found: &mut Findings) -> Option<WorkflowSpec> {
    let known = ["name", "description", "params", "defaults", "tasks"];
    let file = Fields::of(root, "", &known, found)?;
    let name = file
        .required("name", found)
        .and_then(|node| name::<WorkflowName>(node, "name", found));
    let description = file
        .get("description", found)
        .and_then(|node| text(node, "description", found));
    if let Some((node, length)) = file
        .raw("description")
        .zip(description.map(|text| text.chars().count()))
        && length > DESCRIPTION
    {
        found.add(
            node.referenced,
            "description",
            format!("it has {length} characters; at most {DESCRIPTION} are kept"),
        );
    }
    let params = params::declared(file.get("params", found), found);
    let defaults = tasks::defaults(file.get("defaults", found), found);
    let tasks = file
        .required("tasks", found)
        .map(|node| tasks::all(node, &params, &defaults, found));
    Some(WorkflowSpec {
        description: description.unwrap_or_default().to_owned(),
        params,
        ..WorkflowSpec::new(name?, tasks?)
    })
}

/// A mapping whose keys are known words.
pub(super) struct Fields<'a> {
    entries: &'a [(serde_saphyr::Spanned<String>, Node)],
    at: Location,
    path: String,
}

impl<'a> Fields<'a> {
    /// Reads a mapping; unknown and repeated keys are told.
    pub(super) fn of(
        node: &'a Node,
        path: &str,
        known: &[&str],
        found: &mut Findings,
    ) -> Option<Self> {
        let entries = mapping(node, path, found)?;
        for (key, _) in entries
            .iter()
            .filter(|(key, _)| !known.contains(&key.value.as_str()))
        {
            let what = format!(
                "unknown key `{}`{}",
                shown(&key.value),
                found.hint(&key.value, known.iter().copied())
            );
            found.add(key.referenced, &join(path, &shown(&key.value)), what);
        }
        Some(Self {
            entries,
            at: node.referenced,
            path: path.to_owned(),
        })
    }

    /// The value of a key; a key without value is told and counts as left out.
    pub(super) fn get(&self, key: &str, found: &mut Findings) -> Option<&'a Node> {
        let node = self.raw(key)?;
        if node.value == Value::Null {
            found.add(
                node.referenced,
                &join(&self.path, key),
                "has no value; write one or leave the key out",
            );
            return None;
        }
        Some(node)
    }

    /// Like [`Fields::get`]; a key that is not there is told.
    pub(super) fn required(&self, key: &str, found: &mut Findings) -> Option<&'a Node> {
        if self.raw(key).is_none() {
            found.add(self.at, &self.path, format!("`{key}` is missing"));
        }
        self.get(key, found)
    }

    /// The value of a key, whatever it is.
    pub(super) fn raw(&self, key: &str) -> Option<&'a Node> {
        self.entries
            .iter()
            .find(|(name, _)| name.value == key)
            .map(|(_, node)| node)
    }
}

/// A mapping's entries, in the order of the file. Repeated keys are told.
pub(super) fn mapping<'a>(
    node: &'a Node,
    path: &str,
    found: &mut Findings,
) -> Option<&'a [(serde_saphyr::Spanned<String>, Node)]> {
    let Value::Map(entries) = &node.value else {
        found.add(
            node.referenced,
            path,
            format!(
                "expected a mapping (`key: value` lines), found {}",
                node.value.kind()
            ),
        );
        return None;
    };
    let mut seen = std::collections::BTreeMap::new();
    for (key, _) in entries {
        if let Some(first) = seen.insert(key.value.as_str(), key.referenced.line()) {
            let what = format!(
                "the key `{}` is there twice, first on line {first}; keep one",
                shown(&key.value)
            );
            found.add(key.referenced, &join(path, &shown(&key.value)), what);
        }
    }
    Some(entries)
}

/// Text, as it was written.
pub(super) fn text<'a>(node: &'a Node, path: &str, found: &mut Findings) -> Option<&'a str> {
    match &node.value {
        Value::Text(text) => Some(text),
        value @ (Value::Flag(_) | Value::Integer(_) | Value::OtherNumber) => {
            let what = format!(
                "expected text, found {}; put it in quotes if it is meant as text",
                value.kind()
            );
            found.add(node.referenced, path, what);
            None
        }
        value @ (Value::Null | Value::List(_) | Value::Map(_)) => {
            found.add(
                node.referenced,
                path,
                format!("expected text, found {}", value.kind()),
            );
            None
        }
    }
}

/// A name of some kind.
pub(super) fn name<T: FromStr<Err = NotAName>>(
    node: &Node,
    path: &str,
    found: &mut Findings,
) -> Option<T> {
    parsed_name(text(node, path, found)?, node.referenced, path, found)
}

/// A name that stands where `at` says.
pub(super) fn parsed_name<T: FromStr<Err = NotAName>>(
    text: &str,
    at: Location,
    path: &str,
    found: &mut Findings,
) -> Option<T> {
    text.parse()
        .map_err(|error: NotAName| found.add(at, path, error.to_string()))
        .ok()
}

/// A whole number between two bounds.
pub(super) fn number(
    node: &Node,
    path: &str,
    (low, high): (i64, i64),
    found: &mut Findings,
) -> Option<i64> {
    match &node.value {
        Value::Integer(number) if (low..=high).contains(number) => return Some(*number),
        Value::Integer(number) => {
            found.add(
                node.referenced,
                path,
                format!("{number} is not between {low} and {high}"),
            );
        }
        value @ (Value::Null
        | Value::Flag(_)
        | Value::OtherNumber
        | Value::Text(_)
        | Value::List(_)
        | Value::Map(_)) => {
            found.add(
                node.referenced,
                path,
                format!("expected a whole number, found {}", value.kind()),
            );
        }
    }
    None
}

/// A duration in milliseconds, more than nothing and at most `most`, which is also given as people write it.
pub(super) fn duration(
    node: &Node,
    path: &str,
    most: (u64, &str),
    found: &mut Findings,
) -> Option<u64> {
    if matches!(node.value, Value::Integer(_) | Value::OtherNumber) {
        found.add(
            node.referenced,
            path,
            "a duration needs a unit: write ms, s, m, h or d behind it, such as `90s`",
        );
        return None;
    }
    let given = text(node, path, found)?;
    match units::duration_ms(given) {
        Ok(millis) if (1..=most.0).contains(&millis) => Some(millis),
        Ok(_) => {
            found.add(
                node.referenced,
                path,
                format!("`{}` is not between 1ms and {}", shown(given), most.1),
            );
            None
        }
        Err(error) => {
            found.add(node.referenced, path, shown(&error.to_string()));
            None
        }
    }
}

/// A key below a path.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// What was given, fit for a message: without control characters, cut to 120 characters.
pub(super) fn shown(text: &str) -> String {
    text.chars()
        .take(120)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
