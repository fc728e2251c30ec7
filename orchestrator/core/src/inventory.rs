//! What an agent holds and remembers, told in pages, and what follows from it: one reconcile at the end marker.
//!
//! Until then nothing of it is believed: a stream that is cut in the middle changes nothing. Of what an agent remembers
//! only what can matter here is kept until the end, so that a page costs no memory for outcomes of old runs.

use std::collections::BTreeSet;
use std::sync::Arc;

use outpost_proto::ids::{AttemptId, EventSeq, Fence, Incarnation};
use outpost_proto::limits::{HELD_ATTEMPTS, REMEMBERED};
use outpost_proto::message::{AttemptState, Directive, InventoryItem, InventoryPage};
use outpost_proto::name::AgentName;

use crate::attempt::Seen;
use crate::command::Reply;
use crate::event::Alarm;
use crate::record::{AttemptRecord, Phase};
use crate::session::{Offence, Stage};
use crate::standing::confirm;
use crate::state::Observed;
use crate::tenant::{Ctx, Tenant, is_active};

/// An inventory as far as it has come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    /// What it holds.
    held: Vec<InventoryItem>,
    /// Outcomes that it remembers, by page, told after a restore: those of attempts or runs that are known here. They
    /// are many, and what is live of an agent is copied with each turn: the pages are not.
    memories: Vec<Arc<[InventoryItem]>>,
    /// Whose of them are known here. What is told of one once more says nothing.
    known: BTreeSet<AttemptId>,
    /// How many outcomes it told.
    remembered: usize,
    /// The highest fence of those that are not kept.
    highest: Fence,
}

impl Listing {
    #[cfg(test)]
    pub(crate) fn memories(&self) -> &[Arc<[InventoryItem]>] {
        &self.memories
    }

    /// Whether it told as many outcomes as any agent remembers: what it lacks it may have forgotten.
    pub(crate) fn is_full(&self) -> bool {
        self.remembered >= REMEMBERED
    }
}

impl Tenant {
    pub(crate) fn inventory(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        page: &InventoryPage,
        reply: &mut Reply,
    ) -> Result<(), Offence> {
        let Some(agent) = self.agents.get_mut(name) else {
            return Ok(());
        };
        let Some(session) = &mut agent.live.session else {
            return Ok(());
        };
        let Stage::Listing(listing) = &mut session.stage else {
            return Ok(());
        };
        // What is not known is taken in only of those who are waited for.
        let is_awaited = self.awaited.contains(name);
        let mut memories = Vec::new();
        for item in &page.items {
            // Told once more, and known by now, if the agent did not hear that its inventory was taken.
            if item.event_seq != EventSeq(0) || !is_over(item) {
                listing.held.push(*item);
                continue;
            }
            listing.remembered += 1;
            if let Some(known) = self.attempts.get(&item.attempt) {
                echoes(known, name, item)?;
                if listing.known.insert(item.attempt) {
                    memories.push(*item);
                }
            } else if is_awaited && self.runs.contains_key(&item.run) {
                memories.push(*item);
            } else {
                listing.highest = listing.highest.max(item.fence);
            }
        }
        if !memories.is_empty() {
            listing.memories.push(memories.into());
        }
        let all = listing.held.len() + listing.remembered;
        let expected = page
            .end
            .map(|end| usize::try_from(end).unwrap_or(usize::MAX));
        if listing.held.len() > HELD_ATTEMPTS
            || listing.remembered > REMEMBERED
            || expected.is_some_and(|expected| expected != all)
        {
            return Err(Alarm::InventoryCount.into());
        }
        if expected.is_none() {
            return Ok(());
        }
        let listing = std::mem::take(listing);
        match self.began_elsewhere(name, &listing) {
            Some(began) => self.came_first(ctx, name, began, all, reply),
            None => self.listed(ctx, name, &listing, reply)?,
        }
        Ok(())
    }

    /// Whether it holds as not begun what its agent told to be running, so that there are two; gives the incarnation
    /// under which it runs. Not if that is known already.
    fn began_elsewhere(&self, name: &AgentName, listing: &Listing) -> Option<Incarnation> {
        let standing = &self.agents.get(name)?.record.standing;
        let known = |item: &InventoryItem| {
            let known = self.attempts.get(&item.attempt);
            known.filter(|known| echoes(known, name, item).is_ok() && has_begun(known))
        };
        let waits = |item: &&InventoryItem| item.state == AttemptState::Assigned;
        let began = listing.held.iter().filter(waits).find_map(known)?;
        let elsewhere = standing.may_be_with_another(began.incarnation, began.assigned_at);
        (standing.quarantine.is_none() && !elsewhere).then_some(began.incarnation)
    }

    /// The inventory is complete.
    fn listed(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        listing: &Listing,
        reply: &mut Reply,
    ) -> Result<(), Offence> {
        let Some(agent) = self.agents.get_mut(name) else {
            return Ok(());
        };
        let Some(session) = &mut agent.live.session else {
            return Ok(());
        };
        session.stage = Stage::Ready;
        let owed = session
            .heartbeat
            .filter(|_| agent.record.standing.quarantine.is_none());
        // The end marker confirms the nonce of this session's Welcome.
        confirm(&mut agent.record.nonces);
        self.places.changed.insert(name.clone());
        self.reconcile(ctx, name, listing, reply)?;
        if owed.is_some() {
            reply.lease = owed;
        }
        reply.ack = true;
        Ok(())
    }

