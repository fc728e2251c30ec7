//! How agents come and go: invitations, enrolment, removal.
//!
//! An invitation is known by its token's hash only, names one agent of one tenant, and is bound to the first public key
//! that uses it: the same key may ask again after a crash, no other ever.

use std::collections::BTreeMap;

use outpost_driver::Micros;
use outpost_proto::ids::{AttemptId, CommandSeq, Conn, Nonce, SessionEpoch};
use outpost_proto::name::{AgentName, TenantName};

use crate::agent::Agent;
use crate::event::{Answer, CloseReason, Denied};
use crate::limits::{AGENTS, INVITE_TTL_MS, INVITES};
use crate::record::{AgentRecord, InviteRecord, NoticeKind, Presence, Write};
use crate::standing::Standing;
use crate::state::Observed;
use crate::tenant::{Ctx, Tenant};
use crate::timers::Timers;

/// Every invitation that has not expired.
#[derive(Debug)]
pub(crate) struct Invites {
    by_token: BTreeMap<String, InviteRecord>,
    by_name: BTreeMap<(TenantName, AgentName), String>,
    expiry: Timers<String>,
}

impl Invites {
    pub(crate) fn new(records: Vec<InviteRecord>, now: Micros) -> Self {
        let mut invites = Self {
            by_token: BTreeMap::new(),
            by_name: BTreeMap::new(),
            expiry: Timers::new(),
        };
        for record in records
            .into_iter()
            .filter(|record| record.expires_at > now.0)
        {
            invites.insert(record);
        }
        invites
    }

    fn insert(&mut self, record: InviteRecord) {
        self.expiry
            .set(Micros(record.expires_at), record.token_hash.clone());
        self.by_name.insert(
            (record.tenant.clone(), record.agent.clone()),
            record.token_hash.clone(),
        );
        self.by_token.insert(record.token_hash.clone(), record);
    }

    pub(crate) fn get(&self, token_hash: &str) -> Option<&InviteRecord> {
        self.by_token.get(token_hash)
    }

    /// Makes an invitation; an earlier one for the same name is of no use any more.
    pub(crate) fn invite(&mut self, ctx: &mut Ctx<'_>, record: InviteRecord) {
        self.revoke(ctx, &record.tenant, &record.agent);
        ctx.write(Write::Invite(record.clone()));
        self.insert(record);
    }

    /// Ends the invitation of this name, if there is one.
    pub(crate) fn revoke(&mut self, ctx: &mut Ctx<'_>, tenant: &TenantName, agent: &AgentName) {
        let Some(token) = self.by_name.get(&(tenant.clone(), agent.clone())) else {
            return;
        };
        let Some(mut record) = self.forget(&token.clone()) else {
            return;
        };
        record.expires_at = ctx.now.0;
        ctx.write(Write::Invite(record));
    }

    fn bind(&mut self, ctx: &mut Ctx<'_>, token_hash: &str, key_hash: &str) {
        let Some(record) = self.by_token.get_mut(token_hash) else {
            return;
        };
        record.bound_to = Some(key_hash.to_owned());
        ctx.write(Write::Invite(record.clone()));
    }

    fn forget(&mut self, token_hash: &str) -> Option<InviteRecord> {
        let record = self.by_token.remove(token_hash)?;
        self.expiry
            .clear(Micros(record.expires_at), record.token_hash.clone());
        self.by_name
            .remove(&(record.tenant.clone(), record.agent.clone()));
        Some(record)
    }

    /// Lets go of what has expired.
    pub(crate) fn settle(&mut self, now: Micros) {
        while let Some(token) = self.expiry.fire(now) {
            self.forget(&token);
        }
    }

    pub(crate) fn next(&self) -> Option<Micros> {
        self.expiry.next()
    }

    pub(crate) fn durable(&self) -> Vec<InviteRecord> {
        self.by_token.values().cloned().collect()
    }
}

impl AgentRecord {
    /// Whether a certificate with this key is the agent's.
    pub(crate) fn accepts(&self, key_hash: &str) -> bool {
        self.key_hash == key_hash || self.next_key.as_deref() == Some(key_hash)
    }
}

impl Tenant {
    pub(crate) fn invite(
        &mut self,
        ctx: &mut Ctx<'_>,
        invites: &mut Invites,
        agent: &AgentName,
        token_hash: &str,
        ttl_ms: u64,
    ) -> Result<Answer, Denied> {
        if self
            .agents
            .get(agent)
            .is_some_and(|agent| !agent.record.removed)
        {
            return Err(Denied::AgentExists(agent.clone()));
        }
        if ttl_ms == 0 || ttl_ms > INVITE_TTL_MS {
            return Err(Denied::Limit(format!(
                "an invitation is good for 1 to {} seconds, not for {} ms",
                INVITE_TTL_MS / 1000,
                ttl_ms
            )));
        }
        if self.agents.len() >= AGENTS && !self.agents.contains_key(agent) {
            return Err(Denied::Limit(format!(
                "this tenant has {AGENTS} agents, which is as many as one can have"
            )));
        }
        if invites.by_token.len() >= INVITES {
            return Err(Denied::Limit(format!(
                "{INVITES} invitations are open: wait until some expire"
            )));
        }
        let expires_at = ctx.now.plus_ms(ttl_ms).0;
        invites.invite(
            ctx,
            InviteRecord {
                token_hash: token_hash.to_owned(),
                tenant: self.record.tenant.clone(),
                agent: agent.clone(),
                expires_at,
                bound_to: None,
            },
        );
        Ok(Answer::Invited { expires_at })
    }

