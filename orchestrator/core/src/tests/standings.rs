//! What is kept of an agent's standing, value by value, and what an inventory, an event or a person must not say.

use outpost_proto::limits::{HELD_ATTEMPTS, REMEMBERED};
use outpost_proto::outcome::Interruption;

use crate::event::Alarm;
use crate::limits::{LIVES, REASON_LEN};
use crate::record::{AgentRecord, NoticeKind};
use crate::standing::{Holder, Other, Quarantine, Standing};

use super::*;

fn record() -> AgentRecord {
    AgentRecord::enrolled(name("acme"), name("bank"), "key".into(), T0.0)
}

fn hello(site: &Site) -> Hello {
    let UpMessage::Hello(hello) = site.hello() else {
        unreachable!()
    };
    hello
}

// --- values

#[test]
fn only_what_differs_from_a_good_standing_is_written() {
    assert!(Standing::default().is_plain());
    let standing = Standing {
        rekey: true,
        ..Standing::default()
    };
    assert!(!standing.is_plain());
}

#[test]
fn what_a_former_version_wrote_is_said_anew() {
    let mut record = record();
    record.incarnation = Incarnation(5);
    record.standing.forked = true;
    record.standing.other_key = Some("other".into());
    record.bring_up_to_date(77);
    let other = Other {
        incarnation: Incarnation(5),
        until: 77,
    };
    assert_eq!(record.standing.others, [other]);
    assert_eq!(record.standing.other_keys, ["other"]);
    let once = record.clone();
    record.bring_up_to_date(99);
    assert_eq!(record, once, "there is nothing left of it");
}

#[test]
fn the_lives_of_a_second_holder_are_kept_each_once_and_the_newest_of_them() {
    let mut quarantine = Quarantine::new(0, Incarnation(1));
    for life in [1, 2, 2, 1, 2, 3] {
        quarantine.lives_as(Incarnation(life));
        assert_eq!(quarantine.incarnation, Incarnation(life));
    }
    assert_eq!(quarantine.former, [Incarnation(1), Incarnation(2)]);
    (4..20).for_each(|life| quarantine.lives_as(Incarnation(life)));
    let newest = (19 - u64::try_from(LIVES).unwrap()..19).map(Incarnation);
    assert_eq!(quarantine.former, newest.collect::<Vec<_>>());
}

#[test]
fn the_first_lives_of_yet_other_holders_are_kept_each_once() {
    let mut quarantine = Quarantine::new(0, Incarnation(1));
    let lives = [7, 7, 8, 9, 8, 10, 11].map(|life| quarantine.has_third(Incarnation(life)));
    assert_eq!(lives, [true, false, true, true, false, false, false]);
    assert_eq!(
        quarantine.third,
        [Incarnation(7), Incarnation(8), Incarnation(9)]
    );
}

#[test]
fn an_agent_has_seen_more_under_a_later_or_another_life_or_by_a_later_command() {
    let mut record = record();
    record.command_seq = CommandSeq(5);
    let life = |counter, database| RecoveryEpoch { counter, database };
    for (last, more) in [
        (None, false),
        (Some((life(2, 1), CommandSeq(5))), false),
        (Some((life(2, 1), CommandSeq(4))), false),
        (Some((life(2, 1), CommandSeq(6))), true),
        (Some((life(2, 9), CommandSeq(1))), true),
        (Some((life(3, 1), CommandSeq(1))), true),
        (Some((life(1, 1), CommandSeq(9))), false),
        (Some((life(1, 9), CommandSeq(9))), false),
    ] {
        let mut site = Site::new("bank");
        site.last = last;
        let seen = record.has_seen_more(life(2, 1), &hello(&site));
        assert_eq!(seen, more, "{last:?}");
    }
}

