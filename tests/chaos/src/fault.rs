//! The faults that can be drawn, what each does to whom, and what mends it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use outpost_e2e::Proc;
use outpost_faults::chance::Chance;
use outpost_faults::proxy::{End, Rules};
use rustix::process::Signal;

use crate::field::Field;
use crate::preload::Preload;

/// How long whoever hears of a failed sync takes to end, at most.
const ENDING: Duration = Duration::from_secs(2);
/// More than a certificate lives.
const OFF_S: i64 = 25 * 60 * 60;

/// One kind of fault, by whom it hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One agent.
    Agent(OfAgent),
    /// The one orchestrator.
    Orchestrator(OfOrchestrator),
    /// One connection.
    One(OfOne),
    /// All connections.
    All(OfAll),
}

/// What can happen to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfAgent {
    /// SIGKILL of the runner, and a start some time later.
    KillRunner,
    /// SIGKILL; the runner makes another one.
    KillLink,
    /// SIGKILL; the next start makes another one.
    KillSpawner,
    /// SIGKILL of the keeper of a running task: its tree goes along.
    KillKeeper,
    /// SIGKILL of runner, link and spawner at once.
    KillAll,
    /// SIGSTOP of the runner, and SIGCONT some time later.
    StopRunner,
    /// SIGSTOP of the link, and SIGCONT some time later.
    StopLink,
    /// The old runner killed, the same state run by another executable.
    Upgrade,
    /// Its wall clock is wrong by more than a day, and right some time later.
    Clock,
    /// A sync of its disk fails: whoever asked for it ends, and starts some time later.
    Sync,
}

/// What can happen to the orchestrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfOrchestrator {
    /// SIGKILL, and a start some time later.
    Kill,
    /// SIGSTOP, and SIGCONT some time later.
    Stop,
    /// A sync of its disk fails: it ends, and starts some time later.
    Sync,
}

/// What can happen to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfOne {
    /// Nothing passes.
    Cut,
    /// Nothing passes one way.
    Deaf,
    /// Every chunk comes late.
    Delay,
    /// One byte per second.
    Drip,
    /// Closed one way.
    HalfClose,
    /// Reset.
    Reset,
}

/// What can happen to all connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfAll {
    /// Nothing passes.
    Cut,
    /// Reset.
    Reset,
    /// Closed, and no new ones.
    Refuse,
}

/// Every kind with its weight and its name in lists.
pub const KINDS: [(Kind, u64, &str); 22] = [
    (Kind::Agent(OfAgent::KillRunner), 12, "kill runner"),
    (Kind::Agent(OfAgent::KillLink), 8, "kill link"),
    (Kind::Agent(OfAgent::KillSpawner), 6, "kill spawner"),
    (Kind::Agent(OfAgent::KillKeeper), 8, "kill keeper"),
    (Kind::Agent(OfAgent::KillAll), 6, "kill agent"),
    (
        Kind::Orchestrator(OfOrchestrator::Kill),
        6,
        "kill orchestrator",
    ),
    (Kind::Agent(OfAgent::StopRunner), 6, "stop runner"),
    (Kind::Agent(OfAgent::StopLink), 3, "stop link"),
    (
        Kind::Orchestrator(OfOrchestrator::Stop),
        3,
        "stop orchestrator",
    ),
    (Kind::Agent(OfAgent::Upgrade), 4, "upgrade"),
    (Kind::Agent(OfAgent::Clock), 4, "clock off by 25 h"),
    (Kind::Agent(OfAgent::Sync), 4, "failed sync of an agent"),
    (
        Kind::Orchestrator(OfOrchestrator::Sync),
        3,
        "failed sync of the orchestrator",
    ),
    (Kind::One(OfOne::Cut), 8, "cut"),
    (Kind::One(OfOne::Deaf), 6, "one-way black hole"),
    (Kind::One(OfOne::Delay), 6, "delay"),
    (Kind::One(OfOne::Drip), 4, "drip"),
    (Kind::One(OfOne::HalfClose), 4, "half-close"),
    (Kind::One(OfOne::Reset), 6, "reset"),
    (Kind::All(OfAll::Cut), 2, "cut all"),
    (Kind::All(OfAll::Reset), 2, "reset all"),
    (Kind::All(OfAll::Refuse), 2, "refuse all"),
];

/// What ends a fault.
#[derive(Debug)]
enum Remedy {
    StartAgent(usize),
    StartOrchestrator,
    Continue(Proc),
    SetClock(usize),
    MendDisk(usize),
    MendDiskOfOrchestrator,
    Heal(u64),
    HealAll,
}

/// Draws faults and mends them when their time has come.
#[derive(Debug)]
pub struct Injector {
    chance: Chance,
    due: Vec<(Instant, Remedy)>,
    counts: BTreeMap<&'static str, u64>,
    upgrades: u64,
}

