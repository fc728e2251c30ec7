//! The JSON Schema of a workflow file, for editors: made of the same table that the parser takes its words from.

use outpost_orchestrator_core::spec::TASKS;
use outpost_proto::limits::PARAMETER_TEXT_BYTES;
use serde_json::{Map, Value, json};

use super::keys::{
    DEFAULTS, FILE, Key, OF_KIND, PARAM, SCHEDULE, Section, TASK, TASK_NAME, Takes, most,
};

const NAME: &str = "^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$";
const LABEL_KEY: &str = "^[a-z0-9][a-z0-9._/-]{0,62}$";
const LABEL_VALUE: &str = "^[A-Za-z0-9._-]{0,63}$";
const DURATION: &str = "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$";
const INSTANT: &str = "^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2})?)?$";
const CRON: &str = r"^(@[a-z]+|\S+\s+\S+\s+\S+\s+\S+\s+\S+)$";
const ZONE: &str = "^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$";

/// JSON Schema (2020-12) of a workflow file. It accepts what [`super::parse`] accepts; what only looking at the whole
/// file shows (unknown names, cycles, values that do not fit) is the parser's alone.
#[must_use]
pub fn schema() -> Value {
    let mut schema = section(&FILE);
    let map = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Outpost workflow",
        "$defs": {
            "param": param(),
            "schedule": schedule(),
            "defaults": section(&DEFAULTS),
            "task": section(&TASK),
            "listed_task": listed_task(),
        },
    });
    if let (Value::Object(schema), Value::Object(map)) = (&mut schema, map) {
        schema.extend(map);
    }
    schema
}

fn section(section: &Section) -> Value {
    let keys: Vec<&Key> = section.keys.iter().collect();
    object(section.about, &keys)
}

fn object(about: &str, keys: &[&Key]) -> Value {
    let properties: Map<String, Value> = keys
        .iter()
        .map(|key| (key.name.to_owned(), property(key)))
        .collect();
    let required: Vec<&str> = keys
        .iter()
        .filter(|key| key.required)
        .map(|key| key.name)
        .collect();
    let mut object = json!({
        "type": "object",
        "description": about,
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

fn property(key: &Key) -> Value {
    let mut property = takes(&key.takes);
    property["description"] = match &key.takes {
        Takes::Duration(most) => json!(format!("{} At most {most}.", key.about)),
        Takes::Section(_)
        | Takes::Name
        | Takes::Queue
        | Takes::Text(_)
        | Takes::Word(_)
        | Takes::Number(..)
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
        | Takes::Tasks => json!(key.about),
    };
    let examples: Vec<Value> = key
        .examples
        .iter()
        .filter_map(|text| example(text))
        .collect();
    property["examples"] = json!(examples);
    property
}

/// A value in YAML's flow form as JSON; nothing if it is none, which a test excludes.
fn example(text: &str) -> Option<Value> {
    serde_saphyr::from_str(text).ok()
}

fn listed_task() -> Value {
    let keys: Vec<&Key> = std::iter::once(&TASK_NAME).chain(TASK.keys).collect();
    object(TASK.about, &keys)
}

/// A parameter's keys depend on its kind, and so does its default.
fn param() -> Value {
    let mut schema = section(&PARAM);
    let all: Vec<&str> = OF_KIND
        .iter()
        .flat_map(|(_, keys)| *keys)
        .copied()
        .collect();
    let rules: Vec<Value> = OF_KIND
        .iter()
        .map(|(kind, own)| {
            let mut then = Map::new();
            for key in all.iter().filter(|key| !own.contains(key)) {
                then.insert((*key).to_owned(), json!(false));
            }
            then.insert("default".to_owned(), default_of(kind));
            let mut then = json!({ "properties": then });
            if own.contains(&"values") {
                then["required"] = json!(["values"]);
            }
            json!({ "if": { "properties": { "kind": { "const": kind } } }, "then": then })
        })
        .collect();
    schema["allOf"] = json!(rules);
    schema
}

fn default_of(kind: &str) -> Value {
    match kind {
        "flag" => json!({ "type": "boolean" }),
        "int" => json!({ "type": "integer" }),
        "date" => json!({ "type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$" }),
        _ => json!({ "type": "string" }),
    }
}

fn schedule() -> Value {
    let mut schema = section(&SCHEDULE);
    schema["oneOf"] = json!([{ "required": ["cron"] }, { "required": ["every"] }]);
    schema
}

fn takes(takes: &Takes) -> Value {
    match takes {
        Takes::Name | Takes::Queue => json!({ "type": "string", "pattern": NAME }),
        Takes::Text(most) => json!({ "type": "string", "maxLength": most }),
        Takes::Word(words) => {
            let words = words
                .iter()
                .map(|(word, about)| json!({ "const": word, "description": about }));
            json!({ "type": "string", "oneOf": words.collect::<Vec<_>>() })
        }
        Takes::Number(low, high) => number(*low, *high),
        Takes::Duration(_) => json!({ "type": "string", "minLength": 1, "pattern": DURATION }),
        Takes::Cron => json!({ "type": "string", "pattern": CRON }),
        Takes::Zone => json!({ "type": "string", "pattern": ZONE }),
        Takes::Instant => json!({ "type": "string", "pattern": INSTANT }),
        Takes::Values => json!({
            "type": "array", "minItems": 1, "maxItems": most(takes), "uniqueItems": true,
            "items": { "type": "string", "maxLength": PARAMETER_TEXT_BYTES },
        }),
        Takes::Literal => literal(),
        Takes::Selector => named(
            LABEL_KEY,
            &json!({ "type": "string", "pattern": LABEL_VALUE }),
            takes,
        ),
        Takes::Needs => json!({
            "type": "array", "maxItems": most(takes), "uniqueItems": true,
            "items": { "type": "string", "pattern": NAME },
        }),
        Takes::Literals | Takes::Arguments => named(NAME, &literal(), takes),
        Takes::Each => json!({
            "type": "object", "minProperties": 1, "maxProperties": 1, "propertyNames": { "pattern": NAME },
            "additionalProperties": {
                "type": "array", "minItems": 1, "maxItems": most(takes), "uniqueItems": true, "items": literal(),
            },
        }),
        Takes::Params => named(NAME, &json!({ "$ref": "#/$defs/param" }), takes),
        Takes::Section(section) => json!({ "$ref": format!("#/$defs/{}", section.name) }),
        Takes::Tasks => {
            let mut map = named(NAME, &json!({ "$ref": "#/$defs/task" }), takes);
            map["minProperties"] = json!(1);
            let list = json!({
                "type": "array", "minItems": 1, "maxItems": TASKS, "items": { "$ref": "#/$defs/listed_task" },
            });
            json!({ "anyOf": [map, list] })
        }
    }
}

fn number(low: i64, high: i64) -> Value {
    let mut number = json!({ "type": "integer" });
    for (key, bound, open) in [("minimum", low, i64::MIN), ("maximum", high, i64::MAX)] {
        if bound != open {
            number[key] = json!(bound);
        }
    }
    number
}

fn literal() -> Value {
    json!({ "type": ["boolean", "integer", "string"], "maxLength": PARAMETER_TEXT_BYTES })
}

fn named(pattern: &str, value: &Value, takes: &Takes) -> Value {
    json!({
        "type": "object",
        "propertyNames": { "pattern": pattern },
        "additionalProperties": value,
        "maxProperties": most(takes),
    })
}
