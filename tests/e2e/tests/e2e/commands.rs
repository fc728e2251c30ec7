//! The commands of people and programs: what they say and how they end.

use outpost_e2e::wait::so;
use outpost_e2e::{Entry, World, eventually};

use crate::kills::one_running;

#[test]
fn a_client_applies_triggers_and_waits_and_its_exit_status_tells_the_outcome() {
    let world = World::new();
    let token = world.dir().join("join.token");
    let _ = world
        .outpost(&[
            "agents",
            "invite",
            "site-1",
            "--token-out",
            &token.to_string_lossy(),
        ])
        .ok();
    let entries = [
        Entry::script("good", "true"),
        Entry::script("bad", "exit 3"),
    ];
    let mut agent = world.enrolled("site-1", &token, &entries);
    agent.start();
    agent.live(&world.api());
    let checked = agent.command_with_catalogue(&["check"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    for (name, code) in [("good", 0), ("bad", 1)] {
        let file = world.dir().join(format!("{name}.yaml"));
        std::fs::write(
            &file,
            format!("name: {name}\ntasks:\n  t: {{entry: {name}}}\n"),
        )
        .unwrap();
        let file = file.to_string_lossy().into_owned();
        assert!(world.outpost(&["apply", &file]).ok().contains("created"));
        assert!(world.outpost(&["apply", &file]).ok().contains("unchanged"));
        assert_eq!(
            world.outpost(&["trigger", name, "--wait"]).code,
            Some(code),
            "{name}"
        );
    }
    let broken = world.dir().join("broken.yaml");
    std::fs::write(&broken, "name: x\ntasks: 7\n").unwrap();
    let error = world
        .outpost(&["apply", &broken.to_string_lossy()])
        .fails_with(2);
    assert!(error.contains("broken.yaml:2"), "{error}");
    let _ = world.outpost(&["run", &"0".repeat(32)]).fails_with(5);
    let _ = world
        .outpost(&["--token-file", "/dev/null", "runs"])
        .code
        .filter(|code| *code != 0)
        .unwrap();
}

#[test]
fn when_the_orchestrator_is_down_agent_and_client_say_so() {
    let (mut world, agent, _, _, attempt) = one_running(0);
    world.orchestrator.kill();
    let _ = world.outpost(&["runs"]).fails_with(3);
    eventually("the agent's status tells the trouble", || {
        let status = agent.status()?;
        so(status["trouble"].is_string() && status["view"]["session"] != "ready")
    });
    let words = agent.command(&["status"]).ok();
    assert!(
        words.contains("trouble") && words.contains(&attempt),
        "{words}"
    );
    let checked = agent.command_with_catalogue(&["check"]);
    assert_eq!(checked.code, Some(1), "{checked:?}");
    assert!(checked.out.contains("cannot be reached"), "{checked:?}");
    world.orchestrator.start();
    agent.live(&world.api());
    eventually("the trouble is over", || {
        so(agent.status()?["trouble"].is_null())
    });
}

#[test]
fn what_pause_and_resume_answer_is_so_afterwards() {
    let world = World::new();
    let agent = world.agent("site-1", &[Entry::script("quick", "true")]);
    let paused = agent.command(&["pause"]).ok();
    assert!(paused.contains("because: paused"), "{paused}");
    let resumed = agent.command(&["resume"]).ok();
    assert!(!resumed.contains("because: paused"), "{resumed}");
}
