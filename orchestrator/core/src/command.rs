//! What is said to an agent: numbered commands, leases, and frames of bounded size.

use outpost_proto::ids::{CommandSeq, Conn, EventSeq, HeartbeatSeq};
use outpost_proto::limits::FRAME_MESSAGES;
use outpost_proto::message::{Assign, Directive, DownMessage, Granted, ParamValue};
use outpost_proto::name::AgentName;

use crate::event::Speech;
use crate::limits::FRAME_TEXT;
use crate::tenant::{Ctx, Tenant};

/// What is answered to one frame.
#[derive(Default)]
pub(crate) struct Reply {
    pub(crate) messages: Vec<DownMessage>,
    /// Events came: say how far they are durable.
    pub(crate) ack: bool,
    /// Answer this heartbeat with a lease.
    pub(crate) lease: Option<HeartbeatSeq>,
}

impl Tenant {
    /// How far events are durable, and a lease if a heartbeat is answered.
    pub(crate) fn granted(
        &mut self,
        ctx: &Ctx<'_>,
        name: &AgentName,
        lease: Option<HeartbeatSeq>,
    ) -> Granted {
        let Some(agent) = self.agents.get_mut(name) else {
            return Granted {
                highest_event_seq: EventSeq(0),
                lease: None,
            };
        };
        let highest_event_seq = agent.record.event_seq;
        let Some(seq) = lease else {
            return Granted {
                highest_event_seq,
                lease: None,
            };
        };
        let lapsed = agent.lease_until <= ctx.now;
        agent.lease_until = ctx.now.plus(ctx.settings.lease);
        if lapsed {
            self.wake(name);
        }
        Granted {
            highest_event_seq,
            lease: Some((seq, ctx.settings.lease_ms())),
        }
    }

    /// Numbers a directive and adds it to what is sent.
    pub(crate) fn direct(
        &mut self,
        ctx: &Ctx<'_>,
        name: &AgentName,
        directive: Directive,
        reply: &mut Reply,
    ) {
        let command_seq = self.number(ctx, name);
        reply.messages.push(DownMessage::Directive {
            command_seq,
            directive,
        });
    }

    /// The agent's next command number.
    pub(crate) fn number(&mut self, ctx: &Ctx<'_>, name: &AgentName) -> CommandSeq {
        let Some(agent) = self.agents.get_mut(name) else {
            return CommandSeq(0);
        };
        agent.remember(ctx.turn);
        agent.record.command_seq.0 += 1;
        let command_seq = agent.record.command_seq;
        self.places.marked.insert(name.clone());
        command_seq
    }
}

/// Sends messages in order, a frame's worth at a time.
pub(crate) fn send(ctx: &mut Ctx<'_>, conn: Conn, messages: Vec<DownMessage>) {
    let mut frame = Vec::new();
    let mut text = 0;
    for message in messages {
        let more = text_bytes(&message);
        if !frame.is_empty() && (frame.len() == FRAME_MESSAGES || text + more > FRAME_TEXT) {
            ctx.say(Speech::Send {
                conn,
                messages: std::mem::take(&mut frame),
            });
            text = 0;
        }
        text += more;
        frame.push(message);
    }
    if !frame.is_empty() {
        ctx.say(Speech::Send {
            conn,
            messages: frame,
        });
    }
}

fn text_bytes(message: &DownMessage) -> usize {
    match message {
        DownMessage::Assign(assign) => 512 + parameter_bytes(assign),
        DownMessage::Welcome(_) | DownMessage::Directive { .. } | DownMessage::Granted(_) => 128,
    }
}

fn parameter_bytes(assign: &Assign) -> usize {
    assign
        .parameters
        .iter()
        .map(|(name, value)| name.as_str().len() + value_bytes(value) + 16)
        .sum()
}

/// Bytes of a parameter's value as the wire counts them.
pub(crate) fn value_bytes(value: &ParamValue) -> usize {
    match value {
        ParamValue::Flag(_) => 1,
        ParamValue::Integer(_) => 10,
        ParamValue::Text(text) => text.len(),
    }
}
