//! A peer whose frames the script makes: what an agent says as far as the wire shows it, also what no honest one does.

use outpost_orchestrator_core::event::Event;
use outpost_proto::ids::{
    AttemptId, CatalogueVersion, CommandSeq, Conn, EventSeq, HeartbeatSeq, Incarnation, Nonce,
    RecoveryEpoch,
};
use outpost_proto::message::{
    Assign, AttemptState, Catalogue, Containment, DownMessage, Event as Said, Flags, Health,
    Heartbeat, Hello, InventoryItem, InventoryPage, Level, Reporting, UpMessage, Welcome,
};
use outpost_proto::name::{AgentName, TenantName, spiffe_id};
use outpost_proto::outcome::Outcome;

use super::{DAY, End, SECOND, Stage, name, report};
use crate::shop;

/// Such a peer, and what it would write down.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each is what the wire calls it")]
pub struct Hand {
    pub tenant: TenantName,
    pub agent: AgentName,
    pub key: String,
    pub not_after: u64,
    pub conn: Conn,
    pub nonce: Nonce,
    pub incarnation: Incarnation,
    pub slots: u16,
    pub flags: Flags,
    pub last: Option<(RecoveryEpoch, CommandSeq)>,
    pub protocol: (u8, u8),
    pub event_seq: u64,
    pub heartbeat: u32,
    pub catalogue: Catalogue,
}

impl Stage {
    /// An agent of `acme` enrols, that the script speaks for. It has not connected.
    ///
    /// # Panics
    /// If it may not enrol.
    pub fn hand(&mut self, agent: &str) -> Hand {
        self.hand_of("acme", agent)
    }

    /// The same of any tenant.
    ///
    /// # Panics
    /// If it may not enrol.
    pub fn hand_of(&mut self, tenant: &str, agent: &str) -> Hand {
        let key = format!("key-{agent}-0");
        self.enrol(tenant, agent, &key).expect("an enrolment");
        Hand::new(tenant, agent, &key, self.now + 365 * DAY * SECOND)
    }
}

impl Hand {
    /// Whoever holds this key of an agent.
    #[must_use]
    pub fn new(tenant: &str, agent: &str, key: &str, not_after: u64) -> Self {
        let mut hand = Self {
            tenant: name(tenant),
            agent: name(agent),
            key: key.to_owned(),
            not_after,
            conn: Conn(0),
            nonce: Nonce(0),
            incarnation: Incarnation(7),
            slots: 2,
            flags: Flags::default(),
            last: None,
            protocol: (1, 1),
            event_seq: 0,
            heartbeat: 0,
            catalogue: Catalogue {
                version: CatalogueVersion(1),
                entries: vec![],
            },
        };
        hand.catalogue = shop::rules(1, &hand.spiffe_id(), None).announced();
        hand
    }

    fn spiffe_id(&self) -> String {
        spiffe_id("sim.test", &self.tenant, &self.agent)
    }

    // --- streams

    /// A stream is opened; nothing is said on it.
    pub fn opens(&mut self, scene: &mut Stage) {
        let stream = scene.stream(End::Hand);
        (self.conn, self.heartbeat) = (Conn(stream), 0);
        let spiffe_id = self.spiffe_id();
        scene.inbox.push(Event::Opened {
            conn: self.conn,
            tenant: self.tenant.clone(),
            agent: self.agent.clone(),
            spiffe_id,
            key_hash: self.key.clone(),
            not_after: self.not_after,
        });
        scene.settles();
    }

    /// Opens a stream and says Hello. Gives the Welcome, if there is one, and takes its nonce.
    pub fn greets(&mut self, scene: &mut Stage) -> Option<Welcome> {
        self.opens(scene);
        let hello = self.hello();
        let said = self.says(scene, vec![hello]);
        let welcome = said.into_iter().find_map(|message| match message {
            DownMessage::Welcome(welcome) => Some(welcome),
            DownMessage::Assign(_) | DownMessage::Directive { .. } | DownMessage::Granted(_) => {
                None
            }
        })?;
        self.nonce = welcome.next_nonce;
        Some(welcome)
    }

    /// From Hello to the first heartbeat, with this inventory. Gives what was said after the Welcome.
    pub fn connects(&mut self, scene: &mut Stage, items: Vec<InventoryItem>) -> Vec<DownMessage> {
        if self.greets(scene).is_none() {
            return Vec::new();
        }
        self.lists(scene, items)
    }

    /// Catalogue, inventory and a heartbeat.
    pub fn lists(&mut self, scene: &mut Stage, items: Vec<InventoryItem>) -> Vec<DownMessage> {
        let catalogue = UpMessage::Catalogue(self.catalogue.clone());
        let mut messages = vec![catalogue];
        messages.extend(pages(items));
        messages.push(self.beat());
        self.says(scene, messages)
    }

