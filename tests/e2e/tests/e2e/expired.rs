//! A long outage: the agent's certificate ends while nobody can be asked for the next one, and the agent comes back by
//! itself. Whoever else holds what it held is told apart.

use std::path::PathBuf;
use std::time::Duration;

use outpost_e2e::api::{attempts_of, client};
use outpost_e2e::wait::so;
use outpost_e2e::{Agent, World, eventually, eventually_within};
use serde_json::json;

use crate::clock::{offset_of, preloading};
use crate::kills::{ONE_GATE, gate};
use crate::preload::{WRONG_CLOCK, compiled};

/// As short as a certificate's life can be.
const SHORT: [&str; 2] = ["--agent-cert-ttl", "10s"];
/// More than the longest pause between two requests of an agent that is refused.
const LONGEST_PAUSE: Duration = Duration::from_secs(180);
/// A certificate's life, and the waits between some tries.
const A_WHILE: Duration = Duration::from_secs(90);

/// Waits until the certificate has ended and the agent says so.
fn ended(agent: &Agent) {
    eventually_within(A_WHILE, "the certificate has ended", || {
        let shown = agent.command(&["status"]).ok();
        so(shown.contains("another one is asked for"))
    });
}

fn metrics(world: &World) -> String {
    let token = std::fs::read_to_string(world.orchestrator.dir().join("admin.token")).unwrap();
    let url = format!("http://{}/metrics", world.orchestrator.api_port());
    let answer = client().get(url).bearer_auth(token.trim()).send().unwrap();
    answer.text().unwrap()
}

