//! What a run is given: defaults filled in, each value within the bounds its workflow declares, all of them within what
//! one assignment carries.

use std::collections::BTreeMap;

use outpost_proto::limits::{PARAMETER_BYTES, PARAMETERS};
use outpost_proto::message::ParamValue;
use outpost_proto::name::ParamName;

use crate::command::value_bytes;
use crate::event::Denied;
use crate::limits::PARAM_TEXT;
use crate::place::resolve;
use crate::spec::{ParamKind, WorkflowSpec};

/// The run's parameters with defaults filled in, each within its bounds.
pub(crate) fn fill(
    spec: &WorkflowSpec,
    given: &BTreeMap<ParamName, ParamValue>,
) -> Result<BTreeMap<ParamName, ParamValue>, Denied> {
    let bad = |param: &ParamName, why: String| Denied::BadParam {
        param: param.to_string(),
        why,
    };
    if let Some(unknown) = given.keys().find(|name| !spec.params.contains_key(*name)) {
        let names: Vec<String> = spec.params.keys().map(|name| format!("`{name}`")).collect();
        let why = if names.is_empty() {
            format!("workflow `{}` takes no parameters", spec.name)
        } else {
            format!(
                "workflow `{}` has no such parameter; it takes {}",
                spec.name,
                names.join(", ")
            )
        };
        return Err(bad(unknown, why));
    }
    let mut filled = BTreeMap::new();
    for (name, param) in &spec.params {
        let Some(value) = given.get(name).or(param.default.as_ref()) else {
            return Err(bad(
                name,
                format!("is required: give {}", expected(&param.kind)),
            ));
        };
        if !fits(&param.kind, value) {
            return Err(bad(
                name,
                format!("{} is not {}", shown(value), expected(&param.kind)),
            ));
        }
        filled.insert(name.clone(), value.clone());
    }
    Ok(filled)
}

/// Every task's resolved parameters fit into one assignment.
pub(crate) fn check_bounds(
    spec: &WorkflowSpec,
    params: &BTreeMap<ParamName, ParamValue>,
) -> Result<(), Denied> {
    for task in &spec.tasks {
        let given = resolve(task, params);
        let bytes: usize = given
            .iter()
            .map(|(name, value)| name.as_str().len() + value_bytes(value))
            .sum();
        if given.len() > PARAMETERS || bytes > PARAMETER_BYTES {
            return Err(Denied::Limit(format!(
                "task `{}` would be given {} parameters of {bytes} bytes; an attempt takes at most {PARAMETERS} of \
                 {PARAMETER_BYTES} bytes together",
                task.name,
                given.len()
            )));
        }
    }
    Ok(())
}

fn fits(kind: &ParamKind, value: &ParamValue) -> bool {
    match (kind, value) {
        (ParamKind::Flag, ParamValue::Flag(_)) => true,
        (ParamKind::Int { min, max }, ParamValue::Integer(number)) => (min..=max).contains(&number),
        (ParamKind::Enum { values }, ParamValue::Text(text)) => values.contains(text),
        (ParamKind::Date, ParamValue::Text(text)) => is_date(text),
        (ParamKind::Text { max_length }, ParamValue::Text(text)) => {
            let most = usize::try_from(*max_length)
                .unwrap_or(PARAM_TEXT)
                .min(PARAM_TEXT);
            text.len() <= most && !text.contains('\0')
        }
        (ParamKind::Flag, ParamValue::Integer(_) | ParamValue::Text(_))
        | (ParamKind::Int { .. }, ParamValue::Flag(_) | ParamValue::Text(_))
        | (
            ParamKind::Enum { .. } | ParamKind::Date | ParamKind::Text { .. },
            ParamValue::Flag(_) | ParamValue::Integer(_),
        ) => false,
    }
}

fn expected(kind: &ParamKind) -> String {
    match kind {
        ParamKind::Flag => "true or false".to_owned(),
        ParamKind::Int { min, max } => format!("a whole number from {min} to {max}"),
        ParamKind::Enum { values } => format!("one of {}", values.join(", ")),
        ParamKind::Date => "a date of the form YYYY-MM-DD".to_owned(),
        ParamKind::Text { max_length } => format!("text of at most {max_length} bytes without NUL"),
    }
}

fn shown(value: &ParamValue) -> String {
    match value {
        ParamValue::Flag(flag) => flag.to_string(),
        ParamValue::Integer(number) => number.to_string(),
        ParamValue::Text(text) => {
            let clean = text
                .chars()
                .take(64)
                .map(|c| if c.is_control() { '\u{fffd}' } else { c });
            format!("`{}`", clean.collect::<String>())
        }
    }
}

/// A day of the Gregorian calendar as `YYYY-MM-DD`.
pub(crate) fn is_date(text: &str) -> bool {
    let form = text.len() == 10
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            0.. => byte.is_ascii_digit(),
        });
    if !form {
        return false;
    }
    let number = |from: usize, to: usize| {
        text.get(from..to)
            .and_then(|part| part.parse::<u32>().ok())
            .unwrap_or(0)
    };
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        0 | 13.. => 0,
    };
    (1..=days).contains(&day)
}
