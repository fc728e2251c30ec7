//! What an agent says of a life before its present one.
//!
//! An agent that comes back as another incarnation says that what it held is interrupted, or lacks it: its host was
//! rebooted. A copy of it on another host says the same of what the original still runs. Who presents the expected nonce
//! may be either; the chain tells the two apart once the original speaks again, which it does at once, because its
//! session was ended by the other's Hello. So:
//!
//! * Was the former incarnation not heard within the presence timeout, its end is believed at once.
//! * Was it, then what is told of its attempts is kept, and believed one presence timeout after the new one's Hello. If a
//!   second holder appears before that, the attempts stay as they were until a person decides.
//! * While there are two holders, neither the absence of an attempt nor the interruption of another life is knowledge.
//!   The known one's word of an interruption is acknowledged, so it is kept: once a person decided that this one stays, it
//!   is believed one presence timeout later, unless a holder under that life was seen.
//! * Once a person decided, what was assigned under the life that was decided against may run there for ever: for the
//!   one that stays it is absent elsewhere, so given up, and tried again only if its entry is `retry_safe`.
//!
//! What no task waits for, because a later attempt took its place, is believed at once: nothing follows from it. Ends of
//! any other kind are taken as they come: an agent only tells them of what it saw itself. An original that was out
//! of touch for longer than the presence timeout cannot be told from one that was rebooted.

use std::collections::BTreeMap;

use outpost_driver::Micros;
use outpost_proto::ids::AttemptId;
use outpost_proto::message::AttemptState;
use outpost_proto::name::AgentName;
use outpost_proto::outcome::{Outcome, Report};

use crate::agent::Agent;
use crate::attempt::Seen;
use crate::event::Alarm;
use crate::record::{AttemptRecord, Presence};
use crate::standing::Doubt;
use crate::state::Observed;
use crate::tenant::{Ctx, Due, Tenant};

/// What it is worth that an agent lacks an attempt, or says that it was interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Worth {
    /// It is so.
    Knowledge,
    /// It may be so: the time tells.
    Doubtful,
    /// Nobody knows which holder it is with.
    Nothing,
    /// It may be with a holder that was decided against.
    Elsewhere,
}

impl Agent {
    /// Its present life was told by this Hello: if it is another one than before, while that was still heard, nothing is
    /// believed of that for a while. Gives until when.
    pub(crate) fn lives_anew(
        &mut self,
        now: Micros,
        silence: std::time::Duration,
    ) -> Option<Micros> {
        self.former_lease_until = self.lease_until;
        if self.presence != Presence::Live {
            return None;
        }
        let until = now.plus(silence);
        let doubt = self.record.standing.doubt.get_or_insert_default();
        doubt.until = until.0;
        Some(until)
    }

    fn worth(&self, attempt: &AttemptRecord) -> Worth {
        let standing = &self.record.standing;
        if standing.may_be_with_another(attempt.incarnation, attempt.assigned_at) {
            Worth::Elsewhere
        } else if standing.quarantine.is_some() {
            Worth::Nothing
        } else if attempt.incarnation == self.record.incarnation || standing.doubt.is_none() {
            Worth::Knowledge
        } else {
            Worth::Doubtful
        }
    }
}

impl Tenant {
    /// An agent says where one of its attempts stands.
    pub(crate) fn told(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        id: AttemptId,
        state: AttemptState,
    ) -> Result<Seen, Alarm> {
        let said = Observed::Said(state);
        let Some(report) = interruption(state) else {
            return self.observe(ctx, name, id, said);
        };
        let of_another_life = |agent: &&Agent| {
            let attempt = self.attempts.get(&id);
            attempt.is_some_and(|attempt| {
                attempt.agent == *name && attempt.incarnation != agent.record.incarnation
            })
        };
        match self.agents.get(name).filter(of_another_life) {
            Some(_) => self.of_former_life(ctx, name, id, Some(report), said),
            None => self.observe(ctx, name, id, said),
        }
    }

    /// An agent's complete inventory lacks one of its attempts. `forgot`: it may just not remember it.
    pub(crate) fn lacks(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        id: AttemptId,
        forgot: bool,
    ) -> Result<Seen, Alarm> {
        let (agent, attempt) = (self.agents.get(name), self.attempts.get(&id));
        let same_life = agent
            .zip(attempt)
            .is_some_and(|(agent, attempt)| agent.record.incarnation == attempt.incarnation);
        let observed = if same_life && !forgot {
            Observed::Absent
        } else {
            Observed::AbsentElsewhere
        };
        self.of_former_life(ctx, name, id, None, observed)
    }

