//! What is said on one accepted stream, in its strict order: Hello, Welcome, catalogue and inventory, one reconcile,
//! directives, and only then work.
//!
//! Start, reconnect and crash come through here alike. A newer stream of the same agent replaces the older one at its
//! Hello; what the older one still says is ignored. A peer's nonsense ends its stream and touches nothing else.

use std::collections::BTreeMap;

use outpost_proto::ids::{
    AttemptId, CommandSeq, Conn, EventSeq, HeartbeatSeq, Nonce, SessionEpoch,
};
use outpost_proto::limits::HELD_ATTEMPTS;
use outpost_proto::message::{
    Catalogue, Directive, DownMessage, Event, Heartbeat, Hello, InventoryItem, InventoryPage,
    UpMessage, Welcome,
};
use outpost_proto::name::AgentName;

use crate::attempt::Seen;
use crate::command::{Reply, send};
use crate::event::{Alarm, CloseReason, Speech};
use crate::limits::{NONCES, PROTOCOL};
use crate::state::Observed;
use crate::tenant::{Ctx, Tenant};

/// A stream that has not said Hello.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    pub(crate) conn: Conn,
    pub(crate) spiffe_id: String,
    /// Of its certificate: the key, and when it ends.
    key_hash: String,
    not_after: u64,
}

/// What a stream's certificate says.
pub(crate) struct Presented<'a> {
    pub(crate) spiffe_id: &'a str,
    pub(crate) key_hash: &'a str,
    pub(crate) not_after: u64,
}

/// A stream that was welcomed: the agent's current session.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) conn: Conn,
    pub(crate) epoch: SessionEpoch,
    pub(crate) stage: Stage,
    /// The newest heartbeat of this session.
    pub(crate) heartbeat: Option<HeartbeatSeq>,
    /// Assignments sent on it whose command was not acknowledged.
    pub(crate) unconfirmed: BTreeMap<CommandSeq, AttemptId>,
}

impl Session {
    /// Whether the agent acknowledged this assignment, or listed it.
    pub(crate) fn is_confirmed(&self, attempt: AttemptId) -> bool {
        !self.unconfirmed.values().any(|sent| *sent == attempt)
    }
}

/// How far a session is.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// It tells what it holds.
    Listing(Vec<InventoryItem>),
    /// Reconciled: it can be given work.
    Ready,
}

/// Why a stream must end.
struct Offence {
    alarm: Option<Alarm>,
    why: CloseReason,
}

impl From<Alarm> for Offence {
    fn from(alarm: Alarm) -> Self {
        Self {
            alarm: Some(alarm),
            why: CloseReason::Protocol,
        }
    }
}

impl Tenant {
    /// A stream was accepted for an agent of this tenant.
    pub(crate) fn opened(
        &mut self,
        ctx: &mut Ctx<'_>,
        conn: Conn,
        name: &AgentName,
        presented: &Presented<'_>,
    ) {
        if self.conns.contains_key(&conn) {
            return;
        }
        let agent = self.agents.get_mut(name);
        let Some(agent) = agent.filter(|agent| !agent.record.removed) else {
            return ctx.close(conn, CloseReason::Removed);
        };
        if !agent.record.accepts(presented.key_hash) {
            return ctx.close(conn, CloseReason::OtherKey);
        }
        agent.remember(ctx.turn);
        let opening = Opening {
            conn,
            spiffe_id: presented.spiffe_id.to_owned(),
            key_hash: presented.key_hash.to_owned(),
            not_after: presented.not_after,
        };
        if let Some(older) = agent.live.opening.replace(opening) {
            self.conns.remove(&older.conn);
            ctx.close(older.conn, CloseReason::Replaced);
        }
        self.conns.insert(conn, name.clone());
    }

    /// A stream is gone. Its agent is out of touch, nothing more is concluded.
    pub(crate) fn closed(&mut self, ctx: &mut Ctx<'_>, conn: Conn) {
        let Some(name) = self.conns.remove(&conn) else {
            return;
        };
        let Some(agent) = self.agents.get_mut(&name) else {
            return;
        };
        agent.live.opening.take_if(|opening| opening.conn == conn);
        agent.live.session.take_if(|session| session.conn == conn);
        self.refresh(ctx, &name);
    }

    /// Ends a stream from this side.
    pub(crate) fn end(&mut self, ctx: &mut Ctx<'_>, conn: Conn, why: CloseReason) {
        self.closed(ctx, conn);
        ctx.close(conn, why);
    }

