//! What is said of a life before the present one, by an agent that was rebooted and by a copy of it on another host.

use outpost_proto::outcome::Interruption;

use crate::standing::Keep;

use super::*;

const REBOOT: AttemptState = AttemptState::Finished(Report {
    outcome: Outcome::Interrupted(Interruption::Reboot),
    may_have_started: true,
    duration_ms: 0,
    exit_code: None,
    count: None,
});

/// An agent that runs a task, which may be tried three times.
fn runs(entry: &str) -> (Rig, Site, RunId, Assign) {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let mut spec = workflow("w", vec![task("a", entry, &[])]);
    spec.tasks[0].retry.retries = 2;
    rig.apply(spec);
    let (run, said) = rig.trigger("w");
    let assign = assigns(&said).remove(0);
    site.tells(&mut rig, assign.attempt, AttemptState::Running);
    site.beats(&mut rig);
    (rig, site, run, assign)
}

/// A copy of it, made just now and started on another host.
fn copy_of(site: &Site) -> Site {
    let mut copy = Site::new("bank");
    copy.nonce = site.nonce;
    copy.event_seq = site.event_seq;
    copy.incarnation = Incarnation(9);
    copy
}

/// Time passes for an agent that sends heartbeats. Gives what was assigned in it.
fn passes(rig: &mut Rig, site: &mut Site, seconds: u64) -> Vec<Assign> {
    let mut assigned = Vec::new();
    for _ in 0..seconds / 5 {
        let mut said = rig.pass_ms(5_000);
        said.extend(site.beats(rig));
        assigned.extend(assigns(&said));
    }
    assigned
}

/// What a copy that comes first says of the attempt: its end, or nothing.
fn says(site: &Site, assign: &Assign, told: bool) -> Vec<InventoryItem> {
    let item = site.item(assign, REBOOT, site.event_seq + 1);
    Vec::from_iter(told.then_some(item))
}

fn comes_back(rig: &mut Rig, site: &mut Site) {
    let opened = site.open(rig);
    let said = rig.turn(&[opened, site.frame(vec![site.hello()])]);
    for message in messages(&said) {
        if let DownMessage::Welcome(welcome) = message {
            site.nonce = welcome.next_nonce;
        }
    }
    let record = &rig.mirror.agents[&(name("acme"), name("bank"))];
    assert!(record.standing.quarantine.is_some(), "{said:?}");
}

fn resolve(rig: &mut Rig, keep: Keep) {
    let ask = Ask::ResolveAgent {
        agent: name("bank"),
        keep,
        by: "0123".into(),
    };
    rig.ask(ask).unwrap();
}

#[test]
fn a_copy_that_comes_first_spends_no_try_of_what_the_original_runs() {
    for entry in ["load", "once"] {
        for told in [true, false] {
            let (mut rig, mut site, run, assign) = runs(entry);
            let mut copy = copy_of(&site);
            let said = copy.connect(&mut rig, says(&site, &assign, told));
            assert_eq!(assigns(&said), [], "{entry} {told}");
            assert_eq!(rig.phase(assign.attempt), Phase::Running);
            assert_eq!(passes(&mut rig, &mut copy, 35), []);
            comes_back(&mut rig, &mut site);
            // A person takes time.
            assert_eq!(passes(&mut rig, &mut copy, 600), []);
            assert_eq!(rig.phase(assign.attempt), Phase::Running);
            resolve(&mut rig, Keep::That);
            let item = site.item(&assign, AttemptState::Running, 1);
            let said = site.connect(&mut rig, vec![item]);
            assert!(directives(&said).contains(&Directive::Keep(assign.attempt)));
            // Its Welcome said how far events were numbered, by the copy too.
            site.event_seq = copy.event_seq + 1;
            site.ends(&mut rig, assign.attempt, Outcome::Succeeded);
            assert_eq!(rig.run_state(run), RunState::Succeeded);
            assert_eq!(rig.mirror.attempts.len(), 1, "nothing ran twice");
        }
    }
}

#[test]
fn of_what_the_other_may_run_nothing_is_known_once_the_copy_is_kept() {
    for told in [true, false] {
        let (mut rig, mut site, _, assign) = runs("once");
        let mut copy = copy_of(&site);
        copy.connect(&mut rig, vec![]);
        comes_back(&mut rig, &mut site);
        resolve(&mut rig, Keep::This);
        let items = says(&site, &assign, told);
        assert_eq!(assigns(&copy.connect(&mut rig, items)), []);
        assert!(matches!(rig.phase(assign.attempt), Phase::Lost { .. }));
        // Nor when it says so later, under yet another incarnation.
        copy.reboots(&mut rig, vec![]);
        copy.tells(&mut rig, assign.attempt, REBOOT);
        rig.restart();
        let items = says(&copy, &assign, told);
        copy.connect(&mut rig, items);
        assert_eq!(passes(&mut rig, &mut copy, 600), []);
        assert!(matches!(rig.phase(assign.attempt), Phase::Lost { .. }));
        rig.turn(&[copy.close()]);
        rig.pass_ms(60_000);
        let dead = Ask::AssertDead {
            attempt: assign.attempt,
            by: "0123".into(),
            reason: "the original is switched off".into(),
        };
        assert!(rig.ask(dead).is_ok());
        assert_eq!(copy.connect(&mut rig, vec![]).len(), 1);
        assert_eq!(passes(&mut rig, &mut copy, 10).len(), 1, "a person knows");
    }
}

