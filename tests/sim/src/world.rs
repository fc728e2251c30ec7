//! One simulation: virtual time, the next thing that happens, and what everything else stands on.

use std::collections::BTreeSet;
use std::rc::Rc;

use outpost_agent_core::event::{Down, Event as SiteEvent, Site as SiteWants};
use outpost_orchestrator_core::event::{Answer, Denied};
use outpost_proto::ids::{AttemptId, Conn, Incarnation, RunId};
use outpost_proto::name::TenantName;

use crate::center::Center;
use crate::clients::{Clients, Want};
use crate::clones::Clones;
use crate::coverage::Coverage;
use crate::dice::Dice;
use crate::directed::Minutes;
use crate::disk::SiteDisk;
use crate::invariants::{Checked, Truth, broken};
use crate::keeper::Step;
use crate::moments::Traps;
use crate::network::{Direction, Network, Packet};
use crate::person::Said;
use crate::plan::{Plan, Planned};
use crate::queue::{At, MINUTE, Queue, SECOND};
use crate::schedules::Calendar;
use crate::site::Site;
use crate::trace::{Trace, note};

/// How long after the last fault, or the end of the last task since, everything must be over: lost agents are given up
/// after ten minutes (five after the orchestrator's start, five of silence), a run may then have two long tasks with some
/// retries before it.
const BOUND: At = 90 * MINUTE;
/// And how long at most: a host with one place works off everything that is wanted of it.
const LAST: At = 12 * 60 * MINUTE;
/// How often it is looked whether everything is over.
const LOOK: At = 5 * SECOND;
/// More events than any simulation has: something goes round in circles.
const MOST_EVENTS: u64 = 2_000_000;

/// Everything that can happen.
#[derive(Debug)]
pub(crate) enum Happening {
    Packet {
        link: u64,
        direction: Direction,
        packet: Packet,
    },
    NotConnected {
        site: usize,
        process: u64,
        conn: Conn,
        why: Down,
    },
    SiteSideEnds {
        link: u64,
        why: Down,
    },
    CenterSideEnds {
        link: u64,
    },
    Greeting {
        link: u64,
    },
    Cut {
        link: u64,
    },
    GiveUp {
        link: u64,
    },
    Keeper {
        site: usize,
        life: Incarnation,
        attempt: AttemptId,
        step: Step,
    },
    Heard {
        site: usize,
        process: u64,
        event: SiteEvent,
    },
    StartSite {
        site: usize,
    },
    StartReplica {
        replica: usize,
    },
    /// A replica's process, by what it drew, looks who owns what.
    OwnersLookedAt {
        replica: usize,
        me: u64,
    },
    SiteWants {
        site: usize,
        wants: SiteWants,
    },
    SetUpAnew {
        site: usize,
    },
    SwitchOff {
        site: usize,
    },
    /// Somebody looks how everything stands.
    PersonLooks,
    Asked {
        request: u64,
    },
    Answered {
        request: u64,
        answer: Box<Result<Answer, Denied>>,
    },
    AskAgain {
        request: u64,
    },
    Want {
        tenant: TenantName,
        want: Want,
    },
    Cancel {
        run: RunId,
    },
    Rerun {
        run: RunId,
    },
    Fault(Box<Planned>),
    CutOff {
        site: usize,
        lasts: At,
    },
    ClockRight {
        site: usize,
    },
    /// A frame comes again on the connection it once came on: of this site, process and number.
    Replayed {
        link: u64,
        of: (usize, u64, Conn),
        direction: Direction,
        bytes: Rc<[u8]>,
    },
    /// Nothing goes wrong any more.
    Quiet,
    Look,
}

/// One simulation.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: At,
    pub(crate) plan: Plan,
    pub(crate) dice: Dice,
    pub(crate) trace: Trace,
    pub(crate) queue: Queue<Happening>,
    pub(crate) network: Network,
    pub(crate) center: Center,
    pub(crate) sites: Vec<Site>,
    pub(crate) clients: Clients,
    pub(crate) truth: Truth,
    pub(crate) calendar: Calendar,
    pub(crate) clones: Clones,
    pub(crate) said: Said,
    pub(crate) traps: Traps,
    pub(crate) coverage: Coverage,
    /// Wants so far, and, unless it is all, those that count.
    pub(crate) wants: u32,
    pub(crate) wanted: Option<BTreeSet<u32>>,
    /// Turns of the orchestrator.
    pub(crate) turns: u64,
    /// What was said, for a scene.
    pub(crate) minutes: Option<Box<Minutes>>,
    events: u64,
    over: bool,
}

impl World {
    pub(crate) fn new(mut dice: Dice, plan: Plan, trace: Trace) -> Self {
        let slow = dice.percent(20);
        let latency = if slow {
            (20_000, 800_000)
        } else {
            (200, 60_000)
        };
        Self {
            now: 0,
            plan,
            dice,
            trace,
            queue: Queue::new(),
            network: Network {
                latency,
                ..Network::default()
            },
            center: Center::default(),
            sites: Vec::new(),
            clients: Clients::default(),
            truth: Truth::default(),
            calendar: Calendar::default(),
            clones: Clones::default(),
            said: Said::default(),
            traps: Traps::default(),
            coverage: Coverage::default(),
            wants: 0,
            wanted: None,
            turns: 0,
            minutes: None,
            events: 0,
            over: false,
        }
    }

