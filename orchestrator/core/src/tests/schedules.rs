//! Schedules: each instant makes one run, whatever happens to the process, the store, the clock and the workflow.

use crate::limits::{MISSED_AFTER_MS, RUNS};
use crate::record::{NoticeKind, SkippedWhy, WorkflowChange};
use crate::spec::{Missed, ParamKind, ParamSpec, ScheduleSpec, When};

use super::*;

const MINUTE: u64 = 60_000;

fn every(ms: u64) -> ScheduleSpec {
    ScheduleSpec::new(When::Every { ms })
}

fn scheduled(text: &str, schedule: ScheduleSpec) -> WorkflowSpec {
    WorkflowSpec {
        schedule: Some(schedule),
        ..workflow(text, vec![task("a", "load", &[])])
    }
}

/// The first multiple of so many milliseconds after the beginning of every test.
fn first(ms: u64) -> u64 {
    (T0.0 / (ms * 1000) + 1) * ms * 1000
}

impl Rig {
    /// The instants that made runs, ascending.
    fn instants(&self, workflow: &str) -> Vec<u64> {
        let runs = self.mirror.runs.values();
        let runs = runs.filter(|run| run.workflow.as_str() == workflow);
        let mut instants: Vec<u64> = runs.filter_map(|run| run.scheduled_for).collect();
        instants.sort_unstable();
        instants
    }

    /// The instants that notices say made none: first, last, how many, why.
    fn skipped(&self) -> Vec<(u64, u64, u32, SkippedWhy)> {
        let notices = self.mirror.notices.iter();
        let skipped = notices.filter_map(|notice| match &notice.what {
            NoticeKind::Skipped {
                from,
                until,
                count,
                why,
                ..
            } => Some((*from, *until, *count, *why)),
            NoticeKind::Run { .. }
            | NoticeKind::Task { .. }
            | NoticeKind::Attempt { .. }
            | NoticeKind::Workflow { .. }
            | NoticeKind::Agent { .. }
            | NoticeKind::Safety { .. } => None,
        });
        skipped.collect()
    }

    fn pause(&mut self, workflow: &str, paused: bool) -> Option<u64> {
        let workflow = name(workflow);
        match self.ask(Ask::PauseWorkflow { workflow, paused }) {
            Ok(Answer::Paused { paused: now, next }) if now == paused => next,
            other => panic!("{other:?}"),
        }
    }

    fn delete(&mut self, workflow: &str) -> Result<Answer, Denied> {
        self.ask(Ask::DeleteWorkflow {
            workflow: name(workflow),
            expected_version: None,
        })
    }

    fn next(&mut self, workflow: &str) -> Option<u64> {
        let Ok(Answer::Workflows(views)) = self.ask(Ask::Workflows) else {
            panic!("workflows are told")
        };
        let view = views.iter().find(|view| view.name.as_str() == workflow);
        view.unwrap().next
    }

    /// The process is not there for so long.
    fn outage_ms(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        self.restart();
    }

    fn wall(&mut self, ahead_ms: i64) {
        let ahead = ahead_ms * 1000;
        self.turn(&[Happened::Wall { ahead }]);
    }
}

fn steps(from: u64, ms: u64, count: u64) -> Vec<u64> {
    (0..count).map(|step| from + step * ms * 1000).collect()
}

#[test]
fn each_instant_makes_one_run_at_its_time() {
    let mut rig = Rig::new();
    rig.apply(scheduled("w", every(MINUTE)));
    let from = first(MINUTE);
    assert_eq!(rig.next("w"), Some(from));
    rig.pass_ms(5 * MINUTE);
    assert_eq!(rig.instants("w"), steps(from, MINUTE, 5));
    let on_time = |run: &crate::record::RunRecord| run.scheduled_for == Some(run.created_at);
    assert!(rig.mirror.runs.values().all(on_time));
    assert_eq!(rig.next("w"), Some(from + 5 * MINUTE * 1000));
    assert_eq!(rig.skipped(), []);
}

#[test]
fn a_scheduled_run_runs_like_any_other() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(scheduled("w", every(MINUTE)));
    let mut given = Vec::new();
    while given.is_empty() {
        given = assigns(&rig.pass_ms(5_000));
        given.extend(assigns(&site.beats(&mut rig)));
    }
    site.ends(&mut rig, given[0].attempt, Outcome::Succeeded);
    assert_eq!(rig.run_state(given[0].run), RunState::Succeeded);
    let of = rig.mirror.runs[&given[0].run].scheduled_for;
    assert_eq!(of, Some(first(MINUTE)));
}

