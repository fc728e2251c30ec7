//! What the parser of catalogue files says, in words that name the key and show how it is written.

use super::suggest::unknown_key;

/// Keys of other formats, and what they are called here.
const SYNONYMS: &[(&str, &str)] = &[
    ("args", "it is part of `argv`, behind the program"),
    (
        "bash_command",
        "it is `argv` here: `argv = [\"/path/of/program\", \"argument\"]`",
    ),
    (
        "cmd",
        "it is `argv` here: `argv = [\"/path/of/program\", \"argument\"]`",
    ),
    (
        "command",
        "it is `argv` here: `argv = [\"/path/of/program\", \"argument\"]`",
    ),
    ("cwd", "it is `workdir` here"),
    ("environment", "it is `env` here"),
    (
        "exec",
        "it is `argv` here: `argv = [\"/path/of/program\", \"argument\"]`",
    ),
    (
        "params",
        "it is `param` here: `[entry.NAME.param.PARAMETER]`",
    ),
    ("queue", "the workflow says so"),
    (
        "retries",
        "the workflow says so; `retry_safe` says here whether a second time is harmless",
    ),
    ("run_as", "it is `user` here"),
    ("schedule", "the workflow says so"),
    (
        "secrets",
        "it is `secret` here: `secret.NAME = { as = \"fd\" }`",
    ),
    ("type", "it is `kind` here"),
    ("uid", "it is `user` here: the account's name"),
];
/// What the parser calls tables that are not there, and how they are written.
const TABLES: [(&str, &str); 3] = [
    (
        "expected struct RawGrant",
        "each secret says how it is handed over: `secret.NAME = { as = \"fd\" }`",
    ),
    (
        "expected struct RawParam",
        "each parameter is a table: `[entry.NAME.param.PARAMETER]`, and `kind = \"int\"` or another kind below it",
    ),
    ("expected struct RawEntry", ENTRY),
];
const ENTRY: &str =
    "each entry is a table: `[entry.NAME]`, and `argv = [\"/path/of/program\"]` below it";
/// Keys whose values are a length of time.
const TIMES: [&str; 2] = ["timeout", "grace"];
/// Characters of a value that are shown.
const SHOWN: usize = 60;

/// The parser's message about the place that begins at `offset`, in our words where they say more.
pub(super) fn told(text: &str, offset: Option<usize>, message: &str) -> String {
    if let Some(unknown) = unknown(message) {
        return unknown;
    }
    let tables = TABLES.iter().find(|(theirs, _)| message.contains(theirs));
    if let Some((_, ours)) = tables {
        return (*ours).to_owned();
    }
    let is_list = |line: &str| line.trim_start().starts_with("[[entry");
    if message.contains("expected a map") && text.lines().any(is_list) {
        return ENTRY.to_owned();
    }
    let written = offset.and_then(|offset| Written::at(text, offset));
    let better = written.and_then(|written| written.better(message));
    better.unwrap_or_else(|| message.to_owned())
}

fn unknown(message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown field `")?;
    let (given, expected) = rest.split_once('`')?;
    if expected == ", expected `entry`" {
        return Some(format!(
            "there is no key `{given}` at the beginning of a file; an entry is written as `[entry.{given}]`"
        ));
    }
    match SYNONYMS.iter().find(|(theirs, _)| *theirs == given) {
        Some((_, ours)) => Some(format!("there is no key `{given}`; {ours}")),
        None => unknown_key(message),
    }
}

/// A key with its value, on one line.
struct Written<'a> {
    key: &'a str,
    value: &'a str,
}

impl<'a> Written<'a> {
    fn at(text: &'a str, offset: usize) -> Option<Self> {
        let start = text.get(..offset)?.rfind('\n').map_or(0, |end| end + 1);
        let line = text.get(start..)?.lines().next()?;
        let (key, value) = line.split_once('=')?;
        let value = value.trim();
        let is_shown = value.chars().count() <= SHOWN && !value.contains(char::is_control);
        is_shown.then_some(Self {
            key: key.trim(),
            value,
        })
    }

