//! D1, D2: a full disk at either side says so, starts nothing and loses nothing.

use std::time::Duration;

use outpost_chaos::disk::Small;
use outpost_chaos::work::Asked;
use outpost_e2e::eventually;
use outpost_e2e::wait::so;

use crate::{allow, field, holds, trigger};

#[test]
#[ignore = "needs: root"]
fn d1_a_full_disk_at_the_agent_starts_nothing_and_loses_nothing() {
    let mut field = field();
    let mut asked = Asked::default();
    field.agents[0].kill_runner();
    if let Some(spawner) = field.agents[0].find_spawner() {
        spawner.kill();
        eventually("the spawner is gone", || so(!spawner.is_alive()));
    }
    let small = Small::in_place_of(&field.agents[0].state, 48);
    field.rooms.insert(0, small);
    field.agents[0].start();
    field.agents[0].live(&field.api);
    let first = trigger(&field, &mut asked);
    let _ = field.api.attempt_in(&first, "wait", "running");
    field.rooms[&0].fill();
    let second = trigger(&field, &mut asked);
    allow(&field, &second);
    allow(&field, &first);
    eventually("the full disk is told", || {
        let logged = field.agents[0].logged();
        so(logged.contains("No space left") || logged.contains("too little room on disk"))
    });
    // Whatever its runner does meanwhile, an init system starts it again.
    for _ in 0..10 {
        if !field.agents[0].is_running() {
            field.agents[0].kill_runner();
            field.agents[0].start();
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    field.rooms[&0].free();
    eventually("both runs are over", || {
        if !field.agents[0].is_running() {
            field.agents[0].kill_runner();
            field.agents[0].start();
        }
        let over = |run: &str| {
            field
                .api
                .run(run)
                .is_some_and(|tree| tree["state"] != "running")
        };
        so(over(&first) && over(&second))
    });
    holds(&field, asked);
}

/// More runs than fit into the room that the orchestrator has taken ahead.
const ASKED_AT_MOST: u32 = 5_000;

#[test]
#[ignore = "needs: root"]
fn d2_a_full_disk_at_the_orchestrator_is_503_before_any_effect_and_heals() {
    let mut field = field();
    let mut asked = Asked::default();
    field.world.orchestrator.kill();
    let dir = field.world.orchestrator.dir().to_owned();
    field.room = Some(Small::in_place_of(&dir, 24));
    field.world.orchestrator.start();
    field.agents[0].live(&field.api);
    let first = trigger(&field, &mut asked);
    let _ = field.api.attempt_in(&first, "wait", "running");
    field.room.iter().for_each(Small::fill);
    let mut refused = 0;
    // The log has its room already: only what does not fit into that is refused.
    for number in 0..ASKED_AT_MOST {
        if refused == 10 {
            break;
        }
        let key = format!("full-{number}");
        match field.api.try_trigger_once("one", &key) {
            // What still found room is as good as any other.
            Some(reply) if reply.status < 300 => {
                let run = outpost_e2e::api::text(&reply.body["run"]);
                allow(&field, &run);
                asked.acknowledged.push(run);
            }
            Some(reply) => {
                assert_eq!(reply.status, 503, "{reply:?}");
                refused += 1;
            }
            None => asked.unanswered += 1,
        }
    }
    assert!(refused > 0, "the disk was full");
    assert!(field.world.orchestrator.is_running());
    field.room.iter().for_each(Small::free);
    allow(&field, &first);
    let _ = field.api.succeeded(&first);
    let last = trigger(&field, &mut asked);
    allow(&field, &last);
    let _ = field.api.succeeded(&last);
    holds(&field, asked);
}
