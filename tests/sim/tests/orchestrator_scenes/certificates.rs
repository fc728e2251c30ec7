//! Certificates that end, keys that are left behind, and names that are given again: who gets in, and what people read.

use outpost_orchestrator_core::event::{Answer, Ask, Denied};
use outpost_orchestrator_core::recover::NotRecovered;
use outpost_orchestrator_core::standing::Keep;
use outpost_proto::ids::{Incarnation, Nonce};
use outpost_proto::outcome::Outcome;
use outpost_sim::stage::{DAY, Hand, SECOND, Stage, name, task};

const HOUR: u64 = 3600;

/// An agent that was in touch and whose certificate, of one hour, ended just now.
fn ended(scene: &mut Stage, agent: &str) -> Hand {
    let mut hand = scene.hand(agent);
    hand.not_after = scene.now() + HOUR * SECOND;
    hand.connects(scene, vec![]);
    hand.hangs_up(scene);
    scene.pass(HOUR);
    scene.pass_ms(1);
    hand
}

/// It asks for another certificate with this next key.
fn asks(scene: &mut Stage, hand: &Hand, next: &str) -> Result<(), NotRecovered> {
    let agent = hand.agent.to_string();
    match scene.recover(&agent, (&hand.key, next), hand.nonce, hand.not_after) {
        Ok(answer) => {
            assert_eq!(answer, Answer::Renewed);
            Ok(())
        }
        Err(Denied::NotRecovered { agent, why }) => {
            assert_eq!(agent, hand.agent);
            Err(why)
        }
        Err(other) => panic!("{other:?}"),
    }
}

/// It stored the certificate for this key and connects with it, for an hour.
fn uses(scene: &mut Stage, hand: &mut Hand, key: &str) {
    key.clone_into(&mut hand.key);
    hand.not_after = scene.now() + HOUR * SECOND;
    assert!(hand.greets(scene).is_some(), "its new key is its own");
    hand.lists(scene, vec![]);
    hand.hangs_up(scene);
}

fn resolve(scene: &mut Stage, agent: &str, keep: Keep) {
    let by = "somebody".to_owned();
    let agent = name(agent);
    assert!(scene.ask(Ask::ResolveAgent { agent, keep, by }).is_ok());
}

// --- certificates that end

#[test]
fn an_agent_that_was_cut_off_for_three_days_comes_back_by_itself_with_all_it_did() {
    let mut scene = Stage::new();
    let a = scene.host("a");
    scene.certificate_lasts(a, DAY);
    scene.apply(vec![task("t", "pay", &[])]);
    let run = scene.trigger();
    let first = scene.key(a);
    scene.is_cut_off(a);
    let attempt = scene.running(a)[0].attempt;
    scene.pass(DAY);
    scene.ends(a, attempt, Outcome::Succeeded);
    scene.pass(2 * DAY);
    assert!(!scene.agent("a").connected);
    scene.is_reachable(a);
    scene.until(200, |scene| scene.agent("a").connected);
    scene.pass(1);
    assert_ne!(scene.key(a), first);
    assert_eq!(scene.record("a").key_hash, scene.key(a));
    assert_eq!(scene.told(), ["certificate_recovered a"]);
    assert_eq!(scene.attempts(run, 0).len(), 1);
    assert!(
        scene.run(run).finished_at.is_some(),
        "its outcome came along"
    );
    let ends = scene.certificate_ends(a);
    assert_eq!(scene.agent("a").certificate_not_after, Some(ends));
}

#[test]
fn certificates_are_renewed_for_days_and_never_recovered() {
    let mut scene = Stage::new();
    let a = scene.host("a");
    scene.certificate_lasts(a, DAY);
    let first = scene.key(a);
    for _ in 0..4 {
        scene.pass(DAY);
        assert!(scene.agent("a").connected);
    }
    assert_ne!(scene.key(a), first);
    assert_eq!(scene.record("a").key_hash, scene.key(a));
    assert!(scene.told().is_empty() && scene.alarms().is_empty());
}

