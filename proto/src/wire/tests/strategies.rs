//! Every valid message, at random.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::samples::session_end;
use crate::ids::{
    AttemptId, CatalogueVersion, CommandSeq, EventSeq, Fence, HeartbeatSeq, Incarnation, Nonce,
    RecoveryEpoch, RunId, SessionEpoch, TaskIndex,
};
use crate::message::{
    Assign, AttemptState, Catalogue, CatalogueEntry, Containment, Directive, DownMessage, Event,
    Flags, Granted, Health, Heartbeat, Hello, InventoryItem, InventoryPage, Level, Linked,
    OnDisconnect, ParamValue, Receipt, Reporting, UpMessage, Welcome,
};
use crate::name::{EntryHash, ParamName};
use crate::outcome::{Outcome, Report};

/// What fits into this many bits, its ends more often than chance would have them.
fn bits(max_bits: u32) -> impl Strategy<Value = u64> {
    let max = u64::MAX >> (64 - max_bits);
    prop_oneof![4 => 0..=max, 1 => Just(0), 1 => Just(max)]
}

fn bits16(max_bits: u32) -> impl Strategy<Value = u16> {
    bits(max_bits).prop_map(|value| value as u16)
}

fn counted() -> impl Strategy<Value = u64> {
    bits(48).prop_map(|value| value.max(1))
}

pub(super) fn up() -> impl Strategy<Value = UpMessage> {
    prop_oneof![
        hello().prop_map(UpMessage::Hello),
        catalogue().prop_map(UpMessage::Catalogue),
        inventory().prop_map(UpMessage::Inventory),
        event().prop_map(UpMessage::Event),
        heartbeat().prop_map(UpMessage::Heartbeat),
        (any::<u16>(), counted()).prop_map(|(trigger, seq)| UpMessage::Trigger {
            trigger,
            event_seq: EventSeq(seq)
        }),
        bits(48).prop_map(|seq| UpMessage::Ack(CommandSeq(seq))),
    ]
}

fn recovery() -> impl Strategy<Value = RecoveryEpoch> {
    any::<(u32, u64)>().prop_map(|(counter, database)| RecoveryEpoch { counter, database })
}

fn hello() -> impl Strategy<Value = Hello> {
    let level = || select(vec![Level::None, Level::Partial, Level::Strict]);
    let containment = select(vec![
        Containment::Cgroup,
        Containment::PidNamespace,
        Containment::Subreaper,
    ]);
    let reporting = select(vec![Reporting::Normal, Reporting::Strict]);
    let numbers = (any::<(u8, u8)>(), any::<(u16, u16, u16)>(), bits16(12));
    let last = option::of((recovery(), bits(48).prop_map(CommandSeq)));
    let words = (any::<(u64, u64, u64)>(), last);
    let kinds = (level(), containment, level(), reporting);
    (numbers, words, kinds).prop_map(|(numbers, words, kinds)| {
        let ((one, other), build, slots) = numbers;
        let ((schema_hash, incarnation, nonce), last) = words;
        let (sandbox, containment, limits, reporting) = kinds;
        Hello {
            protocol: (one.min(other), one.max(other)),
            build,
            schema_hash,
            incarnation: Incarnation(incarnation),
            last,
            session_nonce: Nonce(nonce),
            slots,
            sandbox,
            containment,
            limits,
            reporting,
        }
    })
}

fn catalogue() -> impl Strategy<Value = Catalogue> {
    let on_disconnect = prop_oneof![
        Just(OnDisconnect::Continue),
        bits(20).prop_map(|seconds| OnDisconnect::StopAfter(seconds as u32)),
    ];
    let entry = (any::<(u64, bool)>(), on_disconnect, bits16(12)).prop_map(
        |((hash, retry_safe), on_disconnect, grace_s)| CatalogueEntry {
            hash: EntryHash(hash),
            retry_safe,
            on_disconnect,
            grace_s,
        },
    );
    (any::<u32>(), vec(entry, 0..20)).prop_map(|(version, entries)| Catalogue {
        version: CatalogueVersion(version),
        entries,
    })
}

fn report() -> impl Strategy<Value = Report> {
    let opted_in = (any::<Option<u8>>(), option::of(0..u16::MAX));
    (select(Outcome::all()), any::<bool>(), bits(36), opted_in).prop_map(
        |(outcome, may_have_started, duration_ms, (exit_code, count))| Report {
            outcome,
            may_have_started,
            duration_ms,
            exit_code,
            count,
        },
    )
}

fn state() -> impl Strategy<Value = AttemptState> {
    prop_oneof![
        Just(AttemptState::Assigned),
        Just(AttemptState::Starting),
        Just(AttemptState::Running),
        report().prop_map(AttemptState::Finished),
    ]
}

fn inventory() -> impl Strategy<Value = InventoryPage> {
    let ids = any::<(u128, u128, u16)>();
    let item = (ids, bits(48), state(), bits(48)).prop_map(
        |((attempt, run, task), fence, state, event_seq)| InventoryItem {
            attempt: AttemptId(attempt),
            run: RunId(run),
            task: TaskIndex(task),
            fence: Fence(fence),
            state,
            event_seq: EventSeq(event_seq),
        },
    );
    (vec(item, 0..8), option::of(0u32..1 << 18))
        .prop_map(|(items, end)| InventoryPage { items, end })
}

fn event() -> impl Strategy<Value = Event> {
    (counted(), any::<u128>(), state()).prop_map(|(seq, attempt, state)| Event {
        event_seq: EventSeq(seq),
        attempt: AttemptId(attempt),
        state,
    })
}

