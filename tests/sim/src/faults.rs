//! What goes wrong in one simulation. Which kinds do at all, and how often, is drawn from the seed: some simulations have
//! one kind of fault only, some have all.

use outpost_agent_core::event::Site as SiteWants;
use outpost_proto::ids::AttemptId;

use crate::disk::CommitFault;
use crate::keeper::Phase;
use crate::queue::{At, MINUTE, MS, SECOND};
use crate::trace::note;
use crate::world::{Happening, World};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Cut,
    CutUnnoticed,
    BlackHoleUp,
    BlackHoleDown,
    BlackHole,
    StaleFrames,
    Delay,
    Refuse,
    AgentCrash,
    AgentStop,
    AgentDrain,
    AgentPause,
    AgentStall,
    AgentCommitFails,
    AgentSpeechCut,
    Reload,
    PowerCut,
    KeeperKill,
    CenterCrash,
    CenterStall,
    CenterCommitFails,
    CenterSpeechCut,
    WallJump,
}

/// Every kind with its name and its weight.
const FAULTS: [(Fault, &str, u64); 23] = [
    (Fault::Cut, "fault: cut", 10),
    (Fault::CutUnnoticed, "fault: cut, noticed late", 5),
    (Fault::BlackHoleUp, "fault: black hole upward", 5),
    (Fault::BlackHoleDown, "fault: black hole downward", 5),
    (Fault::BlackHole, "fault: black hole both ways", 3),
    (
        Fault::StaleFrames,
        "fault: frames of an old connection arrive late",
        10,
    ),
    (Fault::Delay, "fault: everything arrives late", 5),
    (Fault::Refuse, "fault: connections refused", 3),
    (Fault::AgentCrash, "fault: agent killed", 10),
    (Fault::AgentStop, "fault: agent stopped in good order", 2),
    (Fault::AgentDrain, "fault: agent drained", 1),
    (Fault::AgentPause, "fault: site paused", 2),
    (Fault::AgentStall, "fault: agent frozen", 4),
    (Fault::AgentCommitFails, "fault: agent's commit fails", 8),
    (
        Fault::AgentSpeechCut,
        "fault: agent killed in mid-speech",
        6,
    ),
    (Fault::Reload, "fault: catalogue reloaded", 3),
    (Fault::PowerCut, "fault: host lost power", 4),
    (Fault::KeeperKill, "fault: keeper killed", 5),
    (Fault::CenterCrash, "fault: orchestrator killed", 5),
    (Fault::CenterStall, "fault: orchestrator frozen", 2),
    (
        Fault::CenterCommitFails,
        "fault: orchestrator's commit fails",
        8,
    ),
    (
        Fault::CenterSpeechCut,
        "fault: orchestrator killed in mid-speech",
        4,
    ),
    (Fault::WallJump, "fault: wall clock set", 2),
];

impl World {
    /// Draws which faults happen when.
    pub(crate) fn plan_faults(&mut self) {
        let kinds: Vec<_> = FAULTS.iter().filter(|_| self.dice.percent(60)).collect();
        if self.plan.calm {
            return;
        }
        let total: u64 = kinds.iter().map(|(_, _, weight)| weight).sum();
        let longest = self.dice.span(5 * SECOND, 120 * SECOND);
        let mut at = SECOND;
        if total == 0 {
            return;
        }
        loop {
            at += self.dice.span(200 * MS, longest);
            if at >= self.plan.quiet_from {
                return;
            }
            let mut drawn = self.dice.between(1, total);
            for (fault, _, weight) in &kinds {
                if drawn <= *weight {
                    self.queue.put(at, Happening::Fault(*fault));
                    break;
                }
                drawn -= weight;
            }
        }
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        let name = FAULTS
            .iter()
            .find(|(kind, _, _)| *kind == fault)
            .map_or("", |(_, name, _)| name);
        self.trace.count(name);
        note!(self, "{name}");
        let site = self.dice.below(self.sites.len());
        match fault {
            Fault::Cut
            | Fault::CutUnnoticed
            | Fault::BlackHoleUp
            | Fault::BlackHoleDown
            | Fault::BlackHole
            | Fault::StaleFrames
            | Fault::Delay => self.network_fault(fault),
            Fault::Refuse => {
                let until = self.now + self.outage();
                self.network.refused_until.insert(site, until);
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
            Fault::AgentCommitFails => self.sites[site].disk.fault = Some(self.commit_fault()),
            Fault::AgentSpeechCut => self.sites[site].cut_speech = true,
            Fault::Reload => self.reload_catalogue(site),
            Fault::PowerCut => self.power_cut(site),
            Fault::KeeperKill => self.some_keeper_dies(site),
            Fault::CenterCrash => self.crash_center(),
            Fault::CenterStall => {
                let until = self.now + self.outage();
                if let Some(process) = self.center.process.as_mut() {
                    process.not_before = until;
                }
            }
            Fault::CenterCommitFails => self.center.disk.fault = Some(self.commit_fault()),
            Fault::CenterSpeechCut => self.center.cut_speech = true,
            Fault::WallJump => self.wall_jumps(),
        }
    }

    fn outage(&mut self) -> At {
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

    fn network_fault(&mut self, fault: Fault) {
        let links = self.network.open_links();
        if links.is_empty() {
            return;
        }
        let link = links[self.dice.below(links.len())];
        let lasts = self.dice.span(SECOND, 5 * MINUTE);
        match fault {
            Fault::Cut => self.cut(link, SECOND),
            Fault::CutUnnoticed => self.cut(link, 80 * SECOND),
            Fault::BlackHoleUp => self.black_hole(link, true, false, lasts),
            Fault::BlackHoleDown => self.black_hole(link, false, true, lasts),
            Fault::BlackHole => self.black_hole(link, true, true, lasts),
            Fault::StaleFrames => self.hold_back(link, lasts),
            Fault::Delay | Fault::Refuse => self.delay(link, lasts),
            Fault::AgentCrash
            | Fault::AgentStop
            | Fault::AgentDrain
            | Fault::AgentPause
            | Fault::AgentStall
            | Fault::AgentCommitFails
            | Fault::AgentSpeechCut
            | Fault::Reload
            | Fault::PowerCut
            | Fault::KeeperKill
            | Fault::CenterCrash
            | Fault::CenterStall
            | Fault::CenterCommitFails
            | Fault::CenterSpeechCut
            | Fault::WallJump => {}
        }
    }

    /// The pause is durable and the process may be away just then: said again until it was surely heard.
    fn resume_later(&mut self, site: usize) {
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