#[test]
fn an_answer_that_was_lost_is_given_again_and_counts_once() {
    let mut scene = Stage::new();
    let mut a = ended(&mut scene, "a");
    for _ in 0..5 {
        assert_eq!(asks(&mut scene, &a, "k1"), Ok(()));
    }
    assert_eq!(scene.told(), ["certificate_recovered a"]);
    uses(&mut scene, &mut a, "k1");
    assert_eq!(scene.record("a").key_hash, "k1");
    assert!(scene.alarms().is_empty());
}

#[test]
fn who_gets_no_certificate_is_told_why_and_nothing_changes() {
    let mut scene = Stage::new();
    let a = ended(&mut scene, "a");
    let other = Hand {
        key: "stolen".into(),
        ..a.clone()
    };
    let before = scene.record("a");
    assert_eq!(asks(&mut scene, &other, "k1"), Err(NotRecovered::OtherKey));
    let nobody = Hand {
        agent: name("nobody"),
        ..a.clone()
    };
    assert_eq!(asks(&mut scene, &nobody, "k1"), Err(NotRecovered::Unknown));
    let holds = Hand {
        not_after: scene.now() + SECOND,
        ..a.clone()
    };
    assert_eq!(
        asks(&mut scene, &holds, "k1"),
        Err(NotRecovered::NotExpired)
    );
    assert_eq!(scene.record("a"), before);
    assert!(scene.told().is_empty());
    assert!(scene.ask(Ask::RemoveAgent { agent: name("a") }).is_ok());
    assert_eq!(asks(&mut scene, &a, "k1"), Err(NotRecovered::Unknown));
}

#[test]
fn thirty_days_after_its_end_a_certificate_can_be_recovered_and_not_a_moment_later() {
    for (ms_more, answer) in [(0, Ok(())), (1, Err(NotRecovered::TooLate))] {
        let mut scene = Stage::new();
        let a = ended(&mut scene, "a");
        scene.pass(30 * DAY);
        scene.pass_ms(ms_more);
        let a = Hand {
            not_after: a.not_after + 1000,
            ..a
        };
        assert_eq!(asks(&mut scene, &a, "k1"), answer);
    }
}

#[test]
fn within_thirty_days_three_recoveries_are_accepted_and_the_next_after_that() {
    let mut scene = Stage::new();
    let mut a = ended(&mut scene, "a");
    let began = scene.now();
    for next in ["k1", "k2", "k3"] {
        assert_eq!(asks(&mut scene, &a, next), Ok(()));
        uses(&mut scene, &mut a, next);
        scene.pass(HOUR + 1);
    }
    assert_eq!(asks(&mut scene, &a, "k4"), Err(NotRecovered::TooOften));
    let left_ms = (began + 30 * DAY * SECOND - scene.now()) / 1000;
    scene.pass_ms(left_ms - 1);
    a.not_after = scene.now() - SECOND;
    assert_eq!(asks(&mut scene, &a, "k4"), Err(NotRecovered::TooOften));
    scene.pass_ms(1);
    assert_eq!(asks(&mut scene, &a, "k4"), Ok(()));
    assert_eq!(
        scene.record("a").standing.recoveries.len(),
        3,
        "the first is forgotten"
    );
}

#[test]
fn many_recoveries_within_an_hour_are_told_once_an_hour() {
    let mut scene = Stage::new();
    let all: Vec<Hand> = (0..34)
        .map(|n| ended(&mut scene, &format!("a{n}")))
        .collect();
    let often = |scene: &mut Stage, some: std::ops::Range<usize>| {
        for hand in &all[some] {
            assert_eq!(asks(scene, hand, "next"), Ok(()));
        }
        let told = scene.told().into_iter();
        let told: Vec<String> = told
            .filter(|told| told.starts_with("recovered_often"))
            .collect();
        told
    };
    assert!(often(&mut scene, 0..10).is_empty());
    scene.pass(HOUR);
    assert!(
        often(&mut scene, 10..11).is_empty(),
        "ten of them were an hour ago"
    );
    assert!(
        often(&mut scene, 11..20).is_empty(),
        "ten within the hour are not many"
    );
    let told = often(&mut scene, 20..21);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("recovered_often: 11 agents of this tenant within an hour"));
    scene.pass(HOUR - 1);
    assert!(
        often(&mut scene, 21..23).is_empty(),
        "within the hour it is not told again"
    );
    scene.pass(1);
    let told = often(&mut scene, 23..34);
    assert_eq!(told.len(), 1, "{told:?}");
}

