//! What a scene can do to its world: the network, hosts, certificates, and what people ask for.

#![expect(
    clippy::panic,
    reason = "a scene is part of a test, which fails by panicking"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use outpost_agent_core::event::{Event, KeeperSaid, Site as SiteWants};
use outpost_agent_core::record::Write;
use outpost_orchestrator_core::event::{Answer, Ask, Denied};
use outpost_orchestrator_core::spec::{TaskSpec, WorkflowSpec};
use outpost_proto::ids::{AttemptId, RunId};
use outpost_proto::message::{DownMessage, UpMessage};
use outpost_proto::name::{NotAName, TenantName};
use outpost_proto::outcome::Outcome;
use outpost_proto::wire;

use crate::Fault;
use crate::directed::{OnItsWay, Rule};
use crate::disk::CommitFault;
use crate::keeper::Step;
use crate::moments::{Message, Moment, When};
use crate::network::{Direction, Packet};
use crate::plan::Planned;
use crate::queue::MS;
use crate::renewal::Letter;
use crate::scene::{Host, Scene, Sold, us};

impl Scene {
    // --- the network

    /// Says this to the agent on its newest stream, whoever the orchestrator is. It may be what none says.
    pub fn tell(&mut self, site: usize, messages: &[DownMessage]) {
        let newest = self.streams(site).pop();
        let Some((_, link)) = newest else {
            self.fails(&format!("s{site} has no stream"));
        };
        self.tell_on(link, messages);
    }

    /// The same on a stream by the orchestrator's number.
    pub fn tell_on(&mut self, link: u64, messages: &[DownMessage]) {
        let Some(site) = self.world.network.links.get(&link).map(|link| link.site) else {
            self.fails(&format!("there is no stream {link}"));
        };
        self.minutes_mut().forged.insert(site);
        match wire::encode_down_frames(messages) {
            Ok(frames) => {
                for frame in frames {
                    let frame = Packet::Frame(frame.into());
                    self.world.carry(link, Direction::Down, frame);
                }
            }
            Err(error) => self.fails(&error.to_string()),
        }
    }

    /// Says this to the orchestrator on the agent's newest stream, as if the agent had.
    pub fn tell_up(&mut self, site: usize, messages: &[UpMessage]) {
        let newest = self.streams(site).pop();
        match (newest, wire::encode_up(messages)) {
            (Some((_, link)), Ok(frame)) => {
                let frame = Packet::Frame(frame.into());
                self.world.carry(link, Direction::Up, frame);
            }
            (None, _) => self.fails(&format!("s{site} has no stream")),
            (_, Err(error)) => self.fails(&error.to_string()),
        }
    }

    /// The next frame of this site with such a message is lost, and its stream goes on.
    pub fn loses(&mut self, site: usize, message: Message) {
        let then = OnItsWay::Lost;
        let rule = Rule {
            site,
            message,
            then,
        };
        self.minutes_mut().rules.push(rule);
    }

    /// The next frame of this site with such a message arrives twice.
    pub fn doubles(&mut self, site: usize, message: Message) {
        let then = OnItsWay::Twice;
        let rule = Rule {
            site,
            message,
            then,
        };
        self.minutes_mut().rules.push(rule);
    }

    /// Both ends of all streams of this site hear at once that they are gone.
    pub fn cut(&mut self, site: usize) {
        for (_, link) in self.streams(site) {
            self.world.cut(link, 0);
        }
    }

    /// The same, and no other stream can be made for so long.
    pub fn cut_off(&mut self, site: usize, lasts: Duration) {
        let until = self.world.now + us(lasts);
        self.world.network.refuse(site, until);
        self.cut(site);
    }

    /// Streams of this site can be made again.
    pub fn network_is_back(&mut self, site: usize) {
        self.world.network.refused_until.remove(&site);
    }

    /// One stream, by the orchestrator's number.
    pub fn cut_stream(&mut self, link: u64) {
        self.world.cut(link, 0);
    }

    /// Where the scene plays the orchestrator: whether streams are accepted and nothing says so.
    pub fn mute(&mut self, mute: bool) {
        self.minutes_mut().mute = mute;
    }

    // --- hosts

    /// Something for this agent's core from its host: link, keepers, the probes of the disk.
    pub fn hears(&mut self, site: usize, event: Event) {
        let process = self.world.sites[site].processes;
        self.world.site_hears(site, process, event);
    }

