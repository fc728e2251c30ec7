//! A run from trigger to end on one agent.

use outpost_proto::outcome::{Interruption, Refusal};

use super::*;

#[test]
fn a_chain_of_two_tasks_runs_in_order() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow(
        "nightly",
        vec![task("load", "load", &[]), task("report", "report", &[0])],
    ));
    let (run, said) = rig.trigger("nightly");
    let [first] = &assigns(&said)[..] else {
        panic!("{said:?}")
    };
    assert_eq!(
        (first.run, first.task, first.fence, first.catalogue_version),
        (run, TaskIndex(0), Fence(1), CatalogueVersion(1))
    );
    assert_eq!(said.len(), 1, "nothing else happened");
    assert_eq!(rig.phase(first.attempt), Phase::Assigned);

    assert_eq!(
        site.says(&mut rig, UpMessage::Ack(first.command_seq)),
        [],
        "nothing else happened"
    );
    assert_eq!(rig.phase(first.attempt), Phase::Assigned);
    assert_eq!(
        site.tells(&mut rig, first.attempt, AttemptState::Starting),
        [site.ack(1)]
    );
    assert_eq!(rig.phase(first.attempt), Phase::Running);
    assert_eq!(
        site.tells(&mut rig, first.attempt, AttemptState::Running),
        [site.ack(2)]
    );
    assert_eq!(rig.attempt(first.attempt).started_at, Some(rig.now.0));

    let said = site.ends(&mut rig, first.attempt, Outcome::Succeeded);
    let [second] = &assigns(&said)[..] else {
        panic!("{said:?}")
    };
    assert_eq!(said[0], site.ack(3), "acknowledged before new work");
    assert_eq!((second.task, second.fence), (TaskIndex(1), Fence(2)));
    assert!(second.command_seq > first.command_seq);
    assert_eq!(said.len(), 2, "nothing else happened");
    assert_eq!(rig.task_state(run, 0), TaskState::Succeeded);

    assert_eq!(
        site.ends(&mut rig, second.attempt, Outcome::Succeeded),
        [site.ack(4)]
    );
    assert_eq!(rig.run_state(run), RunState::Succeeded);
    assert_eq!(
        rig.core.durable().runs,
        [],
        "a run that is over is let go of"
    );
}

#[test]
fn an_agent_gets_its_slots_and_as_many_in_advance_and_then_one_for_each_end() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow(
        "wide",
        (0..9)
            .map(|n| task(&format!("t{n}"), "load", &[]))
            .collect(),
    ));
    let (_, said) = rig.trigger("wide");
    let given = assigns(&said);
    assert_eq!(given.len(), 4);
    assert_eq!(said.len(), 1, "one frame");
    let said = site.ends(&mut rig, given[0].attempt, Outcome::Succeeded);
    assert_eq!(
        assigns(&said)
            .iter()
            .map(|assign| assign.task.0)
            .collect::<Vec<_>>(),
        [4]
    );
}

#[test]
fn a_failed_task_stops_what_needs_it_and_nothing_else() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let tasks = vec![
        task("a", "load", &[]),
        task("b", "load", &[0]),
        task("c", "load", &[1]),
        task("d", "load", &[]),
    ];
    rig.apply(workflow("w", tasks));
    let (run, said) = rig.trigger("w");
    let given = assigns(&said);
    site.ends(&mut rig, given[0].attempt, Outcome::Failed);
    assert_eq!(
        rig.task_state(run, 0),
        TaskState::Failed {
            outcome: Outcome::Failed
        }
    );
    assert_eq!(rig.task_state(run, 1), TaskState::UpstreamFailed);
    assert_eq!(rig.task_state(run, 2), TaskState::UpstreamFailed);
    assert_eq!(rig.run_state(run), RunState::Running);
    site.ends(&mut rig, given[1].attempt, Outcome::Succeeded);
    assert_eq!(rig.run_state(run), RunState::Failed);
}

#[test]
fn a_retry_waits_with_jitter_within_its_bound_and_tries_are_counted() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let mut spec = task("a", "once", &[]);
    spec.retry.retries = 2;
    rig.apply(workflow("w", vec![spec]));
    let (run, mut said) = rig.trigger("w");
    for longest in [1000, 2000] {
        let [assign] = &assigns(&said)[..] else {
            panic!("{said:?}")
        };
        site.ends(&mut rig, assign.attempt, Outcome::Failed);
        if let TaskState::Backoff { until, last } = rig.task_state(run, 0) {
            assert_eq!(last, Outcome::Failed);
            assert!(until - rig.now.0 <= longest * 1000);
        }
        said = rig.pass_ms(longest);
        site.beats(&mut rig);
    }
    let [assign] = &assigns(&said)[..] else {
        panic!("{said:?}")
    };
    site.ends(&mut rig, assign.attempt, Outcome::TimedOut);
    assert_eq!(
        rig.task_state(run, 0),
        TaskState::Failed {
            outcome: Outcome::TimedOut
        }
    );
    assert_eq!(rig.mirror.tasks[&(run, TaskIndex(0))].attempts, 3);
}

