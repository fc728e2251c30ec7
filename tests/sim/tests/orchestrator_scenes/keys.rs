//! Under which key somebody comes: the agent's own, one it left behind, one of whoever had its name before, or a stranger's.

use outpost_orchestrator_core::event::{Ask, CloseReason};
use outpost_proto::ids::Nonce;
use outpost_sim::stage::{Hand, SECOND, Stage, name};

/// Whether whoever holds this key is let in, as whom, and what people are told.
fn knocks(scene: &mut Stage, hand: &Hand) -> (bool, Option<CloseReason>, Vec<String>) {
    let mut hand = hand.clone();
    let welcome = hand.greets(scene).is_some();
    let why = scene.why_ended(hand.conn);
    hand.hangs_up(scene);
    (welcome, why, scene.told())
}

#[test]
fn a_name_that_is_given_again_is_not_disturbed_by_whoever_had_it() {
    let mut scene = Stage::new();
    let mut former = scene.hand("a");
    former.connects(&mut scene, vec![]);
    assert!(
        scene
            .renew("a", ("key-a-0", "n1"), Some(former.conn))
            .is_ok()
    );
    let mut renewed = Hand {
        key: "n1".into(),
        ..former.clone()
    };
    renewed.connects(&mut scene, vec![]);
    assert!(scene.renew("a", ("n1", "n2"), Some(renewed.conn)).is_ok());
    assert!(scene.ask(Ask::RemoveAgent { agent: name("a") }).is_ok());
    assert!(scene.enrol("acme", "a", "anew").is_ok());
    let mut a = Hand::new("acme", "a", "anew", former.not_after);
    a.connects(&mut scene, vec![]);
    assert!(scene.told().is_empty());
    for key in ["key-a-0", "n1", "n2"] {
        // Also one whose certificate ends later.
        let former = Hand {
            key: key.into(),
            not_after: former.not_after + 7,
            ..former.clone()
        };
        let other = Some(CloseReason::OtherKey);
        assert_eq!(
            knocks(&mut scene, &former),
            (false, other, vec!["other_key a".into()])
        );
        assert_eq!(
            knocks(&mut scene, &former),
            (false, other, vec![]),
            "told once"
        );
    }
    assert_eq!(scene.why_ended(a.conn), None);
    assert!(scene.alarms().is_empty());
    // Enrolled by one of its own former keys again, that one is its own.
    assert!(scene.ask(Ask::RemoveAgent { agent: name("a") }).is_ok());
    assert!(scene.enrol("acme", "a", "n1").is_ok());
    let own = Hand {
        key: "n1".into(),
        ..former.clone()
    };
    assert_eq!(knocks(&mut scene, &own).1, None);
}

#[test]
fn i15_a_key_that_was_left_behind_or_came_from_nowhere_is_a_second_holders() {
    let mut scene = Stage::new();
    let mut a = scene.hand("a");
    a.connects(&mut scene, vec![]);
    let left = a.clone();
    assert!(scene.renew("a", ("key-a-0", "n1"), Some(a.conn)).is_ok());
    a.key = "n1".into();
    a.not_after += 1000;
    a.connects(&mut scene, vec![]);
    let ends = a.not_after;
    let other = Some(CloseReason::OtherKey);
    for (key, not_after, expected) in [
        ("nowhere", ends - 1, (false, other)),
        ("nowhere", ends, (false, other)),
        ("nowhere", ends + 1, (true, None)),
        ("key-a-0", left.not_after, (true, None)),
    ] {
        let mut scene = replay_until_renewed();
        let hand = Hand {
            key: key.into(),
            not_after,
            ..left.clone()
        };
        let (welcome, why, told) = knocks(&mut scene, &hand);
        assert_eq!((welcome, why), expected, "{key} {not_after}");
        let second = if welcome {
            "quarantined a"
        } else {
            "other_key a"
        };
        assert_eq!(told, [second]);
    }
}

/// An agent `a` under `n1`, whose certificate ends a millisecond later than its first one.
fn replay_until_renewed() -> Stage {
    let mut scene = Stage::new();
    let mut a = scene.hand("a");
    a.connects(&mut scene, vec![]);
    assert!(scene.renew("a", ("key-a-0", "n1"), Some(a.conn)).is_ok());
    a.key = "n1".into();
    a.not_after += 1000;
    a.connects(&mut scene, vec![]);
    assert!(scene.told().is_empty());
    scene
}

