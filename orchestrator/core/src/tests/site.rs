//! A site that behaves, as far as the wire shows it.

use super::*;

/// A site's agent as far as the wire shows it.
pub(super) struct Site {
    pub(super) tenant: TenantName,
    pub(super) agent: AgentName,
    pub(super) conn: Conn,
    pub(super) nonce: Nonce,
    pub(super) incarnation: Incarnation,
    pub(super) event_seq: u64,
    pub(super) heartbeat_seq: u32,
    pub(super) slots: u16,
    pub(super) flags: Flags,
    pub(super) catalogue_version: u32,
    pub(super) last: Option<(RecoveryEpoch, CommandSeq)>,
    pub(super) key: String,
    pub(super) not_after: u64,
}

impl Site {
    pub(super) fn new(agent: &str) -> Self {
        Self {
            tenant: name("acme"),
            agent: name(agent),
            conn: Conn(0),
            nonce: Nonce(0),
            incarnation: Incarnation(1),
            event_seq: 0,
            heartbeat_seq: 0,
            slots: 2,
            flags: Flags::default(),
            catalogue_version: 1,
            last: None,
            key: "key".into(),
            not_after: 0,
        }
    }

    pub(super) fn spiffe_id(&self) -> String {
        outpost_proto::name::spiffe_id("test", &self.tenant, &self.agent)
    }

    pub(super) fn open(&mut self, rig: &mut Rig) -> Happened {
        self.conn = rig.next_conn();
        self.heartbeat_seq = 0;
        let spiffe_id = self.spiffe_id();
        Happened::Opened {
            conn: self.conn,
            tenant: self.tenant.clone(),
            agent: self.agent.clone(),
            spiffe_id,
            key_hash: self.key.clone(),
            not_after: self.not_after,
        }
    }

    pub(super) fn frame(&self, messages: Vec<UpMessage>) -> Happened {
        Happened::Frame {
            conn: self.conn,
            messages,
        }
    }

    pub(super) fn hello(&self) -> UpMessage {
        UpMessage::Hello(Hello {
            protocol: (1, 1),
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

    pub(super) fn catalogue(&self) -> UpMessage {
        let entries = ENTRIES.iter().map(|(entry, retry_safe)| CatalogueEntry {
            hash: EntryHash::new(&self.spiffe_id(), &name::<EntryName>(entry)),
            retry_safe: *retry_safe,
            on_disconnect: OnDisconnect::Continue,
            grace_s: 10,
        });
        UpMessage::Catalogue(Catalogue {
            version: CatalogueVersion(self.catalogue_version),
            entries: entries.collect(),
        })
    }

    pub(super) fn inventory(items: Vec<InventoryItem>) -> UpMessage {
        let end = Some(u32::try_from(items.len()).unwrap());
        UpMessage::Inventory(InventoryPage { items, end })
    }

    pub(super) fn item(
        &self,
        assign: &Assign,
        state: AttemptState,
        event_seq: u64,
    ) -> InventoryItem {
        InventoryItem {
            attempt: assign.attempt,
            run: assign.run,
            task: assign.task,
            fence: assign.fence,
            state,
            event_seq: EventSeq(event_seq),
        }
    }

    pub(super) fn heartbeat(&mut self) -> UpMessage {
        self.heartbeat_seq += 1;
        UpMessage::Heartbeat(Heartbeat {
            seq: HeartbeatSeq(self.heartbeat_seq),
            lease_echo: HeartbeatSeq(0),
            slots_free: self.slots,
            running: 0,
            queued: 0,
            flags: self.flags,
            health: Health::default(),
        })
    }

    pub(super) fn event(&mut self, attempt: AttemptId, state: AttemptState) -> UpMessage {
        self.event_seq += 1;
        UpMessage::Event(Event {
            event_seq: EventSeq(self.event_seq),
            attempt,
            state,
        })
    }

    /// Hello to heartbeat; gives what was said after the Welcome.
    pub(super) fn connect(&mut self, rig: &mut Rig, items: Vec<InventoryItem>) -> Vec<Speech> {
        let opened = self.open(rig);
        let hello = self.frame(vec![self.hello()]);
        let mut said = rig.turn(&[opened, hello]);
        let welcome = messages(&said);
        let [DownMessage::Welcome(welcome)] = &welcome[..] else {
            panic!("{said:?}")
        };
        self.nonce = welcome.next_nonce;
        said.retain(|speech| !matches!(speech, Speech::Send { .. }));
        let heartbeat = self.heartbeat();
        let listing = self.frame(vec![self.catalogue(), Self::inventory(items), heartbeat]);
        said.extend(rig.turn(&[listing]));
        said
    }

    /// The host reboots, and takes longer for it than the agent counts as in touch: nothing of before runs any more.
    pub(super) fn reboots(&mut self, rig: &mut Rig, items: Vec<InventoryItem>) -> Vec<Speech> {
        rig.turn(&[self.close()]);
        rig.pass_ms(50_000);
        self.incarnation.0 += 1;
        self.connect(rig, items)
    }

    /// One frame; gives what was said.
    pub(super) fn says(&mut self, rig: &mut Rig, message: UpMessage) -> Vec<Speech> {
        rig.turn(&[self.frame(vec![message])])
    }

    pub(super) fn tells(
        &mut self,
        rig: &mut Rig,
        attempt: AttemptId,
        state: AttemptState,
    ) -> Vec<Speech> {
        let event = self.event(attempt, state);
        self.says(rig, event)
    }

    pub(super) fn ends(
        &mut self,
        rig: &mut Rig,
        attempt: AttemptId,
        outcome: Outcome,
    ) -> Vec<Speech> {
        self.tells(rig, attempt, AttemptState::Finished(report(outcome)))
    }

    pub(super) fn beats(&mut self, rig: &mut Rig) -> Vec<Speech> {
        let heartbeat = self.heartbeat();
        self.says(rig, heartbeat)
    }

    pub(super) fn close(&self) -> Happened {
        Happened::Closed { conn: self.conn }
    }

    pub(super) fn ack(&self, highest: u64) -> Speech {
        self.granted(highest, None)
    }

    pub(super) fn granted(&self, highest: u64, lease: Option<u32>) -> Speech {
        let lease = lease.map(|seq| (HeartbeatSeq(seq), 30_000));
        let granted = Granted {
            highest_event_seq: EventSeq(highest),
            lease,
        };
        Speech::Send {
            conn: self.conn,
            messages: vec![DownMessage::Granted(granted)],
        }
    }
}
