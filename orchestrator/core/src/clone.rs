//! Two holders of one identity: a machine was copied, or put back to an earlier snapshot.
//!
//! The chain of nonces tells, and so do the keys: whoever presents one that the agent has left behind holds a copy of its
//! state. So does what it holds: of one agent nothing that began is ever not begun again. Both keep their sessions, so that nothing flaps and people can see both; neither gets new work or may start any. The known
//! one's words still count. The second one's are heard and change nothing: it keeps what it has to tell until a person
//! decides that it stays.

use outpost_driver::Micros;
use outpost_proto::ids::{Conn, EventSeq, Incarnation};
use outpost_proto::limits::{HELD_ATTEMPTS, REMEMBERED};
use outpost_proto::message::{
    Directive, DownMessage, Granted, Heartbeat, Hello, InventoryPage, UpMessage,
};
use outpost_proto::name::AgentName;

use crate::agent::Agent;
use crate::command::Reply;
use crate::event::{Alarm, Answer, CloseReason, Denied, HolderView, Speech};
use crate::record::NoticeKind;
use crate::safety::Safety;
use crate::session::{Offence, Opening, welcome};
use crate::standing::{Keep, Quarantine, confirm, hand_out};
use crate::tenant::{Ctx, Tenant};

/// The session of the second holder.
#[derive(Debug, Clone)]
pub(crate) struct Rival {
    pub(crate) conn: Conn,
    heard: Option<Micros>,
    heartbeat: Option<Heartbeat>,
    /// Items it listed, and whether that was all.
    listed: (usize, bool),
}

impl Agent {
    /// Both holders, while there are two.
    pub(crate) fn holders(&self) -> Vec<HolderView> {
        let Some(quarantine) = &self.record.standing.quarantine else {
            return Vec::new();
        };
        let rival = self.live.rival.as_ref();
        let this = HolderView {
            which: Keep::This,
            incarnation: self.record.incarnation,
            connected: self.live.session.is_some(),
            last_heard: self.live.last_heard.map(|at| at.0),
            heartbeat: self.live.heartbeat,
            attempts: Some(self.held.len()),
        };
        let that = HolderView {
            which: Keep::That,
            incarnation: quarantine.incarnation,
            connected: rival.is_some(),
            last_heard: rival.and_then(|rival| rival.heard).map(|at| at.0),
            heartbeat: rival.and_then(|rival| rival.heartbeat),
            attempts: rival
                .filter(|rival| rival.listed.1)
                .map(|rival| rival.listed.0),
        };
        vec![this, that]
    }
}

impl Tenant {
    pub(crate) fn is_rival(&self, name: &AgentName, conn: Conn) -> bool {
        let agent = self.agents.get(name);
        agent
            .and_then(|agent| agent.live.rival.as_ref())
            .is_some_and(|rival| rival.conn == conn)
    }