    /// What people at the site want of their agent.
    pub fn wants(&mut self, site: usize, wants: SiteWants) {
        self.world.site_wants(site, wants);
    }

    /// The site's catalogue is another one from now on.
    pub fn reload(&mut self, site: usize, sells: &[Sold]) {
        if let Some(host) = &mut self.world.sites[site].host {
            host.sells = sells.to_vec();
        }
        self.world.reload_catalogue(site);
    }

    /// From the agent's next start on its settings are those of this host.
    pub fn refit(&mut self, site: usize, change: impl FnOnce(&mut Host)) {
        if let Some(host) = &mut self.world.sites[site].host {
            change(host);
        }
    }

    /// kill -9 of the agent; it starts again within a second.
    pub fn crash(&mut self, site: usize) {
        self.world.crash_site(site);
    }

    /// The host loses power: every process is gone, and what was not synced. It is back within a second.
    pub fn power_cut(&mut self, site: usize) {
        self.world.sites[site].disk.power_cut(0);
        self.world.power_cut(site);
    }

    /// The next commit of this agent with something to write fails; `applied`: after all of it was written.
    pub fn commit_fails(&mut self, site: usize, applied: bool) {
        self.world.sites[site].disk.trouble.fault = Some(CommitFault {
            applied,
            fatal: false,
        });
    }

    /// kill -9 of the keeper of this attempt, and its task with it.
    pub fn keeper_dies(&mut self, site: usize, attempt: AttemptId) {
        self.world.kill_keeper(site, attempt);
    }

    /// A keeper's word that it never said.
    pub fn keeper_says(&mut self, site: usize, attempt: AttemptId, said: KeeperSaid) {
        self.hears(site, Event::Keeper { attempt, said });
    }

    /// This task ends now, and so.
    pub fn task_ends(&mut self, site: usize, attempt: AttemptId, outcome: Outcome) {
        let now = self.world.now;
        self.world
            .keeper_later(site, attempt, now, Step::End(outcome));
    }

    /// The same after so many milliseconds, as its keeper measured it.
    pub fn task_took(&mut self, site: usize, attempt: AttemptId, outcome: Outcome, ms: u64) {
        let began = self.world.now.saturating_sub(ms * MS);
        if let Some(keeper) = self.world.sites[site].keepers.get_mut(&attempt) {
            keeper.began = began;
        }
        self.task_ends(site, attempt, outcome);
    }

    /// Tasks of this entry take so long on this host, whatever its name says.
    pub fn tasks_take(&mut self, site: usize, entry: &'static str, lasts: Duration) {
        if let Some(host) = &mut self.world.sites[site].host {
            host.takes.push((entry, lasts));
        }
    }

    /// A keeper that is asked for somebody who waits there takes so long to give that one back.
    pub fn keepers_answer_after(&mut self, site: usize, lasts: Duration) {
        if let Some(host) = &mut self.world.sites[site].host {
            host.answers_after = lasts;
        }
    }

    /// A keeper gives this one back that waits there, without having been asked.
    pub fn gives_back(&mut self, site: usize, attempt: AttemptId) {
        self.world.give_back(site, attempt);
    }

    /// The keepers of this host do nothing by themselves for so long; its agent goes on.
    pub fn keepers_stand_still(&mut self, site: usize, lasts: Duration) {
        self.world.sites[site].suspended_until = self.world.now + us(lasts);
    }

    /// A task ends while no process of the agent lives: its keeper writes that down.
    pub fn keepers_go_on(&mut self, site: usize, attempt: AttemptId, outcome: Outcome) {
        self.task_ends(site, attempt, outcome);
    }

    /// The wall clock of the host is so far ahead from now on, as an agent learns that starts now.
    pub fn wall_ahead(&mut self, site: usize, seconds: i64) {
        self.world.sites[site].wall_ahead_s = seconds;
    }

    /// Streams of a host are accepted whatever its wall clock shows: its certificate is checked by a clock that is right.
    pub fn wall_ahead_is_nothing_to_tls(&mut self, site: usize) {
        self.world.sites[site].wall_ahead_s = 0;
    }

    /// How many settled attempts the journal of a host remembers.
    #[must_use]
    pub fn memories(&self, site: usize) -> usize {
        self.world.sites[site].disk.memories()
    }

    /// The journal of a host is written anew, as a process does that starts.
    pub fn compacts(&mut self, site: usize) {
        self.world.sites[site].disk.compact();
    }

