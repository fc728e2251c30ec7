//! Words of other schedulers, for people who bring their files or their habits along: what a key is called here, or where
//! what it did has gone; and texts that another system would have filled in.

use super::keys;

/// What other systems call a key, wherever it is met.
const SYNONYMS: [(&str, &str); 27] = [
    ("after", "needs"),
    ("dependencies", "needs"),
    ("depends_on", "needs"),
    ("upstream", "needs"),
    ("op_args", "with"),
    ("op_kwargs", "with"),
    ("max_tries", "retries"),
    ("retry", "retries"),
    ("max_retry_delay", "retry_max_delay"),
    ("execution_timeout", "timeout"),
    ("pool", "queue"),
    ("labels", "selector"),
    ("node_selector", "selector"),
    ("nodeSelector", "selector"),
    ("priority_weight", "priority"),
    ("max_active_tis_per_dag", "max_active"),
    ("matrix", "for_each"),
    ("with_items", "for_each"),
    ("dag_id", "name"),
    ("default_args", "defaults"),
    ("concurrency", "max_active_tasks"),
    ("schedule_interval", "schedule"),
    ("jobs", "tasks"),
    ("steps", "tasks"),
    ("start_date", "start"),
    ("end_date", "end"),
    ("catchup", "missed"),
];

/// The same for words that mean this only where the key is known.
const WITHIN: [(&str, &str); 18] = [
    ("args", "with"),
    ("arguments", "with"),
    ("inputs", "with"),
    ("params", "with"),
    ("parameters", "with"),
    ("parameters", "params"),
    ("command", "entry"),
    ("operator", "entry"),
    ("run", "entry"),
    ("uses", "entry"),
    ("task_id", "name"),
    ("interval", "every"),
    ("type", "kind"),
    ("minimum", "min"),
    ("maximum", "max"),
    ("choices", "values"),
    ("enum", "values"),
    ("maxLength", "max_length"),
];

/// Keys that have no counterpart, and what takes their place.
const ELSEWHERE: [(&[&str], &str); 7] = [
    (
        &[
            "argv",
            "bash_command",
            "cmd",
            "env",
            "env_vars",
            "image",
            "python_callable",
            "script",
            "user",
        ],
        "the site says so in its catalogue; a workflow only names the `entry`",
    ),
    (
        &["task_id"],
        "a task's name stands before its keys: `NAME:`, and the keys below it",
    ),
    (
        &["trigger_rule"],
        "leave it out: a task runs once all that it needs have succeeded",
    ),
    (
        &["depends_on_past", "wait_for_downstream"],
        "`max_active_runs: 1` at the beginning of a line lets one run follow the other",
    ),
    (
        &["retry_exponential_backoff"],
        "leave it out: delays always double, from `retry_delay` up to `retry_max_delay`",
    ),
    (
        &["is_paused_upon_creation"],
        "leave it out: `outpost pause` and `outpost resume` do that",
    ),
    (
        &["doc_md", "owner", "tags"],
        "leave it out, or say it in the `description` at the beginning of a line",
    ),
];

/// Times that other systems fill in.
const TIMES: [&str; 8] = [
    "data_interval_end",
    "data_interval_start",
    "ds",
    "ds_nodash",
    "execution_date",
    "logical_date",
    "ts",
    "ts_nodash",
];

/// What to write instead of another system's key, in a place where `is_known` says which keys there are.
pub(super) fn meant(word: &str, is_known: impl Fn(&str) -> bool) -> Option<String> {
    let mut ours = SYNONYMS.iter().chain(&WITHIN);
    if let Some((_, ours)) = ours.find(|(theirs, ours)| *theirs == word && is_known(ours)) {
        return Some(format!("here it is `{ours}`"));
    }
    let elsewhere = ELSEWHERE.iter().find(|(words, _)| words.contains(&word));
    if let Some((_, help)) = elsewhere {
        return Some((*help).to_owned());
    }
    let (_, ours) = SYNONYMS.iter().find(|(theirs, _)| *theirs == word)?;
    let home = keys::home(ours)?;
    Some(format!("here it is `{ours}`, {home}"))
}

/// What to write instead of a text that another system, or the site's catalogue, would have filled in.
pub(super) fn template(text: &str) -> Option<String> {
    let braces = text
        .split_once("{{")
        .and_then(|(_, rest)| Some(rest.split_once("}}")?.0.trim()));
    if let Some(inner) = braces {
        let is_time = TIMES.iter().any(|time| {
            let rest = inner.strip_prefix(time);
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        });
        if is_time {
            return Some(
                "no date is filled in here: declare a parameter of kind `date` and write `${params.NAME}`, or let what the \
                 entry runs ask the clock"
                    .to_owned(),
            );
        }
        return reference(inner);
    }
    let whole = text
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .or_else(|| text.strip_prefix('$'));
    reference(whole?)
}

/// A parameter's name with a word before it, as it is written here.
fn reference(inner: &str) -> Option<String> {
    let (word, name) = inner.split_once('.')?;
    let ours = match word {
        "params" | "param" => "params",
        "each" => "each",
        _ => return None,
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    (!name.is_empty() && name.chars().all(is_name))
        .then(|| format!("write `${{{ours}.{name}}}`, and nothing beside it"))
}
