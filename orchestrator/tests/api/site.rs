//! A site's agent, played: what the link would hand over, and what it would send.

use outpost_orchestrator::driver::sessions::{Outbox, Welcomed};
use outpost_orchestrator_core::event::Ask;
use outpost_proto::ids::{
    AttemptId, CatalogueVersion, Conn, EventSeq, HeartbeatSeq, Incarnation, Nonce,
};
use outpost_proto::message::{
    Assign, AttemptState, Catalogue, CatalogueEntry, Containment, DownMessage, Event, Flags,
    Health, Heartbeat, Hello, InventoryPage, Level, OnDisconnect, Reporting, UpMessage,
};
use outpost_proto::name::{AgentName, EntryHash, spiffe_id};
use outpost_proto::outcome::{Outcome, Report};

use super::rig::{PATIENCE, Rig, tenant};

pub(crate) struct Site {
    conn: Conn,
    outbox: Outbox,
    waiting: Vec<DownMessage>,
    event_seq: u64,
    beats: u32,
}

/// Enrols an agent that never connects.
pub(crate) async fn enrol(rig: &Rig, of: &str, agent: &str) {
    let token_hash = format!("{of}-{agent}-token");
    let ask = Ask::Invite {
        agent: agent.parse().unwrap(),
        token_hash: token_hash.clone(),
        ttl_ms: 60_000,
    };
    rig.handle.ask(tenant(of), ask).await.unwrap();
    let key_hash = format!("{of}-{agent}-key");
    rig.handle.enrol(token_hash, key_hash).await.unwrap();
}

impl Site {
    /// Enrols and connects an agent with these entries, none of which is safe to run twice.
    pub(crate) async fn connect(rig: &Rig, agent: &str, entries: &[&str]) -> Self {
        enrol(rig, "acme", agent).await;
        let agent: AgentName = agent.parse().unwrap();
        let id = spiffe_id("test.internal", &tenant("acme"), &agent);
        let key = format!("acme-{agent}-key");
        let of = (tenant("acme"), agent);
        let opened = rig
            .handle
            .opened(of, id.clone(), key, u64::MAX, Welcomed::new(drop));
        let opened = opened.await;
        let (conn, outbox) = opened.unwrap();
        let mut site = Self {
            conn,
            outbox,
            waiting: Vec::new(),
            event_seq: 0,
            beats: 1,
        };
        site.say(rig, vec![hello()]).await;
        site.until(|message| matches!(message, DownMessage::Welcome(_)))
            .await;
        let entry = |name: &&str| CatalogueEntry {
            hash: EntryHash::new(&id, &name.parse().unwrap()),
            retry_safe: false,
            on_disconnect: OnDisconnect::Continue,
            grace_s: 10,
        };
        let catalogue = Catalogue {
            version: CatalogueVersion(1),
            entries: entries.iter().map(entry).collect(),
        };
        let inventory = InventoryPage {
            items: Vec::new(),
            end: Some(0),
        };
        let messages = vec![
            UpMessage::Catalogue(catalogue),
            UpMessage::Inventory(inventory),
            heartbeat(site.beats),
        ];
        site.say(rig, messages).await;
        site.until(
            |message| matches!(message, DownMessage::Granted(granted) if granted.lease.is_some()),
        )
        .await;
        site
    }

    pub(crate) async fn say(&self, rig: &Rig, messages: Vec<UpMessage>) {
        let taken = rig.handle.frame(self.conn, &self.outbox, messages);
        assert!(taken.await);
    }

    /// Tells that it is still there, and hears that it is known.
    pub(crate) async fn beat(&mut self, rig: &Rig) {
        self.beats += 1;
        self.say(rig, vec![heartbeat(self.beats)]).await;
        self.until(|message| matches!(message, DownMessage::Granted(_)))
            .await;
    }

    /// The next message of a kind; others before it are dropped.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&DownMessage) -> bool) -> DownMessage {
        loop {
            while !self.waiting.is_empty() {
                let message = self.waiting.remove(0);
                if wanted(&message) {
                    return message;
                }
            }
            let next = tokio::time::timeout(PATIENCE, self.outbox.next()).await;
            self.waiting = next.unwrap();
        }
    }

    pub(crate) async fn assigned(&mut self) -> Assign {
        let message = self
            .until(|message| matches!(message, DownMessage::Assign(_)))
            .await;
        let DownMessage::Assign(assign) = message else {
            panic!("{message:?}")
        };
        assign
    }

    pub(crate) async fn tell(&mut self, rig: &Rig, attempt: AttemptId, state: AttemptState) {
        self.event_seq += 1;
        let event = Event {
            event_seq: EventSeq(self.event_seq),
            attempt,
            state,
        };
        self.say(rig, vec![UpMessage::Event(event)]).await;
    }

    /// Takes the next task, runs it and ends it so.
    pub(crate) async fn run(&mut self, rig: &Rig, outcome: Outcome) -> Assign {
        let assign = self.assigned().await;
        self.tell(rig, assign.attempt, AttemptState::Running).await;
        let report = Report {
            outcome,
            may_have_started: true,
            duration_ms: 7,
            exit_code: Some(3),
            count: None,
        };
        self.tell(rig, assign.attempt, AttemptState::Finished(report))
            .await;
        assign
    }
}

fn hello() -> UpMessage {
    UpMessage::Hello(Hello {
        protocol: (1, 1),
        build: (0, 1, 0),
        schema_hash: 1,
        incarnation: Incarnation(1),
        last: None,
        session_nonce: Nonce(0),
        slots: 2,
        sandbox: Level::Strict,
        containment: Containment::Cgroup,
        limits: Level::Strict,
        reporting: Reporting::Normal,
    })
}

fn heartbeat(seq: u32) -> UpMessage {
    UpMessage::Heartbeat(Heartbeat {
        seq: HeartbeatSeq(seq),
        lease_echo: HeartbeatSeq(0),
        slots_free: 2,
        running: 0,
        queued: 0,
        flags: Flags::default(),
        health: Health {
            cpu_percent: 12,
            memory_percent: 34,
            disk_percent: 56,
            load_percent: 78,
            certificate_days_left: 1,
            ..Health::default()
        },
    })
}
