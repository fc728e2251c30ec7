//! A host with a real agent: its state directory, its keepers by hand, its certificate.

mod certificates;

use std::collections::BTreeMap;

use outpost_agent_core::event::{
    Down, Event as SiteEvent, KeeperSaid, Proof, Site as SiteWants, Speech,
};
use outpost_agent_core::{Agent, Found, Settings, unsettled};
use outpost_driver::{Core, Micros, Turn};
use outpost_orchestrator_core::event::Event;
use outpost_proto::ids::{AttemptId, Conn, Incarnation};
use outpost_proto::message::{Assign, Reporting};
use outpost_proto::name::{AgentName, TenantName, spiffe_id};
use outpost_proto::outcome::{Outcome, Report};

use super::{End, SECOND, Stage, name, report, seed};
use crate::disk::SiteDisk;
use crate::driver::take_turn;
use crate::shop;

/// Where a task on a host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Its keeper was asked to begin it.
    Asked,
    /// It runs.
    Running,
    /// It is over, and its keeper left a record.
    Over(Report),
}

/// One host.
#[derive(Debug)]
pub struct Host {
    pub(super) tenant: TenantName,
    pub(super) agent: AgentName,
    pub(super) key: String,
    next_key: Option<String>,
    keys: u32,
    /// When its certificate ends, and how long the next one holds.
    pub(super) not_after: u64,
    life_us: u64,
    incarnation: Incarnation,
    booted: u64,
    slots: u16,
    catalogue: u32,
    observe: bool,
    pub(super) disk: SiteDisk,
    process: Option<Process>,
    processes: u64,
    online: bool,
    /// Tasks begin as soon as they are asked for, and, if this is said, end by themselves so many milliseconds later.
    begins: bool,
    lasts: Option<(u64, Outcome)>,
    tasks: BTreeMap<AttemptId, (Assign, Step)>,
    due: BTreeMap<(u64, AttemptId), Outcome>,
}

#[derive(Debug)]
struct Process {
    number: u64,
    core: Agent,
    inbox: Vec<SiteEvent>,
    streams: BTreeMap<Conn, u64>,
}

impl Host {
    fn shows(&self, now: u64) -> Micros {
        Micros(now - self.booted + SECOND)
    }

    pub(super) fn core_deadline(&self) -> Option<u64> {
        let deadline = self.process.as_ref()?.core.next_deadline()?;
        Some((deadline.0 + self.booted).saturating_sub(SECOND))
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        let due = self.due.keys().next().map(|(at, _)| *at);
        due.into_iter().chain(self.core_deadline()).min()
    }

    pub(super) fn has_mail(&self) -> bool {
        let process = self.process.as_ref();
        process.is_some_and(|process| !process.inbox.is_empty())
    }

    fn certificate(&self, now: u64) -> SiteEvent {
        SiteEvent::Certificate {
            life_us: self.life_us,
            until: Micros(self.shows(now).0 + self.not_after.saturating_sub(now)),
        }
    }
}

impl Stage {
    // --- who is there

    /// A host of tenant `acme` whose agent enrols, starts, and is in touch.
    pub fn host(&mut self, agent: &str) -> usize {
        self.host_of("acme", agent, 2)
    }

    /// The same of any tenant, with so many slots.
    pub fn host_of(&mut self, tenant: &str, agent: &str, slots: u16) -> usize {
        let key = format!("key-{agent}-0");
        self.enrol(tenant, agent, &key).expect("an enrolment");
        let life_us = 365 * 24 * 3600 * SECOND;
        let host = Host {
            tenant: name(tenant),
            agent: name(agent),
            key,
            next_key: None,
            keys: 0,
            not_after: self.now + life_us,
            life_us,
            incarnation: Incarnation(1000 * (1 + self.hosts.len() as u64)),
            booted: self.now,
            slots,
            catalogue: 1,
            observe: false,
            disk: SiteDisk::default(),
            process: None,
            processes: 0,
            online: true,
            begins: true,
            lasts: None,
            tasks: BTreeMap::new(),
            due: BTreeMap::new(),
        };
        self.hosts.push(host);
        let host = self.hosts.len() - 1;
        self.starts(host);
        host
    }

