//! Two holders of one identity in the same life of the same host, of which one began what the other one still holds as
//! not begun. Whichever of them comes first, that it goes back behind what was told shows that there are two.

use outpost_orchestrator_core::event::{Alarm, CloseReason};
use outpost_orchestrator_core::record::{Phase, RunState, TaskState};
use outpost_orchestrator_core::standing::Keep;
use outpost_proto::ids::{AttemptId, Nonce, RunId};
use outpost_proto::message::{Assign, AttemptState, DownMessage, InventoryItem};
use outpost_proto::outcome::Outcome;
use outpost_sim::stage::{Hand, Stage, assigned, item, name, task};

use crate::common::*;
use crate::copies::resolve;

/// An agent that told that it runs what a copy of its state has not begun.
struct Alike {
    scene: Stage,
    runs: Hand,
    waits: Hand,
    run: RunId,
    sent: Assign,
}

fn alike(entry: &str) -> Alike {
    let mut scene = Stage::new();
    let mut runs = scene.hand("a");
    runs.connects(&mut scene, vec![]);
    scene.apply(vec![task("t", entry, &[])]);
    let run = scene.trigger();
    let sent = assigned(&runs.hears(&mut scene))[0].clone();
    let waits = runs.clone();
    runs.tells(&mut scene, sent.attempt, AttemptState::Running);
    Alike {
        scene,
        runs,
        waits,
        run,
        sent,
    }
}

impl Alike {
    /// The same after a restore of a backup that knows that it runs. The agent had more sessions since.
    fn restored(entry: &str) -> Self {
        let mut alike = alike(entry);
        let backup = alike.scene.backup();
        let listed = alike.running();
        alike.runs.connects(&mut alike.scene, listed.clone());
        alike.runs.connects(&mut alike.scene, listed);
        alike.scene.restore(&backup);
        alike.scene.alarms();
        alike.scene.told();
        alike
    }

    fn running(&self) -> Vec<InventoryItem> {
        vec![item(&self.sent, AttemptState::Running, 1)]
    }

    fn waiting(&self) -> Vec<InventoryItem> {
        vec![item(&self.sent, AttemptState::Assigned, 0)]
    }

    fn copy_comes(&mut self) -> Vec<DownMessage> {
        let listed = self.waiting();
        self.waits.connects(&mut self.scene, listed)
    }

    fn original_comes(&mut self) -> Vec<DownMessage> {
        let listed = self.running();
        self.runs.connects(&mut self.scene, listed)
    }

    /// The copy has come, before the agent did: both are set aside.
    fn are_set_aside(&mut self) {
        let said = self.copy_comes();
        assert_eq!(self.scene.why_ended(self.waits.conn), None, "{said:?}");
        assert_eq!(said, [nothing()], "neither directives nor a lease");
        assert_eq!(self.scene.alarms(), [("a".to_owned(), Alarm::Cloned)]);
        assert_eq!(self.scene.told(), ["quarantined a"]);
        assert_eq!(self.scene.recovery().quarantined, [name("a")]);
        assert_eq!(self.connected(), (false, true), "it is the second one");
        assert_eq!(
            state(&self.scene, self.run, 0),
            TaskState::Active {
                attempt: self.sent.attempt
            }
        );
    }

    fn connected(&mut self) -> (bool, bool) {
        let holders = self.scene.agent("a").holders;
        (holders[0].connected, holders[1].connected)
    }

    fn phase(&self) -> Phase {
        self.scene.attempt(self.sent.attempt).phase
    }
}

/// The answer to who is heard and gets nothing.
fn nothing() -> DownMessage {
    DownMessage::Granted(outpost_proto::message::Granted {
        highest_event_seq: outpost_proto::ids::EventSeq(0),
        lease: None,
    })
}

