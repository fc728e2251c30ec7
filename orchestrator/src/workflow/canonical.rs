//! A workflow in one form: the keys of a workflow file, in their order, with what was left out left out, durations and
//! instants as people write them. Parsing it as a file gives the same workflow.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use outpost_orchestrator_core::spec::{
    Affinity, Argument, Missed, ParamKind, ParamSpec, ScheduleSpec, TaskSpec, When, WorkflowSpec,
};
use outpost_proto::message::ParamValue;
use outpost_proto::name::ParamName;
use serde_json::{Map, Value, json};

use super::scalar::duration_text;
use super::schedule::LAST;

/// The workflow as a JSON object, which is YAML too. Its tasks are a list, so that their order is kept.
#[must_use]
pub fn canonical(spec: &WorkflowSpec) -> Value {
    let mut form = by_name(spec);
    let named = |one: &TaskSpec| {
        let mut task = task(spec, one);
        task["name"] = json!(one.name);
        task
    };
    form["tasks"] = spec.tasks.iter().map(named).collect();
    form
}

/// Like [`canonical`], with the tasks by name.
pub(super) fn by_name(spec: &WorkflowSpec) -> Value {
    let mut file = Map::new();
    put(&mut file, "name", Some(json!(spec.name)));
    let description = (!spec.description.is_empty()).then(|| json!(spec.description));
    put(&mut file, "description", description);
    let params = spec
        .params
        .iter()
        .map(|(name, spec)| (name.to_string(), param(spec)));
    put_map(&mut file, "params", params.collect());
    put(&mut file, "schedule", spec.schedule.as_ref().map(schedule));
    let queue = (!spec.queue.is_default()).then(|| json!(spec.queue));
    put(&mut file, "queue", queue);
    let selector = (!spec.selector.is_empty()).then(|| json!(spec.selector));
    put(&mut file, "selector", selector);
    put(
        &mut file,
        "priority",
        (spec.priority != 0).then(|| json!(spec.priority)),
    );
    put(
        &mut file,
        "max_active_runs",
        spec.max_active_runs.map(Value::from),
    );
    put(
        &mut file,
        "max_active_tasks",
        spec.max_active_tasks.map(Value::from),
    );
    let affinity = match spec.affinity {
        Affinity::Run => None,
        Affinity::None => Some(json!("none")),
    };
    put(&mut file, "affinity", affinity);
    let tasks = spec
        .tasks
        .iter()
        .map(|one| (one.name.to_string(), task(spec, one)));
    put_map(&mut file, "tasks", tasks.collect());
    Value::Object(file)
}

fn put(map: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        map.insert(key.to_owned(), value);
    }
}

fn put_map(map: &mut Map<String, Value>, key: &str, value: Map<String, Value>) {
    if !value.is_empty() {
        map.insert(key.to_owned(), Value::Object(value));
    }
}

fn param(spec: &ParamSpec) -> Value {
    let mut param = match &spec.kind {
        ParamKind::Flag => json!({ "kind": "flag" }),
        ParamKind::Int { min, max } => {
            let mut param = json!({ "kind": "int" });
            for (key, bound, open) in [("min", min, i64::MIN), ("max", max, i64::MAX)] {
                if *bound != open {
                    param[key] = json!(bound);
                }
            }
            param
        }
        ParamKind::Enum { values } => json!({ "kind": "enum", "values": values }),
        ParamKind::Date => json!({ "kind": "date" }),
        ParamKind::Text { max_length } => json!({ "kind": "text", "max_length": max_length }),
    };
    if let Some(default) = &spec.default {
        param["default"] = value(default);
    }
    param
}

fn value(value: &ParamValue) -> Value {
    match value {
        ParamValue::Flag(flag) => json!(flag),
        ParamValue::Integer(number) => json!(number),
        ParamValue::Text(text) => json!(text),
    }
}

fn values(given: &BTreeMap<ParamName, ParamValue>) -> Map<String, Value> {
    let pairs = given
        .iter()
        .map(|(name, one)| (name.to_string(), value(one)));
    pairs.collect()
}

fn schedule(spec: &ScheduleSpec) -> Value {
    let mut map = Map::new();
    let (key, rule) = match &spec.when {
        When::Cron { expression } => ("cron", json!(expression)),
        When::Every { ms } => ("every", json!(duration_text(*ms))),
    };
    put(&mut map, key, Some(rule));
    let zone = (spec.timezone != "UTC").then(|| json!(spec.timezone));
    put(&mut map, "timezone", zone);
    for (key, instant) in [("start", spec.start), ("end", spec.end)] {
        put(
            &mut map,
            key,
            instant.map(|at| json!(on_the_wall(at, &spec.timezone))),
        );
    }
    let missed = match spec.missed {
        Missed::Skip => Some("skip"),
        Missed::Latest => None,
        Missed::All => Some("all"),
    };
    put(&mut map, "missed", missed.map(Value::from));
    let usual = ScheduleSpec::new(spec.when.clone()).missed_limit;
    let limit = (spec.missed_limit != usual).then(|| json!(spec.missed_limit));
    put(&mut map, "missed_limit", limit);
    put_map(&mut map, "params", values(&spec.params));
    Value::Object(map)
}

/// An instant on the zone's wall clock, in the form the parser reads.
fn on_the_wall(at: u64, zone: &str) -> String {
    let zone = TimeZoneDatabase::bundled()
        .get(zone)
        .unwrap_or(TimeZone::UTC);
    let at = i64::try_from(at)
        .ok()
        .and_then(|at| Timestamp::from_microsecond(at).ok());
    let at = at.map(|at| at.to_zoned(zone).datetime());
    match at {
        // The end of a day that is included.
        Some(at) if at.time() == LAST => at.date().to_string(),
        Some(at) => at.to_string(),
        None => String::new(),
    }
}

fn task(workflow: &WorkflowSpec, spec: &TaskSpec) -> Value {
    let mut task = Map::new();
    put(&mut task, "entry", Some(json!(spec.entry)));
    let needs: Vec<&str> = spec
        .needs
        .iter()
        .filter_map(|need| workflow.tasks.get(usize::from(need.0)))
        .map(|need| need.name.as_str())
        .collect();
    put(
        &mut task,
        "needs",
        (!needs.is_empty()).then(|| json!(needs)),
    );
    let with = spec.with.iter().map(|(name, argument)| {
        let given = match argument {
            Argument::Value(given) => value(given),
            Argument::Param(param) => json!(format!("${{params.{param}}}")),
        };
        (name.to_string(), given)
    });
    put_map(&mut task, "with", with.collect());
    put(
        &mut task,
        "queue",
        spec.queue.as_ref().map(|queue| json!(queue)),
    );
    let selector = (!spec.selector.is_empty()).then(|| json!(spec.selector));
    put(&mut task, "selector", selector);
    put(&mut task, "priority", spec.priority.map(Value::from));
    put(&mut task, "max_active", spec.max_active.map(Value::from));
    let retry = &spec.retry;
    put(&mut task, "retries", Some(json!(retry.retries)));
    for (key, ms) in [
        ("retry_delay", retry.delay_ms),
        ("retry_max_delay", retry.max_delay_ms),
    ] {
        put(&mut task, key, Some(json!(duration_text(ms))));
    }
    let timeout = spec.timeout_ms.map(|ms| json!(duration_text(ms)));
    put(&mut task, "timeout", timeout);
    Value::Object(task)
}
