//! Certificates: what link does at a site and the port at the orchestrator's, so that the cores can renew; and what must
//! hold of it. Here a certificate does not end by itself: that is the ports' business, not the cores'.

use std::rc::Rc;

use outpost_agent_core::event::Event as SiteEvent;
use outpost_driver::Micros;
use outpost_orchestrator_core::event::{
    AgentView, Answer, Ask, Call, CloseReason, Denied, Event as CenterEvent, Speech,
};
use outpost_orchestrator_core::record::Presence;
use outpost_proto::ids::Conn;
use outpost_proto::limits::STALE_AFTER;

use crate::invariants::{Checked, broken, holds};
use crate::network::{Direction, Packet};
use crate::queue::{At, MS};
use crate::trace::note;
use crate::world::{Happening, World};

/// What travels besides frames.
#[derive(Debug, Clone)]
pub(crate) enum Letter {
    /// A request under the certificate of its stream: the next key.
    Renew(u64),
    /// The certificate for that key.
    Renewed(u64),
    NotRenewed,
}

/// A renewal that the orchestrator decides on.
#[derive(Debug)]
pub(crate) struct Renewing {
    pub(crate) way: Way,
    pub(crate) next: u64,
}

/// On which way the answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Beside this stream.
    Link(u64),
    /// On a connection without a stream, of this site and process.
    Alone(usize, u64, Conn),
}

impl World {
    /// The certificate that link presents, on the host's clock.
    pub(crate) fn certificate_of(&self, index: usize) -> (u64, Micros) {
        let site = &self.sites[index];
        let left = (site.identity.since + self.plan.certificate_life).saturating_sub(self.now);
        let left = site.certificate_left(left);
        (
            self.plan.certificate_life,
            Micros(site.clock.shows(self.now) + left),
        )
    }

    /// When it ends, on the orchestrator's clock.
    pub(crate) fn certificate_ends(&self, index: usize) -> u64 {
        self.sites[index].identity.dated + self.plan.certificate_life
    }

    /// Link makes a key, or takes the one of a renewal that was interrupted.
    pub(crate) fn make_csr(&mut self, index: usize, process: u64) {
        let key = match self.sites[index].identity.pending {
            Some(key) => key,
            None => self.dice.next(),
        };
        self.sites[index].identity.pending = Some(key);
        let at = self.now + self.dice.span(MS, 20 * MS);
        let fails = self.now < self.plan.quiet_from && self.dice.percent(3);
        let event = if fails && !self.plan.directed {
            self.trace.count("no request could be made");
            SiteEvent::Csr(Vec::new())
        } else {
            SiteEvent::Csr(key.to_be_bytes().to_vec())
        };
        self.queue.put(
            at,
            Happening::Heard {
                site: index,
                process,
                event,
            },
        );
    }

    /// Asks beside this stream, with exactly what the ledger holds.
    pub(crate) fn ask_to_renew(&mut self, index: usize, conn: Conn, csr: &[u8], bytes: Rc<[u8]>) {
        let number = self.sites[index].processes;
        let Some(next) = <[u8; 8]>::try_from(csr).ok().map(u64::from_be_bytes) else {
            return;
        };
        note!(
            self,
            "s{index} asks for a certificate, {} bytes",
            bytes.len()
        );
        if let Some(link) = self.network.of_site(index, number, conn) {
            self.carry(link, Direction::Up, Packet::Letter(Letter::Renew(next)));
        }
    }

    /// A letter arrived at the orchestrator's port.
    pub(crate) fn letter_up(&mut self, id: u64, letter: &Letter) {
        let (Letter::Renew(next), Some(link)) = (letter, self.network.links.get(&id)) else {
            return;
        };
        let Some(number) = link.center_process else {
            return;
        };
        let (presented, identity) = (link.key.clone(), self.sites[link.site].identity.clone());
        let next_key = identity.key_hash_of(*next);
        let renewing = Renewing {
            way: Way::Link(id),
            next: *next,
        };
        self.center_is_asked_to_renew(number, renewing, |call| CenterEvent::Renew {
            beside: Some(Conn(id)),
            call,
            tenant: identity.tenant,
            agent: identity.agent,
            key_hash: presented,
            next_key,
        });
    }

    /// The orchestrator decided, or could not.
    pub(crate) fn renewal_answered(
        &mut self,
        renewing: &Renewing,
        answer: Option<Result<Answer, Denied>>,
    ) {
        let link = match renewing.way {
            Way::Link(link) => link,
            Way::Alone(..) => return self.recovery_answered(renewing, answer),
        };
        let letter = match answer {
            Some(Ok(_)) => Letter::Renewed(renewing.next),
            Some(Err(_)) | None => {
                self.trace.count("renewal refused");
                Letter::NotRenewed
            }
        };
        self.carry(link, Direction::Down, Packet::Letter(letter));
    }

