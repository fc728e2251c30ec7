//! Forms that many answers share, with their exact bounds: names, ids, moments, words of states.
//!
//! The types behind them live in crates that know nothing of JSON Schema; a test beside each form holds it against the
//! real parser.

use std::borrow::Cow;

use outpost_orchestrator_core::label::{LABELS, QUEUES};
use outpost_proto::limits::{PARAMETER_TEXT_BYTES, PARAMETERS};
use schemars::generate::SchemaGenerator;
use schemars::{JsonSchema, Schema, json_schema};

/// Names people choose.
pub(super) const NAME: &str = r"^[a-z0-9](?:(?:\.?[a-z0-9_-])*\.?[a-z0-9])?$";
const LABEL_KEY: &str = r"^[a-z0-9][a-z0-9._/-]*$";
const LABEL_VALUE: &str = r"^[A-Za-z0-9._-]*$";
/// Characters of any name.
const LEN: usize = outpost_proto::limits::NAME_LEN;
/// The largest number that every JSON reader keeps exactly.
pub(super) const SAFE_INTEGER: u64 = (1 << 53) - 1;

macro_rules! form {
    ($name:ident, $schema:expr) => {
        /// See its schema.
        pub(super) struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

fn name(description: &str, example: &str) -> Schema {
    json_schema!({
        "description": description, "type": "string", "pattern": NAME, "minLength": 1, "maxLength": LEN,
        "examples": [example],
    })
}

fn words(description: &str, words: &[&str]) -> Schema {
    json_schema!({ "description": description, "type": "string", "enum": words })
}

form!(
    Id,
    json_schema!({
        "description": "A run's or an attempt's id.", "type": "string", "pattern": "^[0-9a-f]{32}$",
        "examples": ["4f0c9a5be3d14c0a9d3c6f3d1a2b7c88"],
    })
);
form!(WorkflowName, name("A workflow's name.", "nightly"));
form!(TaskName, name("A task's name.", "load"));
form!(
    AgentName,
    name("An agent's name within its tenant.", "site-1")
);
form!(
    EntryName,
    name(
        "The name of an entry in a site's catalogue.",
        "dump-database"
    )
);
form!(
    TokenId,
    json_schema!({
        "description": "A token's public part.", "type": "string", "pattern": "^[0-9a-f]{12}$",
        "examples": ["0123456789ab"],
    })
);
form!(
    Time,
    json_schema!({
        "description": "A moment in UTC, with microseconds.", "type": "string", "format": "date-time",
        "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$",
        "examples": ["2026-03-01T12:00:00.000000Z"],
    })
);
form!(
    Cursor,
    json_schema!({
        "description": "Where the next page begins. Opaque: send it back as it is.", "type": "string",
        "minLength": 1, "maxLength": 200,
    })
);
form!(
    RunCursor,
    json_schema!({
        "description": "An earlier page's `next`.", "type": "string",
        "pattern": "^[0-9a-f]{1,15}-[0-9a-f]{32}$",
    })
);
form!(
    NameCursor,
    json_schema!({
        "description": "An earlier page's `next`.", "type": "string", "pattern": NAME, "maxLength": LEN,
    })
);
form!(
    TokenCursor,
    json_schema!({
        "description": "An earlier page's `next`.", "type": "string",
        "pattern": "^[0-9a-f]{1,15}-[0-9a-f]{12}$",
    })
);
form!(
    RunState,
    words("Where a run stands.", &super::view::RUN_STATES)
);
form!(
    TaskState,
    words("Where a task stands.", &super::view::TASK_STATES)
);
form!(
    AttemptState,
    words("Where an attempt stands.", &super::view::ATTEMPT_STATES)
);
form!(
    Presence,
    words("Whether an agent is in touch.", &super::view::PRESENCES)
);
form!(
    Role,
    words(
        "What a token allows; each role includes those before it.",
        &crate::auth::Role::WORDS
    )
);
form!(
    Labels,
    json_schema!({
        "description": "What an agent is labelled.", "type": "object", "maxProperties": LABELS,
        "propertyNames": { "pattern": LABEL_KEY, "minLength": 1, "maxLength": LEN },
        "additionalProperties": { "type": "string", "pattern": LABEL_VALUE, "maxLength": LEN },
        "examples": [{ "zone": "eu", "disk": "fast" }],
    })
);
form!(
    Queues,
    json_schema!({
        "description": "The queues an agent serves.", "type": "array", "minItems": 1, "maxItems": QUEUES,
        "uniqueItems": true,
        "items": { "type": "string", "pattern": NAME, "minLength": 1, "maxLength": LEN },
        "examples": [["default", "big"]],
    })
);
form!(
    ParamValues,
    json_schema!({
        "description": "Values by parameter.", "type": "object", "maxProperties": PARAMETERS,
        "propertyNames": { "pattern": NAME, "maxLength": LEN },
        "additionalProperties": {
            "oneOf": [
                { "type": "boolean" },
                { "type": "integer", "minimum": i64::MIN, "maximum": i64::MAX },
                { "type": "string", "maxLength": PARAMETER_TEXT_BYTES },
            ],
        },
        "examples": [{ "top": 10, "dry": false }],
    })
);
form!(
    WorkflowFile,
    json_schema!({
        "description": "A workflow file in YAML; `outpost schema workflow` prints its own schema.", "type": "string",
        "minLength": 1, "maxLength": crate::workflow::BYTES,
    })
);
form!(
    IdempotencyKey,
    json_schema!({
        "type": "string", "minLength": 1, "maxLength": outpost_orchestrator_core::limits::KEY_LEN,
        "pattern": "^[!-~](?:[ -~]*[!-~])?$", "examples": ["nightly-2026-03-01"],
    })
);
form!(
    IfMatch,
    json_schema!({
        "type": "string", "minLength": 3, "maxLength": 28,
        "pattern": "^\"[1-9][0-9]{0,8}(?:-[0-9a-f]{16})?\"$", "examples": ["\"3\""],
    })
);
form!(Star, json_schema!({ "type": "string", "enum": ["*"] }));
form!(
    IfNoneMatch,
    json_schema!({
        "type": "string", "minLength": 1, "maxLength": 200,
        "pattern": "^(?:\\*|(?:W/)?\"[!#-+.-~-]*\"(?:, *(?:W/)?\"[!#-+.-~-]*\")*)$",
        "examples": ["\"3-0123456789abcdef\""],
    })
);
form!(
    EventId,
    json_schema!({ "type": "string", "minLength": 1, "maxLength": 15,
        "pattern": "^[0-9]{1,15}$", "examples": ["4711"] })
);
form!(
    VersionNumber,
    json_schema!({ "type": "integer", "minimum": 1, "maximum": u32::MAX, "examples": [3] })
);
form!(
    PageLimit,
    json_schema!({
        "description": "Items of a page.", "type": "integer", "minimum": 1,
        "maximum": crate::store::read::PAGE, "examples": [50],
    })
);

#[cfg(test)]
mod tests {
    use regex_lite::Regex;

    use super::*;

    #[test]
    fn forms_are_what_the_parsers_take() {
        let name = Regex::new(NAME).unwrap();
        let (key, value) = (
            Regex::new(LABEL_KEY).unwrap(),
            Regex::new(LABEL_VALUE).unwrap(),
        );
        let alphabet = ["a", "0", "-", "_", ".", "/", "A", " "];
        let mut texts = vec![String::new()];
        for length in 1..=4 {
            let shorter: Vec<String> = texts
                .iter()
                .filter(|text| text.len() == length - 1)
                .cloned()
                .collect();
            for text in shorter {
                texts.extend(alphabet.iter().map(|letter| format!("{text}{letter}")));
            }
        }
        for text in texts {
            let parsed = text.parse::<outpost_proto::name::WorkflowName>();
            assert_eq!(name.is_match(&text), parsed.is_ok(), "{text:?}");
            let parsed = text.parse::<outpost_orchestrator_core::label::QueueName>();
            assert_eq!(name.is_match(&text), parsed.is_ok(), "{text:?}");
            let parsed = text.parse::<outpost_orchestrator_core::label::LabelKey>();
            assert_eq!(key.is_match(&text), parsed.is_ok(), "{text:?}");
            let parsed = text.parse::<outpost_orchestrator_core::label::LabelValue>();
            assert_eq!(value.is_match(&text), parsed.is_ok(), "{text:?}");
        }
    }
}
