//! What people read when a workflow is wrong, and what a right one becomes.

use outpost_proto::message::ParamValue;
use outpost_proto::name::ParamName;

use super::*;

const REPORT: &str = r#"
name: host-report
description: What this host is made of
params:
  top: {kind: int, min: 1, max: 100, default: 10}
  day: {kind: date}
  level: {kind: enum, values: [low, high], default: low}
  note: {kind: text, max_length: 80, default: ""}
  dry: {kind: flag, default: false}
defaults: {retries: 2, retry_delay: 500ms}
tasks:
  packages:
    entry: list-packages
    with: {top: "${params.top}", fixed: 7, text: "7", flag: true}
  aardvark:
    entry: first-in-the-alphabet
  report:
    entry: join-report
    needs: [aardvark, packages]
    retries: 3
    retry_delay: 1s
    retry_max_delay: 5m
    timeout: 2m
"#;

fn told(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn a_workflow_is_read_in_the_order_of_the_file() {
    insta::assert_json_snapshot!(parse(REPORT).unwrap());
}

#[test]
fn everything_wrong_is_told_at_once() {
    let text = r#"
nam: report
params:
  Top: {kind: int}
  top: {kind: int}
  day: {kind: date, default: 2023-02-29}
  size: {kind: number}
  low: {kind: int, min: 3, max: 1}
  pick: {kind: enum, values: [a, a], default: c}
  text: {kind: text, pattern: "x*"}
  flag: {kind: flag, min: 1, default: "yes"}
defaults: {retry: 2, timeout: 31d}
tasks:
  packages:
    entry: list packages
    with: {top: "${params.tpo}", mixed: "a${params.day}", other: "${env.HOME}", list: [1], half: 1.5}
    needs: packages
  report:
    needs: [package, report, packages, packages, 7]
    retries: 1000
    retry_delay: 5
    timeout: soon
  report: {entry: x}
  "bad name": {entry: x}
  empty:
"#;
    insta::assert_snapshot!(told(text));
}

#[test]
fn cycles_are_printed() {
    let text = "name: x\ntasks:\n  a: {entry: e, needs: [b]}\n  b: {entry: e, needs: [c]}\n  \
                c: {entry: e, needs: [a]}\n  d: {entry: e, needs: [c]}\n";
    insta::assert_snapshot!(told(text));
}

#[test]
fn what_is_not_yaml_is_told_with_its_place() {
    let texts = [
        "name: [",
        "name: x\n\ttasks: {}",
        "name: x\ntasks: {a: {entry: e}\n",
        "a: b: c",
        "",
        "just text",
        "- a\n- b",
        "name: x\n---\nname: y\n",
        "name: &n x\ntasks: {a: {entry: *n}}",
        "name: !thing x",
        "name: x\ntasks: {a: {<<: {entry: e}}}",
        "name: x\n? [a, b]\n: c\n",
        "name: 12\ntasks: {}",
        "name: x\nname: y\ntasks: {a: {entry: e}}",
        "name: \"\u{1b}[31m\"\ntasks: {a: {entry: e}}",
    ];
    let told: Vec<String> = texts
        .iter()
        .map(|text| format!("{text:?}\n  {}", told(text).replace('\n', "\n  ")))
        .collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn hostile_files_cost_little() {
    let bomb = format!(
        "a: &a [x,x,x,x]\nb: &b [*a,*a,*a]\nname: x\n{}",
        "c: [*b,*b]\n".repeat(100)
    );
    assert!(told(&bomb).contains("anchors"), "{}", told(&bomb));
    let deep = format!("name: {}", "[".repeat(100_000));
    assert!(!told(&deep).is_empty());
    let deep = format!("name: {}", "{a: ".repeat(50_000));
    assert!(!told(&deep).is_empty());
    let indented: String = (0..300)
        .map(|level| format!("{}a:\n", " ".repeat(level)))
        .collect();
    assert!(told(&indented).contains("nested"), "{}", told(&indented));
    let large = format!("name: x\ndescription: \"{}\"\n", "x".repeat(BYTES));
    assert!(told(&large).contains("at most 262144"), "{}", told(&large));
    let many = format!(
        "name: x\ntasks:\n{}",
        (0..1001)
            .map(|n| format!("  t{n}: {{entry: e}}\n"))
            .collect::<String>()
    );
    assert!(told(&many).contains("1 to 1000 tasks"), "{}", told(&many));
    let wrong = format!(
        "name: x\ntasks:\n{}",
        (0..900)
            .map(|n| format!("  t{n}: {{entri: e}}\n"))
            .collect::<String>()
    );
    assert_eq!(parse(&wrong).unwrap_err().problems.len(), PROBLEMS);
}

#[test]
fn many_problems_and_cycles_cost_little() {
    let names: String = (0..1000)
        .map(|n| format!("  {n:063}: {{entry: e}}\n"))
        .collect();
    let needs: String = (0..2500).map(|n| format!("x{n:062},")).collect();
    let unknown = format!("name: x\ntasks:\n{names}").replacen(
        "entry: e",
        &format!("entry: e, needs: [{needs}]"),
        1,
    );
    assert!(unknown.len() < BYTES);
    assert_eq!(parse(&unknown).unwrap_err().problems.len(), PROBLEMS);
    let all = (0..150)
        .map(|n| format!("t{n}"))
        .collect::<Vec<_>>()
        .join(",");
    let tasks: String = (0..150)
        .map(|n| format!("  t{n}: {{entry: e, needs: [{all}]}}\n"))
        .collect();
    let dense = format!("name: x\ntasks:\n{tasks}");
    assert!(told(&dense).contains("itself"));
}

#[test]
fn a_thousand_tasks_in_a_row_are_fine() {
    let tasks: String = (0..1000)
        .map(|n| match n {
            0 => "  t0: {entry: e}\n".to_owned(),
            n => format!("  t{n}: {{entry: e, needs: [t{}]}}\n", n - 1),
        })
        .collect();
    let spec = parse(&format!("name: x\ntasks:\n{tasks}")).unwrap();
    assert_eq!(spec.tasks.len(), 1000);
    assert_eq!(spec.tasks[999].name.as_str(), "t999");
}

#[test]
fn a_long_first_delay_raises_the_longest_one_unless_that_is_given() {
    let spec = parse("name: x\ntasks: {a: {entry: e, retry_delay: 2h}}").unwrap();
    assert_eq!(spec.tasks[0].retry.max_delay_ms, 7_200_000);
    let told =
        told("name: x\ndefaults: {retry_max_delay: 1m}\ntasks: {a: {entry: e, retry_delay: 2h}}");
    assert!(told.contains("longer than its retry_max_delay"), "{told}");
}

#[test]
fn a_task_for_each_value_is_as_many_tasks() {
    let text = r#"
name: regions
tasks:
  fetch: {entry: fetch}
  count:
    for_each: {region: [north, 7]}
    entry: count
    needs: [fetch]
    with: {region: "${each.region}", fixed: 1}
  total: {entry: total, needs: [count]}
"#;
    let spec = parse(text).unwrap();
    let names: Vec<&str> = spec.tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["fetch", "count-north", "count-7", "total"]);
    let needs = |place: usize| {
        let needs = spec.tasks[place].needs.iter();
        needs.map(|need| need.0).collect::<Vec<_>>()
    };
    assert_eq!(
        (needs(1), needs(2), needs(3)),
        (vec![0], vec![0], vec![1, 2])
    );
    let region: ParamName = "region".parse().unwrap();
    let given = |place: usize| spec.tasks[place].with[&region].clone();
    let value = |value| outpost_orchestrator_core::spec::Argument::Value(value);
    assert_eq!(given(1), value(ParamValue::Text("north".into())));
    assert_eq!(given(2), value(ParamValue::Integer(7)));
}

#[test]
fn what_is_wrong_with_for_each_is_told() {
    let text = r#"
name: regions
tasks:
  none: {entry: e, for_each: {}}
  word: {entry: e, for_each: {region: north}}
  empty: {entry: e, for_each: {region: []}}
  twice: {entry: e, for_each: {region: [a, a]}}
  unfit: {entry: e, for_each: {region: ["a b"]}}
  other: {entry: e, for_each: {region: [a]}, with: {x: "${each.regoin}"}}
  without: {entry: e, with: {x: "${each.region}"}}
"#;
    insta::assert_snapshot!(told(text));
    let twins = "name: t\ntasks:\n  a: {entry: e, for_each: {x: [b]}}\n  a-b: {entry: e}\n";
    assert!(
        told(twins).contains("a `for_each` makes a task `a-b` too"),
        "{}",
        told(twins)
    );
    let twice = told("name: t\ntasks:\n  a: {entry: e}\n  a: {entry: f}\n");
    assert!(
        twice.contains("there twice") && !twice.contains("for_each"),
        "{twice}"
    );
}

mod mistakes;
mod published;
mod surface;
