//! Directed scenes: the world of the seeds with nothing left to chance, for tests that tell a story.
//!
//! A [`Scene`] is the real agents with their disks, keepers, clocks and streams, and either the real orchestrator
//! ([`Scene::new`]) or one whose part the scene plays ([`Scene::played`]): then whatever arrives is only written down
//! and the scene says what it likes, also what no honest orchestrator says. Every invariant of the seeds that does not
//! need an honest orchestrator is checked after every turn. Time is virtual: days cost what happens in them.
//!
//! Everything that anybody says is in the minutes: [`Scene::said`] by an agent to its host and its stream,
//! [`Scene::up`] what arrived from it, [`Scene::down`] what arrived at it, [`Scene::spoken`] by the orchestrator.
//! Tasks take as long as the names of [`Sold`] say, messages a millisecond, keepers' steps another.
//!
//! A scene fails by panicking, with the end of its trace.

#![expect(
    clippy::panic,
    reason = "a scene is part of a test, which fails by panicking"
)]

use std::time::Duration;

use outpost_agent_core::event::Speech;
use outpost_agent_core::record::Snapshot;
use outpost_agent_core::{Settings, View};
use outpost_orchestrator_core::event::Speech as CenterSpeech;
use outpost_orchestrator_core::mirror::Mirror;
use outpost_proto::ids::{AttemptId, Conn, Incarnation};
use outpost_proto::message::{DownMessage, Reporting, UpMessage};
use outpost_proto::name::{NotAName, TenantName, spiffe_id};
use outpost_proto::wire;

use crate::clients::Want;
use crate::dice::Dice;
use crate::directed::Minutes;
use crate::identity::Identity;
use crate::invariants::Violation;
use crate::keeper::Phase;
use crate::plan::Plan;
use crate::queue::{At, BootClock, MS};
use crate::site::Site;
use crate::trace::Trace;
use crate::world::{Happening, World};

/// So many of the last lines are shown when a scene fails.
const LINES: usize = 60;
/// Scenes have no end of faults by themselves.
const NEVER: At = 1 << 60;
/// Questions of scenes are numbered from here, apart from those of the world's clients.
const QUESTIONS: u64 = 1 << 40;

/// An entry of a host's catalogue, by its name: `moment` (10 ms), `second`, `minute`, `hour`, `failure` (fails after 10
/// ms), `payment` (an hour, not to be run twice), `watched` (an hour, ends itself after 45 s out of touch), `stubborn`
/// (an hour, with a grace of 30 s), `choosy` (10 ms, takes a number `n` of at most 7), and those of the seeds.
#[derive(Debug, Clone, Copy)]
pub struct Sold {
    /// Which.
    pub name: &'static str,
    /// How many attempts of it run at once.
    pub max_parallel: Option<u16>,
    /// How many begin within an hour.
    pub max_per_hour: Option<u32>,
}

/// An entry without limits.
#[must_use]
pub const fn sold(name: &'static str) -> Sold {
    Sold {
        name,
        max_parallel: None,
        max_per_hour: None,
    }
}

/// A host and the settings of its agent.
#[derive(Debug, Clone)]
pub struct Host {
    /// Whose.
    pub tenant: &'static str,
    /// The agent's name.
    pub agent: &'static str,
    /// Attempts at once.
    pub slots: u16,
    /// Attempts that may wait at one keeper.
    pub ahead: u16,
    /// Whether it tells little.
    pub strict: bool,
    /// Whether it only watches.
    pub observe: bool,
    /// How many attempts may wait for a slot.
    pub backlog: usize,
    /// How long what nobody waits for may collect.
    pub report_within: Duration,
    /// The longest drain.
    pub drain_limit: Duration,
    /// The longest stop.
    pub stop_grace: Duration,
    /// Its catalogue.
    pub sells: Vec<Sold>,
    /// How long its keepers take to give somebody back who waits there.
    pub answers_after: Duration,
    /// Tasks of these entries take so long, whatever their names say; the last one counts.
    pub takes: Vec<(&'static str, Duration)>,
}

impl Host {
    /// Of the tenant `acme`, with everything as it is by default and a catalogue of these.
    #[must_use]
    pub fn new(agent: &'static str, slots: u16, sells: &[&'static str]) -> Self {
        let defaults = Settings::new(Incarnation(1), slots);
        Self {
            tenant: "acme",
            agent,
            slots,
            ahead: 0,
            strict: false,
            observe: false,
            backlog: defaults.backlog,
            report_within: defaults.report_within,
            drain_limit: defaults.drain_limit,
            stop_grace: defaults.stop_grace,
            sells: sells.iter().map(|name| sold(name)).collect(),
            answers_after: Duration::from_micros(50),
            takes: Vec::new(),
        }
    }