#[test]
fn what_the_kept_copy_may_try_again_it_does() {
    let (mut rig, mut site, _, assign) = runs("load");
    let mut copy = copy_of(&site);
    copy.connect(&mut rig, says(&site, &assign, true));
    comes_back(&mut rig, &mut site);
    resolve(&mut rig, Keep::This);
    copy.connect(&mut rig, vec![]);
    assert!(matches!(rig.phase(assign.attempt), Phase::Lost { .. }));
    assert_eq!(passes(&mut rig, &mut copy, 60).len(), 1);
}

#[test]
fn a_reboot_that_is_faster_than_the_presence_timeout_is_believed_after_it() {
    for (told, tried) in [(true, 1), (false, 0)] {
        let (mut rig, mut site, run, assign) = runs("once");
        rig.turn(&[site.close()]);
        rig.pass_ms(10_000);
        site.incarnation.0 += 1;
        let items = says(&site, &assign, told);
        site.event_seq += 1;
        let said = site.connect(&mut rig, items);
        assert_eq!(assigns(&said), []);
        assert_eq!(passes(&mut rig, &mut site, 35), [], "it may be a copy");
        assert_eq!(rig.phase(assign.attempt), Phase::Running);
        let assigned = passes(&mut rig, &mut site, 20);
        assert_eq!(assigned.len(), tried, "{told}");
        assert_ne!(rig.phase(assign.attempt), Phase::Running);
        assert_eq!(rig.run_state(run), RunState::Running);
    }
}

#[test]
fn a_reboot_after_a_longer_silence_is_believed_at_once() {
    let (mut rig, mut site, _, assign) = runs("once");
    let items = says(&site, &assign, true);
    site.event_seq += 1;
    site.reboots(&mut rig, items);
    assert!(matches!(
        rig.phase(assign.attempt),
        Phase::Finished { report } if report.outcome == Outcome::Interrupted(Interruption::Reboot)
    ));
    assert_eq!(passes(&mut rig, &mut site, 10).len(), 1);
}

#[test]
fn a_restart_of_the_orchestrator_forgets_no_doubt() {
    for second in [true, false] {
        let (mut rig, mut site, _, assign) = runs("once");
        let mut copy = copy_of(&site);
        copy.connect(&mut rig, says(&site, &assign, true));
        rig.pass_ms(30_000);
        rig.restart();
        copy.event_seq += 1;
        copy.connect(&mut rig, vec![]);
        assert_eq!(
            passes(&mut rig, &mut copy, 30),
            [],
            "whoever comes has had no chance to"
        );
        if second {
            comes_back(&mut rig, &mut site);
        }
        let tried = passes(&mut rig, &mut copy, 60).len();
        assert_eq!(tried, usize::from(!second));
    }
}

#[test]
fn what_was_given_up_and_is_waited_for_goes_on_when_it_is_found_running() {
    let (mut rig, mut site, run, assign) = runs("once");
    // Out of touch for so long that a copy is taken for it.
    rig.pass_ms(60_000);
    let mut copy = copy_of(&site);
    copy.connect(&mut rig, vec![]);
    assert!(matches!(rig.phase(assign.attempt), Phase::Lost { .. }));
    comes_back(&mut rig, &mut site);
    resolve(&mut rig, Keep::That);
    let item = site.item(&assign, AttemptState::Running, 1);
    let said = site.connect(&mut rig, vec![item]);
    assert!(directives(&said).contains(&Directive::Keep(assign.attempt)));
    site.ends(&mut rig, assign.attempt, Outcome::Succeeded);
    assert_eq!(rig.run_state(run), RunState::Succeeded);
}

/// An agent with a running task that is set aside beside a copy on another host, and then rebooted.
fn rebooted_beside_a_copy() -> (Rig, Site, Site, Assign) {
    let (mut rig, mut site, _, assign) = runs("once");
    let mut copy = copy_of(&site);
    site.connect(&mut rig, vec![site.item(&assign, AttemptState::Running, 1)]);
    comes_back(&mut rig, &mut copy);
    site.incarnation.0 = 20;
    site.connect(&mut rig, vec![]);
    site.tells(&mut rig, assign.attempt, REBOOT);
    assert_eq!(rig.phase(assign.attempt), Phase::Running, "nobody knows");
    (rig, site, copy, assign)
}

