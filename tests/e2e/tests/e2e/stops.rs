//! Ordered ends: SIGTERM, removal of an agent, a second instance.

use std::time::Duration;

use outpost_e2e::wait::so;
use outpost_e2e::{World, eventually, eventually_within, procs};

use crate::kills::{gate, one_running};

#[test]
fn p6_sigterm_ends_the_agent_soon_and_its_task_goes_on() {
    let (world, mut agent, api, run, attempt) = one_running(0);
    let (keeper, task) = agent.keeper_and_task(&attempt);
    let link = agent.link();
    let status = agent.terminate_within(Duration::from_secs(20));
    assert_eq!(status, Some(0));
    eventually("link ends with the runner", || so(!link.is_alive()));
    assert!(keeper.is_alive() && task.is_alive());
    agent.start();
    agent.live(&api);
    world.allow("go");
    let _ = api.succeeded(&run);
    assert_eq!(world.starts_of("wait"), 1);
}

#[test]
fn sigterm_ends_the_orchestrator_in_order_and_nothing_is_lost() {
    let (mut world, _agent, api, run, _) = one_running(0);
    world
        .orchestrator
        .process()
        .signal(rustix::process::Signal::TERM);
    assert_eq!(
        world.orchestrator.ended_within(Duration::from_secs(15)),
        Some(0)
    );
    world.orchestrator.start();
    world.allow("go");
    let _ = api.succeeded(&run);
    assert_eq!(world.starts_of("wait"), 1);
}

#[test]
fn i6_an_agent_removed_in_mid_run_is_cut_off_within_five_seconds_and_cannot_come_back() {
    let (_world, mut agent, api, _, attempt) = one_running(0);
    let (_, task) = agent.keeper_and_task(&attempt);
    let link = agent.link();
    let connected = |pid| {
        let (own, open) = (procs::sockets(pid), procs::established_tcp());
        own.iter().any(|inode| open.contains(inode))
    };
    // Nobody but root is told what a process has open that closes itself to its account.
    let is_seen = outpost_e2e::site::is_root();
    assert!(
        connected(link.pid) || !is_seen,
        "the test looks at the right place"
    );
    assert_eq!(api.delete("/api/v1/agents/site-1").status, 204);
    eventually_within(Duration::from_secs(5), "the connection is cut", || {
        so(!connected(link.pid))
    });
    let presence = || api.agent("site-1").map(|agent| agent["presence"].clone());
    assert!(presence().is_none_or(|presence| presence == "removed"));

    agent.kill_runner();
    let before = agent.logged().len();
    agent.start();
    eventually("the orchestrator refuses it", || {
        let logged = agent.logged();
        so(logged[before..].to_lowercase().contains("refused")
            || logged[before..].contains("removed"))
    });
    assert!(presence().is_none_or(|presence| presence == "removed"));
    assert!(task.is_alive(), "losing contact ends no task of this entry");
}

#[test]
fn a_second_orchestrator_on_the_same_directory_is_refused() {
    let world = World::new();
    let mut second = world.orchestrator.serve();
    second.args(["--agents", "127.0.0.1:0", "--api", "127.0.0.1:0"]);
    let error = outpost_e2e::process::run(second).fails_with(2);
    assert!(error.contains("another orchestrator uses"), "{error}");
    assert_eq!(
        world.api().get("/readyz").status,
        200,
        "the first one goes on"
    );
}

#[test]
fn a_port_that_is_taken_is_told_with_the_way_out() {
    for (mine, other) in [("--agents", "--api"), ("--api", "--agents")] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap().to_string();
        let mut world = World::new();
        world.orchestrator.kill();
        let mut serve = world.orchestrator.serve();
        serve.args([mine, &taken, other, "127.0.0.1:0"]);
        let error = outpost_e2e::process::run(serve).fails_with(2);
        assert!(
            error.contains(&taken) && error.contains("choose another port"),
            "{error}"
        );
    }
}

#[test]
fn a_second_runner_on_the_same_state_directory_is_refused() {
    let world = World::new();
    let agent = world.agent("site-1", &[gate(0)]);
    let error = agent.command_with_catalogue(&["run"]).fails_with(1);
    assert!(error.contains("another agent is running"), "{error}");
    assert!(agent.runner().is_alive());
}
