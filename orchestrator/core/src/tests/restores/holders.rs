//! A restore while two hold one identity: what either of them tells counts once, and both are waited for.

use outpost_proto::outcome::Interruption;

use crate::standing::Keep;

use super::*;

/// It says Hello and keeps the nonce that it gets.
fn greets(rig: &mut Rig, site: &mut Site) {
    let opened = site.open(rig);
    let said = rig.turn(&[opened, site.frame(vec![site.hello()])]);
    for message in messages(&said) {
        if let DownMessage::Welcome(welcome) = message {
            site.nonce = welcome.next_nonce;
        }
    }
}

fn keeps(rig: &mut Rig, keep: Keep) -> (Answer, Vec<Speech>) {
    let ask = Ask::ResolveAgent {
        agent: name("bank"),
        keep,
        by: "0123".into(),
    };
    let (answer, said) = rig.ask_in("acme", ask);
    (answer.unwrap(), said)
}

fn cordons(rig: &mut Rig, agent: &str, cordoned: bool) -> Vec<Speech> {
    let change = crate::event::AgentChange {
        cordoned: Some(cordoned),
        ..Default::default()
    };
    let ask = Ask::ConfigureAgent {
        agent: name(agent),
        change,
    };
    let (answer, said) = rig.ask_in("acme", ask);
    answer.unwrap();
    said
}

#[test]
fn the_holder_that_was_set_aside_stays_so_after_a_restore() {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    let mut copy = Site::new("bank");
    copy.nonce = bank.nonce;
    bank.connect(&mut rig, vec![]);
    bank.connect(&mut rig, vec![]);
    greets(&mut rig, &mut copy);
    let backup = rig.mirror.clone();
    restore(&mut rig, &backup);
    greets(&mut rig, &mut copy);
    bank.connect(&mut rig, vec![]);
    let view = recovery(&mut rig);
    assert_eq!(
        (view.awaited.len(), view.quarantined.len()),
        (1, 1),
        "the other one may know more"
    );
    keeps(&mut rig, Keep::That);
    copy.connect(&mut rig, vec![]);
    assert!(recovery(&mut rig).awaited.is_empty(), "the kept one told");
}

/// Two holders of one identity in the backup, and a task that the second one ran after a person had kept it.
#[test]
fn what_only_the_other_holder_remembers_is_waited_for() {
    let mut rig = Rig::new();
    let (mut bank, mut shop) = (rig.site("bank"), rig.site("shop"));
    let mut copy = Site::new("bank");
    (copy.nonce, copy.incarnation) = (bank.nonce, Incarnation(9));
    bank.connect(&mut rig, vec![]);
    bank.connect(&mut rig, vec![]);
    greets(&mut rig, &mut copy);
    cordons(&mut rig, "shop", true);
    rig.apply(workflow("w", vec![task("a", "once", &[])]));
    let (run, said) = rig.trigger("w");
    assert_eq!(assigns(&said), []);
    let backup = rig.mirror.clone();
    keeps(&mut rig, Keep::That);
    let said = copy.connect(&mut rig, vec![]);
    let assign = assigns(&said).remove(0);
    copy.ends(&mut rig, assign.attempt, Outcome::Succeeded);
    restore(&mut rig, &backup);
    shop.connect(&mut rig, vec![]);
    assert_eq!(assigns(&cordons(&mut rig, "shop", false)), []);
    let said = bank.connect(&mut rig, vec![]);
    assert_eq!(assigns(&said), [], "the other one may have run it");
    keeps(&mut rig, Keep::That);
    // Its nonces are of after the backup: it is a second holder once more.
    greets(&mut rig, &mut copy);
    let (_, said) = keeps(&mut rig, Keep::That);
    assert_eq!(assigns(&said), [], "not told yet");
    let item = copy.item(&assign, finished(), 0);
    let said = copy.connect(&mut rig, vec![item]);
    assert_eq!(assigns(&said), [], "run once");
    assert_eq!(rig.task_state(run, 0), TaskState::Succeeded);
    assert!(recovery(&mut rig).awaited.is_empty());
}

#[test]
fn what_one_of_two_holders_tells_twice_is_taken_in_once() {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    let mut copy = Site::new("bank");
    (copy.nonce, copy.incarnation) = (bank.nonce, Incarnation(9));
    bank.connect(&mut rig, vec![]);
    bank.connect(&mut rig, vec![]);
    greets(&mut rig, &mut copy);
    let tasks = vec![task("a", "once", &[]), task("b", "once", &[0])];
    rig.apply(workflow("w", tasks));
    let (run, _) = rig.trigger("w");
    let backup = rig.mirror.clone();
    keeps(&mut rig, Keep::This);
    let said = bank.connect(&mut rig, vec![]);
    let assign = assigns(&said).remove(0);
    bank.ends(&mut rig, assign.attempt, Outcome::Succeeded);
    restore(&mut rig, &backup);
    for _ in 0..2 {
        let item = bank.item(&assign, finished(), 0);
        bank.connect(&mut rig, vec![item]);
        let tasks = &rig.mirror.tasks;
        assert_eq!(tasks[&(run, TaskIndex(0))].attempts, 1);
        assert_eq!(rig.task_state(run, 0), TaskState::Succeeded);
    }
}

/// The second one was kept after the backup: the database does not know its nonces, and takes it for the known one.
#[test]
fn what_the_one_had_that_was_known_in_the_backup_is_not_over_by_the_other_ones_word() {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    let mut copy = Site::new("bank");
    (copy.nonce, copy.incarnation) = (bank.nonce, Incarnation(9));
    bank.connect(&mut rig, vec![]);
    bank.connect(&mut rig, vec![]);
    rig.apply(workflow("w", vec![task("a", "once", &[])]));
    let (_, said) = rig.trigger("w");
    let assign = assigns(&said).remove(0);
    bank.tells(&mut rig, assign.attempt, AttemptState::Running);
    greets(&mut rig, &mut copy);
    let backup = rig.mirror.clone();
    keeps(&mut rig, Keep::That);
    copy.connect(&mut rig, vec![]);
    restore(&mut rig, &backup);
    let reboot = Outcome::Interrupted(Interruption::Reboot);
    let ended = AttemptState::Finished(report(reboot));
    let told = vec![copy.item(&assign, ended, 2)];
    copy.connect(&mut rig, told.clone());
    let phase = rig.phase(assign.attempt);
    assert_eq!(phase, Phase::Running, "nobody has decided");
    keeps(&mut rig, Keep::This);
    copy.connect(&mut rig, told);
    rig.pass_ms(60_000);
    copy.beats(&mut rig);
    let phase = rig.phase(assign.attempt);
    assert!(matches!(phase, Phase::Lost { .. }), "{phase:?}");
}
