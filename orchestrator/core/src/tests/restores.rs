//! Backups, restores, and databases that were copied back.

mod edges;
mod given_up;
mod holders;
mod order;

use std::sync::Arc;

use crate::agent::Live;
use crate::event::{Alarm, RecoveryView};
use crate::session::Stage;

use super::*;

/// What `restore` does to a backup.
pub(super) fn restore(rig: &mut Rig, backup: &Mirror) {
    rig.mirror = backup.clone();
    rig.mirror.recovery = RecoveryEpoch {
        counter: rig.mirror.recovery.counter.max(1) + 1,
        database: 99,
    };
    rig.mirror.restored_at = Some(rig.now.0);
    for tenant in rig.mirror.tenants.values_mut() {
        tenant.restored(true, rig.now.0);
    }
    rig.restart();
}

fn recovery(rig: &mut Rig) -> RecoveryView {
    let Ok(Answer::Recovery(view)) = rig.ask(Ask::Recovery) else {
        panic!()
    };
    view
}

fn finished() -> AttemptState {
    AttemptState::Finished(report(Outcome::Succeeded))
}

/// Two agents, and a run whose task was placed, run and settled after the backup.
fn ran_after_the_backup(entry: &str) -> (Rig, Site, Site, Mirror, RunId, Assign) {
    let mut rig = Rig::new();
    let (mut bank, shop) = (rig.site("bank"), rig.site("shop"));
    let mut spec = workflow("w", vec![task("a", entry, &[]), task("b", entry, &[0])]);
    spec.tasks[0].retry.retries = 3;
    rig.apply(spec);
    for flag in [true, false] {
        for agent in ["bank", "shop"] {
            let change = crate::event::AgentChange {
                cordoned: Some(flag || agent == "shop"),
                ..Default::default()
            };
            rig.ask(Ask::ConfigureAgent {
                agent: name(agent),
                change,
            })
            .unwrap();
        }
        if flag {
            rig.trigger("w");
        }
    }
    let run = *rig.mirror.runs.keys().next().unwrap();
    // The backup is of before the task was placed.
    let mut backup = rig.mirror.clone();
    backup.attempts.clear();
    for task in backup.tasks.values_mut() {
        if task.task == TaskIndex(0) {
            task.state = TaskState::Queued { since: T0.0 };
            task.attempts = 0;
        }
    }
    for run in backup.runs.values_mut() {
        run.agent = None;
        run.started_at = None;
    }
    let attempt = rig.mirror.attempts.values().next().unwrap().clone();
    for tenant in backup.tenants.values_mut() {
        tenant.next_fence = attempt.fence;
    }
    let assign = Assign {
        attempt: attempt.attempt,
        run,
        task: attempt.task,
        fence: attempt.fence,
        command_seq: CommandSeq(1),
        entry: name(entry),
        catalogue_version: CatalogueVersion(1),
        parameters: vec![],
        deadline_ms: None,
        task_name: name("a"),
        workflow_name: name("w"),
    };
    bank.tells(&mut rig, assign.attempt, AttemptState::Running);
    (rig, bank, shop, backup, run, assign)
}

#[test]
fn nothing_finished_runs_again_after_a_restore() {
    for entry in ["load", "once"] {
        let (mut rig, mut bank, mut shop, backup, run, assign) = ran_after_the_backup(entry);
        bank.ends(&mut rig, assign.attempt, Outcome::Succeeded);
        restore(&mut rig, &backup);
        assert_eq!(recovery(&mut rig).awaited.len(), 2);
        // The idle one reports first; the queued task must not go to it.
        let said = shop.connect(&mut rig, vec![]);
        assert_eq!(assigns(&said), [], "{entry}");
        let Ok(Answer::Explained(why)) = rig.ask(Ask::Explain { run }) else {
            panic!()
        };
        assert_eq!(why[0].code, "recovering", "{why:?}");
        // A key that the backup does not know, and the outcome as the agent remembers it.
        (bank.key, bank.not_after) = ("renewed after the backup".into(), 1);
        let item = bank.item(&assign, finished(), 0);
        let said = bank.connect(&mut rig, vec![item]);
        assert_eq!(closes(&said), []);
        let recovered = rig.attempt(assign.attempt);
        assert!(recovered.recovered && matches!(recovered.phase, Phase::Finished { .. }));
        assert_eq!(rig.task_state(run, 0), TaskState::Succeeded, "{entry}");
        let next = assigns(&said);
        assert_eq!(next.len(), 1, "what follows goes on: {said:?}");
        assert_eq!(next[0].task, TaskIndex(1));
        assert!(next[0].fence > assign.fence, "fences never go back");
        let view = recovery(&mut rig);
        assert!(!view.recovering && view.awaited.is_empty());
    }
}

