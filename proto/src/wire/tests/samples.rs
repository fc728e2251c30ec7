//! One message of every kind, with every part filled and every number different.

use crate::ids::{
    AttemptId, CatalogueVersion, CommandSeq, EventSeq, Fence, HeartbeatSeq, Incarnation, Nonce,
    RecoveryEpoch, RunId, SessionEpoch, TaskIndex,
};
use crate::message::{
    Assign, AttemptState, Catalogue, CatalogueEntry, Containment, Directive, DownMessage, Event,
    Flags, Granted, Health, Heartbeat, Hello, InventoryItem, InventoryPage, Level, Linked,
    OnDisconnect, ParamValue, Receipt, Reporting, SessionEnd, UpMessage, Welcome,
};
use crate::name::EntryHash;
use crate::outcome::{KillReason, Outcome, Report};

pub(super) const ATTEMPT: AttemptId = AttemptId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
const RUN: RunId = RunId(0xfedc_ba98_7654_3210_0123_4567_89ab_cdef);
const RECOVERY: RecoveryEpoch = RecoveryEpoch {
    counter: 3,
    database: 0xdada_0000_0000_0001,
};

pub(super) fn up() -> Vec<(&'static str, UpMessage)> {
    vec![
        ("up-hello", UpMessage::Hello(hello())),
        ("up-catalogue", UpMessage::Catalogue(catalogue())),
        ("up-inventory", UpMessage::Inventory(inventory())),
        ("up-event", UpMessage::Event(event())),
        ("up-heartbeat", UpMessage::Heartbeat(heartbeat())),
        (
            "up-trigger",
            UpMessage::Trigger {
                trigger: 17,
                event_seq: EventSeq(1001),
            },
        ),
        ("up-ack", UpMessage::Ack(CommandSeq(2002))),
    ]
}

pub(super) fn hello() -> Hello {
    Hello {
        protocol: (1, 2),
        build: (0, 1, 300),
        schema_hash: 0x1234_5678_9abc_def0,
        incarnation: Incarnation(0x1111_2222_3333_4444),
        last: Some((RECOVERY, CommandSeq(77))),
        session_nonce: Nonce(0x9999_8888_7777_6666),
        slots: 8,
        sandbox: Level::Strict,
        containment: Containment::PidNamespace,
        limits: Level::Partial,
        reporting: Reporting::Normal,
    }
}

fn catalogue() -> Catalogue {
    Catalogue {
        version: CatalogueVersion(5),
        entries: vec![
            CatalogueEntry {
                hash: EntryHash(0x0102_0304_0506_0708),
                retry_safe: true,
                on_disconnect: OnDisconnect::StopAfter(3600),
                grace_s: 30,
            },
            CatalogueEntry {
                hash: EntryHash(0x1112_1314_1516_1718),
                retry_safe: false,
                on_disconnect: OnDisconnect::Continue,
                grace_s: 10,
            },
        ],
    }
}

fn inventory() -> InventoryPage {
    InventoryPage {
        items: vec![InventoryItem {
            attempt: ATTEMPT,
            run: RUN,
            task: TaskIndex(4),
            fence: Fence(901),
            state: AttemptState::Finished(report()),
            event_seq: EventSeq(55),
        }],
        end: Some(1),
    }
}

pub(super) fn event() -> Event {
    Event {
        event_seq: EventSeq(56),
        attempt: ATTEMPT,
        state: AttemptState::Finished(report()),
    }
}

fn report() -> Report {
    Report {
        outcome: Outcome::Killed(KillReason::Keeper),
        may_have_started: true,
        duration_ms: 123_456,
        exit_code: Some(137),
        count: Some(12),
    }
}

pub(super) fn heartbeat() -> Heartbeat {
    Heartbeat {
        seq: HeartbeatSeq(41),
        lease_echo: HeartbeatSeq(40),
        slots_free: 6,
        running: 2,
        queued: 3,
        flags: Flags {
            paused: true,
            draining: true,
            observe: true,
            hold: true,
        },
        health: Health {
            cpu_percent: 11,
            memory_percent: 22,
            disk_percent: 33,
            load_percent: 444,
            pressure_percent: 5,
            uptime_s: 66_666,
            certificate_days_left: 77,
            refusals: 8,
            ledger_percent: 9,
            log_percent: 10,
        },
    }
}

pub(super) fn down() -> Vec<(&'static str, DownMessage)> {
    let directive = |directive| DownMessage::Directive {
        command_seq: CommandSeq(78),
        directive,
    };
    vec![
        ("down-welcome", DownMessage::Welcome(welcome())),
        ("down-assign", DownMessage::Assign(assign())),
        ("down-keep", directive(Directive::Keep(ATTEMPT))),
        ("down-cancel", directive(Directive::Cancel(ATTEMPT))),
        ("down-forget", directive(Directive::Forget(ATTEMPT))),
        ("down-drain", directive(Directive::Drain)),
        ("down-cordon", directive(Directive::Cordon)),
        ("down-uncordon", directive(Directive::Uncordon)),
        ("down-receipt", directive(Directive::Receipt(receipt()))),
        ("down-renew-now", directive(Directive::RenewNow)),
        ("down-reconciled", directive(Directive::Reconciled)),
        (
            "down-granted",
            DownMessage::Granted(Granted {
                highest_event_seq: EventSeq(56),
                lease: Some((HeartbeatSeq(41), 30_000)),
            }),
        ),
    ]
}

pub(super) fn welcome() -> Welcome {
    Welcome {
        protocol: 1,
        session_epoch: SessionEpoch(12),
        recovery: RECOVERY,
        next_nonce: Nonce(0x5555_4444_3333_2222),
        highest_event_seq: EventSeq(54),
        heartbeat_interval_ms: 10_000,
        lease_ms: 30_000,
        server_time_us: 1_700_000_000_000_000,
    }
}

pub(super) fn assign() -> Assign {
    Assign {
        attempt: ATTEMPT,
        run: RUN,
        task: TaskIndex(4),
        fence: Fence(901),
        command_seq: CommandSeq(78),
        entry: "backup".parse().unwrap(),
        catalogue_version: CatalogueVersion(5),
        parameters: vec![
            ("depth".parse().unwrap(), ParamValue::Integer(-3)),
            ("dry-run".parse().unwrap(), ParamValue::Flag(false)),
            ("target".parse().unwrap(), ParamValue::Text("eu/1".into())),
        ],
        deadline_ms: Some(60_000),
        task_name: "copy".parse().unwrap(),
        workflow_name: "nightly".parse().unwrap(),
    }
}

pub(super) fn receipt() -> Receipt {
    Receipt {
        session_epoch: SessionEpoch(12),
        frame_count: 345,
        head: [0xab; 32],
        signature: vec![0x30, 0x06, 0x02, 0x01, 0x01, 0x02, 0x01, 0x01],
        named_signature: vec![0x30, 0x06, 0x02, 0x01, 0x02, 0x02, 0x01, 0x02],
        linked: Some(Linked {
            since: SessionEpoch(3),
            before: vec![session_end(10), session_end(11)],
            signature: vec![0x30, 0x06, 0x02, 0x01, 0x03, 0x02, 0x01, 0x03],
        }),
    }
}

pub(super) fn session_end(epoch: u64) -> SessionEnd {
    SessionEnd {
        session_epoch: SessionEpoch(epoch),
        frame_count: 100 + epoch,
        head: [0xcd; 32],
    }
}
