//! Agents of which there are two: a state directory is copied to another site, or a host is put back to an earlier
//! snapshot of itself. What must hold of them, and people who decide which one stays. What cannot hold of them is in
//! `excuses`.

use std::collections::{BTreeMap, BTreeSet};

use outpost_driver::Micros;
use outpost_orchestrator_core::event::{Alarm, CloseReason};
use outpost_orchestrator_core::record::{AgentRecord, AttemptRecord};
use outpost_orchestrator_core::standing::Keep;
use outpost_proto::ids::{AttemptId, Conn, Incarnation};
use outpost_proto::message::DownMessage;
use outpost_proto::name::{AgentName, TenantName};

use crate::clients::Want;
use crate::disk::SiteDisk;
use crate::identity::Identity;
use crate::invariants::{Checked, holds};
use crate::keeper::{Keeper, Phase};
use crate::queue::{At, BootClock, MINUTE, SECOND};
use crate::site::Site;
use crate::trace::note;
use crate::world::{Happening, World};

/// Whose agent.
type Name = (TenantName, AgentName);

/// What is known of an identity that was copied.
#[derive(Debug)]
pub(crate) struct Copied {
    /// Until when what its holders say may be wrong, on the database host's clock: somebody decided then.
    until: Option<Micros>,
    /// Both holders are the same incarnation.
    pub(crate) alike: bool,
    /// When that was.
    at: At,
    /// The site of whose sessions that were begun since then one was ready last.
    ready: Option<usize>,
    /// Nobody of them is good any more: the agent is to be removed.
    removing: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Clones {
    copied: BTreeMap<Name, Copied>,
    /// Attempts of one holder that another one's word was taken for.
    pub(crate) taken_for_over: BTreeSet<AttemptId>,
}

impl Clones {
    /// A restored database knows agents again that were removed since: whoever is turned away is removed once more.
    pub(crate) fn removals_are_undone(&mut self) {
        for copied in self.copied.values_mut() {
            copied.removing = false;
        }
    }
}

impl Copied {
    /// Whether nobody had decided yet when something was assigned.
    pub(crate) fn was_open_at(&self, assigned_at: u64) -> bool {
        self.until.is_none_or(|until| assigned_at <= until.0)
    }

    pub(crate) fn is_decided(&self) -> bool {
        self.until.is_some()
    }

    /// Whether another site's session was ready last, since the copy and since the database was restored.
    pub(crate) fn was_ready_elsewhere(&self, site: usize) -> bool {
        self.ready.is_some_and(|ready| ready != site)
    }
}

/// What a snapshot of a host keeps.
#[derive(Debug)]
pub(crate) struct HostSnapshot {
    disk: SiteDisk,
    identity: Identity,
}

impl Site {
    pub(crate) fn name(&self) -> Name {
        (self.identity.tenant.clone(), self.identity.agent.clone())
    }
}

impl World {
    // --- what goes wrong

    /// The state directory is copied to another host, or to another place on the same one, and an agent started there.
    pub(crate) fn clone_site(&mut self, of: usize) {
        let late = self.now + 2 * MINUTE > self.plan.quiet_from;
        if late || !self.can_be_copied(of) {
            return;
        }
        self.trace.count("state directory copied");
        let alike = self.dice.percent(25);
        let index = self.sites.len();
        let original = &self.sites[of];
        let incarnation = if alike {
            original.incarnation
        } else {
            Incarnation(self.dice.next())
        };
        let drift_ppm = original.drift_ppm;
        let clock = if alike {
            original.clock
        } else {
            BootClock::new(self.now, drift_ppm)
        };
        let identity = original.identity.clone();
        let site = Site {
            enrolled: true,
            catalogue: original.catalogue,
            disk: original.disk.copied(),
            keepers: copied_files(&original.keepers),
            ..Site::new(identity, original.slots, (clock, drift_ppm), incarnation)
        };
        note!(self, "s{of} is copied to s{index}, alike: {alike}");
        self.begin_copied(of, alike);
        self.sites.push(site);
        let at = self.now + self.dice.span(SECOND, MINUTE);
        self.queue.put(at, Happening::StartSite { site: index });
        // The original may have been paused.
        self.resume_later(index);
    }

    /// A snapshot of a host is made; nothing is wrong with that.
    pub(crate) fn snapshot_host(&mut self, of: usize) {
        if self.can_be_copied(of) {
            self.trace.count("snapshot of a host made");
            let site = &mut self.sites[of];
            let (disk, identity) = (site.disk.copied(), site.identity.clone());
            site.snapshot = Some(Box::new(HostSnapshot { disk, identity }));
        }
    }