#[test]
fn an_attempt_that_still_runs_is_taken_in_and_goes_on() {
    let (mut rig, mut bank, mut shop, backup, run, assign) = ran_after_the_backup("once");
    restore(&mut rig, &backup);
    shop.connect(&mut rig, vec![]);
    let item = bank.item(&assign, AttemptState::Running, 1);
    let said = bank.connect(&mut rig, vec![item]);
    assert!(directives(&said).contains(&Directive::Keep(assign.attempt)));
    assert_eq!(
        rig.task_state(run, 0),
        TaskState::Active {
            attempt: assign.attempt
        }
    );
    bank.ends(&mut rig, assign.attempt, Outcome::Succeeded);
    assert_eq!(rig.task_state(run, 0), TaskState::Succeeded);
}

#[test]
fn what_runs_of_a_run_that_the_backup_does_not_know_goes_on_to_its_end() {
    let (mut rig, mut bank, mut shop, mut backup, _, assign) = ran_after_the_backup("once");
    backup.runs.clear();
    backup.tasks.clear();
    restore(&mut rig, &backup);
    shop.connect(&mut rig, vec![]);
    let item = bank.item(&assign, AttemptState::Running, 1);
    let said = bank.connect(&mut rig, vec![item]);
    assert!(directives(&said).contains(&Directive::Keep(assign.attempt)));
    rig.restart();
    let item = bank.item(&assign, AttemptState::Running, 1);
    let said = bank.connect(&mut rig, vec![item]);
    assert!(
        directives(&said).contains(&Directive::Keep(assign.attempt)),
        "again"
    );
    let said = bank.ends(&mut rig, assign.attempt, Outcome::Succeeded);
    assert_eq!(directives(&said), [Directive::Forget(assign.attempt)]);
    let record = &rig.mirror.agents[&(name("acme"), name("bank"))];
    assert!(record.standing.adopted.is_empty());
}

#[test]
fn outcomes_come_in_pages_and_are_counted() {
    let (mut rig, mut bank, mut shop, backup, run, assign) = ran_after_the_backup("load");
    bank.ends(&mut rig, assign.attempt, Outcome::Succeeded);
    restore(&mut rig, &backup);
    shop.connect(&mut rig, vec![]);
    let opened = bank.open(&mut rig);
    rig.turn(&[opened, bank.frame(vec![bank.hello(), bank.catalogue()])]);
    let page = |items, end| UpMessage::Inventory(InventoryPage { items, end });
    let others = (0..3).map(|n| InventoryItem {
        attempt: AttemptId(1000 + n),
        run: RunId(5),
        ..bank.item(&assign, finished(), 0)
    });
    let first = page(others.collect(), None);
    assert_eq!(messages(&bank.says(&mut rig, first)), []);
    let second = page(vec![bank.item(&assign, finished(), 0)], Some(4));
    let said = bank.says(&mut rig, second);
    assert!(
        directives(&said).contains(&Directive::Reconciled),
        "{said:?}"
    );
    assert_eq!(rig.task_state(run, 0), TaskState::Succeeded);
}

