//! Parameters from the command line, typed by what the workflow itself declares. The server judges them; what is
//! caught here is what could not even be sent.

use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::suggest;

/// `["top=25"]` → `{"top": 25}`, by `{"top": {"kind": "int", …}}`.
pub(crate) fn typed(given: &[String], declared: &Map<String, Value>) -> Result<Value, Failure> {
    let mut params = Map::new();
    for text in given {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| Failure::Usage(format!("--param {text}: write it as NAME=VALUE")))?;
        let Some(spec) = declared.get(name) else {
            return Err(Failure::Usage(format!(
                "--param {name}: the workflow has no such parameter; {}",
                known(name, declared)
            )));
        };
        if params
            .insert(name.to_owned(), one(name, value, spec)?)
            .is_some()
        {
            return Err(Failure::Usage(format!(
                "--param {name} is given twice; give it once"
            )));
        }
    }
    Ok(Value::Object(params))
}

fn one(name: &str, value: &str, spec: &Value) -> Result<Value, Failure> {
    let wrong = |what: &str| Failure::Usage(format!("--param {name}={value}: {what}"));
    match spec.get("kind").and_then(Value::as_str) {
        Some("flag") => match value {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err(wrong("it is a flag; write true or false")),
        },
        Some("int") => value
            .parse::<i64>()
            .map(Value::from)
            .map_err(|_| wrong("it is a whole number, such as 25")),
        Some(_) | None => Ok(Value::String(value.to_owned())),
    }
}

fn known(given: &str, declared: &Map<String, Value>) -> String {
    let names = declared.keys().map(String::as_str);
    match suggest::nearest(given, names.clone()) {
        Some(near) => format!(
            "did you mean `{near}`? It has: {}",
            names.collect::<Vec<_>>().join(", ")
        ),
        None if declared.is_empty() => "it takes none".to_owned(),
        None => format!("it has: {}", names.collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn try_typed(given: &[&str]) -> Result<String, String> {
        let declared = serde_json::json!({"top": {"kind": "int", "max": 9}, "deep": {"kind": "flag"}, "day": {"kind": "date"}});
        let Value::Object(declared) = declared else {
            unreachable!()
        };
        let given = given
            .iter()
            .map(|&text| text.to_owned())
            .collect::<Vec<_>>();
        typed(&given, &declared)
            .map(|value| value.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_workflow_says_of_which_kind_a_value_is() {
        assert_eq!(
            try_typed(&["top=25", "deep=true", "day=2026-01-02"]).unwrap(),
            r#"{"day":"2026-01-02","deep":true,"top":25}"#
        );
        assert_eq!(try_typed(&[]).unwrap(), "{}");
    }

    #[test]
    fn what_cannot_be_sent_is_said_with_what_could() {
        for (given, part) in [
            (vec!["top"], "NAME=VALUE"),
            (vec!["top=x"], "a whole number"),
            (vec!["deep=1"], "true or false"),
            (
                vec!["depp=true"],
                "did you mean `deep`? It has: day, deep, top",
            ),
            (vec!["width=1"], "it has: day, deep, top"),
            (vec!["top=1", "top=2"], "twice"),
        ] {
            let error = try_typed(&given).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
