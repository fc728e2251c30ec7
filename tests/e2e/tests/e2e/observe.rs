//! Observe mode and the kill switch: the site decides alone that nothing begins.

use outpost_e2e::api::{attempts_of, text};
use outpost_e2e::wait::so;
use outpost_e2e::{Agent, Api, Entry, World, eventually};
use serde_json::{Value, json};

/// A task that waits for the file `go`, one at a time.
fn slow() -> Entry {
    Entry::script("slow", "until [ -e \"$shared/go\" ]; do sleep 0.05; done")
        .argument("{param.n}")
        .param("n", "kind = \"int\", min = 1, max = 99")
        .with("max_parallel = 1")
}

fn workflow() -> &'static str {
    "name: many\ntasks:\n  a: {entry: slow, with: {n: 11}}\n  b: {entry: slow, with: {n: 12}}\n  c: {entry: slow, with: {n: 13}}\n"
}

/// An agent at which one of three runs while the others wait.
fn one_runs() -> (World, Agent, Api, String) {
    let world = World::new();
    let agent = world.agent("site-1", &[slow()]);
    let api = world.api();
    let _ = api.apply(workflow()).ok();
    let run = api.trigger("many", &json!({}));
    eventually("one runs and the others wait here", || {
        let status = agent.status()?;
        let queued = status["view"]["queued"].as_array()?.len();
        so(world.starts().len() == 1 && queued == 2)
    });
    (world, agent, api, run)
}

fn flags(api: &Api) -> Vec<String> {
    let agent = api.agent("site-1").unwrap_or_default();
    let flags = agent["flags"].as_array().cloned().unwrap_or_default();
    flags.iter().map(text).collect()
}

