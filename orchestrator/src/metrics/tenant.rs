//! One tenant's numbers.

use std::sync::{Mutex, PoisonError};

use outpost_orchestrator_core::event::Alarm;
use outpost_orchestrator_core::record::Presence;
use outpost_orchestrator_core::safety::Safety;
use outpost_proto::outcome::Outcome;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::{Now, text};

/// 1 ms to 17 min: how long work waits.
const WAITS: (f64, f64, u16) = (0.001, 2.0, 21);

/// States of runs that are not over.
pub(super) const RUNS: [&str; 2] = ["running", "cancelling"];
/// States of tasks that are not over.
pub(super) const TASKS: [&str; 4] = ["waiting", "queued", "backoff", "active"];
/// How runs end.
pub(super) const RUN_ENDS: [&str; 3] = ["succeeded", "failed", "cancelled"];
/// How tasks end.
pub(super) const TASK_ENDS: [&str; 4] = ["succeeded", "failed", "upstream_failed", "cancelled"];
/// How attempts end; details such as the kind of a refusal are left to the run's own view.
pub(super) const OUTCOMES: [&str; 9] = [
    "succeeded",
    "failed",
    "timed_out",
    "cancelled",
    "start_failed",
    "killed",
    "interrupted",
    "refused",
    "lost",
];
const ALARMS: [&str; 7] = [
    "out_of_order",
    "foreign_attempt",
    "impossible_event",
    "inventory_count",
    "nonce",
    "cloned",
    "behind",
];
const PRESENCES: [&str; 4] = ["enrolled", "live", "stale", "removed"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ending {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InTouch {
    presence: &'static str,
}

/// Numbers by word of a closed set, reached by place: every word is there from the start, as 0.
#[derive(Debug)]
pub(super) struct Words<T, const N: usize>([T; N]);

impl<T: Default, const N: usize> Words<T, N> {
    fn of<L>(family: &Family<L, T>, words: [&'static str; N], label: fn(&'static str) -> L) -> Self
    where
        L: Clone + std::hash::Hash + Eq,
        T: Clone,
    {
        Self(words.map(|word| family.get_or_create(&label(word)).clone()))
    }

    pub(super) fn at(&self, place: usize) -> Option<&T> {
        self.0.get(place)
    }
}

/// One tenant's numbers.
#[derive(Debug)]
pub(super) struct TenantMetrics {
    registry: Mutex<Registry>,
    pub(super) runs: Words<Gauge, 2>,
    pub(super) tasks: Words<Gauge, 4>,
    pub(super) runs_finished: Words<Counter, 3>,
    pub(super) tasks_finished: Words<Counter, 4>,
    pub(super) attempts: Words<Counter, 9>,
    pub(super) queued: Histogram,
    pub(super) starting: Histogram,
    alarms: Words<Counter, 7>,
    safety: Words<Counter, { Safety::ALL.len() }>,
    agents: Words<Gauge, 4>,
    slots: Gauge,
    slots_free: Gauge,
    cordoned: Gauge,
    quarantined: Gauge,
    held_back: Gauge,
    workflows: Gauge,
    paused: Gauge,
    queue_depth: Gauge,
    certificate: Gauge,
}

impl Default for TenantMetrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("outpost");
        let waits = || Histogram::new(exponential_buckets(WAITS.0, WAITS.1, WAITS.2));
        let state = |state| State { state };
        let made = Self {
            runs: words(
                &mut registry,
                "runs",
                "Runs that are not over, by state",
                RUNS,
                state,
            ),
            tasks: words(
                &mut registry,
                "tasks",
                "Tasks of runs that are not over, by state, those that are over apart",
                TASKS,
                state,
            ),
            runs_finished: words(
                &mut registry,
                "runs_finished",
                "Runs that ended since the process started, by how",
                RUN_ENDS,
                state,
            ),
            tasks_finished: words(
                &mut registry,
                "tasks_finished",
                "Tasks that ended since the process started, by how",
                TASK_ENDS,
                state,
            ),
            attempts: words(
                &mut registry,
                "attempts_finished",
                "Attempts that ended since the process started, by outcome",
                OUTCOMES,
                |outcome| Ending { outcome },
            ),
            alarms: words(
                &mut registry,
                "alarms",
                "Things no honest agent does, since the process started",
                ALARMS,
                |kind| Kind { kind },
            ),
            safety: words(
                &mut registry,
                "safety_events",
                "What nobody shall miss, since the process started: clones, freezes, restores, decisions about them",
                Safety::ALL.map(Safety::word),
                |kind| Kind { kind },
            ),
            agents: words(
                &mut registry,
                "agents",
                "Agents, by whether they are in touch",
                PRESENCES,
                |presence| InTouch { presence },
            ),
            queued: waits(),
            starting: waits(),
            slots: Gauge::default(),
            slots_free: Gauge::default(),
            cordoned: Gauge::default(),
            quarantined: Gauge::default(),
            held_back: Gauge::default(),
            workflows: Gauge::default(),
            paused: Gauge::default(),
            queue_depth: Gauge::default(),
            certificate: Gauge::default(),
            registry: Mutex::default(),
        };
        made.register(&mut registry);
        *made.registry.lock().unwrap_or_else(PoisonError::into_inner) = registry;
        made
    }
}

