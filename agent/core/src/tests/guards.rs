//! Small guards, each alone: what keeps a start back, which stream is which, when numbers are reserved, when something is
//! due. Histories elsewhere meet several of them at once, and one then stands in for another.

use std::time::Duration;

use outpost_driver::{Effects, Micros};
use outpost_proto::ids::{AttemptId, CommandSeq, Conn, EventSeq, Fence, RunId, TaskIndex};
use outpost_proto::limits::REMEMBERED;
use outpost_proto::message::{AttemptState, Directive, DownMessage, Reporting, UpMessage};
use outpost_proto::outcome::{Outcome, Report};

use super::harness::*;
use crate::Settings;
use crate::event::{Alarm, Down, Event, KeeperSaid, NotRecovered, Speech};
use crate::lines::Lines;
use crate::memory::Memories;
use crate::outbox::told;
use crate::record::Memory;
use crate::session::{Connector, Phase};

/// An agent with one slot that runs 1 and holds 2.
fn one_waits(settings: Settings) -> Stage {
    let mut stage = Stage::new(Settings {
        slots: 1,
        ..settings
    });
    stage.ready(Some(shop(1, &[("copy", free())])));
    let jobs = vec![stage.job(1, "copy"), stage.job(2, "copy")];
    stage.frame(jobs);
    stage.said.clear();
    stage
}

/// What a free slot lets begin, with nothing else done in the turn.
fn begins(stage: &mut Stage) -> Vec<Speech> {
    stage.agent.attempts.set(
        AttemptId(1),
        AttemptState::Finished(report(Outcome::Succeeded)),
        stage.now,
    );
    let mut out = Effects::new();
    stage.agent.start(stage.now, &mut out);
    let starts = |said: &Speech| matches!(said, Speech::Start { .. });
    out.speech.into_iter().filter(starts).collect()
}

/// Shuts one gate.
type Shut = fn(&mut Stage, Micros);

#[test]
fn each_gate_keeps_a_start_back_by_itself() {
    assert_eq!(begins(&mut one_waits(settings())).len(), 1);
    let later = Micros(u64::MAX);
    let shut: [(&str, Shut); 6] = [
        ("paused", |stage, _| stage.agent.site.paused = true),
        ("observe", |stage, _| stage.agent.settings.observe = true),
        ("hold", |stage, _| {
            stage.agent.counters.hold = Some(LIFE);
        }),
        ("stopping", |stage, at| {
            stage.agent.gates.stopping = Some(at);
        }),
        ("no room", |stage, _| stage.agent.gates.no_room = true),
        ("draining", |stage, at| {
            stage.agent.gates.draining = Some(at);
        }),
    ];
    for (what, shut) in shut {
        let mut stage = one_waits(settings());
        shut(&mut stage, later);
        assert_eq!(begins(&mut stage), [], "{what}");
    }
}

#[test]
fn a_changed_catalogue_is_announced_at_once_beside_what_may_wait() {
    let mut stage = one_waits(Settings {
        report_within: Duration::from_millis(5),
        ..settings()
    });
    stage.spoken(&[shop(1, &[("copy", free())])]);
    let said = stage.sent();
    assert!(
        said.iter()
            .any(|said| matches!(said, UpMessage::Catalogue(_))),
        "{said:?}"
    );
    assert!(said.contains(&UpMessage::Ack(CommandSeq(stage.command))));
}

#[test]
fn numbers_are_reserved_a_thousand_at_a_time_and_only_then() {
    let mut agent = Stage::new(settings()).agent;
    for round in 1..=3_u64 {
        assert_eq!(agent.next_number(), EventSeq(round * 1000 - 999));
        assert_eq!(
            agent.counters.event_seq_reserved,
            EventSeq(round * 1000),
            "durable before the first of them is said"
        );
        assert!(std::mem::take(&mut agent.counters_changed));
        for _ in 0..999 {
            agent.next_number();
        }
        assert!(!agent.counters_changed, "one sync for all of them");
    }
}