    /// A frame arrived. Frames of streams that are not current any more are ignored.
    pub(crate) fn frame(&mut self, ctx: &mut Ctx<'_>, conn: Conn, messages: &[UpMessage]) {
        let Some(name) = self.conns.get(&conn).cloned() else {
            return;
        };
        if let Some(agent) = self.agents.get_mut(&name) {
            agent.remember(ctx.turn);
        }
        let mut reply = Reply::default();
        for message in messages {
            let Err(offence) = self.message(ctx, &name, conn, message, &mut reply) else {
                continue;
            };
            if let Some(what) = offence.alarm {
                let tenant = self.record.tenant.clone();
                ctx.say(Speech::Alarm {
                    tenant,
                    agent: name.clone(),
                    what,
                });
            }
            self.end(ctx, conn, offence.why);
            return;
        }
        if reply.ack || reply.lease.is_some() {
            let granted = self.granted(ctx, &name, reply.lease);
            reply.messages.push(DownMessage::Granted(granted));
        }
        self.heard(ctx, &name);
        self.refresh(ctx, &name);
        send(ctx, conn, reply.messages);
    }

    fn message(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        conn: Conn,
        message: &UpMessage,
        reply: &mut Reply,
    ) -> Result<(), Offence> {
        let Some(agent) = self.agents.get(name) else {
            return Ok(());
        };
        let stage = agent
            .live
            .session
            .as_ref()
            .filter(|session| session.conn == conn)
            .map(|session| &session.stage);
        match (message, stage) {
            (UpMessage::Hello(hello), None) => self.hello(ctx, name, hello, reply),
            (UpMessage::Hello(_), Some(_)) | (_, None) => Err(Alarm::OutOfOrder.into()),
            (UpMessage::Catalogue(catalogue), Some(_)) => {
                self.catalogue(name, catalogue);
                Ok(())
            }
            (UpMessage::Inventory(page), Some(Stage::Listing(_))) => {
                self.inventory(ctx, name, page, reply)
            }
            (UpMessage::Inventory(_), Some(Stage::Ready)) => Err(Alarm::OutOfOrder.into()),
            (UpMessage::Event(event), Some(Stage::Ready)) => self.event(ctx, name, event, reply),
            (UpMessage::Trigger { event_seq, .. }, Some(Stage::Ready)) => {
                // No trigger is numbered for any site: it is taken note of, so that the agent can let go of it.
                self.applied(name, *event_seq);
                reply.ack = true;
                Ok(())
            }
            (UpMessage::Event(_) | UpMessage::Trigger { .. }, Some(Stage::Listing(_))) => {
                Err(Alarm::OutOfOrder.into())
            }
            (UpMessage::Heartbeat(heartbeat), Some(_)) => {
                self.heartbeat(name, heartbeat, reply);
                Ok(())
            }
            (UpMessage::Ack(command), Some(_)) if *command > agent.record.command_seq => {
                Err(Alarm::ImpossibleEvent.into())
            }
            (UpMessage::Ack(command), Some(_)) => {
                self.acknowledged(name, *command);
                Ok(())
            }
        }
    }

    fn hello(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        hello: &Hello,
        reply: &mut Reply,
    ) -> Result<(), Offence> {
        let Some(agent) = self.agents.get_mut(name) else {
            return Ok(());
        };
        if hello.protocol.0 > PROTOCOL || hello.protocol.1 < PROTOCOL {
            return Err(Offence {
                alarm: None,
                why: CloseReason::Version,
            });
        }
        if !agent.record.nonces.contains(&hello.session_nonce) {
            return Err(Offence {
                alarm: Some(Alarm::Nonce),
                why: CloseReason::Cloned,
            });
        }
        let Some(opening) = agent.live.opening.take() else {
            return Err(Alarm::OutOfOrder.into());
        };
        if !agent.record.accepts(&opening.key_hash) {
            return Err(Offence {
                alarm: None,
                why: CloseReason::OtherKey,
            });
        }
        let older = agent.live.session.take();

        let record = &mut agent.record;
        record.session_epoch.0 += 1;
        record.incarnation = hello.incarnation;
        let next_nonce = ctx.chance.nonce();
        hand_out(&mut record.nonces, hello.session_nonce, next_nonce);
        let salted_anew = record.spiffe_id != opening.spiffe_id;
        record.spiffe_id = opening.spiffe_id;
        record.certificate_not_after = Some(opening.not_after);
        record.uses(&opening.key_hash);
        agent.live.hello = Some(hello.clone());
        agent.live.heartbeat = None;
        agent.live.unsent.clear();
        agent.live.session = Some(Session {
            conn: opening.conn,
            epoch: record.session_epoch,
            stage: Stage::Listing(Vec::new()),
            heartbeat: None,
            unconfirmed: BTreeMap::new(),
        });
        reply.messages.push(DownMessage::Welcome(Welcome {
            protocol: PROTOCOL,
            session_epoch: record.session_epoch,
            recovery: ctx.recovery,
            next_nonce,
            highest_event_seq: record.event_seq,
            heartbeat_interval_ms: ctx.settings.heartbeat_interval_ms(),
            lease_ms: ctx.settings.lease_ms(),
            server_time_us: ctx.now.0,
        }));
        self.places.changed.insert(name.clone());
        if salted_anew {
            self.offers_changed(name);
        }
        if let Some(older) = older {
            self.conns.remove(&older.conn);
            ctx.close(older.conn, CloseReason::Replaced);
        }
        Ok(())
    }