impl Injector {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            chance: Chance::new(seed),
            due: Vec::new(),
            counts: BTreeMap::new(),
            upgrades: 0,
        }
    }

    /// Faults so far, by kind.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// When the next fault is, from now.
    pub fn pause(&mut self, most_ms: u64) -> Duration {
        self.chance.between_ms(most_ms / 5, most_ms)
    }

    /// Ends every fault whose time has come.
    ///
    /// # Panics
    /// When the orchestrator does not come up again.
    pub fn mend(&mut self, field: &mut Field) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.due)
            .into_iter()
            .partition::<Vec<_>, _>(|(at, _)| *at <= now);
        self.due = later;
        for (_, remedy) in due {
            match remedy {
                Remedy::StartAgent(place) => {
                    if let Some(agent) = field.agents.get_mut(place)
                        && !agent.is_running()
                    {
                        agent.kill_runner();
                        agent.start();
                    }
                }
                Remedy::StartOrchestrator => {
                    if !field.world.orchestrator.is_running() {
                        field.world.orchestrator.kill();
                        field.world.orchestrator.start();
                    }
                }
                Remedy::Continue(process) => process.signal(Signal::CONT),
                Remedy::SetClock(place) => {
                    field
                        .clocks
                        .get(place)
                        .iter()
                        .for_each(|clock| clock.step(0));
                }
                Remedy::MendDisk(place) => {
                    let disk = field.disks.get(place);
                    let is_over = disk.is_none_or(Preload::take_back);
                    // Who heard of it ends, but perhaps not at once.
                    let remedy = Remedy::StartAgent(place);
                    if !is_over {
                        self.later(ENDING, remedy);
                    }
                }
                Remedy::MendDiskOfOrchestrator => {
                    let is_over = field.disk.as_ref().is_none_or(Preload::take_back);
                    if !is_over {
                        self.later(ENDING, Remedy::StartOrchestrator);
                    }
                }
                Remedy::Heal(connection) => {
                    let _ = field.proxy.disturb(connection, Rules::default());
                }
                Remedy::HealAll => field.proxy.heal(),
            }
        }
    }

    /// Draws one fault and makes it happen; what a person is told of it. `None` when its victim was not there.
    pub fn strike(&mut self, field: &mut Field) -> Option<String> {
        let kind = self.draw();
        let told = match kind {
            Kind::Agent(what) => self.strike_agent(what, field),
            Kind::Orchestrator(what) => self.strike_orchestrator(what, field),
            Kind::One(what) => self.strike_connection(what, field),
            Kind::All(what) => Some(self.strike_all(what, field)),
        }?;
        *self.counts.entry(name(kind)).or_default() += 1;
        Some(told)
    }

    fn draw(&mut self) -> Kind {
        let total = KINDS.iter().map(|(_, weight, _)| weight).sum();
        let mut place = self.chance.below(total);
        for (kind, weight, _) in KINDS {
            if place < weight {
                return kind;
            }
            place -= weight;
        }
        Kind::Agent(OfAgent::KillRunner)
    }

    fn later(&mut self, after: Duration, remedy: Remedy) {
        self.due.push((Instant::now() + after, remedy));
    }

    fn strike_agent(&mut self, what: OfAgent, field: &mut Field) -> Option<String> {
        let place = usize::try_from(self.chance.below(field.agents.len() as u64)).ok()?;
        let agent = field.agents.get_mut(place)?;
        let name = agent.name.clone();
        if !agent.is_running() {
            return None;
        }
        let back = self.chance.between_ms(0, 4_000);
        match what {
            OfAgent::KillLink => {
                agent.find_link()?.kill();
                Some(format!("kill -9 of the link of {name}"))
            }
            OfAgent::KillSpawner => {
                agent.find_spawner()?.kill();
                Some(format!("kill -9 of the spawner of {name}"))
            }
            OfAgent::KillKeeper => {
                let keepers = agent.find_keepers();
                self.chance.one_of(&keepers)?.kill();
                Some(format!("kill -9 of a keeper with its task at {name}"))
            }
            OfAgent::StopRunner => Some(self.stop(agent.runner(), &format!("runner of {name}"))),
            OfAgent::StopLink => Some(self.stop(agent.find_link()?, &format!("link of {name}"))),
            OfAgent::KillRunner => {
                agent.kill_runner();
                self.later(back, Remedy::StartAgent(place));
                Some(format!(
                    "kill -9 of the runner of {name}, back in {back:.1?}"
                ))
            }
            OfAgent::KillAll => {
                let others = [agent.find_link(), agent.find_spawner()];
                agent.kill_runner();
                others.iter().flatten().for_each(Proc::kill);
                self.later(back, Remedy::StartAgent(place));
                Some(format!(
                    "kill -9 of runner, link and spawner of {name}, back in {back:.1?}"
                ))
            }
            OfAgent::Clock => {
                let off = if self.chance.below(2) == 0 {
                    OFF_S
                } else {
                    -OFF_S
                };
                field.clocks.get(place)?.step(off);
                let long = self.chance.between_ms(1_000, 20_000);
                self.later(long, Remedy::SetClock(place));
                Some(format!(
                    "the clock of {name} is off by {off} s for {long:.1?}"
                ))
            }
            OfAgent::Sync => {
                field.disks.get(place)?.fail_once();
                self.later(back, Remedy::MendDisk(place));
                Some(format!(
                    "the next sync of {name} fails, if within {back:.1?}"
                ))
            }
            OfAgent::Upgrade => {
                self.upgrades += 1;
                agent.kill_runner();
                agent.program = Some(copy_of_the_agent(field.world.dir(), self.upgrades % 2));
                self.later(Duration::ZERO, Remedy::StartAgent(place));
                Some(format!("another executable takes over {name}"))
            }
        }
    }

    fn stop(&mut self, process: Proc, what: &str) -> String {
        process.signal(Signal::STOP);
        let long = self.chance.between_ms(500, 15_000);
        self.later(long, Remedy::Continue(process));
        format!("SIGSTOP of the {what} for {long:.1?}")
    }

    fn strike_orchestrator(&mut self, what: OfOrchestrator, field: &mut Field) -> Option<String> {
        let orchestrator = &mut field.world.orchestrator;
        if !orchestrator.is_running() {
            return None;
        }
        match what {
            OfOrchestrator::Stop => Some(self.stop(orchestrator.process(), "orchestrator")),
            OfOrchestrator::Kill => {
                orchestrator.kill();
                let back = self.chance.between_ms(0, 3_000);
                self.later(back, Remedy::StartOrchestrator);
                Some(format!("kill -9 of the orchestrator, back in {back:.1?}"))
            }
            OfOrchestrator::Sync => {
                field.disk.as_ref()?.fail_once();
                let back = self.chance.between_ms(0, 3_000);
                self.later(back, Remedy::MendDiskOfOrchestrator);
                Some(format!(
                    "the orchestrator's next sync fails, if within {back:.1?}"
                ))
            }
        }
    }

    fn strike_connection(&mut self, what: OfOne, field: &Field) -> Option<String> {
        let connection = *self.chance.one_of(&field.proxy.connections())?;
        let (rules, did) = match what {
            OfOne::Cut => (Rules::cut(), "nothing passes".to_owned()),
            OfOne::Deaf if self.chance.below(2) == 0 => {
                (Rules::deaf_up(), "nothing passes upwards".to_owned())
            }
            OfOne::Deaf => (Rules::deaf_down(), "nothing passes downwards".to_owned()),
            OfOne::Delay => {
                let delay = self.chance.between_ms(50, 2_000);
                (Rules::delayed(delay), format!("{delay:.1?} late"))
            }
            OfOne::Drip => (Rules::dripping(), "one byte per second".to_owned()),
            OfOne::HalfClose => (Rules::half_closed(), "closed upwards".to_owned()),
            OfOne::Reset => (Rules::ended(End::Rst), "reset".to_owned()),
        };
        if !field.proxy.disturb(connection, rules) {
            return None;
        }
        if matches!(what, OfOne::HalfClose | OfOne::Reset) {
            return Some(format!("connection {connection}: {did}"));
        }
        let long = self.chance.between_ms(500, 20_000);
        self.later(long, Remedy::Heal(connection));
        Some(format!("connection {connection}: {did} for {long:.1?}"))
    }

    fn strike_all(&mut self, what: OfAll, field: &Field) -> String {
        let did = match what {
            OfAll::Cut => {
                field.proxy.disturb_all(Rules::cut());
                "nothing passes"
            }
            OfAll::Refuse => {
                field.proxy.refuse(true);
                field.proxy.disturb_all(Rules::ended(End::Fin));
                "closed, and no new ones"
            }
            OfAll::Reset => {
                field.proxy.disturb_all(Rules::ended(End::Rst));
                return "all connections reset".to_owned();
            }
        };
        let long = self.chance.between_ms(300, 8_000);
        self.later(long, Remedy::HealAll);
        format!("all connections: {did} for {long:.1?}")
    }
}

fn name(kind: Kind) -> &'static str {
    KINDS
        .iter()
        .find(|(known, _, _)| *known == kind)
        .map_or("", |(_, _, name)| name)
}

/// The same program under another path, as a package's upgrade puts it there.
fn copy_of_the_agent(dir: &std::path::Path, which: u64) -> std::path::PathBuf {
    let copy = dir.join(format!("outpost-agent-{which}"));
    if !copy.exists() {
        let built = outpost_e2e::binaries::Binary::Agent.path();
        std::fs::copy(built, &copy).expect("a file in our own directory");
    }
    copy
}
