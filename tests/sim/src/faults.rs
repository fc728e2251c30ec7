//! What goes wrong in one simulation: every kind of fault, its name, the case of the catalogue of faults it stands for, and
//! what it does when it comes. When each comes is `plan`'s business.

use outpost_agent_core::event::Site as SiteWants;
use outpost_proto::ids::AttemptId;
use serde::{Deserialize, Serialize};

use crate::disk::CommitFault;
use crate::keeper::Phase;
use crate::network::Direction;
use crate::plan::Planned;
use crate::queue::{At, MINUTE, MS, SECOND};
use crate::trace::note;
use crate::world::{Happening, World};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "each has its name and its case in the table below"
)]
pub enum Fault {
    Cut,
    CutUnnoticed,
    Cut1s,
    Cut5s,
    Cut60s,
    Cut5min,
    Cut24h,
    Partition,
    BlackHoleUp,
    BlackHoleDown,
    BlackHole,
    AcksLost,
    StaleFrames,
    Replay,
    Delay,
    Refuse,
    AgentCrash,
    AgentStop,
    AgentDrain,
    AgentPause,
    AgentStall,
    AgentCommitFails,
    AgentSpeechCut,
    AgentDiskFull,
    AgentClock,
    Suspend,
    Reload,
    PowerCut,
    KeeperKill,
    Clone,
    Snapshot,
    PutBack,
    CenterCrash,
    CenterStall,
    ReplicaStop,
    CenterCommitFails,
    CenterSpeechCut,
    CenterDiskFull,
    CenterClock,
    WallJump,
    Backup,
    Restore,
    Cheat,
}

/// What is said of a kind.
pub(crate) struct Kind {
    pub(crate) fault: Fault,
    pub(crate) name: &'static str,
    /// The cases of the catalogue of faults.
    pub(crate) cases: &'static str,
    /// How often it comes by itself, among the others.
    pub(crate) weight: u64,
}

const fn kind(fault: Fault, name: &'static str, cases: &'static str, weight: u64) -> Kind {
    Kind {
        fault,
        name,
        cases,
        weight,
    }
}

