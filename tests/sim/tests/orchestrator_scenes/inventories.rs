//! What an agent lists when it comes back, in pages of which nothing is believed before the end marker: what it is told to
//! keep, end and forget, what is sent again, and inventories that no honest agent sends.

use outpost_orchestrator_core::event::{Alarm, Ask, CloseReason};
use outpost_orchestrator_core::record::{Phase, TaskState};
use outpost_proto::ids::{EventSeq, Fence, RunId, TaskIndex};
use outpost_proto::message::{
    Assign, AttemptState, Directive, InventoryItem, InventoryPage, UpMessage,
};
use outpost_proto::outcome::Outcome;
use outpost_sim::stage::{Hand, Stage, assigned, item, name, pages, task};

use crate::common::*;

/// A hand `a` with so many tasks of one run, each of this entry, that it was sent.
fn given(entry: &str, many: u16) -> (Stage, Hand, RunId, Vec<Assign>) {
    let mut scene = Stage::new();
    let mut a = scene.hand("a");
    a.slots = 8;
    a.connects(&mut scene, vec![]);
    let tasks = (0..many).map(|n| task(&format!("t{n}"), entry, &[]));
    scene.apply(tasks.collect());
    let run = scene.trigger();
    let mut sent = assigned(&a.hears(&mut scene));
    sent.sort_by_key(|assign| assign.task);
    assert_eq!(sent.len(), usize::from(many));
    (scene, a, run, sent)
}