fn words<L, T, const N: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    words: [&'static str; N],
    label: fn(&'static str) -> L,
) -> Words<T, N>
where
    L: Clone + std::hash::Hash + Eq + Send + Sync + std::fmt::Debug + EncodeLabelSet + 'static,
    T: Default + Clone + Send + Sync + std::fmt::Debug + 'static,
    Family<L, T>: prometheus_client::encoding::EncodeMetric,
{
    let family = Family::<L, T>::default();
    let made = Words::of(&family, words, label);
    registry.register(name, help, family);
    made
}

impl TenantMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "task_queued",
            "How long tasks waited for an agent, from queued to assigned",
            Unit::Seconds,
            self.queued.clone(),
        );
        registry.register_with_unit(
            "attempt_start",
            "How long attempts took from assigned to running",
            Unit::Seconds,
            self.starting.clone(),
        );
        let gauges = [
            ("agent_slots", "Slots of agents in touch", &self.slots),
            (
                "agent_slots_free",
                "Free slots of agents in touch",
                &self.slots_free,
            ),
            (
                "agents_cordoned",
                "Agents that take no new work because a person wants so",
                &self.cordoned,
            ),
            (
                "agents_quarantined",
                "Agents whose identity has two holders; they get no work until a person decides",
                &self.quarantined,
            ),
            (
                "agents_held_back",
                "Agents that saw a newer state of the database than there is; they get no work until a restore",
                &self.held_back,
            ),
            ("workflows", "Workflows that exist", &self.workflows),
            (
                "workflows_paused",
                "Workflows that make no scheduled runs because a person wants so",
                &self.paused,
            ),
            (
                "queue_depth",
                "Tasks that could be placed and are not",
                &self.queue_depth,
            ),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        registry.register_with_unit(
            "agents_certificate_remaining_min",
            "How long the agents' certificates hold, the one that ends first; -1 when none is known",
            Unit::Seconds,
            self.certificate.clone(),
        );
    }

    /// Takes what is only known at the moment.
    pub(super) fn take(&self, now: &Now<'_>) {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let of = |presence| {
            now.agents
                .iter()
                .filter(move |agent| agent.presence == presence)
        };
        let presences = [
            Presence::Enrolled,
            Presence::Live,
            Presence::Stale,
            Presence::Removed,
        ];
        for (gauge, presence) in self.agents.0.iter().zip(presences) {
            gauge.set(count(of(presence).count()));
        }
        let live = || of(Presence::Live);
        let slots: i64 = live()
            .filter_map(|agent| agent.hello.as_ref())
            .map(|hello| i64::from(hello.slots))
            .sum();
        let beats = || live().filter_map(|agent| agent.heartbeat.as_ref());
        self.slots.set(slots);
        self.slots_free
            .set(beats().map(|beat| i64::from(beat.slots_free)).sum());
        let cordoned = now
            .agents
            .iter()
            .filter(|agent| agent.cordoned || agent.draining);
        self.cordoned.set(count(cordoned.count()));
        let quarantined = now.agents.iter().filter(|agent| !agent.holders.is_empty());
        self.quarantined.set(count(quarantined.count()));
        let held_back = now.agents.iter().filter(|agent| agent.held_back);
        self.held_back.set(count(held_back.count()));
        let ends = now
            .agents
            .iter()
            .filter(|agent| agent.presence != Presence::Removed);
        let first = ends.filter_map(|agent| agent.certificate_not_after).min();
        let left_s = |end: u64| end.saturating_sub(now.now) / 1_000_000;
        self.certificate
            .set(first.map_or(-1, |end| i64::try_from(left_s(end)).unwrap_or(i64::MAX)));
        self.workflows.set(count(now.workflows.len()));
        let paused = now.workflows.iter().filter(|workflow| workflow.paused);
        self.paused.set(count(paused.count()));
        let queued = now.workflows.iter().map(|workflow| workflow.queued_tasks);
        self.queue_depth.set(count(queued.sum()));
    }

    /// Something that nobody shall miss was committed.
    pub(super) fn safety(&self, what: Safety) {
        let place = Safety::ALL.iter().position(|known| *known == what);
        if let Some(counter) = place.and_then(|place| self.safety.at(place)) {
            counter.inc();
        }
    }

    /// An agent did what no honest agent does.
    pub(super) fn alarm(&self, what: Alarm) {
        let place = match what {
            Alarm::OutOfOrder => 0,
            Alarm::ForeignAttempt => 1,
            Alarm::ImpossibleEvent => 2,
            Alarm::InventoryCount => 3,
            Alarm::Nonce => 4,
            Alarm::Cloned => 5,
            Alarm::Behind => 6,
        };
        if let Some(counter) = self.alarms.at(place) {
            counter.inc();
        }
    }

    /// Adds everything to a text.
    pub(super) fn append(&self, to: &mut String) {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        text::append(to, &registry);
    }
}

/// The place of an outcome's word.
pub(super) fn outcome(outcome: Outcome) -> usize {
    match outcome {
        Outcome::Succeeded => 0,
        Outcome::Failed => 1,
        Outcome::TimedOut => 2,
        Outcome::Cancelled => 3,
        Outcome::StartFailed(_) => 4,
        Outcome::Killed(_) => 5,
        Outcome::Interrupted(_) => 6,
        Outcome::Refused(_) => 7,
    }
}

/// The place of the word for an attempt that was given up.
pub(super) const LOST: usize = 8;