fn heartbeat() -> impl Strategy<Value = Heartbeat> {
    let flags = any::<[bool; 4]>().prop_map(|[paused, draining, observe, hold]| Flags {
        paused,
        draining,
        observe,
        hold,
    });
    let numbers = (1..=u32::MAX, any::<u32>(), bits16(12), bits16(12));
    (numbers, any::<u16>(), flags, health()).prop_map(|(numbers, queued, flags, health)| {
        Heartbeat {
            seq: HeartbeatSeq(numbers.0),
            lease_echo: HeartbeatSeq(numbers.1),
            slots_free: numbers.2,
            running: numbers.3,
            queued,
            flags,
            health,
        }
    })
}

fn health() -> impl Strategy<Value = Health> {
    let shares = [0..=100u8, 0..=100, 0..=100, 0..=100, 0..=100, 0..=100];
    (shares, bits16(12), any::<(u32, u16)>(), bits16(12)).prop_map(
        |(shares, load_percent, (uptime_s, refusals), days)| Health {
            cpu_percent: shares[0],
            memory_percent: shares[1],
            disk_percent: shares[2],
            load_percent,
            pressure_percent: shares[3],
            uptime_s,
            certificate_days_left: days,
            refusals,
            ledger_percent: shares[4],
            log_percent: shares[5],
        },
    )
}

pub(super) fn down() -> impl Strategy<Value = DownMessage> {
    let lease = option::of((1..=u32::MAX, any::<u32>()));
    let granted = (bits(48), lease).prop_map(|(seq, lease)| Granted {
        highest_event_seq: EventSeq(seq),
        lease: lease.map(|(heartbeat, lease_ms)| (HeartbeatSeq(heartbeat), lease_ms)),
    });
    prop_oneof![
        welcome().prop_map(DownMessage::Welcome),
        assign().prop_map(DownMessage::Assign),
        (counted(), directive()).prop_map(|(seq, directive)| DownMessage::Directive {
            command_seq: CommandSeq(seq),
            directive,
        }),
        granted.prop_map(DownMessage::Granted),
    ]
}

fn welcome() -> impl Strategy<Value = Welcome> {
    let counters = (1..=u64::MAX, any::<u64>(), bits(48), any::<u64>());
    (
        any::<u8>(),
        counters,
        recovery(),
        1..=u32::MAX,
        any::<u32>(),
    )
        .prop_map(
            |(protocol, counters, recovery, heartbeat_interval_ms, lease_ms)| Welcome {
                protocol,
                session_epoch: SessionEpoch(counters.0),
                recovery,
                next_nonce: Nonce(counters.1),
                highest_event_seq: EventSeq(counters.2),
                heartbeat_interval_ms,
                lease_ms,
                server_time_us: counters.3,
            },
        )
}

fn directive() -> impl Strategy<Value = Directive> {
    let attempt = || any::<u128>().prop_map(AttemptId);
    let receipt = (1..=u64::MAX, any::<u64>(), any::<[u8; 32]>());
    prop_oneof![
        attempt().prop_map(Directive::Keep),
        attempt().prop_map(Directive::Cancel),
        attempt().prop_map(Directive::Forget),
        select(vec![
            Directive::Drain,
            Directive::Cordon,
            Directive::Uncordon,
            Directive::RenewNow,
            Directive::Reconciled,
        ]),
        (
            receipt,
            vec(any::<u8>(), 1..=80),
            vec(any::<u8>(), 0..=80),
            option::of(vec(any::<u8>(), 1..=80)),
            0..=8_u64
        )
            .prop_map(
                |((epoch, frame_count, head), signature, named_signature, links, back)| {
                    let ends = epoch.saturating_sub(back).max(1)..epoch;
                    Directive::Receipt(Receipt {
                        session_epoch: SessionEpoch(epoch),
                        frame_count,
                        head,
                        signature,
                        named_signature,
                        linked: links.map(|signature| Linked {
                            since: SessionEpoch(ends.start.min(epoch)),
                            before: ends.map(session_end).collect(),
                            signature,
                        }),
                    })
                }
            ),
    ]
}

fn parameter_value() -> impl Strategy<Value = ParamValue> {
    prop_oneof![
        any::<bool>().prop_map(ParamValue::Flag),
        any::<i64>().prop_map(ParamValue::Integer),
        "[^\\x00]{0,40}".prop_map(ParamValue::Text),
    ]
}

fn assign() -> impl Strategy<Value = Assign> {
    let name = || "[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?";
    let key = name().prop_map(|text| text.parse::<ParamName>().unwrap());
    let parameters = btree_map(key, parameter_value(), 0..8);
    let ids = (any::<(u128, u128, u16, u32)>(), bits(48), counted());
    let deadline = option::of(1..=u64::MAX);
    (ids, [name(), name(), name()], parameters, deadline).prop_map(
        |(ids, [entry, task_name, workflow_name], parameters, deadline_ms)| {
            let ((attempt, run, task, version), fence, command_seq) = ids;
            Assign {
                attempt: AttemptId(attempt),
                run: RunId(run),
                task: TaskIndex(task),
                fence: Fence(fence),
                command_seq: CommandSeq(command_seq),
                entry: entry.parse().unwrap(),
                catalogue_version: CatalogueVersion(version),
                parameters: parameters.into_iter().collect(),
                deadline_ms,
                task_name: task_name.parse().unwrap(),
                workflow_name: workflow_name.parse().unwrap(),
            }
        },
    )
}
