//! A workflow's own parameters: types, bounds and defaults.

use std::collections::BTreeMap;

use outpost_orchestrator_core::spec::{ParamKind, ParamSpec};
use outpost_proto::limits::{PARAMETER_TEXT_BYTES, PARAMETERS};
use outpost_proto::message::ParamValue;
use outpost_proto::name::ParamName;

use super::fields::{Fields, named};
use super::found::{Findings, join, shown};
use super::keys::{self, OF_KIND, VALUES};
use super::node::{Node, Value};
use super::scalar::{number, parsed_name, text};

/// Bytes of a text parameter, unless it says otherwise.
const TEXT: u32 = 256;

/// What the section `params` says.
#[derive(Debug, Default)]
pub(super) struct Declared {
    /// The parameters that a run can be given.
    pub(super) specs: BTreeMap<ParamName, ParamSpec>,
    /// Names of those that could not be understood, which was told.
    unclear: Vec<String>,
    /// Those with a default that was told to be none.
    defaultless: Vec<ParamName>,
}

impl Declared {
    /// Whether a parameter of this name is there, though nobody knows what it accepts.
    pub(super) fn is_unclear(&self, name: &str) -> bool {
        self.unclear.iter().any(|unclear| unclear == name)
    }

    /// Those that a run must be given.
    pub(super) fn required(&self) -> impl Iterator<Item = &ParamName> {
        let without = self.specs.iter().filter(|(_, spec)| spec.default.is_none());
        let names = without.map(|(name, _)| name);
        names.filter(|name| !self.defaultless.contains(name))
    }

    /// The names of all that were understood.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.specs.keys().map(ParamName::as_str)
    }
}

/// The parameters that a run can be given.
pub(super) fn declared(node: Option<&Node>, found: &mut Findings) -> Declared {
    let mut declared = Declared::default();
    let Some(node) = node else {
        return declared;
    };
    for (key, node) in named(node, "params", (PARAMETERS, "parameters"), found) {
        let path = join("params", &shown(&key.value));
        let name: Option<ParamName> = parsed_name(&key.value, key.referenced, &path, found);
        match (param(node, &key.value, &path, found), name) {
            (Some(spec), Some(name)) => {
                if spec.default.is_none() && node.value.has("default") {
                    declared.defaultless.push(name.clone());
                }
                declared.specs.insert(name, spec);
            }
            (None, _) | (_, None) => declared.unclear.push(key.value.clone()),
        }
    }
    declared
}

fn param(node: &Node, name: &str, path: &str, found: &mut Findings) -> Option<ParamSpec> {
    if let Some(written) = in_full(&node.value) {
        let message = format!(
            "expected a mapping (`key: value` lines), found {}",
            node.value.kind()
        );
        found
            .add(node.referenced, path, message)
            .help(format!("write `{}: {written}`", shown(name)));
        return None;
    }
    // Which keys belong there depends on the kind; all of them are known words.
    let fields = Fields::of(node, path, &keys::PARAM, found)?;
    let given = fields.required("kind", found)?;
    let word = kind_word(given, &join(path, "kind"), found)?;
    let own = OF_KIND.iter().find(|(kind, _)| *kind == word)?.1;
    for (_, keys) in OF_KIND {
        for key in keys.iter().filter(|key| !own.contains(key)) {
            if let Some(node) = fields.raw(key) {
                let message = format!("`{key}` does not belong to a parameter of kind `{word}`");
                found
                    .add(node.referenced, &join(path, key), message)
                    .help("leave it out");
            }
        }
    }
    let kind = match word {
        "flag" => Some(ParamKind::Flag),
        "int" => int(&fields, path, found),
        "enum" => values(&fields, path, found),
        "date" => Some(ParamKind::Date),
        _ => Some(bounded_text(&fields, path, found)),
    }?;
    let default_path = join(path, "default");
    let default = fields
        .get("default", found)
        .and_then(|node| default(node, &kind, &default_path, found));
    Some(ParamSpec { kind, default })
}

/// How a parameter is written of which only the default, or only the kind, was given.
fn in_full(value: &Value) -> Option<String> {
    let written = match value {
        Value::Flag(flag) => format!("{{kind: flag, default: {flag}}}"),
        Value::Integer(number) => format!("{{kind: int, default: {number}}}"),
        Value::Null => "{kind: text}".to_owned(),
        Value::Text(text) => match kind_meant(text) {
            Some(kind) => format!("{{kind: {kind}}}"),
            None => format!("{{kind: text, default: \"{}\"}}", shown(text)),
        },
        Value::OtherNumber | Value::List(_) | Value::Map(_) => return None,
    };
    Some(written)
}

/// The kind of this name, or which other systems call so.
fn kind_meant(word: &str) -> Option<&'static str> {
    let mut kinds = OF_KIND.iter().map(|(kind, _)| *kind);
    kinds.find(|kind| *kind == word).or(match word {
        "integer" | "number" | "long" => Some("int"),
        "bool" | "boolean" => Some("flag"),
        "string" | "str" => Some("text"),
        "choice" | "select" | "options" => Some("enum"),
        _ => None,
    })
}

/// The kind; words of other systems are told what they are called here.
fn kind_word(node: &Node, path: &str, found: &mut Findings) -> Option<&'static str> {
    let given = text(node, path, found)?;
    let known = OF_KIND.iter().map(|(kind, _)| *kind);
    if let Some(kind) = known.clone().find(|kind| *kind == given) {
        return Some(kind);
    }
    let message = format!("unknown kind `{}`", shown(given));
    match kind_meant(given) {
        Some(meant) => found
            .add(node.referenced, path, message)
            .help(format!("did you mean `{meant}`?")),
        None => found.add_word(node.referenced, path, message, given, known),
    }
    None
}

