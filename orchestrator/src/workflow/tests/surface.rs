//! Schedules, queues, labels, limits: what they become, and what is told when they are wrong.

use super::*;

const FULL: &str = r#"
name: nightly
description: everything a file can say
params:
  top: {kind: int, min: 1, max: 100}
  level: {kind: enum, values: [low, high], default: low}
queue: batch
selector: {zone: eu, example.com/rack: ""}
priority: -5
max_active_runs: 1
max_active_tasks: 16
affinity: none
schedule:
  cron: 30 2 * * 1-5
  timezone: europe/berlin
  start: 2026-01-01
  end: 2026-12-31
  missed: all
  missed_limit: 5
  params: {top: 10}
defaults: {retries: 1, timeout: 1h30m}
tasks:
  - name: extract
    entry: extract
    with: {top: "${params.top}", day: 2026-01-01, all: true}
  - name: load
    entry: load
    needs: [extract]
    queue: big
    selector: {disk: fast}
    priority: 10
    max_active: 1
"#;

#[test]
fn a_file_that_says_everything() {
    insta::assert_json_snapshot!(parse(FULL).unwrap());
}

#[test]
fn the_canonical_form_is_a_file_that_says_the_same() {
    let interval =
        "name: x\nschedule: {every: 15m, start: 2026-03-29T02:30}\ntasks: {a: {entry: e}}";
    for text in [FULL, REPORT, interval] {
        let spec = parse(text).unwrap();
        let form = canonical(&spec).to_string();
        assert_eq!(parse(&form).unwrap(), spec, "{form}");
    }
}

#[test]
fn tasks_are_a_list_or_a_mapping() {
    let list = parse(
        "name: x\ntasks:\n  - {name: a, entry: e}\n  - name: b\n    entry: e\n    needs: [a]\n",
    );
    let map = parse("name: x\ntasks:\n  a: {entry: e}\n  b: {entry: e, needs: [a]}\n");
    assert_eq!(list.unwrap(), map.unwrap());
}

#[test]
fn a_day_is_included_as_an_end_and_the_zone_is_the_schedules() {
    let spec = parse(FULL).unwrap().schedule.unwrap();
    assert_eq!(spec.timezone, "Europe/Berlin");
    let at = |text: &str| {
        let at: jiff::Timestamp = text.parse().unwrap();
        u64::try_from(at.as_microsecond()).ok()
    };
    assert_eq!(spec.start, at("2025-12-31T23:00:00Z"));
    assert_eq!(spec.end, at("2026-12-31T22:59:59.999999Z"));
}

#[test]
fn everything_wrong_with_a_schedule_and_with_places_is_told() {
    let text = r#"
name: x
queue: Big One
selector: {Zone: eu, disk: [fast], size: 3, note: "a b"}
priority: 101
max_active_runs: 0
max_active_tasks: many
affinity: agent
params:
  top: {kind: int, min: 1, max: 5}
  day: {kind: date}
schedule:
  cron: "0 30 2 * * *"
  timezone: Berlin
  start: yesterday
  end: 2026-13-01
  missed: last
  missed_limit: 1000
  params: {top: "3", dayy: 2026-01-01}
tasks:
  a: {entry: e, priority: high, max_active: 1.5, selector: fast, queue: 7}
"#;
    insta::assert_snapshot!(told(text));
}

#[test]
fn a_schedule_has_one_rule_that_comes_to_pass() {
    let schedules = [
        "{cron: \"* * * * *\", every: 15m}",
        "{timezone: UTC}",
        "{every: 500ms}",
        "{every: 15}",
        "{cron: \"61 * * * *\"}",
        "{cron: \"0 2 * *\"}",
        "{cron: \"0 0 31 2 *\"}",
        "{cron: \"@dayly\"}",
        "{cron: \"@daily\", timezone: Europe/Berln}",
        "{cron: \"@daily\", timezone: Mars/Olympus}",
        "{cron: \"@daily\", start: 2026-02-01, end: 2026-01-01}",
        "{cron: \"@daily\", start: 2026-02-01T00:00+01:00}",
        "15m",
        "\"30 2 * * *\"",
    ];
    let told: Vec<String> = schedules
        .iter()
        .map(|given| {
            let text = format!("name: x\nschedule: {given}\ntasks: {{a: {{entry: e}}}}");
            format!("{given}\n  {}", told(&text).replace('\n', "\n  "))
        })
        .collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn a_default_that_is_none_is_told_once() {
    let file = "name: w\nparams: {top: {kind: int, min: 1, max: 9, default: x}}\nschedule: {every: 1h}\n\
                tasks:\n  - {name: a, entry: a}\n";
    insta::assert_snapshot!(told(file), @"line 2, column 52: params.top.default: `x` is not a whole number from 1 to 9");
}

#[test]
fn what_changed_is_told_by_path() {
    let old = parse(FULL).unwrap();
    assert!(diff(&old, &old).is_empty());
    let new = FULL
        .replace("priority: 10", "priority: 20")
        .replace("missed: all", "missed: skip")
        .replace("needs: [extract]", "needs: []")
        .replace(
            "  level: {kind: enum, values: [low, high], default: low}\n",
            "",
        )
        .replace("selector: {zone: eu, example.com/rack: \"\"}\n", "");
    let new = format!("{new}  - {{name: check, entry: check}}\n");
    insta::assert_json_snapshot!(diff(&old, &parse(&new).unwrap()));
    let a_b = parse("name: x\ntasks: {a: {entry: e}, b: {entry: e}}").unwrap();
    let b_a = parse("name: x\ntasks: {b: {entry: e}, a: {entry: e}}").unwrap();
    let changes = diff(&a_b, &b_a);
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].path, "tasks");
}