#[test]
fn b7_after_a_restore_a_key_that_the_backup_lacks_is_the_agents_until_it_was_met() {
    let mut scene = Stage::new();
    let mut a = scene.hand("a");
    a.connects(&mut scene, vec![]);
    let backup = scene.backup();
    scene.pass(1);
    scene.restore(&backup);
    a.key = "since".into();
    a.not_after -= SECOND;
    assert!(a.greets(&mut scene).is_some());
    a.lists(&mut scene, vec![]);
    assert_eq!(scene.record("a").key_hash, "since");
    assert!(
        scene
            .told()
            .iter()
            .all(|told| !told.starts_with("quarantined"))
    );
    // From now on another one of that time is a second holder's, whenever it ends.
    let other = Hand {
        key: "another".into(),
        not_after: 5,
        nonce: Nonce(4),
        ..a.clone()
    };
    assert_eq!(
        knocks(&mut scene, &other),
        (true, None, vec!["quarantined a".into()])
    );
    // Whoever enrolled since then is not of that time.
    scene.pass(1);
    let mut b = scene.hand("b");
    b.connects(&mut scene, vec![]);
    let other = Hand {
        key: "another".into(),
        not_after: 5,
        ..b.clone()
    };
    let why = Some(CloseReason::OtherKey);
    assert_eq!(
        knocks(&mut scene, &other),
        (false, why, vec!["other_key b".into()])
    );
}

#[test]
fn keys_are_remembered_so_many_and_no_more() {
    // Four keys left behind, eight strangers told of.
    let mut scene = Stage::new();
    let mut a = scene.hand("a");
    a.connects(&mut scene, vec![]);
    for n in 1..=6 {
        let next = format!("n{n}");
        let key = a.key.clone();
        assert!(scene.renew("a", (&key, &next), Some(a.conn)).is_ok());
        a.key = next;
        a.connects(&mut scene, vec![]);
    }
    let record = scene.record("a");
    assert_eq!(record.standing.left_keys, ["n2", "n3", "n4", "n5"]);
    for n in 0..10 {
        let key = format!("stranger-{n}");
        let stranger = Hand {
            key,
            not_after: 1,
            ..a.clone()
        };
        assert_eq!(knocks(&mut scene, &stranger).2, ["other_key a"]);
    }
    let told = scene.record("a").standing.other_keys.clone();
    assert_eq!(told.len(), 8);
    assert_eq!(told.last().map(String::as_str), Some("stranger-9"));
}

#[test]
fn i15_the_right_nonce_under_a_key_from_nowhere_is_a_second_holders_all_the_same() {
    let mut scene = Stage::new();
    let mut a = scene.hand("a");
    a.connects(&mut scene, vec![]);
    let newer = Hand {
        key: "nowhere".into(),
        not_after: a.not_after + 1,
        ..a.clone()
    };
    assert_eq!(
        knocks(&mut scene, &newer),
        (true, None, vec!["quarantined a".into()])
    );
    assert_eq!(scene.why_ended(a.conn), None);
}

#[test]
fn i15_under_a_key_left_behind_the_second_holder_is_known_by_its_nonces_and_a_third_is_not_let_in()
{
    let mut scene = replay_until_renewed();
    let of = |nonce| Hand {
        nonce,
        ..Hand::new("acme", "a", "key-a-0", 5)
    };
    let mut second = of(Nonce(5));
    assert!(second.greets(&mut scene).is_some());
    let mut third = of(Nonce(6));
    assert!(third.greets(&mut scene).is_none());
    assert_eq!(scene.why_ended(third.conn), Some(CloseReason::Cloned));
    let own = scene.record("a").nonces.last().copied();
    let mut third = of(own.unwrap_or(Nonce(0)));
    assert!(
        third.greets(&mut scene).is_none(),
        "nor with the agent's own"
    );
    assert!(second.greets(&mut scene).is_some(), "it is the same one");
    assert_eq!(scene.told(), ["quarantined a"]);
}

#[test]
fn i15_a_state_that_is_two_sessions_old_is_a_copys() {
    let mut scene = Stage::new();
    let mut a = scene.hand("a");
    a.connects(&mut scene, vec![]);
    let old = a.clone();
    // Of a session that was cut before its inventory ended, both nonces are good.
    assert!(a.greets(&mut scene).is_some());
    let mut again = old.clone();
    assert!(again.greets(&mut scene).is_some());
    again.lists(&mut scene, vec![]);
    assert!(scene.told().is_empty());
    assert_eq!(knocks(&mut scene, &old).2, ["quarantined a"]);
}