#[test]
fn the_longest_duration_told_is_the_longest_that_the_wire_carries() {
    let ended = |duration_ms| {
        AttemptState::Finished(Report {
            duration_ms,
            ..report(Outcome::Succeeded)
        })
    };
    let longest = ended(68_719_476_735);
    for reporting in [Reporting::Normal, Reporting::Strict] {
        assert_eq!(told(ended(u64::MAX), reporting), longest);
    }
    assert_eq!(told(longest, Reporting::Normal), longest);
}

// --- streams

fn connector() -> Connector {
    Connector::new([0; 32], Micros(0))
}

fn reach(connector: &mut Connector, phase: Phase) {
    if let Some(session) = connector.session.as_mut() {
        session.enter(phase, Micros(0));
    }
}

#[test]
fn a_heartbeat_is_due_as_soon_as_there_is_an_inventory_and_not_before() {
    let mut connector = connector();
    connector.dial(Micros(0));
    let session = connector.session.as_mut().unwrap();
    session.enter(Phase::Welcomed, Micros(0));
    session.agree(&welcome(), Micros(0), Duration::ZERO);
    session.heartbeat_sent(Micros(0));
    assert_eq!(session.next_deadline(), session.patience_ends());
    for phase in [Phase::Reconciling, Phase::Ready] {
        session.enter(phase, Micros(0));
        assert_eq!(session.next_deadline(), Micros(10 * SECOND), "{phase:?}");
        assert!(!session.heartbeat_due(Micros(10 * SECOND - 1)));
        assert!(session.heartbeat_due(Micros(10 * SECOND)));
    }
}

#[test]
fn who_tells_seldom_waits_as_many_of_its_own_intervals_for_an_answer() {
    let mut connector = connector();
    connector.dial(Micros(0));
    let session = connector.session.as_mut().unwrap();
    let often = outpost_proto::message::Welcome {
        heartbeat_interval_ms: 1000,
        ..welcome()
    };
    session.agree(&often, Micros(0), Duration::from_secs(20));
    session.enter(Phase::Ready, Micros(0));
    assert_eq!(session.patience_ends(), Micros(80 * SECOND));
}

#[test]
fn after_a_ready_session_the_next_failure_is_a_first_one() {
    let settings = settings();
    let base = 200_000;
    let mut connector = connector();
    for _ in 0..20 {
        for _ in 0..12 {
            connector.dial(Micros(0));
            connector.lost(Micros(0), Down::Unreachable, &settings);
        }
        connector.dial(Micros(0));
        reach(&mut connector, Phase::Ready);
        connector.succeeded();
        connector.lost(Micros(0), Down::Unreachable, &settings);
        assert!(connector.retry_at.0 <= base, "{:?}", connector.retry_at);
    }
    for _ in 0..20 {
        connector.dial(Micros(0));
        reach(&mut connector, Phase::Ready);
        for _ in 0..12 {
            connector.dial_successor(Micros(0));
            connector.successor_lost(Micros(0), &settings);
        }
        connector.succeeded();
        connector.dial_successor(Micros(0));
        connector.successor_lost(Micros(0), &settings);
        let due = connector.successor_due().unwrap();
        assert!(due.0 <= base, "{due:?}");
    }
}

#[test]
fn a_successor_is_dialled_beside_a_session_that_works_and_one_at_a_time() {
    let mut connector = connector();
    connector.want_successor(Micros(1));
    assert_eq!(connector.successor_due(), None, "there is no session");
    connector.dial(Micros(0));
    connector.want_successor(Micros(5));
    assert_eq!(connector.successor_due(), None, "it is not ready");
    reach(&mut connector, Phase::Ready);
    assert_eq!(connector.successor_due(), Some(Micros(5)));
    connector.dial_successor(Micros(5));
    connector.want_successor(Micros(6));
    assert_eq!(connector.successor_due(), None, "one is being made");
}

#[test]
fn each_stream_is_what_it_is_and_nothing_else() {
    let mut connector = connector();
    let known = |connector: &Connector, conn| {
        (
            connector.is_successor(conn),
            connector.is_fading(conn),
            connector.is_succeeding(),
        )
    };
    let first = connector.dial(Micros(0));
    reach(&mut connector, Phase::Ready);
    assert_eq!(known(&connector, first), (false, false, false));
    let second = connector.dial_successor(Micros(0));
    assert_eq!(known(&connector, first), (false, false, true));
    assert_eq!(known(&connector, second), (true, false, true));
    assert_eq!(connector.take_over(), None);
    assert_eq!(known(&connector, first), (false, true, true));
    assert_eq!(known(&connector, second), (false, false, true));
    assert_eq!(known(&connector, Conn(9)), (false, false, true));
    assert_eq!(connector.faded(), Some(first));
    assert_eq!(known(&connector, first), (false, false, false));
}