    /// One agent's complete inventory against what is believed of it: one transaction, then the directives.
    pub(crate) fn reconcile(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        listing: &Listing,
        reply: &mut Reply,
    ) -> Result<(), Alarm> {
        let memories = || listing.memories.iter().flat_map(|page| page.iter());
        for item in memories().chain(&listing.held) {
            self.matches(name, item)?;
        }
        self.follow_fence(ctx, name, listing.highest);
        for item in memories() {
            self.listed_item(ctx, name, item)?;
        }
        let mut in_order: Vec<&InventoryItem> = listing.held.iter().collect();
        in_order.sort_by_key(|item| item.event_seq);
        for item in in_order {
            self.listed_item(ctx, name, item)?;
            self.applied(name, item.event_seq);
        }
        for item in &listing.held {
            let directive = self.directive(ctx, name, item);
            self.direct(ctx, name, directive, reply);
        }
        self.miss(ctx, name, listing)?;
        self.reported(ctx, name, listing);
        self.tell_to_rekey(ctx, name, reply);
        self.tell_gate_again(ctx, name, reply);
        self.direct(ctx, name, Directive::Reconciled, reply);
        Ok(())
    }

    /// One item of an inventory. What the kept one of two equal holders has not started, the other one may have: it is
    /// given up. What a restored database does not know is taken in.
    fn listed_item(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        item: &InventoryItem,
    ) -> Result<(), Alarm> {
        let standing = self.agents.get(name).map(|agent| &agent.record.standing);
        let known = self
            .attempts
            .get(&item.attempt)
            .filter(|known| is_active(known));
        let elsewhere = standing.zip(known).is_some_and(|(standing, known)| {
            standing.may_be_with_another(known.incarnation, known.assigned_at)
        });
        let two = standing.is_some_and(|standing| standing.quarantine.is_some());
        let waits = item.state == AttemptState::Assigned;
        let seen = if elsewhere && waits {
            self.observe(ctx, name, item.attempt, Observed::AbsentElsewhere)?
        } else if two && waits && known.is_some_and(has_begun) {
            // With the other one.
            Seen::Known
        } else {
            self.told(ctx, name, item.attempt, item.state)?
        };
        if seen == Seen::Unknown && self.awaited.contains(name) {
            self.adopt_attempt(ctx, name, item)?;
        }
        Ok(())
    }

    fn matches(&self, name: &AgentName, item: &InventoryItem) -> Result<(), Alarm> {
        let known = self.attempts.get(&item.attempt);
        known.map_or(Ok(()), |known| echoes(known, name, item))
    }

    fn directive(&self, ctx: &Ctx<'_>, name: &AgentName, item: &InventoryItem) -> Directive {
        let id = item.attempt;
        let begun = match item.state {
            // Its outcome is durable with this transaction: nothing more is to be said about it.
            AttemptState::Finished(_) => return Directive::Forget(id),
            AttemptState::Starting | AttemptState::Running => true,
            AttemptState::Assigned => false,
        };
        match self.attempts.get(&id) {
            None if self.may_go_on(ctx, name, id) => Directive::Keep(id),
            None => Directive::Forget(id),
            Some(attempt) if is_active(attempt) && !attempt.cancel_requested => Directive::Keep(id),
            Some(attempt) if begun && self.is_still_wanted(attempt) => Directive::Keep(id),
            // Asked to end, or given up: nobody waits for it any more.
            Some(_) => Directive::Cancel(id),
        }
    }

    /// Whether the task of an attempt that was given up still waits for it: nobody may make another one.
    fn is_still_wanted(&self, attempt: &AttemptRecord) -> bool {
        matches!(attempt.phase, Phase::Lost { .. })
            && attempt.asserted.is_none()
            && !attempt.cancel_requested
            && self.waits_for(attempt) == Some(false)
    }

    /// What the agent should hold and does not list. Absence never means delete: it means never arrived, or lost.
    fn miss(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        listing: &Listing,
    ) -> Result<(), Alarm> {
        let Some(agent) = self.agents.get(name) else {
            return Ok(());
        };
        let listed: BTreeSet<AttemptId> = listing.held.iter().map(|item| item.attempt).collect();
        let missing: Vec<AttemptId> = agent.held.difference(&listed).copied().collect();
        for id in missing {
            let Some(attempt) = self.attempts.get(&id) else {
                continue;
            };
            let forgot = self.may_be_forgotten(ctx, attempt, listing);
            let cancelled = attempt.cancel_requested;
            match self.lacks(ctx, name, id, forgot)? {
                Seen::Unsent if cancelled => self.withdraw(ctx, id),
                Seen::Unsent if self.is_drained(name) => self.turn_away(ctx, id),
                Seen::Unsent => {
                    if let Some(agent) = self.agents.get_mut(name) {
                        agent.live.unsent.insert(id);
                    }
                }
                Seen::Known | Seen::Unknown => {}
            }
        }
        Ok(())
    }
}

/// An attempt's agent, run, task and fence were chosen here and are only echoed.
fn echoes(known: &AttemptRecord, name: &AgentName, item: &InventoryItem) -> Result<(), Alarm> {
    if known.agent != *name {
        return Err(Alarm::ForeignAttempt);
    }
    let echoed = known.run == item.run && known.task == item.task && known.fence == item.fence;
    if echoed {
        Ok(())
    } else {
        Err(Alarm::ImpossibleEvent)
    }
}

/// Whether its agent told that it was begun, and not that it is over.
fn has_begun(attempt: &AttemptRecord) -> bool {
    match attempt.phase {
        Phase::Starting | Phase::Running => true,
        Phase::Assigned | Phase::Accepted | Phase::Finished { .. } | Phase::Lost { .. } => false,
    }
}

/// Whether an item tells of an attempt's end.
fn is_over(item: &InventoryItem) -> bool {
    match item.state {
        AttemptState::Finished(_) => true,
        AttemptState::Assigned | AttemptState::Starting | AttemptState::Running => false,
    }
}
