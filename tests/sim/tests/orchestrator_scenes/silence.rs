//! What follows from silence, and from a person's word about it: an attempt is run elsewhere once it surely does not run any
//! more, or somebody says so.

use std::time::Duration;

use outpost_orchestrator_core::Settings;
use outpost_orchestrator_core::event::Denied;
use outpost_orchestrator_core::limits::REASON_LEN;
use outpost_orchestrator_core::record::{NoticeKind, Phase, Presence, RunState, TaskState};
use outpost_orchestrator_core::spec::Retry;
use outpost_proto::ids::AttemptId;
use outpost_proto::message::{AttemptState, Directive, Flags};
use outpost_proto::outcome::Outcome;
use outpost_sim::stage::{SECOND, Stage, assigned, item, name, task};

use crate::common::*;
use crate::work::*;

#[test]
fn what_is_silent_is_run_elsewhere_once_it_surely_does_not_run_any_more() {
    // Five minutes of silence; with little patience, what the lease and the entry's own timer still allow.
    let patient = Settings {
        restart_grace: Duration::ZERO,
        ..Settings::default()
    };
    let hasty = Settings {
        lost_after: Duration::from_secs(10),
        ..patient
    };
    for (settings, entry, after_s) in [
        (patient, "load", Some(300)),
        (patient, "pay", None),
        (patient, "guard", Some(300)),
        (hasty, "load", Some(40)),
        (hasty, "guard", Some(30 + 5 + 45 + 5)),
    ] {
        let (mut scene, mut a, run, sent) = runs_with(settings, entry, ONCE_MORE);
        let mut b = scene.hand("b");
        b.connects(&mut scene, vec![]);
        a.tells(&mut scene, sent.attempt, AttemptState::Running);
        a.beats(&mut scene);
        let took = next(&mut scene, &mut b, 700);
        let expected = after_s.map(|seconds: u64| seconds * 1000);
        assert_eq!(took.as_ref().map(|(ms, _)| *ms), expected, "{entry}");
        let Some((_, again)) = took else {
            assert_eq!(
                state(&scene, run, 0),
                TaskState::Active {
                    attempt: sent.attempt
                }
            );
            continue;
        };
        assert!(matches!(
            scene.attempt(sent.attempt).phase,
            Phase::Lost { .. }
        ));
        assert!(again.fence > sent.fence);
        // What it tells later is kept beside, and what still runs there is ended.
        let said = a.connects(&mut scene, vec![item(&sent, AttemptState::Running, 0)]);
        assert!(directives(&said).contains(&Directive::Cancel(sent.attempt)));
        a.ends(&mut scene, sent.attempt, Outcome::Succeeded);
        let late = scene.attempt(sent.attempt).late.map(|late| late.outcome);
        assert_eq!(late, Some(Outcome::Succeeded));
        assert_eq!(
            state(&scene, run, 0),
            TaskState::Active {
                attempt: again.attempt
            }
        );
        assert!(scene.alarms().is_empty());
    }
}

#[test]
fn c2_what_was_given_up_waits_for_its_own_timer_over_a_restart_too() {
    let settings = Settings {
        restart_grace: Duration::ZERO,
        lost_after: Duration::from_secs(1),
        ..Settings::default()
    };
    let (mut scene, mut a, run, sent) = runs_with(settings, "guard", ONCE_MORE);
    a.tells(&mut scene, sent.attempt, AttemptState::Running);
    // It comes back without it: in this life it is gone, but its keeper may run it still until its own timer ends it.
    scene.pass(1);
    a.connects(&mut scene, vec![]);
    assert!(matches!(
        scene.attempt(sent.attempt).phase,
        Phase::Lost { .. }
    ));
    let TaskState::Backoff { until, .. } = state(&scene, run, 0) else {
        panic!()
    };
    assert_eq!(until, scene.now() + (29 + 5 + 50) * SECOND);
    scene.orchestrator_restarts();
    scene.pass(1);
    a.connects(&mut scene, vec![]);
    let (ms, _) = next(&mut scene, &mut a, 200).unwrap_or_else(|| panic!("it is run again"));
    assert!((83_900..=85_100).contains(&ms), "{ms}");
}

