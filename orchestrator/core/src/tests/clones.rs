//! Two holders of one identity.

use crate::event::Alarm;
use crate::safety::Safety;
use crate::standing::Keep;

use super::*;

fn whats(rig: &Rig) -> Vec<Safety> {
    told(rig).into_iter().map(|(what, _, _)| what).collect()
}

fn says_hello(rig: &mut Rig, site: &mut Site) -> Vec<Speech> {
    let opened = site.open(rig);
    let said = rig.turn(&[opened, site.frame(vec![site.hello()])]);
    for message in messages(&said) {
        if let DownMessage::Welcome(welcome) = message {
            site.nonce = welcome.next_nonce;
        }
    }
    said
}

/// An agent with a running task and a copy of it, made before its last session.
fn copied(same_life: bool) -> (Rig, Site, Site, Assign) {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    // The first two draws from a seed of equal words are equal.
    site.connect(&mut rig, vec![]);
    let mut copy = Site::new("bank");
    copy.nonce = site.nonce;
    copy.incarnation = if same_life {
        site.incarnation
    } else {
        Incarnation(9)
    };
    site.connect(&mut rig, vec![]);
    rig.apply(workflow(
        "w",
        vec![task("a", "once", &[]), task("b", "once", &[])],
    ));
    let (_, said) = rig.trigger("w");
    let assigns = assigns(&said);
    site.tells(&mut rig, assigns[0].attempt, AttemptState::Running);
    says_hello(&mut rig, &mut copy);
    (rig, site, copy, assigns[0].clone())
}

fn agent(rig: &mut Rig) -> crate::event::AgentView {
    let Ok(Answer::Agents(agents)) = rig.ask(Ask::Agents) else {
        panic!()
    };
    agents.into_iter().next().unwrap()
}

fn resolve(rig: &mut Rig, keep: Keep) -> (Result<Answer, Denied>, Vec<Speech>) {
    rig.ask_in(
        "acme",
        Ask::ResolveAgent {
            agent: name("bank"),
            keep,
            by: "0123".into(),
        },
    )
}

#[test]
fn both_keep_their_sessions_and_neither_gets_work_or_a_lease() {
    let (mut rig, mut site, mut copy, assign) = copied(false);
    assert_eq!(whats(&rig), [Safety::Quarantined]);
    let listing = copy.frame(vec![copy.catalogue(), Site::inventory(vec![])]);
    assert_eq!(
        messages(&rig.turn(&[listing])),
        [],
        "read, and nothing follows"
    );
    assert_eq!(copy.beats(&mut rig), [copy.granted(0, None)]);
    assert_eq!(site.beats(&mut rig), [site.granted(1, None)]);
    rig.apply(workflow("v", vec![task("a", "load", &[])]));
    let (run, said) = rig.trigger("v");
    assert_eq!(assigns(&said), []);
    let Ok(Answer::Explained(why)) = rig.ask(Ask::Explain { run }) else {
        panic!()
    };
    assert_eq!(why[0].code, "agent_quarantined", "{why:?}");
    let holders = agent(&mut rig).holders;
    assert_eq!(
        holders
            .iter()
            .map(|holder| (holder.which, holder.connected))
            .collect::<Vec<_>>(),
        [(Keep::This, true), (Keep::That, true)]
    );
    site.ends(&mut rig, assign.attempt, Outcome::Succeeded);
    assert!(
        matches!(rig.phase(assign.attempt), Phase::Finished { .. }),
        "the known one's words count"
    );
}

#[test]
fn a_third_holder_is_turned_away_and_nothing_flaps() {
    let (mut rig, mut site, mut copy, _) = copied(false);
    let mut third = Site::new("bank");
    third.nonce = Nonce(77);
    let said = says_hello(&mut rig, &mut third);
    assert_eq!(closes(&said), [(third.conn, CloseReason::Cloned)]);
    for _ in 0..5 {
        let conn = copy.conn;
        assert_eq!(
            closes(&says_hello(&mut rig, &mut copy)),
            [(conn, CloseReason::Replaced)]
        );
        let said = site.connect(&mut rig, vec![]);
        assert_eq!(closes(&said).len(), 1, "its own former stream: {said:?}");
    }
    assert_eq!(whats(&rig), [Safety::Quarantined], "told once");
}

