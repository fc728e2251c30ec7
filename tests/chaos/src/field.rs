//! The field: one orchestrator, a fault proxy before it, and many agents that dial through the proxy.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use outpost_e2e::binaries::Binary;
use outpost_e2e::{Agent, Api, Entry, World, site};
use outpost_faults::proxy::Proxy;

use crate::disk::Small;
use crate::network::{self, Island};
use crate::preload::Preload;
use crate::work::{self, WORKFLOWS};
use crate::wrap::{Etc, Wrap};

/// Of each four agents, this one has a disk of its own,
const WITH_ROOM: usize = 3;
/// and this one a network of its own.
const ON_ISLAND: usize = 1;
/// So large are disks of their own: no test comes near, and what is not used is not there.
const ROOM_MIB: u32 = 1024;

/// What this machine and this account can do to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Means {
    /// A C compiler, for what is loaded before the system's library.
    pub shims: bool,
    /// Root, for file systems of their own.
    pub rooms: bool,
    /// Root, the packet filter, and a network of the harness's own.
    pub islands: bool,
}

impl Means {
    /// What there is.
    #[must_use]
    pub fn here() -> Self {
        let shims = Preload::can_compile();
        Self {
            shims,
            rooms: site::is_root(),
            islands: shims && network::is_own() && network::can_have(),
        }
    }
}

/// Everything under test. Agents go before what they stand on, and all of that before the world that it is in.
#[derive(Debug)]
pub struct Field {
    /// In the order of their numbers: `site-01`, ….
    pub agents: Vec<Agent>,
    /// What surrounds each agent; none for an ordinary user.
    wraps: Vec<Wrap>,
    /// The wall clock of each agent; none where there is no C compiler.
    pub clocks: Vec<Preload>,
    /// The disk of each agent, by its syncs; none where there is no C compiler.
    pub disks: Vec<Preload>,
    /// The orchestrator's wall clock.
    pub clock: Option<Preload>,
    /// The orchestrator's disk, by its syncs.
    pub disk: Option<Preload>,
    /// Disks of their own, by the agents' places.
    pub rooms: BTreeMap<usize, Small>,
    /// The orchestrator's.
    pub room: Option<Small>,
    /// Networks of their own, by the agents' places.
    pub islands: BTreeMap<usize, Island>,
    /// Between all agents and the orchestrator.
    pub proxy: Proxy,
    /// May do everything in the one tenant.
    pub api: Api,
    /// The orchestrator, and the directory of all.
    pub world: World,
}

impl Field {
    /// So many agents with the catalogue of [`work::entries`], all enrolled and live, and all workflows applied. From
    /// the beginning everybody has a clock that can be set and a disk that can fail, and some a disk that can be full
    /// and a network that can be cut, as far as there are [`Means`].
    ///
    /// # Panics
    /// When any of it fails.
    #[must_use]
    pub fn new(agents: usize) -> Self {
        let means = Means::here();
        let mut field = Self::without_agents(&[]);
        field.equip_orchestrator(means);
        field.enrol(agents, &work::entries());
        field.agents.iter_mut().for_each(|agent| agent.slots = 4);
        field.equip_agents(means);
        field.start();
        for (_, _, yaml) in WORKFLOWS {
            let _ = field.api.apply(yaml).ok();
        }
        field
    }

    /// Agents with this catalogue that can only be killed and cut off, and no workflow.
    ///
    /// # Panics
    /// When any of it fails.
    #[must_use]
    pub fn with_entries(agents: usize, entries: &[Entry]) -> Self {
        Self::with_environment(agents, entries, &[])
    }

    /// The same where all processes find more in their environment.
    ///
    /// # Panics
    /// When any of it fails.
    #[must_use]
    pub fn with_environment(agents: usize, entries: &[Entry], more: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let env = more.iter().map(owned).collect::<Vec<_>>();
        let mut field = Self::without_agents(&env);
        field.enrol(agents, entries);
        for agent in &mut field.agents {
            agent.env.clone_from(&env);
        }
        field.start();
        field
    }

    fn without_agents(env: &[(String, String)]) -> Self {
        // What islands can reach as well, where there can be some.
        let address = match network::is_own() {
            true => network::MAINLAND,
            false => Ipv4Addr::LOCALHOST,
        };
        let proxy = Proxy::listen(IpAddr::V4(address)).expect("a port of our own");
        let mut world = World::serving(&["--public-agents", &proxy.address().to_string()]);
        if !env.is_empty() {
            world.orchestrator.env = env.to_owned();
            world.orchestrator.kill_and_restart();
        }
        proxy.forward_to(world.orchestrator.agents_port());
        Self {
            agents: Vec::new(),
            wraps: Vec::new(),
            clocks: Vec::new(),
            disks: Vec::new(),
            clock: None,
            disk: None,
            rooms: BTreeMap::new(),
            room: None,
            islands: BTreeMap::new(),
            proxy,
            api: world.api(),
            world,
        }
    }

