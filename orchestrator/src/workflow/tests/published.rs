//! The published schema against the parser: what the one takes, the other takes.

use jsonschema::Validator;
use serde_json::Value;

use super::*;
use crate::workflow::keys::{self, Key, Section};

fn validator() -> Validator {
    let schema = schema();
    assert!(jsonschema::meta::is_valid(&schema));
    jsonschema::draft202012::new(&schema).unwrap()
}

fn json(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn accepts(validator: &Validator, text: &str) {
    let told: Vec<String> = validator
        .iter_errors(&json(text))
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(told.is_empty(), "{told:#?}\n{text}");
}

fn sections() -> [&'static Section; 5] {
    [
        &keys::FILE,
        &keys::PARAM,
        &keys::DEFAULTS,
        &keys::TASK,
        &keys::SCHEDULE,
    ]
}

#[test]
fn what_is_accepted_fits_the_schema() {
    let validator = validator();
    accepts(&validator, REPORT);
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let mut seen = 0;
    for file in std::fs::read_dir(examples).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|end| end == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap();
            let spec = parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            accepts(&validator, &text);
            accepts(&validator, &canonical(&spec).to_string());
            seen += 1;
        }
    }
    assert!(seen >= 4, "examples are missing");
}

#[test]
fn what_the_schema_refuses_the_parser_refuses() {
    let validator = validator();
    for text in [
        "name: x",
        "name: x\ntasks: {}",
        "name: X\ntasks: {a: {entry: e}}",
        "name: x\ntasks: {a: {entry: e, retries: 101}}",
        "name: x\ntasks: {a: {entry: e, needs: b}}",
        "name: x\ntasks: {a: {entry: e, timeout: 5}}",
        "name: x\ntasks: [{entry: e}]",
        "name: x\nwhat: 1\ntasks: {a: {entry: e}}",
        "name: x\naffinity: agent\ntasks: {a: {entry: e}}",
        "name: x\nschedule: {cron: \"@daily\", every: 1h}\ntasks: {a: {entry: e}}",
        "name: x\nschedule: {timezone: UTC}\ntasks: {a: {entry: e}}",
        "name: x\nschedule: {cron: \"0 0 2 * * *\"}\ntasks: {a: {entry: e}}",
        "name: x\nparams: {p: {kind: flag, min: 1}}\ntasks: {a: {entry: e}}",
        "name: x\nparams: {p: {kind: enum}}\ntasks: {a: {entry: e}}",
        "name: x\nselector: {a: b c}\ntasks: {a: {entry: e}}",
    ] {
        assert!(!validator.is_valid(&json(text)), "{text}");
        assert!(parse(text).is_err(), "{text}");
    }
}

#[test]
fn every_key_is_in_the_schema_with_words_and_examples() {
    let schema = schema();
    for section in sections() {
        let place = match section.name {
            "workflow" => &schema,
            name => &schema["$defs"][name],
        };
        let properties = place["properties"].as_object().unwrap();
        assert_eq!(properties.len(), section.keys.len());
        for key in section.keys {
            let property = &properties[key.name];
            assert!(!property["description"].as_str().unwrap().is_empty());
            let examples = property["examples"].as_array().unwrap();
            assert_eq!(examples.len(), key.examples.len(), "{}", key.name);
            assert!(!examples.is_empty(), "{}", key.name);
        }
    }
}

/// A file in which this key of this section has this value.
fn file_with(section: &Section, key: &Key, example: &str) -> String {
    let (name, pair) = (key.name, format!("{}: {example}", key.name));
    let tasks = "tasks: {a: {entry: e}, extract: {entry: e}, clean: {entry: e}}";
    let params = "params: {top: {kind: int, default: 1}}";
    match (section.name, name) {
        ("workflow", "name") => format!("{pair}\n{tasks}"),
        ("workflow", "tasks") => format!("name: x\n{pair}"),
        ("workflow", "params") => format!("name: x\n{pair}\n{tasks}"),
        ("workflow", _) => format!("name: x\n{pair}\n{tasks}"),
        ("param", "kind") => format!("name: x\nparams: {{p: {{{pair}}}}}\n{tasks}"),
        ("param", "default") => match example {
            "10" => format!("name: x\nparams: {{p: {{kind: int, {pair}}}}}\n{tasks}"),
            "true" => format!("name: x\nparams: {{p: {{kind: flag, {pair}}}}}\n{tasks}"),
            _ => format!("name: x\nparams: {{p: {{kind: text, {pair}}}}}\n{tasks}"),
        },
        ("param", own) => {
            let kind = keys::OF_KIND.iter().find(|(_, keys)| keys.contains(&own));
            let kind = kind.unwrap().0;
            format!("name: x\nparams: {{p: {{kind: {kind}, {pair}}}}}\n{tasks}")
        }
        ("defaults", _) => format!("name: x\ndefaults: {{{pair}}}\n{tasks}"),
        ("schedule", "cron" | "every") => format!("name: x\nschedule: {{{pair}}}\n{tasks}"),
        ("schedule", _) => format!("name: x\n{params}\nschedule: {{every: 1h, {pair}}}\n{tasks}"),
        (_, "entry") => format!("name: x\ntasks: {{t: {{{pair}}}}}"),
        (_, _) => format!(
            "name: x\n{params}\ntasks: {{extract: {{entry: e}}, clean: {{entry: e}}, t: {{entry: e, {pair}}}}}"
        ),
    }
}

#[test]
fn every_example_is_taken_by_the_parser_and_by_the_schema() {
    let validator = validator();
    for section in sections() {
        for key in section.keys {
            for example in key.examples {
                let text = file_with(section, key, example);
                if let Err(error) = parse(&text) {
                    panic!("{text}\n{error}");
                }
                accepts(&validator, &text);
            }
        }
    }
}
