//! What is said on one accepted stream, in its strict order: Hello, Welcome, catalogue and inventory, one reconcile,
//! directives, and only then work.
//!
//! Start, reconnect and crash come through here alike. A newer stream of the same agent replaces the older one at its
//! Hello; what the older one still says is ignored. A peer's nonsense ends its stream and touches nothing else. Who
//! presents a nonce that only a copy of the agent can have is no newer stream of it: `clone` listens to that one.

use std::collections::BTreeMap;

use outpost_proto::ids::{
    AttemptId, CommandSeq, Conn, EventSeq, HeartbeatSeq, Nonce, SessionEpoch,
};
use outpost_proto::message::{
    AttemptState, Catalogue, Directive, DownMessage, Event, Heartbeat, Hello, UpMessage, Welcome,
};
use outpost_proto::name::AgentName;

use crate::attempt::Seen;
use crate::bearer::Bearer;
use crate::command::{Reply, send};
use crate::event::{Alarm, CloseReason, Speech};
use crate::inventory::Listing;
use crate::limits::PROTOCOL;
use crate::standing::{Holder, hand_out};
use crate::tenant::{Ctx, Due, Tenant};

/// A stream that has not said Hello.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    pub(crate) conn: Conn,
    pub(crate) spiffe_id: String,
    /// Of its certificate: the key, and when it ends.
    pub(crate) key_hash: String,
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
    Listing(Listing),
    /// Reconciled: it can be given work.
    Ready,
}

/// Why a stream must end.
pub(crate) struct Offence {
    pub(crate) alarm: Option<Alarm>,
    pub(crate) why: CloseReason,
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
        let (key_hash, not_after) = (presented.key_hash, presented.not_after);
        if agent.record.bearer(key_hash, not_after, ctx.life()) == Bearer::Stranger {
            self.tell_other_key(ctx, name, key_hash);
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
        agent.live.rival.take_if(|rival| rival.conn == conn);
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
        if self.is_rival(&name, conn) {
            self.rival_heard(ctx, &name);
        } else {
            self.heard(ctx, &name);
            self.refresh(ctx, &name);
        }
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
        if self.is_rival(name, conn) {
            return self.rival_says(name, message, reply);
        }
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
        let recovery = ctx.recovery;
        let behind = agent.record.has_seen_more(recovery, hello);
        let alone = agent.live.session.is_none();
        let Some(opening) = &agent.live.opening else {
            return Err(Alarm::OutOfOrder.into());
        };
        let presented = (opening.key_hash.as_str(), opening.not_after);
        let ahead = behind && alone;
        let holder = agent.record.presents(hello, presented, ctx.life(), ahead);
        let holder = holder.ok_or(Offence {
            alarm: None,
            why: CloseReason::OtherKey,
        })?;
        if holder == Holder::Refused {
            self.turned_away(name, hello);
            return Err(Offence {
                alarm: Some(Alarm::Nonce),
                why: CloseReason::Cloned,
            });
        }
        let Some(opening) = agent.live.opening.take() else {
            return Ok(());
        };
        if holder == Holder::Second {
            self.second(ctx, name, &opening, hello, reply);
            return Ok(());
        }
        if behind {
            self.note_behind(ctx, name);
        }
        self.welcome(ctx, name, opening, hello, reply);
        Ok(())
    }

    fn welcome(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        opening: Opening,
        hello: &Hello,
        reply: &mut Reply,
    ) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        let older = agent.live.session.take();
        if agent.record.incarnation != hello.incarnation
            && let Some(until) = agent.lives_anew(ctx.now, ctx.settings.stale_after)
        {
            self.timers.set(until, Due::Doubt(name.clone()));
        }

        let record = &mut agent.record;
        record.session_epoch.0 += 1;
        record.lives_as(hello);
        let next_nonce = ctx.chance.nonce();
        hand_out(&mut record.nonces, hello.session_nonce, next_nonce);
        let salted_anew = record.spiffe_id != opening.spiffe_id;
        record.spiffe_id = opening.spiffe_id;
        record.certificate_not_after = Some(opening.not_after);
        record.uses(&opening.key_hash);
        record.standing.met = record.standing.met.max(ctx.recovery.counter);
        agent.live.hello = Some(hello.clone());
        agent.live.heartbeat = None;
        agent.live.unsent.clear();
        agent.live.shown.clear();
        agent.live.session = Some(Session {
            conn: opening.conn,
            epoch: record.session_epoch,
            stage: Stage::Listing(Listing::default()),
            heartbeat: None,
            unconfirmed: BTreeMap::new(),
        });
        let welcome = welcome(ctx, record.session_epoch, next_nonce, record.event_seq);
        reply.messages.push(welcome);
        self.places.changed.insert(name.clone());
        if salted_anew {
            self.places.announced.insert(name.clone());
        }
        if let Some(older) = older {
            self.conns.remove(&older.conn);
            ctx.close(older.conn, CloseReason::Replaced);
        }
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
        self.places.announced.insert(name.clone());
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
        match self.told(ctx, name, event.attempt, event.state)? {
            Seen::Known | Seen::Unsent => {}
            Seen::Unknown => {
                self.answered(ctx, name, event.attempt, event.state)?;
                let over = matches!(event.state, AttemptState::Finished(_));
                if over || !self.may_go_on(ctx, name, event.attempt) {
                    self.unadopt(name, event.attempt);
                    self.direct(ctx, name, Directive::Forget(event.attempt), reply);
                }
            }
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
            match agent.record.standing.quarantine {
                None => reply.lease = Some(heartbeat.seq),
                // An answer, so that it knows that it is heard.
                Some(_) => reply.ack = true,
            }
        }
    }
}

/// The answer to a Hello.
pub(crate) fn welcome(
    ctx: &Ctx<'_>,
    session_epoch: SessionEpoch,
    next_nonce: Nonce,
    highest_event_seq: EventSeq,
) -> DownMessage {
    DownMessage::Welcome(Welcome {
        protocol: PROTOCOL,
        session_epoch,
        recovery: ctx.recovery,
        next_nonce,
        highest_event_seq,
        heartbeat_interval_ms: ctx.settings.heartbeat_interval_ms(),
        lease_ms: ctx.settings.lease_ms(),
        server_time_us: ctx.now.0,
    })
}
