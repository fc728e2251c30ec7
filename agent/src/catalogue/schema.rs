//! The JSON Schema of a catalogue file, and its reference for people: both made from the parser's own types.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::file::File;

/// The JSON Schema (draft 2020-12) of a catalogue file, for editors. What it cannot say, `catalogue lint` does: that
/// programs and accounts exist, and that names in `{param.NAME}` are parameters.
#[must_use]
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(File).to_value();
    tidy(&mut schema);
    schema
}

/// TOML has no null: a key is there or it is not. Descriptions are one line each.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if object.get("default").is_some_and(Value::is_null) {
                object.remove("default");
            }
            let text = paragraph_of(object.get("description"));
            if let Some(description) = object.get_mut("description").filter(|d| d.is_string()) {
                *description = Value::String(text);
            }
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            object.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The reference of catalogue files in Markdown, made from the schema.
#[must_use]
pub fn reference() -> String {
    let schema = schema();
    let none = Value::Null;
    let of = |name: &str| schema.pointer(&format!("/$defs/{name}")).unwrap_or(&none);
    let mut text = format!(
        "# Catalogue reference\n\n{}\n\n\
         Where: `/etc/outpost/catalogue.d/*.toml` where the agent runs as root, otherwise\n\
         `~/.config/outpost/catalogue.d/*.toml`; `--catalogue` or `OUTPOST_AGENT_CATALOGUE` names another. Directory and\n\
         files belong to root or to the agent's account and can be written by nobody else, along their whole path.\n\
         `outpost-agent catalogue lint` says what is wrong, `outpost-agent reload` makes changes count, and\n\
         `outpost-agent schema` prints the JSON Schema for editors.\n",
        paragraph(&schema)
    );
    section(&mut text, "## Entry: `[entry.NAME]`", of("Entry"));
    section(
        &mut text,
        "## Parameter: `[entry.NAME.param.PARAMETER]`",
        of("Parameter"),
    );
    section(
        &mut text,
        "## Secret: `[entry.NAME.secret.SECRET]`",
        of("Grant"),
    );
    text.push_str(UNITS);
    text.push_str(SURROUNDINGS);
    crate::secrets::reference(&mut text, section);
    text
}

const UNITS: &str = "\n## Units\n\n\
Durations are a whole number and `ms`, `s`, `m`, `h` or `d`: `90s`. Sizes are a whole number and `B`, `KiB`, `MiB` or\n\
`GiB`: `16MiB`. A value of kind `date` is `YYYY-MM-DD`.\n";

const SURROUNDINGS: &str = "
## What a program finds

Its environment is what `env`, `env_params` and `inherit_env` of the entry say, and these:

| variable | value |
|---|---|
| `OUTPOST_RUN_DIR` | A directory that all tasks of a run share. It stays for as long as logs do. |
| `OUTPOST_OUT` | A file for lines `key=value` that later tasks read; until the task writes it, it is empty or not there. It is `$OUTPOST_RUN_DIR/out/TASK.env`. |
| `OUTPOST_WORKFLOW`, `OUTPOST_TASK`, `OUTPOST_ENTRY` | Names. |
| `OUTPOST_RUN`, `OUTPOST_ATTEMPT` | Ids of 32 hex digits; another try of a task is another attempt of the same run. |
| `OUTPOST_FENCE` | A number that is higher for each later attempt of the task: a store that refuses lower ones is safe from an attempt that was given up and still runs. |
| `OUTPOST_SECRET_NAME_FD`, `OUTPOST_SECRET_NAME_FILE`, `OUTPOST_SECRET_NAME` | A secret that it is granted: the number of an open descriptor, a file's path, or the value; the name in capitals, with `_` for `-`. |
| `HOME` | Where it starts: `workdir`, or an empty directory of its own. |
| `PATH` | `/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin` |

A task `clean` that needs `extract` reads what that wrote as `rows=10` into its `$OUTPOST_OUT`:

```sh
rows=$(sed -n 's/^rows=//p' \"$OUTPOST_RUN_DIR/out/extract.env\")
```

What it writes to standard output and standard error is its log. Exit status 0 is success. Nothing of all this leaves the
site but what `report_exit_code` and `report_count` allow.
";

fn section(text: &mut String, title: &str, of: &Value) {
    let empty = Map::new();
    let properties = of
        .get("properties")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    let required = of.get("required").and_then(Value::as_array);
    let is_required = |key: &str| required.is_some_and(|keys| keys.contains(&json!(key)));
    let _ = write!(
        text,
        "\n{title}\n\n{}\n\n| key | type | default | meaning |\n|---|---|---|---|\n",
        paragraph(of)
    );
    for (key, property) in properties {
        let default = match property.get("default") {
            _ if is_required(key) => "required".to_owned(),
            Some(default) => format!("`{}`", default.to_string().replace('|', "\\|")),
            None => String::new(),
        };
        let _ = writeln!(
            text,
            "| `{key}` | {} | {default} | {} |",
            kind(property),
            paragraph(property).replace('|', "\\|")
        );
    }
}

fn paragraph(of: &Value) -> String {
    paragraph_of(of.get("description"))
}

/// A text without the line ends of the source it came from.
fn paragraph_of(text: Option<&Value>) -> String {
    let text = text.and_then(Value::as_str).unwrap_or("");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn kind(property: &Value) -> String {
    if let Some(values) = property.get("enum").and_then(Value::as_array) {
        let values = values.iter().filter_map(Value::as_str);
        return values
            .map(|value| format!("`{value}`"))
            .collect::<Vec<_>>()
            .join(", ");
    }
    match property.get("type") {
        Some(Value::String(name)) if name == "object" => "table".to_owned(),
        Some(Value::String(name)) => name.clone(),
        Some(Value::Array(names)) => {
            let names = names.iter().filter_map(Value::as_str);
            names.collect::<Vec<_>>().join(" or ")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests;
