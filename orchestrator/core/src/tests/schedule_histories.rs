//! Any history of a scheduled workflow: no instant makes two runs, none that the schedule does not have makes one, and
//! with a process that is there all the time each makes exactly one.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::schedule::Schedule;
use crate::spec::{Missed, ScheduleSpec, When};

use super::*;

const WHEN: [&str; 4] = ["*/7 * * * *", "0 * * * *", "3 */2 * * *", "30 2 * * *"];

#[derive(Debug, Clone)]
enum Act {
    Pass(u64),
    Outage(u64),
    Fail(bool),
    Wall(i64),
    Apply { rule: usize, missed: usize },
    Pause(bool),
    DeleteAndApply,
    EndRuns,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => prop_oneof![1..90_000u64, 60_000..9_000_000u64].prop_map(Act::Pass),
        1 => prop_oneof![1..90_000u64, 60_000..9_000_000u64].prop_map(Act::Outage),
        2 => any::<bool>().prop_map(Act::Fail),
        1 => (-7_200_000..7_200_000i64).prop_map(Act::Wall),
        1 => (0..WHEN.len() + 2, 0..3usize).prop_map(|(rule, missed)| Act::Apply { rule, missed }),
        1 => any::<bool>().prop_map(Act::Pause),
        1 => Just(Act::DeleteAndApply),
        2 => Just(Act::EndRuns),
    ]
}

struct World {
    rig: Rig,
    rule: ScheduleSpec,
    /// Every rule that ever was.
    rules: Vec<ScheduleSpec>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            rig: Rig::new(),
            rule: rule(0, 0),
            rules: Vec::new(),
        };
        world.apply();
        world
    }

    fn apply(&mut self) {
        self.rig.apply(WorkflowSpec {
            schedule: Some(self.rule.clone()),
            ..workflow("w", vec![task("a", "load", &[])])
        });
        self.rules.push(self.rule.clone());
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Pass(ms) => {
                self.rig.pass_ms(ms);
            }
            Act::Outage(ms) => {
                self.rig.now = self.rig.now.plus_ms(ms);
                self.rig.restart();
            }
            Act::Fail(durable) => {
                // Whatever is next is due in a turn whose commit fails.
                let next = self.rig.core.next_deadline();
                self.rig.now = self.rig.now.max(next.unwrap_or(self.rig.now));
                self.rig.failing_turn(&[], durable);
            }
            Act::Wall(ahead) => {
                let ahead = ahead * 1000;
                self.rig.turn(&[Happened::Wall { ahead }]);
            }
            Act::Apply { rule: at, missed } => {
                self.rule = rule(at, missed);
                self.apply();
            }
            Act::Pause(paused) => {
                let workflow = name("w");
                self.rig
                    .ask(Ask::PauseWorkflow { workflow, paused })
                    .unwrap();
            }
            Act::DeleteAndApply => {
                self.end_runs();
                let deleted = self.rig.ask(Ask::DeleteWorkflow {
                    workflow: name("w"),
                    expected_version: None,
                });
                match deleted {
                    Ok(_) => self.apply(),
                    // In the turns that ended its runs another instant was due.
                    Err(denied) => assert!(matches!(denied, Denied::WorkflowBusy { .. })),
                }
            }
            Act::EndRuns => self.end_runs(),
        }
    }

    fn end_runs(&mut self) {
        for run in self.rig.core.durable().runs {
            self.rig.ask(Ask::Cancel { run: run.run }).unwrap();
        }
    }

    fn made(&self) -> Vec<u64> {
        let runs = self.rig.mirror.runs.values();
        runs.map(|run| run.scheduled_for.unwrap()).collect()
    }

    fn check(&self) {
        let made = self.made();
        let once: BTreeSet<u64> = made.iter().copied().collect();
        assert_eq!(once.len(), made.len(), "an instant made two runs");
        let rules: Vec<Schedule> = self
            .rules
            .iter()
            .map(|rule| Schedule::new(rule).unwrap())
            .collect();
        for instant in made {
            assert!(
                rules.iter().any(|rule| rule.prev(instant) == Some(instant)),
                "{instant} is no instant"
            );
        }
    }
}

fn rule(at: usize, missed: usize) -> ScheduleSpec {
    let when = match WHEN.get(at) {
        Some(expression) => When::Cron {
            expression: (*expression).to_owned(),
        },
        None => When::Every {
            ms: 1000 * (1 + 600 * (at - WHEN.len()) as u64),
        },
    };
    ScheduleSpec {
        timezone: "Europe/Berlin".to_owned(),
        missed: [Missed::Latest, Missed::Skip, Missed::All][missed],
        ..ScheduleSpec::new(when)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_instant_makes_two_runs(acts in prop::collection::vec(act(), 1..30)) {
        let mut world = World::new();
        for act in &acts {
            // An interval of a second makes thousands of runs in an hour: that is tried in short.
            let long = matches!(act, Act::Pass(ms) if *ms > 90_000);
            if !(long && world.rule.when == (When::Every { ms: 1000 })) {
                world.act(act);
            }
            world.check();
        }
    }

    #[test]
    fn with_no_outage_each_instant_makes_exactly_one_run(
        rule_at in 0..WHEN.len(),
        acts in prop::collection::vec((1..5_000_000u64, prop::option::of(any::<bool>()), any::<bool>()), 1..20),
    ) {
        let mut world = World::new();
        world.rule = rule(rule_at, 1);
        world.apply();
        let from = world.rig.now;
        for (ms, fail, restart) in acts {
            world.act(&Act::Pass(ms));
            if let Some(durable) = fail {
                world.act(&Act::Fail(durable));
            }
            if restart {
                world.rig.restart();
            }
            world.rig.pass_ms(0);
            world.end_runs();
        }
        let schedule = Schedule::new(&world.rule).unwrap();
        let due: Vec<u64> = schedule
            .following(from.0)
            .take_while(|instant| *instant <= world.rig.now.0)
            .collect();
        let mut made = world.made();
        made.sort_unstable();
        prop_assert_eq!(made, due);
    }
}
