//! Two holders of one identity: a machine was copied, or put back to a snapshot. Both are heard and neither gets work
//! until a person decides; what the people read meanwhile, and what follows from either decision.

use outpost_orchestrator_core::event::{Alarm, Answer, Ask, CloseReason, Denied, HolderView};
use outpost_orchestrator_core::record::TaskState;
use outpost_orchestrator_core::standing::Keep;
use outpost_proto::ids::{AttemptId, EventSeq, Incarnation, Nonce, SessionEpoch};
use outpost_proto::message::{
    AttemptState, Directive, DownMessage, Granted, InventoryPage, UpMessage,
};
use outpost_sim::stage::{Hand, Stage, assigned, item, name, task};

use crate::common::*;

pub(crate) fn resolve(scene: &mut Stage, agent: &str, keep: Keep) -> Result<(), Denied> {
    let (agent, by) = (name(agent), "somebody".to_owned());
    match scene.ask(Ask::ResolveAgent { agent, keep, by })? {
        Answer::Agent(view) => assert!(view.holders.is_empty(), "one is left"),
        other => panic!("{other:?}"),
    }
    Ok(())
}

/// An agent `a`, and a copy of its state on another machine that says Hello beside it. Both are in touch.
fn copied() -> (Stage, Hand, Hand) {
    let mut scene = Stage::new();
    let mut a = scene.hand("a");
    a.connects(&mut scene, vec![]);
    scene.pass(5);
    let mut copy = Hand {
        nonce: Nonce(5),
        incarnation: Incarnation(8),
        ..a.clone()
    };
    assert!(copy.greets(&mut scene).is_some(), "it is listened to");
    assert_eq!(scene.alarms(), [("a".to_owned(), Alarm::Cloned)]);
    assert_eq!(scene.told(), ["quarantined a"]);
    assert_eq!(scene.why_ended(a.conn), None, "nothing flaps");
    (scene, a, copy)
}

// --- while nobody has decided

#[test]
fn i15_people_read_of_both_holders_who_they_are_and_what_they_do() {
    let (mut scene, mut a, mut copy) = copied();
    let began = scene.now();
    let holders = |scene: &mut Stage| -> [HolderView; 2] {
        let holders = scene.agent("a").holders;
        holders
            .try_into()
            .unwrap_or_else(|holders| panic!("{holders:?}"))
    };
    let [this, that] = holders(&mut scene);
    assert_eq!((this.which, that.which), (Keep::This, Keep::That));
    assert_eq!(
        (this.incarnation, that.incarnation),
        (a.incarnation, copy.incarnation)
    );
    assert!(this.connected && that.connected);
    assert_eq!(
        (this.attempts, that.attempts),
        (Some(0), None),
        "it has not listed any"
    );
    assert_eq!(this.last_heard, Some(began - 5_000_000));
    assert_eq!(that.last_heard, Some(began));
    scene.pass(3);
    let held = |n| outpost_proto::message::InventoryItem {
        attempt: AttemptId(n),
        run: outpost_proto::ids::RunId(1),
        task: outpost_proto::ids::TaskIndex(0),
        fence: outpost_proto::ids::Fence(1),
        state: AttemptState::Running,
        event_seq: EventSeq(0),
    };
    copy.lists(&mut scene, (1..=3).map(held).collect());
    let [this, that] = holders(&mut scene);
    assert_eq!(that.attempts, Some(3));
    assert_eq!(that.heartbeat.map(|it| it.seq.0), Some(1));
    assert_eq!(that.last_heard, Some(began + 3_000_000));
    assert_eq!(
        this.last_heard,
        Some(began - 5_000_000),
        "the other one was not heard"
    );
    a.beats(&mut scene);
    a.hangs_up(&mut scene);
    let [this, that] = holders(&mut scene);
    assert!(!this.connected && that.connected);
    assert_eq!(this.last_heard, Some(began + 3_000_000));
    copy.hangs_up(&mut scene);
    assert!(holders(&mut scene).iter().all(|holder| !holder.connected));
    assert_eq!(scene.recovery().quarantined, [name("a")]);
}