    /// How long a task of this entry takes, in milliseconds, if not as its name says.
    pub(crate) fn takes_ms(&self, entry: &str) -> Option<u64> {
        let mut takes = self.takes.iter().rev();
        let (_, lasts) = takes.find(|(name, _)| *name == entry)?;
        u64::try_from(lasts.as_millis()).ok()
    }

    pub(crate) fn settings(&self, incarnation: Incarnation) -> Settings {
        Settings {
            ahead: self.ahead,
            reporting: if self.strict {
                Reporting::Strict
            } else {
                Reporting::Normal
            },
            observe: self.observe,
            backlog: self.backlog,
            report_within: self.report_within,
            drain_limit: self.drain_limit,
            stop_grace: self.stop_grace,
            schema_hash: wire::schema_hash(),
            ..Settings::new(incarnation, self.slots)
        }
    }
}

/// One story.
#[derive(Debug)]
pub struct Scene {
    pub(crate) world: World,
    pub(crate) questions: u64,
}

impl Scene {
    /// These hosts and the real orchestrator; runs until each of them is enrolled and ready.
    #[must_use]
    pub fn new(hosts: &[Host]) -> Self {
        let mut scene = Self::with(hosts, false, 1);
        scene.world.start_replica(0);
        for site in 0..hosts.len() {
            let tenant = scene.world.sites[site].identity.tenant.clone();
            let want = Want::Invite(site);
            let at = scene.world.now;
            scene.world.queue.put(at, Happening::Want { tenant, want });
        }
        scene.until("every agent is ready", |scene| {
            (0..hosts.len()).all(|site| scene.world.lease_of(site).is_some())
        });
        scene
    }

    /// These hosts, enrolled, and an orchestrator whose part is played: every stream is accepted, and nothing said.
    #[must_use]
    pub fn played(hosts: &[Host]) -> Self {
        let mut scene = Self::with(hosts, true, 1);
        for site in 0..hosts.len() {
            scene.world.sites[site].enrolled = true;
            scene.world.start_site(site);
        }
        scene
    }

    fn with(hosts: &[Host], played: bool, replicas: u64) -> Self {
        let plan = Plan {
            directed: true,
            played,
            replicas,
            calm: false,
            quiet_from: NEVER,
            longest_outage: 1000 * MS,
            long: true,
            certificate_life: NEVER / 4,
            ..Plan::draw(&mut Dice::new(1), &mut Dice::new(2))
        };
        let plan = Plan {
            cheats: false,
            hurried: false,
            person: false,
            strict: 0,
            brief: None,
            ..plan
        };
        let mut world = World::new(Dice::new(7), plan, Trace::new(LINES));
        world.network.latency = (MS, MS);
        world.minutes = Some(Box::default());
        let life = &mut world.center.disk.mirror.recovery;
        (life.counter, life.database) = (1, 77);
        let mut scene = Self {
            world,
            questions: QUESTIONS,
        };
        if let Err(error) = scene.furnish(hosts) {
            panic!("{error}");
        }
        scene
    }

    fn furnish(&mut self, hosts: &[Host]) -> Result<(), NotAName> {
        let mut tenants: Vec<TenantName> = Vec::new();
        for host in hosts {
            let tenant: TenantName = host.tenant.parse()?;
            if !tenants.contains(&tenant) {
                tenants.push(tenant);
            }
        }
        self.world.make_replicas(&tenants);
        for host in hosts {
            let (tenant, agent) = (host.tenant.parse()?, host.agent.parse()?);
            let identity = Identity {
                spiffe_id: spiffe_id("sim.test", &tenant, &agent),
                tenant,
                agent,
                key: self.world.dice.next(),
                pending: None,
                since: 0,
                dated: self.world.database_time(0).0,
            };
            let incarnation = Incarnation(self.world.dice.next());
            let made = Site::new(identity, host.slots, (BootClock::new(0, 0), 0), incarnation);
            self.world.sites.push(Site {
                host: Some(Box::new(host.clone())),
                ..made
            });
        }
        Ok(())
    }

    pub(crate) fn minutes(&self) -> &Minutes {
        let Some(minutes) = &self.world.minutes else {
            panic!("a scene has minutes");
        };
        minutes
    }

    pub(crate) fn minutes_mut(&mut self) -> &mut Minutes {
        let Some(minutes) = &mut self.world.minutes else {
            panic!("a scene has minutes");
        };
        minutes
    }

    pub(crate) fn fails(&mut self, why: &str) -> ! {
        let trace = std::mem::replace(&mut self.world.trace, Trace::new(0));
        let lines = trace.lines().0.join("\n");
        panic!("{lines}\n{why}");
    }

    fn broken(&mut self, violation: &Violation) -> ! {
        self.fails(&format!(
            "broken: {}\n  {}",
            violation.sentence, violation.what
        ))
    }

    // --- time

