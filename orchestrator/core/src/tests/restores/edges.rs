//! The edges of what a restore takes in: what the backup knew, what may be forgotten, what goes on, and what people read.

use outpost_proto::limits::HELD_ATTEMPTS;
use outpost_proto::outcome::Interruption;

use crate::safety::Safety;
use crate::standing::{Keep, Standing};

use super::*;

fn standing(rig: &Rig) -> &Standing {
    &rig.mirror.agents[&(name("acme"), name("bank"))].standing
}

fn uncordons(rig: &mut Rig, agent: &str) {
    let change = crate::event::AgentChange {
        cordoned: Some(false),
        ..Default::default()
    };
    let agent = name(agent);
    rig.ask(Ask::ConfigureAgent { agent, change }).unwrap();
}

#[test]
fn what_the_backup_knew_to_be_over_takes_no_tasks_place() {
    for knew in [false, true] {
        let (mut rig, mut bank, _, mut backup, run, assign) = ran_after_the_backup("once");
        for tenant in backup.tenants.values_mut() {
            tenant.next_fence = Fence(assign.fence.0 + u64::from(knew));
        }
        bank.ends(&mut rig, assign.attempt, Outcome::Failed);
        restore(&mut rig, &backup);
        let item = bank.item(&assign, finished(), 0);
        bank.connect(&mut rig, vec![item]);
        assert_eq!(rig.mirror.attempts.contains_key(&assign.attempt), !knew);
        let queued = matches!(rig.task_state(run, 0), TaskState::Queued { .. });
        assert_eq!(queued, knew);
    }
}

#[test]
fn what_was_assigned_more_than_thirty_days_ago_may_be_forgotten() {
    const THIRTY_DAYS_US: u64 = 30 * 24 * 3600 * 1_000_000;
    for (older_us, forgotten) in [(0, false), (1, true)] {
        let mut rig = Rig::new();
        let mut bank = rig.site("bank");
        rig.apply(workflow("w", vec![task("a", "once", &[])]));
        let (_, said) = rig.trigger("w");
        let assign = assigns(&said).remove(0);
        let mut backup = rig.mirror.clone();
        for attempt in backup.attempts.values_mut() {
            attempt.assigned_at = rig.now.0 - THIRTY_DAYS_US - older_us;
        }
        restore(&mut rig, &backup);
        let said = bank.connect(&mut rig, vec![]);
        assert_eq!(assigns(&said).len(), usize::from(!forgotten), "sent again");
        let lost = matches!(rig.phase(assign.attempt), Phase::Lost { .. });
        assert_eq!(lost, forgotten);
    }
}

#[test]
fn of_a_run_that_the_backup_lacks_only_what_runs_goes_on() {
    for (state, goes_on) in [
        (AttemptState::Assigned, false),
        (AttemptState::Starting, true),
        (finished(), false),
    ] {
        let (mut rig, mut bank, _, mut backup, _, assign) = ran_after_the_backup("once");
        backup.runs.clear();
        backup.tasks.clear();
        restore(&mut rig, &backup);
        let item = bank.item(&assign, state, 1);
        let said = bank.connect(&mut rig, vec![item]);
        let kept = directives(&said).contains(&Directive::Keep(assign.attempt));
        assert_eq!(kept, goes_on, "{state:?}");
        assert_eq!(standing(&rig).adopted.len(), usize::from(goes_on));
    }
}

/// An agent that was set aside beside a copy of it before the backup.
fn set_aside() -> (Rig, Site, Assign) {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    let mut copy = Site::new("bank");
    (copy.nonce, copy.incarnation) = (bank.nonce, Incarnation(9));
    bank.connect(&mut rig, vec![]);
    bank.connect(&mut rig, vec![]);
    rig.apply(workflow("w", vec![task("a", "once", &[])]));
    let (_, said) = rig.trigger("w");
    let assign = assigns(&said).remove(0);
    let opened = copy.open(&mut rig);
    rig.turn(&[opened, copy.frame(vec![copy.hello()])]);
    assert!(standing(&rig).quarantine.is_some());
    (rig, bank, assign)
}

