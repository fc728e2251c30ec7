//! A person who watches over a tenant and decides what only people decide: which of two holders stays, that work goes on
//! without agents that are not back after a restore, that silence means what it always does, and that an attempt is over
//! of which nothing is heard. The last is true most of the time, and sometimes it is not.

use std::collections::BTreeSet;

use outpost_orchestrator_core::record::{AttemptRecord, Phase};
use outpost_proto::ids::AttemptId;
use outpost_proto::name::TenantName;

use crate::clients::Want;
use crate::keeper;
use crate::queue::{MINUTE, SECOND};
use crate::records::active;
use crate::trace::note;
use crate::world::{Happening, World};

/// From then on, after the faults, a diligent person decides about everything that waits for one.
const DILIGENT_FROM: u64 = 10 * MINUTE;

/// What people said.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// Attempts that somebody said were over and of which nobody could be sure: they ran, or might have begun.
    risky: BTreeSet<AttemptId>,
    /// And those that truly were.
    truly: BTreeSet<AttemptId>,
    /// Tenants that go on without the agents of whom a restored database waits to hear, and in which life of it.
    continued: BTreeSet<(TenantName, u32)>,
    /// Somebody looks now and then.
    looking: bool,
}

impl Said {
    pub(crate) fn is_risky(&self, attempt: AttemptId) -> bool {
        self.risky.contains(&attempt)
    }
}

impl World {
    /// Somebody begins to look, if nobody does.
    pub(crate) fn person_looks_soon(&mut self) {
        if !std::mem::replace(&mut self.said.looking, true) {
            self.queue
                .put(self.now + 30 * SECOND, Happening::PersonLooks);
        }
    }

    /// Somebody looks at everything, and does something about a little of it.
    pub(crate) fn person_looks(&mut self) {
        let at = self.now + self.dice.between(30 * SECOND, 90 * SECOND);
        self.queue.put(at, Happening::PersonLooks);
        self.decide_who_stays();
        if !self.plan.person {
            return;
        }
        let after = self.now > self.plan.quiet_from + DILIGENT_FROM;
        if after {
            return self.decide_everything();
        }
        let tenants: Vec<TenantName> = self.center.disk.mirror.tenants.keys().cloned().collect();
        for tenant in tenants {
            if self.is_waiting_after_a_restore(&tenant) && self.dice.percent(10) {
                self.want(&tenant, Want::Continue);
            }
            if self.dice.percent(3) {
                self.want(&tenant, Want::Unfreeze);
            }
            if self.dice.percent(15) {
                self.say_that_one_is_over(&tenant);
            }
        }
    }

    pub(crate) fn is_waiting_after_a_restore(&self, tenant: &TenantName) -> bool {
        let mirror = &self.center.disk.mirror;
        let life = mirror.recovery.counter;
        let goes_on = mirror.tenants.get(tenant);
        goes_on.is_some_and(|record| record.continued < life)
            && mirror.agents.values().any(|agent| {
                agent.tenant == *tenant && !agent.removed && agent.standing.reported < life
            })
    }

    /// Nothing of this attempt lives anywhere, and nobody can still begin it.
    fn is_truly_over(&self, attempt: AttemptId) -> bool {
        let lives = |phase| match phase {
            keeper::Phase::Requested
            | keeper::Phase::Waits
            | keeper::Phase::Forked
            | keeper::Phase::Running => true,
            keeper::Phase::Over | keeper::Phase::Dead => false,
        };
        let kept = |site: &crate::site::Site| {
            let keeper = site.keepers.get(&attempt);
            keeper.is_some_and(|keeper| lives(keeper.phase))
        };
        self.truth.starts.contains_key(&attempt) && !self.sites.iter().any(kept)
    }

    fn say_that_one_is_over(&mut self, tenant: &TenantName) {
        let wrongly = self.dice.percent(15);
        let attempts = self.center.disk.mirror.attempts.values();
        let open = attempts.filter(|attempt| {
            let known = active(attempt) || unheard(attempt);
            attempt.tenant == *tenant && known && attempt.asserted.is_none()
        });
        let ids: Vec<AttemptId> = open
            .map(|attempt| attempt.attempt)
            .filter(|attempt| wrongly || self.is_truly_over(*attempt))
            .collect();
        if !ids.is_empty() {
            let attempt = ids[self.dice.below(ids.len())];
            self.want(tenant, Want::AssertDead(attempt));
        }
    }

    /// Every attempt of which nobody knows the end, somebody went there and looked; and agents that say nothing are not
    /// waited for any longer.
    fn decide_everything(&mut self) {
        let tenants: Vec<TenantName> = self.center.disk.mirror.tenants.keys().cloned().collect();
        for tenant in tenants {
            if self.is_waiting_after_a_restore(&tenant) {
                self.want(&tenant, Want::Continue);
            }
        }
        let attempts = self.center.disk.mirror.attempts.values();
        let unknown = attempts.filter(|attempt| attempt.asserted.is_none() && unheard(attempt));
        let unknown: Vec<(TenantName, AttemptId)> = unknown
            .map(|attempt| (attempt.tenant.clone(), attempt.attempt))
            .filter(|(_, attempt)| self.is_unknown(*attempt))
            .collect();
        for (tenant, attempt) in unknown {
            self.want(&tenant, Want::AssertDead(attempt));
        }
    }

    /// After each turn of the orchestrator: what people said is durable now, and what follows for what must hold.
    pub(crate) fn note_what_people_said(&mut self, asserted: &[AttemptId]) {
        for attempt in asserted.iter().copied() {
            if self.said.truly.contains(&attempt) || self.said.risky.contains(&attempt) {
                continue;
            }
            self.trace.count("attempt said to be over");
            if self.is_truly_over(attempt) {
                self.said.truly.insert(attempt);
            } else {
                self.trace.count("attempt said to be over that may not be");
                self.said.risky.insert(attempt);
            }
        }
        let mirror = &self.center.disk.mirror;
        let life = mirror.recovery.counter;
        let continued = mirror
            .tenants
            .values()
            .filter(|tenant| tenant.continued == life);
        let continued: Vec<TenantName> = continued.map(|tenant| tenant.tenant.clone()).collect();
        for tenant in continued {
            if !self.said.continued.insert((tenant.clone(), life)) {
                continue;
            }
            self.trace.count("tenant went on without some agents");
            note!(self, "{tenant} goes on without some agents");
            for index in 0..self.sites.len() {
                let identity = &self.sites[index].identity;
                let name = (identity.tenant.clone(), identity.agent.clone());
                let agent = self.center.disk.mirror.agents.get(&name);
                let reported = agent.is_some_and(|agent| agent.standing.reported >= life);
                if identity.tenant == tenant && !reported {
                    self.truth.former.forget_what_succeeded(index);
                }
            }
        }
    }
}

/// Given up, and nothing heard of its end.
fn unheard(attempt: &AttemptRecord) -> bool {
    matches!(attempt.phase, Phase::Lost { .. }) && attempt.late.is_none()
}