#[test]
fn an_end_that_may_not_be_one_is_not_retried_unless_that_is_safe() {
    for (entry, retried) in [("load", true), ("once", false)] {
        let mut rig = Rig::new();
        let mut site = rig.site("bank");
        let mut spec = task("a", entry, &[]);
        spec.retry = Retry {
            retries: 1,
            delay_ms: 0,
            max_delay_ms: 0,
        };
        rig.apply(workflow("w", vec![spec]));
        let (run, said) = rig.trigger("w");
        let assign = &assigns(&said)[0];
        let outcome = Outcome::Interrupted(Interruption::AgentStateLost);
        let said = site.ends(&mut rig, assign.attempt, outcome);
        assert_eq!(assigns(&said).len(), usize::from(retried), "{entry}");
        assert_eq!(
            rig.task_state(run, 0) == TaskState::Failed { outcome },
            !retried
        );
    }
}

#[test]
fn a_refusal_for_now_is_tried_again_without_using_up_a_try_and_not_for_ever() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow("w", vec![task("a", "once", &[])]));
    let (run, mut said) = rig.trigger("w");
    let outcome = Outcome::Refused(Refusal::Paused);
    let mut tries = 0;
    while rig.run_state(run) == RunState::Running {
        let [assign] = &assigns(&said)[..] else {
            panic!("{said:?}")
        };
        site.ends(&mut rig, assign.attempt, outcome);
        tries += 1;
        said = rig.pass_ms(5000);
        if assigns(&said).is_empty() {
            said = site.beats(&mut rig);
        }
    }
    assert_eq!(tries, 101);
    assert_eq!(rig.task_state(run, 0), TaskState::Failed { outcome });
    assert_eq!(rig.mirror.tasks[&(run, TaskIndex(0))].spent, 0);
}

#[test]
fn what_only_the_sites_clock_allows_is_asked_for_more_and_more_seldom_for_a_week() {
    for refusal in [Refusal::TimeWindow, Refusal::Rate] {
        let mut rig = Rig::new();
        let mut site = rig.site("bank");
        rig.apply(workflow("w", vec![task("a", "once", &[])]));
        let (run, said) = rig.trigger("w");
        let mut attempt = assigns(&said)[0].attempt;
        let mut waited_s = Vec::new();
        loop {
            site.ends(&mut rig, attempt, Outcome::Refused(refusal));
            if rig.run_state(run) != RunState::Running {
                break;
            }
            let mut waits_s = 0;
            attempt = loop {
                waits_s += 1;
                let mut given = assigns(&rig.pass_ms(1000));
                if waits_s % 10 == 0 {
                    given.extend(assigns(&site.beats(&mut rig)));
                }
                if let [assign] = &given[..] {
                    break assign.attempt;
                }
            };
            waited_s.push(waits_s);
        }
        assert_eq!(waited_s.len(), 1_040);
        assert!(waited_s[0] <= 6, "{waited_s:?}");
        assert!(waited_s.iter().all(|s| *s <= 15 * 60 + 10), "{waited_s:?}");
        let all = waited_s.iter().sum::<u64>();
        let day_s = 24 * 3600;
        assert!((8 * day_s..11 * day_s).contains(&all), "{all} s");
    }
}

#[test]
fn what_only_the_sites_clock_stood_against_counts_apart_and_each_try_and_rerun_begins_anew() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let mut spec = task("a", "once", &[]);
    spec.retry.retries = 1;
    rig.apply(workflow("w", vec![spec]));
    let (run, said) = rig.trigger("w");
    let mut given = assigns(&said);
    let refused = Outcome::Refused;
    for (outcome, counted) in [
        (refused(Refusal::TimeWindow), (0, 0, 1)),
        (refused(Refusal::Rate), (0, 0, 2)),
        (refused(Refusal::Full), (0, 1, 2)),
        (refused(Refusal::TimeWindow), (0, 1, 3)),
        (Outcome::Failed, (1, 0, 0)),
        (refused(Refusal::TimeWindow), (1, 0, 1)),
        (refused(Refusal::BadParameters), (1, 0, 1)),
    ] {
        let mut said = site.ends(&mut rig, given.remove(0).attempt, outcome);
        let task = &rig.mirror.tasks[&(run, TaskIndex(0))];
        let counts = (task.spent, task.requeued, task.untimely);
        assert_eq!(counts, counted, "{outcome:?}");
        for _ in 0..60 {
            said.extend(rig.pass_ms(1000));
            said.extend(site.beats(&mut rig));
        }
        given = assigns(&said);
    }
    assert_eq!(rig.run_state(run), RunState::Failed);
    let stored = rig.mirror.stored_run(&name("acme"), run).map(Box::new);
    let tasks = None;
    let (answer, _) = rig.ask_in("acme", Ask::Rerun { run, tasks, stored });
    assert!(answer.is_ok(), "{answer:?}");
    let task = &rig.mirror.tasks[&(run, TaskIndex(0))];
    assert_eq!((task.spent, task.requeued, task.untimely), (0, 0, 0));
}

