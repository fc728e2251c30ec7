//! A workflow's own parameters: types, bounds and defaults.

use std::collections::BTreeMap;

use outpost_orchestrator_core::spec::{ParamKind, ParamSpec};
use outpost_proto::limits::{PARAMETER_TEXT_BYTES, PARAMETERS};
use outpost_proto::message::ParamValue;
use outpost_proto::name::ParamName;
use outpost_proto::units;

use super::check::{Fields, Findings, join, mapping, number, parsed_name, shown, text};
use super::node::{Node, Value};

/// Bytes of a text parameter, unless it says otherwise.
const TEXT: u32 = 256;
/// Values of an enum.
const VALUES: usize = 100;

/// The parameters that a run can be given.
pub(super) fn declared(
    node: Option<&Node>,
    found: &mut Findings,
) -> BTreeMap<ParamName, ParamSpec> {
    let Some(node) = node else {
        return BTreeMap::new();
    };
    let entries = mapping(node, "params", found).unwrap_or_default();
    if entries.len() > PARAMETERS {
        let what = format!(
            "there are {} parameters; a workflow has at most {PARAMETERS}",
            entries.len()
        );
        found.add(node.referenced, "params", what);
    }
    let mut params = BTreeMap::new();
    for (key, node) in entries {
        let path = join("params", &shown(&key.value));
        let name = parsed_name(&key.value, key.referenced, &path, found);
        if let (Some(spec), Some(name)) = (param(node, &path, found), name) {
            params.insert(name, spec);
        }
    }
    params
}

fn param(node: &Node, path: &str, found: &mut Findings) -> Option<ParamSpec> {
    // Which keys belong there depends on the kind; all of them are known words.
    let fields = Fields::of(
        node,
        path,
        &["kind", "min", "max", "values", "max_length", "default"],
        found,
    )?;
    let given = fields.required("kind", found)?;
    let kind_path = join(path, "kind");
    let (kind, own): (_, &[&str]) = match text(given, &kind_path, found)? {
        "flag" => (Some(ParamKind::Flag), &[]),
        "int" => (int(&fields, path, found), &["min", "max"]),
        "enum" => (values(&fields, path, found), &["values"]),
        "date" => (Some(ParamKind::Date), &[]),
        "text" => (Some(bounded_text(&fields, path, found)), &["max_length"]),
        other => {
            let known = ["flag", "int", "enum", "date", "text"];
            let what = format!(
                "unknown kind `{}`{}",
                shown(other),
                found.hint(other, known.into_iter())
            );
            found.add(given.referenced, &kind_path, what);
            return None;
        }
    };
    for key in ["min", "max", "values", "max_length"]
        .into_iter()
        .filter(|key| !own.contains(key))
    {
        if let Some(node) = fields.raw(key) {
            found.add(
                node.referenced,
                &join(path, key),
                "does not belong to a parameter of this kind; leave it out",
            );
        }
    }
    let kind = kind?;
    let default_path = join(path, "default");
    let default = fields
        .get("default", found)
        .and_then(|node| default(node, &kind, &default_path, found));
    Some(ParamSpec { kind, default })
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
        found.add(
            node.referenced,
            &path,
            format!("expected a list of texts, found {}", node.value.kind()),
        );
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
            found.add(
                item.referenced,
                &path,
                format!("`{}` is there twice; keep one", shown(value)),
            );
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
    if let Some(expected) = misfit(kind, &value) {
        found.add(
            node.referenced,
            path,
            format!("the default is not {expected}"),
        );
        return None;
    }
    Some(value)
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
            found.add(
                node.referenced,
                path,
                "numbers are whole and have 64 bits; put it in quotes to give it as text",
            );
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

/// What would have been right, when this is not.
fn misfit(kind: &ParamKind, value: &ParamValue) -> Option<String> {
    let (fits, expected) = match kind {
        ParamKind::Flag => (
            matches!(value, ParamValue::Flag(_)),
            "true or false".to_owned(),
        ),
        ParamKind::Int { min, max } => {
            let fits =
                matches!(value, ParamValue::Integer(number) if (min..=max).contains(&number));
            (fits, format!("a whole number from {min} to {max}"))
        }
        ParamKind::Enum { values } => {
            let fits = matches!(value, ParamValue::Text(text) if values.contains(text));
            (fits, format!("one of {}", shown(&values.join(", "))))
        }
        ParamKind::Date => {
            let fits = matches!(value, ParamValue::Text(text) if units::is_date(text));
            (fits, "a date of the form YYYY-MM-DD".to_owned())
        }
        ParamKind::Text { max_length } => {
            let fits =
                matches!(value, ParamValue::Text(text) if text.len() <= *max_length as usize);
            (fits, format!("text of at most {max_length} bytes"))
        }
    };
    (!fits).then_some(expected)
}