#[test]
fn under_a_key_that_was_left_behind_nobody_is_the_known_one() {
    let mut record = record();
    record.standing.left_keys = vec!["old".into()];
    record.nonces = vec![Nonce(3)];
    let life = crate::bearer::Life {
        recovery: RecoveryEpoch {
            counter: 1,
            database: 1,
        },
        restored_at: None,
    };
    let who = |record: &AgentRecord, key: &str, nonce| {
        let mut site = Site::new("bank");
        site.nonce = nonce;
        record.presents(&hello(&site), (key, 0), life, false)
    };
    assert_eq!(who(&record, "key", Nonce(3)), Some(Holder::Known));
    assert_eq!(who(&record, "old", Nonce(3)), Some(Holder::Second));
    let mut quarantine = Quarantine::new(0, Incarnation(1));
    quarantine.nonces = vec![Nonce(5)];
    record.standing.quarantine = Some(quarantine);
    assert_eq!(who(&record, "old", Nonce(3)), Some(Holder::Refused));
    assert_eq!(who(&record, "old", Nonce(5)), Some(Holder::Second));
    assert_eq!(who(&record, "key", Nonce(3)), Some(Holder::Known));
}

#[test]
fn whoever_watches_is_told_of_every_step_of_a_task() {
    let (mut rig, mut site, assign) = one_runs();
    site.ends(&mut rig, assign.attempt, Outcome::Succeeded);
    let notices = rig.mirror.notices.iter();
    let told = notices.filter_map(|notice| match &notice.what {
        NoticeKind::Task { state, .. } => Some(*state),
        NoticeKind::Run { .. }
        | NoticeKind::Attempt { .. }
        | NoticeKind::Workflow { .. }
        | NoticeKind::Skipped { .. }
        | NoticeKind::Agent { .. }
        | NoticeKind::Safety { .. } => None,
    });
    let attempt = assign.attempt;
    let last: Vec<TaskState> = told.collect();
    assert!(last.ends_with(&[TaskState::Active { attempt }, TaskState::Succeeded]));
}

// --- sessions

#[test]
fn a_span_of_protocols_that_has_this_one_is_welcomed() {
    for (protocol, welcomed) in [
        ((1, 1), true),
        ((1, 2), true),
        ((0, 1), true),
        ((0, 2), true),
        ((0, 0), false),
        ((2, 2), false),
    ] {
        let mut rig = Rig::new();
        rig.enrol("bank");
        let mut site = Site::new("bank");
        let opened = site.open(&mut rig);
        let mut hello = hello(&site);
        hello.protocol = protocol;
        let said = rig.turn(&[opened, site.frame(vec![UpMessage::Hello(hello)])]);
        let version = [(site.conn, CloseReason::Version)];
        assert_eq!(closes(&said) == version, !welcomed, "{protocol:?}");
        assert_eq!(messages(&said).len(), usize::from(welcomed));
    }
}

#[test]
fn what_is_told_of_an_attempt_that_nobody_knows_is_forgotten() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let over = AttemptState::Finished(report(Outcome::Succeeded));
    for state in [AttemptState::Running, over] {
        let said = site.tells(&mut rig, AttemptId(99), state);
        assert_eq!(directives(&said), [Directive::Forget(AttemptId(99))]);
    }
}

fn one_runs() -> (Rig, Site, Assign) {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.apply(workflow("w", vec![task("a", "once", &[])]));
    let (_, said) = rig.trigger("w");
    let assign = assigns(&said).remove(0);
    site.tells(&mut rig, assign.attempt, AttemptState::Running);
    (rig, site, assign)
}

/// What an inventory of these pages brings about, on a new session.
fn lists(rig: &mut Rig, site: &mut Site, pages: Vec<UpMessage>) -> Vec<Speech> {
    let opened = site.open(rig);
    rig.turn(&[opened, site.frame(vec![site.hello()])]);
    let said = rig.turn(&[site.frame(pages)]);
    let closed = closes(&said).contains(&(site.conn, CloseReason::Protocol));
    let alarmed = said
        .iter()
        .any(|said| matches!(said, Speech::Alarm { what, .. } if *what != Alarm::Cloned));
    assert_eq!(closed, alarmed);
    said
}

fn alarm(said: &[Speech]) -> Option<Alarm> {
    said.iter().find_map(|speech| match speech {
        Speech::Alarm { what, .. } => Some(*what),
        Speech::Send { .. } | Speech::Close { .. } | Speech::Answer { .. } => None,
    })
}