// --- who asks is a copy

#[test]
fn i15_who_has_the_key_and_not_the_nonce_is_a_copy_and_nobody_goes_on_before_a_person_decided() {
    let mut scene = Stage::new();
    let a = ended(&mut scene, "a");
    let copy = Hand {
        nonce: Nonce(99),
        ..a.clone()
    };
    assert_eq!(
        asks(&mut scene, &copy, "kx"),
        Err(NotRecovered::Quarantined)
    );
    assert_eq!(scene.told(), ["quarantined a"]);
    assert_eq!(asks(&mut scene, &a, "k1"), Err(NotRecovered::Quarantined));
    assert!(scene.told().is_empty());
    assert_eq!(scene.recovery().quarantined, [name("a")]);
    resolve(&mut scene, "a", Keep::This);
    assert_eq!(scene.told(), ["kept_this a by somebody"]);
    assert_eq!(asks(&mut scene, &copy, "kx"), Err(NotRecovered::TurnedAway));
    assert_eq!(asks(&mut scene, &a, "k1"), Ok(()));
}

#[test]
fn i15_of_two_who_recover_with_one_state_the_person_says_which_stays() {
    for keep in [Keep::This, Keep::That] {
        let mut scene = Stage::new();
        let a = ended(&mut scene, "a");
        assert_eq!(asks(&mut scene, &a, "k1"), Ok(()));
        assert_eq!(asks(&mut scene, &a, "kx"), Err(NotRecovered::Quarantined));
        resolve(&mut scene, "a", keep);
        let (stays, goes) = match keep {
            Keep::This => ("k1", "kx"),
            Keep::That => ("kx", "k1"),
        };
        assert_eq!(asks(&mut scene, &a, goes), Err(NotRecovered::TurnedAway));
        assert_eq!(asks(&mut scene, &a, stays), Ok(()));
        let mut kept = a.clone();
        uses(&mut scene, &mut kept, stays);
        assert_eq!(scene.record("a").key_hash, stays);
        // Of the next certificate both can be told apart again.
        scene.pass(HOUR + 1);
        assert_eq!(asks(&mut scene, &kept, "k2"), Ok(()));
        assert_eq!(
            scene.told().last().map(String::as_str),
            Some("certificate_recovered a")
        );
    }
}

#[test]
fn i15_who_asked_to_renew_before_its_certificate_ended_asks_with_the_same_key_or_is_a_copy() {
    for copy_first in [false, true] {
        let mut scene = Stage::new();
        let mut a = scene.hand("a");
        a.not_after = scene.now() + HOUR * SECOND;
        a.connects(&mut scene, vec![]);
        let beside = Some(a.conn);
        assert_eq!(
            scene.renew("a", ("key-a-0", "n1"), beside),
            Ok(Answer::Renewed)
        );
        a.hangs_up(&mut scene);
        scene.pass(HOUR + 1);
        if !copy_first {
            assert_eq!(asks(&mut scene, &a, "n1"), Ok(()));
            continue;
        }
        assert_eq!(asks(&mut scene, &a, "kx"), Err(NotRecovered::Quarantined));
        resolve(&mut scene, "a", Keep::This);
        assert_eq!(asks(&mut scene, &a, "kx"), Err(NotRecovered::TurnedAway));
        assert_eq!(asks(&mut scene, &a, "n1"), Ok(()));
    }
}