    /// A host is put back to its snapshot: what it did since is gone.
    pub(crate) fn put_back(&mut self, of: usize) {
        let late = self.now + 2 * MINUTE > self.plan.quiet_from;
        if late || !self.can_be_copied(of) {
            return;
        }
        let Some(snapshot) = self.sites[of].snapshot.take() else {
            return;
        };
        self.trace.count("host put back to a snapshot");
        self.power_cut(of);
        self.truth.former.forget_what_succeeded(of);
        self.resume_later(of);
        self.begin_copied(of, false);
        let site = &mut self.sites[of];
        (site.disk, site.identity) = (snapshot.disk, snapshot.identity);
    }

    /// Whether an agent lives there alone, and honestly, under an identity that was never copied.
    fn can_be_copied(&self, of: usize) -> bool {
        let site = &self.sites[of];
        let alone = !self.clones.copied.contains_key(&site.name());
        site.enrolled && !site.gone && !site.cheats && alone && !self.is_removed(of)
    }

    fn begin_copied(&mut self, of: usize, alike: bool) {
        let copied = Copied {
            at: self.now,
            until: None,
            alike,
            ready: None,
            removing: false,
        };
        self.clones.copied.insert(self.sites[of].name(), copied);
        self.person_looks_soon();
    }

    // --- people

    /// For each agent of which there are two: somebody decides sooner or later.
    pub(crate) fn decide_who_stays(&mut self) {
        let agents = self.center.disk.mirror.agents.values();
        let two = agents.filter(|agent| agent.standing.quarantine.is_some() && !agent.removed);
        let names: Vec<Name> = two
            .map(|agent| (agent.tenant.clone(), agent.agent.clone()))
            .collect();
        for (tenant, agent) in names {
            if self.dice.percent(40) {
                let keep = if self.dice.percent(50) {
                    Keep::This
                } else {
                    Keep::That
                };
                self.want(&tenant, Want::Resolve(agent, keep));
            }
        }
    }

    /// After each turn of the orchestrator: whether somebody decided.
    pub(crate) fn note_decisions(&mut self, now: Micros) {
        let Clones { copied, .. } = &mut self.clones;
        let agents = &self.center.disk.mirror.agents;
        for (name, copied) in copied {
            let agent = agents.get(name);
            let decided = |agent: &AgentRecord| {
                agent.removed
                    || (agent.standing.quarantine.is_none() && !agent.standing.rejected.is_empty())
            };
            if copied.until.is_none() && agent.is_some_and(decided) {
                copied.until = Some(now);
                self.trace.count("which holder stays decided");
            }
        }
    }

    /// A stream is ended: the holder that somebody decided against is switched off some time after it was turned away.
    pub(crate) fn turned_away(&mut self, conn: Conn, why: CloseReason) {
        let Some(site) = self.network.links.get(&conn.0).map(|link| link.site) else {
            return;
        };
        let refused = matches!(why, CloseReason::Cloned | CloseReason::OtherKey);
        let alone = self.twin(site).is_none();
        let Some(copied) = self.clones.copied.get_mut(&self.sites[site].name()) else {
            return;
        };
        if !refused || (copied.until.is_none() && why == CloseReason::Cloned) {
            return;
        }
        if copied.until.is_none() && !alone {
            self.trace
                .count("second holder turned away for its key alone");
        }
        if alone && std::mem::replace(&mut copied.removing, true) {
            return;
        }
        let at = self.now + self.dice.span(SECOND, 3 * MINUTE);
        let happening = if alone {
            Happening::Want {
                tenant: self.sites[site].identity.tenant.clone(),
                want: Want::Remove(site),
            }
        } else {
            Happening::SwitchOff { site }
        };
        self.queue.put(at, happening);
    }

    /// A host is taken out of service, with everything that runs there.
    pub(crate) fn switch_off(&mut self, index: usize) {
        if self.sites[index].gone || self.twin(index).is_none() {
            return;
        }
        note!(self, "s{index} is switched off");
        self.trace.count("holder switched off");
        self.power_cut(index);
        self.sites[index].gone = true;
        self.truth.former.forget_what_succeeded(index);
    }

    /// The other site of the same identity, if it is in service.
    pub(crate) fn twin(&self, of: usize) -> Option<usize> {
        let name = self.sites[of].name();
        let twin =
            |(index, site): &(usize, &Site)| *index != of && !site.gone && site.name() == name;
        let mut sites = self.sites.iter().enumerate();
        sites.find(twin).map(|(index, _)| index)
    }

    // --- what is told apart

