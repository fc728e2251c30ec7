//! Running tasks again in the same run: what is chosen, what it begins with, and what is refused.

use super::*;

/// a, b(a), c(b), d(a)
fn diamond() -> WorkflowSpec {
    workflow(
        "w",
        vec![
            task("a", "load", &[]),
            task("b", "once", &[0]),
            task("c", "load", &[1]),
            task("d", "load", &[0]),
        ],
    )
}

impl Rig {
    fn rerun(&mut self, run: RunId, tasks: Option<&[&str]>) -> Result<Vec<String>, Denied> {
        Ok(self.rerun_and_hear(run, tasks)?.0)
    }

    fn rerun_and_hear(
        &mut self,
        run: RunId,
        tasks: Option<&[&str]>,
    ) -> Result<(Vec<String>, Vec<Speech>), Denied> {
        let stored = self.mirror.stored_run(&name("acme"), run).map(Box::new);
        let tasks = tasks.map(|tasks| tasks.iter().copied().map(name).collect());
        let (answer, said) = self.ask_in("acme", Ask::Rerun { run, tasks, stored });
        let answer = answer?;
        let Answer::Rerun { tasks } = answer else {
            panic!("{answer:?}")
        };
        Ok((tasks.iter().map(ToString::to_string).collect(), said))
    }

    fn cannot_rerun(&mut self, run: RunId, tasks: Option<&[&str]>) -> String {
        let before = (self.mirror.clone(), self.core.durable());
        let denied = self.rerun(run, tasks).unwrap_err();
        assert_eq!(
            (self.mirror.clone(), self.core.durable()),
            before,
            "a refusal changes nothing"
        );
        denied.to_string()
    }

    fn states(&self, run: RunId) -> Vec<&'static str> {
        let tasks = self.mirror.tasks.range((run, TaskIndex(0))..);
        let tasks = tasks.take_while(|((of, _), _)| *of == run);
        let word = |state| match state {
            TaskState::Waiting => "waiting",
            TaskState::Queued { .. } => "queued",
            TaskState::Backoff { .. } => "backoff",
            TaskState::Active { .. } => "active",
            TaskState::Succeeded => "succeeded",
            TaskState::Failed { .. } => "failed",
            TaskState::UpstreamFailed => "upstream_failed",
            TaskState::Cancelled => "cancelled",
        };
        tasks.map(|(_, task)| word(task.state)).collect()
    }

    /// Ends whatever the site is given, each as asked by the task's name, until nothing more is given.
    fn play(
        &mut self,
        site: &mut Site,
        given: Vec<Assign>,
        fails: &[&str],
    ) -> Vec<(String, AgentName)> {
        let (mut given, mut played) = (given, Vec::new());
        while let Some(assign) = given.pop() {
            let task = assign.task_name.to_string();
            let outcome = if fails.contains(&task.as_str()) {
                Outcome::Failed
            } else {
                Outcome::Succeeded
            };
            played.push((task, site.agent.clone()));
            given.extend(assigns(&site.ends(self, assign.attempt, outcome)));
        }
        played
    }
}

fn names(played: &[(String, AgentName)]) -> Vec<&str> {
    let mut names: Vec<&str> = played.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names
}

#[test]
fn what_failed_runs_again_in_the_same_run_with_fresh_tries() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(diamond());
    let (run, said) = rig.trigger("w");
    rig.play(&mut site, assigns(&said), &["b"]);
    assert_eq!(rig.run_state(run), RunState::Failed);
    assert_eq!(
        rig.states(run),
        ["succeeded", "failed", "upstream_failed", "succeeded"]
    );
    let spent = rig.mirror.tasks[&(run, TaskIndex(1))].spent;
    assert_eq!((spent, rig.core.durable().runs.len()), (1, 0));

    let (tasks, said) = rig.rerun_and_hear(run, None).unwrap();
    assert_eq!(tasks, ["b", "c"]);
    assert_eq!(
        rig.states(run),
        ["succeeded", "active", "waiting", "succeeded"]
    );
    let record = &rig.mirror.runs[&run];
    assert_eq!(
        (record.state, record.finished_at, record.reruns),
        (RunState::Running, None, 1)
    );
    assert_eq!(rig.mirror.tasks[&(run, TaskIndex(1))].spent, 0);
    let played = rig.play(&mut site, assigns(&said), &[]);
    assert_eq!(names(&played), ["b", "c"]);
    assert_eq!(rig.run_state(run), RunState::Succeeded);
    assert_eq!(
        rig.mirror.tasks[&(run, TaskIndex(1))].attempts,
        2,
        "attempts go on counting"
    );
}