#[test]
fn i15_both_are_answered_and_neither_gets_work_or_a_lease() {
    let (mut scene, mut a, mut copy) = copied();
    scene.apply(vec![task("t", "load", &[])]);
    copy.lists(&mut scene, vec![]);
    let run = scene.trigger();
    let answer = |highest| {
        vec![DownMessage::Granted(Granted {
            highest_event_seq: EventSeq(highest),
            lease: None,
        })]
    };
    assert_eq!(copy.beats(&mut scene), answer(0));
    assert_eq!(a.beats(&mut scene), answer(0));
    assert!(matches!(state(&scene, run, 0), TaskState::Queued { .. }));
    assert!(
        scene
            .explain(run)
            .iter()
            .any(|why| why.code == "agent_quarantined"),
        "{:?}",
        scene.explain(run)
    );
    // Over a restart, too.
    scene.orchestrator_restarts();
    let said = a.connects(&mut scene, vec![]);
    assert!(assigned(&said).is_empty());
    assert_eq!(scene.agent("a").holders.len(), 2);
    assert!(scene.told().is_empty(), "it was told");
    assert_eq!(resolve(&mut scene, "a", Keep::This), Ok(()));
    assert_eq!(
        scene.why_ended(a.conn),
        Some(CloseReason::Replaced),
        "it begins anew"
    );
    let said = a.connects(&mut scene, vec![]);
    assert_eq!(assigned(&said).len(), 1);
}

#[test]
fn i15_what_the_second_holder_says_changes_nothing_and_out_of_order_ends_its_stream() {
    for (what, alarm) in [
        ("catalogue", None),
        ("heartbeat", None),
        ("page", None),
        ("hello", Some(Alarm::OutOfOrder)),
        ("event", Some(Alarm::OutOfOrder)),
        ("trigger", Some(Alarm::OutOfOrder)),
        ("ack", Some(Alarm::OutOfOrder)),
        ("wrong count", Some(Alarm::InventoryCount)),
        ("page after the end", Some(Alarm::InventoryCount)),
    ] {
        let (mut scene, a, mut copy) = copied();
        let page = |end| UpMessage::Inventory(InventoryPage { items: vec![], end });
        let message = match what {
            "catalogue" => UpMessage::Catalogue(outpost_proto::message::Catalogue {
                version: outpost_proto::ids::CatalogueVersion(9),
                entries: vec![],
            }),
            "heartbeat" => copy.beat(),
            "page" => page(None),
            "hello" => copy.hello(),
            "event" => copy.event(AttemptId(1), AttemptState::Running),
            "trigger" => UpMessage::Trigger {
                trigger: 1,
                event_seq: EventSeq(4),
            },
            "ack" => UpMessage::Ack(outpost_proto::ids::CommandSeq(1)),
            "wrong count" => page(Some(1)),
            _ => {
                copy.says(&mut scene, vec![page(Some(0))]);
                page(None)
            }
        };
        let before = scene.record("a");
        copy.says(&mut scene, vec![message]);
        let alarms: Vec<_> = alarm
            .map(|alarm| ("a".to_owned(), alarm))
            .into_iter()
            .collect();
        assert_eq!(scene.alarms(), alarms, "{what}");
        let why = (!alarms.is_empty()).then_some(CloseReason::Protocol);
        assert_eq!(scene.why_ended(copy.conn), why, "{what}");
        assert_eq!(scene.why_ended(a.conn), None, "{what}");
        let after = scene.record("a");
        assert_eq!(
            (after.catalogue, after.event_seq),
            (before.catalogue, before.event_seq)
        );
    }
}

#[test]
fn i15_the_second_holder_is_known_again_by_its_own_nonces() {
    let (mut scene, a, copy) = copied();
    // Cut before its inventory ended: what it presented is good still.
    copy.says(
        &mut scene,
        vec![UpMessage::Inventory(InventoryPage {
            items: vec![],
            end: None,
        })],
    );
    let first = Hand {
        nonce: Nonce(5),
        ..copy.clone()
    };
    copy.hangs_up(&mut scene);
    let mut copy = first.clone();
    let epoch = copy
        .greets(&mut scene)
        .map_or(SessionEpoch(0), |welcome| welcome.session_epoch);
    assert_eq!(epoch, SessionEpoch(3), "each session has its own number");
    let former = copy.conn;
    let mut newer = copy.clone();
    assert!(newer.greets(&mut scene).is_some());
    assert_eq!(scene.why_ended(former), Some(CloseReason::Replaced));
    newer.lists(&mut scene, vec![]);
    // Confirmed: whoever presents the first one now is yet another.
    let mut third = Hand {
        incarnation: Incarnation(9),
        ..first
    };
    assert!(third.greets(&mut scene).is_none());
    assert_eq!(scene.why_ended(third.conn), Some(CloseReason::Cloned));
    assert_eq!(scene.alarms(), [("a".to_owned(), Alarm::Nonce)]);
    assert_eq!(scene.why_ended(a.conn), None);
    assert_eq!(scene.why_ended(newer.conn), None);
    assert!(scene.told().is_empty());
}