    /// Microseconds since the scene began.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.world.now
    }

    /// Microseconds since 1970 by the orchestrator's clock.
    #[must_use]
    pub fn wall_us(&self) -> u64 {
        self.world.database_time(self.world.now).0
    }

    /// Everything that happens within this time, and then it is so much later.
    pub fn run(&mut self, lasts: Duration) {
        let until = self.world.now + us(lasts);
        while self.world.due().is_some_and(|at| at <= until) {
            self.step();
        }
        self.world.now = until;
    }

    /// The next thing that happens, whenever that is.
    pub fn step(&mut self) {
        if let Err(violation) = self.world.next() {
            self.broken(&violation);
        }
    }

    /// When the next thing happens, in microseconds since the scene began.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        self.world.due()
    }

    /// Everything until this is so; fails when it is not within a day.
    pub fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let bound = self.world.now + 86_400_000 * MS;
        while !is_so(self) {
            if self.world.due().is_none_or(|at| at > bound) {
                self.fails(&format!("never: {what}"));
            }
            self.step();
        }
    }

    // --- what was said

    /// What this agent said, to its host and its stream, and when.
    pub fn said(&self, site: usize) -> impl DoubleEndedIterator<Item = (u64, &Speech)> {
        let said = self.minutes().agents.iter();
        said.filter(move |(_, of, _)| *of == site)
            .map(|(at, _, speech)| (*at, speech))
    }

    /// The frames that arrived from this agent: when, on which stream (the orchestrator's number), what.
    pub fn up(&self, site: usize) -> impl DoubleEndedIterator<Item = (u64, u64, &[UpMessage])> {
        let said = self.minutes().up.iter();
        said.filter(move |(_, of, ..)| *of == site)
            .map(|(at, _, link, messages)| (*at, *link, &messages[..]))
    }

    /// The frames that arrived at this agent: when, on which stream (the agent's number), what.
    pub fn down(
        &self,
        site: usize,
    ) -> impl DoubleEndedIterator<Item = (u64, Conn, &[DownMessage])> {
        let said = self.minutes().down.iter();
        said.filter(move |(_, of, ..)| *of == site)
            .map(|(at, _, conn, messages)| (*at, *conn, &messages[..]))
    }

    /// What the orchestrator said, and when.
    pub fn spoken(&self) -> impl DoubleEndedIterator<Item = (u64, &CenterSpeech)> {
        self.minutes().center.iter().map(|(at, said)| (*at, said))
    }

    /// Begins the minutes anew.
    pub fn turn_the_page(&mut self) {
        let minutes = self.minutes_mut();
        minutes.agents.clear();
        minutes.up.clear();
        minutes.down.clear();
        minutes.center.clear();
        minutes.letters.clear();
        minutes.ended.clear();
    }

    // --- what is so

    /// What people at this site see; `None` while no process of the agent lives.
    #[must_use]
    pub fn view(&self, site: usize) -> Option<View> {
        let process = self.world.sites[site].process.as_ref();
        process.map(|process| process.core.view())
    }

    /// What the site's journal holds.
    #[must_use]
    pub fn journal(&self, site: usize) -> Snapshot {
        self.world.sites[site].disk.snapshot()
    }

    /// What the orchestrator's database holds.
    #[must_use]
    pub fn database(&self) -> &Mirror {
        &self.world.center.disk.mirror
    }

    /// The attempts whose task's process exists on this host.
    #[must_use]
    pub fn running(&self, site: usize) -> Vec<AttemptId> {
        let keepers = self.world.sites[site].keepers.iter();
        let running = keepers.filter(|(_, keeper)| keeper.phase == Phase::Running);
        running.map(|(attempt, _)| *attempt).collect()
    }

    /// How often a task of this attempt was begun, anywhere.
    #[must_use]
    pub fn starts(&self, attempt: AttemptId) -> u32 {
        let starts = self.world.truth.starts.get(&attempt);
        starts.copied().unwrap_or(0)
    }

    /// The streams of this agent that it has not ended, oldest first: the agent's number, the orchestrator's.
    #[must_use]
    pub fn streams(&self, site: usize) -> Vec<(Conn, u64)> {
        let links = self.world.network.links.iter();
        let open = links.filter(|(_, link)| link.site == site && link.site_open);
        open.map(|(id, link)| (link.conn, *id)).collect()
    }

    /// Streams that their agents ended in good order, where the scene plays the orchestrator; its numbers.
    #[must_use]
    pub fn ended(&self) -> &[u64] {
        &self.minutes().ended
    }

    /// When a certificate was asked for beside which stream, where the scene plays the orchestrator; its numbers.
    #[must_use]
    pub fn renewals(&self) -> Vec<(u64, u64)> {
        let letters = self.minutes().letters.iter();
        letters.map(|(at, link, _)| (*at, *link)).collect()
    }
}

pub(crate) fn us(lasts: Duration) -> At {
    At::try_from(lasts.as_micros()).unwrap_or(NEVER)
}