#[test]
fn named_tasks_run_again_with_everything_after_them() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(diamond());
    let (run, said) = rig.trigger("w");
    rig.play(&mut site, assigns(&said), &[]);
    assert!(
        rig.cannot_rerun(run, None)
            .contains("every task of it succeeded")
    );
    let (tasks, said) = rig.rerun_and_hear(run, Some(&["b"])).unwrap();
    assert_eq!(tasks, ["b", "c"]);
    assert_eq!(names(&rig.play(&mut site, assigns(&said), &[])), ["b", "c"]);
    let (tasks, said) = rig.rerun_and_hear(run, Some(&["a"])).unwrap();
    assert_eq!(tasks, ["a", "b", "c", "d"]);
    assert_eq!(rig.states(run), ["active", "waiting", "waiting", "waiting"]);
    assert_eq!(
        names(&rig.play(&mut site, assigns(&said), &[])),
        ["a", "b", "c", "d"]
    );
    assert_eq!(rig.run_state(run), RunState::Succeeded);
    assert_eq!(rig.mirror.runs[&run].reruns, 2);
    let unknown = rig.rerun(run, Some(&["z"]));
    assert!(
        matches!(unknown, Err(Denied::UnknownTask { .. })),
        "{unknown:?}"
    );
}

#[test]
fn what_needs_another_failure_stays_as_it_is() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    // c needs a and b, d needs c.
    let tasks = vec![
        task("a", "load", &[]),
        task("b", "load", &[]),
        task("c", "load", &[0, 1]),
        task("d", "load", &[2]),
    ];
    rig.apply(workflow("w", tasks));
    let (run, said) = rig.trigger("w");
    rig.play(&mut site, assigns(&said), &["a", "b"]);
    let why = rig.cannot_rerun(run, Some(&["c"]));
    assert!(
        why.contains("`c` needs `a`, which did not succeed"),
        "{why}"
    );
    let (tasks, said) = rig.rerun_and_hear(run, Some(&["a"])).unwrap();
    assert_eq!(tasks, ["a"]);
    rig.play(&mut site, assigns(&said), &[]);
    assert_eq!(
        rig.states(run),
        ["succeeded", "failed", "upstream_failed", "upstream_failed"]
    );
    assert_eq!(rig.run_state(run), RunState::Failed);
    let (tasks, said) = rig.rerun_and_hear(run, Some(&["b"])).unwrap();
    assert_eq!(tasks, ["b", "c", "d"]);
    rig.play(&mut site, assigns(&said), &[]);
    assert_eq!(rig.run_state(run), RunState::Succeeded);
}

#[test]
fn a_run_that_still_runs_can_try_its_failures_again() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let tasks = vec![
        task("a", "load", &[]),
        task("b", "load", &[]),
        task("c", "load", &[0]),
    ];
    rig.apply(workflow("w", tasks));
    let (run, said) = rig.trigger("w");
    assert!(
        rig.cannot_rerun(run, None)
            .contains("no task of it has failed")
    );
    let given = assigns(&said);
    site.ends(&mut rig, given[0].attempt, Outcome::Failed);
    assert_eq!(rig.states(run), ["failed", "active", "upstream_failed"]);
    assert!(rig.cannot_rerun(run, Some(&["b"])).contains("is not over"));
    let (tasks, said) = rig.rerun_and_hear(run, None).unwrap();
    assert_eq!(tasks, ["a", "c"]);
    rig.play(&mut site, assigns(&said), &[]);
    site.ends(&mut rig, given[1].attempt, Outcome::Succeeded);
    assert_eq!(rig.run_state(run), RunState::Succeeded);
}