/// Every kind.
pub(crate) const KINDS: [Kind; 43] = [
    kind(Fault::Cut, "fault: cut", "N1", 8),
    kind(Fault::CutUnnoticed, "fault: cut, noticed late", "N1", 4),
    kind(Fault::Cut1s, "fault: cut off for 1 s", "N1", 3),
    kind(Fault::Cut5s, "fault: cut off for 5 s", "N1", 3),
    kind(Fault::Cut60s, "fault: cut off for 60 s", "N1", 3),
    kind(Fault::Cut5min, "fault: cut off for 5 min", "N1", 2),
    kind(Fault::Cut24h, "fault: cut off for 24 h", "N1", 0),
    kind(
        Fault::Partition,
        "fault: some sites cut off one by one",
        "N3",
        3,
    ),
    kind(Fault::BlackHoleUp, "fault: black hole upward", "N4", 5),
    kind(Fault::BlackHoleDown, "fault: black hole downward", "N4", 5),
    kind(Fault::BlackHole, "fault: black hole both ways", "N4", 3),
    kind(Fault::AcksLost, "fault: acknowledgements lost", "N5", 2),
    kind(
        Fault::StaleFrames,
        "fault: frames of an old connection arrive late",
        "N6",
        8,
    ),
    kind(
        Fault::Replay,
        "fault: frames of an old connection arrive again",
        "N6",
        5,
    ),
    kind(Fault::Delay, "fault: everything arrives late", "N6", 5),
    kind(Fault::Refuse, "fault: connections refused", "N1", 3),
    kind(Fault::AgentCrash, "fault: agent killed", "C1", 10),
    kind(
        Fault::AgentStop,
        "fault: agent stopped in good order",
        "C1",
        2,
    ),
    kind(Fault::AgentDrain, "fault: agent drained", "", 1),
    kind(Fault::AgentPause, "fault: site paused", "", 2),
    kind(Fault::AgentStall, "fault: agent frozen", "C4", 4),
    kind(
        Fault::AgentCommitFails,
        "fault: agent's commit fails",
        "D1 D3",
        8,
    ),
    kind(
        Fault::AgentSpeechCut,
        "fault: agent killed in mid-speech",
        "C1",
        6,
    ),
    kind(Fault::AgentDiskFull, "fault: agent's disk full", "D1", 3),
    kind(Fault::AgentClock, "fault: agent's clock wrong", "T1", 4),
    kind(Fault::Suspend, "fault: host suspended", "T4", 3),
    kind(Fault::Reload, "fault: catalogue reloaded", "", 3),
    kind(Fault::PowerCut, "fault: host lost power", "D4", 4),
    kind(Fault::KeeperKill, "fault: keeper killed", "C3", 5),
    kind(
        Fault::Clone,
        "fault: state directory copied to another site",
        "I15",
        2,
    ),
    kind(
        Fault::Snapshot,
        "fault: none, a host's snapshot is made",
        "",
        2,
    ),
    kind(
        Fault::PutBack,
        "fault: host put back to its snapshot",
        "I15",
        2,
    ),
    kind(Fault::CenterCrash, "fault: orchestrator killed", "C2", 5),
    kind(Fault::CenterStall, "fault: orchestrator frozen", "C5", 2),
    kind(
        Fault::ReplicaStop,
        "fault: replica frozen in mid-turn",
        "C5",
        6,
    ),
    kind(
        Fault::CenterCommitFails,
        "fault: orchestrator's commit fails",
        "B4",
        8,
    ),
    kind(
        Fault::CenterSpeechCut,
        "fault: orchestrator killed in mid-speech",
        "C2",
        4,
    ),
    kind(
        Fault::CenterDiskFull,
        "fault: orchestrator's disk full",
        "D2",
        2,
    ),
    kind(
        Fault::CenterClock,
        "fault: orchestrator restarted with a clock ahead",
        "T5",
        1,
    ),
    kind(Fault::WallJump, "fault: wall clock set", "T3", 2),
    kind(Fault::Backup, "fault: none, a backup is made", "", 2),
    kind(Fault::Restore, "fault: old backup restored", "B5", 2),
    kind(Fault::Cheat, "fault: an agent cheats", "", 12),
];

impl Fault {
    pub(crate) fn kind(self) -> &'static Kind {
        KINDS
            .iter()
            .find(|kind| kind.fault == self)
            .unwrap_or(&KINDS[0])
    }

    /// How long a site is cut off by it.
    fn cut_off(self) -> Option<At> {
        let lasts = [
            (Fault::Cut1s, SECOND),
            (Fault::Cut5s, 5 * SECOND),
            (Fault::Cut60s, MINUTE),
            (Fault::Cut5min, 5 * MINUTE),
            (Fault::Cut24h, 24 * 60 * MINUTE),
        ];
        let found = lasts.iter().find(|(fault, _)| *fault == self);
        found.map(|(_, lasts)| *lasts)
    }

    pub(crate) fn is_cut_off(self) -> bool {
        self.cut_off().is_some()
    }

    /// Whether it happens to a stream that stands.
    pub(crate) fn is_of_a_link(self) -> bool {
        [
            Fault::Cut,
            Fault::CutUnnoticed,
            Fault::BlackHoleUp,
            Fault::BlackHoleDown,
            Fault::BlackHole,
            Fault::StaleFrames,
            Fault::Replay,
            Fault::Delay,
        ]
        .contains(&self)
    }

    /// Whether it happens to the orchestrator, and so to every site alike.
    pub(crate) fn is_of_the_center(self) -> bool {
        [
            Fault::CenterCrash,
            Fault::CenterStall,
            Fault::ReplicaStop,
            Fault::CenterCommitFails,
            Fault::CenterSpeechCut,
            Fault::CenterDiskFull,
            Fault::CenterClock,
            Fault::WallJump,
            Fault::Backup,
            Fault::Restore,
        ]
        .contains(&self)
    }
}

