//! What a run is given: defaults filled in, each value within the bounds its workflow declares, all of them within what
//! one assignment carries.

use std::collections::BTreeMap;

use outpost_proto::limits::{PARAMETER_BYTES, PARAMETERS};
use outpost_proto::message::ParamValue;
use outpost_proto::name::ParamName;

use crate::command::value_bytes;
use crate::event::Denied;
use crate::place::resolve;
use crate::spec::WorkflowSpec;

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
                format!("is required: give {}", param.kind.expected()),
            ));
        };
        if !param.kind.accepts(value) {
            return Err(bad(
                name,
                format!("{} is not {}", shown(value), param.kind.expected()),
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
