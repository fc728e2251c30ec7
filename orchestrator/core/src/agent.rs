//! One agent: its record, its connections, when it was heard, and what it may be given.
//!
//! Presence is apart from what attempts do: an agent out of touch is not a failure.

use std::collections::{BTreeMap, BTreeSet};

use outpost_driver::Micros;
use outpost_proto::ids::{AttemptId, CommandSeq, Conn};
use outpost_proto::message::{CatalogueEntry, Heartbeat, Hello, OnDisconnect};
use outpost_proto::name::{AgentName, EntryHash, EntryName, TenantName};

use crate::clone::Rival;
use crate::event::AgentView;
use crate::limits::Settings;
use crate::record::{AgentRecord, AttemptRecord, NoticeKind, Phase, Presence};
use crate::session::{Opening, Session, Stage};
use crate::shown::Open;
use crate::state::Observed;
use crate::tenant::{Ctx, Due, Tenant};

/// An agent and its live part.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) record: AgentRecord,
    pub(crate) presence: Presence,
    /// Counts as heard then.
    pub(crate) heard: Micros,
    /// No lease granted so far lets it start work from then on.
    pub(crate) lease_until: Micros,
    /// The catalogue by hash.
    pub(crate) offers: BTreeMap<EntryHash, CatalogueEntry>,
    /// Attempts it may hold.
    pub(crate) held: BTreeSet<AttemptId>,
    pub(crate) live: Live,
    /// The same of an incarnation before the present one.
    pub(crate) former_lease_until: Micros,
    watched: Option<Micros>,
    /// What the newest turn that touched it found.
    found: Option<(u64, Before)>,
}

/// What is known of an agent only as long as this process lives.
#[derive(Debug, Clone, Default)]
pub(crate) struct Live {
    pub(crate) opening: Option<Opening>,
    pub(crate) session: Option<Session>,
    /// The session of a second holder of its identity.
    pub(crate) rival: Option<Rival>,
    pub(crate) hello: Option<Hello>,
    pub(crate) heartbeat: Option<Heartbeat>,
    pub(crate) last_heard: Option<Micros>,
    /// Assigned attempts that surely did not reach it: to be sent as soon as it takes work.
    pub(crate) unsent: BTreeSet<AttemptId>,
    /// What it was shown, because it only observes, and has not answered.
    pub(crate) shown: BTreeMap<AttemptId, Open>,
    pub(crate) pace: Pace,
}

/// How long its tasks took lately, on average, with what a slot needs from one to the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    us: u64,
}

impl Default for Pace {
    /// Long, until short ones are seen.
    fn default() -> Self {
        Self { us: 1_000_000 }
    }
}

impl Pace {
    /// One more task has taken so long: it counts for a quarter.
    pub(crate) fn took(&mut self, duration_ms: u64) {
        let us = duration_ms.saturating_add(1).saturating_mul(1000);
        self.us = self.us - self.us / 4 + us / 4;
    }
}

/// An agent's live part before a turn touched it: needed only if the turn's commit fails.
#[derive(Debug, Clone)]
pub(crate) struct Before {
    pub(crate) live: Live,
    command_seq: CommandSeq,
}

impl Live {
    pub(crate) fn conns(&self) -> impl Iterator<Item = Conn> {
        let opening = self.opening.as_ref().map(|opening| opening.conn);
        opening
            .into_iter()
            .chain(self.session.as_ref().map(|session| session.conn))
            .chain(self.rival.as_ref().map(|rival| rival.conn))
    }
}

/// What keeps an agent from taking work now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Obstacle {
    Removed,
    /// Its identity has two holders.
    Quarantined,
    Never,
    Gone,
    Stale,
    Reconciling,
    NoLease,
    Hold,
    Paused,
    /// From here.
    Drained,
    Cordoned,
    /// By its site.
    Draining,
    Observe,
    NoCatalogue,
}

impl Agent {
    /// As of now every agent counts as heard and as granted a full lease: a former process may have done both.
    pub(crate) fn new(record: AgentRecord, now: Micros, settings: &Settings) -> Self {
        let presence = match (record.removed, record.session_epoch.0) {
            (true, _) => Presence::Removed,
            (false, 0) => Presence::Enrolled,
            (false, _) => Presence::Live,
        };
        let offers = record
            .catalogue
            .iter()
            .flat_map(|catalogue| &catalogue.entries);
        Self {
            offers: offers.map(|entry| (entry.hash, *entry)).collect(),
            presence,
            heard: now,
            lease_until: now.plus(settings.lease),
            held: BTreeSet::new(),
            live: Live::default(),
            watched: None,
            found: None,
            former_lease_until: now.plus(settings.lease),
            record,
        }
    }

    /// Remembers the live part before this turn changes it.
    pub(crate) fn remember(&mut self, turn: u64) {
        if self
            .found
            .as_ref()
            .is_none_or(|(found_in, _)| *found_in != turn)
        {
            self.found = Some((
                turn,
                Before {
                    live: self.live.clone(),
                    command_seq: self.record.command_seq,
                },
            ));
        }
    }