impl World {
    /// A fault's time has come: it happens, or waits for its message.
    pub(crate) fn fault_due(&mut self, planned: &Planned) {
        if planned.when.is_some() {
            self.traps.arm(planned.clone());
            return;
        }
        self.with_own_dice(planned.draw, |world| {
            let link = planned.fault.is_of_a_link().then(|| world.some_link());
            let site = match link {
                Some(None) => return,
                Some(Some(link)) => world.network.links[&link].site,
                None => world.dice.below(world.sites.len()),
            };
            world.cover_steps(planned.fault, site);
            world.fault(planned.fault, site, link.flatten());
        });
    }

    /// A fault's own chance: what else happens draws the same with and without it.
    pub(crate) fn with_own_dice(&mut self, draw: u64, happen: impl FnOnce(&mut Self)) {
        let own = crate::dice::Dice::new(draw);
        let dice = std::mem::replace(&mut self.dice, own);
        happen(self);
        self.dice = dice;
    }

    fn some_link(&mut self) -> Option<u64> {
        let links = self.network.open_links();
        (!links.is_empty()).then(|| links[self.dice.below(links.len())])
    }

    /// It happens, to this site or this stream of its, or to the orchestrator.
    pub(crate) fn fault(&mut self, fault: Fault, site: usize, link: Option<u64>) {
        let name = fault.kind().name;
        self.trace.count(name);
        note!(self, "{name}, s{site}");
        if let Some(lasts) = fault.cut_off() {
            return self.isolate(site, lasts);
        }
        if fault.is_of_the_center() {
            return self.center_fault(fault);
        }
        if let Some(link) = link {
            return self.network_fault(fault, link);
        }
        self.site_fault(fault, site);
    }

    pub(crate) fn network_fault(&mut self, fault: Fault, link: u64) {
        let lasts = self.dice.span(SECOND, 5 * MINUTE);
        if fault == Fault::Cut {
            self.cut(link, SECOND);
        } else if fault == Fault::CutUnnoticed {
            self.cut(link, 80 * SECOND);
        } else if fault == Fault::StaleFrames {
            self.hold_back(link, Direction::Up, lasts);
        } else if fault == Fault::Replay {
            self.replay(link);
        } else if fault == Fault::Delay {
            self.delay(link, lasts);
        } else {
            let up = fault != Fault::BlackHoleDown;
            let down = fault != Fault::BlackHoleUp;
            self.black_hole(link, up, down, lasts);
        }
    }

    fn center_fault(&mut self, fault: Fault) {
        if fault == Fault::CenterCrash {
            let replica = self.aimed_replica();
            self.crash_replica(replica);
        } else if matches!(fault, Fault::CenterStall | Fault::ReplicaStop) {
            let replica = self.aimed_replica();
            if fault == Fault::CenterStall {
                self.freeze_replica(replica);
            } else {
                self.freeze_in_turn(replica);
            }
        } else if fault == Fault::CenterCommitFails {
            self.center.disk.trouble.fault = Some(self.commit_fault());
        } else if fault == Fault::CenterSpeechCut {
            self.center.cut_speech = true;
        } else if fault == Fault::CenterDiskFull {
            self.center.disk.trouble.full_until = self.now + self.outage();
        } else if fault == Fault::CenterClock {
            self.center.ahead_us += self.dice.span(SECOND, 6 * 60 * MINUTE);
            self.calendar.clock_was_set();
            // Nobody is left who knew the time before, also not who stands still.
            for replica in 0..self.center.replicas.len() {
                self.crash_replica(replica);
            }
        } else if fault == Fault::Backup {
            self.back_up();
        } else if fault == Fault::Restore {
            self.restore();
        } else {
            self.wall_jumps();
        }
    }