#[test]
fn a_refusal_for_good_is_final() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let mut spec = task("a", "once", &[]);
    spec.retry.retries = 5;
    rig.apply(workflow("w", vec![spec]));
    let (run, said) = rig.trigger("w");
    let assign = &assigns(&said)[0];
    let outcome = Outcome::Refused(Refusal::BadParameters);
    assert_eq!(site.ends(&mut rig, assign.attempt, outcome), [site.ack(1)]);
    assert_eq!(rig.run_state(run), RunState::Failed);
}

#[test]
fn nothing_is_assigned_to_an_agent_that_cannot_take_it() {
    type Hinder = fn(&mut Flags);
    let hinders: [Hinder; 3] = [
        |f| f.paused = true,
        |f| f.draining = true,
        |f| f.hold = true,
    ];
    for hinder in hinders {
        let mut rig = Rig::new();
        let mut site = rig.site("bank");
        hinder(&mut site.flags);
        assert_eq!(site.beats(&mut rig), [site.granted(0, Some(2))]);
        rig.apply(workflow("w", vec![task("a", "load", &[])]));
        let (_, said) = rig.trigger("w");
        assert_eq!(said, []);
        site.flags = Flags::default();
        assert_eq!(assigns(&site.beats(&mut rig)).len(), 1, "taken up again");
    }
}

#[test]
fn work_that_came_while_the_lease_was_over_is_given_with_the_next_heartbeat() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow("w", vec![task("a", "load", &[])]));
    rig.pass_ms(31_000);
    let (_, said) = rig.trigger("w");
    assert_eq!(said, []);
    assert_eq!(assigns(&site.beats(&mut rig)).len(), 1);
}

#[test]
fn a_run_stays_on_one_agent_and_runs_spread() {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    let _plant = rig.site("plant");
    rig.apply(workflow(
        "w",
        vec![task("a", "load", &[]), task("b", "load", &[0])],
    ));
    let (first, said) = rig.trigger("w");
    let assign = assigns(&said).remove(0);
    assert_eq!(
        rig.attempt(assign.attempt).agent.as_str(),
        "bank",
        "by name where room is equal"
    );
    let (second, _) = rig.trigger("w");
    assert_eq!(
        rig.mirror.runs[&second].agent,
        Some(name("plant")),
        "the most room"
    );
    let next = assigns(&bank.ends(&mut rig, assign.attempt, Outcome::Succeeded)).remove(0);
    assert_eq!(
        (next.run, rig.attempt(next.attempt).agent.as_str()),
        (first, "bank")
    );
}

#[test]
fn what_is_said_twice_counts_once() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow("w", vec![task("a", "load", &[])]));
    let (run, said) = rig.trigger("w");
    let attempt = assigns(&said)[0].attempt;
    let event = site.event(attempt, AttemptState::Finished(report(Outcome::Failed)));
    assert_eq!(site.says(&mut rig, event.clone()), [site.ack(1)]);
    let before = rig.mirror.clone();
    for _ in 0..1000 {
        assert_eq!(site.says(&mut rig, event.clone()), [site.ack(1)]);
    }
    assert_eq!(rig.mirror, before);
    // The same attempt under a new number: it is over and let go of, so the agent may do the same.
    let said = site.ends(&mut rig, attempt, Outcome::Succeeded);
    assert_eq!(directives(&said), [Directive::Forget(attempt)]);
    assert_eq!(
        rig.run_state(run),
        RunState::Failed,
        "the first outcome stays"
    );
}

#[test]
fn what_a_removed_agent_may_still_start_is_waited_for_by_whatever_clock() {
    const DAY_MS: u64 = 24 * 3_600_000;
    let mut rig = Rig::new();
    let (mut bank, mut shop) = (rig.site("bank"), rig.site("shop"));
    let mut spec = workflow("w", vec![task("a", "load", &[])]);
    spec.tasks[0].retry.retries = 1;
    rig.apply(spec);
    let (_, said) = rig.trigger("w");
    let first = assigns(&said).remove(0);
    let to_bank = rig.attempt(first.attempt).agent == name("bank");
    let (holder, other) = if to_bank {
        (&mut bank, &mut shop)
    } else {
        (&mut shop, &mut bank)
    };
    holder.tells(&mut rig, first.attempt, AttemptState::Starting);
    let agent = rig.attempt(first.attempt).agent.clone();
    rig.ask(Ask::RemoveAgent { agent }).unwrap();
    assert!(matches!(rig.phase(first.attempt), Phase::Lost { .. }));
    // The next process has another clock. The agent's lease is not shorter for that.
    rig.now = rig.now.plus_ms(DAY_MS);
    rig.restart();
    let lease = u64::try_from(rig.settings.lease.as_millis()).unwrap();
    let mut said = other.connect(&mut rig, vec![]);
    said.extend(rig.pass_ms(lease - 1));
    assert_eq!(assigns(&said), [], "its lease may live");
    other.connect(&mut rig, vec![]);
    assert_eq!(assigns(&rig.pass_ms(60_000)).len(), 1);
}
