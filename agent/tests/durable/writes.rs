//! Histories of writes as an agent makes them, drawn by chance.

use outpost_agent_core::record::{AttemptRecord, Memory, SessionRecord, SiteRecord, Write};
use outpost_proto::ids::{
    AttemptId, CatalogueVersion, CommandSeq, EventSeq, Fence, Incarnation, Nonce, RunId, TaskIndex,
};
use outpost_proto::message::{Assign, AttemptState, OnDisconnect, ParamValue};
use outpost_proto::outcome::{Outcome, Report};
use proptest::prelude::*;

/// A directory in memory where there is one: thousands of syncs are not what is tested.
pub(crate) fn scratch() -> tempfile::TempDir {
    let in_memory = tempfile::tempdir_in("/dev/shm");
    in_memory.or_else(|_| tempfile::tempdir()).unwrap()
}

/// An attempt with `text` bytes of parameters.
pub(crate) fn attempt(id: u128, state: AttemptState, text: usize) -> Write {
    let texts = (0..text.div_ceil(4096)).map(|n| {
        let name = format!("p{n}").parse().unwrap();
        let length = (text - n * 4096).min(4096);
        (name, ParamValue::Text("x".repeat(length)))
    });
    let assign = Assign {
        attempt: AttemptId(id),
        run: RunId(1),
        task: TaskIndex(0),
        fence: Fence(1),
        command_seq: CommandSeq(7),
        entry: "copy".parse().unwrap(),
        catalogue_version: CatalogueVersion(1),
        parameters: texts.collect(),
        deadline_ms: None,
        task_name: "copy".parse().unwrap(),
        workflow_name: "nightly".parse().unwrap(),
    };
    Write::Attempt(Box::new(AttemptRecord {
        assign,
        incarnation: Incarnation(3),
        on_disconnect: OnDisconnect::Continue,
        state,
        event_seq: EventSeq(0),
        cancel_requested: false,
    }))
}

pub(crate) fn report() -> Report {
    Report {
        outcome: Outcome::Succeeded,
        may_have_started: true,
        duration_ms: 1,
        exit_code: None,
        count: None,
    }
}

pub(crate) fn settled(id: u128) -> Write {
    Write::Settled(Memory {
        attempt: AttemptId(id),
        run: RunId(1),
        task: TaskIndex(0),
        fence: Fence(1),
        report: report(),
        settled_at_s: 5,
    })
}

fn state(of: u8) -> AttemptState {
    match of {
        0 => AttemptState::Assigned,
        1 => AttemptState::Starting,
        2 => AttemptState::Running,
        _ => AttemptState::Finished(report()),
    }
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        4 => (0..6_u128, 0..4_u8, 0..40_usize).prop_map(|(id, of, text)| attempt(id, state(of), text)),
        2 => (0..6_u128).prop_map(settled),
        1 => (0..6_u128).prop_map(|id| Write::Forgotten(AttemptId(id))),
        2 => (any::<u64>(), any::<u64>()).prop_map(|(seq, nonce)| Write::Session(SessionRecord {
            command_seq: CommandSeq(seq),
            nonce: Nonce(nonce),
            ..SessionRecord::default()
        })),
        1 => any::<bool>().prop_map(|paused| Write::Site(SiteRecord { paused })),
    ]
}

/// Bursts, none of them empty.
pub(crate) fn history() -> impl Strategy<Value = Vec<Vec<Write>>> {
    prop::collection::vec(prop::collection::vec(write(), 1..4), 1..6)
}
