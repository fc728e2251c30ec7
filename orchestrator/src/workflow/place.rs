//! Where tasks go and how many at once: keys that the file and its tasks share.

use outpost_orchestrator_core::label::{LABELS, LabelKey, LabelValue, Labels, QueueName, Selector};
use outpost_orchestrator_core::spec::PRIORITIES;

use super::fields::{Fields, named};
use super::found::{Findings, join, shown};
use super::keys::{self, AT_ONCE, Takes};
use super::node::{Node, Value};
use super::scalar::{self, name, number, parsed_name};

/// The queue.
pub(super) fn queue(fields: &Fields<'_>, found: &mut Findings) -> Option<QueueName> {
    let node = fields.get("queue", found)?;
    name(node, &fields.path_of("queue"), found)
}

/// The labels that an agent must have.
pub(super) fn selector(fields: &Fields<'_>, found: &mut Findings) -> Selector {
    let Some(node) = fields.get("selector", found) else {
        return Selector::default();
    };
    let path = fields.path_of("selector");
    let mut labels = Labels::new();
    for (key, node) in named(node, &path, (LABELS, "labels"), found) {
        let path = join(&path, &shown(&key.value));
        let key = parsed_name::<LabelKey>(&key.value, key.referenced, &path, found);
        if let (Some(value), Some(key)) = (label_value(node, &path, found), key) {
            labels.insert(key, value);
        }
    }
    Selector(labels)
}

fn label_value(node: &Node, path: &str, found: &mut Findings) -> Option<LabelValue> {
    if let Value::List(_) = &node.value {
        found
            .add(node.referenced, path, "expected text, found a list")
            .help("an agent's label has one value; there is no `one of`");
        return None;
    }
    name(node, path, found)
}

/// The priority.
pub(super) fn priority(fields: &Fields<'_>, found: &mut Findings) -> Option<i8> {
    let node = fields.get("priority", found)?;
    let bounds = (i64::from(PRIORITIES.0), i64::from(PRIORITIES.1));
    let priority = number(node, &fields.path_of("priority"), bounds, found)?;
    i8::try_from(priority).ok()
}

/// How many of something at once.
pub(super) fn at_once(fields: &Fields<'_>, key: &str, found: &mut Findings) -> Option<u32> {
    let node = fields.get(key, found)?;
    if node.value == Value::Integer(0) {
        found
            .add(
                node.referenced,
                &fields.path_of(key),
                "0 would let nothing run",
            )
            .help("leave the key out for no limit; pause the workflow to stop it");
        return None;
    }
    let most = number(node, &fields.path_of(key), AT_ONCE, found)?;
    u32::try_from(most).ok()
}

/// The word behind a key of the file that takes one of several.
pub(super) fn word(fields: &Fields<'_>, key: &str, found: &mut Findings) -> Option<&'static str> {
    let node = fields.get(key, found)?;
    let known = keys::FILE
        .keys
        .iter()
        .chain(keys::SCHEDULE.keys)
        .find(|known| known.name == key)?;
    match &known.takes {
        Takes::Word(words) => scalar::word(node, &fields.path_of(key), words, found),
        Takes::Name
        | Takes::Queue
        | Takes::Text(_)
        | Takes::Number(..)
        | Takes::Duration(_)
        | Takes::Cron
        | Takes::Zone
        | Takes::Instant
        | Takes::Values
        | Takes::Literal
        | Takes::Selector
        | Takes::Needs
        | Takes::Literals
        | Takes::Arguments
        | Takes::Each
        | Takes::Params
        | Takes::Section(_)
        | Takes::Tasks => None,
    }
}