#[test]
fn i15_what_was_asked_for_under_a_key_left_behind_binds_nobody() {
    // It renewed to `n1`, used that, and asked for `n2`; then a copy of its first state asks.
    let mut scene = Stage::new();
    let mut a = scene.hand("a");
    a.not_after = scene.now() + HOUR * SECOND;
    a.connects(&mut scene, vec![]);
    assert!(scene.renew("a", ("key-a-0", "n1"), Some(a.conn)).is_ok());
    a.hangs_up(&mut scene);
    let copy = a.clone();
    uses(&mut scene, &mut a, "n1");
    scene.pass(HOUR + 1);
    assert_eq!(asks(&mut scene, &copy, "kx"), Err(NotRecovered::OtherKey));
    assert_eq!(asks(&mut scene, &a, "n2"), Ok(()));
    assert_eq!(scene.told(), ["certificate_recovered a"]);
    uses(&mut scene, &mut a, "n2");
    // A copy of the state that asked: it has that key, and another next one.
    let copy = Hand {
        key: "n1".into(),
        ..a.clone()
    };
    assert_eq!(
        asks(&mut scene, &copy, "kx"),
        Err(NotRecovered::Quarantined)
    );
    resolve(&mut scene, "a", Keep::This);
    let record = scene.record("a");
    assert_eq!(record.key_hash, "n2", "it keeps the key it uses");
    assert!(
        record
            .standing
            .recovered
            .is_some_and(|it| it.decided && it.to == "n2")
    );
}

#[test]
fn i15_who_keeps_its_place_may_ask_anew_and_the_other_may_not() {
    // The copy had the session; the person keeps it, and it comes to a new key.
    let mut scene = Stage::new();
    let mut a = scene.hand("a");
    a.not_after = scene.now() + HOUR * SECOND;
    a.connects(&mut scene, vec![]);
    assert!(scene.renew("a", ("key-a-0", "n1"), Some(a.conn)).is_ok());
    a.hangs_up(&mut scene);
    let mut copy = Hand {
        nonce: Nonce(5),
        incarnation: Incarnation(8),
        ..a.clone()
    };
    assert!(copy.greets(&mut scene).is_some(), "it is listened to");
    resolve(&mut scene, "a", Keep::This);
    scene.pass(HOUR + 1);
    assert_eq!(asks(&mut scene, &copy, "kx"), Err(NotRecovered::TurnedAway));
    assert_eq!(
        asks(&mut scene, &a, "n9"),
        Ok(()),
        "whichever key: a person said so"
    );
}

// --- after a restore

#[test]
fn b7_an_agent_that_renewed_since_the_backup_recovers_once() {
    let mut scene = Stage::new();
    let mut a = scene.hand("a");
    a.not_after = scene.now() + HOUR * SECOND;
    a.connects(&mut scene, vec![]);
    let backup = scene.backup();
    assert!(scene.renew("a", ("key-a-0", "n1"), Some(a.conn)).is_ok());
    uses(&mut scene, &mut a, "n1");
    a.not_after += HOUR * SECOND;
    scene.pass(DAY);
    scene.restore(&backup);
    let known = scene.record("a").certificate_not_after.unwrap_or(0);
    for not_after in [known - 1, known] {
        let other = Hand {
            key: "other".into(),
            not_after,
            ..a.clone()
        };
        assert_eq!(
            asks(&mut scene, &other, "k1"),
            Err(NotRecovered::OtherKey),
            "no newer one"
        );
    }
    assert_eq!(
        asks(&mut scene, &a, "k1"),
        Ok(()),
        "by a key and a nonce the backup lacks"
    );
    uses(&mut scene, &mut a, "k1");
    scene.pass(HOUR + 1);
    let again = Hand {
        key: "other".into(),
        ..a.clone()
    };
    assert_eq!(
        asks(&mut scene, &again, "k2"),
        Err(NotRecovered::OtherKey),
        "it is known now"
    );
    let nonce = Hand {
        nonce: Nonce(77),
        ..a.clone()
    };
    assert_eq!(
        asks(&mut scene, &nonce, "k2"),
        Err(NotRecovered::Quarantined)
    );
}

#[test]
fn b7_whoever_had_the_name_before_recovers_nothing_after_a_restore() {
    let mut scene = Stage::new();
    let mut former = scene.hand("a");
    former.not_after = scene.now() + HOUR * SECOND;
    former.connects(&mut scene, vec![]);
    assert!(scene.ask(Ask::RemoveAgent { agent: name("a") }).is_ok());
    assert!(scene.enrol("acme", "a", "anew").is_ok());
    let backup = scene.backup();
    scene.pass(DAY);
    scene.restore(&backup);
    former.not_after = scene.now() - SECOND;
    assert_eq!(asks(&mut scene, &former, "k1"), Err(NotRecovered::OtherKey));
    assert!(scene.told().is_empty());
}
