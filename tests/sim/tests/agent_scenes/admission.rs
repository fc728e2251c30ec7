//! What a site takes and what it refuses, in the order in which people would ask, and what both ends are told of it.

use outpost_agent_core::event::{Event, Site, Speech};
use outpost_agent_core::record::Write;
use outpost_proto::ids::{AttemptId, CatalogueVersion};
use outpost_proto::message::{AttemptState, Directive, DownMessage, ParamValue};
use outpost_proto::outcome::{Outcome, Refusal};
use outpost_sim::scene::{Host, Sold, sold};

use crate::part::*;

fn host() -> Host {
    Host::new("site", 1, &["moment", "hour", "choosy", "watched"])
}

/// This attempt was refused for this reason, at both ends, and nothing of it began.
fn assert_refused(part: &Part, attempt: u128, why: Refusal) {
    assert_eq!(part.state(attempt), Some(refusal(why)), "{why:?}");
    let told = part.events().into_iter().find(|told| told.1 == attempt);
    assert_eq!(told.map(|told| told.2), Some(refusal(why)), "{why:?}");
    let logged = part.refused().into_iter().find(|told| told.0 == attempt);
    let (_, logged, reason) = logged.expect("the site's own log");
    assert_eq!(logged, why);
    assert!(reason.len() > 10, "in full: {reason}");
    assert_eq!(part.scene.starts(AttemptId(attempt)), 0);
}

#[test]
fn each_reason_is_told_to_both_ends() {
    type Make = fn(&mut Part);
    let reasons: [(Refusal, Make); 4] = [
        (Refusal::Paused, |part| part.wants(Site::Pause)),
        (Refusal::Draining, |part| part.commands(Directive::Cordon)),
        (Refusal::Draining, |part| part.commands(Directive::Drain)),
        (Refusal::Disk, |part| part.hears(Event::Room(false))),
    ];
    for (why, make) in reasons {
        let mut part = Part::ready(host());
        make(&mut part);
        part.page();
        part.gives("hour", &[1]);
        assert_refused(&part, 1, why);
    }
}

#[test]
fn the_catalogue_decides_by_name_version_and_parameters() {
    let mut part = Part::ready(host());
    part.gives("nothing", &[1]);
    assert_refused(&part, 1, Refusal::UnknownEntry);
    let mut other = part.assign(2, "hour");
    other.catalogue_version = CatalogueVersion(2);
    part.tell(&[DownMessage::Assign(other)]);
    assert_refused(&part, 2, Refusal::CatalogueVersion);
    for (attempt, n, taken) in [(3, 8, false), (4, 7, true)] {
        let mut with = part.assign(attempt, "choosy");
        with.parameters = vec![("n".parse().expect("a name"), ParamValue::Integer(n))];
        part.tell(&[DownMessage::Assign(with)]);
        assert_eq!(part.scene.starts(AttemptId(attempt)), u32::from(taken));
        if !taken {
            assert_refused(&part, attempt, Refusal::BadParameters);
        }
    }
    assert_eq!(part.phase(), Some(outpost_agent_core::SessionPhase::Ready));
}

#[test]
fn what_waits_is_judged_again_when_the_catalogue_changes() {
    let mut part = Part::ready(host());
    part.gives("hour", &[1, 2]);
    part.scene.reload(0, &[sold("hour")]);
    part.silent(millis(25));
    assert_refused(&part, 2, Refusal::CatalogueVersion);
    assert_eq!(
        part.state(1),
        Some(AttemptState::Running),
        "what runs goes on"
    );
    // Chosen under the new one it is taken.
    let mut newer = part.assign(3, "hour");
    newer.catalogue_version = CatalogueVersion(2);
    part.tell(&[DownMessage::Assign(newer)]);
    assert_eq!(part.state(3), Some(AttemptState::Assigned));
}

#[test]
fn a_pause_keeps_everything_back_survives_restarts_and_only_the_site_ends_it() {
    let mut part = Part::ready(host());
    part.gives("hour", &[1, 2]);
    part.wants(Site::Pause);
    part.ends(1, Outcome::Succeeded);
    assert_eq!(part.begun(), [(1, None)], "what waits stays");
    part.scene.power_cut(0);
    part.page();
    part.begins();
    assert!(part.view().flags.paused);
    assert!(
        part.beat().is_some_and(|beat| beat.flags.paused),
        "and is said"
    );
    part.gives("hour", &[3]);
    assert_refused(&part, 3, Refusal::Paused);
    part.commands(Directive::Uncordon);
    part.gives("hour", &[4]);
    assert_refused(&part, 4, Refusal::Paused);
    part.wants(Site::Resume);
    part.gives("hour", &[5]);
    assert_eq!(part.begun(), [(5, None)]);
}

