//! N1, N4, N7, N8: what the proxy does to one agent's connection, and that its tasks do not notice.

use std::time::Duration;

use outpost_chaos::field::Field;
use outpost_chaos::work::Asked;
use outpost_e2e::eventually_within;
use outpost_e2e::wait::so;
use outpost_faults::proxy::{End, Rules};

use crate::{allow, field, holds, trigger};

/// Runs a task through this disturbance, which ends before the task may.
fn through(disturb: impl Fn(&Field), until_healed: Duration) {
    let field = field();
    let mut asked = Asked::default();
    let run = trigger(&field, &mut asked);
    let attempt = field.api.attempt_in(&run, "wait", "running");
    let (keeper, task) = field.agents[0].keeper_and_task(&attempt);
    disturb(&field);
    std::thread::sleep(until_healed);
    field.proxy.heal();
    assert!(keeper.is_alive() && task.is_alive());
    field.agents[0].live(&field.api);
    // One that is asked for meanwhile is taken too.
    let second = trigger(&field, &mut asked);
    allow(&field, &second);
    allow(&field, &run);
    let _ = (field.api.succeeded(&run), field.api.succeeded(&second));
    assert_eq!(field.world.starts_of("wait"), 2);
    holds(&field, asked);
}

#[test]
fn n1_a_cut_of_five_seconds_is_not_noticed_by_a_task() {
    through(
        |field| field.proxy.disturb_all(Rules::cut()),
        Duration::from_secs(5),
    );
}

#[test]
fn n4_a_black_hole_downwards_right_before_an_assignment_starts_it_once() {
    let field = field();
    let mut asked = Asked::default();
    field.proxy.disturb_all(Rules::deaf_down());
    let run = trigger(&field, &mut asked);
    allow(&field, &run);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(field.world.starts_of("wait"), 0, "the assignment is held");
    // The connection that carried it is gone; the assignment goes out again.
    field.proxy.disturb_all(Rules::ended(End::Rst));
    field.proxy.heal();
    let _ = field.api.succeeded(&run);
    assert_eq!(field.world.starts_of("wait"), 1);
    holds(&field, asked);
}

#[test]
fn n8_reset_end_and_half_close_are_followed_by_another_connection() {
    for rules in [
        Rules::ended(End::Rst),
        Rules::ended(End::Fin),
        Rules::half_closed(),
    ] {
        let field = field();
        let mut asked = Asked::default();
        let run = trigger(&field, &mut asked);
        let _ = field.api.attempt_in(&run, "wait", "running");
        let accepted = field.proxy.accepted();
        for connection in field.proxy.connections() {
            let _ = field.proxy.disturb(connection, rules);
        }
        eventually_within(Duration::from_secs(15), "it connects again", || {
            so(field.proxy.accepted() > accepted)
        });
        allow(&field, &run);
        let _ = field.api.succeeded(&run);
        assert_eq!(field.world.starts_of("wait"), 1);
        holds(&field, asked);
    }
}

#[test]
fn n7_a_connection_of_one_byte_per_second_is_given_up_and_the_next_one_is_as_good_as_any() {
    let field = field();
    let mut asked = Asked::default();
    let run = trigger(&field, &mut asked);
    let _ = field.api.attempt_in(&run, "wait", "running");
    let accepted = field.proxy.accepted();
    field.proxy.disturb_all(Rules::ended(End::Rst));
    field.proxy.disturb_all(Rules::dripping());
    let dripping = eventually_within(Duration::from_secs(30), "it connects again", || {
        so(field.proxy.accepted() > accepted)?;
        field.proxy.connections().last().copied()
    });
    // Longer than the handshake may take, shorter than it would take at this rate.
    eventually_within(
        Duration::from_secs(60),
        "the connection is given up",
        || so(!field.proxy.connections().contains(&dripping)),
    );
    assert_eq!(field.api.get("/readyz").status, 200, "others are served");
    field.proxy.heal();
    allow(&field, &run);
    let _ = field.api.succeeded(&run);
    assert_eq!(field.world.starts_of("wait"), 1);
    holds(&field, asked);
}