#[test]
fn an_inventory_echoes_what_was_assigned_in_everything() {
    type Change = fn(&mut InventoryItem);
    let changes: [(Change, Option<Alarm>); 4] = [
        (|_| {}, None),
        (|item| item.run = RunId(0), Some(Alarm::ImpossibleEvent)),
        (
            |item| item.task = TaskIndex(9),
            Some(Alarm::ImpossibleEvent),
        ),
        (|item| item.fence = Fence(99), Some(Alarm::ImpossibleEvent)),
    ];
    for (change, what) in changes {
        let (mut rig, mut site, assign) = one_runs();
        let mut item = site.item(&assign, AttemptState::Running, 1);
        change(&mut item);
        let said = lists(&mut rig, &mut site, vec![Site::inventory(vec![item])]);
        assert_eq!(alarm(&said), what);
        assert_eq!(rig.phase(assign.attempt), Phase::Running);
    }
    let (mut rig, _, assign) = one_runs();
    let mut other = rig.site("plant");
    let item = other.item(&assign, AttemptState::Running, 1);
    let said = lists(&mut rig, &mut other, vec![Site::inventory(vec![item])]);
    assert_eq!(alarm(&said), Some(Alarm::ForeignAttempt));
}

#[test]
fn an_inventory_is_no_longer_than_any_agents() {
    let item = |state, event_seq| InventoryItem {
        attempt: AttemptId(99),
        run: RunId(98),
        task: TaskIndex(0),
        fence: Fence(7),
        state,
        event_seq: EventSeq(event_seq),
    };
    let held = item(AttemptState::Running, 3);
    let memory = item(AttemptState::Finished(report(Outcome::Succeeded)), 0);
    for (item, most) in [(held, HELD_ATTEMPTS), (memory, REMEMBERED)] {
        for (count, many) in [(most, false), (most + 1, true), (most + 2, true)] {
            let mut rig = Rig::new();
            let mut site = rig.site("bank");
            let items = vec![item; count];
            let page = UpMessage::Inventory(InventoryPage { items, end: None });
            let said = lists(&mut rig, &mut site, vec![page]);
            let what = many.then_some(Alarm::InventoryCount);
            assert_eq!(alarm(&said), what, "{count}");
        }
    }
}

// --- what is said of a life

fn interrupted(why: Interruption) -> AttemptState {
    AttemptState::Finished(report(Outcome::Interrupted(why)))
}

#[test]
fn what_the_known_holder_tells_of_its_own_life_is_believed_beside_another_one() {
    let (mut rig, mut site, assign) = one_runs();
    let nonce = site.nonce;
    let item = site.item(&assign, AttemptState::Running, 1);
    site.connect(&mut rig, vec![item]);
    let item = site.item(&assign, AttemptState::Running, 1);
    site.connect(&mut rig, vec![item]);
    let mut copy = Site::new("bank");
    (copy.nonce, copy.incarnation) = (nonce, Incarnation(9));
    let opened = copy.open(&mut rig);
    rig.turn(&[opened, copy.frame(vec![copy.hello()])]);
    let record = &rig.mirror.agents[&(name("acme"), name("bank"))];
    assert!(record.standing.quarantine.is_some());
    let lost = interrupted(Interruption::AgentStateLost);
    site.tells(&mut rig, assign.attempt, lost);
    assert!(matches!(rig.phase(assign.attempt), Phase::Finished { .. }));
}

#[test]
fn of_what_no_task_waits_for_a_new_life_is_believed_at_once() {
    let mut rig = Rig::new();
    let (mut bank, mut plant) = (rig.site("bank"), rig.site("plant"));
    rig.pass_ms(600_000);
    bank.beats(&mut rig);
    rig.apply(workflow("w", vec![task("a", "load", &[])]));
    let (_, said) = rig.trigger("w");
    let assign = assigns(&said).remove(0);
    bank.tells(&mut rig, assign.attempt, AttemptState::Running);
    rig.turn(&[bank.close()]);
    rig.pass_ms(299_000);
    plant.beats(&mut rig);
    let said = rig.pass_ms(2_000);
    assert_eq!(assigns(&said).len(), 1, "another one took its place");
    let item = bank.item(&assign, AttemptState::Running, bank.event_seq);
    bank.connect(&mut rig, vec![item]);
    bank.incarnation.0 += 1;
    bank.event_seq += 1;
    let reboot = interrupted(Interruption::Reboot);
    let item = bank.item(&assign, reboot, bank.event_seq);
    bank.connect(&mut rig, vec![item]);
    assert!(rig.attempt(assign.attempt).late.is_some());
}

