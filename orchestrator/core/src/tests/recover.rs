//! A certificate that ended is replaced: for whom, and for whom not.

use crate::event::{Alarm, HolderView};
use crate::record::NoticeKind;
use crate::recover::NotRecovered;
use crate::safety::Safety;
use crate::standing::Keep;

use super::*;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// What is asked: the ended key, the next one, the nonce, and how long ago it ended.
#[derive(Clone, Copy)]
struct Asks<'a>(&'a str, &'a str, Nonce, Option<u64>);

fn recover(rig: &mut Rig, agent: &str, asks: Asks<'_>) -> (Result<(), NotRecovered>, Vec<Alarm>) {
    rig.calls += 1;
    let Asks(key, next, nonce, ended_ms_ago) = asks;
    let said = rig.turn(&[Happened::Recover {
        call: Call(rig.calls),
        tenant: name("acme"),
        agent: name(agent),
        key_hash: key.into(),
        next_key: next.into(),
        nonce,
        ended_ms_ago,
        not_after: rig.now.0 - 1000 * ended_ms_ago.unwrap_or(0),
    }]);
    let mut alarms = Vec::new();
    let mut answered = None;
    for speech in said {
        match speech {
            Speech::Answer { answer, .. } => answered = Some(answer),
            Speech::Alarm { what, .. } => alarms.push(what),
            Speech::Send { .. } | Speech::Close { .. } => panic!("{speech:?}"),
        }
    }
    let answer = match answered.unwrap() {
        Ok(Answer::Renewed) => Ok(()),
        Err(Denied::NotRecovered { why, .. }) => Err(why),
        other => panic!("{other:?}"),
    };
    (answer, alarms)
}

fn told(rig: &Rig, wanted: Safety) -> usize {
    let notices = rig.mirror.notices.iter();
    let of = |what: &NoticeKind| matches!(what, NoticeKind::Safety { what, .. } if *what == wanted);
    notices.filter(|notice| of(&notice.what)).count()
}

/// An agent whose last session is over.
fn away() -> (Rig, Site) {
    let mut rig = Rig::new();
    let site = rig.site("bank");
    rig.turn(&[Happened::Closed { conn: site.conn }]);
    (rig, site)
}

fn record(rig: &Rig) -> &crate::record::AgentRecord {
    &rig.mirror.agents[&(name("acme"), name("bank"))]
}

#[test]
fn who_gets_another_certificate_and_who_does_not() {
    let hour = Some(HOUR_MS);
    let stale = Nonce(12_345);
    let (rig, site) = away();
    let good = site.nonce;
    drop(rig);
    // Each on an agent as fresh as the first one; the nonces of a rig are always the same.
    let table = [
        (
            "as it was bound",
            "bank",
            Asks("key", "next", good, hour),
            Ok(()),
        ),
        (
            "at once",
            "bank",
            Asks("key", "next", good, Some(0)),
            Ok(()),
        ),
        (
            "in the last hour",
            "bank",
            Asks("key", "next", good, Some(30 * DAY_MS)),
            Ok(()),
        ),
        (
            "one later",
            "bank",
            Asks("key", "next", good, Some(30 * DAY_MS + 1)),
            Err(NotRecovered::TooLate),
        ),
        (
            "it holds",
            "bank",
            Asks("key", "next", good, None),
            Err(NotRecovered::NotExpired),
        ),
        (
            "another key",
            "bank",
            Asks("former", "next", good, hour),
            Err(NotRecovered::OtherKey),
        ),
        (
            "another key and nonce",
            "bank",
            Asks("former", "next", stale, hour),
            Err(NotRecovered::OtherKey),
        ),
        (
            "an earlier state",
            "bank",
            Asks("key", "next", stale, hour),
            Err(NotRecovered::Quarantined),
        ),
        (
            "nobody",
            "shop",
            Asks("key", "next", good, hour),
            Err(NotRecovered::Unknown),
        ),
    ];
    for (what, agent, asks, expected) in table {
        let (mut rig, _) = away();
        let (answer, alarms) = recover(&mut rig, agent, asks);
        assert_eq!(answer, expected, "{what}");
        let cloned = expected == Err(NotRecovered::Quarantined);
        assert_eq!(!alarms.is_empty(), cloned, "{what}: {alarms:?}");
        let recovered = told(&rig, Safety::CertificateRecovered);
        assert_eq!(recovered, usize::from(expected.is_ok()), "{what}");
    }
}