#[test]
fn a_restart_or_a_failed_commit_at_any_moment_makes_no_instant_twice_and_loses_none() {
    for offset in [0, 1, 29_999, 30_000, 59_999] {
        let mut rig = Rig::new();
        rig.now = Micros(first(MINUTE) + offset * 1000);
        rig.apply(scheduled("w", every(MINUTE)));
        let from = rig.next("w").unwrap();
        for round in 0..6u64 {
            rig.now = Micros(from + round * MINUTE * 1000);
            match round {
                // Two that fail before one that does not; the instant is due in all of them.
                0 => {
                    rig.failing_turn(&[], false);
                    rig.failing_turn(&[], false);
                }
                1 => rig.failing_turn(&[], true),
                2 => rig.restart(),
                3 => {
                    rig.turn(&[]);
                    rig.restart();
                }
                4 => rig.outage_ms(30_000),
                _ => {}
            }
            rig.turn(&[]);
            assert_eq!(
                rig.instants("w"),
                steps(from, MINUTE, round + 1),
                "{offset}"
            );
        }
        assert_eq!(rig.skipped(), []);
    }
}

#[test]
fn after_an_outage_the_schedule_says_what_becomes_of_missed_instants() {
    let from = first(MINUTE);
    let last = from + 10 * MINUTE * 1000;
    let on_time = vec![last - MINUTE * 1000, last];
    for (missed, limit, made, skipped) in [
        (Missed::Skip, 10, on_time, 9),
        (Missed::Latest, 10, vec![last], 10),
        (
            Missed::All,
            3,
            steps(last - 2 * MINUTE * 1000, MINUTE, 3),
            8,
        ),
        (Missed::All, 100, steps(from, MINUTE, 11), 0),
    ] {
        let mut rig = Rig::new();
        let spec = ScheduleSpec {
            missed,
            missed_limit: limit,
            ..every(MINUTE)
        };
        rig.apply(scheduled("w", spec));
        rig.now = Micros(last);
        rig.restart();
        rig.pass_ms(0);
        assert_eq!(rig.instants("w"), made, "{missed:?}");
        let told = rig.skipped();
        if skipped == 0 {
            assert_eq!(told, []);
        } else {
            let until = made[0] - MINUTE * 1000;
            assert_eq!(
                told,
                [(from, until, skipped, SkippedWhy::Missed)],
                "{missed:?}"
            );
        }
        rig.pass_ms(MINUTE);
        assert_eq!(rig.instants("w").len(), made.len() + 1, "it goes on");
    }
}

#[test]
fn a_long_outage_is_decided_without_counting_every_instant() {
    for missed in [Missed::Skip, Missed::Latest, Missed::All] {
        let mut rig = Rig::new();
        let spec = ScheduleSpec {
            missed,
            ..every(1_000)
        };
        rig.apply(scheduled("w", spec));
        rig.outage_ms(365 * 24 * 3_600_000);
        rig.pass_ms(0);
        let made = rig.instants("w").len();
        match missed {
            Missed::Skip => assert_eq!(made as u64, MISSED_AFTER_MS / 1000 + 1),
            Missed::Latest => assert_eq!(made, 1),
            Missed::All => assert_eq!(made, 10),
        }
        assert_eq!(rig.skipped()[0].2, 1000);
    }
}

#[test]
fn a_pause_makes_nothing_and_misses_nothing() {
    let mut rig = Rig::new();
    rig.apply(scheduled("w", every(MINUTE)));
    let from = first(MINUTE);
    rig.pass_ms(2 * MINUTE);
    assert_eq!(rig.instants("w").len(), 2);
    assert_eq!(rig.pause("w", true), None);
    assert_eq!(rig.pause("w", true), None, "paused already");
    rig.pass_ms(10 * MINUTE);
    rig.restart();
    rig.pass_ms(10 * MINUTE);
    assert_eq!(rig.instants("w").len(), 2);
    let (run, _) = rig.trigger("w");
    assert_eq!(
        rig.mirror.runs[&run].scheduled_for, None,
        "a trigger works all the same"
    );
    let upcoming = rig.ask(Ask::Upcoming {
        workflow: name("w"),
        count: 2,
    });
    let next = from + 22 * MINUTE * 1000;
    assert_eq!(upcoming, Ok(Answer::Upcoming(steps(next, MINUTE, 2))));
    assert_eq!(rig.pause("w", false), Some(next));
    rig.pass_ms(MINUTE);
    assert_eq!(rig.instants("w")[2..], [next]);
    assert_eq!(rig.skipped(), []);
}