#[test]
fn keeping_this_turns_that_away_for_good_and_changes_the_key() {
    let (mut rig, mut site, mut copy, assign) = copied(false);
    let (answer, said) = resolve(&mut rig, Keep::This);
    assert!(matches!(answer, Ok(Answer::Agent(_))));
    let ends = [
        (copy.conn, CloseReason::Cloned),
        (site.conn, CloseReason::Replaced),
    ];
    assert_eq!(closes(&said), ends);
    assert_eq!(whats(&rig), [Safety::Quarantined, Safety::KeptThis]);
    let item = site.item(&assign, AttemptState::Running, 1);
    let said = site.connect(&mut rig, vec![item]);
    assert!(directives(&said).contains(&Directive::RenewNow));
    assert!(directives(&said).contains(&Directive::Keep(assign.attempt)));
    assert!(!assigns(&said).is_empty(), "work goes on: {said:?}");
    rig.restart();
    let said = says_hello(&mut rig, &mut copy);
    assert_eq!(closes(&said), [(copy.conn, CloseReason::Cloned)]);
    let alarm = Speech::Alarm {
        tenant: name("acme"),
        agent: name("bank"),
        what: Alarm::Nonce,
    };
    assert!(said.contains(&alarm));
    assert_eq!(whats(&rig).len(), 2, "no second quarantine");
    assert!(matches!(
        resolve(&mut rig, Keep::This).0,
        Err(Denied::NotQuarantined(_))
    ));
}

#[test]
fn keeping_that_of_another_life_reconciles_it_like_any_agent() {
    let (mut rig, mut site, mut copy, assign) = copied(false);
    resolve(&mut rig, Keep::That).0.unwrap();
    let said = copy.connect(&mut rig, vec![]);
    assert_eq!(
        assigns(&said),
        [],
        "nothing of the other life is sent again"
    );
    assert!(matches!(rig.phase(assign.attempt), Phase::Lost { .. }));
    assert_eq!(copy.beats(&mut rig), [copy.granted(1, Some(2))]);
    let said = says_hello(&mut rig, &mut site);
    assert_eq!(closes(&said), [(site.conn, CloseReason::Cloned)]);
}

#[test]
fn of_two_equal_holders_the_kept_one_starts_nothing_that_the_other_may_have_started() {
    let (mut rig, _, mut copy, assign) = copied(true);
    resolve(&mut rig, Keep::That).0.unwrap();
    // It holds the same assignment, unstarted; the other one has run it.
    let item = copy.item(&assign, AttemptState::Assigned, 0);
    let said = copy.connect(&mut rig, vec![item]);
    assert!(directives(&said).contains(&Directive::Cancel(assign.attempt)));
    assert_eq!(assigns(&said), [], "what it lacks is not sent again");
    assert!(matches!(rig.phase(assign.attempt), Phase::Lost { .. }));
}

#[test]
fn a_life_that_the_other_one_no_longer_has_may_have_been_its_own_all_the_same() {
    let (mut rig, mut site, mut copy, assign) = copied(true);
    let reboot = Outcome::Interrupted(outpost_proto::outcome::Interruption::Reboot);
    site.event_seq += 1;
    let ended = AttemptState::Finished(report(reboot));
    let items = vec![site.item(&assign, ended, site.event_seq)];
    site.reboots(&mut rig, items);
    resolve(&mut rig, Keep::That).0.unwrap();
    // It holds what the other one began before it was rebooted, and lacks the other task.
    let item = copy.item(&assign, AttemptState::Assigned, 0);
    let said = copy.connect(&mut rig, vec![item]);
    assert_eq!(closes(&said), []);
    assert!(directives(&said).contains(&Directive::Cancel(assign.attempt)));
    assert_eq!(assigns(&said), [], "the other one may have begun it");
    let attempts = rig.mirror.attempts.values();
    let lost = attempts.filter(|attempt| matches!(attempt.phase, Phase::Lost { .. }));
    assert_eq!(lost.count(), 2);
    assert_eq!(copy.beats(&mut rig).len(), 1, "it goes on");
}

#[test]
fn nobody_renews_in_doubt_and_only_the_session_renews_after_it() {
    let (mut rig, mut site, copy, _) = copied(false);
    let renews = |rig: &mut Rig, beside| {
        rig.calls += 1;
        let said = rig.turn(&[Happened::Renew {
            call: Call(rig.calls),
            tenant: name("acme"),
            agent: name("bank"),
            key_hash: "key".into(),
            next_key: "next".into(),
            beside: Some(beside),
        }]);
        let [Speech::Answer { answer, .. }] = &said[..] else {
            panic!("{said:?}")
        };
        answer.clone()
    };
    assert!(matches!(
        renews(&mut rig, site.conn),
        Err(Denied::NotTheHolder(_))
    ));
    resolve(&mut rig, Keep::This).0.unwrap();
    site.connect(&mut rig, vec![]);
    assert!(matches!(
        renews(&mut rig, copy.conn),
        Err(Denied::NotTheHolder(_))
    ));
    assert_eq!(renews(&mut rig, site.conn), Ok(Answer::Renewed));
}

