//! D3: an fsync that fails once ends the process; the next one begins from the last good state.

use std::time::Duration;

use outpost_chaos::preload::Preload;
use outpost_chaos::work::Asked;
use outpost_e2e::eventually;
use outpost_e2e::wait::so;

use crate::{allow, field, holds, trigger};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn d3_a_failed_fsync_ends_the_agent_and_its_task_and_outcome_survive() {
    let mut field = field();
    let mut asked = Asked::default();
    let shim = Preload::fsync(field.world.dir());
    field.agents[0].kill_runner();
    field.agents[0].env = shim.environment();
    field.agents[0].start();
    field.agents[0].live(&field.api);
    let run = trigger(&field, &mut asked);
    let _ = field.api.attempt_in(&run, "wait", "running");
    shim.fail_once();
    allow(&field, &run);
    let status = field.agents[0].ended_within(SOON);
    assert_ne!(status, Some(0), "it ends as one that failed");
    assert!(shim.has_failed());
    let logged = field.agents[0].logged();
    assert!(logged.contains("syncing"), "{logged}");
    field.agents[0].start();
    let _ = field.api.succeeded(&run);
    assert_eq!(field.world.starts_of("wait"), 1);
    holds(&field, asked);
}

#[test]
fn d3_a_failed_fsync_ends_the_orchestrator_and_what_it_acknowledged_is_there() {
    let mut field = field();
    let mut asked = Asked::default();
    let shim = Preload::fsync(field.world.dir());
    field.world.orchestrator.env = shim.environment();
    field.world.orchestrator.kill_and_restart();
    let before = trigger(&field, &mut asked);
    let _ = field.api.attempt_in(&before, "wait", "running");
    shim.fail_once();
    // Whatever is said to this one, it must be true.
    let reply = field.api.try_trigger_once("one", "in-between");
    eventually("it ends", || so(!field.world.orchestrator.is_running()));
    assert!(shim.has_failed());
    let answered = reply.filter(|reply| reply.status < 300);
    match answered {
        Some(reply) => asked
            .acknowledged
            .push(outpost_e2e::api::text(&reply.body["run"])),
        None => asked.unanswered += 1,
    }
    let log = std::fs::read_to_string(field.world.orchestrator.log()).unwrap();
    assert!(log.contains("can no longer be trusted"), "{log}");
    field.world.orchestrator.kill_and_restart();
    for run in outpost_chaos::gather::runs(&field.api) {
        allow(&field, &run.run);
    }
    let _ = field.api.succeeded(&before);
    holds(&field, asked);
}
