use outpost_agent_core::record::Snapshot;
use outpost_proto::ids::{CatalogueVersion, CommandSeq, Fence, Incarnation, RunId, TaskIndex};
use outpost_proto::message::{Assign, OnDisconnect};
use outpost_proto::outcome::{Outcome, Report};

use super::super::{Journal, JournalError, peek};
use super::*;

fn assigned(attempt: u128) -> AttemptRecord {
    AttemptRecord {
        assign: Assign {
            attempt: AttemptId(attempt),
            run: RunId(7),
            task: TaskIndex(3),
            fence: Fence(9),
            command_seq: CommandSeq(4),
            entry: "copy".parse().unwrap(),
            catalogue_version: CatalogueVersion(1),
            parameters: vec![],
            deadline_ms: Some(1000),
            task_name: "task".parse().unwrap(),
            workflow_name: "flow".parse().unwrap(),
        },
        incarnation: Incarnation(5),
        on_disconnect: OnDisconnect::Continue,
        state: AttemptState::Assigned,
        event_seq: EventSeq(0),
        cancel_requested: false,
    }
}

fn at(state: AttemptState, number: u64) -> Write {
    Write::Attempt(Box::new(AttemptRecord {
        state,
        event_seq: EventSeq(number),
        ..assigned(1)
    }))
}

fn over() -> AttemptState {
    AttemptState::Finished(Report {
        outcome: Outcome::Succeeded,
        may_have_started: true,
        duration_ms: 12,
        exit_code: Some(0),
        count: None,
    })
}

/// An attempt from its assignment to the memory of it.
fn life() -> Vec<Write> {
    let Write::Attempt(end) = at(over(), 77) else {
        unreachable!()
    };
    vec![
        Write::Attempt(Box::new(assigned(1))),
        at(AttemptState::Starting, 0),
        at(AttemptState::Running, 76),
        at(over(), 77),
        Write::Settled(end.memory(1_700_000_000).unwrap()),
    ]
}

fn text(line: &str) -> String {
    format!("{:08x} {line}\n", crc32fast::hash(line.as_bytes()))
}

#[test]
fn what_moves_an_attempt_is_a_short_line_and_says_the_same() {
    for bursts in [1, 5] {
        let dir = crate::testing::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        let mut mirror = Mirror::default();
        let life = life();
        for burst in life.chunks(life.len() / bursts) {
            journal.commit(burst).unwrap();
            burst.iter().for_each(|write| mirror.apply(write));
            assert_eq!(journal.snapshot(), mirror.snapshot());
            assert_eq!(peek(dir.path()).unwrap(), mirror.snapshot());
        }
        let written = std::fs::read_to_string(dir.path().join("journal")).unwrap();
        assert_eq!(written.matches("\"assign\"").count(), 1, "{written}");
        assert_eq!(written.matches("\"step\"").count(), 3, "{written}");
        assert_eq!(written.matches("\"over\"").count(), 1, "{written}");
    }
}

#[test]
fn what_is_no_step_is_told_as_a_whole() {
    let mut mirror = Mirror::default();
    let whole = |write: &Write, mirror: &Mirror| matches!(Told::of(write, mirror), Told::Whole(_));
    let first = Write::Attempt(Box::new(assigned(1)));
    assert!(whole(&first, &mirror), "nothing is known of it");
    mirror.apply(&first);
    let mut other = assigned(1);
    other.assign.fence = Fence(10);
    assert!(whole(&Write::Attempt(Box::new(other)), &mirror));
    let settled = life().pop().unwrap();
    assert!(whole(&settled, &mirror), "it is not over");
    mirror.apply(&at(over(), 77));
    assert!(!whole(&settled, &mirror));
}

#[test]
fn a_journal_of_format_1_is_read_and_written_anew() {
    let dir = crate::testing::tempdir().unwrap();
    let path = dir.path().join("journal");
    let mut mirror = Mirror::default();
    let mut old = text(r#"{"outpost_journal":1}"#);
    for write in &life()[..4] {
        mirror.apply(write);
        old += &text(&serde_json::to_string(&[write]).unwrap());
    }
    std::fs::write(&path, &old).unwrap();
    assert_eq!(peek(dir.path()).unwrap(), mirror.snapshot());
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        old,
        "looking changes nothing"
    );
    let mut journal = Journal::open(dir.path()).unwrap();
    assert_eq!(journal.snapshot(), mirror.snapshot());
    journal.commit(&life()[4..]).unwrap();
    drop(journal);
    mirror.apply(&life()[4]);
    assert_eq!(
        Journal::open(dir.path()).unwrap().snapshot(),
        mirror.snapshot()
    );
    let new = std::fs::read_to_string(&path).unwrap();
    assert!(new.starts_with(&text(r#"{"outpost_journal":2}"#)), "{new}");
}

#[test]
fn a_step_of_nothing_is_damage() {
    let dir = crate::testing::tempdir().unwrap();
    let step = r#"[{"step":["00000000000000000000000000000001","running",5,false]}]"#;
    let header = text(r#"{"outpost_journal":2}"#);
    std::fs::write(dir.path().join("journal"), header.clone() + &text(step)).unwrap();
    let damaged = Journal::open(dir.path()).unwrap_err();
    let offset = header.len() as u64;
    assert!(
        matches!(damaged, JournalError::Damaged { offset: at, .. } if at == offset),
        "{damaged}"
    );
    assert_ne!(serde_json::from_str::<Vec<Read>>(step).unwrap().len(), 0);
    assert_eq!(Mirror::default().snapshot(), Snapshot::default());
}
