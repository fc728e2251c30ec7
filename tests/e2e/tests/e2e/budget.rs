//! K18 with the real agent: a task that tries to signal, and what of it is in the ledger.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::UNIX_EPOCH;

use outpost_e2e::api::{attempts_of, text};
use outpost_e2e::clocks::boot;
use outpost_e2e::process::{command, run};
use outpost_e2e::{Agent, Entry, World, binaries::Binary};
use outpost_proto::limits::STRICT_GRID;
use serde_json::{Value, json};

/// Exit codes 0 to 7, each with a run time, a count, memory and output of its own.
const SIGNALS: u32 = 8;

/// A task that puts a number into everything that it can.
fn signal() -> Entry {
    let body = "n=$2
echo count=$((n * 100 + 1)) > \"$OUTPOST_OUT\"
head -c $((n * 100000 + 1)) /dev/zero | tr '\\0' x
block=$(head -c $((n * 2000000 + 1)) /dev/zero | tr '\\0' y)
sleep $n
exit $n";
    Entry::script("signal", body)
        .argument("{param.n}")
        .param("n", "kind = \"int\", min = 0, max = 9")
        .with("report_exit_code = true")
        .with("report_count = true")
}

fn agent(world: &World, reporting: &str) -> Agent {
    let api = world.api();
    let token = world.token_file(&api, "site-1");
    let mut agent = world.enrolled("site-1", &token, &[signal()]);
    agent.slots = 8;
    let name = "OUTPOST_AGENT_REPORTING".to_owned();
    agent.env.push((name, reporting.to_owned()));
    agent.start();
    agent.live(&api);
    agent
}

/// Runs all of them at once; what the ledger says of how each ended, without its attempt's id and its event's number.
fn signalled(world: &World, agent: &Agent) -> (Value, Vec<String>) {
    let api = world.api();
    let mut workflow = String::from("name: signals\ntasks:\n");
    for n in 0..SIGNALS {
        let _ = writeln!(workflow, "  t{n}: {{entry: signal, with: {{n: {n}}}}}");
    }
    let _ = api.apply(&workflow).ok();
    let tree = api.finished(&api.trigger("signals", &json!({})));
    let words = agent.ledger_words();
    let ends = words.iter().filter_map(|(kind, words)| {
        let (_, end) = words.split_once(" is over: ")?;
        let (end, _) = end.split_once(" (event")?;
        (kind == "event").then(|| end.to_owned())
    });
    (tree, ends.collect())
}

#[test]
fn k18_with_normal_reporting_what_entries_opted_in_to_is_told_and_nothing_else_of_the_task() {
    let world = World::new();
    let agent = agent(&world, "normal");
    let (tree, ends) = signalled(&world, &agent);
    assert_eq!(ends.len(), 8, "{ends:#?}");
    for n in 0..SIGNALS {
        let told = format!("exit code {n}, count {}", n * 100 + 1);
        let found = ends.iter().filter(|end| end.contains(&told));
        assert_eq!(found.count(), 1, "the meter sees {told}: {ends:#?}");
        let attempts = attempts_of(&tree, &format!("t{n}"));
        assert_eq!(attempts[0]["exit_code"], n, "{attempts:#?}");
    }
    let seen = world.api().agent("site-1").unwrap();
    assert_eq!(seen["reporting"], "normal", "{seen:#}");
}

#[test]
fn k18_with_strict_reporting_a_task_that_signals_by_all_it_has_is_told_as_a_class_and_a_step() {
    let world = World::new();
    let agent = agent(&world, "strict");
    let (tree, ends) = signalled(&world, &agent);
    assert_eq!(ends.len(), 8, "{ends:#?}");
    for end in &ends {
        let told = ["succeeded after at most ", "failed after at most "]
            .iter()
            .find_map(|class| end.strip_prefix(class)?.strip_suffix(" ms"));
        let step: u64 = told.unwrap_or_else(|| panic!("{end}")).parse().unwrap();
        assert!(step.is_power_of_two() && step >= 1024, "{end}");
    }
    for n in 0..SIGNALS {
        let attempts = attempts_of(&tree, &format!("t{n}"));
        assert_eq!(attempts[0]["exit_code"], Value::Null, "{attempts:#?}");
        let took = attempts[0]["duration_ms"].as_u64().unwrap();
        assert!(took.is_power_of_two(), "{attempts:#?}");
    }
    on_the_grid(&agent);
    let seen = world.api().agent("site-1").unwrap();
    assert_eq!(seen["reporting"], "strict", "{seen:#}");
    let steps = [50, 80, 95, 100];
    for number in ["cpu_percent", "memory_percent", "disk_percent"] {
        assert!(steps.contains(&seen[number].as_u64().unwrap()), "{seen:#}");
    }
    let shown = world.outpost(&["agents", "show", "site-1"]).ok();
    assert!(shown.contains("strict") && shown.contains('≤'), "{shown}");
    let status = agent.command(&["status"]).ok();
    assert!(status.contains("reporting     strict"), "{status}");
    let checked = agent.command_with_catalogue(&["check"]);
    assert!(
        checked.out.contains("opted in to: signal"),
        "what is not told is said: {checked:?}"
    );
}

/// Frames that tell anything of attempts or host leave at the multiples of ten seconds since the host's boot, or as late
/// as a busy machine is; the tasks' own ends are spread over more than that.
fn on_the_grid(agent: &Agent) {
    const LATE_US: u128 = 6_000_000;
    let said = agent
        .command(&["ledger", "explain", "--output", "json"])
        .ok();
    let lines = said
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_interest = |line: &Value| matches!(text(&line["kind"]).as_str(), "event" | "heartbeat");
    let moments = lines
        .filter(of_interest)
        .map(|line| line["at_us"].as_u64().unwrap())
        .collect::<BTreeSet<_>>();
    assert!(moments.len() >= 2, "{moments:?}");
    let boot = boot().duration_since(UNIX_EPOCH).unwrap();
    for moment in &moments {
        // A clock that was slewed meanwhile, and the two readings, may make it a little early.
        let behind = u128::from(*moment) + 100_000 - boot.as_micros();
        let late = behind % STRICT_GRID.as_micros();
        assert!(late < LATE_US, "{late} us behind: {moments:?}");
    }
}

#[test]
fn the_budget_is_printed_by_an_agent_that_is_not_even_enrolled() {
    let print = |form: &str| {
        let mut command = command(Binary::Agent.path());
        command.args(["ledger", "budget", "--output", form]);
        command.env_remove("HOME").env_remove("XDG_STATE_HOME");
        run(command).ok()
    };
    let budget: Value = serde_json::from_str(&print("json")).unwrap();
    let messages = budget["messages"].as_array().unwrap();
    let event = messages.iter().find(|line| line["message"] == "Event");
    assert_eq!(event.unwrap()["echoed"], 129, "{budget:#}");
    let table = print("table");
    assert!(
        table.contains("Heartbeat") && table.contains("strict"),
        "{table}"
    );
}