#[test]
fn b7_i15_who_holds_what_the_backup_saw_running_as_not_begun_is_the_second_of_two() {
    for keep in [Keep::This, Keep::That] {
        let mut it = Alike::restored("pay");
        it.are_set_aside();
        it.original_comes();
        assert_eq!(it.scene.why_ended(it.runs.conn), None, "it is the agent");
        assert_eq!(it.connected(), (true, true), "nothing flaps");
        for _ in 0..2 {
            assert_eq!(it.copy_comes(), [nothing()]);
            assert_eq!(it.connected(), (true, true));
            it.original_comes();
            assert_eq!(it.connected(), (true, true));
        }
        assert!(it.scene.alarms().is_empty() && it.scene.told().is_empty());
        assert_eq!(awaited(&mut it.scene), ["a"], "the other may know more");
        assert_eq!(it.phase(), Phase::Running);
        assert_eq!(resolve(&mut it.scene, "a", keep), Ok(()));
        match keep {
            Keep::This => {
                assert!(it.copy_comes().is_empty());
                assert_eq!(it.scene.why_ended(it.waits.conn), Some(CloseReason::Cloned));
                it.original_comes();
                assert!(awaited(&mut it.scene).is_empty());
                it.runs.event_seq = 1;
                let attempt = it.sent.attempt;
                it.runs.ends(&mut it.scene, attempt, Outcome::Succeeded);
                assert_eq!(it.scene.run(it.run).state, RunState::Succeeded);
            }
            Keep::That => {
                assert!(it.original_comes().is_empty());
                assert_eq!(it.scene.why_ended(it.runs.conn), Some(CloseReason::Cloned));
                it.copy_comes();
                assert_eq!(it.scene.why_ended(it.waits.conn), None);
                assert!(awaited(&mut it.scene).is_empty());
                assert!(
                    matches!(it.phase(), Phase::Lost { .. }),
                    "it may run there for ever"
                );
                assert_eq!(it.scene.attempts(it.run, 0).len(), 1, "not to be run twice");
            }
        }
        assert_eq!(it.scene.recovery().quarantined, []);
    }
}

#[test]
fn b7_i15_whoever_comes_first_after_the_restore_both_are_set_aside() {
    let mut it = Alike::restored("load");
    it.original_comes();
    assert!(it.scene.told().iter().all(|what| what != "quarantined a"));
    it.copy_comes();
    assert_eq!(it.scene.told(), ["quarantined a"]);
    assert_eq!(it.connected(), (true, true));
    // Over a restart and another restore, too: who was the second one is known by its nonce.
    it.scene.orchestrator_restarts();
    it.copy_comes();
    assert_eq!(it.connected(), (false, true));
    let backup = it.scene.backup();
    it.scene.restore(&backup);
    it.copy_comes();
    it.original_comes();
    assert_eq!(it.connected(), (true, true));
    assert_eq!(it.scene.why_ended(it.runs.conn), None);
}

#[test]
fn i15_a_copy_that_presents_what_is_expected_and_has_not_begun_what_runs_is_the_second_of_two() {
    for kept in [Keep::This, Keep::That] {
        let mut it = alike("load");
        // The original is out of touch for a moment.
        it.runs.hangs_up(&mut it.scene);
        it.are_set_aside();
        it.original_comes();
        assert_eq!(it.connected(), (true, true));
        assert_eq!(resolve(&mut it.scene, "a", kept), Ok(()));
        it.copy_comes();
        let turned_away = it.scene.why_ended(it.waits.conn);
        it.original_comes();
        let original = it.scene.why_ended(it.runs.conn);
        let cloned = Some(CloseReason::Cloned);
        match kept {
            Keep::This => assert_eq!((turned_away, original), (cloned, None)),
            Keep::That => assert_eq!((turned_away, original), (None, cloned)),
        }
    }
}