#[test]
fn a_person_goes_on_without_an_agent_and_a_removed_one_is_not_waited_for() {
    let (mut rig, _, mut shop, backup, run, _) = ran_after_the_backup("load");
    restore(&mut rig, &backup);
    for agent in ["shop", "bank"] {
        let change = crate::event::AgentChange {
            cordoned: Some(false),
            ..Default::default()
        };
        rig.ask(Ask::ConfigureAgent {
            agent: name(agent),
            change,
        })
        .unwrap();
    }
    assert_eq!(assigns(&shop.connect(&mut rig, vec![])), []);
    let mirror = rig.mirror.clone();
    let (answer, said) = rig.ask_in("acme", Ask::Continue { by: "0123".into() });
    assert!(matches!(answer, Ok(Answer::Recovery(view)) if !view.recovering));
    assert_eq!(assigns(&said).len(), 1, "work goes on");
    assert_eq!(assigns(&said)[0].run, run);
    assert!(matches!(
        rig.ask(Ask::Continue { by: "0123".into() }),
        Err(Denied::NothingAwaited)
    ));
    rig.mirror = mirror;
    rig.restart();
    assert_eq!(assigns(&shop.connect(&mut rig, vec![])), []);
    let (_, said) = rig.ask_in(
        "acme",
        Ask::RemoveAgent {
            agent: name("bank"),
        },
    );
    assert_eq!(assigns(&said).len(), 1, "nobody is waited for any more");
}

#[test]
fn a_renewed_key_is_accepted_once_after_a_restore_and_no_other_one() {
    let (mut rig, mut bank, _, backup, ..) = ran_after_the_backup("load");
    bank.key = "renewed".into();
    let opened = bank.open(&mut rig);
    assert_eq!(closes(&rig.turn(&[opened]))[0].1, CloseReason::OtherKey);
    restore(&mut rig, &backup);
    bank.not_after = 1;
    bank.connect(&mut rig, vec![]);
    let record = |rig: &Rig| rig.mirror.agents[&(name("acme"), name("bank"))].clone();
    assert_eq!(record(&rig).key_hash, "renewed");
    assert!(record(&rig).standing.quarantine.is_none());
    // Who has another one is of the time that the backup lacks, or a copy.
    let mut other = Site::new("bank");
    other.key = "another".into();
    let opened = other.open(&mut rig);
    let said = rig.turn(&[opened, other.frame(vec![other.hello()])]);
    assert_eq!(closes(&said), []);
    assert!(record(&rig).standing.quarantine.is_some());
}

#[test]
fn a_database_that_was_copied_back_gives_no_work_to_whoever_saw_more() {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    let backup = rig.mirror.clone();
    rig.apply(workflow("w", vec![task("a", "once", &[])]));
    let (_, said) = rig.trigger("w");
    let assign = assigns(&said).remove(0);
    bank.tells(&mut rig, assign.attempt, AttemptState::Running);
    bank.last = Some((rig.mirror.recovery, assign.command_seq));
    // The nonce has moved on too: that alone would look like a copy of the agent.
    bank.connect(&mut rig, vec![bank.item(&assign, AttemptState::Running, 1)]);
    rig.mirror = backup;
    rig.restart();
    rig.apply(workflow("w", vec![task("a", "once", &[])]));
    let item = bank.item(&assign, AttemptState::Running, 1);
    let said = bank.connect(&mut rig, vec![item]);
    let alarm = Speech::Alarm {
        tenant: name("acme"),
        agent: name("bank"),
        what: Alarm::Behind,
    };
    assert!(said.contains(&alarm), "{said:?}");
    assert!(
        directives(&said).contains(&Directive::Keep(assign.attempt)),
        "nothing is ended"
    );
    let (run, said) = rig.trigger("w");
    assert_eq!(assigns(&said), []);
    let Ok(Answer::Explained(why)) = rig.ask(Ask::Explain { run }) else {
        panic!()
    };
    assert_eq!(why[0].code, "hold", "{why:?}");
    assert_eq!(recovery(&mut rig).held_back, [name::<AgentName>("bank")]);
    rig.restart();
    bank.connect(&mut rig, vec![bank.item(&assign, AttemptState::Running, 1)]);
    assert_eq!(
        recovery(&mut rig).held_back.len(),
        1,
        "a restart does not end it"
    );
    let present = rig.mirror.clone();
    restore(&mut rig, &present);
    let said = bank.connect(&mut rig, vec![]);
    assert_eq!(assigns(&said).len(), 1, "a restore does");
}