#[test]
fn an_attempt_whose_end_is_unknown_is_never_run_beside() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow("w", vec![task("a", "once", &[])]));
    let (run, said) = rig.trigger("w");
    let attempt = assigns(&said)[0].attempt;
    site.tells(&mut rig, attempt, AttemptState::Running);
    site.reboots(&mut rig, vec![]);
    assert!(matches!(rig.phase(attempt), Phase::Lost { .. }));
    rig.ask(Ask::Cancel { run }).unwrap();
    assert_eq!(rig.run_state(run), RunState::Cancelled);
    let why = rig.cannot_rerun(run, None);
    assert!(why.contains("not known") && why.contains("`bank`"), "{why}");
    rig.restart();
    site.connect(&mut rig, vec![]);
    assert!(rig.cannot_rerun(run, None).contains("not known"));
    // It reports after all: then it can be run again.
    site.ends(&mut rig, attempt, Outcome::Failed);
    assert_eq!(rig.rerun(run, None).unwrap(), ["a"]);
    assert!(
        matches!(rig.task_state(run, 0), TaskState::Active { attempt: second } if second != attempt)
    );
}

#[test]
fn what_is_being_cancelled_deleted_or_unknown_is_refused() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow(
        "w",
        vec![task("a", "once", &[]), task("b", "once", &[0])],
    ));
    let (run, said) = rig.trigger("w");
    rig.ask(Ask::Cancel { run }).unwrap();
    assert!(rig.cannot_rerun(run, None).contains("being cancelled"));
    site.ends(&mut rig, assigns(&said)[0].attempt, Outcome::Cancelled);
    let delete = Ask::DeleteWorkflow {
        workflow: name("w"),
        expected_version: Some(1),
    };
    rig.ask(delete).unwrap();
    assert!(rig.cannot_rerun(run, None).contains("was deleted"));
    let unknown = RunId(1);
    assert_eq!(rig.rerun(unknown, None), Err(Denied::UnknownRun(unknown)));
    // Of another tenant it is unknown, whatever is handed over.
    let stored = rig.mirror.stored_run(&name("acme"), run).map(Box::new);
    let ask = Ask::Rerun {
        run,
        tasks: None,
        stored,
    };
    assert_eq!(rig.ask_in("other", ask).0, Err(Denied::UnknownRun(run)));
    // Applied again, it can be run again, in the version it was of.
    rig.apply(workflow("w", vec![task("z", "once", &[])]));
    assert_eq!(rig.rerun(run, None).unwrap(), ["a", "b"]);
    assert_eq!(rig.mirror.runs[&run].version, 1);
}

#[test]
fn it_stays_with_its_agent_unless_that_one_is_gone() {
    for removed in [false, true] {
        let mut rig = Rig::new();
        let mut bank = rig.site("bank");
        let mut plant = rig.site("plant");
        rig.apply(workflow("w", vec![task("a", "once", &[])]));
        let (run, said) = rig.trigger("w");
        let first = rig.mirror.runs[&run].agent.clone().unwrap();
        let here = if first == bank.agent {
            &mut bank
        } else {
            &mut plant
        };
        rig.play(here, assigns(&said), &["a"]);
        if removed {
            rig.ask(Ask::RemoveAgent {
                agent: first.clone(),
            })
            .unwrap();
        }
        rig.rerun(run, None).unwrap();
        let agent = rig.mirror.runs[&run].agent.clone().unwrap();
        assert_eq!(agent != first, removed);
    }
}