#[test]
fn i15_third_holders_are_turned_away_and_their_lives_count_once_each() {
    let (mut scene, a, _) = copied();
    for life in [20, 21, 20, 22, 23] {
        let mut third = Hand {
            nonce: Nonce(70),
            incarnation: Incarnation(life),
            ..a.clone()
        };
        assert!(third.greets(&mut scene).is_none());
        assert_eq!(scene.why_ended(third.conn), Some(CloseReason::Cloned));
        assert_eq!(scene.alarms(), [("a".to_owned(), Alarm::Nonce)]);
    }
    let third = scene
        .record("a")
        .standing
        .quarantine
        .map(|it| it.third)
        .unwrap_or_default();
    assert_eq!(third, [20, 21, 22].map(Incarnation));
    assert_eq!(resolve(&mut scene, "a", Keep::This), Ok(()));
    let others = scene.record("a").standing.others.clone();
    let others: Vec<u64> = others.iter().map(|other| other.incarnation.0).collect();
    assert_eq!(others, [20, 21, 22, 8]);
    // Who was decided against is no third one of the next time.
    let mut copy = Hand {
        nonce: Nonce(6),
        incarnation: Incarnation(30),
        ..a.clone()
    };
    assert!(copy.greets(&mut scene).is_some());
    let mut known = Hand {
        nonce: Nonce(5),
        incarnation: Incarnation(31),
        ..a.clone()
    };
    assert!(known.greets(&mut scene).is_none());
    let third = scene
        .record("a")
        .standing
        .quarantine
        .map(|it| it.third)
        .unwrap_or_default();
    assert!(third.is_empty());
}

#[test]
fn i15_the_lives_of_a_second_holder_that_comes_and_goes_are_remembered() {
    let (mut scene, a, copy) = copied();
    let mut copy = copy;
    for life in [8, 9, 10, 9, 11, 12] {
        copy.incarnation = Incarnation(life);
        assert!(copy.greets(&mut scene).is_some());
    }
    let quarantine = scene
        .record("a")
        .standing
        .quarantine
        .map(|it| (it.incarnation, it.former));
    assert_eq!(
        quarantine,
        Some((Incarnation(12), [9, 10, 11].map(Incarnation).to_vec()))
    );
    assert_eq!(scene.why_ended(a.conn), None);
}

// --- the decision

#[test]
fn i15_who_is_decided_against_is_turned_away_for_good_and_the_other_changes_its_key() {
    for keep in [Keep::This, Keep::That] {
        let (mut scene, a, mut copy) = copied();
        copy.lists(&mut scene, vec![]);
        assert_eq!(resolve(&mut scene, "a", keep), Ok(()));
        let word = if keep == Keep::This {
            "kept_this"
        } else {
            "kept_that"
        };
        assert_eq!(scene.told(), [format!("{word} a by somebody")]);
        assert_eq!(
            resolve(&mut scene, "a", keep),
            Err(Denied::NotQuarantined(name("a")))
        );
        let (mut stays, mut goes) = if keep == Keep::This {
            (a, copy)
        } else {
            (copy, a)
        };
        assert_eq!(scene.why_ended(stays.conn), Some(CloseReason::Replaced));
        assert_eq!(scene.why_ended(goes.conn), Some(CloseReason::Cloned));
        assert!(goes.greets(&mut scene).is_none());
        assert_eq!(scene.why_ended(goes.conn), Some(CloseReason::Cloned));
        assert_eq!(scene.alarms(), [("a".to_owned(), Alarm::Nonce)]);
        for _ in 0..2 {
            let said = stays.connects(&mut scene, vec![]);
            assert!(
                directives(&said).contains(&Directive::RenewNow),
                "the copy has its key"
            );
        }
        assert!(
            scene
                .renew("a", ("key-a-0", "n1"), Some(stays.conn))
                .is_ok()
        );
        stays.key = "n1".into();
        let said = stays.connects(&mut scene, vec![]);
        assert!(!directives(&said).contains(&Directive::RenewNow));
        // The other one is known by its key from now on, too.
        assert!(goes.greets(&mut scene).is_none());
        scene.apply(vec![task("t", "load", &[])]);
        scene.trigger();
        assert_eq!(assigned(&stays.hears(&mut scene)).len(), 1, "work goes on");
    }
    let mut scene = Stage::new();
    let unknown = Err(Denied::UnknownAgent(name("nobody")));
    assert_eq!(resolve(&mut scene, "nobody", Keep::This), unknown);
    scene.hand("a");
    assert!(scene.ask(Ask::RemoveAgent { agent: name("a") }).is_ok());
    assert_eq!(
        resolve(&mut scene, "a", Keep::This),
        Err(Denied::UnknownAgent(name("a")))
    );
}