#[test]
fn no_more_go_on_than_an_agent_holds_however_often_it_tells() {
    let (mut rig, mut bank, assign) = set_aside();
    let backup = rig.mirror.clone();
    restore(&mut rig, &backup);
    let running = |n: usize| InventoryItem {
        attempt: AttemptId(1_000_000 + n as u128),
        run: RunId(5),
        fence: Fence(1_000),
        ..bank.item(&assign, AttemptState::Running, 1)
    };
    let (all, another) = ((0..HELD_ATTEMPTS).map(running).collect(), running(4_096));
    let said = bank.connect(&mut rig, all);
    let kept = directives(&said);
    let kept = kept.iter().filter(|one| matches!(one, Directive::Keep(_)));
    assert_eq!(kept.count(), HELD_ATTEMPTS);
    let said = bank.connect(&mut rig, vec![another]);
    assert!(directives(&said).contains(&Directive::Forget(another.attempt)));
    assert_eq!(standing(&rig).adopted.len(), HELD_ATTEMPTS);
}

/// Its memories are told once: when a person decided, it lists only what it holds.
#[test]
fn what_a_set_aside_agent_with_a_full_memory_lacks_it_may_have_forgotten_after_the_decision_too() {
    for (full, restarts) in [(false, false), (true, false), (true, true)] {
        let (mut rig, mut bank, assign) = set_aside();
        let backup = rig.mirror.clone();
        restore(&mut rig, &backup);
        let memories = outpost_proto::limits::REMEMBERED - usize::from(!full);
        let memory = |n: usize| InventoryItem {
            attempt: AttemptId(1_000_000 + n as u128),
            run: RunId(5),
            ..bank.item(&assign, finished(), 0)
        };
        let items = (0..memories).map(memory).collect();
        assert_eq!(assigns(&bank.connect(&mut rig, items)), []);
        if restarts {
            rig.restart();
        }
        let keep = Ask::ResolveAgent {
            agent: name("bank"),
            keep: Keep::This,
            by: "0123".into(),
        };
        rig.ask(keep).unwrap();
        let said = bank.connect(&mut rig, vec![]);
        let lost = matches!(rig.phase(assign.attempt), Phase::Lost { .. });
        assert_eq!((assigns(&said).len(), lost), (usize::from(!full), full));
        assert!(recovery(&mut rig).awaited.is_empty());
        assert!(!standing(&rig).may_have_forgotten, "told, and settled");
    }
}

#[test]
fn nothing_is_in_doubt_of_an_attempt_that_a_later_one_followed() {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    let mut spec = workflow("w", vec![task("a", "once", &[])]);
    spec.tasks[0].retry.retries = 2;
    rig.apply(spec);
    let (run, said) = rig.trigger("w");
    let first = assigns(&said).remove(0);
    bank.tells(&mut rig, first.attempt, AttemptState::Running);
    // A reboot that is faster than the presence timeout.
    rig.turn(&[bank.close()]);
    rig.pass_ms(10_000);
    bank.incarnation.0 += 1;
    let mut interrupted = report(Outcome::Interrupted(Interruption::Reboot));
    interrupted.duration_ms = 0;
    bank.event_seq += 1;
    let end = bank.item(&first, AttemptState::Finished(interrupted), bank.event_seq);
    bank.connect(&mut rig, vec![end]);
    assert_eq!(rig.phase(first.attempt), Phase::Running, "it may be a copy");
    let backup = rig.mirror.clone();
    let mut made = vec![];
    for _ in 0..15 {
        let mut said = rig.pass_ms(5_000);
        said.extend(bank.beats(&mut rig));
        made.extend(assigns(&said));
    }
    let second = made.remove(0);
    assert_eq!(made, []);
    restore(&mut rig, &backup);
    let item = bank.item(&second, AttemptState::Running, 5);
    bank.connect(&mut rig, vec![item]);
    let attempt = second.attempt;
    assert_eq!(rig.task_state(run, 0), TaskState::Active { attempt });
    assert_eq!(
        rig.phase(first.attempt),
        Phase::Finished {
            report: interrupted
        },
        "the later one says that it was over"
    );
}

