//! The likeliest mistakes, each with what a person reads.

use super::*;

#[test]
fn each_mistake_is_told_with_its_mending() {
    let texts = [
        ("a tab", "name: x\ntasks:\n\ta:\n\t\tentry: e\n"),
        ("no dash", "name: x\ntasks:\n  name: load\n  entry: load\n"),
        (
            "keys not below their task",
            "name: x\ntasks:\n  load:\n  entry: load\n  needs: []\n",
        ),
        (
            "keys too far out",
            "name: x\ntasks:\n  load:\n    entry: load\nretries: 3\n",
        ),
        (
            "needs as text",
            "name: x\ntasks:\n  a: {entry: e}\n  b: {entry: e}\n  c:\n    entry: e\n    needs: a, b\n",
        ),
        (
            "six fields",
            "name: x\nschedule:\n  cron: 0 0 2 * * *\ntasks: {a: {entry: e}}\n",
        ),
        (
            "unknown zone",
            "name: x\nschedule: {cron: \"@daily\", timezone: Paris}\ntasks: {a: {entry: e}}\n",
        ),
        (
            "both rules",
            "name: x\nschedule:\n  cron: \"@daily\"\n  every: 1d\ntasks: {a: {entry: e}}\n",
        ),
        (
            "a task twice",
            "name: x\ntasks:\n  - {name: a, entry: e}\n  - {name: a, entry: f}\n",
        ),
        (
            "a cycle",
            "name: x\ntasks:\n  a: {entry: e, needs: [c]}\n  b: {entry: e, needs: [a]}\n  c: {entry: e, needs: [b]}\n",
        ),
        (
            "a default of another type",
            "name: x\nparams:\n  top: {kind: int, default: \"5\"}\n  on: {kind: flag, default: \"yes\"}\n  size: {kind: string}\ntasks: {a: {entry: e}}\n",
        ),
        (
            "no space behind a colon",
            "name:x\ntasks:\n  a: {entry: e}\n",
        ),
        (
            "an expression without quotes",
            "name: x\nschedule:\n  cron: */5 * * * *\ntasks: {a: {entry: e}}\n",
        ),
        (
            "a nickname without quotes",
            "name: x\nschedule:\n  cron: @daily\ntasks: {a: {entry: e}}\n",
        ),
        (
            "a parameter without quotes",
            "name: x\ntasks:\n  a:\n    entry: e\n    with: {top: ${params.top}}\n",
        ),
        (
            "a list of mappings",
            "name: x\ntasks:\n  - load:\n      entry: load\n",
        ),
        (
            "a duration without unit",
            "name: x\ntasks:\n  a: {entry: e, timeout: 30}\n",
        ),
        (
            "a misspelt key",
            "name: x\ntasks:\n  a: {entry: e, dependencies: [b], retires: 2}\n",
        ),
        (
            "a name with capitals",
            "name: Nightly Report\ntasks: {Load: {entry: e}}\n",
        ),
        (
            "a line that stands beside none",
            "name: x\ntasks:\n  a:\n    entry: e\n   with: {}\n",
        ),
        (
            "a line too deep",
            "name: x\ntasks:\n  a:\n    entry: e\n      with: {}\n",
        ),
        (
            "a line too far out",
            "name: x\ntasks:\n  a:\n    entry: e\n b:\n    entry: e\n",
        ),
        (
            "an anchor",
            "name: x\nshared: &d {retries: 2}\ntasks: {a: {entry: e}}\n",
        ),
        (
            "keys of Airflow",
            "dag_id: x\nstart_date: 2026-01-01\ncatchup: false\ndefault_args: {retries: 2}\ntasks:\n  a:\n    entry: e\n    \
             task_id: a\n    bash_command: run\n    execution_timeout: 1h\n    trigger_rule: all_done\n    params: {n: 1}\n    \
             depends_on: []\n",
        ),
        (
            "a schedule of Airflow",
            "name: x\nschedule: {cron: \"@daily\", start_date: 2026-01-01, catchup: false}\ntasks: {a: {entry: e}}\n",
        ),
        (
            "templates of Airflow",
            "name: x\nparams: {n: {kind: int}}\ntasks:\n  a: {entry: e, with: {n: \"{{ params.n }}\", day: \"{{ ds }}\", \
             m: $params.n, o: \"{param.n}\", fine: \"{{ .Name }}\"}}\n",
        ),
        (
            "parameters of Airflow",
            "name: x\nparams:\n  n: 10\n  day:\n  mode: string\n  host: db-1\n  on: true\n  size: {type: int}\ntasks:\n  \
             a: {entry: e, with: {n: \"${params.n}\", m: \"${params.host}\"}}\nschedule: {every: 1h, params: {n: 1}}\n",
        ),
        (
            "rule and zone",
            "name: x\nschedule: {cron: 0 25 * * *, timezone: Berlin}\ntasks: {a: {entry: e}}\n",
        ),
        ("nothing", "# to be written\n"),
        (
            "a key of another place",
            "name: x\ncron: \"@daily\"\ntasks: {a: {entry: e, affinity: run}}\n",
        ),
    ];
    let told: Vec<String> = texts
        .iter()
        .map(|(what, text)| format!("{what}\n  {}", told(text).replace('\n', "\n  ")))
        .collect();
    insta::assert_snapshot!(told.join("\n"));
}
