//! Parts of an agent that end again and again: each next one waits longer, and no work is taken while it waits.

use std::time::{Duration, Instant};

use outpost_e2e::wait::so;
use outpost_e2e::{World, eventually, eventually_within};
use serde_json::json;

use crate::kills::{ONE_GATE, gate, one_running};

#[test]
fn c10_an_agent_that_ends_again_and_again_waits_before_it_takes_work_and_keeps_what_runs() {
    let (world, mut agent, api, run, attempt) = one_running(0);
    let (keeper, task) = agent.keeper_and_task(&attempt);
    agent.kill_runner();
    // On a slow machine the first one may have lived long enough to have lasted, or not.
    let count = agent.state.join("crashes");
    std::fs::remove_file(&count).unwrap();
    // It dies by itself as soon as it has committed anything.
    let places = world.dir().join("places");
    std::fs::create_dir(&places).unwrap();
    std::fs::write(places.join("runner-committed"), "kill").unwrap();
    let variable = "OUTPOST_FAILPOINTS".to_owned();
    agent.env = vec![(variable, places.display().to_string())];
    for _ in 0..6 {
        agent.start();
        assert_eq!(agent.ended_within(Duration::from_secs(60)), None);
    }
    agent.env.clear();
    let second = api.trigger("one", &json!({}));
    let before = agent.logged().len();
    let since = Instant::now();
    agent.start();
    eventually("it says that it waits", || {
        so(agent.logged()[before..].contains("times in a row"))
    });
    assert!(keeper.is_alive() && task.is_alive(), "P6");
    let _ = api.attempt_in(&second, "wait", "running");
    assert!(
        since.elapsed() >= Duration::from_secs(7),
        "work was taken after {:?}",
        since.elapsed()
    );
    world.allow("go");
    let _ = (api.succeeded(&run), api.succeeded(&second));
    assert_eq!(world.starts_of("wait"), 2);
    // One that brought work to its end has lasted.
    eventually("the count begins anew", || {
        so(std::fs::read_to_string(&count).ok()? == "0")
    });
}

#[test]
fn c10_a_link_that_ends_again_and_again_is_started_less_and_less_often_and_nothing_starts_twice() {
    let world = World::new();
    let agent = world.agent("site-1", &[gate(0)]);
    let api = world.api();
    let _ = api.apply(ONE_GATE).ok();
    agent.link().kill();
    let run = api.trigger("one", &json!({}));
    let since = Instant::now();
    let mut seen = std::collections::BTreeSet::new();
    while since.elapsed() < Duration::from_secs(8) {
        if let Some(link) = agent.find_link() {
            link.kill();
            seen.insert((link.pid, link.start));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!seen.is_empty() && seen.len() <= 12, "{} links", seen.len());
    assert!(agent.runner().is_alive());
    // Left alone, the next one does its work.
    world.allow("go");
    eventually_within(Duration::from_secs(60), "it runs", || {
        so(api.run(&run)?["state"] == "succeeded")
    });
    assert_eq!(world.starts_of("wait"), 1);
}
