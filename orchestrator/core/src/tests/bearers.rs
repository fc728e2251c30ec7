//! Two holders of one identity that have different keys: one of them renewed without the other, or a restored database
//! does not know which one is the newest.

use crate::event::Alarm;
use crate::limits::KEYS_LEFT;
use crate::record::AgentRecord;
use crate::standing::Keep;

use super::*;

fn record(rig: &Rig) -> &AgentRecord {
    &rig.mirror.agents[&(name("acme"), name("bank"))]
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

/// It gets another certificate, and uses it.
fn renews(rig: &mut Rig, site: &mut Site, next: &str) {
    rig.calls += 1;
    let said = rig.turn(&[Happened::Renew {
        call: Call(rig.calls),
        tenant: name("acme"),
        agent: name("bank"),
        key_hash: site.key.clone(),
        next_key: next.into(),
        beside: Some(site.conn),
    }]);
    assert!(matches!(
        said[..],
        [Speech::Answer {
            answer: Ok(Answer::Renewed),
            ..
        }]
    ));
    site.key = next.into();
    site.not_after += 1;
    site.connect(rig, vec![]);
}

fn resolve(rig: &mut Rig, keep: Keep) {
    let ask = Ask::ResolveAgent {
        agent: name("bank"),
        keep,
        by: "0123".into(),
    };
    rig.ask(ask).unwrap();
}

/// An agent and a copy of it that came first and renewed: the agent knows the former key only.
fn outrun() -> (Rig, Site, Site) {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    site.connect(&mut rig, vec![]);
    let mut copy = Site::new("bank");
    (copy.nonce, copy.incarnation) = (site.nonce, Incarnation(9));
    copy.connect(&mut rig, vec![]);
    renews(&mut rig, &mut copy, "the copy's");
    rig.pass_ms(60_000);
    copy.beats(&mut rig);
    (rig, site, copy)
}

#[test]
fn whoever_comes_under_a_key_that_was_left_behind_is_a_second_holder() {
    for nonce_known in [true, false] {
        let (mut rig, mut site, mut copy) = outrun();
        if nonce_known {
            // Under the agent's key it would be the agent.
            site.nonce = copy.nonce;
        }
        assert_eq!(closes(&says_hello(&mut rig, &mut site)), []);
        assert!(record(&rig).standing.quarantine.is_some());
        let (that, this) = (site.beats(&mut rig), copy.beats(&mut rig));
        assert_eq!(that, [site.granted(0, None)]);
        assert_eq!(this, [copy.granted(0, None)], "no lease for either");
        // Nothing flaps, whatever is lost on the way, and after a restart too.
        rig.restart();
        copy.connect(&mut rig, vec![]);
        for _ in 0..3 {
            says_hello(&mut rig, &mut site);
        }
        let mut third = Site::new("bank");
        third.nonce = Nonce(77);
        let said = says_hello(&mut rig, &mut third);
        assert_eq!(closes(&said), [(third.conn, CloseReason::Cloned)]);
        assert_eq!(copy.beats(&mut rig).len(), 1);
    }
}

#[test]
fn the_kept_one_goes_on_with_its_key_whichever_it_is() {
    for keep in [Keep::This, Keep::That] {
        let (mut rig, mut site, mut copy) = outrun();
        says_hello(&mut rig, &mut site);
        resolve(&mut rig, keep);
        let (kept, mut gone) = match keep {
            Keep::This => (&mut copy, site),
            Keep::That => (&mut site, copy),
        };
        rig.restart();
        let said = kept.connect(&mut rig, vec![]);
        assert!(directives(&said).contains(&Directive::RenewNow), "{said:?}");
        assert_eq!(kept.beats(&mut rig).len(), 1);
        renews(&mut rig, kept, "its own alone");
        let said = says_hello(&mut rig, &mut gone);
        assert_eq!(closes(&said), [(gone.conn, CloseReason::Cloned)]);
        let alarm = Speech::Alarm {
            tenant: name("acme"),
            agent: name("bank"),
            what: Alarm::Nonce,
        };
        assert!(said.contains(&alarm));
        assert!(record(&rig).standing.quarantine.is_none(), "for good");
    }
}

#[test]
fn as_many_keys_are_kept_as_can_still_be_good() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    for next in 0..10 {
        renews(&mut rig, &mut site, &format!("key {next}"));
    }
    let left = &record(&rig).standing.left_keys;
    assert_eq!(left, &["key 5", "key 6", "key 7", "key 8"]);
    assert_eq!(left.len(), KEYS_LEFT);
    let mut copy = Site::new("bank");
    copy.key = "key 4".into();
    let opened = copy.open(&mut rig);
    let said = rig.turn(&[opened]);
    assert_eq!(closes(&said), [(copy.conn, CloseReason::OtherKey)]);
}

#[test]
fn the_former_bearer_of_a_name_disturbs_nobody() {
    let mut rig = Rig::new();
    let mut former = rig.site("bank");
    renews(&mut rig, &mut former, "renewed");
    let remove = Ask::RemoveAgent {
        agent: name("bank"),
    };
    assert_eq!(rig.ask_in("acme", remove).0, Ok(Answer::Removed));
    let invite = Ask::Invite {
        agent: name("bank"),
        token_hash: "second token".into(),
        ttl_ms: 600_000,
    };
    rig.ask(invite).unwrap();
    rig.enrol_with("second token", "of the new one").unwrap();
    let disturbs = |rig: &mut Rig, former: &mut Site| {
        for key in ["key", "renewed"] {
            former.key = key.into();
            let opened = former.open(rig);
            let said = rig.turn(&[opened]);
            assert_eq!(closes(&said), [(former.conn, CloseReason::OtherKey)]);
            assert!(record(rig).standing.quarantine.is_none());
        }
    };
    // Its certificate may end later than the new bearer's.
    former.not_after += 86_400_000_000;
    disturbs(&mut rig, &mut former);
    let mut bearer = Site::new("bank");
    bearer.key = "of the new one".into();
    bearer.connect(&mut rig, vec![]);
    disturbs(&mut rig, &mut former);
    // Neither before the new bearer is back after a restore, nor after that.
    restores(&mut rig);
    disturbs(&mut rig, &mut former);
    bearer.connect(&mut rig, vec![]);
    disturbs(&mut rig, &mut former);
    assert_eq!(record(&rig).key_hash, "of the new one");
}