    /// A copy of a host's state directory and keys, on another machine that is off.
    pub fn copy(&mut self, host: usize) -> usize {
        let of = &self.hosts[host];
        let copy = Host {
            tenant: of.tenant.clone(),
            agent: of.agent.clone(),
            key: of.key.clone(),
            next_key: of.next_key.clone(),
            keys: of.keys + 100,
            disk: of.disk.copied(),
            incarnation: Incarnation(1000 * (1 + self.hosts.len() as u64)),
            booted: self.now,
            process: None,
            processes: 0,
            online: true,
            begins: true,
            lasts: None,
            tasks: BTreeMap::new(),
            due: BTreeMap::new(),
            ..*of
        };
        self.hosts.push(copy);
        self.hosts.len() - 1
    }

    /// The same to another place on the same machine, in the same life of it: its agent is off.
    pub fn copy_alike(&mut self, host: usize) -> usize {
        let copy = self.copy(host);
        let of = &self.hosts[host];
        let (incarnation, booted) = (of.incarnation, of.booted);
        let host = &mut self.hosts[copy];
        (host.incarnation, host.booted) = (incarnation, booted);
        copy
    }

    /// Its certificates hold for so long from now on, the present one too.
    pub fn certificate_lasts(&mut self, host: usize, seconds: u64) {
        let now = self.now;
        let host = &mut self.hosts[host];
        host.life_us = seconds * SECOND;
        host.not_after = now + seconds * SECOND;
        let certificate = host.certificate(now);
        if let Some(process) = &mut host.process {
            process.inbox.push(certificate);
        }
        self.settles();
    }

    /// When its present certificate ends.
    #[must_use]
    pub fn certificate_ends(&self, host: usize) -> u64 {
        self.hosts[host].not_after
    }

    /// The key it presents.
    #[must_use]
    pub fn key(&self, host: usize) -> String {
        self.hosts[host].key.clone()
    }

    // --- processes

    /// The agent starts, or the host is switched on.
    pub fn starts(&mut self, index: usize) {
        let now = self.now;
        let host = &mut self.hosts[index];
        assert!(host.process.is_none(), "it runs");
        let settings = Settings {
            schema_hash: outpost_proto::wire::schema_hash(),
            reporting: Reporting::Normal,
            observe: host.observe,
            ..Settings::new(host.incarnation, host.slots)
        };
        let snapshot = host.disk.snapshot();
        let look = |attempt: &AttemptId| match host.tasks.get(attempt) {
            Some((_, Step::Running)) => Found::Running,
            Some((_, Step::Over(report))) => Found::Finished(*report),
            Some((_, Step::Asked)) | None => Found::NeverStarted,
        };
        let begun = unsettled(&snapshot, &settings);
        let found: BTreeMap<AttemptId, Found> = begun
            .iter()
            .map(|attempt| (*attempt, look(attempt)))
            .collect();
        host.processes += 1;
        host.disk.process = host.processes;
        let seed = seed(1000 * (1 + index as u64) + host.processes);
        let spiffe_id = spiffe_id("sim.test", &host.tenant, &host.agent);
        let inbox = vec![
            SiteEvent::Catalogue(shop::rules(host.catalogue, &spiffe_id, None)),
            host.certificate(now),
        ];
        host.process = Some(Process {
            number: host.processes,
            core: Agent::new(settings, seed, host.shows(now), snapshot, found),
            inbox,
            streams: BTreeMap::new(),
        });
        self.settles();
        // The first connection is made within moments.
        self.pass_ms(1);
    }

    /// kill -9 of the agent: its tasks live on.
    pub fn stops(&mut self, index: usize) {
        if let Some(process) = self.hosts[index].process.take() {
            process
                .streams
                .into_values()
                .for_each(|stream| self.hangs_up(stream));
        }
        self.settles();
    }

    /// The host is off: nothing of it lives.
    pub fn loses_power(&mut self, index: usize) {
        self.stops(index);
        let host = &mut self.hosts[index];
        host.tasks.clear();
        host.due.clear();
        host.incarnation.0 += 1;
        host.booted = self.now;
    }

    /// It is off for so long, and comes back.
    pub fn reboots(&mut self, index: usize, seconds: u64) {
        self.loses_power(index);
        self.pass(seconds);
        self.hosts[index].booted = self.now;
        self.starts(index);
    }

    /// The network between them is cut; both ends hear of it.
    pub fn is_cut_off(&mut self, index: usize) {
        self.hosts[index].online = false;
        let Some(process) = self.hosts[index].process.as_mut() else {
            return;
        };
        let number = process.number;
        for (conn, stream) in std::mem::take(&mut process.streams) {
            let why = Down::Unreachable;
            self.host_hears(index, number, SiteEvent::Closed { conn, why });
            self.hangs_up(stream);
        }
        self.settles();
    }