#[test]
fn what_is_due_in_the_moment_of_a_pause_is_made() {
    let mut rig = Rig::new();
    rig.apply(scheduled("w", every(MINUTE)));
    rig.now = Micros(first(MINUTE));
    rig.pause("w", true);
    assert_eq!(rig.instants("w"), [first(MINUTE)]);
}

#[test]
fn another_schedule_begins_now_and_takes_nothing_back() {
    let mut rig = Rig::new();
    rig.apply(scheduled("w", every(10 * MINUTE)));
    rig.pass_ms(10 * MINUTE);
    assert_eq!(rig.instants("w").len(), 1);
    rig.apply(scheduled("w", every(MINUTE)));
    let next = rig.next("w").unwrap();
    assert!(next > rig.now.0 && next <= rig.now.plus_ms(MINUTE).0);
    // In the moment it is due under the schedule that goes.
    rig.now = Micros(next);
    let mut other = scheduled("w", every(MINUTE));
    other.description = "other".into();
    rig.apply(other);
    assert_eq!(rig.instants("w")[1..], [next]);
    // The same schedule in a new version goes on as it was, across an outage too.
    rig.outage_ms(3 * MINUTE);
    rig.pass_ms(0);
    assert_eq!(rig.instants("w")[2..], [next + 3 * MINUTE * 1000]);
    rig.apply(workflow("w", vec![task("b", "load", &[])]));
    assert_eq!(rig.next("w"), None);
    rig.pass_ms(10 * MINUTE);
    assert_eq!(rig.instants("w").len(), 3, "no schedule, no runs");
    rig.apply(scheduled("w", every(MINUTE)));
    rig.pass_ms(0);
    assert_eq!(
        rig.instants("w").len(),
        3,
        "what was before is not made up for"
    );
}

#[test]
fn start_and_end_are_kept() {
    let mut rig = Rig::new();
    let start = T0.0 + 90_000_000;
    let spec = ScheduleSpec {
        start: Some(start),
        end: Some(start + 2 * MINUTE * 1000),
        ..every(MINUTE)
    };
    rig.apply(scheduled("w", spec.clone()));
    assert_eq!(rig.next("w"), Some(start));
    rig.pass_ms(10 * MINUTE);
    assert_eq!(rig.instants("w"), steps(start, MINUTE, 3));
    assert_eq!(rig.next("w"), None);
    let answer = rig.ask(Ask::Apply {
        spec: scheduled("late", spec),
        source: String::new(),
        allow_unknown_entries: true,
        dry_run: false,
        expected_version: None,
    });
    let Ok(Answer::Applied { warnings, .. }) = answer else {
        panic!("{answer:?}")
    };
    assert!(
        warnings.iter().any(|text| text.contains("no more runs")),
        "{warnings:?}"
    );
}

#[test]
fn a_deleted_workflow_makes_no_runs_and_its_name_can_be_used_again() {
    let mut rig = Rig::new();
    rig.apply(scheduled("w", every(MINUTE)));
    rig.pass_ms(MINUTE);
    let busy = rig.delete("w");
    assert!(
        matches!(busy, Err(Denied::WorkflowBusy { runs: 1, .. })),
        "{busy:?}"
    );
    let run = *rig.mirror.runs.keys().next().unwrap();
    rig.ask(Ask::Cancel { run }).unwrap();
    assert_eq!(rig.delete("w"), Ok(Answer::Deleted));
    let unknown = Err(Denied::UnknownWorkflow(name("w")));
    assert_eq!(rig.delete("w"), unknown);
    assert_eq!(
        rig.ask(Ask::PauseWorkflow {
            workflow: name("w"),
            paused: true
        }),
        unknown
    );
    let trigger = Ask::Trigger {
        workflow: name("w"),
        params: BTreeMap::new(),
        key: None,
    };
    assert_eq!(rig.ask(trigger), unknown);
    assert_eq!(rig.ask(Ask::Workflows), Ok(Answer::Workflows(vec![])));
    rig.pass_ms(5 * MINUTE);
    rig.restart();
    rig.pass_ms(5 * MINUTE);
    assert_eq!(rig.instants("w").len(), 1);
    assert!(!rig.mirror.workflows.is_empty(), "its history stays");
    rig.apply(scheduled("w", every(MINUTE)));
    rig.pass_ms(MINUTE);
    assert_eq!(rig.instants("w").len(), 2, "only from now on");
    let versions: Vec<u32> = rig
        .mirror
        .workflows
        .keys()
        .map(|(_, _, version)| *version)
        .collect();
    assert_eq!(versions, [1, 2]);
}