    pub(crate) fn is_copied(&self, site: usize) -> bool {
        self.clones.copied.contains_key(&self.sites[site].name())
    }

    /// Whether nobody decided yet which holder of this site's identity stays, or the other one is still in service.
    pub(crate) fn is_undecided(&self, site: usize) -> bool {
        let copied = self.clones.copied.get(&self.sites[site].name());
        copied.is_some_and(|copied| copied.until.is_none() || self.twin(site).is_some())
    }

    /// What is known of the copying of this attempt's agent.
    pub(crate) fn copied_name(&self, attempt: &AttemptRecord) -> Option<&Copied> {
        if self.clones.copied.is_empty() {
            return None;
        }
        let name = (attempt.tenant.clone(), attempt.agent.clone());
        self.clones.copied.get(&name)
    }

    /// Whether an alarm tells nothing but that there are two: what one of them holds may lie before what the other told.
    pub(crate) fn is_about_copies(&self, name: &Name, what: Alarm) -> bool {
        let copied = self.clones.copied.contains_key(name);
        let of_two = [Alarm::Cloned, Alarm::Nonce, Alarm::ImpossibleEvent];
        copied && of_two.contains(&what)
    }

    // --- what must hold

    /// At each frame: while there are two, neither gets work or a lease.
    pub(crate) fn invariant_none_of_two_gets_work(
        &self,
        conn: Conn,
        messages: &[DownMessage],
        now: Micros,
    ) -> Checked {
        let Some(link) = self.network.links.get(&conn.0) else {
            return Ok(());
        };
        let name = self.sites[link.site].name();
        let agent = self.center.disk.mirror.agents.get(&name);
        let since = agent.and_then(|agent| Some(agent.standing.quarantine.as_ref()?.since));
        // In the turn in which the second one came, the first may have been answered before.
        if since.is_none_or(|since| since >= now.0) {
            return Ok(());
        }
        let gets = |message: &DownMessage| match message {
            DownMessage::Assign(_) => true,
            DownMessage::Granted(granted) => granted.lease.is_some(),
            DownMessage::Welcome(_) | DownMessage::Directive { .. } => false,
        };
        holds(
            !messages.iter().any(gets),
            "neither of two holders of one identity gets work or a lease",
            format!("s{} on link {conn}", link.site),
        )
    }

    /// When an attempt is made.
    pub(crate) fn invariant_none_of_two_is_given_attempts(&self, made: &AttemptRecord) -> Checked {
        let name = (made.tenant.clone(), made.agent.clone());
        let agent = self.center.disk.mirror.agents.get(&name);
        let two = agent.is_some_and(|agent| {
            let quarantine = agent.standing.quarantine.as_ref();
            quarantine.is_some_and(|two| two.since < made.assigned_at)
        });
        holds(
            made.recovered || !two,
            "neither of two holders of one identity gets work or a lease",
            made.attempt,
        )
    }

    /// When a site's session is ready: the other one's was not since the copy was made, unless somebody decided.
    pub(crate) fn invariant_a_second_holder_is_found_out(&mut self, site: usize) -> Checked {
        let name = self.sites[site].name();
        let twin = self.twin(site);
        let began = self.sites[site]
            .session
            .as_ref()
            .map(|session| session.since);
        let copied = self.clones.copied.get_mut(&name);
        let Some(copied) = copied.filter(|copied| began > Some(copied.at)) else {
            return Ok(());
        };
        let before = copied.ready.replace(site);
        let second = before.is_some_and(|before| before != site && Some(before) == twin);
        holds(
            !second || copied.until.is_some(),
            "a second holder of an identity is found out at its next session",
            format!("s{site} after {before:?}"),
        )
    }

    /// Whether of every identity at most one holder is in service.
    pub(crate) fn is_everybody_single(&self) -> bool {
        let single = |(index, site): (usize, &Site)| site.gone || self.twin(index).is_none();
        self.sites.iter().enumerate().all(single)
    }

    /// After a restore the first nonce is taken as given: who was heard before counts no more, and what somebody decided
    /// may have to be decided again.
    pub(crate) fn nobody_was_ready(&mut self) {
        for copied in self.clones.copied.values_mut() {
            (copied.ready, copied.until) = (None, None);
        }
    }
}

/// What of the keepers lies in the state directory: their files, and no process.
fn copied_files(keepers: &BTreeMap<AttemptId, Keeper>) -> BTreeMap<AttemptId, Keeper> {
    let there = keepers
        .iter()
        .filter(|(_, keeper)| !matches!(keeper.phase, Phase::Requested | Phase::Waits));
    there
        .map(|(attempt, keeper)| (*attempt, keeper.files()))
        .collect()
}