#[test]
fn a_successor_that_does_not_come_is_given_up_in_time() {
    let mut connector = connector();
    connector.dial(Micros(0));
    reach(&mut connector, Phase::Ready);
    assert_eq!(connector.successor_patience_ends(), None);
    connector.dial_successor(Micros(SECOND));
    let ends = connector.successor_patience_ends();
    assert_eq!(ends, Some(Micros(61 * SECOND)));
}

#[test]
fn each_recovery_that_failed_lets_the_next_one_wait_longer() {
    let mut agent = Stage::new(settings()).agent;
    let now = Micros(SECOND);
    let longest = |agent: &mut crate::Agent| {
        let waits = (0..100).map(|_| {
            agent.has_ended(now);
            agent.connector.retry_at.0 - now.0
        });
        waits.max().unwrap()
    };
    let mut bound = 4 * SECOND;
    for _ in 0..4 {
        let wait = longest(&mut agent);
        assert!((bound / 2..=bound).contains(&wait), "{wait} of {bound}");
        agent.recover(now, &mut Effects::new());
        agent.recovery_failed(now, NotRecovered::Later);
        bound *= 2;
    }
}

// --- what is said and taken

#[test]
fn a_heartbeat_goes_out_when_it_is_due_and_counts_what_waits() {
    let mut stage = one_waits(Settings {
        report_within: Duration::from_millis(5),
        ..settings()
    });
    stage.after(SECOND);
    stage.spoken(&[]);
    stage.said.clear();
    stage.after(9 * SECOND);
    // What comes in the same turn may wait; the heartbeat may not.
    let order = stage.order(Directive::Cordon);
    stage.frame(vec![order]);
    let said = stage.sent();
    let heartbeat = said.iter().find_map(|said| match said {
        UpMessage::Heartbeat(heartbeat) => Some(heartbeat),
        UpMessage::Hello(_)
        | UpMessage::Catalogue(_)
        | UpMessage::Inventory(_)
        | UpMessage::Event(_)
        | UpMessage::Trigger { .. }
        | UpMessage::Ack(_) => None,
    });
    let heartbeat = heartbeat.expect("a heartbeat");
    assert_eq!((heartbeat.slots_free, heartbeat.queued), (0, 1));
}

#[test]
fn a_database_that_went_back_is_alarmed_of_once_and_not_at_each_session() {
    let mut stage = one_waits(settings());
    for again in [false, true] {
        let (conn, why) = (stage.conn, Down::Ended);
        stage.spoken(&[Event::Closed { conn, why }]);
        stage.connect(None);
        stage.welcomed(welcome());
        stage.said.clear();
        stage.command = 0;
        let reconciled = stage.order(Directive::Reconciled);
        stage.frame(vec![reconciled]);
        let alarm = Speech::Alarm(Alarm::WentBack);
        assert_eq!(stage.said.contains(&alarm), !again);
        assert!(stage.agent.view().flags.hold);
        stage.said.clear();
    }
}

#[test]
fn an_attempt_that_comes_again_must_be_the_same_in_everything() {
    let changes: [fn(&mut outpost_proto::message::Assign); 4] = [
        |assign| assign.entry = "other".parse().unwrap(),
        |assign| assign.fence = Fence(9),
        |assign| assign.deadline_ms = Some(1),
        |assign| assign.task_name = "another".parse().unwrap(),
    ];
    for change in changes {
        let mut stage = one_waits(settings());
        let mut again = assign(1, "copy", stage.number());
        change(&mut again);
        stage.frame(vec![DownMessage::Assign(again)]);
        assert_eq!(stage.next(), Speech::Alarm(Alarm::AttemptReused));
    }
    let mut stage = one_waits(settings());
    let again = assign(1, "copy", stage.number());
    stage.frame(vec![DownMessage::Assign(again)]);
    let alarm = Speech::Alarm(Alarm::AttemptReused);
    assert!(!stage.said.contains(&alarm), "a new number is none");
}