#[test]
fn a_workflow_with_an_attempt_that_may_still_run_can_be_deleted_and_that_attempt_still_reports() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow("w", vec![task("a", "once", &[])]));
    let (run, said) = rig.trigger("w");
    let attempt = assigns(&said)[0].clone();
    site.tells(&mut rig, attempt.attempt, AttemptState::Running);
    site.reboots(&mut rig, vec![]);
    rig.ask(Ask::Cancel { run }).unwrap();
    assert_eq!(rig.delete("w"), Ok(Answer::Deleted));
    rig.restart();
    site.connect(&mut rig, vec![]);
    site.ends(&mut rig, attempt.attempt, Outcome::Succeeded);
    assert!(rig.attempt(attempt.attempt).late.is_some());
    assert_eq!(
        rig.core.durable().workflows,
        [],
        "then nothing of it is kept in memory"
    );
    rig.apply(workflow("w", vec![task("a", "once", &[])]));
    assert!(
        rig.mirror
            .workflows
            .contains_key(&(name("acme"), name("w"), 2))
    );
}

#[test]
fn at_the_limit_of_runs_instants_are_skipped_and_told() {
    let mut rig = Rig::new();
    rig.apply(scheduled("w", every(MINUTE)));
    rig.apply(workflow("many", vec![task("a", "load", &[])]));
    let trigger = |call: u64| Happened::Asked {
        call: Call(1_000_000 + call),
        tenant: name("acme"),
        ask: Ask::Trigger {
            workflow: name("many"),
            params: BTreeMap::new(),
            key: None,
        },
    };
    let triggers: Vec<Happened> = (0..RUNS as u64).map(trigger).collect();
    rig.turn(&triggers);
    rig.now = Micros(first(MINUTE));
    rig.turn(&[]);
    let at = first(MINUTE);
    assert_eq!(rig.instants("w"), []);
    assert_eq!(rig.skipped(), [(at, at, 1, SkippedWhy::RunLimit)]);
    let some = *rig.core.durable().runs.first().map(|run| &run.run).unwrap();
    rig.ask(Ask::Cancel { run: some }).unwrap();
    rig.now = Micros(at + MINUTE * 1000);
    rig.turn(&[]);
    assert_eq!(rig.instants("w"), [at + MINUTE * 1000]);
}

#[test]
fn a_wall_clock_that_leaps_forward_has_missed_what_lies_between() {
    let mut rig = Rig::new();
    rig.apply(scheduled("w", every(MINUTE)));
    let from = first(MINUTE);
    rig.pass_ms(2 * MINUTE);
    rig.wall(60 * 60_000);
    let leapt = from + (60 + 1) * MINUTE * 1000;
    assert_eq!(rig.instants("w"), [from, from + MINUTE * 1000, leapt]);
    assert_eq!(rig.skipped().len(), 1);
    rig.pass_ms(2 * MINUTE);
    assert_eq!(
        rig.instants("w")[3..],
        steps(leapt + MINUTE * 1000, MINUTE, 2)
    );
    let late = rig.mirror.runs.values().map(|run| run.created_at);
    assert!(
        late.max().unwrap() < leapt,
        "the core's own clock did not jump"
    );
}

