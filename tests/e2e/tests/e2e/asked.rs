//! What is asked before a start, and what people are told of what does not begin.

use outpost_e2e::api::{attempts_of, text};
use outpost_e2e::wait::so;
use outpost_e2e::{Agent, Entry, World, eventually, site};
use rustix::process::Signal;
use serde_json::{Value, json};

fn lines(said: &str) -> Vec<Value> {
    let lines = said.lines().filter(|line| line.starts_with('{'));
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn what_a_paused_agent_holds_is_explained_as_waiting_there_and_not_as_running() {
    let world = World::new();
    let entry = Entry::script("slow", "until [ -e \"$shared/go\" ]; do sleep 0.05; done")
        .with("max_parallel = 1");
    let agent = world.agent("site-1", &[entry]);
    let api = world.api();
    let _ = api
        .apply("name: many\ntasks:\n  a: {entry: slow}\n  b: {entry: slow}\n")
        .ok();
    let run = api.trigger("many", &json!({}));
    eventually("one runs and the other waits here", || {
        let queued = agent.status()?["view"]["queued"].as_array()?.len();
        so(world.starts().len() == 1 && queued == 1)
    });
    let _ = agent.command(&["pause"]).ok();
    let explain = || api.get(&format!("/api/v1/runs/{run}/explain")).ok()["items"].clone();
    // What runs is told by its keeper, and so by the agent, in a moment of its own.
    let items = eventually("it is known what is paused and what runs", || {
        let items = explain().as_array()?.clone();
        let has = |code: &str| items.iter().any(|item| item["code"] == code);
        (has("paused") && has("running")).then_some(items)
    });
    let mut told: Vec<(String, String)> = items
        .iter()
        .map(|item| (text(&item["state"]), text(&item["code"])))
        .collect();
    told.sort();
    let pair = |state: &str, code: &str| (state.to_owned(), code.to_owned());
    assert_eq!(
        told,
        [pair("assigned", "paused"), pair("running", "running")]
    );
    // As the run itself is shown.
    let tree = api.run(&run).unwrap();
    for item in &items {
        let attempts = attempts_of(&tree, item["task"].as_str().unwrap());
        assert_eq!(attempts[0]["state"], item["state"], "{tree:#}");
    }
    let shown = world.outpost(&["explain", &run]).ok();
    let waits = shown.lines().find(|line| line.contains("assigned"));
    assert!(waits.is_some(), "{shown}");
    assert!(
        shown.contains("holds it and starts nothing: its site has paused it"),
        "{shown}"
    );
    world.allow("go");
    let _ = agent.command(&["resume"]).ok();
    let _ = api.succeeded(&run);
}

/// An agent that observes, with these sources of secrets.
fn observer(world: &World, entries: &[Entry], secrets: &str) -> Agent {
    let api = world.api();
    let token = world.token_file(&api, "site-1");
    let mut agent = world.enrolled("site-1", &token, &[]);
    let home = agent.site.catalogue().parent().unwrap().to_owned();
    let file = home.join("secrets.toml");
    std::fs::write(&file, secrets.replace("HOME", home.to_str().unwrap())).unwrap();
    site::mode(&file, 0o644);
    agent.site.write(entries);
    agent.observe(&api);
    agent
}

#[test]
fn an_observing_agent_looks_whether_secrets_are_there_and_says_what_it_did_not_try() {
    let world = World::new();
    let entry = |name: &str, secrets: &[&str]| {
        let entry = Entry::script(name, "true");
        secrets.iter().fold(entry, |entry, secret| {
            entry.with(&format!("secret.{secret} = {{ as = \"fd\" }}"))
        })
    };
    let sources = "[secret.there]\nfile = \"HOME/there\"\n[secret.gone]\nfile = \"HOME/gone\"\n\
                   [secret.made]\ncommand = [\"/bin/sh\", \"-c\", \"echo canary-made > HOME/ran; echo canary-made\"]\n";
    let entries = [
        entry("good", &["there"]),
        entry("bad", &["gone"]),
        entry("unknown", &["made"]),
    ];
    let agent = observer(&world, &entries, sources);
    let home = agent.site.catalogue().parent().unwrap().to_owned();
    std::fs::write(home.join("there"), "canary-there").unwrap();
    site::mode(&home.join("there"), 0o600);
    let api = world.api();
    let _ = api
        .apply("name: w\ntasks:\n  a: {entry: good}\n  b: {entry: bad}\n  c: {entry: unknown}\n")
        .ok();
    let _ = api.trigger("w", &json!({}));
    let observed = eventually("all three are listed", || {
        let observed = lines(&agent.command(&["observed", "--output", "json"]).ok());
        (observed.len() == 3).then_some(observed)
    });
    let why = |entry: &str| {
        let one = observed.iter().find(|one| one["entry"] == entry);
        text(&one.unwrap()["why"])
    };
    let good = why("good");
    assert!(good.ends_with("nothing begins"), "{good}");
    let bad = why("bad");
    let none = "; nor would it have begun: the secret `gone` (file ";
    assert!(
        bad.contains(none) && bad.contains("gone) cannot be had: "),
        "{bad}"
    );
    let unknown = why("unknown");
    assert!(
        unknown.ends_with("; not tried: the secret `made` (command /bin/sh): it was not executed"),
        "{unknown}"
    );
    assert!(!home.join("ran").exists());
    for said in [agent.logged(), format!("{observed:?}")] {
        assert!(!said.contains("canary"), "{said}");
    }
    // What was found stays here.
    for (_, words) in agent.ledger_words() {
        assert!(
            !words.contains("gone") && !words.contains("made"),
            "{words}"
        );
    }
    assert!(world.starts().is_empty());
}

fn approvals_left(agent: &Agent) -> Option<u64> {
    let left = agent.command_with_catalogue(&["approve", "--output", "json"]);
    let left: Vec<Value> = serde_json::from_str(&left.ok()).ok()?;
    left.first().map_or(Some(0), |one| one["left"].as_u64())
}

#[test]
fn what_was_let_begin_and_could_not_soon_is_asked_about_again() {
    let world = World::new();
    let guarded = Entry::script("guarded", "true").with("needs_approval = true");
    let agent = world.agent("bank", &[Entry::script("plain", "true"), guarded]);
    let api = world.api();
    for entry in ["plain", "guarded"] {
        let workflow = format!("name: {entry}\ntasks:\n  t: {{entry: {entry}}}\n");
        let _ = api.apply(&workflow).ok();
    }
    let _ = api.succeeded(&api.trigger("plain", &json!({})));
    let _ = agent
        .command_with_catalogue(&["approve", "guarded", "--times", "2"])
        .ok();
    // Whoever could begin it stands still, as on a host that was suspended: spawner and keepers, which look like it.
    let mut still = agent.processes();
    still.retain(|one| one.is_role("spawner"));
    assert!(!still.is_empty());
    still.iter().for_each(|one| one.signal(Signal::STOP));
    eventually("they stand still", || {
        so(still.iter().all(|one| one.is_stopped() || !one.is_alive()))
    });
    let run = api.trigger("guarded", &json!({}));
    let asked = eventually("it was let begin", || {
        (approvals_left(&agent)? == 1).then(std::time::Instant::now)
    });
    eventually("its time is over", || {
        so(asked.elapsed() > std::time::Duration::from_secs(11))
    });
    still.iter().for_each(|one| one.signal(Signal::CONT));
    let _ = api.succeeded(&run);
    assert_eq!(approvals_left(&agent), Some(0), "the second start's own");
    assert_eq!(world.starts().len(), 2, "it began once");
}

/// Short tasks wait at the keeper of the one before them; what is asked about does not, because nobody asks there.
#[test]
fn what_needs_an_approval_is_asked_about_when_it_starts_and_not_while_another_runs() {
    let world = World::new();
    let wait = "until [ -e \"$shared/go\" ]; do sleep 0.05; done";
    let body = format!("if [ -e \"$shared/hold\" ]; then {wait}; fi");
    let guarded = Entry::script("guarded", &body).with("needs_approval = true");
    let agent = world.agent("bank", &[guarded]);
    let api = world.api();
    let workflow = |name: &str, count: usize| {
        let tasks = (0..count).map(|n| format!("  {name}{n}: {{entry: guarded, retries: 0}}\n"));
        format!("name: {name}\ntasks:\n{}", tasks.collect::<String>())
    };
    let _ = api.apply(&workflow("short", 4)).ok();
    let _ = api.apply(&workflow("long", 12)).ok();
    let _ = agent
        .command_with_catalogue(&["approve", "guarded", "--times", "100"])
        .ok();
    // Known to be over within moments: what is like that waits at keepers.
    let _ = api.succeeded(&api.trigger("short", &json!({})));
    world.allow("hold");
    let run = api.trigger("long", &json!({}));
    let slots = usize::from(agent.slots);
    eventually("every slot has one and others wait here", || {
        let queued = agent.status()?["view"]["queued"].as_array()?.len();
        so(queued > 0 && world.starts().len() == 4 + slots)
    });
    let used = u64::try_from(4 + slots).unwrap();
    assert_eq!(approvals_left(&agent), Some(100 - used), "one each");
    let _ = agent
        .command_with_catalogue(&["approve", "guarded", "--withdraw"])
        .ok();
    world.allow("go");
    let tree = api.finished(&run);
    let outcomes = (0..12).map(|n| text(&attempts_of(&tree, &format!("long{n}"))[0]["outcome"]));
    let outcomes: Vec<String> = outcomes.collect();
    let of = |what: &str| outcomes.iter().filter(|one| *one == what).count();
    assert_eq!(of("succeeded"), slots, "{outcomes:?}");
    assert_eq!(of("refused{not_approved}"), 12 - slots, "{outcomes:?}");
}