#[test]
fn an_inventory_that_is_cut_off_changes_nothing() {
    let (mut rig, mut bank, mut shop, backup, run, assign) = ran_after_the_backup("load");
    let failed = AttemptState::Finished(report(Outcome::Failed));
    bank.ends(&mut rig, assign.attempt, Outcome::Failed);
    restore(&mut rig, &backup);
    shop.connect(&mut rig, vec![]);
    let before = rig.mirror.clone();
    for _ in 0..3 {
        let opened = bank.open(&mut rig);
        let said = rig.turn(&[opened, bank.frame(vec![bank.hello(), bank.catalogue()])]);
        assert_eq!(closes(&said), []);
        let page = InventoryPage {
            items: vec![bank.item(&assign, failed, 0)],
            end: None,
        };
        assert_eq!(bank.says(&mut rig, UpMessage::Inventory(page)), []);
        rig.turn(&[bank.close()]);
        assert_eq!(rig.mirror.attempts, before.attempts);
        assert_eq!(rig.mirror.tasks, before.tasks);
    }
    let item = bank.item(&assign, failed, 0);
    bank.connect(&mut rig, vec![item]);
    assert_eq!(
        rig.mirror.tasks[&(run, TaskIndex(0))].spent,
        1,
        "one try, one time"
    );
}

#[test]
fn an_agent_whose_memory_is_full_may_have_forgotten_what_it_lacks() {
    for full in [false, true] {
        let (mut rig, mut bank) = (Rig::new(), Site::new("bank"));
        rig.enrol("bank");
        bank.connect(&mut rig, vec![]);
        rig.apply(workflow("w", vec![task("a", "once", &[])]));
        let (_, said) = rig.trigger("w");
        let assign = assigns(&said).remove(0);
        let backup = rig.mirror.clone();
        restore(&mut rig, &backup);
        let memories = outpost_proto::limits::REMEMBERED - usize::from(!full);
        let memory = |n: usize| InventoryItem {
            attempt: AttemptId(1_000_000 + n as u128),
            run: RunId(5),
            ..bank.item(&assign, finished(), 0)
        };
        let items = (0..memories).map(memory).collect();
        let said = bank.connect(&mut rig, items);
        assert_eq!(assigns(&said).len(), usize::from(!full), "sent again");
        let lost = matches!(rig.phase(assign.attempt), Phase::Lost { .. });
        assert_eq!(lost, full);
    }
}

#[test]
fn what_is_remembered_is_kept_once_and_copied_with_no_turn() {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    rig.apply(workflow("w", vec![task("a", "once", &[])]));
    let (_, said) = rig.trigger("w");
    let assign = assigns(&said).remove(0);
    let backup = rig.mirror.clone();
    let known = bank.item(&assign, finished(), 0);
    let unknown = (1..=64).map(|n| InventoryItem {
        attempt: AttemptId(n),
        ..known
    });
    let unknown: Vec<InventoryItem> = unknown.collect();
    for restored in [false, true] {
        if restored {
            restore(&mut rig, &backup);
        }
        let opened = bank.open(&mut rig);
        rig.turn(&[opened, bank.frame(vec![bank.hello()])]);
        for items in [vec![known; 64], vec![known; 64], unknown.clone()] {
            let page = InventoryPage { items, end: None };
            rig.turn(&[bank.frame(vec![UpMessage::Inventory(page)])]);
        }
        let live = &rig.core.tenants[&name("acme")].agents[&bank.agent].live;
        let (kept, copied) = (listing(live), listing(&live.clone()));
        assert_eq!(kept.len(), copied.len());
        assert!(kept.iter().zip(&copied).all(|(a, b)| Arc::ptr_eq(a, b)));
        let kept: usize = kept.iter().map(|page| page.len()).sum();
        assert_eq!(kept, if restored { 1 + 64 } else { 1 });
    }
}

fn listing(live: &Live) -> Vec<Arc<[InventoryItem]>> {
    match live.session.as_ref().map(|session| &session.stage) {
        Some(Stage::Listing(listing)) => listing.memories().to_vec(),
        Some(Stage::Ready) | None => panic!("it tells nothing"),
    }
}