    /// From the first event until everything is over.
    pub(crate) fn run(&mut self) -> Checked {
        for replica in 0..self.center.replicas.len() {
            self.start_replica(replica);
        }
        if self.plan.person {
            self.person_looks_soon();
        }
        self.queue.put(self.plan.quiet_from, Happening::Quiet);
        self.queue.put(self.plan.quiet_from, Happening::Look);
        while !self.over {
            self.next()?;
            self.events += 1;
            if self.events > MOST_EVENTS {
                return Err(broken(
                    "the simulation comes to an end",
                    format!("{MOST_EVENTS} events"),
                ));
            }
        }
        Ok(())
    }

    /// When the next thing happens.
    pub(crate) fn due(&self) -> Option<At> {
        let center = self.center.wakes().map(|(at, _)| at);
        let sites = self.sites.iter().filter_map(Site::wakes);
        let first = self.queue.first_at().into_iter().chain(center).chain(sites);
        first.min()
    }

    /// The next thing: what was put in first, then the orchestrator, then the sites in their order.
    pub(crate) fn next(&mut self) -> Checked {
        let center = self.center.wakes();
        let site = self
            .sites
            .iter()
            .enumerate()
            .filter_map(|(index, site)| Some((site.wakes()?, index)))
            .min();
        let queued = self.queue.first_at();
        let first = [queued, center.map(|(at, _)| at), site.map(|(at, _)| at)]
            .into_iter()
            .flatten()
            .min();
        let Some(first) = first else {
            return Err(broken(
                "the simulation comes to an end",
                "nothing happens any more",
            ));
        };
        self.now = self.now.max(first);
        if queued == Some(first) {
            return self
                .queue
                .take()
                .map_or(Ok(()), |happening| self.happen(happening));
        }
        if let Some((_, number)) = center.filter(|(at, _)| *at == first) {
            return self.center_turn(number);
        }
        site.map_or(Ok(()), |(_, index)| self.site_turn(index))
    }

    fn happen(&mut self, happening: Happening) -> Checked {
        match happening {
            Happening::Packet {
                link,
                direction,
                packet,
            } => return self.arrived(link, direction, packet),
            Happening::NotConnected {
                site,
                process,
                conn,
                why,
            } => {
                self.site_hears(site, process, SiteEvent::Closed { conn, why });
            }
            Happening::SiteSideEnds { link, why } => self.site_side_ended(link, why),
            Happening::CenterSideEnds { link } => self.end_center_side(link),
            Happening::Greeting { link } => self.greeting_due(link),
            Happening::Cut { link } => self.cut(link, 10 * SECOND),
            Happening::GiveUp { link } => self.give_up(link),
            Happening::Keeper {
                site,
                life,
                attempt,
                step,
            } => {
                return self.keeper_step(site, life, attempt, step);
            }
            Happening::Heard {
                site,
                process,
                event,
            } => self.site_hears(site, process, event),
            Happening::StartSite { site } => self.start_site(site),
            Happening::OwnersLookedAt { replica, me } => self.owners_looked_at(replica, me),
            Happening::StartReplica { replica } => {
                self.start_replica(replica);
                return self.invariant_what_was_acknowledged_is_in_the_store(usize::MAX);
            }
            Happening::SiteWants { site, wants } => self.site_wants(site, wants),
            Happening::SetUpAnew { site } => self.set_up_anew(site),
            Happening::SwitchOff { site } => self.switch_off(site),
            Happening::PersonLooks => self.person_looks(),
            Happening::Asked { request } => self.asked(request),
            Happening::Answered { request, answer } => self.told(request, *answer),
            Happening::AskAgain { request } => self.ask_again(request),
            Happening::Want { tenant, want } => self.want(&tenant, want),
            Happening::Cancel { run } => self.cancel(run),
            Happening::Rerun { run } => self.rerun(run),
            Happening::Fault(planned) => self.fault_due(&planned),
            Happening::CutOff { site, lasts } => self.isolate(site, lasts),
            Happening::ClockRight { site } => self.clock_right(site),
            Happening::Replayed {
                link,
                of,
                direction,
                bytes,
            } => return self.replayed(link, of, direction, &bytes),
            Happening::Quiet => self.traps.disarm(),
            Happening::Look => return self.look_whether_all_is_over(),
        }
        Ok(())
    }

    fn look_whether_all_is_over(&mut self) -> Checked {
        self.invariant_a_request_is_answered_once_faults_have_stopped()?;
        self.over = self.all_is_over();
        let progress = self.truth.last_end.max(self.plan.quiet_from);
        let last = (progress + BOUND).min(self.plan.quiet_from + LAST);
        if self.over || self.now > last {
            note!(self, "the end");
            self.over = true;
            return self.invariant_when_faults_stop_everything_ends();
        }
        self.queue.put(self.now + LOOK, Happening::Look);
        Ok(())
    }

    /// The host is set up from nothing, and its agent enrols under the name it had.
    fn set_up_anew(&mut self, index: usize) {
        if !self.is_removed(index) {
            // An enrolment that was under way when it was removed went through after all.
            return;
        }
        if let Some(twin) = self.twin(index) {
            self.switch_off(twin);
        }
        self.sites[index].gone = false;
        self.power_cut(index);
        // What only it remembered is gone with it, by a person's decision.
        self.truth.former.forget_what_succeeded(index);
        let site = &mut self.sites[index];
        site.enrolled = false;
        site.disk = SiteDisk::default();
        site.catalogue = 1;
        (site.heard, site.spoke) = (None, None);
        site.identity.pending = None;
        site.identity.key = self.dice.next();
        let tenant = site.identity.tenant.clone();
        self.want(&tenant, Want::Invite(index));
    }
}
