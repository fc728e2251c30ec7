//! T1: a wall clock that is wrong by more than a day, at either side, loses nothing and starts nothing twice.

use outpost_chaos::preload::Preload;
use outpost_chaos::work::Asked;
use outpost_e2e::eventually;
use outpost_e2e::wait::so;

use crate::{allow, field, holds, trigger};

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