    /// Uses an invitation of this tenant. Every reason for a refusal is told alike.
    pub(crate) fn enrol(
        &mut self,
        ctx: &mut Ctx<'_>,
        invites: &mut Invites,
        invite: &InviteRecord,
        key_hash: &str,
    ) -> Result<Answer, Denied> {
        let name = &invite.agent;
        let used = invite
            .bound_to
            .as_deref()
            .is_some_and(|bound| bound != key_hash);
        let enrolled = self.agents.get(name).filter(|agent| !agent.record.removed);
        let taken = enrolled.is_some_and(|agent| agent.record.key_hash != key_hash);
        if used || taken || invite.expires_at <= ctx.now.0 {
            return Err(Denied::BadToken);
        }
        if enrolled.is_none() {
            invites.bind(ctx, &invite.token_hash, key_hash);
            self.enlist(ctx, name, key_hash);
        }
        Ok(Answer::Enrolled {
            tenant: self.record.tenant.clone(),
            agent: name.clone(),
        })
    }

    fn enlist(&mut self, ctx: &mut Ctx<'_>, name: &AgentName, key_hash: &str) {
        // A name that is used again goes on counting sessions and commands, so that nothing of its former holder can
        // be taken for the new one's. Events are counted by the agent, and this one begins anew.
        let former = self.agents.get(name).map(|agent| &agent.record);
        let (session_epoch, command_seq) = former
            .map_or((SessionEpoch(0), CommandSeq(0)), |former| {
                (former.session_epoch, former.command_seq)
            });
        let former_keys = former.map(|former| former.leaves_keys(key_hash));
        let tenant = self.record.tenant.clone();
        let record = AgentRecord {
            session_epoch,
            nonces: vec![Nonce(0)],
            command_seq,
            standing: Box::new(Standing {
                met: ctx.recovery.counter,
                reported: ctx.recovery.counter,
                former_keys: former_keys.unwrap_or_default(),
                ..Standing::default()
            }),
            ..AgentRecord::enrolled(tenant, name.clone(), key_hash.to_owned(), ctx.now.0)
        };
        let mut agent = Agent::new(record, ctx.now, ctx.settings);
        agent.presence = Presence::Enrolled;
        self.agents.insert(name.clone(), agent);
        self.places.changed.insert(name.clone());
        self.offers_changed(name);
        self.refresh(ctx, name);
        ctx.notice(
            &self.record.tenant,
            NoticeKind::Agent {
                agent: name.clone(),
                presence: Presence::Enrolled,
            },
        );
    }

    /// Lets an agent have its next certificate: under the one it uses, or under a renewed one, which counts as used
    /// then. The key before stays good until the new one is used, because the answer may never arrive. `beside`: the
    /// stream of the connection on which it asks. It is the agent's session, or the one who asks is another holder of
    /// its identity, or one that does not even try to be heard as the agent.
    pub(crate) fn renew_certificate(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        (key_hash, next_key): (&str, &str),
        beside: Option<Conn>,
    ) -> Result<Answer, Denied> {
        let agent = self.agents.get_mut(name);
        let Some(agent) =
            agent.filter(|agent| !agent.record.removed && agent.record.accepts(key_hash))
        else {
            return Err(Denied::UnknownAgent(name.clone()));
        };
        let session = agent.live.session.as_ref();
        let holds = session.is_some_and(|session| beside == Some(session.conn));
        if agent.record.standing.quarantine.is_some() || !holds {
            return Err(Denied::NotTheHolder(name.clone()));
        }
        agent.remember(ctx.turn);
        agent.record.uses(key_hash);
        agent.record.next_key = Some(next_key.to_owned());
        self.places.changed.insert(name.clone());
        Ok(Answer::Renewed)
    }

    /// Cuts an agent off for good. What it held is given up: its end can never be known, unless a person goes and looks.
    pub(crate) fn remove_agent(
        &mut self,
        ctx: &mut Ctx<'_>,
        invites: &mut Invites,
        name: &AgentName,
    ) -> Result<Answer, Denied> {
        let Some(agent) = self
            .agents
            .get_mut(name)
            .filter(|agent| !agent.record.removed)
        else {
            return Err(Denied::UnknownAgent(name.clone()));
        };
        self.vanished.gone(name, agent);
        agent.record.removed = true;
        agent.presence = Presence::Removed;
        let conns: Vec<_> = agent.live.conns().collect();
        let held: Vec<AttemptId> = agent.held.iter().copied().collect();
        self.not_awaited(ctx, name);
        invites.revoke(ctx, &self.record.tenant, name);
        self.places.changed.insert(name.clone());
        ctx.notice(
            &self.record.tenant,
            NoticeKind::Agent {
                agent: name.clone(),
                presence: Presence::Removed,
            },
        );
        for conn in conns {
            self.end(ctx, conn, CloseReason::Removed);
        }
        for attempt in held {
            // A held attempt is active, and from an active phase silence has exactly one way to go.
            let _ = self.observe(ctx, name, attempt, Observed::Silent);
        }
        let bound = self
            .runs
            .values()
            .filter(|run| !run.is_over() && run.record.agent.as_ref() == Some(name));
        let bound: Vec<_> = bound.map(|run| run.record.run).collect();
        for run in bound {
            self.unbind(ctx, run);
        }
        self.offers_changed(name);
        self.refresh(ctx, name);
        self.thaw_if_back(ctx);
        Ok(Answer::Removed)
    }
}