    fn site_fault(&mut self, fault: Fault, site: usize) {
        match fault {
            Fault::Partition => self.partition(),
            Fault::AcksLost => self.acks_lost(site),
            Fault::Refuse => {
                let until = self.now + self.outage();
                self.network.refuse(site, until);
            }
            Fault::AgentCrash => self.crash_site(site),
            Fault::AgentStop => self.site_wants(site, SiteWants::Stop),
            Fault::AgentDrain => self.site_wants(site, SiteWants::Drain),
            Fault::AgentPause => {
                self.site_wants(site, SiteWants::Pause);
                self.resume_later(site);
            }
            Fault::AgentStall => {
                let until = self.now + self.outage();
                if let Some(process) = self.sites[site].process.as_mut() {
                    process.not_before = until;
                }
            }
            Fault::AgentCommitFails => {
                self.sites[site].disk.trouble.fault = Some(self.commit_fault())
            }
            Fault::AgentSpeechCut => self.sites[site].cut_speech = true,
            Fault::AgentDiskFull => {
                self.sites[site].disk.trouble.full_until = self.now + self.outage();
            }
            Fault::AgentClock => self.clock_goes_wrong(site),
            Fault::Suspend => self.suspend(site),
            Fault::Reload => self.reload_catalogue(site),
            Fault::PowerCut => self.power_cut(site),
            Fault::KeeperKill => self.some_keeper_dies(site),
            Fault::Clone => self.clone_site(site),
            Fault::Snapshot => self.snapshot_host(site),
            Fault::PutBack => self.put_back(site),
            Fault::Cheat => self.cheat_soon(),
            Fault::Cut
            | Fault::CutUnnoticed
            | Fault::Cut1s
            | Fault::Cut5s
            | Fault::Cut60s
            | Fault::Cut5min
            | Fault::Cut24h
            | Fault::BlackHoleUp
            | Fault::BlackHoleDown
            | Fault::BlackHole
            | Fault::StaleFrames
            | Fault::Replay
            | Fault::Delay
            | Fault::CenterCrash
            | Fault::CenterStall
            | Fault::ReplicaStop
            | Fault::CenterCommitFails
            | Fault::CenterSpeechCut
            | Fault::CenterDiskFull
            | Fault::CenterClock
            | Fault::Backup
            | Fault::Restore
            | Fault::WallJump => {}
        }
    }

    /// How long something lasts: never longer than faults do.
    pub(crate) fn outage(&mut self) -> At {
        let longest = self.plan.longest_outage;
        let left = self.plan.quiet_from.saturating_sub(self.now).max(SECOND);
        self.dice.span(100 * MS, longest).min(left)
    }

    fn commit_fault(&mut self) -> CommitFault {
        CommitFault {
            applied: self.dice.percent(50),
            fatal: self.dice.percent(40),
        }
    }

    /// Some sites lose the network one after the other, and have it back in another order.
    fn partition(&mut self) {
        let longest = self.outage();
        for site in 0..self.sites.len() {
            if self.dice.percent(60) {
                let at = self.now + self.dice.between(0, 20 * SECOND);
                let lasts = self.dice.between(SECOND, longest.max(2 * SECOND));
                self.queue.put(at, Happening::CutOff { site, lasts });
            }
        }
    }

    /// For a while every frame that acknowledges something to this site is lost, with its stream.
    fn acks_lost(&mut self, site: usize) {
        let lasts = if self.plan.long {
            6 * 60 * MINUTE
        } else {
            self.outage()
        };
        let left = self.plan.quiet_from.saturating_sub(self.now);
        self.network
            .acks_lost
            .insert(site, self.now + lasts.min(left));
    }

    /// The pause is durable and the process may be away just then: said again until it was surely heard.
    pub(crate) fn resume_later(&mut self, site: usize) {
        let at = self.now + self.outage();
        for later in [0, MINUTE, 5 * MINUTE, 20 * MINUTE] {
            let at = if later == 0 {
                at
            } else {
                self.plan.quiet_from + later
            };
            self.queue.put(
                at,
                Happening::SiteWants {
                    site,
                    wants: SiteWants::Resume,
                },
            );
        }
    }

    fn some_keeper_dies(&mut self, site: usize) {
        let alive = self.sites[site]
            .keepers
            .iter()
            .filter(|(_, keeper)| matches!(keeper.phase, Phase::Forked | Phase::Running));
        let alive: Vec<AttemptId> = alive.map(|(attempt, _)| *attempt).collect();
        if !alive.is_empty() {
            let attempt = alive[self.dice.below(alive.len())];
            self.kill_keeper(site, attempt);
        }
    }
}
