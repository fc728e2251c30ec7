//! The field: one orchestrator, a fault proxy before it, and many agents that dial through the proxy.

use std::net::{IpAddr, Ipv4Addr};

use outpost_e2e::{Agent, Api, Entry, World};
use outpost_faults::proxy::Proxy;

use crate::preload::Preload;
use crate::work::{self, WORKFLOWS};

/// Everything under test. Agents go before the world that they are in.
#[derive(Debug)]
pub struct Field {
    /// In the order of their numbers: `site-01`, ….
    pub agents: Vec<Agent>,
    /// The wall clock of each agent; none where there is no C compiler.
    pub clocks: Vec<Preload>,
    /// The disk of each agent; none where there is no C compiler.
    pub disks: Vec<Preload>,
    /// The orchestrator's disk.
    pub disk: Option<Preload>,
    /// Between all agents and the orchestrator.
    pub proxy: Proxy,
    /// May do everything in the one tenant.
    pub api: Api,
    /// The orchestrator, and the directory of all.
    pub world: World,
}

impl Field {
    /// So many agents with the catalogue of [`work::entries`], all enrolled and live, and all workflows applied.
    ///
    /// # Panics
    /// When any of it fails.
    #[must_use]
    pub fn new(agents: usize) -> Self {
        let mut field = Self::with_entries(agents, &work::entries());
        for (_, _, yaml) in WORKFLOWS {
            let _ = field.api.apply(yaml).ok();
        }
        field.agents.iter_mut().for_each(|agent| agent.slots = 4);
        field.give_shims();
        field
    }

    /// From its next start on, each agent has a wall clock that can be set, and everybody a disk that can fail.
    fn give_shims(&mut self) {
        if !Preload::can_compile() {
            return;
        }
        let clock = Preload::clock(self.world.dir());
        let disk = Preload::fsync(self.world.dir());
        for agent in &mut self.agents {
            let own = clock.for_another(&agent.name);
            let disk = disk.for_another(&format!("disk-{}", agent.name));
            agent.env.extend(Preload::together(&[&own, &disk]));
            self.clocks.push(own);
            self.disks.push(disk);
        }
        self.world.orchestrator.env.extend(disk.environment());
        self.disk = Some(disk);
    }

    /// The same with another catalogue, and no workflow.
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
        let proxy = Proxy::listen(IpAddr::V4(Ipv4Addr::LOCALHOST)).expect("a port of loopback");
        let mut world = World::serving(&["--public-agents", &proxy.address().to_string()]);
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let env = more.iter().map(owned).collect::<Vec<_>>();
        if !env.is_empty() {
            world.orchestrator.env.clone_from(&env);
            world.orchestrator.kill_and_restart();
        }
        proxy.forward_to(world.orchestrator.agents_port());
        let api = world.api();
        let enrolled = (1..=agents).map(|number| {
            let name = format!("site-{number:02}");
            let token = world.token_file(&api, &name);
            let mut agent = world.enrolled(&name, &token, entries);
            agent.env.clone_from(&env);
            agent
        });
        let mut agents = enrolled.collect::<Vec<_>>();
        agents.iter_mut().for_each(Agent::start);
        agents.iter().for_each(|agent| agent.live(&api));
        Self {
            agents,
            clocks: Vec::new(),
            disks: Vec::new(),
            disk: None,
            proxy,
            api,
            world,
        }
    }

    /// Starts everything that does not run, lets everything pass, and wakes everybody.
    ///
    /// # Panics
    /// When the orchestrator does not come up.
    pub fn mend(&mut self) {
        use rustix::process::Signal;
        self.proxy.heal();
        self.clocks.iter().for_each(|clock| clock.step(0));
        self.disks.iter().chain(&self.disk).for_each(|disk| {
            let _ = disk.take_back();
        });
        for process in outpost_e2e::procs::belonging_to(self.world.dir()) {
            process.signal(Signal::CONT);
        }
        if !self.world.orchestrator.is_running() {
            self.world.orchestrator.kill();
            self.world.orchestrator.start();
        }
        for agent in &mut self.agents {
            if !agent.is_running() {
                agent.kill_runner();
                agent.start();
            }
        }
    }
}
