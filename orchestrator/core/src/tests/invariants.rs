//! What must hold after any sequence of events, honest or not, with restarts and failed commits in between.

mod held;

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::event::AgentChange;
use crate::spec::Affinity;

use super::*;

/// One step of a random history. Indexes are taken modulo what there is.
#[derive(Debug, Clone)]
pub(super) enum Act {
    Trigger(usize),
    /// Another version of a workflow, with other limits.
    Apply(usize, Limits),
    Configure(usize, AgentChange),
    Cancel(usize),
    Connect {
        site: usize,
        honest: bool,
    },
    Reboot(usize),
    Close(usize),
    Beat(usize),
    Pause(usize, bool),
    Tell {
        site: usize,
        attempt: usize,
        to: usize,
    },
    Remove(usize),
    Pass(u64),
    Restart,
    Fail(bool),
}

/// What versions of a workflow differ in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    runs: Option<u32>,
    tasks: Option<u32>,
    task: Option<u32>,
    priorities: (i8, i8),
    together: bool,
}

const NO_LIMITS: Limits = Limits {
    runs: None,
    tasks: None,
    task: None,
    priorities: (0, 0),
    together: true,
};

fn limits() -> impl Strategy<Value = Limits> {
    let limit = || prop::option::of(1..4u32);
    let parts = (limit(), limit(), limit(), (-1..2i8, -1..2i8), any::<bool>());
    parts.prop_map(|(runs, tasks, task, priorities, together)| Limits {
        runs,
        tasks,
        task,
        priorities,
        together,
    })
}

fn change() -> impl Strategy<Value = AgentChange> {
    let labels = |eu: bool| {
        let label = eu.then(|| (name("zone"), name("eu")));
        label.into_iter().collect()
    };
    let queues = |big: bool| {
        let big = big.then(|| name("big"));
        [name("default")].into_iter().chain(big).collect()
    };
    let only = AgentChange::default;
    prop_oneof![
        any::<bool>().prop_map(move |eu| AgentChange {
            labels: Some(labels(eu)),
            ..only()
        }),
        any::<bool>().prop_map(move |big| AgentChange {
            queues: Some(queues(big)),
            ..only()
        }),
        prop::option::of(0..4u16).prop_map(move |slots| AgentChange {
            slots_limit: Some(slots),
            ..only()
        }),
        any::<bool>().prop_map(move |cordoned| AgentChange {
            cordoned: Some(cordoned),
            ..only()
        }),
        any::<bool>().prop_map(move |draining| AgentChange {
            draining: Some(draining),
            ..only()
        }),
    ]
}

pub(super) fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => any::<usize>().prop_map(Act::Trigger),
        1 => (any::<usize>(), limits()).prop_map(|(workflow, limits)| Act::Apply(workflow, limits)),
        2 => (any::<usize>(), change()).prop_map(|(site, change)| Act::Configure(site, change)),
        1 => any::<usize>().prop_map(Act::Cancel),
        4 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(site, honest)| Act::Connect { site, honest }),
        1 => any::<usize>().prop_map(Act::Reboot),
        1 => any::<usize>().prop_map(Act::Close),
        6 => any::<usize>().prop_map(Act::Beat),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(site, paused)| Act::Pause(site, paused)),
        12 => (any::<usize>(), any::<usize>(), 0..8usize)
            .prop_map(|(site, attempt, to)| Act::Tell { site, attempt, to }),
        1 => any::<usize>().prop_map(Act::Remove),
        3 => prop_oneof![1..10_000u64, 10_000..100_000u64, 300_000..700_000u64].prop_map(Act::Pass),
        1 => Just(Act::Restart),
        1 => any::<bool>().prop_map(Act::Fail),
    ]
}

pub(super) struct World {
    rig: Rig,
    settings: Settings,
    sites: Vec<Site>,
    /// What each site was given and has not ended.
    held: Vec<BTreeMap<AttemptId, (Assign, AttemptState)>>,
    runs: Vec<RunId>,
    sent: BTreeMap<AttemptId, Incarnation>,
    limits: [Limits; 2],
    /// Attempts there were before the newest act.
    before: BTreeSet<AttemptId>,
}

const WORKFLOWS: [&str; 2] = ["w", "v"];