    /// What is said goes up as it is. Gives what came down since this hand was last asked.
    pub fn says(&self, scene: &mut Stage, messages: Vec<UpMessage>) -> Vec<DownMessage> {
        scene.goes_up(self.conn.0, &messages);
        scene.settles();
        self.hears(scene)
    }

    /// What came down and was not read yet.
    pub fn hears(&self, scene: &mut Stage) -> Vec<DownMessage> {
        let heard = scene.heard.get_mut(&self.conn.0);
        heard
            .map(|heard| heard.drain(..).collect())
            .unwrap_or_default()
    }

    /// It ends the stream.
    pub fn hangs_up(&self, scene: &mut Stage) {
        scene.hangs_up(self.conn.0);
        scene.settles();
    }

    /// Lets so many seconds pass with a heartbeat every ten.
    pub fn lives(&mut self, scene: &mut Stage, seconds: u64) {
        for _ in 0..seconds / 10 {
            scene.pass(10);
            self.beats(scene);
        }
    }

    // --- messages

    /// Its Hello.
    #[must_use]
    pub fn hello(&self) -> UpMessage {
        UpMessage::Hello(Hello {
            protocol: self.protocol,
            build: (0, 1, 0),
            schema_hash: 1,
            incarnation: self.incarnation,
            last: self.last,
            session_nonce: self.nonce,
            slots: self.slots,
            sandbox: Level::Strict,
            containment: Containment::Cgroup,
            limits: Level::Strict,
            reporting: Reporting::Normal,
        })
    }

    /// Its next heartbeat.
    pub fn beat(&mut self) -> UpMessage {
        self.heartbeat += 1;
        UpMessage::Heartbeat(Heartbeat {
            seq: HeartbeatSeq(self.heartbeat),
            lease_echo: HeartbeatSeq(0),
            slots_free: self.slots,
            running: 0,
            queued: 0,
            flags: self.flags,
            health: Health::default(),
        })
    }

    /// A heartbeat is sent.
    pub fn beats(&mut self, scene: &mut Stage) -> Vec<DownMessage> {
        let beat = self.beat();
        self.says(scene, vec![beat])
    }

    /// Its next event.
    pub fn event(&mut self, attempt: AttemptId, state: AttemptState) -> UpMessage {
        self.event_seq += 1;
        let event_seq = EventSeq(self.event_seq);
        UpMessage::Event(Said {
            event_seq,
            attempt,
            state,
        })
    }

    /// An event is sent.
    pub fn tells(
        &mut self,
        scene: &mut Stage,
        attempt: AttemptId,
        state: AttemptState,
    ) -> Vec<DownMessage> {
        let event = self.event(attempt, state);
        self.says(scene, vec![event])
    }

    /// The end of an attempt is sent.
    pub fn ends(
        &mut self,
        scene: &mut Stage,
        attempt: AttemptId,
        outcome: Outcome,
    ) -> Vec<DownMessage> {
        self.tells(scene, attempt, AttemptState::Finished(report(outcome)))
    }
}

/// An attempt in an inventory.
#[must_use]
pub fn item(assign: &Assign, state: AttemptState, event_seq: u64) -> InventoryItem {
    InventoryItem {
        attempt: assign.attempt,
        run: assign.run,
        task: assign.task,
        fence: assign.fence,
        state,
        event_seq: EventSeq(event_seq),
    }
}

/// A whole inventory in pages, the last with the end marker.
#[must_use]
pub fn pages(items: Vec<InventoryItem>) -> Vec<UpMessage> {
    let all = u32::try_from(items.len()).unwrap_or(u32::MAX);
    let mut pages: Vec<InventoryPage> = items
        .chunks(outpost_proto::limits::INVENTORY_PAGE)
        .map(|items| InventoryPage {
            items: items.to_vec(),
            end: None,
        })
        .collect();
    if pages.is_empty() {
        pages.push(InventoryPage {
            items: vec![],
            end: None,
        });
    }
    if let Some(last) = pages.last_mut() {
        last.end = Some(all);
    }
    pages.into_iter().map(UpMessage::Inventory).collect()
}

/// The assignments among what came down.
#[must_use]
pub fn assigned(said: &[DownMessage]) -> Vec<Assign> {
    let assign = |message: &DownMessage| match message {
        DownMessage::Assign(assign) => Some(assign.clone()),
        DownMessage::Welcome(_) | DownMessage::Directive { .. } | DownMessage::Granted(_) => None,
    };
    said.iter().filter_map(assign).collect()
}