#[test]
fn the_new_key_takes_the_old_ones_place_with_its_first_session() {
    let (mut rig, mut site) = away();
    let asks = Asks("key", "second", site.nonce, Some(HOUR_MS));
    assert_eq!(recover(&mut rig, "bank", asks).0, Ok(()));
    rig.restart();
    // The answer was lost: the same again is the same, and counts once.
    assert_eq!(recover(&mut rig, "bank", asks).0, Ok(()));
    assert_eq!(record(&rig).standing.recoveries.len(), 1);
    assert_eq!(told(&rig, Safety::CertificateRecovered), 1);

    site.key = "second".into();
    site.connect(&mut rig, vec![]);
    assert_eq!(record(&rig).key_hash, "second");
    assert_eq!(record(&rig).next_key, None);
    let Ok(Answer::Agents(agents)) = rig.ask(Ask::Agents) else {
        panic!()
    };
    assert!(agents[0].connected);
    // And the next outage begins from there.
    rig.turn(&[Happened::Closed { conn: site.conn }]);
    let asks = Asks("second", "third", site.nonce, Some(HOUR_MS));
    assert_eq!(recover(&mut rig, "bank", asks).0, Ok(()));
}

#[test]
fn a_renewed_certificate_that_was_never_used_is_recovered_too() {
    let (rig, site) = renewed_and_away();
    // Both sides of the crash: the answer to the renewal arrived, or it did not.
    for key in ["key", "second"] {
        let mut rig = Rig { ..rig_like(&rig) };
        let next = if key == "key" { "second" } else { "third" };
        let asks = Asks(key, next, site.nonce, Some(HOUR_MS));
        assert_eq!(recover(&mut rig, "bank", asks).0, Ok(()), "{key}");
        assert_eq!(record(&rig).next_key.as_deref(), Some(next));
    }
}

fn renew(rig: &mut Rig, site: &Site, key: &str, next: &str) {
    rig.calls += 1;
    let said = rig.turn(&[Happened::Renew {
        call: Call(rig.calls),
        tenant: name("acme"),
        agent: name("bank"),
        key_hash: key.into(),
        next_key: next.into(),
        beside: Some(site.conn),
    }]);
    let renewed = |said: &Speech| matches!(said, Speech::Answer { answer: Ok(_), .. });
    assert!(said.iter().any(renewed), "{said:?}");
}

/// An agent that asked for its second key, and ended before that was used.
fn renewed_and_away() -> (Rig, Site) {
    let mut rig = Rig::new();
    let site = rig.site("bank");
    renew(&mut rig, &site, "key", "second");
    rig.turn(&[Happened::Closed { conn: site.conn }]);
    (rig, site)
}

#[test]
fn a_renewed_key_that_was_never_used_is_not_given_to_a_copy() {
    let hour = Some(HOUR_MS);
    for keep in [Keep::This, Keep::That] {
        let (mut rig, site) = renewed_and_away();
        // An agent keeps the key that it asked for until it has the certificate: who asks for another one is a copy.
        let copy = Asks("key", "other", site.nonce, hour);
        let asked = recover(&mut rig, "bank", copy);
        assert_eq!(asked, (Err(NotRecovered::Quarantined), vec![Alarm::Cloned]));
        assert_eq!(record(&rig).next_key.as_deref(), Some("second"));
        let resolve = Ask::ResolveAgent {
            agent: name("bank"),
            keep,
            by: "0123".into(),
        };
        assert!(rig.ask(resolve).is_ok());
        match keep {
            Keep::This => {
                let asked = recover(&mut rig, "bank", copy);
                assert_eq!(asked, (Err(NotRecovered::TurnedAway), vec![]));
                let again = Asks("key", "second", site.nonce, hour);
                assert_eq!(recover(&mut rig, "bank", again).0, Ok(()));
                let next = Asks("second", "third", site.nonce, hour);
                assert_eq!(recover(&mut rig, "bank", next).0, Ok(()));
            }
            Keep::That => assert_eq!(recover(&mut rig, "bank", copy).0, Ok(())),
        }
    }
}

#[test]
fn a_key_left_behind_is_a_second_holders_as_long_as_it_could_recover() {
    let hour = Some(HOUR_MS);
    let (mut rig, mut site) = away();
    let asks = Asks("key", "second", site.nonce, hour);
    assert_eq!(recover(&mut rig, "bank", asks).0, Ok(()));
    // What ended too long ago gets nothing anyway.
    let late = Asks("key", "other", site.nonce, Some(31 * DAY_MS));
    let asked = recover(&mut rig, "bank", late);
    assert_eq!(asked, (Err(NotRecovered::TooLate), vec![]));
    site.key = "second".into();
    site.connect(&mut rig, vec![]);
    renew(&mut rig, &site, "second", "third");
    rig.turn(&[Happened::Closed { conn: site.conn }]);
    site.key = "third".into();
    site.connect(&mut rig, vec![]);
    let old = Asks("key", "other", Nonce(12_345), hour);
    // Whoever recovered first may have been the copy, however far it has gone on since.
    assert!(recover(&mut rig, "bank", old).0.is_err());
    assert!(record(&rig).standing.quarantine.is_some());
}