    /// It can be reached again; it is in touch once it dialled.
    pub fn is_reachable(&mut self, index: usize) {
        self.hosts[index].online = true;
        self.settles();
    }

    /// The site wants something of its agent.
    pub fn site_wants(&mut self, index: usize, wants: SiteWants) {
        let number = self.hosts[index].processes;
        self.host_hears(index, number, SiteEvent::Site(wants));
        self.settles();
    }

    /// Its catalogue is loaded again, under the next version.
    pub fn reloads(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        host.catalogue += 1;
        let spiffe_id = spiffe_id("sim.test", &host.tenant, &host.agent);
        let rules = shop::rules(host.catalogue, &spiffe_id, None);
        let number = host.processes;
        self.host_hears(index, number, SiteEvent::Catalogue(rules));
        self.settles();
    }

    // --- tasks

    /// Whether tasks begin as soon as they are asked for.
    pub fn begins_at_once(&mut self, index: usize, begins: bool) {
        self.hosts[index].begins = begins;
    }

    /// How tasks end by themselves: so many milliseconds after they begin.
    pub fn tasks_last(&mut self, index: usize, ms: u64, outcome: Outcome) {
        self.hosts[index].lasts = Some((ms, outcome));
    }

    /// What was begun on it and where that is.
    #[must_use]
    pub fn tasks(&self, index: usize) -> Vec<(AttemptId, Step)> {
        let tasks = self.hosts[index].tasks.iter();
        tasks
            .map(|(attempt, (_, step))| (*attempt, step.clone()))
            .collect()
    }

    /// The attempts that run on it, with what they were assigned as.
    #[must_use]
    pub fn running(&self, index: usize) -> Vec<Assign> {
        let tasks = self.hosts[index].tasks.values();
        let running = tasks.filter(|(_, step)| *step == Step::Running);
        running.map(|(assign, _)| assign.clone()).collect()
    }

    /// The task of this attempt ends so.
    pub fn ends(&mut self, index: usize, attempt: AttemptId, outcome: Outcome) {
        self.task_is_over(index, attempt, report(outcome));
        self.settles();
        // What has happened is told within moments.
        self.pass_ms(20);
    }

    /// Everything that runs on it ends so.
    pub fn all_end(&mut self, index: usize, outcome: Outcome) {
        for assign in self.running(index) {
            self.ends(index, assign.attempt, outcome);
        }
    }

    fn task_is_over(&mut self, index: usize, attempt: AttemptId, report: Report) {
        let host = &mut self.hosts[index];
        let number = host.processes;
        let Some((_, step)) = host.tasks.get_mut(&attempt) else {
            return;
        };
        if *step != Step::Running {
            return;
        }
        *step = Step::Over(report);
        let said = KeeperSaid::Finished(report);
        self.host_hears(index, number, SiteEvent::Keeper { attempt, said });
    }

    pub(super) fn tasks_end(&mut self, index: usize) {
        while let Some(((at, attempt), outcome)) = self.hosts[index].due.pop_first() {
            if at > self.now {
                self.hosts[index].due.insert((at, attempt), outcome);
                return;
            }
            let duration_ms = self.hosts[index].lasts.map_or(0, |(ms, _)| ms);
            let report = Report {
                duration_ms,
                ..report(outcome)
            };
            self.task_is_over(index, attempt, report);
        }
    }

    /// What was asked for begins.
    pub fn task_begins(&mut self, index: usize, attempt: AttemptId) {
        let (host, now) = (&mut self.hosts[index], self.now);
        let number = host.processes;
        if let Some((_, step)) = host.tasks.get_mut(&attempt) {
            *step = Step::Running;
            if let Some((ms, outcome)) = host.lasts {
                host.due.insert((now + ms * 1000, attempt), outcome);
            }
            let said = KeeperSaid::Running;
            self.host_hears(index, number, SiteEvent::Keeper { attempt, said });
        }
    }

    // --- turns

    pub(super) fn host_hears(&mut self, index: usize, number: u64, event: SiteEvent) {
        let process = self.hosts[index].process.as_mut();
        let Some(process) = process.filter(|process| process.number == number) else {
            return;
        };
        if let SiteEvent::Closed { conn, .. } = &event {
            process.streams.remove(conn);
        }
        process.inbox.push(event);
    }