    fn enrol(&mut self, agents: usize, entries: &[Entry]) {
        let (world, api) = (&self.world, &self.api);
        let enrolled = (1..=agents).map(|number| {
            let name = format!("site-{number:02}");
            let token = world.token_file(api, &name);
            world.enrolled(&name, &token, entries)
        });
        self.agents = enrolled.collect();
    }

    fn start(&mut self) {
        self.agents.iter_mut().for_each(Agent::start);
        self.agents.iter().for_each(|agent| agent.live(&self.api));
    }

    fn equip_orchestrator(&mut self, means: Means) {
        let orchestrator = &mut self.world.orchestrator;
        orchestrator.kill();
        if means.rooms {
            self.room = Some(Small::in_place_of(orchestrator.dir(), ROOM_MIB));
        }
        if means.shims {
            let dir = self.world.dir();
            let (clock, disk) = (Preload::clock(dir), Preload::fsync(dir));
            self.world.orchestrator.env = Preload::together(&[&clock, &disk]);
            (self.clock, self.disk) = (Some(clock), Some(disk));
        }
        self.world.orchestrator.start();
    }

    /// While no agent runs.
    fn equip_agents(&mut self, means: Means) {
        for (place, agent) in self.agents.iter().enumerate() {
            if means.rooms && place % 4 == WITH_ROOM {
                let room = Small::in_place_of(&agent.state, ROOM_MIB);
                self.rooms.insert(place, room);
            }
            let number = u8::try_from(place + 1).unwrap_or(0);
            if means.islands && place % 4 == ON_ISLAND && number > 0 {
                self.islands.insert(place, Island::new(number));
            }
        }
        if let (Some(clock), Some(disk)) = (&self.clock, &self.disk) {
            let etc = site::is_root().then(|| Etc::naming(self.world.dir(), &[clock, disk]));
            for (place, agent) in self.agents.iter_mut().enumerate() {
                let wishes = self.world.dir().join(format!("wishes-{}", agent.name));
                let (clock, disk) = (clock.told_in(&wishes), disk.told_in(&wishes));
                match &etc {
                    Some(etc) => {
                        let script = self.world.dir().join(format!("run-{}", agent.name));
                        let wrap = Wrap::new(&script, etc, &wishes, self.islands.get(&place));
                        agent.program = Some(wrap.around(Binary::Agent.path()));
                        self.wraps.push(wrap);
                    }
                    None => agent.env = Preload::together(&[&clock, &disk]),
                }
                self.clocks.push(clock);
                self.disks.push(disk);
            }
        }
    }

    /// From its next start on, an agent is another executable.
    ///
    /// # Panics
    /// When there is no such agent.
    pub fn replace(&mut self, place: usize, program: &Path) {
        let wrapped = self.wraps.get(place).map(|wrap| wrap.around(program));
        self.agents[place].program = Some(wrapped.unwrap_or_else(|| program.to_owned()));
    }

    /// Starts everything that does not run, lets everything pass, and wakes everybody.
    ///
    /// # Panics
    /// When the orchestrator does not come up.
    pub fn mend(&mut self) {
        use rustix::process::Signal;
        self.proxy.heal();
        self.islands.values().for_each(Island::heal);
        self.rooms.values().chain(&self.room).for_each(Small::free);
        let clocks = self.clocks.iter().chain(&self.clock);
        clocks.for_each(|clock| clock.step(0));
        self.disks.iter().chain(&self.disk).for_each(|disk| {
            let _ = disk.take_back();
        });
        for process in outpost_e2e::procs::belonging_to(self.world.dir()) {
            process.signal(Signal::CONT);
        }
        self.start_orchestrator();
        for agent in &mut self.agents {
            if !agent.is_running() {
                agent.kill_runner();
                agent.start();
            }
        }
    }

    /// Starts it if it does not run; on a full disk nobody would hear that it is ready.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_orchestrator(&mut self) {
        if !self.world.orchestrator.is_running() {
            self.room.iter().for_each(Small::free);
            self.world.orchestrator.kill();
            self.world.orchestrator.start();
        }
    }

    /// Starts an agent if it does not run.
    pub fn start_agent(&mut self, place: usize) {
        if let Some(agent) = self.agents.get_mut(place)
            && !agent.is_running()
        {
            agent.kill_runner();
            agent.start();
        }
    }
}