/// Another process on a copy of the store.
fn rig_like(rig: &Rig) -> Rig {
    let mirror = rig.mirror.clone();
    let core = Orchestrator::new(rig.settings, [9; 32], rig.now, mirror.snapshot(rig.now));
    Rig {
        core,
        mirror,
        ..Rig::new()
    }
}

#[test]
fn any_nonce_that_the_agent_may_have_kept_is_good() {
    let (mut rig, mut site) = away();
    let kept = site.nonce;
    // A Welcome that the agent did not keep: cut before its inventory.
    let opened = site.open(&mut rig);
    let said = rig.turn(&[opened, site.frame(vec![site.hello()])]);
    let handed_out = messages(&said)
        .into_iter()
        .find_map(|message| match message {
            DownMessage::Welcome(welcome) => Some(welcome.next_nonce),
            DownMessage::Assign(_) | DownMessage::Directive { .. } | DownMessage::Granted(_) => {
                None
            }
        });
    rig.turn(&[Happened::Closed { conn: site.conn }]);
    for nonce in [kept, handed_out.unwrap()] {
        let mut rig = rig_like(&rig);
        let asks = Asks("key", "second", nonce, Some(HOUR_MS));
        assert_eq!(recover(&mut rig, "bank", asks).0, Ok(()));
    }
}