#[test]
fn a_rerun_survives_a_restart_and_a_failed_commit() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(diamond());
    let (run, said) = rig.trigger("w");
    rig.play(&mut site, assigns(&said), &["a"]);
    let stored = rig.mirror.stored_run(&name("acme"), run).map(Box::new);
    let ask = Happened::Asked {
        call: Call(99),
        tenant: name("acme"),
        ask: Ask::Rerun {
            run,
            tasks: None,
            stored,
        },
    };
    rig.failing_turn(std::slice::from_ref(&ask), false);
    assert_eq!(rig.run_state(run), RunState::Failed);
    rig.failing_turn(&[ask], true);
    assert_eq!(rig.run_state(run), RunState::Running);
    rig.restart();
    let said = site.connect(&mut rig, vec![]);
    let mut given = assigns(&said);
    given.extend(assigns(&site.beats(&mut rig)));
    rig.play(&mut site, given, &[]);
    assert_eq!(rig.run_state(run), RunState::Succeeded);
}

#[test]
fn an_attempt_whose_end_nobody_can_tell_stands_in_the_way_for_good() {
    let unknown = Outcome::Interrupted(outpost_proto::outcome::Interruption::AgentStateLost);
    for (entry, cancelled, again) in [
        ("once", false, false),
        ("once", true, false),
        ("load", false, true),
    ] {
        let mut rig = Rig::new();
        let mut site = rig.site("bank");
        rig.apply(workflow("w", vec![task("a", entry, &[])]));
        let (run, said) = rig.trigger("w");
        let attempt = assigns(&said)[0].attempt;
        site.tells(&mut rig, attempt, AttemptState::Running);
        if cancelled {
            // Given up, cancelled, and only then it is said that nobody knows.
            site.reboots(&mut rig, vec![]);
            rig.ask(Ask::Cancel { run }).unwrap();
        }
        site.ends(&mut rig, attempt, unknown);
        rig.restart();
        site.connect(&mut rig, vec![]);
        if again {
            rig.rerun(run, None).unwrap();
        } else {
            let why = rig.cannot_rerun(run, None);
            assert!(why.contains("may still run"), "{entry} {cancelled}: {why}");
        }
    }
}

#[test]
fn what_may_run_twice_is_run_again_once_it_can_no_longer_be_started() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow("w", vec![task("a", "load", &[])]));
    let (run, said) = rig.trigger("w");
    site.tells(&mut rig, assigns(&said)[0].attempt, AttemptState::Running);
    rig.turn(&[site.close()]);
    let mut other = rig.site("plant");
    let mut second = Vec::new();
    while second.is_empty() {
        second.extend(assigns(&rig.pass_ms(5_000)));
        second.extend(assigns(&other.beats(&mut rig)));
    }
    other.ends(&mut rig, second[0].attempt, Outcome::Failed);
    assert_eq!(rig.run_state(run), RunState::Failed);
    assert_eq!(rig.rerun(run, None).unwrap(), ["a"]);
    assert_eq!(rig.mirror.runs[&run].agent, Some(name("plant")));
}

#[test]
fn what_was_read_before_a_run_ended_in_the_same_turn_is_not_believed() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow("w", vec![task("a", "load", &[])]));
    let (run, said) = rig.trigger("w");
    let event = site.event(
        assigns(&said)[0].attempt,
        AttemptState::Finished(report(Outcome::Failed)),
    );
    let rerun = |call: u64, rig: &Rig| Happened::Asked {
        call: Call(call),
        tenant: name("acme"),
        ask: Ask::Rerun {
            run,
            tasks: None,
            stored: rig.mirror.stored_run(&name("acme"), run).map(Box::new),
        },
    };
    let early = rerun(900, &rig);
    rig.turn(&[site.frame(vec![event]), early]);
    assert_eq!(rig.run_state(run), RunState::Failed);
    // Run again, cancelled and run again within one turn: the second time nothing is believed either.
    let (first, second) = (rerun(901, &rig), rerun(902, &rig));
    let cancel = Happened::Asked {
        call: Call(903),
        tenant: name("acme"),
        ask: Ask::Cancel { run },
    };
    rig.turn(&[first, cancel, second]);
    let record = &rig.mirror.runs[&run];
    assert_eq!((record.state, record.reruns), (RunState::Cancelled, 1));
    rig.rerun(run, None).unwrap();
    assert_eq!(rig.mirror.runs[&run].reruns, 2);
}