fn int(fields: &Fields<'_>, path: &str, found: &mut Findings) -> Option<ParamKind> {
    let all = (i64::MIN, i64::MAX);
    let mut bound = |key: &str, open: i64| {
        let node = fields.get(key, found);
        node.map_or(Some(open), |node| {
            number(node, &join(path, key), all, found)
        })
    };
    let (min, max) = (bound("min", i64::MIN), bound("max", i64::MAX));
    let (min, max) = (min?, max?);
    if let Some(node) = fields.raw("min").filter(|_| min > max) {
        found.add(
            node.referenced,
            &join(path, "min"),
            format!("min {min} is more than max {max}"),
        );
        return None;
    }
    Some(ParamKind::Int { min, max })
}

fn values(fields: &Fields<'_>, path: &str, found: &mut Findings) -> Option<ParamKind> {
    let node = fields.required("values", found)?;
    let path = join(path, "values");
    let Value::List(items) = &node.value else {
        found
            .add(
                node.referenced,
                &path,
                format!("expected a list of texts, found {}", node.value.kind()),
            )
            .help("write `values: [low, high]`");
        return None;
    };
    if items.is_empty() || items.len() > VALUES {
        found.add(
            node.referenced,
            &path,
            format!("expected 1 to {VALUES} values, found {}", items.len()),
        );
        return None;
    }
    let mut values: Vec<String> = Vec::with_capacity(items.len());
    for (place, item) in items.iter().enumerate() {
        let path = format!("{path}[{place}]");
        let value = text(item, &path, found)?;
        if value.len() > PARAMETER_TEXT_BYTES || value.contains('\0') {
            found.add(
                item.referenced,
                &path,
                format!("a value has at most {PARAMETER_TEXT_BYTES} bytes and no NUL"),
            );
        }
        if values.iter().any(|known| known == value) {
            found
                .add(
                    item.referenced,
                    &path,
                    format!("`{}` is there twice", shown(value)),
                )
                .help("keep one");
        }
        values.push(value.to_owned());
    }
    Some(ParamKind::Enum { values })
}

fn bounded_text(fields: &Fields<'_>, path: &str, found: &mut Findings) -> ParamKind {
    let most = i64::try_from(PARAMETER_TEXT_BYTES).unwrap_or(i64::MAX);
    let given = fields.get("max_length", found);
    let length = given.and_then(|node| number(node, &join(path, "max_length"), (1, most), found));
    ParamKind::Text {
        max_length: length
            .and_then(|length| u32::try_from(length).ok())
            .unwrap_or(TEXT),
    }
}

fn default(node: &Node, kind: &ParamKind, path: &str, found: &mut Findings) -> Option<ParamValue> {
    let value = literal(node, path, found)?;
    fitting(node, kind, &value, path, found).then_some(value)
}

/// Whether a value fits; told when it does not.
pub(super) fn fitting(
    node: &Node,
    kind: &ParamKind,
    value: &ParamValue,
    path: &str,
    found: &mut Findings,
) -> bool {
    if kind.accepts(value) {
        return true;
    }
    let given = match value {
        ParamValue::Flag(flag) => format!("{flag}"),
        ParamValue::Integer(number) => format!("{number}"),
        ParamValue::Text(text) => format!("`{}`", shown(text)),
    };
    let message = format!("{given} is not {}", shown(&kind.expected()));
    let told = found.add(node.referenced, path, message);
    match (kind, value) {
        (
            ParamKind::Text { .. } | ParamKind::Enum { .. },
            ParamValue::Integer(_) | ParamValue::Flag(_),
        ) => {
            told.help(format!("put it in quotes: `\"{given}\"`"));
        }
        (ParamKind::Int { .. } | ParamKind::Flag, ParamValue::Text(text))
            if text.parse::<i64>().is_ok() || matches!(text.as_str(), "true" | "false") =>
        {
            told.help("leave out the quotes");
        }
        (ParamKind::Flag, ParamValue::Text(text))
            if matches!(text.as_str(), "yes" | "no" | "on" | "off") =>
        {
            told.help("write `true` or `false`");
        }
        (
            ParamKind::Flag
            | ParamKind::Int { .. }
            | ParamKind::Enum { .. }
            | ParamKind::Date
            | ParamKind::Text { .. },
            ParamValue::Flag(_) | ParamValue::Integer(_) | ParamValue::Text(_),
        ) => {}
    }
    false
}

/// A single value.
pub(super) fn literal(node: &Node, path: &str, found: &mut Findings) -> Option<ParamValue> {
    match &node.value {
        Value::Flag(flag) => return Some(ParamValue::Flag(*flag)),
        Value::Integer(number) => return Some(ParamValue::Integer(*number)),
        Value::Text(text) if text.len() <= PARAMETER_TEXT_BYTES && !text.contains('\0') => {
            return Some(ParamValue::Text(text.clone()));
        }
        Value::Text(_) => {
            found.add(
                node.referenced,
                path,
                format!("a text has at most {PARAMETER_TEXT_BYTES} bytes and no NUL"),
            );
        }
        Value::OtherNumber => {
            found
                .add(node.referenced, path, "numbers are whole and have 64 bits")
                .help("put it in quotes to give it as text");
        }
        value @ (Value::Null | Value::List(_) | Value::Map(_)) => {
            let what = format!(
                "expected true, false, a whole number or text, found {}",
                value.kind()
            );
            found.add(node.referenced, path, what);
        }
    }
    None
}