#[test]
fn i15_a_holder_that_is_kept_keeps_the_key_it_came_with() {
    for left_behind in [false, true] {
        let mut scene = Stage::new();
        let mut a = scene.hand("a");
        a.connects(&mut scene, vec![]);
        let mut copy = Hand {
            nonce: Nonce(5),
            incarnation: Incarnation(8),
            ..a.clone()
        };
        assert!(scene.renew("a", ("key-a-0", "n1"), Some(a.conn)).is_ok());
        a.key = "n1".into();
        a.connects(&mut scene, vec![]);
        if !left_behind {
            copy.key = "n1".into();
        }
        assert!(copy.greets(&mut scene).is_some());
        assert_eq!(resolve(&mut scene, "a", Keep::That), Ok(()));
        assert_eq!(scene.record("a").key_hash, copy.key);
        assert!(copy.greets(&mut scene).is_some());
        let said = copy.lists(&mut scene, vec![]);
        assert!(directives(&said).contains(&Directive::RenewNow));
    }
}

#[test]
fn i15_of_two_in_the_same_life_the_kept_one_starts_nothing_that_the_other_may_have_started() {
    for (entry, listed, again) in [
        ("load", AttemptState::Assigned, 2),
        ("pay", AttemptState::Assigned, 1),
        ("load", AttemptState::Running, 1),
    ] {
        let mut scene = Stage::new();
        let mut a = scene.hand("a");
        a.connects(&mut scene, vec![]);
        scene.apply(vec![task("t", entry, &[])]);
        let run = scene.trigger();
        let sent = assigned(&a.hears(&mut scene))[0].clone();
        let mut copy = Hand {
            nonce: Nonce(5),
            ..a.clone()
        };
        assert!(copy.greets(&mut scene).is_some());
        scene.pass(1);
        assert_eq!(resolve(&mut scene, "a", Keep::This), Ok(()));
        let said = a.connects(&mut scene, vec![item(&sent, listed, 0)]);
        assert!(scene.alarms().len() <= 1);
        let kept = directives(&said).contains(&Directive::Keep(sent.attempt));
        assert_eq!(kept, listed == AttemptState::Running, "{entry} {listed:?}");
        a.lives(&mut scene, 60);
        assert_eq!(scene.attempts(run, 0).len(), again, "{entry} {listed:?}");
        // What it is given from now on is its own, although the life is the same.
        let more = scene.trigger();
        let id = scene.attempts(more, 0)[0].attempt;
        let sent = assigned(&a.hears(&mut scene))
            .into_iter()
            .find(|it| it.attempt == id);
        let sent = sent.unwrap_or_else(|| panic!("it gets work"));
        let said = a.connects(&mut scene, vec![item(&sent, AttemptState::Assigned, 0)]);
        assert!(directives(&said).contains(&Directive::Keep(id)));
    }
}

#[test]
fn what_a_former_version_wrote_of_a_decision_is_said_in_words_of_this_one() {
    let (mut scene, mut a, _) = copied();
    assert_eq!(resolve(&mut scene, "a", Keep::This), Ok(()));
    scene.orchestrator_stops();
    scene.rewrite("a", |row| {
        row["standing"]["others"] = serde_json::json!([]);
        row["standing"]["forked"] = true.into();
        row["standing"]["other_key"] = "k".into();
    });
    scene.pass(1);
    scene.orchestrator_comes_up();
    let standing = scene.record("a").standing;
    let others: Vec<_> = standing
        .others
        .iter()
        .map(|it| (it.incarnation, it.until))
        .collect();
    assert_eq!(others, [(a.incarnation, scene.now())]);
    assert_eq!(standing.other_keys, ["k"]);
    a.connects(&mut scene, vec![]);
}

#[test]
fn b7_i15_a_restore_knows_the_second_holder_by_its_nonce_and_takes_any_other_for_the_agent() {
    let (mut scene, mut a, mut copy) = copied();
    copy.lists(&mut scene, vec![]);
    let backup = scene.backup();
    a.connects(&mut scene, vec![]);
    a.connects(&mut scene, vec![]);
    scene.restore(&backup);
    scene.alarms();
    assert!(copy.greets(&mut scene).is_some());
    let connected = |scene: &mut Stage| {
        let holders = scene.agent("a").holders;
        (holders[0].connected, holders[1].connected)
    };
    assert_eq!(connected(&mut scene), (false, true), "it is the second one");
    assert!(
        a.greets(&mut scene).is_some(),
        "by a nonce the backup lacks"
    );
    assert_eq!(connected(&mut scene), (true, true));
    assert!(scene.alarms().is_empty());
}