/// Every version has the same graph; those of `v` ask for a queue and a label as well.
fn version(at: usize, limits: Limits) -> WorkflowSpec {
    let mut retried = task("a", "load", &[]);
    retried.retry.retries = 1;
    retried.max_active = limits.task;
    retried.priority = Some(limits.priorities.1);
    let tasks = vec![
        retried,
        task("b", "once", &[]),
        task("c", "load", &[0, 1]),
        task("d", "once", &[0]),
    ];
    let mut spec = workflow(WORKFLOWS[at], tasks);
    spec.max_active_runs = limits.runs;
    spec.max_active_tasks = limits.tasks;
    spec.priority = limits.priorities.0;
    spec.affinity = if limits.together {
        Affinity::Run
    } else {
        Affinity::None
    };
    if at == 1 {
        spec.tasks[1].queue = Some(name("big"));
        spec.tasks[3].selector.0 = [(name("zone"), name("eu"))].into();
    }
    spec
}

/// Serves and is labelled so that it can run everything.
fn able() -> AgentChange {
    AgentChange {
        labels: Some([(name("zone"), name("eu"))].into()),
        queues: Some([name("default"), name("big")].into()),
        slots_limit: Some(None),
        cordoned: Some(false),
        draining: None,
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self::with_backlog(None)
    }

    /// `None`: as many attempts wait at a site as its last tasks were short.
    fn with_backlog(backlog: Option<u16>) -> Self {
        let settings = Settings {
            backlog,
            ..Settings::default()
        };
        let mut rig = Rig::with(settings);
        let sites: Vec<Site> = ["bank", "plant"]
            .iter()
            .map(|agent| rig.site(agent))
            .collect();
        for at in 0..WORKFLOWS.len() {
            rig.apply(version(at, NO_LIMITS));
        }
        let held = vec![BTreeMap::new(), BTreeMap::new()];
        Self {
            rig,
            settings,
            sites,
            held,
            runs: Vec::new(),
            sent: BTreeMap::new(),
            limits: [NO_LIMITS; 2],
            before: BTreeSet::new(),
        }
    }

    /// Lets placement walk over everything from now on, to be compared with.
    pub(super) fn be_naive(&mut self) {
        self.rig.naive = true;
        self.rig.be_naive();
    }

    pub(super) fn mirror(&self) -> &Mirror {
        &self.rig.mirror
    }

    fn hear(&mut self, said: &[Speech]) {
        for speech in said {
            let Speech::Send { conn, messages } = speech else {
                continue;
            };
            let Some(at) = self.sites.iter().position(|site| site.conn == *conn) else {
                continue;
            };
            for message in messages {
                match message {
                    DownMessage::Assign(assign) => {
                        let here = self.sites[at].incarnation;
                        let first = *self.sent.entry(assign.attempt).or_insert(here);
                        assert_eq!(
                            first, here,
                            "an attempt is never sent under another incarnation"
                        );
                        self.held[at]
                            .entry(assign.attempt)
                            .or_insert((assign.clone(), AttemptState::Assigned));
                    }
                    DownMessage::Directive {
                        directive: Directive::Forget(attempt),
                        ..
                    } => {
                        self.held[at].remove(attempt);
                    }
                    DownMessage::Directive {
                        directive: Directive::Drain,
                        ..
                    } => self.gives_back(at),
                    DownMessage::Directive { .. }
                    | DownMessage::Welcome(_)
                    | DownMessage::Granted(_) => {}
                }
            }
        }
    }

    /// What a drained site has not started it turns away; it says so when it is asked.
    fn gives_back(&mut self, at: usize) {
        let outcome = Outcome::Refused(outpost_proto::outcome::Refusal::Draining);
        for (_, state) in self.held[at].values_mut() {
            if *state == AttemptState::Assigned {
                *state = AttemptState::Finished(report(outcome));
            }
        }
    }

    pub(super) fn act(&mut self, act: &Act) {
        self.before = self.rig.mirror.attempts.keys().copied().collect();
        let said = match act.clone() {
            Act::Trigger(at) => {
                let (run, said) = self.rig.trigger(WORKFLOWS[at % 2]);
                self.runs.push(run);
                said
            }
            Act::Apply(at, limits) => {
                self.limits[at % 2] = limits;
                self.rig.ask_in("acme", applying(version(at % 2, limits))).1
            }
            Act::Configure(at, change) => self.configure(at % 2, change),
            Act::Cancel(at) if !self.runs.is_empty() => {
                let run = self.runs[at % self.runs.len()];
                self.rig.ask_in("acme", Ask::Cancel { run }).1
            }
            Act::Cancel(_) => vec![],
            Act::Connect { site, honest } => self.connect(site % 2, honest),
            Act::Reboot(at) => {
                let at = at % 2;
                self.sites[at].incarnation.0 += 1;
                for (_, state) in self.held[at].values_mut() {
                    let outcome =
                        Outcome::Interrupted(outpost_proto::outcome::Interruption::Reboot);
                    *state = AttemptState::Finished(report(outcome));
                }
                self.connect(at, true)
            }
            Act::Close(at) => self.rig.turn(&[self.sites[at % 2].close()]),
            Act::Beat(at) => self.sites[at % 2].beats(&mut self.rig),
            Act::Pause(at, paused) => {
                self.sites[at % 2].flags.paused = paused;
                self.sites[at % 2].beats(&mut self.rig)
            }
            Act::Tell { site, attempt, to } => self.tell(site % 2, attempt, to),
            Act::Remove(at) => {
                // Seldom, and only one of the two.
                if at.is_multiple_of(7) {
                    self.rig
                        .ask_in(
                            "acme",
                            Ask::RemoveAgent {
                                agent: self.sites[0].agent.clone(),
                            },
                        )
                        .1
                } else {
                    vec![]
                }
            }
            Act::Pass(ms) => self.rig.pass_ms(ms),
            Act::Restart => {
                self.rig.restart();
                vec![]
            }
            Act::Fail(durable) => {
                let beat = self.sites[0].heartbeat();
                let frame = self.sites[0].frame(vec![beat]);
                self.rig.failing_turn(std::slice::from_ref(&frame), durable);
                self.rig.turn(&[frame])
            }
        };
        self.hear(&said);
    }

    fn configure(&mut self, at: usize, change: AgentChange) -> Vec<Speech> {
        let agent = self.sites[at].agent.clone();
        let ask = Ask::ConfigureAgent { agent, change };
        self.rig.ask_in("acme", ask).1
    }

    fn connect(&mut self, at: usize, honest: bool) -> Vec<Speech> {
        let site = &mut self.sites[at];
        let opened = site.open(&mut self.rig);
        let said = self.rig.turn(&[opened, site.frame(vec![site.hello()])]);
        let welcome = messages(&said)
            .into_iter()
            .find_map(|message| match message {
                DownMessage::Welcome(welcome) => Some(welcome),
                DownMessage::Assign(_)
                | DownMessage::Directive { .. }
                | DownMessage::Granted(_) => None,
            });
        let Some(welcome) = welcome else { return said };
        site.nonce = welcome.next_nonce;
        let seq = site.event_seq;
        let items = if honest {
            self.held[at].values().collect()
        } else {
            vec![]
        };
        let items = items
            .into_iter()
            .map(|(assign, state)| site.item(assign, *state, seq))
            .collect();
        let beat = site.heartbeat();
        let listing = site.frame(vec![site.catalogue(), Site::inventory(items), beat]);
        self.rig.turn(&[listing])
    }

    fn tell(&mut self, at: usize, attempt: usize, to: usize) -> Vec<Speech> {
        let count = self.held[at].len();
        let Some((id, (_, state))) = self.held[at].iter_mut().nth(attempt % count.max(1)) else {
            return vec![];
        };
        let (id, before) = (*id, *state);
        let outcomes = Outcome::all();
        *state = match (before, to) {
            (AttemptState::Finished(_), _) => before,
            (_, 0) if before == AttemptState::Assigned => AttemptState::Starting,
            (_, 1) => AttemptState::Running,
            (_, 2..=5) => AttemptState::Finished(report(Outcome::Succeeded)),
            _ => AttemptState::Finished(report(outcomes[attempt % outcomes.len()])),
        };
        let state = *state;
        self.sites[at].tells(&mut self.rig, id, state)
    }

    /// Everything behaves from now on: agents come back, tell all they know, and what they hold succeeds.
    fn calm(&mut self) {
        for at in 0..2 {
            let _ = self.rig.ask(applying(version(at, NO_LIMITS)));
            self.limits[at] = NO_LIMITS;
            let said = self.configure(at, able());
            self.hear(&said);
        }
        for _ in 0..40 {
            for at in 0..2 {
                self.sites[at].flags = Flags::default();
                let said = self.connect(at, true);
                self.hear(&said);
                let open: Vec<AttemptId> = self.held[at].keys().copied().collect();
                for id in open {
                    let Some((_, state)) = self.held[at].get_mut(&id) else {
                        continue;
                    };
                    *state = match *state {
                        AttemptState::Finished(report) => AttemptState::Finished(report),
                        AttemptState::Assigned | AttemptState::Starting | AttemptState::Running => {
                            AttemptState::Finished(report(Outcome::Succeeded))
                        }
                    };
                    let state = *state;
                    let said = self.sites[at].tells(&mut self.rig, id, state);
                    self.hear(&said);
                }
            }
            let said = self.rig.pass_ms(6_000);
            self.hear(&said);
        }
    }

    fn invariant_in_calm_everything_ends_but_what_waits_for_a_person(&self) {
        for run in self
            .rig
            .mirror
            .runs
            .values()
            .filter(|run| !crate::tenant::over(run.state))
        {
            let waits = self.rig.mirror.attempts.values().any(|attempt| {
                let active = self.rig.task_state(run.run, attempt.task.0)
                    == TaskState::Active {
                        attempt: attempt.attempt,
                    };
                attempt.run == run.run
                    && active
                    && matches!(attempt.phase, Phase::Lost { .. })
                    && !attempt.retry_safe
            });
            let tasks: Vec<_> = (0..4)
                .map(|task| self.rig.task_state(run.run, task))
                .collect();
            assert!(waits, "{run:?} {tasks:?}");
        }
    }

    fn check(&self) {
        self.invariant_a_task_starts_only_after_its_needs_succeeded();
        self.invariant_a_second_attempt_exists_only_if_safe();
        self.invariant_fences_are_unique_and_below_the_next();
        self.invariant_no_agent_holds_more_than_its_capacity();
        self.invariant_no_limit_is_exceeded();
        self.invariant_a_run_is_over_exactly_when_all_its_tasks_are();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_the_invariants(
        backlog in prop::option::of(0..4u16),
        acts in prop::collection::vec(act(), 1..80),
    ) {
        let mut world = World::with_backlog(backlog);
        for act in &acts {
            world.act(act);
            world.check();
        }
    }

    #[test]
    fn terminal_states_are_sticky(acts in prop::collection::vec(act(), 1..60)) {
        let mut world = World::new();
        let mut ended: BTreeMap<AttemptId, Phase> = BTreeMap::new();
        for act in &acts {
            world.act(act);
            for attempt in world.rig.mirror.attempts.values() {
                if !crate::tenant::is_active(attempt) {
                    let first = *ended.entry(attempt.attempt).or_insert(attempt.phase);
                    prop_assert_eq!(first, attempt.phase);
                }
            }
        }
    }

    #[test]
    fn when_faults_stop_everything_ends(acts in prop::collection::vec(act(), 1..60)) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
        }
        world.calm();
        world.check();
        world.invariant_in_calm_everything_ends_but_what_waits_for_a_person();
    }

    #[test]
    fn the_same_seed_and_events_decide_the_same(acts in prop::collection::vec(act(), 1..40)) {
        let (mut one, mut two) = (World::new(), World::new());
        for act in &acts {
            one.act(act);
            two.act(act);
        }
        prop_assert_eq!(one.rig.mirror, two.rig.mirror);
    }
}

#[test]
fn a_mirror_gives_back_what_can_still_change_and_nothing_else() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow("w", vec![task("a", "once", &[])]));
    let (_, said) = rig.trigger("w");
    site.ends(&mut rig, assigns(&said)[0].attempt, Outcome::Succeeded);
    let snapshot = rig.mirror.snapshot(rig.now);
    assert_eq!(
        (
            snapshot.runs.len(),
            snapshot.tasks.len(),
            snapshot.attempts.len()
        ),
        (0, 0, 0)
    );
    assert_eq!(
        (
            rig.mirror.runs.len(),
            rig.mirror.tasks.len(),
            rig.mirror.attempts.len()
        ),
        (1, 1, 1)
    );
    let mut copy = Mirror::default();
    rig.mirror
        .runs
        .values()
        .for_each(|run| copy.apply(&Write::Run(run.clone())));
    assert_eq!(copy.runs, rig.mirror.runs);
}