    fn catalogue(&mut self, name: &AgentName, catalogue: &Catalogue) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        if agent.record.catalogue.as_ref() == Some(catalogue) {
            return;
        }
        agent.record.catalogue = Some(catalogue.clone());
        agent.offers = catalogue
            .entries
            .iter()
            .map(|entry| (entry.hash, *entry))
            .collect();
        self.places.changed.insert(name.clone());
        self.offers_changed(name);
    }

    fn inventory(
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
        let Stage::Listing(items) = &mut session.stage else {
            return Ok(());
        };
        items.extend_from_slice(&page.items);
        let expected = page.end.map(usize::from);
        if items.len() > HELD_ATTEMPTS || expected.is_some_and(|expected| expected != items.len()) {
            return Err(Alarm::InventoryCount.into());
        }
        if expected.is_none() {
            return Ok(());
        }
        let items = std::mem::take(items);
        session.stage = Stage::Ready;
        let owed = session.heartbeat;
        // The end marker confirms the nonce of this session's Welcome: no other one is good any more.
        let confirmed = agent.record.nonces.len().saturating_sub(1);
        agent.record.nonces.drain(..confirmed);
        self.places.changed.insert(name.clone());
        self.reconcile(ctx, name, &items, reply)?;
        if owed.is_some() {
            reply.lease = owed;
        }
        reply.ack = true;
        Ok(())
    }

    fn event(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        event: &Event,
        reply: &mut Reply,
    ) -> Result<(), Offence> {
        reply.ack = true;
        if !self.applied(name, event.event_seq) {
            return Ok(());
        }
        match self.observe(ctx, name, event.attempt, Observed::Said(event.state))? {
            Seen::Known | Seen::Unsent => {}
            Seen::Unknown => self.direct(ctx, name, Directive::Forget(event.attempt), reply),
        }
        Ok(())
    }

    /// Whether this event is new; it counts as applied from now on.
    pub(crate) fn applied(&mut self, name: &AgentName, event_seq: EventSeq) -> bool {
        let Some(agent) = self.agents.get_mut(name) else {
            return false;
        };
        let new = event_seq > agent.record.event_seq;
        if new {
            agent.record.event_seq = event_seq;
            self.places.marked.insert(name.clone());
        }
        new
    }

    fn heartbeat(&mut self, name: &AgentName, heartbeat: &Heartbeat, reply: &mut Reply) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        let Some(session) = &mut agent.live.session else {
            return;
        };
        if session
            .heartbeat
            .is_some_and(|newest| newest >= heartbeat.seq)
        {
            return;
        }
        session.heartbeat = Some(heartbeat.seq);
        agent.live.heartbeat = Some(*heartbeat);
        // Before the inventory's end the answer is owed: a lease then would start what a directive may withdraw.
        if matches!(session.stage, Stage::Ready) {
            reply.lease = Some(heartbeat.seq);
        }
    }
}

/// Presenting a nonce confirms it: those before it are of no use. When too many were handed out since, the oldest of
/// those goes, never the confirmed one.
fn hand_out(nonces: &mut Vec<Nonce>, presented: Nonce, next: Nonce) {
    if let Some(at) = nonces.iter().position(|nonce| *nonce == presented) {
        nonces.drain(..at);
    }
    if nonces.len() >= NONCES {
        nonces.remove(1);
    }
    nonces.push(next);
}
