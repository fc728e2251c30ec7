//! Which fault hits whom: processes by signals, connections by the proxy they pass through.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use outpost_faults::chance::Chance;
use outpost_faults::procs::{self, Proc};
use outpost_faults::proxy::{End, Proxy, Rules};
use rustix::process::Signal;

use crate::dev::Place;
use crate::{AGENT_MAIN, ORCHESTRATOR_MAIN};

/// What can happen, and how it is counted.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Kill(Who),
    Stop(Who),
    Cut,
    Deaf,
    Reset,
    Refuse,
}

/// Whom it can happen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Orchestrator,
    Runner,
    Link,
    Spawner,
    Keeper,
}

/// Every kind with its name, as often as it is to be drawn.
const KINDS: [(Kind, &str); 14] = [
    (Kind::Kill(Who::Orchestrator), "kill -9 of the orchestrator"),
    (Kind::Kill(Who::Runner), "kill -9 of the runner"),
    (Kind::Kill(Who::Runner), "kill -9 of the runner"),
    (Kind::Kill(Who::Link), "kill -9 of the link"),
    (Kind::Kill(Who::Link), "kill -9 of the link"),
    (Kind::Kill(Who::Spawner), "kill -9 of the spawner"),
    (Kind::Kill(Who::Keeper), "kill -9 of a keeper"),
    (Kind::Kill(Who::Keeper), "kill -9 of a keeper"),
    (Kind::Stop(Who::Orchestrator), "SIGSTOP of the orchestrator"),
    (Kind::Stop(Who::Runner), "SIGSTOP of the runner"),
    (Kind::Cut, "the connection cut"),
    (Kind::Deaf, "the connection deaf one way"),
    (Kind::Reset, "the connection reset"),
    (Kind::Refuse, "the orchestrator out of reach"),
];

/// Draws faults; ends those that end.
pub(super) struct Faults<'a> {
    root: PathBuf,
    state: PathBuf,
    proxy: &'a Proxy,
    chance: Chance,
    stopped: Vec<(Instant, Proc)>,
    heal_at: Option<Instant>,
    counts: BTreeMap<&'static str, u64>,
}

impl<'a> Faults<'a> {
    pub(super) fn new(place: &Place, proxy: &'a Proxy, chance: Chance) -> Self {
        Self {
            root: place.root().to_owned(),
            state: place.agent(),
            proxy,
            chance,
            stopped: Vec::new(),
            heal_at: None,
            counts: BTreeMap::new(),
        }
    }

    /// How many of which kind there were.
    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.clone()
    }

    pub(super) fn pause(&mut self, (least, most): (u64, u64)) -> Duration {
        self.chance.between_ms(least, most)
    }

    /// Ends what goes on: everybody awake, everything passes.
    pub(super) fn mend(&mut self) {
        for (_, process) in self.stopped.drain(..) {
            process.signal(Signal::CONT);
        }
        self.heal_at = None;
        self.proxy.heal();
    }

    /// Ends what is due, and does one thing more; what a person is told of it.
    pub(super) fn strike(&mut self) -> Option<String> {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.stopped)
            .into_iter()
            .partition::<Vec<_>, _>(|(at, _)| *at <= now);
        self.stopped = later;
        due.iter()
            .for_each(|(_, process)| process.signal(Signal::CONT));
        if self.heal_at.is_some_and(|at| at <= now) {
            self.heal_at = None;
            self.proxy.heal();
        }
        let (kind, name) = *self.chance.one_of(&KINDS)?;
        let long = self.chance.between_ms(500, 2_500);
        let told = match kind {
            Kind::Kill(who) => {
                let alive = self.alive(who);
                let victim = self.chance.one_of(&alive)?;
                victim.kill();
                format!("{name} (process {})", victim.pid)
            }
            Kind::Stop(who) => {
                let alive = self.alive(who);
                let victim = self.chance.one_of(&alive)?.clone();
                victim.signal(Signal::STOP);
                let told = format!("{name} for {long:.1?} (process {})", victim.pid);
                self.stopped.push((now + long, victim));
                told
            }
            Kind::Cut => self.held(Rules::cut(), now + long, name, long),
            Kind::Deaf => self.held(Rules::deaf_down(), now + long, name, long),
            Kind::Refuse => {
                self.proxy.refuse(true);
                self.held(Rules::ended(End::Fin), now + long, name, long)
            }
            Kind::Reset => {
                self.proxy.disturb_all(Rules::ended(End::Rst));
                name.to_owned()
            }
        };
        *self.counts.entry(name).or_default() += 1;
        Some(told)
    }

    fn held(&mut self, rules: Rules, until: Instant, name: &str, long: Duration) -> String {
        self.proxy.disturb_all(rules);
        self.heal_at = Some(until);
        format!("{name} for {long:.1?}")
    }

    fn alive(&self, who: Who) -> Vec<Proc> {
        let everybody = procs::belonging_to(&self.root);
        let spawners = everybody
            .iter()
            .filter(|process| process.is_role("spawner"))
            .map(|process| process.pid)
            .collect::<BTreeSet<_>>();
        let keepers = procs::attempts(&self.state)
            .iter()
            .filter_map(|dir| match procs::keeper_and_task(dir) {
                (Some(keeper), Some(_)) => Some(keeper.pid),
                _ => None,
            })
            .collect::<BTreeSet<_>>();
        let runs = |process: &Proc, main: &str, command: &str| {
            process.args.windows(2).any(|pair| pair == [main, command])
        };
        let is = |process: &Proc| match who {
            Who::Orchestrator => runs(process, ORCHESTRATOR_MAIN, "serve"),
            Who::Runner => runs(process, AGENT_MAIN, "run"),
            Who::Link => process.is_role("link"),
            // Keepers are forks of a spawner and look like it.
            Who::Spawner => {
                process.is_role("spawner")
                    && !spawners.contains(&process.parent)
                    && !keepers.contains(&process.pid)
            }
            Who::Keeper => keepers.contains(&process.pid),
        };
        everybody.into_iter().filter(is).collect()
    }
}
