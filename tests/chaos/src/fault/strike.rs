//! What each kind of fault does to its victim, and what a person is told of it.

use std::collections::BTreeMap;
use std::time::Duration;

use outpost_e2e::Proc;
use outpost_faults::proxy::{End, Rules};
use rustix::process::Signal;

use super::{Injector, Remedy};
use crate::field::Field;
use crate::kind::{OfAgent, OfAll, OfOne, OfOrchestrator};
use crate::network::Drops;

/// More than a certificate lives.
const OFF_S: i64 = 25 * 60 * 60;

impl Injector {
    pub(super) fn strike_agent(&mut self, what: OfAgent, field: &mut Field) -> Option<String> {
        let place = self.place(what, field)?;
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
            OfAgent::FullDisk | OfAgent::Partition | OfAgent::HalfPartition => {
                self.surround(what, place, field)
            }
            OfAgent::Clock => {
                let off = self.off();
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
                let program = copy_of_the_agent(field.world.dir(), self.upgrades % 2);
                field.replace(place, &program);
                self.later(Duration::ZERO, Remedy::StartAgent(place));
                Some(format!("another executable takes over {name}"))
            }
        }
    }

    /// Who is hit: only some have what some kinds are about.
    fn place(&mut self, what: OfAgent, field: &Field) -> Option<usize> {
        match what {
            OfAgent::KillKeeper => self.one_with_keepers(field),
            OfAgent::FullDisk => self.one_of(&field.rooms),
            OfAgent::Partition | OfAgent::HalfPartition => self.one_of(&field.islands),
            OfAgent::KillRunner
            | OfAgent::KillLink
            | OfAgent::KillSpawner
            | OfAgent::KillAll
            | OfAgent::StopRunner
            | OfAgent::StopLink
            | OfAgent::Upgrade
            | OfAgent::Clock
            | OfAgent::Sync => usize::try_from(self.chance.below(field.agents.len() as u64)).ok(),
        }
    }

    /// Most agents do nothing most of the time.
    fn one_with_keepers(&mut self, field: &Field) -> Option<usize> {
        let agents = field.agents.iter().enumerate();
        let busy = agents.filter(|(_, agent)| !agent.find_keepers().is_empty());
        let places = busy.map(|(place, _)| place).collect::<Vec<_>>();
        self.chance.one_of(&places).copied()
    }

    fn one_of<T>(&mut self, some: &BTreeMap<usize, T>) -> Option<usize> {
        let places = some.keys().copied().collect::<Vec<_>>();
        self.chance.one_of(&places).copied()
    }

    fn off(&mut self) -> i64 {
        match self.chance.below(2) {
            0 => OFF_S,
            _ => -OFF_S,
        }
    }

    /// What is done to the disk and the network of an agent that has them of its own.
    fn surround(&mut self, what: OfAgent, place: usize, field: &Field) -> Option<String> {
        let name = &field.agents.get(place)?.name;
        if what == OfAgent::FullDisk {
            field.rooms.get(&place)?.fill();
            let long = self.chance.between_ms(1_000, 15_000);
            self.later(long, Remedy::FreeDisk(place));
            return Some(format!("the disk of {name} is full for {long:.1?}"));
        }
        let (drops, did) = match (what, self.chance.below(2)) {
            (OfAgent::HalfPartition, 0) => (Drops::Up, "nothing of it gets out"),
            (OfAgent::HalfPartition, _) => (Drops::Down, "nothing gets to it"),
            (_, _) => (Drops::Both, "nothing passes"),
        };
        field.islands.get(&place)?.cut(drops);
        let long = self.chance.between_ms(500, 30_000);
        self.later(long, Remedy::HealIsland(place));
        Some(format!("partition of {name}: {did} for {long:.1?}"))
    }

    fn stop(&mut self, process: Proc, what: &str) -> String {
        process.signal(Signal::STOP);
        let long = self.chance.between_ms(500, 15_000);
        self.later(long, Remedy::Continue(process));
        format!("SIGSTOP of the {what} for {long:.1?}")
    }

    pub(super) fn strike_orchestrator(
        &mut self,
        what: OfOrchestrator,
        field: &mut Field,
    ) -> Option<String> {
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
            OfOrchestrator::FullDisk => {
                field.room.as_ref()?.fill();
                let long = self.chance.between_ms(500, 8_000);
                self.later(long, Remedy::FreeDiskOfOrchestrator);
                Some(format!("the orchestrator's disk is full for {long:.1?}"))
            }
            OfOrchestrator::Clock => {
                let off = self.off();
                field.clock.as_ref()?.step(off);
                let long = self.chance.between_ms(1_000, 20_000);
                self.later(long, Remedy::SetClockOfOrchestrator);
                Some(format!(
                    "the orchestrator's clock is off by {off} s for {long:.1?}"
                ))
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

    pub(super) fn strike_connection(&mut self, what: OfOne, field: &Field) -> Option<String> {
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

    pub(super) fn strike_all(&mut self, what: OfAll, field: &Field) -> String {
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

/// The same program under another path, as a package's upgrade puts it there.
fn copy_of_the_agent(dir: &std::path::Path, which: u64) -> std::path::PathBuf {
    let copy = dir.join(format!("outpost-agent-{which}"));
    if !copy.exists() {
        let built = outpost_e2e::binaries::Binary::Agent.path();
        std::fs::copy(built, &copy).expect("a file in our own directory");
    }
    copy
}