    pub(super) fn host_turns(&mut self, index: usize) {
        self.takes_a_turn();
        let host = &mut self.hosts[index];
        let now = host.shows(self.now);
        host.disk.trouble.now = self.now;
        let Some(process) = host.process.as_mut() else {
            return;
        };
        let number = process.number;
        let events = std::mem::take(&mut process.inbox);
        let mut said = Vec::new();
        let turned = take_turn(
            (&mut process.core, &mut host.disk),
            now,
            &events,
            |speech| said.push(speech),
            false,
        );
        assert_eq!(turned, Ok(Turn::Spoken), "{:?}", host.disk.refused);
        for speech in said {
            self.host_speaks(index, number, speech);
        }
    }

    fn host_speaks(&mut self, index: usize, number: u64, speech: Speech) {
        match speech {
            Speech::Dial { conn } => self.dials(index, number, conn),
            Speech::Send { conn, messages } => {
                if let Some(stream) = self.stream_of(index, conn) {
                    self.goes_up(stream, &messages);
                }
            }
            Speech::Hangup { conn } => {
                if let Some(stream) = self.stream_of(index, conn) {
                    self.hosts[index].forgets(conn);
                    self.hangs_up(stream);
                }
            }
            Speech::MakeCsr => {
                let csr = self.hosts[index].made_key().into_bytes();
                self.host_hears(index, number, SiteEvent::Csr(csr));
            }
            Speech::Renew { conn, csr } => self.asks_to_renew(index, number, conn, csr),
            Speech::Prove { challenge, .. } => {
                let host = &mut self.hosts[index];
                let proof = Proof {
                    certificate: host.key.clone().into_bytes(),
                    csr: host.made_key().into_bytes(),
                    proof: if challenge.is_empty() {
                        vec![]
                    } else {
                        vec![1; 8]
                    },
                };
                self.host_hears(index, number, SiteEvent::Proof(proof));
            }
            Speech::Recover { conn, request } => {
                self.asks_to_recover(index, number, conn, &request)
            }
            Speech::Start { assign, .. } => {
                let attempt = assign.attempt;
                let host = &mut self.hosts[index];
                let former = host.tasks.insert(attempt, (*assign, Step::Asked));
                assert!(former.is_none(), "an attempt starts at most once");
                if host.begins {
                    self.task_begins(index, attempt);
                }
            }
            Speech::Cancel { attempt } => {
                let cancelled = report(Outcome::Cancelled);
                self.task_is_over(index, attempt, cancelled);
            }
            Speech::Discard { attempt } => {
                self.hosts[index].tasks.remove(&attempt);
            }
            Speech::TakeBack { .. }
            | Speech::InTouch
            | Speech::Refused { .. }
            | Speech::Alarm(_)
            | Speech::Done => {}
        }
    }

    fn stream_of(&self, index: usize, conn: Conn) -> Option<u64> {
        let process = self.hosts[index].process.as_ref()?;
        process.streams.get(&conn).copied()
    }

    fn dials(&mut self, index: usize, process: u64, conn: Conn) {
        let host = &self.hosts[index];
        let ended = host.not_after <= self.now;
        if !host.online || self.core.is_none() || ended {
            let reached = host.online && self.core.is_some();
            let why = if reached {
                Down::Expired
            } else {
                Down::Unreachable
            };
            return self.host_hears(index, process, SiteEvent::Closed { conn, why });
        }
        let (tenant, agent) = (host.tenant.clone(), host.agent.clone());
        let opened = (host.key.clone(), host.not_after);
        let stream = self.stream(End::Host {
            host: index,
            process,
            conn,
        });
        if let Some(living) = self.hosts[index].process.as_mut() {
            living.streams.insert(conn, stream);
        }
        self.inbox.push(Event::Opened {
            conn: Conn(stream),
            spiffe_id: spiffe_id("sim.test", &tenant, &agent),
            tenant,
            agent,
            key_hash: opened.0,
            not_after: opened.1,
        });
        self.host_hears(index, process, SiteEvent::Opened { conn });
    }
}

impl Host {
    /// The key of the next certificate: kept until that is stored.
    fn made_key(&mut self) -> String {
        let agent = &self.agent;
        let keys = &mut self.keys;
        let make = || {
            *keys += 1;
            format!("key-{agent}-{keys}")
        };
        self.next_key.get_or_insert_with(make).clone()
    }

    fn forgets(&mut self, conn: Conn) {
        if let Some(process) = &mut self.process {
            process.streams.remove(&conn);
        }
    }
}