#[test]
fn presence_is_told_when_it_changes_and_not_before() {
    let (mut scene, mut a, _, _) = runs("load", ONCE_MORE);
    let presence = |scene: &mut Stage| {
        let notices = scene.notices().into_iter();
        let presence = notices.filter_map(|notice| match notice {
            NoticeKind::Agent { presence, .. } => Some(presence),
            NoticeKind::Run { .. }
            | NoticeKind::Task { .. }
            | NoticeKind::Attempt { .. }
            | NoticeKind::Workflow { .. }
            | NoticeKind::Skipped { .. }
            | NoticeKind::Safety { .. } => None,
        });
        presence.collect::<Vec<_>>()
    };
    assert_eq!(presence(&mut scene), [Presence::Enrolled, Presence::Live]);
    scene.pass_ms(39_999);
    assert_eq!(scene.agent("a").presence, Presence::Live);
    assert!(presence(&mut scene).is_empty());
    scene.pass_ms(1);
    assert_eq!(scene.agent("a").presence, Presence::Stale);
    assert_eq!(presence(&mut scene), [Presence::Stale]);
    scene.pass(100);
    assert!(presence(&mut scene).is_empty());
    a.beats(&mut scene);
    assert_eq!(presence(&mut scene), [Presence::Live]);
    a.lives(&mut scene, 100);
    assert!(presence(&mut scene).is_empty());
    assert_eq!(scene.agent("a").last_heard, Some(scene.now()));
}

#[test]
fn c2_a_pause_waits_over_a_restart_for_nothing_but_what_may_still_run_of_its_own_task() {
    for (what, waits) in [
        ("lost", true),
        ("told", false),
        ("asserted", false),
        ("another", false),
    ] {
        let mut scene = Stage::new();
        let mut a = scene.hand("a");
        a.slots = 4;
        a.connects(&mut scene, vec![]);
        let mut tasks = vec![task("t", "guard", &[]), task("u", "load", &[])];
        for task in &mut tasks {
            task.retry = Retry {
                retries: 5,
                delay_ms: 100_000,
                max_delay_ms: 100_000,
            };
        }
        scene.apply(tasks);
        let run = scene.trigger();
        let mut sent = assigned(&a.hears(&mut scene));
        sent.sort_by_key(|assign| assign.task);
        for assign in &sent {
            a.tells(&mut scene, assign.attempt, AttemptState::Running);
        }
        // The agent lacks the first: it may run still, until its own timer ends it.
        let held = item(&sent[1], AttemptState::Running, 0);
        a.connects(&mut scene, vec![held]);
        if what == "told" {
            a.ends(&mut scene, sent[0].attempt, Outcome::Failed);
        } else if what == "asserted" {
            assert!(dead(&mut scene, sent[0].attempt, "it is gone").is_ok());
        } else if what == "another" {
            a.ends(&mut scene, sent[1].attempt, Outcome::Failed);
        }
        let task = u16::from(what == "another");
        scene.orchestrator_stops();
        scene.pass(80);
        scene.orchestrator_comes_up();
        let again = vec![held];
        a.connects(&mut scene, if what == "another" { vec![] } else { again });
        a.lives(&mut scene, 30);
        let tries = scene.attempts(run, task).len();
        let queued = matches!(state(&scene, run, task), TaskState::Backoff { .. });
        assert_eq!(
            tries == 1 && queued,
            waits,
            "{what}: {tries} {:?}",
            state(&scene, run, task)
        );
    }
}

// --- a person's word