#[test]
fn of_two_copies_that_recover_the_second_sets_both_aside_until_a_person_decides() {
    for used in [false, true] {
        for keep in [Keep::This, Keep::That] {
            let (mut rig, mut first) = away();
            let mut second = Site::new("bank");
            second.nonce = first.nonce;
            let asks = |next: &'static str, nonce| Asks("key", next, nonce, Some(HOUR_MS));
            let nonce = first.nonce;
            assert_eq!(recover(&mut rig, "bank", asks("one", nonce)).0, Ok(()));
            first.key = "one".into();
            if used {
                first.connect(&mut rig, vec![]);
            }
            let (answer, alarms) = recover(&mut rig, "bank", asks("two", nonce));
            assert_eq!(answer, Err(NotRecovered::Quarantined));
            assert_eq!(alarms, [Alarm::Cloned]);
            assert_eq!(told(&rig, Safety::Quarantined), 1);
            // Nobody recovers, renews or is alarmed of again meanwhile, and a restart forgets nothing.
            rig.restart();
            let again = recover(&mut rig, "bank", asks("two", nonce));
            assert_eq!(again, (Err(NotRecovered::Quarantined), vec![]));
            let resolve = Ask::ResolveAgent {
                agent: name("bank"),
                keep,
                by: "0123".into(),
            };
            let Ok(Answer::Agent(view)) = rig.ask(resolve) else {
                panic!()
            };
            let none: &[HolderView] = &[];
            assert_eq!(view.holders, none);
            second.key = "two".into();
            let kept_second = recover(&mut rig, "bank", asks("two", nonce)).0;
            match keep {
                Keep::This => {
                    assert_eq!(kept_second, Err(NotRecovered::TurnedAway), "used: {used}");
                    // What it had not used yet it gets again, only under the nonce that was not turned away.
                    if used {
                        first.connect(&mut rig, vec![]);
                    }
                }
                Keep::That => {
                    assert_eq!(kept_second, Ok(()), "used: {used}");
                    let asked = recover(&mut rig, "bank", asks("one", nonce));
                    assert_eq!(asked, (Err(NotRecovered::TurnedAway), vec![]));
                    second.connect(&mut rig, vec![]);
                    let open = first.open(&mut rig);
                    let said = rig.turn(&[open]);
                    assert!(
                        matches!(said[..], [Speech::Close { .. }]),
                        "the other one's key is good for nothing: {said:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn removed_set_aside_and_turned_away_agents_do_not_recover() {
    let (mut rig, site) = away();
    let asks = Asks("key", "next", site.nonce, Some(HOUR_MS));
    let remove = Ask::RemoveAgent {
        agent: name("bank"),
    };
    assert_eq!(rig.ask(remove), Ok(Answer::Removed));
    let answer = recover(&mut rig, "bank", asks).0;
    assert_eq!(answer, Err(NotRecovered::Unknown));
}

#[test]
fn so_many_times_and_in_thirty_days_again() {
    let (mut rig, mut site) = away();
    let keys: Vec<String> = (0..6).map(|n| format!("key {n}")).collect();
    let mut key = "key".to_owned();
    for next in &keys[..3] {
        let asks = Asks(&key, next, site.nonce, Some(HOUR_MS));
        assert_eq!(recover(&mut rig, "bank", asks).0, Ok(()));
        site.key.clone_from(next);
        site.connect(&mut rig, vec![]);
        rig.turn(&[Happened::Closed { conn: site.conn }]);
        rig.pass_ms(DAY_MS);
        key.clone_from(next);
    }
    let asks = Asks(&key, &keys[3], site.nonce, Some(HOUR_MS));
    let answer = recover(&mut rig, "bank", asks).0;
    assert_eq!(answer, Err(NotRecovered::TooOften));
    rig.pass_ms(27 * DAY_MS);
    assert_eq!(
        recover(&mut rig, "bank", asks).0,
        Ok(()),
        "the first is old"
    );
    assert_eq!(record(&rig).standing.recoveries.len(), 3);
}

#[test]
fn after_a_restore_a_key_and_a_nonce_that_the_backup_lacks_are_taken_as_given() {
    let (mut rig, mut site) = away();
    rig.mirror.recovery.counter += 1;
    rig.restart();
    let asks = Asks("renewed", "next", Nonce(77), Some(HOUR_MS));
    assert_eq!(recover(&mut rig, "bank", asks).0, Ok(()));
    (site.key, site.nonce) = ("next".into(), Nonce(77));
    site.connect(&mut rig, vec![]);
    assert_eq!(record(&rig).key_hash, "next");
}

#[test]
fn after_a_restore_a_key_that_was_left_behind_before_the_backup_does_not_recover() {
    let (mut rig, site) = away();
    let newest = rig.now.0 - 1000 * 2 * DAY_MS;
    let bank = (name("acme"), name("bank"));
    let agent = rig.mirror.agents.get_mut(&bank).unwrap();
    agent.certificate_not_after = Some(newest);
    rig.mirror.recovery.counter += 1;
    rig.restart();
    for ended in [2 * DAY_MS, 3 * DAY_MS] {
        let asks = Asks("former", "next", Nonce(77), Some(ended));
        let answer = recover(&mut rig, "bank", asks).0;
        assert_eq!(answer, Err(NotRecovered::OtherKey), "{ended}");
    }
    // The one that the backup knows, and one that it lacks.
    for (key, ended) in [("key", 2 * DAY_MS), ("renewed", DAY_MS)] {
        let mut rig = rig_like(&rig);
        let asks = Asks(key, "next", site.nonce, Some(ended));
        assert_eq!(recover(&mut rig, "bank", asks).0, Ok(()), "{key}");
    }
}

#[test]
fn never_means_never() {
    let settings = Settings {
        recover_within: std::time::Duration::ZERO,
        ..Settings::default()
    };
    let mut rig = Rig::with(settings);
    let site = rig.site("bank");
    let asks = Asks("key", "next", site.nonce, Some(1));
    let answer = recover(&mut rig, "bank", asks).0;
    assert_eq!(answer, Err(NotRecovered::TooLate));
}

#[test]
fn many_at_once_are_told_once_an_hour() {
    let mut rig = Rig::new();
    let sites: Vec<Site> = (0..30).map(|n| rig.site(&format!("site-{n}"))).collect();
    for site in &sites[..10] {
        let asks = Asks("key", "next", site.nonce, Some(HOUR_MS));
        assert_eq!(recover(&mut rig, site.agent.as_str(), asks).0, Ok(()));
    }
    assert_eq!(told(&rig, Safety::RecoveredOften), 0);
    for site in &sites[10..29] {
        let asks = Asks("key", "next", site.nonce, Some(HOUR_MS));
        assert_eq!(recover(&mut rig, site.agent.as_str(), asks).0, Ok(()));
    }
    assert_eq!(told(&rig, Safety::RecoveredOften), 1);
    rig.pass_ms(2 * HOUR_MS);
    let asks = Asks("key", "next", sites[29].nonce, Some(HOUR_MS));
    assert_eq!(recover(&mut rig, "site-29", asks).0, Ok(()));
    assert_eq!(told(&rig, Safety::RecoveredOften), 1, "one alone");
    assert_eq!(told(&rig, Safety::CertificateRecovered), 30);
}