/// What people read of a recovery: what happened, and why.
fn of_the_recovery(rig: &Rig) -> Vec<(Safety, Option<String>)> {
    let of_it = |what: &Safety| matches!(what, Safety::Recovered | Safety::Continued);
    let told = told(rig).into_iter().filter(|(what, _, _)| of_it(what));
    told.map(|(what, _, reason)| (what, reason)).collect()
}

#[test]
fn that_everybody_was_heard_is_told_once_and_then() {
    for removed in [false, true] {
        let (mut rig, mut bank, mut shop, backup, ..) = ran_after_the_backup("once");
        restore(&mut rig, &backup);
        shop.connect(&mut rig, vec![]);
        assert_eq!(of_the_recovery(&rig), [], "one was not heard");
        if removed {
            let agent = name("bank");
            assert_eq!(rig.ask(Ask::RemoveAgent { agent }), Ok(Answer::Removed));
        } else {
            bank.connect(&mut rig, vec![]);
        }
        assert_eq!(of_the_recovery(&rig), [(Safety::Recovered, None)]);
        shop.connect(&mut rig, vec![]);
        assert_eq!(of_the_recovery(&rig).len(), 1);
    }
}

#[test]
fn once_a_person_went_on_who_comes_or_goes_later_is_no_news() {
    let (mut rig, mut bank, _, backup, ..) = ran_after_the_backup("once");
    restore(&mut rig, &backup);
    uncordons(&mut rig, "shop");
    rig.ask(Ask::Continue { by: "0123".into() }).unwrap();
    let reason = Some("2 not heard: bank, shop".to_owned());
    assert_eq!(of_the_recovery(&rig), [(Safety::Continued, reason)]);
    bank.connect(&mut rig, vec![]);
    let agent = name("shop");
    assert_eq!(rig.ask(Ask::RemoveAgent { agent }), Ok(Answer::Removed));
    assert!(recovery(&mut rig).awaited.is_empty());
    assert_eq!(of_the_recovery(&rig).len(), 1);
}

#[test]
fn why_what_its_agent_lacks_is_not_sent_again_is_told() {
    let mut rig = Rig::new();
    let (mut bank, mut shop) = (rig.site("bank"), rig.site("shop"));
    rig.apply(workflow("w", vec![task("a", "once", &[])]));
    let (run, said) = rig.trigger("w");
    let assign = assigns(&said).remove(0);
    let backup = rig.mirror.clone();
    restore(&mut rig, &backup);
    let told = |rig: &mut Rig| {
        let Ok(Answer::Explained(why)) = rig.ask(Ask::Explain { run }) else {
            panic!()
        };
        assert_eq!(why[0].code, "assigned");
        why[0].reason.clone()
    };
    assert!(told(&mut rig).starts_with("It was sent to agent `bank`"));
    assert_eq!(assigns(&bank.connect(&mut rig, vec![])), []);
    let lacks = "It is to be sent again to agent `bank`, which does not have it";
    let why = told(&mut rig);
    assert!(why.starts_with(lacks), "{why}");
    assert!(why.contains("1 agent has not told yet what the backup lacks (shop)"));
    bank.flags.paused = true;
    bank.beats(&mut rig);
    assert_eq!(assigns(&shop.connect(&mut rig, vec![])), []);
    let why = told(&mut rig);
    assert!(why.starts_with(lacks), "{why}");
    assert!(why.ends_with("but its site has paused it. Only the site can resume it."));
    bank.flags.paused = false;
    assert_eq!(assigns(&bank.beats(&mut rig))[0].attempt, assign.attempt);
}