    /// The live part as it was before this turn.
    pub(crate) fn before(self, turn: u64) -> Before {
        match self.found {
            Some((found_in, before)) if found_in == turn => before,
            Some(_) | None => Before {
                live: self.live,
                command_seq: self.record.command_seq,
            },
        }
    }

    /// Goes on with the connections of a former state of this agent; gives those that cannot. A session goes on if it
    /// is still the durable one and no command is durable that was never spoken on it.
    pub(crate) fn resume(
        &mut self,
        was: Before,
        open: &BTreeMap<Conn, TenantName>,
        attempts: &BTreeMap<AttemptId, AttemptRecord>,
    ) -> Vec<Conn> {
        self.live = was.live;
        self.live
            .opening
            .take_if(|opening| !open.contains_key(&opening.conn));
        self.live
            .session
            .take_if(|session| !open.contains_key(&session.conn));
        let assigned = |id: &AttemptId| {
            attempts
                .get(id)
                .is_some_and(|attempt| attempt.phase == Phase::Assigned)
        };
        self.live.unsent.retain(assigned);
        let decided = self.record.standing.quarantine.is_none();
        self.live
            .rival
            .take_if(|rival| !open.contains_key(&rival.conn));
        let rival = self.live.rival.take_if(|_| decided);
        let record = &self.record;
        let unspoken = was.command_seq != record.command_seq;
        let ended = self
            .live
            .session
            .take_if(|session| unspoken || session.epoch != record.session_epoch);
        let ended = ended.into_iter().map(|session| session.conn);
        ended.chain(rival.map(|rival| rival.conn)).collect()
    }

    /// The catalogue's entry of this name.
    pub(crate) fn offer(&self, entry: &EntryName) -> Option<&CatalogueEntry> {
        self.offers
            .get(&EntryHash::new(&self.record.spiffe_id, entry))
    }

    /// Whether directives can be sent now.
    pub(crate) fn ready(&self) -> Option<&Session> {
        self.live
            .session
            .as_ref()
            .filter(|session| matches!(session.stage, Stage::Ready))
    }

    /// Why it takes no work now; `None` when it does.
    pub(crate) fn obstacle(&self, now: Micros) -> Option<Obstacle> {
        match self.presence {
            Presence::Removed => return Some(Obstacle::Removed),
            _ if self.record.standing.quarantine.is_some() => return Some(Obstacle::Quarantined),
            Presence::Enrolled => return Some(Obstacle::Never),
            Presence::Stale => return Some(Obstacle::Stale),
            Presence::Live => {}
        }
        let Some(session) = &self.live.session else {
            return Some(Obstacle::Gone);
        };
        if !matches!(session.stage, Stage::Ready) {
            return Some(Obstacle::Reconciling);
        }
        let flags = self
            .live
            .heartbeat
            .map(|heartbeat| heartbeat.flags)
            .unwrap_or_default();
        let obstacles = [
            (
                session.heartbeat.is_none() || self.lease_until <= now,
                Obstacle::NoLease,
            ),
            (
                flags.hold || self.record.standing.behind.is_some(),
                Obstacle::Hold,
            ),
            (flags.paused, Obstacle::Paused),
            (self.record.draining, Obstacle::Drained),
            (self.record.cordoned, Obstacle::Cordoned),
            (flags.draining, Obstacle::Draining),
            (flags.observe, Obstacle::Observe),
            (self.record.catalogue.is_none(), Obstacle::NoCatalogue),
        ];
        obstacles
            .into_iter()
            .find(|(holds, _)| *holds)
            .map(|(_, obstacle)| obstacle)
    }

    /// Attempts it may hold. Below its own slots a limit counts without a backlog: what it holds, it may start.
    pub(crate) fn capacity(&self, settings: &Settings) -> u16 {
        let Some(hello) = &self.live.hello else {
            return 0;
        };
        match self.record.slots_limit {
            Some(limit) if limit < hello.slots => limit,
            Some(_) | None => settings.capacity(hello.slots, self.live.pace.us),
        }
    }

    /// Further attempts it could be given.
    pub(crate) fn room(&self, settings: &Settings) -> u16 {
        let held = u16::try_from(self.held.len()).unwrap_or(u16::MAX);
        self.capacity(settings).saturating_sub(held)
    }

    /// When no earlier lease can make it start this attempt, and what ends alone out of touch has ended.
    pub(crate) fn surely_idle(&self, settings: &Settings, attempt: &AttemptRecord) -> Micros {
        let lease_until = if attempt.incarnation == self.record.incarnation {
            self.lease_until
        } else {
            self.former_lease_until
        };
        let lease_over = lease_until.plus(settings.lease_margin);
        lease_over.plus_ms(u64::from(attempt.ends_alone_s.unwrap_or(0)) * 1000)
    }

    pub(crate) fn view(&self) -> AgentView {
        AgentView {
            agent: self.record.agent.clone(),
            presence: self.presence,
            last_heard: self.live.last_heard.map(|at| at.0),
            enrolled_at: self.record.enrolled_at,
            connected: self.live.session.is_some(),
            certificate_not_after: self.record.certificate_not_after,
            hello: self.live.hello.clone(),
            heartbeat: self.live.heartbeat,
            entries: self.offers.len(),
            attempts: self.held.len(),
            labels: self.record.labels.clone(),
            queues: self.record.queues.clone(),
            slots_limit: self.record.slots_limit,
            cordoned: self.record.cordoned,
            draining: self.record.draining,
            holders: self.holders(),
            held_back: self.record.standing.behind.is_some(),
        }
    }
}

