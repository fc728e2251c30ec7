//! Most agents gone at once: the fault is hardly theirs, and what they run is not given up.
//!
//! Agents are counted when they turn stale. Once more than 55 in a hundred did within two minutes, nothing silent is
//! given up until nine in ten of them are back, or a person says so. The same counts over all tenants together, for each
//! that misses some; what is frozen only for that thaws once nine in ten of all agents are there, or for two minutes
//! fewer are gone than freeze anything, so that nobody waits for the few of another tenant, or of his own, that do not
//! come back.
//!
//! Who went alone, two minutes before any such thing, or was away when a freeze ended, is not expected any more: that is
//! durable, so that hosts which are gone for good do not look like a new outage after each restart. Who is away in a
//! freeze is expected still.

use std::collections::{BTreeMap, BTreeSet};

use outpost_driver::Micros;
use outpost_proto::name::AgentName;

use crate::agent::Agent;
use crate::event::{Answer, Denied};
use crate::limits::{BACK_BUT_ONE_IN, VANISH_LEAST, VANISH_PERCENT, VANISH_WITHIN};
use crate::record::{NoticeKind, Presence};
use crate::safety::Safety;
use crate::tenant::{Ctx, Due, Tenant};

/// Who is in touch, and who went lately.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vanished {
    /// Agents in touch.
    live: usize,
    /// Agents that turned stale lately and are not back.
    since: BTreeMap<AgentName, Micros>,
    by_time: BTreeSet<(Micros, AgentName)>,
    frozen: Option<Frozen>,
    /// More went, or came back, since this was asked last.
    changed: bool,
}

#[derive(Debug, Clone)]
struct Frozen {
    since: Micros,
    /// Of those that vanished, who is still away.
    away: BTreeSet<AgentName>,
    /// How many vanished.
    vanished: usize,
    /// Too few of this tenant's for a freeze, but together with those of the others.
    with_all: bool,
}

impl Vanished {
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Whether it is frozen only because most agents of all tenants went.
    pub(crate) fn is_frozen_with_all(&self) -> bool {
        self.frozen.as_ref().is_some_and(|frozen| frozen.with_all)
    }

    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(crate) fn frozen_since(&self) -> Option<Micros> {
        self.frozen.as_ref().map(|frozen| frozen.since)
    }

    /// An agent counts as in touch from the start, if it is expected.
    pub(crate) fn begins(&mut self, agent: &Agent) {
        if counts(agent) {
            self.live += 1;
        }
    }

    /// An agent is about not to be counted any more.
    pub(crate) fn gone(&mut self, name: &AgentName, agent: &Agent) {
        if counts(agent) {
            self.live = self.live.saturating_sub(1);
        }
        self.forget(name);
        self.changed = true;
        if let Some(frozen) = &mut self.frozen
            && frozen.away.remove(name)
        {
            // Neither back nor away: it counts no more.
            frozen.vanished -= 1;
        }
    }

    fn forget(&mut self, name: &AgentName) {
        if let Some(at) = self.since.remove(name) {
            self.by_time.remove(&(at, name.clone()));
        }
    }

    /// How many went lately, and how many were there before.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.since.len(), self.since.len() + self.live)
    }

    /// How many are expected and away, and how many are expected.
    pub(crate) fn missing(&self) -> (usize, usize) {
        let away = match &self.frozen {
            Some(frozen) => frozen.away.len(),
            None => self.since.len(),
        };
        (away, away + self.live)
    }

    /// Lets go of those that went too long ago to count.
    pub(crate) fn forget_old(&mut self, now: Micros) {
        while let Some((at, _)) = self.by_time.first()
            && at.plus(VANISH_WITHIN) < now
            && let Some((_, name)) = self.by_time.pop_first()
        {
            self.since.remove(&name);
        }
    }
}

fn counts(agent: &Agent) -> bool {
    agent.presence == Presence::Live && agent.record.standing.away.is_none()
}

/// Whether so many of so many are too many to be a matter of the agents.
pub(crate) fn is_mass(gone: usize, of: usize) -> bool {
    gone >= VANISH_LEAST && gone * 100 > of * VANISH_PERCENT
}

impl Tenant {
    /// An agent turned stale.
    pub(crate) fn vanish(&mut self, ctx: &mut Ctx<'_>, name: &AgentName) {
        let agent = self.agents.get(name);
        if agent.is_none_or(|agent| agent.record.standing.away.is_some()) {
            // It was away before this process began.
            return;
        }
        self.timers
            .set(ctx.now.plus(VANISH_WITHIN), Due::Away(name.clone()));
        let vanished = &mut self.vanished;
        vanished.live = vanished.live.saturating_sub(1);
        vanished.forget_old(ctx.now);
        vanished.forget(name);
        vanished.changed = true;
        vanished.since.insert(name.clone(), ctx.now);
        vanished.by_time.insert((ctx.now, name.clone()));
        if let Some(frozen) = &mut vanished.frozen {
            if frozen.away.insert(name.clone()) {
                frozen.vanished += 1;
            }
            return;
        }
        let (gone, of) = vanished.counts();
        if is_mass(gone, of) {
            self.freeze(ctx, (gone, of), false);
        }
    }