#[test]
fn one_agent_that_tells_of_impossible_fences_spoils_nobodys() {
    let (mut rig, mut bank, mut shop, backup, run, assign) = ran_after_the_backup("once");
    restore(&mut rig, &backup);
    shop.connect(&mut rig, vec![]);
    let next = rig.mirror.tenants[&name("acme")].next_fence;
    let invented = InventoryItem {
        attempt: AttemptId(7),
        fence: Fence((1 << 48) - 1),
        ..bank.item(&assign, AttemptState::Running, 1)
    };
    let of_no_run = InventoryItem {
        attempt: AttemptId(8),
        run: RunId(5),
        fence: Fence((1 << 48) - 2),
        ..bank.item(&assign, finished(), 0)
    };
    let honest = InventoryItem {
        fence: Fence(next.0 + 5),
        ..bank.item(&assign, AttemptState::Running, 2)
    };
    bank.connect(&mut rig, vec![invented, of_no_run, honest]);
    let now = rig.mirror.tenants[&name("acme")].next_fence;
    assert_eq!(now, Fence(next.0 + 6), "followed as far as it can be true");
    assert_eq!(
        rig.task_state(run, 0),
        TaskState::Active {
            attempt: assign.attempt
        },
        "and what cannot be true takes no other's place"
    );
}

/// An attempt that the backup knows as running and that ended after it; its agent and an idle one are away.
fn ended_after_the_backup(retries: u16) -> (Rig, Site, Site, RunId, Assign) {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    let mut spec = workflow("w", vec![task("a", "once", &[])]);
    spec.tasks[0].retry.retries = retries;
    rig.apply(spec);
    let (run, said) = rig.trigger("w");
    let assign = assigns(&said).remove(0);
    bank.tells(&mut rig, assign.attempt, AttemptState::Running);
    let shop = rig.site("shop");
    let backup = rig.mirror.clone();
    bank.ends(&mut rig, assign.attempt, Outcome::Succeeded);
    restore(&mut rig, &backup);
    (rig, bank, shop, run, assign)
}

fn said_to_be_over(rig: &mut Rig, attempt: AttemptId) {
    let asked = rig.ask(Ask::AssertDead {
        attempt,
        by: "0123".into(),
        reason: "nothing runs there".into(),
    });
    assert!(
        matches!(asked, Ok(Answer::AssertedDead { .. })),
        "{asked:?}"
    );
}

#[test]
fn what_a_person_gives_up_before_its_agent_has_told_that_it_succeeded_does_not_run_again() {
    let (mut rig, mut bank, mut shop, run, assign) = ended_after_the_backup(1);
    said_to_be_over(&mut rig, assign.attempt);
    assert!(!matches!(rig.task_state(run, 0), TaskState::Active { .. }));
    let item = bank.item(&assign, finished(), 0);
    assert_eq!(assigns(&bank.connect(&mut rig, vec![item])), []);
    assert_eq!(rig.task_state(run, 0), TaskState::Succeeded);
    assert!(rig.attempt(assign.attempt).late.is_some(), "kept beside");
    assert_eq!(assigns(&shop.connect(&mut rig, vec![])), []);
    assert_eq!(assigns(&rig.pass_ms(600_000)), []);
}

#[test]
fn what_a_person_gave_up_runs_again_if_it_did_not_succeed_or_somebody_goes_on_without_its_agent() {
    for goes_on in [false, true] {
        let (mut rig, mut bank, mut shop, _, assign) = ended_after_the_backup(1);
        said_to_be_over(&mut rig, assign.attempt);
        let mut made = vec![];
        if goes_on {
            rig.ask(Ask::Continue { by: "0123".into() }).unwrap();
            made.extend(assigns(&shop.connect(&mut rig, vec![])));
        } else {
            let failed = AttemptState::Finished(report(Outcome::Failed));
            let item = bank.item(&assign, failed, 0);
            made.extend(assigns(&bank.connect(&mut rig, vec![item])));
            made.extend(assigns(&shop.connect(&mut rig, vec![])));
        }
        made.extend(assigns(&rig.pass_ms(5_000)));
        assert_eq!(made.len(), 1, "{goes_on}");
    }
}