#[test]
fn a_wall_clock_that_goes_back_makes_no_instant_twice() {
    let mut rig = Rig::new();
    rig.apply(scheduled("w", every(MINUTE)));
    let from = first(MINUTE);
    rig.pass_ms(3 * MINUTE);
    rig.wall(-2 * 60_000);
    rig.pass_ms(2 * MINUTE);
    assert_eq!(rig.instants("w"), steps(from, MINUTE, 3));
    // Neither does another schedule, nor a pause in between.
    rig.apply(scheduled("w", every(MINUTE / 2)));
    rig.wall(-3 * 60_000);
    rig.pause("w", true);
    rig.pause("w", false);
    rig.pass_ms(10 * MINUTE);
    let instants = rig.instants("w");
    let mut once = instants.clone();
    once.dedup();
    assert_eq!(instants, once);
    assert!(instants.len() > 10, "and it goes on: {}", instants.len());
}

#[test]
fn a_process_that_starts_with_a_clock_ahead_of_the_wall_waits_for_the_wall() {
    let mut rig = Rig::new();
    rig.apply(scheduled("w", every(MINUTE)));
    // The wall clock was set back an hour while the process was not there; the store says what was decided.
    rig.pass_ms(MINUTE);
    rig.restart();
    rig.wall(-60 * 60_000);
    rig.pass_ms(59 * MINUTE);
    assert_eq!(rig.instants("w").len(), 1);
    rig.pass_ms(3 * MINUTE);
    assert_eq!(rig.instants("w").len(), 3);
}

#[test]
fn scheduled_runs_are_given_what_the_schedule_says() {
    let mut rig = Rig::new();
    let mut spec = scheduled("w", every(MINUTE));
    let kind = ParamKind::Int { min: 1, max: 9 };
    spec.params.insert(
        name("top"),
        ParamSpec {
            kind,
            default: None,
        },
    );
    let apply = |spec: &WorkflowSpec| Ask::Apply {
        spec: spec.clone(),
        source: String::new(),
        allow_unknown_entries: true,
        dry_run: false,
        expected_version: None,
    };
    let denied = rig.ask(apply(&spec)).unwrap_err().to_string();
    assert!(denied.contains("`top`: is required"), "{denied}");
    let Some(schedule) = &mut spec.schedule else {
        unreachable!()
    };
    schedule.params.insert(name("top"), ParamValue::Integer(10));
    assert!(matches!(rig.ask(apply(&spec)), Err(Denied::BadSchedule(_))));
    let Some(schedule) = &mut spec.schedule else {
        unreachable!()
    };
    schedule.params.insert(name("top"), ParamValue::Integer(7));
    rig.ask(apply(&spec)).unwrap();
    rig.pass_ms(MINUTE);
    let run = rig.mirror.runs.values().next().unwrap();
    assert_eq!(run.params[&name("top")], ParamValue::Integer(7));
}

#[test]
fn a_schedule_that_cannot_be_kept_is_refused_without_effect() {
    let mut rig = Rig::new();
    let cron = ScheduleSpec::new(When::Cron {
        expression: "0 0 30 2 *".into(),
    });
    let ask = Ask::Apply {
        spec: scheduled("w", cron),
        source: String::new(),
        allow_unknown_entries: true,
        dry_run: false,
        expected_version: None,
    };
    assert!(matches!(rig.ask(ask), Err(Denied::BadSchedule(_))));
    assert_eq!(rig.mirror, Mirror::default());
    let upcoming = Ask::Upcoming {
        workflow: name("plain"),
        count: 1,
    };
    rig.apply(workflow("plain", vec![task("a", "load", &[])]));
    assert_eq!(rig.ask(upcoming), Err(Denied::NoSchedule(name("plain"))));
}

#[test]
fn what_happens_to_a_workflow_is_told() {
    let mut rig = Rig::new();
    rig.apply(scheduled("w", every(MINUTE)));
    rig.pause("w", true);
    rig.pause("w", false);
    rig.delete("w").unwrap();
    let notices = rig.mirror.notices.iter();
    let changes: Vec<WorkflowChange> = notices
        .filter_map(|notice| match notice.what {
            NoticeKind::Workflow { change, .. } => Some(change),
            NoticeKind::Run { .. }
            | NoticeKind::Task { .. }
            | NoticeKind::Attempt { .. }
            | NoticeKind::Skipped { .. }
            | NoticeKind::Agent { .. }
            | NoticeKind::Safety { .. } => None,
        })
        .collect();
    let applied = WorkflowChange::Applied { version: 1 };
    let (paused, resumed) = (WorkflowChange::Paused, WorkflowChange::Resumed);
    assert_eq!(changes, [applied, paused, resumed, WorkflowChange::Deleted]);
}