    fn better(&self, message: &str) -> Option<String> {
        let Self { key, value } = self;
        let is_number = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
        let is_word = value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
            && !value.contains(['"', '\'']);
        if message.starts_with("invalid type") {
            let found = format!("{key}: `{value}` is not what it takes");
            return if message.ends_with("expected a sequence") {
                Some(format!(
                    "{found}: write a list, `{key} = [{}]`",
                    list(value)
                ))
            } else if message.ends_with("expected a string") && is_number && TIMES.contains(key) {
                Some(format!("{found}: it needs a unit, `{key} = \"{value}s\"`"))
            } else if message.ends_with("expected a string") && value.starts_with('[') {
                Some(format!("{found}: put each element in quotes"))
            } else if message.ends_with("expected a string") && !value.starts_with('{') {
                Some(format!("{found}: put it in quotes, `{key} = \"{value}\"`"))
            } else if message.ends_with("expected a boolean") {
                Some(format!("{found}: write `true` or `false`, without quotes"))
            } else {
                None
            };
        }
        // A text without quotes begins like one of the few words there are, and fails as that.
        (is_word && !matches!(*value, "true" | "false"))
            .then(|| format!("{key}: text stands in quotes: `{key} = \"{value}\"`"))
    }
}

/// `"/bin/x -a"` as the elements of a list.
fn list(value: &str) -> String {
    let words = value.trim_matches(['"', '\'']).split_whitespace();
    let words = words.map(|word| format!("\"{word}\""));
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::file::File;
    use super::*;

    fn said(text: &str) -> String {
        let error = toml::from_str::<File>(text).unwrap_err();
        told(text, error.span().map(|span| span.start), error.message())
    }

    #[test]
    fn each_mistake_names_its_key_and_how_it_is_written() {
        for (text, expected) in [
            (
                "[entry.a]\nargv = \"/opt/x.sh --all\"\n",
                "argv: `\"/opt/x.sh --all\"` is not what it takes: write a list, `argv = [\"/opt/x.sh\", \"--all\"]`",
            ),
            (
                "[entry.a]\nargv = [\"/bin/true\"]\ntimeout = 3600\n",
                "timeout: `3600` is not what it takes: it needs a unit, `timeout = \"3600s\"`",
            ),
            (
                "[entry.a]\nargv = [\"/bin/true\"]\ndescription = 7\n",
                "description: `7` is not what it takes: put it in quotes, `description = \"7\"`",
            ),
            (
                "[entry.a]\nargv = [\"/bin/true\"]\nretry_safe = \"yes\"\n",
                "retry_safe: `\"yes\"` is not what it takes: write `true` or `false`, without quotes",
            ),
            (
                "[entry.a]\nuser = nobody\nargv = [\"/bin/true\"]\n",
                "user: text stands in quotes: `user = \"nobody\"`",
            ),
            (
                "[entry.a]\nworkdir = /srv\nargv = [\"/bin/true\"]\n",
                "workdir: text stands in quotes: `workdir = \"/srv\"`",
            ),
            (
                "[entry.a]\nargv = [\"/bin/echo\", 5]\n",
                "argv: `[\"/bin/echo\", 5]` is not what it takes: put each element in quotes",
            ),
            (
                "[entry.a]\nargv = [\"/bin/echo\"]\nparam = { n = \"int\" }\n",
                "each parameter is a table: `[entry.NAME.param.PARAMETER]`, and `kind = \"int\"` or another kind below it",
            ),
            (
                "[entry]\nargv = [\"/bin/echo\"]\n",
                "each entry is a table: `[entry.NAME]`, and `argv = [\"/path/of/program\"]` below it",
            ),
            (
                "[[entry]]\nname = \"a\"\nargv = [\"/bin/echo\"]\n",
                "each entry is a table: `[entry.NAME]`, and `argv = [\"/path/of/program\"]` below it",
            ),
            (
                "[extract]\nargv = [\"/bin/true\"]\n",
                "there is no key `extract` at the beginning of a file; an entry is written as `[entry.extract]`",
            ),
            (
                "[entry.a]\ncommand = \"/bin/true\"\n",
                "there is no key `command`; it is `argv` here: `argv = [\"/path/of/program\", \"argument\"]`",
            ),
            (
                "[entry.a]\nargv = [\"/bin/true\"]\nretries = 3\n",
                "there is no key `retries`; the workflow says so; `retry_safe` says here whether a second time is harmless",
            ),
            (
                "[entry.a]\nargv = [\"/bin/true\"]\ntimeot = \"3s\"\n",
                "there is no key `timeot`; did you mean `timeout`?",
            ),
        ] {
            assert_eq!(said(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_better_stays_as_the_parser_says_it() {
        assert!(said("[entry.a\n").contains(']'), "{}", said("[entry.a\n"));
        assert_eq!(told("", None, "odd"), "odd");
        assert_eq!(told("x", Some(9), "odd"), "odd");
    }
}