#[test]
fn an_interruption_that_was_acknowledged_between_two_holders_is_not_lost() {
    for restarts in [true, false] {
        let (mut rig, mut site, _, assign) = rebooted_beside_a_copy();
        assert_eq!(passes(&mut rig, &mut site, 300), [], "a person takes time");
        if restarts {
            rig.restart();
        }
        resolve(&mut rig, Keep::This);
        site.connect(&mut rig, vec![]);
        assert_eq!(passes(&mut rig, &mut site, 30), [], "another may come");
        assert_eq!(rig.phase(assign.attempt), Phase::Running);
        let tried = passes(&mut rig, &mut site, 30).len();
        assert!(matches!(
            rig.phase(assign.attempt),
            Phase::Finished { report } if report.outcome == Outcome::Interrupted(Interruption::Reboot)
        ));
        assert_eq!(tried, 1, "it is over, so that it may be tried again");
    }
}

#[test]
fn of_several_words_in_a_quarantine_the_first_counts() {
    let (mut rig, mut site, _, assign) = rebooted_beside_a_copy();
    let AttemptState::Finished(mut other) = REBOOT else {
        unreachable!()
    };
    other.outcome = Outcome::Interrupted(Interruption::AgentStateLost);
    site.tells(&mut rig, assign.attempt, AttemptState::Finished(other));
    resolve(&mut rig, Keep::This);
    site.connect(&mut rig, vec![]);
    passes(&mut rig, &mut site, 60);
    assert!(matches!(
        rig.phase(assign.attempt),
        Phase::Finished { report } if report.outcome == Outcome::Interrupted(Interruption::Reboot)
    ));
}

#[test]
fn the_word_of_a_holder_that_was_decided_against_ends_nothing() {
    let (mut rig, _, mut copy, assign) = rebooted_beside_a_copy();
    resolve(&mut rig, Keep::That);
    copy.connect(&mut rig, vec![]);
    assert_eq!(passes(&mut rig, &mut copy, 120), []);
    assert!(matches!(rig.phase(assign.attempt), Phase::Lost { .. }));
}

#[test]
fn what_was_in_doubt_when_a_second_holder_came_is_believed_once_it_is_decided() {
    let (mut rig, mut site, _, assign) = runs("once");
    let mut copy = copy_of(&site);
    let items = says(&site, &assign, true);
    site.event_seq += 1;
    site.incarnation.0 = 20;
    site.connect(&mut rig, items);
    comes_back(&mut rig, &mut copy);
    assert_eq!(passes(&mut rig, &mut site, 120), []);
    assert_eq!(rig.phase(assign.attempt), Phase::Running);
    resolve(&mut rig, Keep::This);
    site.connect(&mut rig, vec![]);
    assert_eq!(passes(&mut rig, &mut site, 60).len(), 1);
    assert!(matches!(rig.phase(assign.attempt), Phase::Finished { .. }));
}

#[test]
fn nothing_is_believed_of_a_life_that_any_of_the_holders_had() {
    // The one that is decided against had it, and has rebooted since; or a third one has it.
    for third in [true, false] {
        let (mut rig, site, _, assign) = runs("once");
        let mut original = site;
        let mut first = copy_of(&original);
        first.event_seq += 1;
        let items = vec![first.item(&assign, REBOOT, first.event_seq)];
        first.connect(&mut rig, items);
        let mut second = copy_of(&original);
        second.incarnation = Incarnation(10);
        if third {
            comes_back(&mut rig, &mut second);
            let opened = original.open(&mut rig);
            let said = rig.turn(&[opened, original.frame(vec![original.hello()])]);
            // It presents what the first of the two came with: nobody is told apart by that alone.
            original.nonce = Nonce(77);
            let opened = original.open(&mut rig);
            let refused = rig.turn(&[opened, original.frame(vec![original.hello()])]);
            assert_eq!(closes(&refused).len() + closes(&said).len(), 2);
        } else {
            comes_back(&mut rig, &mut original);
            original.incarnation = Incarnation(11);
            comes_back(&mut rig, &mut original);
        }
        resolve(&mut rig, Keep::This);
        first.connect(&mut rig, vec![]);
        assert_eq!(passes(&mut rig, &mut first, 120), [], "{third}");
        assert!(matches!(rig.phase(assign.attempt), Phase::Lost { .. }));
    }
}

#[test]
fn nor_of_a_life_that_only_somebody_had_who_was_turned_away() {
    let (mut rig, mut original, _, assign) = runs("once");
    let mut first = copy_of(&original);
    first.event_seq += 1;
    let items = vec![first.item(&assign, REBOOT, first.event_seq)];
    first.connect(&mut rig, items);
    let mut second = copy_of(&original);
    second.incarnation = Incarnation(10);
    comes_back(&mut rig, &mut second);
    // Its nonce is neither of the two holders'.
    original.nonce = Nonce(77);
    let opened = original.open(&mut rig);
    let said = rig.turn(&[opened, original.frame(vec![original.hello()])]);
    assert_eq!(closes(&said), [(original.conn, CloseReason::Cloned)]);
    resolve(&mut rig, Keep::This);
    first.connect(&mut rig, vec![]);
    assert_eq!(passes(&mut rig, &mut first, 120), []);
    assert!(matches!(rig.phase(assign.attempt), Phase::Lost { .. }));
}