    /// An agent has been stale for so long that it did not go with those that went since.
    pub(crate) fn stays_away(&mut self, ctx: &Ctx<'_>, name: &AgentName) {
        let frozen = self.vanished.frozen.as_ref();
        if frozen.is_none_or(|frozen| !frozen.away.contains(name)) {
            self.is_not_expected(ctx, name);
        }
    }

    fn is_not_expected(&mut self, ctx: &Ctx<'_>, name: &AgentName) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        if agent.presence == Presence::Stale && agent.record.standing.away.is_none() {
            agent.record.standing.away = Some(ctx.now.0);
            self.places.changed.insert(name.clone());
        }
    }

    /// Gives up nothing silent from now on. `gone` of `of`: over this tenant, or `with_all` of them.
    pub(crate) fn freeze(&mut self, ctx: &mut Ctx<'_>, (gone, of): (usize, usize), with_all: bool) {
        if self.vanished.is_frozen() || self.vanished.since.is_empty() {
            return;
        }
        let away: BTreeSet<AgentName> = self.vanished.since.keys().cloned().collect();
        self.vanished.frozen = Some(Frozen {
            since: ctx.now,
            vanished: away.len(),
            away,
            with_all,
        });
        let reason = format!("{gone} of {of} agents went within two minutes");
        self.tell_standstill(ctx, Safety::Frozen, None, Some(reason));
    }

    /// Most agents of all tenants are there again. Where most of this one's are not, it waits for its own alone.
    pub(crate) fn thaw_with_all(&mut self, ctx: &mut Ctx<'_>) {
        let (away, of) = self.vanished.missing();
        let Some(frozen) = self.vanished.frozen.as_mut() else {
            return;
        };
        if is_mass(away, of) {
            frozen.with_all = false;
        } else if frozen.with_all {
            self.thaw(ctx, None);
            self.settle(ctx);
        }
    }

    /// An agent is in touch that was not.
    pub(crate) fn back(&mut self, ctx: &mut Ctx<'_>, name: &AgentName) {
        self.vanished.live += 1;
        self.vanished.changed = true;
        self.vanished.forget(name);
        if let Some(frozen) = &mut self.vanished.frozen {
            frozen.away.remove(name);
        }
        self.thaw_if_back(ctx);
    }

    /// Of those that vanished, one is back, or counts no more.
    pub(crate) fn thaw_if_back(&mut self, ctx: &mut Ctx<'_>) {
        let frozen = self.vanished.frozen.as_ref();
        if frozen.is_some_and(|frozen| frozen.away.len() * BACK_BUT_ONE_IN <= frozen.vanished) {
            self.thaw(ctx, None);
        }
    }

    /// A person says that silence means what it always does.
    pub(crate) fn unfreeze(&mut self, ctx: &mut Ctx<'_>, by: &str) -> Result<Answer, Denied> {
        if !self.vanished.is_frozen() {
            return Err(Denied::NotFrozen);
        }
        self.thaw(ctx, Some(by));
        Ok(Answer::Recovery(self.recovery_view(ctx)))
    }

    fn thaw(&mut self, ctx: &mut Ctx<'_>, by: Option<&str>) {
        let vanished = &mut self.vanished;
        let frozen = vanished.frozen.take();
        // Those that are still away were counted once.
        vanished.since.clear();
        vanished.by_time.clear();
        for name in frozen.into_iter().flat_map(|frozen| frozen.away) {
            self.is_not_expected(ctx, &name);
        }
        self.tell_standstill(ctx, Safety::Unfrozen, by, None);
        self.arm_all(ctx);
    }

    /// What was frozen can be given up again.
    pub(crate) fn arm_all(&mut self, ctx: &mut Ctx<'_>) {
        let names: Vec<AgentName> = self.agents.keys().cloned().collect();
        for name in names {
            self.arm(ctx, &name);
        }
    }

    /// Tells whoever watches what holds the whole tenant's work back, or does so no longer.
    pub(crate) fn tell_standstill(
        &self,
        ctx: &mut Ctx<'_>,
        what: Safety,
        by: Option<&str>,
        reason: Option<String>,
    ) {
        let notice = NoticeKind::Safety {
            what,
            agent: None,
            attempt: None,
            by: by.map(str::to_owned),
            reason,
        };
        ctx.notice(&self.record.tenant, notice);
    }
}