#[test]
fn a_cordon_keeps_new_work_out_and_what_was_taken_begins() {
    let mut part = Part::ready(host());
    part.gives("hour", &[1, 2]);
    part.commands(Directive::Cordon);
    part.ends(1, Outcome::Succeeded);
    assert_eq!(part.begun(), [(1, None), (2, None)]);
    part.gives("hour", &[3]);
    assert_refused(&part, 3, Refusal::Draining);
    part.goes_on(seconds(10));
    assert!(part.beat().is_some_and(|beat| beat.flags.draining));
    part.commands(Directive::Uncordon);
    part.gives("hour", &[4]);
    assert_eq!(part.state(4), Some(AttemptState::Assigned));
    // It holds for one session.
    part.commands(Directive::Cordon);
    part.scene.cut(0);
    part.scene.run(millis(1));
    part.begins();
    part.gives("hour", &[5]);
    assert_eq!(part.state(5), Some(AttemptState::Assigned));
}

#[test]
fn a_drain_by_the_orchestrator_gives_back_what_waits_and_keeps_the_connection() {
    let mut part = Part::ready(host());
    part.gives("hour", &[1, 2, 3]);
    part.commands(Directive::Drain);
    for attempt in [2, 3] {
        assert_refused(&part, attempt, Refusal::Draining);
    }
    assert_eq!(part.state(1), Some(AttemptState::Running));
    part.ends(1, Outcome::Succeeded);
    part.goes_on(seconds(60));
    assert!(part.phase().is_some() && part.view().flags.draining);
    part.commands(Directive::Uncordon);
    part.gives("hour", &[4]);
    assert_eq!(part.begun(), [(1, None), (4, None)]);
}

#[test]
fn a_drain_by_the_site_ends_the_process_once_all_is_told_and_durable() {
    let mut part = Part::ready(host());
    part.gives("hour", &[1, 2]);
    part.wants(Site::Drain);
    assert_refused(&part, 2, Refusal::Draining);
    part.gives("hour", &[3]);
    assert_refused(&part, 3, Refusal::Draining);
    part.ends(1, Outcome::Succeeded);
    part.goes_on(seconds(5));
    let done = |part: &Part| part.scene.said(0).any(|(_, said)| *said == Speech::Done);
    assert!(!done(&part), "not before it is durable upstream");
    let told = part.events().last().expect("an event").0;
    part.tell(&[durable(told)]);
    assert!(done(&part));
    assert_eq!(part.scene.journal(0).attempts, []);
    // A drain does not wait for ever.
    let mut part = Part::ready(Host {
        drain_limit: seconds(50),
        ..host()
    });
    part.gives("hour", &[1]);
    part.wants(Site::Drain);
    part.goes_on(seconds(49));
    assert!(!done(&part));
    part.goes_on(seconds(2));
    assert!(done(&part), "its task goes on under its keeper");
    assert_eq!(part.scene.running(0), [AttemptId(1)]);
}

/// Nothing new on a full disk; what runs goes on, and its end fits into space that was taken before.
#[test]
fn on_a_full_disk_nothing_begins_what_waits_may_run_elsewhere_and_ends_are_told() {
    let mut part = Part::ready(host());
    part.gives("hour", &[1, 2, 3]);
    part.hears(Event::Room(true));
    assert_eq!(part.state(2), Some(AttemptState::Assigned), "there is room");
    part.hears(Event::Room(false));
    for attempt in [2, 3] {
        assert_refused(&part, attempt, Refusal::Disk);
    }
    part.gives("hour", &[4]);
    assert_refused(&part, 4, Refusal::Disk);
    assert_eq!(part.state(1), Some(AttemptState::Running));
    part.page();
    part.ends(1, Outcome::Succeeded);
    assert!(matches!(
        part.events()[..],
        [(_, 1, AttemptState::Finished(_))]
    ));
    assert_eq!(part.begun(), []);
    part.hears(Event::Room(true));
    part.gives("hour", &[5]);
    assert_eq!(part.begun(), [(5, None)]);
}

