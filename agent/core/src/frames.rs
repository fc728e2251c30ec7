//! What arrives on the stream, in the order in which it must.
//!
//! Nonsense from the other side ends its session, is alarmed of, and touches nothing else.

use outpost_driver::Micros;
use outpost_proto::ids::{Conn, EventSeq, HeartbeatSeq, RecoveryEpoch};
use outpost_proto::message::{DownMessage, Granted, Hello, UpMessage, Welcome};

use crate::event::{Alarm, Down, Speech};
use crate::lease::NeverSent;
use crate::session::Phase;
use crate::{Agent, Out, Trouble};

/// The one version of the protocol there is.
const PROTOCOL: u8 = 1;
/// The wire carries event numbers of 48 bits. An orchestrator that claims to know one so close to the end could silence
/// the agent; no agent comes near it in a thousand years. Once told of one just below it, the agent numbers beyond, and
/// what an orchestrator then knows is the agent's own.
const HIGHEST_EVENT: u64 = 1 << 47;

/// Why a session is ended from this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breach {
    /// No honest orchestrator does this.
    Alarm(Alarm),
    /// It wants to speak a version that is not known here.
    Unsupported(u8),
    /// It assigned more than an agent holds.
    TooMany,
}

impl Breach {
    pub(crate) const OUT_OF_ORDER: Self = Self::Alarm(Alarm::OutOfOrder);
}

impl Agent {
    pub(crate) fn opened(&mut self, now: Micros, conn: Conn, out: &mut Out) {
        if self.connector.is_successor(conn) {
            let faded = self.connector.take_over();
            self.due.hangups.extend(faded);
        }
        let Some(session) = self
            .connector
            .on(conn)
            .filter(|session| session.phase == Phase::Dialling)
        else {
            return;
        };
        session.enter(Phase::Greeting, now);
        let settings = &self.settings;
        let hello = Hello {
            protocol: (PROTOCOL, PROTOCOL),
            build: settings.build,
            schema_hash: settings.schema_hash,
            incarnation: settings.incarnation,
            last: self
                .counters
                .recovery
                .map(|recovery| (recovery, self.counters.command_seq)),
            session_nonce: self.counters.nonce,
            slots: settings.slots,
            sandbox: settings.sandbox,
            containment: settings.containment,
            limits: settings.limits,
            reporting: settings.reporting,
        };
        out.speech.push(Speech::Send {
            conn,
            messages: vec![UpMessage::Hello(hello)],
        });
    }

    pub(crate) fn frame(
        &mut self,
        now: Micros,
        conn: Conn,
        messages: &[DownMessage],
        out: &mut Out,
    ) {
        for message in messages {
            let Some(session) = self.connector.on(conn) else {
                return;
            };
            session.hears(now);
            let taken = match message {
                DownMessage::Welcome(welcome) => self.welcome(now, conn, welcome, out),
                DownMessage::Assign(assign) => self.assign(now, conn, assign, out),
                DownMessage::Directive {
                    command_seq,
                    directive,
                } => self.directive(now, conn, *command_seq, directive, out),
                DownMessage::Granted(granted) => self.granted(now, conn, granted, out),
            };
            if let Err(breach) = taken {
                self.break_off(now, breach, out);
            }
        }
    }

    fn break_off(&mut self, now: Micros, breach: Breach, out: &mut Out) {
        let trouble = match breach {
            Breach::Alarm(alarm) => {
                out.speech.push(Speech::Alarm(alarm));
                Trouble::Alarm(alarm)
            }
            Breach::Unsupported(version) => Trouble::Unsupported(version),
            Breach::TooMany => Trouble::TooMany,
        };
        self.hang_up(now, Down::Protocol, trouble);
    }

    fn welcome(
        &mut self,
        now: Micros,
        conn: Conn,
        welcome: &Welcome,
        out: &mut Out,
    ) -> Result<(), Breach> {
        let Some(session) = self
            .connector
            .on(conn)
            .filter(|session| session.phase == Phase::Greeting)
        else {
            return Err(Breach::OUT_OF_ORDER);
        };
        if welcome.protocol != PROTOCOL {
            return Err(Breach::Unsupported(welcome.protocol));
        }
        let highest = welcome.highest_event_seq.0;
        if highest >= HIGHEST_EVENT.max(self.next_event) {
            return Err(Breach::OUT_OF_ORDER);
        }
        session.enter(Phase::Welcomed, now);
        let apart = self.settings.apart();
        self.connector.agree(conn, welcome, now, apart);
        self.clocks.hear(now, welcome.server_time_us);
        self.due.hangups.extend(self.connector.faded());
        self.gates.cordoned = false;
        self.gates.told_to_drain = false;
        self.counters.nonce = welcome.next_nonce;
        self.counters_changed = true;
        self.compare_lives(welcome, out);
        self.catch_up(welcome.highest_event_seq);
        Ok(())
    }

    /// Whether this is the database that was obeyed before, a restored one, or one that went back in time.
    fn compare_lives(&mut self, welcome: &Welcome, out: &mut Out) {
        let offered = welcome.recovery;
        let known = self.counters.recovery;
        if known.is_none_or(|known| offered.counter > known.counter) {
            self.counters.hold = None;
            self.counters.owes_memories = known.is_some();
            self.counters.recovery = Some(offered);
            // A life of its own numbers its commands anew and may know fewer events.
            self.counters.command_seq.0 = 0;
            self.acknowledged = EventSeq(0);
        } else if known != Some(offered) || welcome.highest_event_seq < self.acknowledged {
            self.went_back(offered, out);
        } else if self.counters.hold != known {
            self.counters.hold = None;
        }
    }

    /// Keeps what is held, takes nothing new, and says so in every heartbeat.
    pub(crate) fn went_back(&mut self, life: RecoveryEpoch, out: &mut Out) {
        self.counters.hold = Some(life);
        self.counters_changed = true;
        self.trouble = Some(Trouble::Alarm(Alarm::WentBack));
        out.speech.push(Speech::Alarm(Alarm::WentBack));
    }

    /// Upstream knows of events this agent never numbered: its state directory was put back to an earlier copy. Its
    /// numbers go on above, and every unacknowledged end gets a new one.
    fn catch_up(&mut self, highest: EventSeq) {
        if highest.0 >= self.next_event {
            self.next_event = highest.0 + 1;
            self.attempts.unnumber();
        }
    }

    fn granted(
        &mut self,
        now: Micros,
        conn: Conn,
        granted: &Granted,
        out: &mut Out,
    ) -> Result<(), Breach> {
        let Some(session) = self
            .connector
            .on(conn)
            .filter(|session| session.phase >= Phase::Reconciling)
        else {
            return Err(Breach::OUT_OF_ORDER);
        };
        if granted.highest_event_seq.0 >= self.next_event {
            return Err(Breach::OUT_OF_ORDER);
        }
        if let Some((seq, lease_ms)) = granted.lease {
            session
                .lease
                .grant(seq, lease_ms)
                .map_err(|NeverSent| Breach::OUT_OF_ORDER)?;
            if session.phase == Phase::Ready && session.lease.echo(now) != HeartbeatSeq(0) {
                out.speech.push(Speech::InTouch);
            }
        }
        self.acknowledge(now, granted.highest_event_seq, out);
        Ok(())
    }

    fn acknowledge(&mut self, now: Micros, highest: EventSeq, out: &mut Out) {
        if self.counters.hold.is_some() {
            return;
        }
        self.acknowledged = self.acknowledged.max(highest);
        while let Some(attempt) = self.attempts.acknowledged(highest) {
            self.settle_attempt(now, attempt, out);
        }
    }
}