/// Seconds out of touch after which an attempt under this entry has ended by itself.
pub(crate) fn ends_alone_s(entry: &CatalogueEntry) -> Option<u32> {
    match entry.on_disconnect {
        OnDisconnect::Continue => None,
        OnDisconnect::StopAfter(seconds) => Some(seconds.saturating_add(u32::from(entry.grace_s))),
    }
}

impl Tenant {
    /// An agent said something just now.
    pub(crate) fn heard(&mut self, ctx: &mut Ctx<'_>, name: &AgentName) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        agent.heard = ctx.now;
        agent.live.last_heard = Some(ctx.now);
        let was = std::mem::replace(&mut agent.presence, Presence::Live);
        let unexpected = agent.record.standing.away.take().is_some();
        if unexpected {
            self.places.changed.insert(name.clone());
        }
        if unexpected || was != Presence::Live {
            self.back(ctx, name);
        }
        if was != Presence::Live {
            ctx.notice(
                &self.record.tenant,
                NoticeKind::Agent {
                    agent: name.clone(),
                    presence: Presence::Live,
                },
            );
            self.arm(ctx, name);
        }
    }

    /// Sets the agent's next watch, unless an earlier one stands: that one looks again.
    pub(crate) fn arm(&mut self, ctx: &mut Ctx<'_>, name: &AgentName) {
        let Some(agent) = self.agents.get(name) else {
            return;
        };
        let next = match agent.presence {
            Presence::Removed | Presence::Enrolled => None,
            Presence::Live => Some(agent.heard.plus(ctx.settings.stale_after)),
            Presence::Stale => self.next_loss(ctx, agent),
        };
        let Some(next) = next else { return };
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        if agent.watched.is_some_and(|watched| watched <= next) {
            return;
        }
        if let Some(later) = agent.watched.replace(next) {
            self.timers.clear(later, Due::Watch(name.clone()));
        }
        self.timers.set(next, Due::Watch(name.clone()));
    }

    /// The watch fired: stale, lost, or heard in the meantime.
    pub(crate) fn watch(&mut self, ctx: &mut Ctx<'_>, name: &AgentName) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        agent.watched = None;
        match agent.presence {
            Presence::Removed | Presence::Enrolled => return,
            Presence::Live if agent.heard.plus(ctx.settings.stale_after) <= ctx.now => {
                agent.presence = Presence::Stale;
                let what = NoticeKind::Agent {
                    agent: name.clone(),
                    presence: Presence::Stale,
                };
                ctx.notice(&self.record.tenant, what);
                self.vanish(ctx, name);
                self.refresh(ctx, name);
            }
            Presence::Live => {}
            Presence::Stale => self.lose_silent(ctx, name),
        }
        self.arm(ctx, name);
    }

    /// Whether silence means nothing at the moment: most agents are gone at once, nobody knows yet what a restored
    /// database lacks, or which of two holders an attempt is with.
    fn gives_up_nothing(&self, ctx: &Ctx<'_>, agent: &Agent) -> bool {
        self.vanished.is_frozen()
            || self.is_recovering(ctx)
            || agent.record.standing.quarantine.is_some()
    }

    fn next_loss(&self, ctx: &Ctx<'_>, agent: &Agent) -> Option<Micros> {
        if self.gives_up_nothing(ctx, agent) {
            return None;
        }
        let held = agent.held.iter().filter_map(|id| self.attempts.get(id));
        held.filter(|attempt| attempt.retry_safe)
            .map(|attempt| lost_at(ctx, agent, attempt))
            .min()
    }

    fn lose_silent(&mut self, ctx: &mut Ctx<'_>, name: &AgentName) {
        let Some(agent) = self.agents.get(name) else {
            return;
        };
        if self.gives_up_nothing(ctx, agent) {
            return;
        }
        let held = agent.held.iter().filter_map(|id| self.attempts.get(id));
        let lost =
            held.filter(|attempt| attempt.retry_safe && lost_at(ctx, agent, attempt) <= ctx.now);
        let lost: Vec<AttemptId> = lost.map(|attempt| attempt.attempt).collect();
        for attempt in lost {
            // A held attempt is active, and from an active phase silence has exactly one way to go.
            let _ = self.observe(ctx, name, attempt, Observed::Silent);
            self.tell_to_end(ctx, name, attempt);
        }
    }
}

/// When a `retry_safe` attempt of a silent agent is given up: never before its agent can no longer start it, and never
/// before the time after which it has ended by itself.
fn lost_at(ctx: &Ctx<'_>, agent: &Agent, attempt: &AttemptRecord) -> Micros {
    let silent = agent.heard.plus(ctx.settings.lost_after);
    silent
        .max(ctx.lost_from)
        .max(agent.surely_idle(ctx.settings, attempt))
}