/// Whatever keeps work from being begun, each alone, with a slot free and a lease.
#[test]
fn each_thing_that_keeps_work_back_does_so_alone() {
    let mut part = Part::ready(Host {
        observe: true,
        ..host()
    });
    part.gives("hour", &[1]);
    assert_refused(&part, 1, Refusal::Observe);
    // Held back without being turned away: taken before, and the slot gets free when nothing may begin.
    type Make = fn(&mut Part);
    let makes: [(&str, Make); 2] = [
        ("paused", |part| part.wants(Site::Pause)),
        ("no lease", |part| part.silent(seconds(35))),
    ];
    for (what, make) in makes {
        let mut part = Part::ready(host());
        part.gives("hour", &[1, 2]);
        make(&mut part);
        part.ends(1, Outcome::Succeeded);
        assert_eq!(part.begun(), [(1, None)], "{what}");
        assert_eq!(part.state(2), Some(AttemptState::Assigned), "{what}");
    }
    // A process that stops begins nothing; the next one does.
    let mut part = Part::ready(Host {
        stop_grace: seconds(5),
        ..host()
    });
    part.gives("hour", &[1, 2]);
    part.ends(1, Outcome::Succeeded);
    let mut part = Part::ready(Host {
        stop_grace: seconds(5),
        ..host()
    });
    part.gives("moment", &[1]);
    part.silent(millis(50));
    part.gives("hour", &[2, 3]);
    part.page();
    part.wants(Site::Stop);
    part.ends(2, Outcome::Succeeded);
    assert_eq!(part.begun(), []);
    part.begins();
    assert_eq!(part.begun(), [(3, None)]);
}

#[test]
fn an_observing_agent_asks_everything_and_begins_nothing() {
    let mut part = Part::ready(Host {
        observe: true,
        sells: vec![
            Sold {
                max_per_hour: Some(2),
                ..sold("moment")
            },
            sold("hour"),
        ],
        ..host()
    });
    part.gives("moment", &[1, 2, 3]);
    assert_refused(&part, 1, Refusal::Observe);
    assert_refused(&part, 2, Refusal::Observe);
    assert_refused(&part, 3, Refusal::Rate);
    part.gives("nothing", &[4]);
    assert_refused(&part, 4, Refusal::UnknownEntry);
    assert!(part.beat().is_some_and(|beat| beat.flags.observe));
    assert_eq!(part.begun(), []);
    let why = part.refused().remove(0).2;
    assert!(why.contains("would have been taken"), "{why}");
}

#[test]
fn an_hourly_limit_refuses_and_comes_back() {
    let mut part = Part::ready(Host {
        sells: vec![Sold {
            max_per_hour: Some(2),
            ..sold("moment")
        }],
        ..host()
    });
    part.gives("moment", &[1, 2, 3]);
    assert_refused(&part, 3, Refusal::Rate);
    part.goes_on(seconds(3590));
    part.gives("moment", &[4]);
    assert_refused(&part, 4, Refusal::Rate);
    part.goes_on(seconds(20));
    part.gives("moment", &[5, 6, 7]);
    part.goes_on(seconds(1));
    assert_eq!(
        [5, 6].map(|n| part.outcome(n)),
        [Some(Outcome::Succeeded); 2]
    );
    assert_refused(&part, 7, Refusal::Rate);
}