    /// A letter arrived at a site: link stores what it brings, then says so.
    pub(crate) fn letter_down(&mut self, index: usize, process: u64, letter: &Letter) {
        let alive = self.sites[index]
            .process
            .as_ref()
            .is_some_and(|living| living.number == process);
        if !alive {
            return;
        }
        let event = match letter {
            Letter::Renewed(key) if self.sites[index].identity.pending == Some(*key) => {
                self.stored(index, *key)
            }
            Letter::Renewed(_) | Letter::NotRenewed | Letter::Renew(_) => SiteEvent::NotRenewed,
        };
        self.site_hears(index, process, event);
    }

    /// A certificate for this key is durable at the site.
    pub(crate) fn stored(&mut self, index: usize, key: u64) -> SiteEvent {
        let dated = self.database_time(self.now).0;
        let identity = &mut self.sites[index].identity;
        (identity.key, identity.pending) = (key, None);
        (identity.since, identity.dated) = (self.now, dated);
        self.trace.count("certificate renewed");
        let (life_us, until) = self.certificate_of(index);
        SiteEvent::Renewed { life_us, until }
    }

    // --- what must hold

    /// At each stream that the orchestrator ends because of its key.
    pub(crate) fn invariant_an_agent_that_renews_is_never_locked_out(
        &mut self,
        conn: Conn,
        why: CloseReason,
    ) -> Checked {
        let Some(link) = self.network.links.get(&conn.0) else {
            return Ok(());
        };
        if why != CloseReason::OtherKey {
            return Ok(());
        }
        self.trace
            .count("stream with a key that is not good any more");
        let site = &self.sites[link.site];
        let copied = self.is_copied(link.site);
        let own = !copied && site.identity.key_hash() == link.key && site.processes == link.process;
        holds(
            !own || !link.site_open || self.is_removed(link.site),
            "an agent that renews is never locked out",
            format!("s{} on link {conn}", link.site),
        )
    }

    /// After each turn of the orchestrator.
    pub(crate) fn invariants_of_presence(&mut self, number: u64) -> Checked {
        let tenants: Vec<_> = self.center.disk.mirror.tenants.keys().cloned().collect();
        for tenant in tenants {
            if self.center.owner_of(&tenant) != Some(number) {
                continue;
            }
            let Some(Speech::Answer {
                answer: Ok(Answer::Agents(views)),
                ..
            }) = self.peek(&tenant, Ask::Agents)
            else {
                continue;
            };
            for view in views {
                let of = |site: &crate::site::Site| {
                    site.identity.tenant == tenant && site.identity.agent == view.agent
                };
                let index = self.sites.iter().position(of);
                if let Some(index) = index.filter(|index| !self.is_copied(*index)) {
                    self.invariant_stale_means_silent(index, &view)?;
                    self.invariant_without_faults_nobody_is_ever_away(index, &view)?;
                }
            }
        }
        Ok(())
    }

    /// The orchestrator ends a stream: what arrived on it last may have been shown to a core that had let go of it after
    /// a failed commit, and counts as nothing heard.
    pub(crate) fn nothing_counts_as_heard(&mut self, conn: Conn, why: CloseReason) {
        // Of its agent nothing may be left of the stream by now.
        let site = self.sites.iter_mut().find(|site| site.newest == conn.0);
        if let Some(site) = site {
            site.heard = None;
            // A stream that another one took the place of was known until then.
            site.spoke = site.spoke.filter(|_| why == CloseReason::Replaced);
        }
    }

    fn invariant_stale_means_silent(&self, index: usize, view: &AgentView) -> Checked {
        let owner = self.center.owner_of(&self.sites[index].identity.tenant);
        let process = owner.and_then(|number| self.center.seat(number));
        let all = process.is_some_and(crate::center::Process::has_heard_all);
        let honest = !self.sites[index].cheats;
        let Some(heard) = self.sites[index].heard.filter(|_| all && honest) else {
            return Ok(());
        };
        let silent = self.now.saturating_sub(heard);
        let stale_after = At::try_from(STALE_AFTER.as_micros()).unwrap_or(At::MAX);
        holds(
            view.presence != Presence::Stale || silent >= stale_after,
            "an agent is stale only after it was silent for long enough",
            format!(
                "s{index} is stale at {}, {silent} us after its last frame",
                self.database_time(self.now).0
            ),
        )
    }

    fn invariant_without_faults_nobody_is_ever_away(
        &mut self,
        index: usize,
        view: &AgentView,
    ) -> Checked {
        if !self.plan.calm {
            return Ok(());
        }
        let site = &mut self.sites[index];
        if view.presence == Presence::Removed || site.process.is_none() {
            site.met = false;
            return Ok(());
        }
        let here = view.connected && view.presence == Presence::Live;
        if site.met && !here {
            return Err(broken(
                "without faults an agent that came is never away, renewals or not",
                format!("s{index}: {view:?}"),
            ));
        }
        site.met |= here;
        Ok(())
    }
}

impl crate::center::Process {
    /// Takes a renewal that was asked for under this number.
    pub(crate) fn renewal(&mut self, call: Call) -> Option<Renewing> {
        self.renewals.remove(&call)
    }
}
