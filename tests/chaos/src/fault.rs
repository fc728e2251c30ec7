//! The faults that can be drawn, what each does to whom, and what mends it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use outpost_e2e::Proc;
use outpost_faults::chance::Chance;
use outpost_faults::proxy::Rules;
use rustix::process::Signal;

use crate::disk::Small;
use crate::field::{Field, Means};
use crate::kind::{Drawn, KINDS, Kind, OfAgent};
use crate::preload::Preload;

mod strike;

/// How long whoever hears of a failed sync takes to end, at most.
const ENDING: Duration = Duration::from_secs(2);

/// What ends a fault.
#[derive(Debug)]
enum Remedy {
    StartAgent(usize),
    StartOrchestrator,
    Continue(Proc),
    SetClock(usize),
    SetClockOfOrchestrator,
    MendDisk(usize),
    MendDiskOfOrchestrator,
    FreeDisk(usize),
    FreeDiskOfOrchestrator,
    HealIsland(usize),
    Heal(u64),
    HealAll,
}

/// Draws faults and mends them when their time has come.
#[derive(Debug)]
pub struct Injector {
    chance: Chance,
    kinds: Vec<Drawn>,
    due: Vec<(Instant, Remedy)>,
    counts: BTreeMap<&'static str, u64>,
    upgrades: u64,
}

impl Injector {
    /// Nothing has happened yet. `only`: words that are in the names of what may happen; everything when there are none.
    #[must_use]
    pub fn new(seed: u64, means: Means, only: &[String]) -> Self {
        let wanted = |name: &str| only.is_empty() || only.iter().any(|word| name.contains(word));
        let possible = KINDS
            .iter()
            .filter(|(kind, _, name)| kind.lacks(means).is_none() && wanted(name));
        let kinds = possible.copied().collect::<Vec<_>>();
        Self {
            chance: Chance::new(seed),
            due: Vec::new(),
            counts: kinds.iter().map(|(_, _, name)| (*name, 0)).collect(),
            kinds,
            upgrades: 0,
        }
    }

    /// Faults so far, by kind; every kind that can be drawn is there.
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
                Remedy::StartAgent(place) => field.start_agent(place),
                Remedy::StartOrchestrator => field.start_orchestrator(),
                Remedy::Continue(process) => process.signal(Signal::CONT),
                Remedy::SetClock(place) => {
                    let clock = field.clocks.get(place);
                    clock.iter().for_each(|clock| clock.step(0));
                }
                Remedy::SetClockOfOrchestrator => {
                    field.clock.iter().for_each(|clock| clock.step(0));
                }
                Remedy::FreeDisk(place) => {
                    field.rooms.get(&place).iter().for_each(|room| room.free());
                    field.start_agent(place);
                }
                Remedy::FreeDiskOfOrchestrator => {
                    field.room.iter().for_each(Small::free);
                    field.start_orchestrator();
                }
                Remedy::HealIsland(place) => {
                    field.islands.get(&place).iter().for_each(|it| it.heal());
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
        if self.kinds.is_empty() {
            return None;
        }
        let (kind, name) = self.draw();
        let told = match kind {
            Kind::Agent(what) => self.strike_agent(what, field),
            Kind::Orchestrator(what) => self.strike_orchestrator(what, field),
            Kind::One(what) => self.strike_connection(what, field),
            Kind::All(what) => Some(self.strike_all(what, field)),
        }?;
        *self.counts.entry(name).or_default() += 1;
        Some(told)
    }

    fn draw(&mut self) -> (Kind, &'static str) {
        let total = self.kinds.iter().map(|(_, weight, _)| weight).sum();
        let mut place = self.chance.below(total);
        for (kind, weight, name) in &self.kinds {
            if place < *weight {
                return (*kind, name);
            }
            place -= weight;
        }
        (Kind::Agent(OfAgent::KillRunner), "kill runner")
    }

    fn later(&mut self, after: Duration, remedy: Remedy) {
        self.due.push((Instant::now() + after, remedy));
    }
}