    /// The attempts for which the runner looked when its newest process began.
    #[must_use]
    pub fn looked_for(&self, site: usize) -> Vec<AttemptId> {
        let found = self.minutes().looked.get(&site);
        found.cloned().unwrap_or_default()
    }

    /// Writes into the journal of a host, as a former process did.
    pub fn write(&mut self, site: usize, writes: &[Write]) {
        self.world.sites[site].disk.prepare(writes);
    }

    /// A fault of the seeds happens now to this site, its newest stream, or the orchestrator.
    pub fn fault(&mut self, fault: Fault, site: usize) {
        let link = self.streams(site).pop().map(|(_, link)| link);
        let link = link.filter(|_| fault.is_of_a_link());
        self.world.fault(fault, site, link);
    }

    /// A fault of the seeds happens at the next such step of the protocol.
    pub fn fault_at(&mut self, fault: Fault, message: Message, moment: Moment) {
        self.world.traps.arm(Planned {
            at_us: self.world.now,
            fault,
            when: Some(When { message, moment }),
            draw: 1,
        });
    }

    // --- certificates

    /// Certificates hold for so long from now on, and end: whoever presents one that has ended is told so.
    pub fn certificates_end(&mut self, life: Duration) {
        self.world.plan.certificate_life = us(life);
        self.minutes_mut().certificates_end = true;
    }

    /// Link and the orchestrator's port say nothing to an agent that asks for a certificate in place of an ended one:
    /// the scene does, by [`Scene::hears`].
    pub fn recoveries_wait(&mut self) {
        self.minutes_mut().recoveries_wait = true;
    }

    /// Where the scene plays the orchestrator: the answer to the oldest question for a certificate.
    pub fn answer_renewal(&mut self, issued: bool) {
        if self.minutes().letters.is_empty() {
            self.fails("no certificate was asked for");
        }
        let (_, link, next) = self.minutes_mut().letters.remove(0);
        let letter = if issued {
            Letter::Renewed(next)
        } else {
            Letter::NotRenewed
        };
        self.world
            .carry(link, Direction::Down, Packet::Letter(letter));
    }

    // --- people

    /// Asks the orchestrator and waits for its answer.
    pub fn ask(&mut self, tenant: &str, ask: Ask) -> Result<Answer, Denied> {
        let Ok(tenant) = tenant.parse::<TenantName>() else {
            self.fails(tenant);
        };
        self.questions += 1;
        let question = self.questions;
        self.minutes_mut().asks(question);
        let of = tenant.clone();
        self.world.center_is_asked(question, &of, |call| {
            outpost_orchestrator_core::event::Event::Asked { call, tenant, ask }
        });
        let bound = self.world.now + 60_000 * MS;
        loop {
            if let Some(answer) = self.minutes_mut().answer(question) {
                return answer;
            }
            if self.world.due().is_none_or(|at| at > bound) {
                self.fails("a question that nobody answers");
            }
            self.step();
        }
    }

    /// A workflow whose tasks, by name and entry, wait for nothing but slots.
    #[must_use]
    pub fn flow(name: &str, tasks: &[(&str, &str)]) -> WorkflowSpec {
        let task = |(name, entry): &(&str, &str)| -> Result<TaskSpec, NotAName> {
            Ok(TaskSpec::new(name.parse()?, entry.parse()?))
        };
        let tasks = tasks.iter().map(task).collect::<Result<Vec<_>, _>>();
        match (name.parse(), tasks) {
            (Ok(name), Ok(tasks)) => WorkflowSpec::new(name, tasks),
            (Err(error), _) | (_, Err(error)) => panic!("{error}"),
        }
    }

    /// Makes this the current version of its workflow.
    pub fn apply(&mut self, tenant: &str, spec: &WorkflowSpec) {
        let ask = Ask::Apply {
            source: spec.description.clone(),
            spec: spec.clone(),
            allow_unknown_entries: true,
            dry_run: false,
            expected_version: None,
        };
        if let Err(denied) = self.ask(tenant, ask) {
            self.fails(&denied.to_string());
        }
    }

    /// A run of this workflow.
    pub fn trigger(&mut self, tenant: &str, spec: &WorkflowSpec) -> RunId {
        let ask = Ask::Trigger {
            workflow: spec.name.clone(),
            params: BTreeMap::new(),
            key: None,
        };
        match self.ask(tenant, ask) {
            Ok(Answer::Triggered { run, .. }) => run,
            other => self.fails(&format!("{other:?}")),
        }
    }
}