/// An agent that renewed after a backup, and what is restored of it.
fn renewed_after_the_backup() -> (Rig, Site, Site) {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let mut copy = Site::new("bank");
    copy.nonce = site.nonce;
    let backup = rig.mirror.clone();
    renews(&mut rig, &mut site, "renewed");
    rig.mirror = backup;
    restores(&mut rig);
    (rig, site, copy)
}

/// What is in the store is a backup, from now on the true one.
fn restores(rig: &mut Rig) {
    rig.mirror.recovery.counter += 1;
    rig.mirror.recovery.database += 1;
    rig.now = rig.now.plus_ms(1000);
    rig.mirror.restored_at = Some(rig.now.0);
    rig.restart();
    // The first two draws from a seed of equal words are equal.
    rig.site("shop");
}

#[test]
fn after_a_restore_whoever_comes_first_under_a_key_the_backup_lacks_is_found_out() {
    let (mut rig, mut site, mut copy) = renewed_after_the_backup();
    copy.key = "from before the backup".into();
    copy.connect(&mut rig, vec![]);
    assert!(record(&rig).standing.quarantine.is_none(), "it may be it");
    assert_eq!(closes(&says_hello(&mut rig, &mut site)), []);
    assert!(record(&rig).standing.quarantine.is_some());
    resolve(&mut rig, Keep::That);
    site.connect(&mut rig, vec![]);
    assert_eq!(record(&rig).key_hash, "renewed");
    let said = says_hello(&mut rig, &mut copy);
    assert_eq!(closes(&said), [(copy.conn, CloseReason::Cloned)]);
}

#[test]
fn after_a_restore_a_key_that_was_left_behind_is_a_second_holders() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let mut copy = Site::new("bank");
    copy.nonce = site.nonce;
    renews(&mut rig, &mut site, "renewed");
    restores(&mut rig);
    says_hello(&mut rig, &mut copy);
    assert!(record(&rig).standing.quarantine.is_some());
}

#[test]
fn after_a_restore_certificates_may_end_earlier_than_those_the_backup_knows() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    site.not_after = 86_400_000_000;
    site.connect(&mut rig, vec![]);
    let backup = rig.mirror.clone();
    site.not_after = 3_600_000_000;
    renews(&mut rig, &mut site, "shorter");
    rig.mirror = backup;
    restores(&mut rig);
    site.connect(&mut rig, vec![]);
    let record = record(&rig);
    assert!(record.standing.quarantine.is_none());
    assert_eq!(record.key_hash, "shorter");
    assert_eq!(record.standing.reported, rig.mirror.recovery.counter);
}

#[test]
fn after_a_restore_whoever_comes_first_under_the_backups_key_is_found_out() {
    let (mut rig, mut site, mut copy) = renewed_after_the_backup();
    copy.connect(&mut rig, vec![]);
    assert!(record(&rig).standing.quarantine.is_none(), "it may be it");
    says_hello(&mut rig, &mut site);
    assert!(record(&rig).standing.quarantine.is_some());
    assert_eq!(copy.beats(&mut rig), [copy.granted(0, None)]);
    resolve(&mut rig, Keep::That);
    site.connect(&mut rig, vec![]);
    assert_eq!(record(&rig).key_hash, "renewed");
    let said = says_hello(&mut rig, &mut copy);
    assert_eq!(closes(&said), [(copy.conn, CloseReason::Cloned)]);
}

#[test]
fn a_database_that_was_copied_back_is_noticed_by_whoever_renewed_since() {
    for seen_more in [true, false] {
        let mut rig = Rig::new();
        let mut site = rig.site("bank");
        let backup = rig.mirror.clone();
        renews(&mut rig, &mut site, "renewed");
        let command = CommandSeq(if seen_more { 1_000 } else { 0 });
        site.last = Some((rig.mirror.recovery, command));
        rig.mirror = backup;
        rig.restart();
        assert_eq!(closes(&says_hello(&mut rig, &mut site)), []);
        let standing = &record(&rig).standing;
        let noticed = (standing.behind.is_some(), standing.quarantine.is_some());
        assert_eq!(noticed, (seen_more, !seen_more));
    }
}

#[test]
fn after_a_restore_only_the_keys_of_former_bearers_are_strangers() {
    for (key, former) in [("of before", true), ("renewed", false)] {
        let mut rig = Rig::new();
        let mut site = rig.site("bank");
        let agent = rig.mirror.agents.get_mut(&(name("acme"), name("bank")));
        let standing = &mut agent.unwrap().standing;
        standing.former_keys = vec!["of before".into(), "of another".into()];
        restores(&mut rig);
        site.key = key.into();
        let closed = closes(&says_hello(&mut rig, &mut site));
        let expected = former.then_some((site.conn, CloseReason::OtherKey));
        assert_eq!(closed, Vec::from_iter(expected), "{key}");
    }
}