#[test]
fn a_persons_reason_is_one_line_of_bounded_length() {
    let long = |length| "x".repeat(length);
    for (reason, taken) in [
        (String::new(), false),
        ("  ".into(), false),
        ("it\nburned".into(), false),
        (long(REASON_LEN), true),
        (long(REASON_LEN + 1), false),
        (long(REASON_LEN + 2), false),
    ] {
        let (mut rig, site, assign) = one_runs();
        rig.turn(&[site.close()]);
        let ask = Ask::AssertDead {
            attempt: assign.attempt,
            by: "0123".into(),
            reason,
        };
        assert_eq!(rig.ask(ask).is_ok(), taken);
    }
}

// --- after a restore

/// A run whose first task succeeded and whose second one runs, in a backup that was restored; and what an agent then
/// tells of attempts that nobody here knows.
fn told_after_a_restore(told: &[(u128, u16, u64, AttemptState)]) -> (Rig, RunId, AttemptId) {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let tasks = vec![task("a", "once", &[]), task("b", "once", &[0])];
    rig.apply(workflow("w", tasks));
    let (run, said) = rig.trigger("w");
    let first = assigns(&said).remove(0).attempt;
    let said = site.ends(&mut rig, first, Outcome::Succeeded);
    let second = assigns(&said).remove(0);
    rig.mirror.recovery.counter = rig.mirror.recovery.counter.max(1) + 1;
    rig.mirror.restored_at = Some(rig.now.0);
    for tenant in rig.mirror.tenants.values_mut() {
        tenant.restored(true, rig.now.0);
    }
    rig.restart();
    let mut items = vec![site.item(&second, AttemptState::Running, 2)];
    for (n, (attempt, task, fence, state)) in told.iter().enumerate() {
        items.push(InventoryItem {
            attempt: AttemptId(*attempt),
            run,
            task: TaskIndex(*task),
            fence: Fence(*fence),
            state: *state,
            event_seq: EventSeq(3 + n as u64),
        });
    }
    site.connect(&mut rig, items);
    (rig, run, second.attempt)
}

#[test]
fn of_what_a_restored_database_does_not_know_the_newest_believable_attempt_is_its_tasks() {
    let runs = AttemptState::Running;
    let absurd = 1 << 47;
    for (told, active) in [
        (vec![], None),
        (vec![(99, 1, 50, runs)], Some(99)),
        (vec![(99, 1, 50, runs), (98, 1, 40, runs)], Some(99)),
        (vec![(98, 1, 40, runs), (99, 1, 50, runs)], Some(99)),
        (vec![(98, 1, 40, runs), (99, 1, absurd, runs)], Some(98)),
    ] {
        let (rig, run, known) = told_after_a_restore(&told);
        let attempt = active.map_or(known, AttemptId);
        assert_eq!(rig.task_state(run, 1), TaskState::Active { attempt });
        for (attempt, ..) in told {
            assert!(rig.attempt(AttemptId(attempt)).recovered);
        }
    }
}

#[test]
fn what_is_told_of_a_task_that_is_over_is_kept_beside_it() {
    let failed = AttemptState::Finished(report(Outcome::Failed));
    let (rig, run, _) = told_after_a_restore(&[(99, 0, 50, failed)]);
    assert_eq!(rig.task_state(run, 0), TaskState::Succeeded);
    assert_eq!(rig.mirror.tasks[&(run, TaskIndex(0))].attempts, 2);
    assert!(matches!(rig.phase(AttemptId(99)), Phase::Finished { .. }));
}