    /// The second holder says Hello: for the first time, then both are set aside, or again.
    pub(crate) fn second(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        opening: &Opening,
        hello: &Hello,
        reply: &mut Reply,
    ) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        let record = &mut agent.record;
        record.session_epoch.0 += 1;
        let next = ctx.chance.nonce();
        let appeared = record.standing.quarantine.is_none();
        let other_key = !record.accepts(&opening.key_hash);
        let quarantine = &mut record.standing.quarantine;
        let quarantine =
            quarantine.get_or_insert_with(|| Quarantine::new(ctx.now.0, hello.incarnation));
        quarantine.lives_as(hello.incarnation);
        quarantine.met = ctx.recovery.counter;
        quarantine.key = other_key.then(|| opening.key_hash.clone());
        hand_out(&mut quarantine.nonces, hello.session_nonce, next);
        // Nothing is acknowledged by this, and a smaller number would look like a database that went back.
        let welcome = welcome(ctx, record.session_epoch, next, record.event_seq);
        reply.messages.push(welcome);
        let older = agent.live.rival.replace(Rival {
            conn: opening.conn,
            heard: None,
            heartbeat: None,
            listed: (0, false),
        });
        self.places.changed.insert(name.clone());
        if let Some(older) = older {
            self.conns.remove(&older.conn);
            ctx.close(older.conn, CloseReason::Replaced);
        }
        if appeared {
            self.set_aside(ctx, name);
        }
    }

    /// Who was taken for the agent is the second of two holders, and came before the one that is known: it holds as not
    /// begun what that one told to be running, under this incarnation. Its session goes on as the second one's.
    pub(crate) fn came_first(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        began: Incarnation,
        listed: usize,
        reply: &mut Reply,
    ) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        let Some(session) = agent.live.session.take() else {
            return;
        };
        agent.record.came_first(began, ctx.life(), ctx.now.0);
        agent.live.hello = None;
        // Of the known one nothing was heard.
        agent.live.last_heard = None;
        if session.heartbeat.is_some() {
            reply.messages.push(hears());
        }
        agent.live.rival = Some(Rival {
            conn: session.conn,
            heard: Some(ctx.now),
            heartbeat: agent.live.heartbeat.take(),
            listed: (listed, true),
        });
        self.places.changed.insert(name.clone());
        self.set_aside(ctx, name);
    }

    /// Tells that there are two holders from now on.
    pub(crate) fn set_aside(&mut self, ctx: &mut Ctx<'_>, name: &AgentName) {
        if let Some(agent) = self.agents.get_mut(name) {
            // What was told of a life that may be the other's is not believed before a person decided.
            let standing = &mut agent.record.standing;
            let doubt = standing.doubt.take();
            if let (Some(doubt), Some(quarantine)) = (doubt, &mut standing.quarantine) {
                for (id, end) in doubt.told {
                    if let Some(report) = end {
                        quarantine.told.insert(id, report);
                    }
                }
            }
        }
        ctx.say(Speech::Alarm {
            tenant: self.record.tenant.clone(),
            agent: name.clone(),
            what: Alarm::Cloned,
        });
        self.tell_safety(ctx, Safety::Quarantined, name, None);
        self.refresh(ctx, name);
    }

    /// While two are set aside, yet another one was turned away: what it may run is not known either.
    pub(crate) fn turned_away(&mut self, name: &AgentName, hello: &Hello) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        let standing = &mut agent.record.standing;
        let decided = standing.rejected.contains(&hello.session_nonce);
        let quarantine = standing.quarantine.as_mut().filter(|_| !decided);
        if quarantine.is_some_and(|quarantine| quarantine.has_third(hello.incarnation)) {
            self.places.changed.insert(name.clone());
        }
    }

    /// What the second holder says on its session.
    pub(crate) fn rival_says(
        &mut self,
        name: &AgentName,
        message: &UpMessage,
        reply: &mut Reply,
    ) -> Result<(), Offence> {
        let Some(agent) = self.agents.get_mut(name) else {
            return Ok(());
        };
        let Some(rival) = &mut agent.live.rival else {
            return Ok(());
        };
        match message {
            UpMessage::Inventory(page) => {
                rival.lists(page)?;
                if let Some(quarantine) = &mut agent.record.standing.quarantine
                    && rival.listed.1
                {
                    confirm(&mut quarantine.nonces);
                    self.places.changed.insert(name.clone());
                }
                Ok(())
            }
            UpMessage::Heartbeat(heartbeat) => {
                rival.heartbeat = Some(*heartbeat);
                reply.messages.push(hears());
                Ok(())
            }
            UpMessage::Catalogue(_) => Ok(()),
            UpMessage::Hello(_)
            | UpMessage::Event(_)
            | UpMessage::Trigger { .. }
            | UpMessage::Ack(_) => Err(Alarm::OutOfOrder.into()),
        }
    }

    pub(crate) fn rival_heard(&mut self, ctx: &Ctx<'_>, name: &AgentName) {
        let agent = self.agents.get_mut(name);
        if let Some(rival) = agent.and_then(|agent| agent.live.rival.as_mut()) {
            rival.heard = Some(ctx.now);
        }
    }

    /// A person decides which holder stays. Both sessions end: the kept one comes back at once, tells everything it
    /// holds and gets a new key; the other one is turned away.
    pub(crate) fn resolve_agent(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        keep: Keep,
        by: &str,
    ) -> Result<Answer, Denied> {
        let agent = self.agents.get_mut(name);
        let Some(agent) = agent.filter(|agent| !agent.record.removed) else {
            return Err(Denied::UnknownAgent(name.clone()));
        };
        agent.remember(ctx.turn);
        let record = &mut agent.record;
        let Some(quarantine) = record.standing.quarantine.take() else {
            return Err(Denied::NotQuarantined(name.clone()));
        };
        record.decide(keep, &quarantine, ctx.now.0);
        let this = agent.live.session.as_ref().map(|session| session.conn);
        let that = agent.live.rival.as_ref().map(|rival| rival.conn);
        let (what, stays, goes) = match keep {
            Keep::This => (Safety::KeptThis, this, that),
            Keep::That => (Safety::KeptThat, that, this),
        };
        self.places.changed.insert(name.clone());
        self.tell_safety(ctx, what, name, Some(by));
        match keep {
            Keep::This => self.told_in_quarantine(ctx, name, quarantine.told),
            // It tells itself what became of what it had.
            Keep::That => {}
        }
        if let Some(conn) = goes {
            self.end(ctx, conn, CloseReason::Cloned);
        }
        if let Some(conn) = stays {
            self.end(ctx, conn, CloseReason::Replaced);
        }
        self.arm(ctx, name);
        let agent = self.agents.get(name).map(Agent::view);
        agent
            .map(Answer::Agent)
            .ok_or_else(|| Denied::UnknownAgent(name.clone()))
    }

    /// A stream under a key that the agent never had was turned away: the former bearer of its name, or a copy that is
    /// older than the keys that are kept. It disturbs nothing; people hear of each such key once.
    pub(crate) fn tell_other_key(&mut self, ctx: &mut Ctx<'_>, name: &AgentName, key_hash: &str) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        if !agent.record.tells_key(key_hash) {
            return;
        }
        self.places.changed.insert(name.clone());
        self.tell_safety(ctx, Safety::OtherKey, name, None);
    }

    /// A kept holder is told to get a key that the other one does not have.
    pub(crate) fn tell_to_rekey(&mut self, ctx: &Ctx<'_>, name: &AgentName, reply: &mut Reply) {
        let agent = self.agents.get(name);
        if agent.is_some_and(|agent| agent.record.standing.rekey) {
            self.direct(ctx, name, Directive::RenewNow, reply);
        }
    }

    pub(crate) fn tell_safety(
        &self,
        ctx: &mut Ctx<'_>,
        what: Safety,
        agent: &AgentName,
        by: Option<&str>,
    ) {
        let notice = NoticeKind::Safety {
            what,
            agent: Some(agent.clone()),
            attempt: None,
            by: by.map(str::to_owned),
            reason: None,
        };
        ctx.notice(&self.record.tenant, notice);
    }
}

/// So that the second holder knows that it is heard: neither a lease nor an acknowledgement.
fn hears() -> DownMessage {
    DownMessage::Granted(Granted {
        highest_event_seq: EventSeq(0),
        lease: None,
    })
}

impl Rival {
    fn lists(&mut self, page: &InventoryPage) -> Result<(), Alarm> {
        let (items, complete) = &mut self.listed;
        *items += page.items.len();
        let expected = page
            .end
            .map(|end| usize::try_from(end).unwrap_or(usize::MAX));
        if *complete
            || *items > HELD_ATTEMPTS + REMEMBERED
            || expected.is_some_and(|expected| expected != *items)
        {
            return Err(Alarm::InventoryCount);
        }
        *complete = expected.is_some();
        Ok(())
    }
}