#[test]
fn i15_before_the_original_has_come_a_person_may_decide_either_way() {
    for (restored, keep) in [
        (true, Keep::This),
        (true, Keep::That),
        (false, Keep::This),
        (false, Keep::That),
    ] {
        let mut it = if restored {
            Alike::restored("pay")
        } else {
            alike("pay")
        };
        it.runs.hangs_up(&mut it.scene);
        it.are_set_aside();
        // Cut before it listed anything.
        it.waits.greets(&mut it.scene);
        assert_eq!(resolve(&mut it.scene, "a", keep), Ok(()));
        it.scene.told();
        it.scene.alarms();
        match keep {
            Keep::This => {
                it.copy_comes();
                assert_eq!(it.scene.why_ended(it.waits.conn), Some(CloseReason::Cloned));
                it.original_comes();
                assert_eq!(it.scene.why_ended(it.runs.conn), None);
                assert_eq!(it.phase(), Phase::Running);
                assert!(it.scene.recovery().quarantined.is_empty());
            }
            Keep::That => {
                // Nobody knew it: it shows once more that there are two.
                it.original_comes();
                assert_eq!(it.scene.recovery().quarantined.len(), usize::from(restored));
                it.copy_comes();
                assert_eq!(it.scene.why_ended(it.waits.conn), None);
            }
        }
    }
}

#[test]
fn i15_of_two_that_are_set_aside_the_known_one_may_be_the_one_that_waits() {
    let mut it = alike("load");
    let mut other = Hand {
        nonce: Nonce(5),
        ..it.runs.clone()
    };
    it.runs.hangs_up(&mut it.scene);
    assert!(other.greets(&mut it.scene).is_some(), "there are two");
    it.scene.alarms();
    let said = it.copy_comes();
    assert_eq!(it.scene.why_ended(it.waits.conn), None, "{said:?}");
    assert_eq!(it.connected(), (true, true));
    assert!(it.scene.alarms().is_empty());
    assert_eq!(
        it.phase(),
        Phase::Running,
        "which of them has it, nobody knows"
    );
    assert_eq!(resolve(&mut it.scene, "a", Keep::This), Ok(()));
    it.copy_comes();
    assert!(matches!(it.phase(), Phase::Lost { .. }));
    it.waits.lives(&mut it.scene, 60);
    assert_eq!(
        it.scene.attempts(it.run, 0).len(),
        2,
        "its entry is safe to run again"
    );
}

/// Real agents: the second task waits for the only slot when the state is copied.
#[test]
fn b7_i15_of_two_alike_hosts_neither_begins_anything_before_a_person_decides() {
    for keep in [Keep::This, Keep::That] {
        let mut scene = Stage::new();
        let a = scene.host_of("acme", "a", 1);
        scene.apply(vec![task("t", "load", &[]), task("u", "load", &[])]);
        let run = scene.trigger();
        let first = scene.running(a)[0].attempt;
        let copy = scene.copy_alike(a);
        scene.ends(a, first, Outcome::Succeeded);
        let second = scene.running(a)[0].attempt;
        let attempts = |scene: &Stage| -> Vec<AttemptId> {
            let tasks = [scene.attempts(run, 0), scene.attempts(run, 1)].concat();
            tasks.iter().map(|attempt| attempt.attempt).collect()
        };
        let backup = scene.backup();
        let before = attempts(&scene);
        scene.restore_down(&backup);
        scene.is_cut_off(a);
        scene.starts(copy);
        scene.orchestrator_comes_up();
        scene.until(60, |scene| !scene.recovery().quarantined.is_empty());
        scene.pass(60);
        assert!(scene.running(copy).is_empty());
        assert!(scene.agent("a").holders[1].connected, "it does not flap");
        scene.is_reachable(a);
        scene.until(60, |scene| scene.agent("a").holders[0].connected);
        scene.pass(60);
        assert!(
            scene
                .agent("a")
                .holders
                .iter()
                .all(|holder| holder.connected)
        );
        assert_eq!(attempts(&scene), before, "nothing is tried again");
        assert_eq!(resolve(&mut scene, "a", keep), Ok(()));
        scene.until(60, |scene| !scene.recovery().recovering);
        scene.pass(60);
        match keep {
            Keep::This => {
                assert_eq!(attempts(&scene), before);
                scene.ends(a, second, Outcome::Succeeded);
                scene.pass(1);
                assert_eq!(scene.run(run).state, RunState::Succeeded);
            }
            Keep::That => {
                assert!(matches!(scene.attempt(second).phase, Phase::Lost { .. }));
                let again = scene.running(copy);
                assert_eq!(again.len(), 1, "its entry is safe to run again");
                assert_ne!(again[0].attempt, second);
            }
        }
    }
}