#[test]
fn a_process_that_ends_and_a_commit_that_fails_change_nothing_of_it() {
    let (mut rig, mut site, mut copy, _) = copied(false);
    rig.restart();
    site.connect(&mut rig, vec![]);
    says_hello(&mut rig, &mut copy);
    assert_eq!(agent(&mut rig).holders.len(), 2);
    let decided = Happened::Asked {
        call: Call(999),
        tenant: name("acme"),
        ask: Ask::ResolveAgent {
            agent: name("bank"),
            keep: Keep::This,
            by: "0123".into(),
        },
    };
    rig.failing_turn(std::slice::from_ref(&decided), false);
    assert_eq!(agent(&mut rig).holders.len(), 2);
    rig.failing_turn(&[decided], true);
    let said = rig.pass_ms(1);
    assert!(
        closes(&said).iter().any(|(conn, _)| *conn == copy.conn),
        "decided and not spoken: the session ends all the same: {said:?}"
    );
    assert_eq!(agent(&mut rig).holders, []);
}

#[test]
fn a_key_that_was_never_known_is_turned_away_and_told_of_once() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let mut copy = Site::new("bank");
    copy.key = "of the name's former bearer".into();
    for again in 0..4 {
        let opened = copy.open(&mut rig);
        let said = rig.turn(&[opened]);
        assert_eq!(closes(&said), [(copy.conn, CloseReason::OtherKey)]);
        assert_eq!(whats(&rig), [Safety::OtherKey], "told once");
        assert_eq!(
            site.beats(&mut rig).len(),
            1,
            "the other one is not disturbed"
        );
        if again == 1 {
            rig.restart();
            site.connect(&mut rig, vec![]);
        }
    }
    for _ in 0..3 {
        for key in ["of one", "of another", "of the name's former bearer"] {
            copy.key = key.into();
            let opened = copy.open(&mut rig);
            rig.turn(&[opened]);
        }
    }
    assert_eq!(whats(&rig), [Safety::OtherKey; 3], "each of them once");
}

#[test]
fn who_claims_to_have_seen_more_takes_nobodys_place() {
    let (mut rig, mut site, mut copy, assign) = copied(false);
    let more = (rig.mirror.recovery, CommandSeq(1_000));
    copy.last = Some(more);
    says_hello(&mut rig, &mut copy);
    assert_eq!(
        site.beats(&mut rig),
        [site.granted(1, None)],
        "still the known one"
    );
    let mut third = Site::new("bank");
    (third.nonce, third.last) = (Nonce(77), Some(more));
    let said = says_hello(&mut rig, &mut third);
    assert_eq!(closes(&said), [(third.conn, CloseReason::Cloned)]);
    resolve(&mut rig, Keep::This).0.unwrap();
    let item = site.item(&assign, AttemptState::Running, 1);
    site.connect(&mut rig, vec![item]);
    // With nobody set aside, but the known one in session: a second holder like any other.
    third.nonce = Nonce(78);
    says_hello(&mut rig, &mut third);
    assert_eq!(whats(&rig).last(), Some(&Safety::Quarantined));
    assert_eq!(site.beats(&mut rig).len(), 1);
}

/// Of the same life as the one that stayed: what that one got since is not with it.
#[test]
fn who_was_turned_away_for_good_says_nothing_of_what_came_after_the_decision() {
    let (mut rig, mut site, mut copy, assign) = copied(true);
    resolve(&mut rig, Keep::This).0.unwrap();
    let item = site.item(&assign, AttemptState::Running, 1);
    site.connect(&mut rig, vec![item]);
    rig.pass_ms(1_000);
    site.beats(&mut rig);
    rig.apply(workflow("v", vec![task("a", "once", &[])]));
    let (_, said) = rig.trigger("v");
    let since = assigns(&said).remove(0);
    rig.pass_ms(1_000);
    let mut another = Site::new("bank");
    (another.nonce, another.incarnation) = (Nonce(78), Incarnation(10));
    says_hello(&mut rig, &mut another);
    let said = says_hello(&mut rig, &mut copy);
    assert_eq!(closes(&said), [(copy.conn, CloseReason::Cloned)]);
    resolve(&mut rig, Keep::This).0.unwrap();
    let held = [
        (&assign, AttemptState::Running, 1),
        (&since, AttemptState::Assigned, 0),
    ];
    let held = held.map(|(assign, state, seq)| site.item(assign, state, seq));
    let said = site.connect(&mut rig, held.to_vec());
    assert!(directives(&said).contains(&Directive::Keep(since.attempt)));
}