/// What a counter stands at, labels of tenants aside.
fn counted(world: &World, name: &str) -> u64 {
    let metrics = metrics(world);
    let line = metrics.lines().find(|line| line.starts_with(name));
    let number = line.unwrap_or_else(|| panic!("no {name} in {metrics}"));
    number.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn an_agent_whose_certificate_ended_in_an_outage_comes_back_by_itself() {
    let mut world = World::serving(&SHORT);
    let api = world.api();
    let agent = world.agent("site-1", &[gate(0)]);
    let _ = api.apply(ONE_GATE).ok();
    let run = api.trigger("one", &json!({}));
    let attempt = api.attempt_in(&run, "wait", "running");
    let (keeper, task) = agent.keeper_and_task(&attempt);
    world.orchestrator.kill();
    ended(&agent);
    assert!(keeper.is_alive() && task.is_alive(), "tasks are untouched");
    world.allow("go");
    eventually("the task ends", || so(!task.is_alive()));

    world.orchestrator.start();
    let tree = eventually_within(A_WHILE, "the outcome is told", || {
        let tree = world.api().run(&run)?;
        (tree["state"] == "succeeded").then_some(tree)
    });
    assert_eq!(attempts_of(&tree, "wait").len(), 1, "{tree:#}");
    assert_eq!(world.starts_of("wait"), 1);
    let words = agent.ledger_words();
    let over = format!("{attempt} is over: succeeded ");
    let told = words.iter().filter(|(_, said)| said.contains(&over));
    assert_eq!(told.count(), 1, "how often its end is in the ledger");
    let asked = words
        .iter()
        .filter(|(_, said)| said.contains("in place of one that ended"));
    assert!(asked.count() >= 2, "both requests are in the ledger");
    let _ = agent.command(&["ledger", "verify"]).ok();

    let name = "outpost_certificate_recoveries_total";
    assert_eq!(counted(&world, name), 1);
    let metrics = metrics(&world);
    let told = metrics.lines().find(|line| {
        line.contains("safety_events_total") && line.contains("certificate_recovered")
    });
    assert!(told.is_some_and(|line| line.ends_with(" 1")), "{told:?}");
    let log = std::fs::read_to_string(world.orchestrator.log()).unwrap();
    assert!(
        log.contains("issued in place of one that had ended"),
        "{log}"
    );
    // And it goes on as before: the next certificates are renewed ones.
    let renewed = || counted(&world, "outpost_certificate_renewals_total");
    eventually("a renewal", || so(renewed() > 0));
    let run = world.api().trigger("one", &json!({}));
    let _ = world.api().succeeded(&run);
}

#[test]
fn where_nothing_is_recovered_the_agent_says_what_helps_and_enrols_again() {
    let mut world = World::serving(&[&SHORT[..], &["--recover-within", "0s"]].concat());
    let mut agent = world.agent("site-1", &[gate(0)]);
    world.orchestrator.kill();
    ended(&agent);
    world.orchestrator.start();
    eventually_within(A_WHILE, "it says what helps", || {
        let status = agent.status()?;
        so(status["trouble"].as_str()?.contains("invite it again"))
    });
    let shown = agent.command_with_catalogue(&["check"]);
    assert_eq!(shown.code, Some(1));
    assert!(shown.out.contains("enrol --force"), "{}", shown.out);
    let api = world.api();

    let removed = api.delete("/api/v1/agents/site-1");
    assert!(removed.status < 300, "{}", removed.body);
    let token: PathBuf = world.token_file(&api, "site-1");
    agent.kill_runner();
    let token = token.to_string_lossy().into_owned();
    let enrol = ["enrol", "--force", "--token-file", &token];
    let _ = agent.command(&enrol).ok();
    agent.start();
    agent.live(&api);
}

/// Ends the orchestrator while the agent renews nothing: a key that is kept for a certificate to come would be the copy's
/// next one too.
fn killed_between_renewals(world: &mut World, agent: &Agent) {
    let pending = agent.state.join("keys/pending.key");
    eventually_within(A_WHILE, "no renewal is cut short", || {
        eventually("none is under way", || so(!pending.exists()));
        world.orchestrator.kill();
        eventually("the agent knows that nobody hears it", || {
            so(agent.status()?["view"]["session"] != "ready")
        });
        if !pending.exists() {
            return Some(());
        }
        world.orchestrator.start();
        agent.live(&world.api());
        None
    });
}

#[test]
fn of_two_copies_that_come_back_the_second_is_noticed() {
    let mut world = World::serving(&SHORT);
    let original = world.agent("bank", &[gate(0)]);
    killed_between_renewals(&mut world, &original);
    ended(&original);
    let mut copy = world.copy_of(&original, &[gate(0)]);
    world.orchestrator.start();
    eventually_within(A_WHILE, "the first one is back", || {
        so(original.status()?["view"]["session"] == "ready")
    });
    copy.start();
    let api = world.api();
    let agent = eventually_within(A_WHILE, "both are set aside", || {
        let agent = api.agent("bank")?;
        let holders = agent["holders"].as_array()?.len();
        (holders == 2).then_some(agent)
    });
    assert_eq!(agent["holders"][1]["connected"], false, "{agent:#}");
    let resolve = ["agents", "resolve", "bank", "--keep", "this"];
    let _ = world.outpost(&resolve).ok();
    original.live(&api);
    let _ = api.apply(ONE_GATE).ok();
    world.allow("go");
    let _ = api.succeeded(&api.trigger("one", &json!({})));
    // Once the kept one has renewed its key, the copy's is one that was left behind.
    let words = [
        "another holder of its identity was kept",
        "it is known by another key",
    ];
    eventually_within(LONGEST_PAUSE, "the copy says why it is turned away", || {
        let logged = copy.logged();
        so(words.iter().any(|words| logged.contains(words)))
    });
}

#[test]
#[ignore = "needs: root"]
fn a_certificate_that_ended_by_the_sites_clock_only_is_gone_on_with() {
    let world = World::serving(&["--agent-cert-ttl", "1h"]);
    let api = world.api();
    let (object, set) = offset_of(&world);
    let object = compiled(world.dir(), WRONG_CLOCK, "OFFSET", &object);
    let token = world.token_file(&api, "site-1");
    let mut agent = world.enrolled("site-1", &token, &[gate(0)]);
    agent.program = Some(preloading(world.dir(), &object));
    agent.start();
    agent.live(&api);
    set(2 * 3600);
    agent.link().kill();
    agent.live(&api);
    let _ = api.apply(ONE_GATE).ok();
    world.allow("go");
    let _ = api.succeeded(&api.trigger("one", &json!({})));
    let shown = agent.command(&["status"]).ok();
    assert!(shown.contains("the orchestrator takes it"), "{shown}");
    set(0);
    let _ = api.succeeded(&api.trigger("one", &json!({})));
}