/// As many as the backlog says wait, besides those for whom a slot is free.
#[test]
fn more_than_the_backlog_is_refused_as_full() {
    let mut part = Part::ready(Host {
        slots: 2,
        backlog: 3,
        ..host()
    });
    part.gives("hour", &[1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(part.begun(), [(1, None), (2, None)]);
    assert_eq!(part.state(5), Some(AttemptState::Assigned));
    for attempt in [6, 7] {
        assert_refused(&part, attempt, Refusal::Full);
    }
    part.ends(1, Outcome::Succeeded);
    part.gives("hour", &[8, 9]);
    assert_eq!(part.state(8), Some(AttemptState::Assigned));
    assert_refused(&part, 9, Refusal::Full);
}

#[test]
fn more_parameters_than_an_agent_holds_are_refused_until_some_are_gone() {
    let mut part = Part::ready(Host {
        backlog: 10_000,
        ..host()
    });
    let large = |part: &mut Part, attempt| {
        let mut assign = part.assign(attempt, "hour");
        let text = |n: u32| {
            let name = format!("p{n:02}").parse().expect("a name");
            (name, ParamValue::Text("x".repeat(4000)))
        };
        assign.parameters = (0..16).map(text).collect();
        DownMessage::Assign(assign)
    };
    let first = large(&mut part, 1);
    part.tell(&[first]);
    // All but one that fit were taken by a former process.
    let fits = 64 * 1024 * 1024 / (16 * 4003);
    let held = part.held(1).expect("held");
    let taken = (2..fits).map(|attempt| {
        let mut held = held.clone();
        (held.assign.attempt, held.state) = (AttemptId(attempt), AttemptState::Assigned);
        Write::Attempt(Box::new(held))
    });
    part.scene.crash(0);
    part.scene.write(0, &taken.collect::<Vec<_>>());
    part.begins();
    for (attempt, taken) in [(5000, true), (5001, false)] {
        let job = large(&mut part, attempt);
        part.tell(&[job]);
        assert_eq!(part.state(attempt) == Some(AttemptState::Assigned), taken);
    }
    assert_refused(&part, 5001, Refusal::Full);
    assert_eq!(
        part.held(5001).map(|held| held.assign.parameters),
        Some(vec![])
    );
    // What needs no room is taken, and what is gone leaves some.
    part.gives("hour", &[5002]);
    assert_eq!(part.state(5002), Some(AttemptState::Assigned));
    part.commands(Directive::Forget(AttemptId(3)));
    let job = large(&mut part, 5003);
    part.tell(&[job]);
    assert_eq!(part.state(5003), Some(AttemptState::Assigned));
}

/// More than half of what an agent holds waits for its acknowledgement: nothing more begins until some of it came.
#[test]
fn when_too_many_outcomes_are_not_acknowledged_nothing_more_begins() {
    let most = 4096 / 2;
    let mut part = Part::ready(Host {
        backlog: 10_000,
        ..host()
    });
    for from in (1..most).step_by(64) {
        let jobs: Vec<_> = (from..(from + 64).min(most))
            .map(|n| part.job(n, "nothing"))
            .collect();
        part.tell(&jobs);
    }
    assert_eq!(part.view().unacknowledged, 2047);
    part.gives("hour", &[5001, 5002]);
    assert_eq!(part.begun(), [(5001, None)]);
    part.ends(5001, Outcome::Succeeded);
    part.goes_on(seconds(15));
    assert_eq!(part.view().unacknowledged, 2048);
    assert_eq!(
        part.begun(),
        [(5001, None)],
        "the slot is free, and nothing begins"
    );
    part.tell(&[durable(1)]);
    part.silent(millis(25));
    assert_eq!(part.begun(), [(5001, None), (5002, None)]);
}

/// The same where one would wait at a keeper.
#[test]
fn nor_does_anything_wait_at_a_keeper_then() {
    let most = 4096 / 2;
    for (open, begun) in [(1, 2), (0, 1)] {
        let mut part = Part::ready(Host {
            backlog: 10_000,
            ahead: 1,
            ..host()
        });
        part.gives("moment", &[9000]);
        part.silent(millis(50));
        let told = part.events().last().expect("an event").0;
        part.tell(&[durable(told)]);
        part.scene.tasks_take(0, "moment", seconds(3600));
        part.gives("moment", &[5001]);
        let count = most - open;
        let mut from = 1;
        while from <= count {
            let until = (from + 64).min(count + 1);
            let jobs: Vec<_> = (from..until).map(|n| part.job(n, "nothing")).collect();
            part.tell(&jobs);
            from = until;
        }
        assert_eq!(
            part.view().unacknowledged,
            usize::try_from(count).expect("a number")
        );
        part.page();
        part.gives("moment", &[5002]);
        assert_eq!(1 + part.begun().len(), begun, "{open}");
    }
}

#[test]
fn a_limit_that_is_given_up_lets_what_waits_begin_and_a_new_one_holds_for_what_waits() {
    let mut part = Part::ready(Host {
        slots: 3,
        sells: vec![Sold {
            max_parallel: Some(1),
            ..sold("hour")
        }],
        ..host()
    });
    part.gives("hour", &[1, 2]);
    assert_eq!(part.begun(), [(1, None)]);
    let mut newer: Vec<_> = [3, 4].map(|n| part.assign(n, "hour")).into();
    newer
        .iter_mut()
        .for_each(|assign| assign.catalogue_version = CatalogueVersion(2));
    part.scene.reload(0, &[sold("hour")]);
    part.silent(millis(25));
    assert_refused(&part, 2, Refusal::CatalogueVersion);
    let newer: Vec<_> = newer.into_iter().map(DownMessage::Assign).collect();
    part.tell(&newer);
    assert_eq!(part.begun(), [(1, None), (3, None), (4, None)]);
}