fn list(agent: &Agent, what: &str) -> Vec<Value> {
    let said = agent.command(&[what, "--output", "json"]).ok();
    let lines = said.lines().filter(|line| line.starts_with('{'));
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn an_observing_agent_lets_what_ran_end_turns_away_what_waits_and_lists_what_would_have_run() {
    let (world, mut agent, api, run) = one_runs();
    agent.kill_runner();
    agent
        .env
        .push(("OUTPOST_AGENT_OBSERVE".to_owned(), "true".to_owned()));
    agent.start();
    eventually("upstream sees that it observes", || {
        so(flags(&api) == ["observe"])
    });
    let observed = eventually("what waited would have run", || {
        let observed = list(&agent, "observed");
        (observed.len() == 2).then_some(observed)
    });
    let mut numbers = Vec::new();
    for one in &observed {
        assert_eq!(
            (&one["entry"], &one["refusal"]),
            (&json!("slow"), &json!("observe")),
            "{one:#}"
        );
        assert_eq!(one["workflow"], "many", "{one:#}");
        assert_eq!(one["parameters"][0][0], "n", "{one:#}");
        numbers.push(text(&one["parameters"][0][1]));
    }
    numbers.sort();
    assert!(
        ["11", "12", "13"]
            .iter()
            .filter(|n| numbers.contains(&(**n).to_owned()))
            .count()
            == 2
    );
    // Upstream it is an enum and no word more; what is listed here is told a moment later.
    eventually("both are told", || {
        let words = agent.ledger_words();
        let refused = words
            .iter()
            .map(|(_, words)| words.matches("refused{observe}").count());
        so(refused.sum::<usize>() >= 2)
    });
    eventually("upstream explains it", || {
        so(world.outpost(&["explain", &run]).out.contains("observes"))
    });
    let status = agent.command(&["status"]).ok();
    assert!(status.contains("because: observe"), "{status}");
    // What ran before goes on to its end, and is told.
    world.allow("go");
    eventually("what ran is over and told", || {
        let tree = api.run(&run)?;
        let ends = ["a", "b", "c"].map(|task| attempts_of(&tree, task));
        let succeeded = ends
            .iter()
            .flatten()
            .filter(|one| one["outcome"] == "succeeded");
        so(succeeded.count() == 1)
    });
    assert_eq!(world.starts().len(), 1);
    agent.kill_runner();
    agent.env.clear();
    agent.start();
    let _ = api.succeeded(&run);
    assert_eq!(world.starts().len(), 3);
}

#[test]
fn a_pause_is_seen_upstream_survives_kills_and_no_one_there_can_lift_it() {
    let (world, mut agent, api, run) = one_runs();
    let _ = agent.command(&["pause"]).ok();
    for _ in 0..2 {
        agent.kill_runner();
        agent.start();
    }
    eventually("upstream sees that it is paused", || {
        so(flags(&api) == ["paused"])
    });
    // Everything that an operator has.
    for change in [
        vec!["agents", "cordon", "site-1"],
        vec!["agents", "uncordon", "site-1"],
        vec!["agents", "slots", "site-1", "64"],
    ] {
        let _ = world.outpost(&change).ok();
    }
    world.allow("go");
    eventually("what ran is over", || {
        so(agent.status()?["view"]["running"].as_array()?.is_empty())
    });
    let _ = api.trigger("many", &json!({}));
    eventually("upstream explains it", || {
        let explained = world.outpost(&["explain", &run]);
        so(explained.out.contains("paused") || explained.err.contains("paused"))
    });
    assert_eq!(world.starts().len(), 1);
    assert!(agent.status().unwrap()["view"]["flags"]["paused"] == true);
    let _ = agent.command(&["resume"]).ok();
    let _ = api.succeeded(&run);
}

#[test]
fn refusals_are_listed_with_the_reason_that_stayed_here() {
    let world = World::new();
    let agent = world.agent("site-1", &[slow()]);
    let api = world.api();
    let _ = api
        .apply("name: one\ntasks:\n  t:\n    entry: slow\n    with: {n: 61234567}\n")
        .ok();
    let _ = api.finished(&api.trigger("one", &json!({})));
    let refused = list(&agent, "refusals");
    assert_eq!(refused.len(), 1, "{refused:#?}");
    assert_eq!(refused[0]["refusal"], "bad_parameters", "{refused:#?}");
    let why = text(&refused[0]["why"]);
    assert!(why.contains('n') && why.contains("99"), "{why}");
    assert!(list(&agent, "observed").is_empty());
    let shown = agent.command(&["refusals"]).ok();
    assert!(
        shown.contains("refused{bad_parameters}") && shown.contains("n=61234567"),
        "{shown}"
    );
    let none = agent.command(&["refusals", "--entry", "other"]).ok();
    assert!(none.contains("nothing was refused"), "{none}");
}

/// An agent that observes from its start.
fn observer(world: &World, name: &str, entries: &[Entry]) -> Agent {
    let api = world.api();
    let token = world.token_file(&api, name);
    let mut agent = world.enrolled(name, &token, entries);
    agent.observe(&api);
    agent
}

#[test]
fn an_agent_that_observes_is_shown_what_waits_and_whoever_can_run_it_gets_it() {
    let mut world = World::new();
    let guarded = || {
        Entry::script("guarded", "true")
            .with("needs_approval = true")
            .argument("{param.n}")
            .param("n", "kind = \"int\", min = 1, max = 99")
    };
    let agent = observer(&world, "site-1", &[guarded()]);
    let api = world.api();
    let workflow = |name: &str, n: u32| {
        format!(
            "name: {name}\ntasks:\n  t:\n    entry: guarded\n    with: {{n: {n}}}\n    retries: 0\n"
        )
    };
    let _ = api.apply(&workflow("good", 7)).ok();
    let _ = api.apply(&workflow("bad", 100)).ok();
    let runs = ["good", "bad"].map(|name| api.trigger(name, &json!({})));
    let observed = eventually("what would have run is listed", || {
        let observed = list(&agent, "observed");
        (!observed.is_empty()).then_some(observed)
    });
    assert_eq!(observed.len(), 1, "{observed:#?}");
    assert_eq!(observed[0]["workflow"], "good");
    assert_eq!(observed[0]["parameters"][0][1], "7");
    // What would have been asked at its start is asked, too.
    let why = text(&observed[0]["why"]);
    assert!(
        why.contains("nothing begins") && why.contains("needs an approval and has none"),
        "{why}"
    );
    eventually("what would have been refused is in the other list", || {
        let refused = list(&agent, "refusals");
        so(refused
            .iter()
            .any(|one| one["workflow"] == "bad" && one["refusal"] == "bad_parameters"))
    });
    for (run, told) in runs.iter().zip([
        "It was shown this task, and would have taken it.",
        "would have sent it back as refused{bad_parameters}.",
    ]) {
        eventually("people upstream are told", || {
            let explained = world.outpost(&["explain", run, "--output", "json"]);
            so(explained.out.contains(told))
        });
        // No attempt was made of it, and no try used up.
        assert_eq!(attempts_of(&api.run(run).unwrap(), "t").len(), 0);
    }
    // Not a second time, whoever begins anew.
    world.orchestrator.kill_and_restart();
    agent.live(&api);
    let third = api.trigger("good", &json!({}));
    eventually("the next one is shown", || {
        so(list(&agent, "observed").len() == 2)
    });
    assert_eq!(list(&agent, "refusals").len(), 3);
    // Someone comes who can run it.
    let token = world.token_file(&api, "site-2");
    let mut other = world.enrolled("site-2", &token, &[guarded()]);
    let _ = other
        .command_with_catalogue(&["approve", "guarded", "--times", "9"])
        .ok();
    other.start();
    for run in [&runs[0], &third] {
        let tree = api.succeeded(run);
        assert_eq!(attempts_of(&tree, "t").len(), 1);
    }
    assert_eq!(list(&agent, "observed").len(), 2);
    assert_eq!(world.starts().len(), 2);
}