/// What it is called, how it is made of the truth, and what it raises.
type Lie = (&'static str, fn(&mut InventoryItem), Option<Alarm>);

fn cancel(scene: &mut Stage, run: RunId) {
    assert!(scene.ask(Ask::Cancel { run }).is_ok());
}

#[test]
fn a2_an_inventory_that_no_honest_agent_sends_ends_the_stream_and_changes_nothing() {
    let over = AttemptState::Finished(succeeded());
    for event in [0, 7] {
        let lies: [Lie; 5] = [
            ("true", |_| {}, None),
            (
                "another run",
                |item| item.run = RunId(1),
                Some(Alarm::ImpossibleEvent),
            ),
            (
                "another task",
                |item| item.task = TaskIndex(1),
                Some(Alarm::ImpossibleEvent),
            ),
            (
                "another fence",
                |item| item.fence = Fence(99),
                Some(Alarm::ImpossibleEvent),
            ),
            ("another agent's", |_| {}, Some(Alarm::ForeignAttempt)),
        ];
        for (lie, make, alarm) in lies {
            let (mut scene, mut a, run, sent) = given("load", 2);
            let mut b = scene.hand("b");
            let mut told = item(&sent[0], over, event);
            make(&mut told);
            let who = if lie == "another agent's" {
                &mut b
            } else {
                &mut a
            };
            let agent = who.agent.to_string();
            who.connects(&mut scene, vec![told]);
            let why = scene.why_ended(who.conn);
            assert_eq!(why, alarm.map(|_| CloseReason::Protocol), "{lie} {event}");
            let alarms: Vec<_> = alarm.map(|alarm| (agent, alarm)).into_iter().collect();
            assert_eq!(scene.alarms(), alarms, "{lie} {event}");
            let ended = state(&scene, run, 0) == TaskState::Succeeded;
            assert_eq!(ended, alarm.is_none(), "{lie} {event}");
        }
    }
}

#[test]
fn a2_the_end_marker_counts_what_was_listed() {
    for (counted, honest) in [(2, true), (1, false), (3, false), (0, false)] {
        let (mut scene, mut a, _, sent) = given("load", 2);
        assert!(a.greets(&mut scene).is_some());
        // One is held, one is remembered.
        let items = vec![
            item(&sent[0], AttemptState::Running, 0),
            item(&sent[1], AttemptState::Finished(succeeded()), 0),
        ];
        let page = UpMessage::Inventory(InventoryPage {
            items,
            end: Some(counted),
        });
        a.says(&mut scene, vec![page]);
        let why = (!honest).then_some(CloseReason::Protocol);
        assert_eq!(scene.why_ended(a.conn), why, "{counted}");
        let alarms: Vec<_> = (!honest)
            .then(|| ("a".to_owned(), Alarm::InventoryCount))
            .into_iter()
            .collect();
        assert_eq!(scene.alarms(), alarms);
    }
}

#[test]
fn a2_nobody_holds_more_than_an_agent_can() {
    for (many, honest) in [(4096, true), (4097, false)] {
        let mut scene = Stage::new();
        let mut a = scene.hand("a");
        let held = |n: u64| InventoryItem {
            attempt: outpost_proto::ids::AttemptId(u128::from(n) + 1),
            run: RunId(9),
            task: TaskIndex(0),
            fence: Fence(n + 1),
            state: AttemptState::Running,
            event_seq: EventSeq(0),
        };
        let said = a.connects(&mut scene, (0..many).map(held).collect());
        assert_eq!(scene.alarms().is_empty(), honest, "{many}");
        let told = directives(&said);
        assert_eq!(told.len() == 4097, honest, "each is told to be forgotten");
        // Whatever that takes, no frame has more than its messages.
        assert!(scene.frames().iter().all(|(messages, _)| *messages <= 64));
    }
}

#[test]
fn n1_an_inventory_that_is_cut_in_the_middle_changes_nothing() {
    let (mut scene, mut a, run, sent) = given("load", 2);
    assert!(a.greets(&mut scene).is_some());
    let items = vec![
        item(&sent[0], AttemptState::Finished(succeeded()), 3),
        item(&sent[1], AttemptState::Finished(succeeded()), 0),
    ];
    let mut said = pages(items);
    let Some(UpMessage::Inventory(page)) = said.last_mut() else {
        panic!()
    };
    page.end = None;
    assert!(a.says(&mut scene, said).is_empty());
    a.hangs_up(&mut scene);
    for (task, assign) in (0..).zip(&sent) {
        assert_eq!(
            state(&scene, run, task),
            TaskState::Active {
                attempt: assign.attempt
            }
        );
    }
    assert_eq!(scene.record("a").event_seq, EventSeq(0));
}

#[test]
fn each_attempt_that_is_listed_is_kept_ended_or_forgotten() {
    let (mut scene, mut a, run, sent) = given("load", 4);
    let listed = vec![
        item(&sent[0], AttemptState::Assigned, 0),
        item(&sent[1], AttemptState::Running, 0),
        // Its end is told now, and its end was told before and is remembered.
        item(&sent[2], AttemptState::Finished(succeeded()), 5),
        item(&sent[3], AttemptState::Finished(succeeded()), 0),
    ];
    a.event_seq = 5;
    let said = a.connects(&mut scene, listed.clone());
    let expected = [
        Directive::Keep(sent[0].attempt),
        Directive::Keep(sent[1].attempt),
        Directive::Forget(sent[2].attempt),
        Directive::Reconciled,
    ];
    assert_eq!(directives(&said), expected);
    assert!(assigned(&said).is_empty());
    assert_eq!(
        state(&scene, run, 1),
        TaskState::Active {
            attempt: sent[1].attempt
        }
    );
    assert!((2..4).all(|task| state(&scene, run, task) == TaskState::Succeeded));
    assert_eq!(scene.record("a").event_seq, EventSeq(5));
    // The run is cancelled while it is away.
    a.hangs_up(&mut scene);
    cancel(&mut scene, run);
    let said = a.connects(&mut scene, listed[..2].to_vec());
    let expected = [
        Directive::Cancel(sent[0].attempt),
        Directive::Cancel(sent[1].attempt),
        Directive::Reconciled,
    ];
    assert_eq!(directives(&said), expected);
    assert!(scene.alarms().is_empty());
}

#[test]
fn what_was_given_up_and_lives_is_kept_as_long_as_its_task_waits_for_it() {
    for (state_told, asserted, expected) in [
        (AttemptState::Running, false, "keep"),
        (AttemptState::Starting, false, "keep"),
        (AttemptState::Assigned, false, "cancel"),
        (AttemptState::Running, true, "cancel"),
    ] {
        let (mut scene, mut a, run, sent) = given("pay", 1);
        let attempt = sent[0].attempt;
        a.tells(&mut scene, attempt, AttemptState::Running);
        // Its agent lacks it: nobody knows, so nobody begins another one.
        a.connects(&mut scene, vec![]);
        assert!(matches!(scene.attempt(attempt).phase, Phase::Lost { .. }));
        assert_eq!(state(&scene, run, 0), TaskState::Active { attempt });
        a.hangs_up(&mut scene);
        if asserted {
            let (by, reason) = ("somebody".to_owned(), "it is gone".to_owned());
            assert!(
                scene
                    .ask(Ask::AssertDead {
                        attempt,
                        by,
                        reason
                    })
                    .is_ok()
            );
        }
        let said = a.connects(&mut scene, vec![item(&sent[0], state_told, 0)]);
        let expected = match expected {
            "keep" => Directive::Keep(attempt),
            _ => Directive::Cancel(attempt),
        };
        assert_eq!(directives(&said)[0], expected, "{state_told:?} {asserted}");
    }
    // What was given up and is run elsewhere is ended.
    let (mut scene, mut a, _, sent) = given("load", 1);
    let attempt = sent[0].attempt;
    a.tells(&mut scene, attempt, AttemptState::Running);
    a.connects(&mut scene, vec![]);
    scene.pass(20);
    let said = a.connects(&mut scene, vec![item(&sent[0], AttemptState::Running, 0)]);
    assert_eq!(directives(&said)[0], Directive::Cancel(attempt));
    // And so is what nobody wants any more.
    let (mut scene, mut a, run_of_pay, sent) = given("pay", 1);
    let attempt = sent[0].attempt;
    a.tells(&mut scene, attempt, AttemptState::Running);
    a.connects(&mut scene, vec![]);
    a.hangs_up(&mut scene);
    cancel(&mut scene, run_of_pay);
    let said = a.connects(&mut scene, vec![item(&sent[0], AttemptState::Running, 0)]);
    assert_eq!(directives(&said)[0], Directive::Cancel(attempt));
}

#[test]
fn what_was_sent_and_never_arrived_is_sent_again_withdrawn_or_given_to_another() {
    for what in ["sent again", "cancelled", "drained"] {
        let (mut scene, mut a, run, sent) = given("pay", 1);
        let attempt = sent[0].attempt;
        a.hangs_up(&mut scene);
        let mut b = scene.hand("b");
        b.connects(&mut scene, vec![]);
        match what {
            "cancelled" => cancel(&mut scene, run),
            "drained" => drain(&mut scene, "a", true),
            _ => {}
        }
        let again = assigned(&a.connects(&mut scene, vec![]));
        scene.pass(10);
        b.beats(&mut scene);
        let of_b = assigned(&b.hears(&mut scene));
        match what {
            "sent again" => {
                assert_eq!(again.len(), 1);
                assert_eq!(again[0].attempt, attempt);
                assert_eq!(again[0].fence, sent[0].fence);
                assert!(
                    again[0].command_seq > sent[0].command_seq,
                    "under a number of its own"
                );
                assert_eq!(state(&scene, run, 0), TaskState::Active { attempt });
            }
            "cancelled" => {
                assert!(again.is_empty() && scene.run(run).finished_at.is_some());
                assert_eq!(state(&scene, run, 0), TaskState::Cancelled);
            }
            _ => {
                assert!(again.is_empty());
                assert!(matches!(
                    scene.attempt(attempt).phase,
                    Phase::Finished { .. }
                ));
                assert!(
                    scene.attempts(run, 0).len() == 2 || !of_b.is_empty(),
                    "b has it"
                );
            }
        }
    }
}

#[test]
fn who_comes_back_to_a_doubtful_attempt_twice_is_believed_once() {
    let (mut scene, mut a, run, sent) = given("load", 2);
    // What ended is listed, then listed again by a stream that did not hear the answer.
    let listed = vec![
        item(&sent[0], AttemptState::Finished(succeeded()), 4),
        item(&sent[1], AttemptState::Running, 0),
    ];
    for _ in 0..3 {
        let said = a.connects(&mut scene, listed.clone());
        assert_eq!(directives(&said)[0], Directive::Forget(sent[0].attempt));
    }
    assert_eq!(scene.task(run, 0).attempts, 1);
    a.event_seq = 4;
    a.ends(&mut scene, sent[1].attempt, Outcome::Succeeded);
    assert!(scene.run(run).finished_at.is_some() && scene.alarms().is_empty());
}

// --- frames

/// What a hand with room for everything is sent of a run of so many tasks, each with sixteen texts of so many bytes.
fn frames_of(many: u16, text: usize) -> Vec<usize> {
    use outpost_orchestrator_core::spec::Argument;
    use outpost_proto::message::ParamValue;
    let mut scene = Stage::new();
    let mut a = scene.hand("a");
    a.slots = 400;
    a.connects(&mut scene, vec![]);
    let tasks = (0..many).map(|n| {
        let mut task = task(&format!("t{n}"), "load", &[]);
        let value = || Argument::Value(ParamValue::Text("x".repeat(text)));
        let params = if text == 0 { "" } else { "abcdefghijklmnop" };
        task.with = params
            .chars()
            .map(|letter| (name(&format!("p{letter}")), value()))
            .collect();
        task
    });
    scene.apply(tasks.collect());
    scene.frames();
    scene.trigger();
    let heard = assigned(&a.hears(&mut scene));
    assert_eq!(heard.len(), usize::from(many));
    let frames = scene.frames();
    assert!(frames.iter().all(|(_, bytes)| *bytes <= 256 * 1024));
    frames.into_iter().map(|(messages, _)| messages).collect()
}

#[test]
fn h2_a_frame_has_so_many_messages_and_so_many_bytes_and_no_more() {
    assert_eq!(frames_of(130, 0), [64, 64, 2]);
    // Two assignments of half a frame each fit; a byte more, and each has its own.
    assert_eq!(frames_of(4, 4046), [2, 2]);
    assert_eq!(frames_of(4, 4047), [1, 1, 1, 1]);
    assert_eq!(frames_of(5, 1000), [5]);
}
