//! The faults there are: by whom they hit, how often they are drawn, and what each needs of the machine.

use crate::field::Means;

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
    /// Its disk is full, and has room some time later.
    FullDisk,
    /// The packet filter drops what it sends and what is sent to it.
    Partition,
    /// The packet filter drops one of the two.
    HalfPartition,
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
    /// Its disk is full, and has room some time later.
    FullDisk,
    /// Its wall clock is wrong by more than a day, and right some time later.
    Clock,
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

/// A kind with how often it is drawn and its name in lists.
pub type Drawn = (Kind, u64, &'static str);

const fn agent(what: OfAgent, weight: u64, name: &'static str) -> Drawn {
    (Kind::Agent(what), weight, name)
}

const fn orchestrator(what: OfOrchestrator, weight: u64, name: &'static str) -> Drawn {
    (Kind::Orchestrator(what), weight, name)
}

const fn one(what: OfOne, weight: u64, name: &'static str) -> Drawn {
    (Kind::One(what), weight, name)
}

const fn all(what: OfAll, weight: u64, name: &'static str) -> Drawn {
    (Kind::All(what), weight, name)
}

/// Every kind.
pub const KINDS: [Drawn; 27] = [
    agent(OfAgent::KillRunner, 12, "kill runner"),
    agent(OfAgent::KillLink, 8, "kill link"),
    agent(OfAgent::KillSpawner, 6, "kill spawner"),
    agent(OfAgent::KillKeeper, 8, "kill keeper"),
    agent(OfAgent::KillAll, 6, "kill agent"),
    orchestrator(OfOrchestrator::Kill, 6, "kill orchestrator"),
    agent(OfAgent::StopRunner, 6, "stop runner"),
    agent(OfAgent::StopLink, 3, "stop link"),
    orchestrator(OfOrchestrator::Stop, 3, "stop orchestrator"),
    agent(OfAgent::Upgrade, 4, "upgrade"),
    agent(OfAgent::Clock, 4, "clock of an agent off by 25 h"),
    orchestrator(
        OfOrchestrator::Clock,
        3,
        "clock of the orchestrator off by 25 h",
    ),
    agent(OfAgent::Sync, 4, "failed sync of an agent"),
    orchestrator(OfOrchestrator::Sync, 3, "failed sync of the orchestrator"),
    agent(OfAgent::FullDisk, 4, "full disk of an agent"),
    orchestrator(OfOrchestrator::FullDisk, 3, "full disk of the orchestrator"),
    agent(OfAgent::Partition, 5, "partition"),
    agent(OfAgent::HalfPartition, 4, "one-way partition"),
    one(OfOne::Cut, 8, "cut"),
    one(OfOne::Deaf, 6, "one-way black hole"),
    one(OfOne::Delay, 6, "delay"),
    one(OfOne::Drip, 4, "drip"),
    one(OfOne::HalfClose, 4, "half-close"),
    one(OfOne::Reset, 6, "reset"),
    all(OfAll::Cut, 2, "cut all"),
    all(OfAll::Reset, 2, "reset all"),
    all(OfAll::Refuse, 2, "refuse all"),
];

impl Kind {
    /// What it needs and there is not.
    #[must_use]
    pub fn lacks(self, means: Means) -> Option<&'static str> {
        let (there, needs) = match self {
            Self::Agent(OfAgent::Clock | OfAgent::Sync)
            | Self::Orchestrator(OfOrchestrator::Clock | OfOrchestrator::Sync) => {
                (means.shims, "a C compiler")
            }
            Self::Agent(OfAgent::FullDisk) | Self::Orchestrator(OfOrchestrator::FullDisk) => {
                (means.rooms, "root")
            }
            Self::Agent(OfAgent::Partition | OfAgent::HalfPartition) => (
                means.islands,
                "root, a C compiler, ip, nft, nsenter and unshare",
            ),
            Self::Agent(_) | Self::Orchestrator(_) | Self::One(_) | Self::All(_) => (true, ""),
        };
        (!there).then_some(needs)
    }
}