// --- who waits at keepers

fn id(number: u128) -> AttemptId {
    AttemptId(number)
}

/// Four wait behind 1, none behind 2.
fn lines() -> Lines {
    let mut lines = Lines::default();
    lines.open(id(1), Micros(0));
    lines.open(id(2), Micros(0));
    (3..=6).for_each(|attempt| lines.join(id(1), id(attempt)));
    lines
}

#[test]
fn a_line_goes_on_behind_whoever_got_the_slot() {
    let mut lines = lines();
    for (over, next) in [(1, 3), (3, 4), (4, 5), (5, 6)] {
        assert_eq!(lines.leave(id(over)), Some(id(next)));
    }
    assert_eq!((lines.leave(id(6)), lines.len()), (None, 0));
}

#[test]
fn nobody_is_asked_for_beyond_what_there_is_room_for() {
    let mut lines = lines();
    lines.want(1);
    assert_eq!(lines.ask(), [id(6)]);
    lines.want(2);
    lines.want(2);
    assert_eq!(lines.ask(), [id(5)], "one was asked for, one is wanted");
    lines.want(2);
    assert_eq!(lines.ask(), []);
}

#[test]
fn after_a_commit_that_failed_who_has_a_slot_keeps_its_line_and_is_asked_anew() {
    let mut before = lines();
    before.want_all();
    assert_eq!(before.ask().len(), 4);
    let mut all = Lines::default();
    all.carry_over(before.clone(), |_| true);
    assert_eq!((all.len(), all.shortest(1)), (4, Some(id(2))));
    assert_eq!(all.ask(), [id(3), id(4), id(5), id(6)]);
    let mut rest = Lines::default();
    rest.carry_over(before, |attempt| attempt != id(1));
    assert_eq!((rest.len(), rest.waits(id(3))), (3, false));
    assert_eq!(rest.leave(id(3)), Some(id(4)));
}

#[test]
fn nothing_is_begun_ahead_while_too_many_outcomes_are_unacknowledged() {
    for (refused, ahead) in [(2046, 1), (2047, 0)] {
        let mut stage = Stage::new(Settings {
            slots: 1,
            ahead: 1,
            backlog: 4000,
            ..settings()
        });
        stage.ready(Some(shop(1, &[("copy", free())])));
        let brief = stage.job(9000, "copy");
        stage.frame(vec![brief]);
        stage.keeper(9000, KeeperSaid::Finished(report(Outcome::Succeeded)));
        let first = stage.job(9001, "copy");
        stage.frame(vec![first]);
        let unknown = (1..=refused).map(|n| stage.job(n, "unknown")).collect();
        stage.frame(unknown);
        stage.said.clear();
        let second = stage.job(9002, "copy");
        stage.frame(vec![second]);
        let starts = |said: &&Speech| matches!(said, Speech::Start { .. });
        let started = stage.said.iter().filter(starts).count();
        assert_eq!(started, ahead, "{refused}");
    }
}

// --- what is remembered

fn memories(count: usize) -> Memories {
    let memory = |n: usize| Memory {
        attempt: AttemptId(n as u128),
        run: RunId(1),
        task: TaskIndex(0),
        fence: Fence(1),
        report: report(Outcome::Succeeded),
        settled_at_s: 10,
    };
    Memories::new((0..count).map(memory).collect())
}

#[test]
fn a_turn_forgets_a_thousand_and_the_next_one_goes_on() {
    let (mut memories, later) = (memories(2500), u64::MAX);
    let gone = [(); 4].map(|()| memories.forget(later).len());
    assert_eq!(gone, [1000, 1000, 500, 0]);
}

#[test]
fn as_many_as_may_be_remembered_are_not_too_many() {
    let month = 30 * 24 * 3600;
    assert_eq!(memories(REMEMBERED).due_s(), Some(10 + month));
    assert_eq!(memories(REMEMBERED + 1).due_s(), Some(0));
    assert_eq!(memories(REMEMBERED + 2).due_s(), Some(0));
}