    /// What may be of a former life is taken for what it is worth.
    fn of_former_life(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        id: AttemptId,
        end: Option<Report>,
        otherwise: Observed,
    ) -> Result<Seen, Alarm> {
        let (Some(agent), Some(attempt)) = (self.agents.get(name), self.attempts.get(&id)) else {
            return Ok(Seen::Unknown);
        };
        match agent.worth(attempt) {
            Worth::Knowledge => self.observe(ctx, name, id, otherwise),
            // Nothing follows from it.
            Worth::Doubtful if self.waits_for(attempt).is_none() => {
                self.observe(ctx, name, id, otherwise)
            }
            Worth::Elsewhere => self.observe(ctx, name, id, Observed::AbsentElsewhere),
            Worth::Nothing => {
                let agent = self.agents.get_mut(name);
                let quarantine = agent.and_then(|agent| agent.record.standing.quarantine.as_mut());
                if let (Some(quarantine), Some(report)) = (quarantine, end) {
                    quarantine.told.entry(id).or_insert(report);
                    self.places.changed.insert(name.clone());
                }
                Ok(Seen::Known)
            }
            Worth::Doubtful => {
                let agent = self.agents.get_mut(name);
                let doubt = agent.and_then(|agent| agent.record.standing.doubt.as_mut());
                if let Some(doubt) = doubt {
                    let told = doubt.told.entry(id).or_default();
                    *told = end.or(*told);
                    self.places.changed.insert(name.clone());
                }
                Ok(Seen::Known)
            }
        }
    }

    /// No second holder has appeared for so long that there is none: what was told of the former life is believed.
    pub(crate) fn believe(&mut self, ctx: &mut Ctx<'_>, name: &AgentName) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        let over = |doubt: &mut Doubt| doubt.until <= ctx.now.0;
        let Some(doubt) = agent.record.standing.doubt.take_if(over) else {
            return;
        };
        self.places.changed.insert(name.clone());
        let present = agent.record.incarnation;
        for (id, end) in doubt.told {
            let attempt = self.attempts.get(&id);
            if attempt.is_some_and(|attempt| attempt.incarnation != present) {
                self.is_as_told(ctx, name, id, end);
            }
        }
    }

    /// What the known holder told in the time in which there were two, and a person decided that it stays: it was
    /// acknowledged, and is believed as after any other return, because yet another holder may come.
    pub(crate) fn told_in_quarantine(
        &mut self,
        ctx: &Ctx<'_>,
        name: &AgentName,
        told: BTreeMap<AttemptId, Report>,
    ) {
        let Some(agent) = self.agents.get_mut(name).filter(|_| !told.is_empty()) else {
            return;
        };
        let until = ctx.now.plus(ctx.settings.stale_after);
        let doubt = agent.record.standing.doubt.get_or_insert_default();
        doubt.until = doubt.until.max(until.0);
        doubt
            .told
            .extend(told.into_iter().map(|(id, report)| (id, Some(report))));
        self.timers.set(until, Due::Doubt(name.clone()));
    }

    /// Another attempt took the place of this one at its task: nothing follows from its end any more.
    pub(crate) fn doubts_no_more(&mut self, ctx: &mut Ctx<'_>, id: AttemptId) {
        let attempt = self.attempts.get(&id);
        let Some(name) = attempt.map(|attempt| attempt.agent.clone()) else {
            return;
        };
        let agent = self.agents.get_mut(&name);
        let doubt = agent.and_then(|agent| agent.record.standing.doubt.as_mut());
        if let Some(end) = doubt.and_then(|doubt| doubt.told.remove(&id)) {
            self.places.changed.insert(name.clone());
            self.is_as_told(ctx, &name, id, end);
        }
    }

    fn is_as_told(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        id: AttemptId,
        end: Option<Report>,
    ) {
        let (agent, attempt) = (self.agents.get(name), self.attempts.get(&id));
        let elsewhere = agent.zip(attempt).is_some_and(|(agent, attempt)| {
            let standing = &agent.record.standing;
            standing.may_be_with_another(attempt.incarnation, attempt.assigned_at)
        });
        let observed = match end {
            Some(report) if !elsewhere => Observed::Said(AttemptState::Finished(report)),
            Some(_) | None => Observed::AbsentElsewhere,
        };
        // What has ended meanwhile is known better.
        let _ = self.observe(ctx, name, id, observed);
    }

    /// Whoever might still come has had no chance to while this process was not there.
    pub(crate) fn doubts_again(&mut self, ctx: &Ctx<'_>, name: &AgentName) {
        let agent = self.agents.get(name);
        if let Some(doubt) = agent.and_then(|agent| agent.record.standing.doubt.as_ref()) {
            let until = Micros(doubt.until).max(ctx.now.plus(ctx.settings.stale_after));
            self.timers.set(until, Due::Doubt(name.clone()));
        }
    }
}

/// The report of an attempt that was interrupted, if that is what is said.
pub(crate) fn interruption(state: AttemptState) -> Option<Report> {
    match state {
        AttemptState::Finished(report) => {
            matches!(report.outcome, Outcome::Interrupted(_)).then_some(report)
        }
        AttemptState::Assigned | AttemptState::Starting | AttemptState::Running => None,
    }
}
