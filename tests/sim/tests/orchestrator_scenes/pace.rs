//! How much an agent is given at once, and that nobody is given work who may not start it.

use outpost_orchestrator_core::event::AgentChange;
use outpost_orchestrator_core::record::TaskState;
use outpost_proto::message::{AttemptState, Flags};
use outpost_proto::outcome::{Outcome, Report};
use outpost_sim::stage::{Stage, assigned, report, task};

use crate::common::*;

/// How many attempts an agent with so many slots holds when more than enough waits, after tasks that took this long.
fn holds(slots: u16, limit: Option<u16>, took_ms: &[u64]) -> usize {
    let mut scene = Stage::new();
    let mut a = scene.hand("a");
    a.slots = slots;
    a.connects(&mut scene, vec![]);
    if limit.is_some() {
        let change = AgentChange {
            slots_limit: Some(limit),
            ..AgentChange::default()
        };
        configure(&mut scene, "a", change);
    }
    scene.apply(vec![task("t", "load", &[])]);
    for took in took_ms {
        scene.trigger();
        let sent = assigned(&a.hears(&mut scene))[0].attempt;
        let end = Report {
            duration_ms: *took,
            ..report(Outcome::Succeeded)
        };
        a.tells(&mut scene, sent, AttemptState::Finished(end));
    }
    let tasks = (0..250).map(|n| task(&format!("t{n}"), "load", &[]));
    scene.apply(tasks.collect());
    scene.trigger();
    let sent = assigned(&a.hears(&mut scene)).len();
    assert_eq!(scene.agent("a").attempts, sent);
    sent
}

#[test]
fn short_tasks_wait_where_they_run_and_long_ones_do_not() {
    assert_eq!(holds(2, None, &[]), 4, "as many wait as run");
    assert_eq!(holds(5, None, &[60_000]), 10);
    // What lasts a millisecond pulls the pace down by a quarter each time: 50 ms of work wait at most.
    for many in [8, 10, 12, 16, 30] {
        let pace = (0..many).fold(1_000_000_u64, |us, _| us - us / 4 + 1_000 / 4);
        let waits = (2 * 50_000 / pace).clamp(2, 128);
        assert_eq!(
            holds(2, None, &vec![0; many]) as u64,
            2 + waits,
            "{many} tasks"
        );
        let pace = (0..many).fold(1_000_000_u64, |us, _| us - us / 4 + 8_000 / 4);
        let waits = (2 * 50_000 / pace).clamp(2, 128);
        assert_eq!(
            holds(2, None, &vec![7; many]) as u64,
            2 + waits,
            "{many} tasks of 7 ms"
        );
    }
    // One long task among them: it counts for a quarter.
    let mut took = vec![0; 20];
    took.push(1_999);
    assert_eq!(holds(2, None, &took), 4);
}

#[test]
fn a_person_may_allow_fewer_than_the_agent_offers_and_not_more() {
    for (limit, held) in [(0, 0), (1, 1), (3, 3), (4, 8), (5, 8)] {
        assert_eq!(holds(4, Some(limit), &[]), held, "{limit} of 4");
    }
}

#[test]
fn nobody_is_given_work_who_may_not_start_it() {
    let flag = |make: fn(&mut Flags)| {
        let mut flags = Flags::default();
        make(&mut flags);
        flags
    };
    for (flags, code) in [
        (Flags::default(), None),
        (flag(|flags| flags.hold = true), Some("hold")),
        (flag(|flags| flags.paused = true), Some("paused")),
        (flag(|flags| flags.draining = true), Some("draining")),
        (flag(|flags| flags.observe = true), Some("observe")),
    ] {
        let mut scene = Stage::new();
        let mut a = scene.hand("a");
        a.flags = flags;
        a.connects(&mut scene, vec![]);
        scene.apply(vec![task("t", "load", &[])]);
        let run = scene.trigger();
        let sent = matches!(state(&scene, run, 0), TaskState::Active { .. });
        assert_eq!(sent, code.is_none(), "{flags:?}");
        let why = scene.explain(run);
        assert!(
            why.iter().all(|why| why.code.contains(code.unwrap_or(""))),
            "{why:?}"
        );
        a.flags = Flags::default();
        a.beats(&mut scene);
        assert!(matches!(state(&scene, run, 0), TaskState::Active { .. }));
    }
}
