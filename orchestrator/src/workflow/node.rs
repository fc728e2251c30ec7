//! YAML text as a tree of values that know where they stand, in the order of the file.
//!
//! The parser's budget is set to what a workflow can need; repeated keys are kept, so that they are told like any
//! other problem.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::budget::{Budget, BudgetBreach};
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use serde_saphyr::{Error, Location, Spanned};

use super::mistakes::likely;
use super::{BYTES, Problem};

/// Nested mappings and lists: a workflow has five levels.
const DEPTH: usize = 16;
/// Values and keys of one file: [`BYTES`] of the shortest ones would be more, a thousand tasks are far fewer.
const NODES: usize = 100_000;
/// Characters of a parser's message.
const MESSAGE: usize = 300;

/// A value and where it stands.
pub(super) type Node = Spanned<Value>;

/// One value of YAML's core schema.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Flag(bool),
    Integer(i64),
    /// A number that is not whole, or too large.
    OtherNumber,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Spanned<String>, Node)>),
}

impl Value {
    /// What it is, for people.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Flag(_) => "true or false",
            Self::Integer(_) => "a number",
            Self::OtherNumber => "a number that is not whole or too large",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }

    /// Whether it is a mapping with this key.
    pub(super) fn has(&self, wanted: &str) -> bool {
        match self {
            Self::Map(entries) => entries.iter().any(|(key, _)| key.value == wanted),
            Self::Null
            | Self::Flag(_)
            | Self::Integer(_)
            | Self::OtherNumber
            | Self::Text(_)
            | Self::List(_) => false,
        }
    }
}

/// Reads one document.
pub(super) fn read(text: &str) -> Result<Node, Problem> {
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| problem(text, &error))
}

fn options() -> serde_saphyr::Options {
    let mut budget = Budget::default();
    budget.max_reader_input_bytes = Some(BYTES);
    budget.max_events = 2 * NODES;
    budget.max_nodes = NODES;
    budget.max_depth = DEPTH;
    budget.flow_nesting_limit = DEPTH;
    budget.max_anchors = 0;
    budget.max_aliases = 0;
    budget.max_merge_keys = 0;
    budget.max_documents = 1;
    budget.max_total_scalar_bytes = BYTES;
    serde_saphyr::options! {
        budget: Some(budget),
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

fn problem(text: &str, error: &Error) -> Problem {
    let (line, column) = error
        .location()
        .map_or((0, 0), |at: Location| (at.line(), at.column()));
    let (message, help) = what(error);
    let problem = Problem {
        line,
        column,
        path: String::new(),
        message,
        help: help.map(str::to_owned),
    };
    likely(text, problem)
}

fn what(error: &Error) -> (String, Option<&'static str>) {
    let error = error.without_snippet();
    if let Error::Budget { breach, .. } = error {
        return exceeded(breach);
    }
    if let Error::MergeKeyNotAllowed { .. } = error {
        let message = "merge keys (`<<`) are not accepted".to_owned();
        return (
            message,
            Some("write the keys out; what all tasks share goes into `defaults`"),
        );
    }
    let message = error.to_string();
    let first = message.lines().next().unwrap_or_default();
    // The place is told apart from the sentence.
    let first = first
        .rsplit_once(" at line ")
        .map_or(first, |(before, _)| before);
    let told: String = first
        .chars()
        .take(MESSAGE)
        .filter(|c| !c.is_control())
        .collect();
    let message = format!("this is not YAML that a workflow can be written in: {told}");
    (message, None)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the parser's list of limits grows with its releases"
)]
fn exceeded(breach: &BudgetBreach) -> (String, Option<&'static str>) {
    let (message, help) = match breach {
        BudgetBreach::Anchors { .. } | BudgetBreach::Aliases { .. } => (
            "anchors (`&name`) and aliases (`*name`) are not accepted".to_owned(),
            "write the value out where it is used; what all tasks share goes into `defaults`",
        ),
        BudgetBreach::Documents { .. } => (
            "one file holds one workflow".to_owned(),
            "put what follows `---` into another file",
        ),
        BudgetBreach::Depth { .. } => (
            format!("this is nested deeper than {DEPTH} levels"),
            "a workflow has five",
        ),
        _ => (
            "the file has more values than a workflow can have".to_owned(),
            "split it into several workflows",
        ),
    };
    (message, Some(help))
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Flag(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(i64::try_from(number).map_or(Value::OtherNumber, Value::Integer))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::OtherNumber)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}
