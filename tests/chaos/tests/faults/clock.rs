//! T1: a wall clock that is wrong by more than a day, at either side, loses nothing and starts nothing twice.

use std::time::Duration;

use outpost_chaos::preload::Preload;
use outpost_chaos::work::Asked;
use outpost_e2e::wait::so;
use outpost_e2e::{eventually, eventually_within};

use crate::{allow, field, holds, trigger};

/// Until an agent that was turned away for a while has tried again, twice after the longest pause there is: at the first
/// time the orchestrator may not yet have noticed that its clock was set.
const SOON: Duration = Duration::from_secs(660);
/// More than a certificate lives.
const OFF_S: i64 = 25 * 60 * 60;

#[test]
fn t1_an_agent_whose_clock_jumps_by_a_day_works_on_and_connects_again_once_it_is_right() {
    for off in [OFF_S, -OFF_S] {
        let mut field = field();
        let mut asked = Asked::default();
        let shim = Preload::clock(field.world.dir());
        shim.step(0);
        field.agents[0].kill_runner();
        field.agents[0].env = shim.environment();
        field.agents[0].start();
        field.agents[0].live(&field.api);
        let first = trigger(&field, &mut asked);
        let _ = field.api.attempt_in(&first, "wait", "running");
        shim.step(off);
        allow(&field, &first);
        let _ = field.api.succeeded(&first);
        // A new connection looks at certificates, whose times are wrong by that clock: it may have to wait.
        let second = trigger(&field, &mut asked);
        allow(&field, &second);
        let link = field.agents[0].link();
        link.kill();
        eventually("there is another link", || {
            so(field.agents[0].link() != link)
        });
        shim.step(0);
        field.agents[0].live(&field.api);
        let _ = field.api.succeeded(&second);
        assert_eq!(field.world.starts_of("wait"), 2, "off by {off} s");
        holds(&field, asked);
    }
}

/// What it presents was issued at a time that is not, and neither holds by the agents' clocks.
#[test]
fn t1_an_orchestrator_that_began_with_a_clock_wrong_by_a_day_is_connected_to_once_it_is_right() {
    for off in [OFF_S, -OFF_S] {
        let mut field = field();
        let mut asked = Asked::default();
        let shim = Preload::clock(field.world.dir());
        let run = trigger(&field, &mut asked);
        let _ = field.api.attempt_in(&run, "wait", "running");
        field.world.orchestrator.env = shim.environment();
        field.world.orchestrator.kill();
        shim.step(off);
        field.world.orchestrator.start();
        allow(&field, &run);
        eventually("the agent says what is wrong", || {
            let status = field.agents[0].status()?;
            so(status["trouble"].as_str()?.contains("certificate"))
        });
        shim.step(0);
        let tree = eventually_within(SOON, "the outcome is told", || {
            let tree = field.api.run(&run)?;
            (tree["state"] == "succeeded").then_some(tree)
        });
        assert_eq!(
            tree["tasks"][0]["attempts"].as_array().map(Vec::len),
            Some(1)
        );
        assert_eq!(field.world.starts_of("wait"), 1, "off by {off} s");
        holds(&field, asked);
    }
}

#[test]
fn t1_an_orchestrator_whose_clock_jumps_by_a_day_and_back_loses_nothing() {
    for off in [OFF_S, -OFF_S] {
        let mut field = field();
        let mut asked = Asked::default();
        let shim = Preload::clock(field.world.dir());
        shim.step(0);
        field.world.orchestrator.env = shim.environment();
        field.world.orchestrator.kill_and_restart();
        field.agents[0].live(&field.api);
        let first = trigger(&field, &mut asked);
        let _ = field.api.attempt_in(&first, "wait", "running");
        shim.step(off);
        let second = trigger(&field, &mut asked);
        shim.step(0);
        allow(&field, &first);
        allow(&field, &second);
        let _ = (field.api.succeeded(&first), field.api.succeeded(&second));
        assert_eq!(field.world.starts_of("wait"), 2, "off by {off} s");
        holds(&field, asked);
    }
}