#[test]
fn a_person_says_with_a_reason_that_what_is_silent_is_over() {
    let (mut scene, mut a, run, sent) = runs("pay", ONCE_MORE);
    let id = sent.attempt;
    a.tells(&mut scene, id, AttemptState::Running);
    let in_touch = Denied::InTouch {
        attempt: id,
        agent: name("a"),
    };
    assert_eq!(
        dead(&mut scene, id, "gone"),
        Err(in_touch),
        "it can be asked"
    );
    a.hangs_up(&mut scene);
    let (longest, longer) = ("x".repeat(REASON_LEN), "x".repeat(REASON_LEN + 1));
    for reason in ["", "  ", "a\nb", "a\u{7}", &longer] {
        assert!(
            matches!(dead(&mut scene, id, reason), Err(Denied::Limit(_))),
            "{reason:?}"
        );
    }
    assert_eq!(
        dead(&mut scene, AttemptId(1), "gone"),
        Err(Denied::UnknownAttempt(AttemptId(1)))
    );
    let before = scene.task(run, 0).spent;
    assert!(matches!(
        dead(&mut scene, id, &longest),
        Ok(TaskState::Backoff { .. })
    ));
    assert_eq!(
        scene.told(),
        [format!("asserted_dead a by somebody: {longest}")]
    );
    let record = scene.attempt(id);
    let said = record.asserted.map(|said| (said.by, said.at));
    assert_eq!(said, Some(("somebody".to_owned(), scene.now())));
    assert!(matches!(record.phase, Phase::Lost { .. }));
    assert_eq!(scene.task(run, 0).spent, before + 1);
    // Its agent comes back with it: it is told to end it, and what it says is kept beside.
    let said = a.connects(&mut scene, vec![item(&sent, AttemptState::Running, 0)]);
    assert!(directives(&said).contains(&Directive::Cancel(id)));
    let (_, again) = next(&mut scene, &mut a, 8).unwrap_or_else(|| panic!("it is tried again"));
    a.ends(&mut scene, id, Outcome::Cancelled);
    assert_eq!(
        state(&scene, run, 0),
        TaskState::Active {
            attempt: again.attempt
        }
    );
    assert_eq!(
        dead(&mut scene, id, "gone"),
        Err(Denied::UnknownAttempt(id)),
        "its end is known"
    );
}

#[test]
fn a_persons_word_about_what_nobody_waits_for_changes_no_task() {
    let (mut scene, mut a, run, sent) = runs("load", ONCE_MORE);
    a.tells(&mut scene, sent.attempt, AttemptState::Running);
    a.connects(&mut scene, vec![]);
    let (_, again) = next(&mut scene, &mut a, 120).unwrap_or_else(|| panic!("tried again"));
    let task = scene.task(run, 0);
    assert_eq!(
        dead(&mut scene, sent.attempt, "gone"),
        Ok(task.state),
        "also while it is in touch"
    );
    assert_eq!(scene.task(run, 0), task);
    a.ends(&mut scene, again.attempt, Outcome::Succeeded);
    assert_eq!(scene.run(run).state, RunState::Succeeded);
    // With no tries left it fails.
    let never = Retry {
        retries: 0,
        ..ONCE_MORE
    };
    let (mut scene, a, run, sent) = runs("pay", never);
    a.hangs_up(&mut scene);
    assert!(matches!(
        dead(&mut scene, sent.attempt, "gone"),
        Ok(TaskState::Failed { .. })
    ));
    assert_eq!(scene.run(run).state, RunState::Failed);
}

#[test]
fn what_its_agent_lacks_and_cannot_be_sent_now_a_person_may_end() {
    let (mut scene, mut a, _, sent) = runs("pay", ONCE_MORE);
    a.hangs_up(&mut scene);
    a.flags = Flags {
        paused: true,
        ..Flags::default()
    };
    let said = a.connects(&mut scene, vec![]);
    assert!(assigned(&said).is_empty(), "its site has paused it");
    assert!(dead(&mut scene, sent.attempt, "never arrived").is_ok());
    // Before it has listed what it holds it cannot be asked either.
    let (mut scene, mut a, _, sent) = runs("pay", ONCE_MORE);
    a.tells(&mut scene, sent.attempt, AttemptState::Running);
    a.hangs_up(&mut scene);
    assert!(a.greets(&mut scene).is_some());
    assert!(dead(&mut scene, sent.attempt, "it hangs").is_ok());
}
