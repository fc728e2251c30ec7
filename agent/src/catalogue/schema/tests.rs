//! The schema says what the parser says: over the examples, over what is right, and over what is wrong.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::catalogue::load;

fn validator() -> jsonschema::Validator {
    jsonschema::draft202012::options().build(&schema()).unwrap()
}

fn json_of(text: &str) -> Value {
    serde_json::to_value(toml::from_str::<toml::Value>(text).unwrap()).unwrap()
}

/// What the parser says to a file's text, apart from what only a host can tell.
fn parsed(text: &str) -> Result<(), String> {
    let dir = crate::testing::tempdir().unwrap();
    let path = dir.path().join("a.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    load(dir.path(), "")
        .map(drop)
        .map_err(|error| error.to_string())
}

fn user() -> &'static str {
    if rustix::process::geteuid().is_root() {
        "user = \"nobody\""
    } else {
        ""
    }
}

fn entry(rest: &str) -> String {
    format!("[entry.a]\nargv = [\"/bin/true\"]\n{}\n{rest}\n", user())
}

#[track_caller]
fn both_accept(text: &str) {
    let errors = validator()
        .iter_errors(&json_of(text))
        .map(|e| e.to_string())
        .collect::<Vec<_>>();
    assert!(errors.is_empty(), "the schema refuses\n{text}\n{errors:#?}");
    parsed(text).unwrap();
}

#[track_caller]
fn both_refuse(text: &str) {
    assert!(parsed(text).is_err(), "the parser accepts\n{text}");
    assert!(
        !validator().is_valid(&json_of(text)),
        "the schema accepts\n{text}"
    );
}

#[test]
fn it_is_a_schema_of_2020_12_with_a_description_for_every_key() {
    let schema = schema();
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    jsonschema::meta::validate(&schema).unwrap();
    for of in ["Entry", "Parameter"] {
        for (key, property) in schema["$defs"][of]["properties"].as_object().unwrap() {
            assert!(property["description"].is_string(), "{of}.{key}");
        }
    }
}

#[test]
fn every_example_is_valid() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut left = vec![examples];
    let mut files = Vec::<PathBuf>::new();
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "toml")
            {
                files.push(path);
            }
        }
    }
    assert!(!files.is_empty());
    for file in files {
        let value = json_of(&std::fs::read_to_string(&file).unwrap());
        let errors = validator()
            .iter_errors(&value)
            .map(|e| e.to_string())
            .collect::<Vec<_>>();
        assert!(errors.is_empty(), "{}: {errors:#?}", file.display());
    }
}

#[test]
fn parser_and_schema_accept_the_same() {
    both_accept(&entry(""));
    both_accept(&entry(
        "description = \"d\"\nworkdir = \"/tmp\"\nenv = { A = \"1\" }\nenv_params = { B = \"n\" }\n\
         inherit_env = [\"TZ\"]\ntimeout = \"90s\"\ngrace = \"5s\"\nretry_safe = true\non_disconnect = \"stop_after 5m\"\n\
         max_parallel = 2\nmax_per_hour = 60\nlog_max = \"4KiB\"\nreport_exit_code = true\nreport_count = true\n\
         dangerous = true\nparam.n = { kind = \"int\", min = -1, max = 9, default = 3 }\nparam.f = { kind = \"flag\", default = true }\n\
         param.e = { kind = \"enum\", values = [\"a\"], default = \"a\" }\nparam.d = { kind = \"date\" }\n\
         param.t = { kind = \"text\", pattern = \"[a-z]+\", max_length = 9, allow_leading_dash = true }",
    ));
    both_accept("");
}

#[test]
fn parser_and_schema_refuse_the_same() {
    for rest in [
        "timeot = \"5s\"",
        "timeout = \"soon\"",
        "timeout = 5",
        "grace = \"5 s\"",
        "log_max = \"16MB\"",
        "on_disconnect = \"stop\"",
        "max_parallel = 0",
        "max_parallel = 70000",
        "max_per_hour = -1",
        "workdir = \"tmp\"",
        "env = { OUTPOST_X = \"1\" }",
        "env = { \"1A\" = \"1\" }",
        "inherit_env = [\"A B\"]",
        "retry_safe = \"yes\"",
        "param.X = { kind = \"flag\" }",
        "param.n = { kind = \"int\", min = 1 }",
        "param.n = { kind = \"enum\", values = [] }",
        "param.n = { kind = \"number\" }",
        "param.n = { kind = \"flag\", min = 1 }",
        "param.n = { kind = \"text\", max_length = 5000, pattern = \"a\" }",
        "param.n = { kind = \"date\", default = 1.5 }",
        "param.n = { kind = \"date\", values = [\"a\"] }",
        "param.n = { kind = \"int\", min = 1, max = 2, patern = \"x\" }",
    ] {
        both_refuse(&entry(rest));
    }
    let user = user();
    for text in [
        format!("[entry.a]\n{user}\n"),
        format!("[entry.a]\nargv = []\n{user}\n"),
        format!("[entry.a]\nargv = [\"true\"]\n{user}\n"),
        format!("[entry.a]\nargv = \"/bin/true\"\n{user}\n"),
        format!("[entry.A]\nargv = [\"/bin/true\"]\n{user}\n"),
        format!("[entry.\"a..b\"]\nargv = [\"/bin/true\"]\n{user}\n"),
        "[entri.a]\n".to_owned(),
    ] {
        both_refuse(&text);
    }
}

#[test]
fn defaults_in_the_schema_are_what_the_parser_does_without_the_key() {
    let entries = schema();
    let defaults = entries["$defs"]["Entry"]["properties"].as_object().unwrap();
    let load_one = |text: &str| {
        let dir = crate::testing::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let catalogue = load(dir.path(), "").unwrap_or_else(|e| panic!("{text}: {e}"));
        format!("{:?}", catalogue.entry(&"a".parse().unwrap()).unwrap())
    };
    let without = load_one(&entry(""));
    let mut seen = 0;
    for (key, property) in defaults {
        let Some(default) = property.get("default").filter(|value| !value.is_object()) else {
            continue;
        };
        assert_eq!(
            load_one(&entry(&format!("{key} = {default}"))),
            without,
            "{key}"
        );
        seen += 1;
    }
    assert!(seen > 8, "{seen}");
}

#[test]
fn the_reference_has_every_key_with_its_meaning() {
    let text = reference();
    let schema = schema();
    for of in ["Entry", "Parameter"] {
        for key in schema["$defs"][of]["properties"]
            .as_object()
            .unwrap()
            .keys()
        {
            assert!(text.contains(&format!("| `{key}` |")), "{key}");
        }
    }
    assert!(text.contains("| `timeout` | string | `\"1h\"` |"), "{text}");
    assert!(text.contains("| `argv` | array | required |"), "{text}");
    for variable in ["OUTPOST_RUN_DIR", "OUTPOST_OUT", "OUTPOST_FENCE"] {
        assert!(text.contains(&format!("| `{variable}` |")), "{variable}");
    }
}
